//! What must hold of every packet. Nothing here is shared with the datapath:
//! headers are read by `etherparse`, checksums by the oracle of the testkit.

use std::collections::HashSet;
use std::net::IpAddr;

use axon_abi::{EventKind, Hook, IpKey};
use axon_datapath::Verdict;
use axon_testkit::cases::{POD_A, POD_HERMIT, V4, V6};
use axon_testkit::{Action, MemPacket, Outcome, World, check};
use etherparse::err::{Layer, packet::SliceError};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::Told;
use super::ends::{is_martian, is_node, is_own};
use super::guard::always_passes;
use super::host::Policy;
use super::scene::{LOCKED, LOCKED_V4, LOCKED_V6, PICKY, PICKY_V4, PICKY_V6};
use super::served::is_services;

pub(super) const ETHERNET_LEN: usize = 14;

/// A packet is counted once, and its drop is told once; what is not ours is
/// neither.
pub(super) fn accounted(outcome: &Outcome, packets: u64) {
    let ours = outcome.decided != Some(Ok(Verdict::Ignore));
    assert_eq!(packets, u64::from(ours), "counted: {outcome:?}");
    assert_eq!(outcome.counted.is_some(), ours);
    let drops = outcome
        .events
        .iter()
        .filter(|event| event.kind == EventKind::Drop as u8);
    let told: Vec<u8> = drops.map(|event| event.reason).collect();
    let reason = outcome.counted.filter(|reason| *reason != 0);
    assert_eq!(told, Vec::from_iter(reason), "drops told: {outcome:?}");
}

/// What a packet comes to does not depend on what the last one has left.
pub(super) fn same(outcome: &Outcome, told: &Told, world: &World, twin: &World) {
    assert_eq!(outcome.decided, Some(told.decided), "dirty scratch");
    assert_eq!(outcome.bytes, told.bytes, "dirty scratch");
    assert_eq!(outcome.events, told.events, "dirty scratch");
    assert_eq!(world.ct4, twin.ct4, "dirty scratch");
    assert_eq!(world.ct6, twin.ct6, "dirty scratch");
    assert_eq!(world.nat, twin.nat, "dirty scratch");
    assert_eq!(world.service_flows, twin.service_flows, "dirty scratch");
    assert_eq!(world.fragments, twin.fragments, "dirty scratch");
}

/// What was let through was well formed, came from whom it says, may be, and
/// is well formed still.
pub(super) fn just(
    (hook, packet): (Hook, &MemPacket),
    outcome: &Outcome,
    world: &World,
    policy: &Policy,
) {
    if let Some(Ok(_)) = outcome.decided {
        borrowed(hook, packet, world);
    }
    let Some(Ok(verdict)) = outcome.decided else {
        assert_eq!(outcome.action, Action::Drop);
        return;
    };
    match verdict {
        Verdict::Ignore => ignored(hook, packet, outcome, world),
        Verdict::Reflect { dropped } => {
            let pings = addresses(&packet.bytes).is_some_and(|(_, to)| is_services(to));
            let is_error = dropped.is_some() || pings;
            assert_eq!(hook_name(hook, is_error), "reflects");
            if let Err(wrong) = check(&outcome.bytes) {
                // A reset's checksum is as wrong as that of the segment which it answers: a device
                // may still have to complete that one.
                assert_eq!(wrong, "checksum of protocol 6");
                check(&packet.bytes).expect_err("an answer has right checksums");
            }
        }
        Verdict::Pass | Verdict::RedirectPeer { .. } | Verdict::RedirectNeigh { .. } => {
            let seen = read(packet).unwrap_or_else(|wrong| {
                panic!("passed as {verdict:?}, but malformed: {wrong}");
            });
            assert!(!tagged(hook, packet), "a tagged packet is none of ours");
            assert_eq!(packet.bytes.len(), outcome.bytes.len());
            if packet.gso_size == 0 && check(&packet.bytes).is_ok() {
                check(&outcome.bytes).expect("right checksums stay right");
            }
            if hook != Hook::FromNetdev
                || verdict != Verdict::Pass
                || !always_passes(packet, policy)
            {
                sender(hook, packet, &seen, world);
            }
            receiver(hook, packet, &seen, verdict);
            if hook == Hook::ToNetdev {
                masqueraded(packet, outcome);
            }
        }
    }
}

/// From whom no host beyond the link is, the network brings endpoints nothing,
/// but in flows that the node's own stack has brought: `heard` is from whom.
pub(super) fn martians(
    (hook, packet): (Hook, &MemPacket),
    outcome: &Outcome,
    heard: &mut HashSet<IpAddr>,
) {
    let (Some(Ok(verdict)), Some((source, _))) = (outcome.decided, addresses(&packet.bytes)) else {
        return;
    };
    if !is_martian(source) {
        return;
    }
    match (hook, verdict) {
        (Hook::ToEndpoint, _) => {
            heard.insert(source);
        }
        (
            Hook::FromNetdev,
            Verdict::RedirectPeer { .. } | Verdict::RedirectNeigh { .. } | Verdict::Reflect { .. },
        ) => {
            assert!(
                heard.contains(&source),
                "{source} from outside: {verdict:?}"
            );
        }
        _ => {}
    }
}

/// Whether a packet's tag makes it none of ours: one of a VLAN, and near an endpoint
/// any.
pub(super) fn tagged(hook: Hook, packet: &MemPacket) -> bool {
    let near = matches!(hook, Hook::FromEndpoint | Hook::ToEndpoint);
    packet.vlan.is_some_and(|id| near || id != 0)
}

fn hook_name(hook: Hook, error: bool) -> &'static str {
    match hook {
        Hook::FromEndpoint => "reflects",
        Hook::FromNetdev if error => "reflects",
        Hook::FromNetdev | Hook::ToEndpoint | Hook::ToNetdev => "has nobody to answer",
    }
}

/// Only the network's hooks pass anything over, and nothing that is for an
/// endpoint, or malformed from one.
fn ignored(hook: Hook, packet: &MemPacket, outcome: &Outcome, world: &World) {
    assert!(matches!(hook, Hook::FromNetdev | Hook::ToNetdev));
    assert_eq!(
        packet.bytes, outcome.bytes,
        "what is not ours stays as it is"
    );
    if tagged(hook, packet) {
        return;
    }
    let Some((source, destination)) = addresses(&packet.bytes) else {
        return;
    };
    let ours = |addr: IpAddr| world.addresses.contains_key(&IpKey::from(addr));
    if hook == Hook::FromNetdev {
        assert!(!ours(destination), "past us to an endpoint");
    } else if ours(source) {
        read(packet).expect("malformed from an endpoint to the network");
    }
}

/// Endpoints speak for themselves, and nobody outside speaks for them.
fn sender(hook: Hook, packet: &MemPacket, seen: &Seen<'_>, world: &World) {
    let source = IpKey::from(seen.source);
    match hook {
        Hook::FromEndpoint => {
            let row = &world.endpoints[&packet.ifindex];
            assert!(
                source == row.ipv6 || Some(source) == Some(IpKey::from_v4(row.ipv4)),
                "endpoint {} speaks as {}",
                row.id,
                seen.source
            );
        }
        Hook::FromNetdev => {
            assert!(
                !world.addresses.contains_key(&source) && !is_own(seen.source),
                "{} from outside",
                seen.source
            );
        }
        Hook::ToEndpoint | Hook::ToNetdev => {}
    }
}

/// Who is closed gets and sends nothing that policy does not name.
fn receiver(hook: Hook, packet: &MemPacket, seen: &Seen<'_>, verdict: Verdict) {
    let to = match (hook, verdict) {
        (Hook::ToEndpoint, _) => packet.ifindex,
        (_, Verdict::RedirectPeer { ifindex }) => ifindex,
        _ => 0,
    };
    let from = if hook == Hook::FromEndpoint {
        packet.ifindex
    } else {
        0
    };
    for closed in [POD_HERMIT, LOCKED] {
        assert!(to != closed && from != closed, "{to} from {from}: {seen:?}");
    }
    if to == PICKY {
        assert!(is_first(seen.source), "{} to picky", seen.source);
        let allowed = match &seen.transport {
            Some(TransportSlice::Tcp(tcp)) => tcp.destination_port() == 80,
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => true,
            Some(_) => false,
            None => seen.fragmented,
        };
        assert!(allowed, "to picky: {seen:?}");
    }
    if from == PICKY {
        assert_eq!(to, POD_A, "picky to {}", seen.destination);
        let allowed = match &seen.transport {
            Some(TransportSlice::Tcp(tcp)) => tcp.source_port() == 80,
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => true,
            Some(_) => false,
            None => seen.fragmented,
        };
        assert!(allowed, "from picky: {seen:?}");
    }
    let closed = [PICKY_V4, PICKY_V6, LOCKED_V4, LOCKED_V6].map(address);
    if hook == Hook::FromNetdev {
        assert!(!closed.contains(&seen.destination) || to != 0);
        assert_ne!(to, PICKY, "picky knows nobody outside");
    }
}

/// What another device has brought leaves under no endpoint's address but its own.
fn borrowed(hook: Hook, packet: &MemPacket, world: &World) {
    let from = packet.ingress_ifindex;
    if hook != Hook::ToNetdev || from == 0 || tagged(hook, packet) {
        return;
    }
    if let Some((source, _)) = addresses(&packet.bytes) {
        let row = world.addresses.get(&IpKey::from(source));
        assert!(
            row.is_none_or(|row| row.ifindex == from),
            "{source} is lent"
        );
    }
}

/// What is translated leaves from the node; what is the node's, as it is.
fn masqueraded(packet: &MemPacket, outcome: &Outcome) {
    let (before, _) = addresses(&packet.bytes).expect("it was read");
    let (after, _) = addresses(&outcome.bytes).expect("it was read");
    if is_node(before) {
        let may = after == before || is_services(after);
        assert!(may, "the node leaves by {after}");
        return;
    }
    let node = if before.is_ipv4() { V4.node } else { V6.node };
    assert_eq!(after, address(node), "{before} leaves");
}

fn is_first(addr: IpAddr) -> bool {
    [V4.a, V6.a].map(address).contains(&addr)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address of the scene")
}

/// What another parser makes of a packet.
#[derive(Debug)]
struct Seen<'a> {
    source: IpAddr,
    destination: IpAddr,
    /// Whether it is a part of its datagram only.
    fragmented: bool,
    transport: Option<TransportSlice<'a>>,
}

/// Whether another parser has nothing against a packet.
pub(super) fn is_well_formed(packet: &MemPacket) -> bool {
    read(packet).is_ok()
}

/// Reads a packet; an error says why it is malformed.
fn read(packet: &MemPacket) -> Result<Seen<'_>, String> {
    let aggregate = packet.gso_size != 0;
    let sliced = match SlicedPacket::from_ethernet(&packet.bytes) {
        Ok(sliced) => sliced,
        Err(error) if is_excused(&error, is_sealed(packet), aggregate) => {
            let (source, destination) = addresses(&packet.bytes).ok_or("no addresses")?;
            return Ok(Seen {
                source,
                destination,
                fragmented: true,
                transport: None,
            });
        }
        Err(error) => return Err(error.to_string()),
    };
    let (source, destination, fragmented) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.is_payload_fragmented(),
        ),
        Some(NetSlice::Ipv6(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.is_payload_fragmented(),
        ),
        Some(NetSlice::Arp(_)) | None => return Err("no IP".to_owned()),
    };
    Ok(Seen {
        source,
        destination,
        fragmented,
        transport: sliced.transport,
    })
}

/// Whether a packet is IPv4 of protocol AH. To IPv4 that is one as any other; the
/// other parser reads what is in it too.
fn is_sealed(packet: &MemPacket) -> bool {
    packet.bytes.get(12..ETHERNET_LEN) == Some(&[0x08, 0x00])
        && packet.bytes.get(ETHERNET_LEN + 9) == Some(&51)
}

/// What the other parser refuses without need: the payload of ICMP messages, what
/// is in a `sealed` packet, and lengths that an aggregate does not keep to.
fn is_excused(error: &SliceError, sealed: bool, aggregate: bool) -> bool {
    match error {
        SliceError::Len(error) => {
            let icmp = matches!(
                error.layer,
                Layer::Icmpv4Timestamp | Layer::Icmpv4TimestampReply
            );
            let outer = matches!(error.layer, Layer::Ipv4Header | Layer::Ipv4Packet);
            icmp || aggregate || (sealed && !outer)
        }
        SliceError::Ipv4(_) => aggregate,
        _ => sealed,
    }
}

/// The addresses of an IP packet, wherever they stand.
pub(super) fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ip = frame.get(ETHERNET_LEN..)?;
    match frame.get(12..ETHERNET_LEN)? {
        [0x08, 0x00] => {
            let pair: [u8; 8] = ip.get(12..20)?.try_into().ok()?;
            let [a, b, c, d, e, f, g, h] = pair;
            Some(([a, b, c, d].into(), [e, f, g, h].into()))
        }
        [0x86, 0xdd] => {
            let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            Some((source.into(), destination.into()))
        }
        _ => None,
    }
}
