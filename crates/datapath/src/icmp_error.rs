//! ICMP errors about packets that cannot go on: the packet becomes its own
//! answer (RFC 792, RFC 4443).

use axon_abi::{Be16, Be32, DropReason, IpKey};
use zerocopy::IntoBytes;

use crate::arp::GATEWAY_IPV4;
use crate::checksum;
use crate::event;
use crate::family::Family;
use crate::header::{ETHERNET_LEN, Ethernet, Ipv4, Ipv6, protocol};
use crate::nd::GATEWAY_IPV6;
use crate::packet::Packet;
use crate::reset;
use crate::scratch::{Fragmentation, Kind, Scratch, Translated, Way};
use crate::tables::Tables;
use crate::translate::undo;

/// Bytes of the packet that its answer quotes, at most.
const QUOTE_MAX: u32 = 128;
/// Hops that an answer has.
pub(crate) const HOPS: u8 = 64;

/// Time that each error takes from its owner's budget: a hundred a second.
const INTERVAL_NS: u64 = 10_000_000;
/// Errors that may come at once.
const BURST: u64 = 50;

/// Takes an error from the budget of the endpoint that is answered; all that
/// the network is answered comes from one budget, so that nobody out there
/// uses up an endpoint's.
#[inline(never)]
fn afford(tables: &impl Tables, scratch: &Scratch) -> bool {
    let now_ns = tables.now_ns();
    let owner = if scratch.from_outside {
        0
    } else {
        scratch.endpoint
    };
    tables.icmp_spoken_for(owner, |time| {
        let time = time.max(now_ns);
        let ahead = time.wrapping_sub(now_ns);
        (ahead < BURST * INTERVAL_NS).then_some(time.wrapping_add(INTERVAL_NS))
    })
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug)]
pub struct Error<'a> {
    /// Who says so.
    pub from: &'a IpKey,
    /// The sender of the packet in question.
    pub to: &'a IpKey,
    /// Type and code.
    pub kind: [u8; 2],
    /// The word after the checksum: the MTU, if that is what it is about.
    pub word: [u8; 4],
}

/// Has the sender told that the packet ran out of hops.
#[inline(always)]
pub(crate) fn time_exceeded<F: Family>(scratch: &mut Scratch) {
    let kind = if F::VERSION == 4 { [11, 0] } else { [3, 0] };
    set(scratch, (kind, 0), DropReason::TtlExceeded);
}

/// Has the sender told that the packet is larger than `mtu` (RFC 1191, RFC 8201).
#[inline(always)]
pub(crate) fn too_big<F: Family>(scratch: &mut Scratch, mtu: u32) {
    let kind = if F::VERSION == 4 { [3, 4] } else { [2, 0] };
    set(scratch, (kind, mtu), DropReason::FragmentationNeeded);
}

/// Has the sender told that policy does not let the packet out (RFC 1812 section
/// 5.2.7.1, RFC 4443 section 3.1).
#[inline(always)]
pub(crate) fn prohibited<F: Family>(scratch: &mut Scratch, reason: DropReason) {
    let kind = if F::VERSION == 4 { [3, 13] } else { [1, 1] };
    set(scratch, (kind, 0), reason);
}

/// Has the sender told that nobody listens there (RFC 1122 section 3.2.2.1, RFC 4443
/// section 3.1), if it opens a connection by a reset ([`crate::reset`]).
#[inline(always)]
pub(crate) fn port_unreachable<F: Family>(scratch: &mut Scratch) {
    let kind = if F::VERSION == 4 { [3, 3] } else { [1, 4] };
    set(scratch, (kind, 0), DropReason::ServiceBackendNotFound);
}

/// Keeps what the sender is to be told. Each hook does it at one place, at its end:
/// the kernel walks it, which is long, once for each place that it is done at.
#[inline(always)]
fn set(scratch: &mut Scratch, tells: ([u8; 2], u32), reason: DropReason) {
    scratch.tells = tells;
    scratch.refusal = Some(reason);
    scratch.way = Way::Tell;
}

/// Tells the sender of a packet what is to be told, if anything: the packet, with the
/// ends again that it came with, becomes the answer. Without one, where none is due,
/// it is dropped.
#[inline(always)]
pub(crate) fn tell<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if !matches!(scratch.way, Way::Tell) {
        return Ok(());
    }
    undo::<F>(packet, tables, scratch)?;
    answer::<F>(packet, tables, scratch)
}

#[inline(never)]
fn answer<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let reason = scratch.refusal.unwrap_or(DropReason::PolicyDenied);
    let flow = &scratch.flow;
    // No error about an error, a fragment without ports, or to no single sender (RFC 1122 3.2.2),
    // nor one that would quote an address the sender does not know.
    let silent = matches!(flow.kind, Kind::Error)
        || nobody_to_tell::<F>(scratch)
        || flow.icmp_message() && !matches!(flow.kind, Kind::Query | Kind::Answer)
        || matches!(flow.fragmentation, Fragmentation::Later)
        || matches!(scratch.translated, Translated::Back);
    if silent {
        return Err(reason);
    }
    if !afford(tables, scratch) {
        let is_hidden = matches!(
            reason,
            DropReason::TtlExceeded | DropReason::FragmentationNeeded
        );
        return Err(if is_hidden {
            DropReason::RateLimited
        } else {
            reason
        });
    }
    event::report_drop(packet, tables, scratch, reason);
    if reset::is_due::<F>(&scratch.flow, reason) {
        let l4_len = scratch.flow.l4_len;
        reset::write::<F>(packet, l4_len).ok_or(DropReason::PacketWrite)?;
        scratch.reflect(Some(reason));
        return Ok(());
    }
    set_speaker::<F>(tables, scratch);
    let quote = scratch.flow.ip_len.min(QUOTE_MAX) & !3;
    let (kind, word) = scratch.tells;
    let error = Error {
        from: &scratch.next_hop.addr,
        to: &scratch.flow.tuple.source,
        kind,
        word: Be32::new(word).to_bytes(),
    };
    turn(packet, quote, F::ERROR_LEN)
        .and_then(|()| F::write_error(packet, &error, quote))
        .ok_or(DropReason::PacketWrite)?;
    scratch.reflect(Some(reason));
    Ok(())
}

/// Puts the address that the error comes from in place of the next hop, which
/// an answer has not: two copies of it on the stack are too much.
#[inline(never)]
fn set_speaker<F: Family>(tables: &impl Tables, scratch: &mut Scratch) {
    let node = F::node(tables.config());
    let [.., a, b, c, d] = node.0;
    scratch.next_hop.addr = if u32::from_ne_bytes([a, b, c, d]) != 0 {
        node
    } else if F::VERSION == 4 {
        IpKey::from_v4(GATEWAY_IPV4)
    } else {
        IpKey(GATEWAY_IPV6)
    };
}

/// Whether the packet claims to be sent by many, or nobody: the stack, which
/// would drop it, has not seen what comes from the network.
#[inline(never)]
fn nobody_to_tell<F: Family>(scratch: &Scratch) -> bool {
    scratch.from_outside && F::unroutable(&scratch.flow.tuple.source)
}

/// Turns the Ethernet header around and makes room for the headers.
pub(crate) fn turn(packet: &mut impl Packet, quote: u32, room: u32) -> Option<()> {
    let ethernet: &mut Ethernet = packet.edit(0)?;
    (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
    packet.make_room(ETHERNET_LEN as u32 + quote, room)
}

/// The sum of `len` bytes from `at` on, a multiple of four.
pub(crate) fn sum(packet: &impl Packet, at: u32, len: u32) -> Option<u32> {
    let mut sum = 0;
    let mut n = 0;
    while n < QUOTE_MAX {
        if n >= len {
            break;
        }
        sum = checksum::add(sum, checksum::word(packet.load(at + n)?));
        n += 4;
    }
    Some(sum)
}

/// The ICMP header; `pseudo` is the sum of what else is covered.
fn message(error: &Error<'_>, covered: u32) -> [u8; 8] {
    let [kind, code] = error.kind;
    let [a, b, c, d] = error.word;
    let own = checksum::add(
        checksum::word([kind, code, 0, 0]),
        checksum::word(error.word),
    );
    let [x, y] = checksum::fold(checksum::add(own, covered)).to_ne_bytes();
    [kind, code, x, y, a, b, c, d]
}

/// [`Family::write_error`] of IPv4.
#[inline(always)]
pub(crate) fn write_v4(packet: &mut impl Packet, error: &Error<'_>, quote: u32) -> Option<()> {
    let [.., a, b, c, d] = error.from.0;
    let [.., e, f, g, h] = error.to.0;
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0xc0,
        total_len: Be16::new(28 + quote as u16),
        id: Be16::ZERO,
        fragment: Be16::ZERO,
        ttl: HOPS,
        protocol: protocol::ICMP,
        checksum: Be16::ZERO,
        source: [a, b, c, d],
        destination: [e, f, g, h],
    };
    let mut header_sum = 0;
    let (words, _) = ip.as_bytes().as_chunks::<4>();
    for word in words {
        header_sum = checksum::add(header_sum, checksum::word(*word));
    }
    ip.checksum = Be16::from_bytes(checksum::fold(header_sum).to_ne_bytes());
    packet.store(14, &ip)?;
    let covered = sum(packet, 42, quote)?;
    packet.store(34, &message(error, covered))
}

/// The sum of both addresses, out of line: their bytes would lie on the stack
/// one by one while the rest is summed up.
#[inline(never)]
fn sum_ends(error: &Error<'_>) -> u32 {
    let from = checksum::address(error.from, true);
    checksum::add(from, checksum::address(error.to, true))
}

/// [`Family::write_error`] of IPv6.
#[inline(always)]
pub(crate) fn write_v6(packet: &mut impl Packet, error: &Error<'_>, quote: u32) -> Option<()> {
    let len = Be16::new(8 + quote as u16);
    let ip = Ipv6 {
        version_class_flow: Be32::new(6 << 28),
        payload_len: len,
        next_header: protocol::ICMPV6,
        hop_limit: HOPS,
        source: error.from.0,
        destination: error.to.0,
    };
    packet.store(14, &ip)?;
    let mut covered = checksum::half(len.to_bytes()) + checksum::half([0, protocol::ICMPV6]);
    covered = checksum::add(covered, sum_ends(error));
    covered = checksum::add(covered, sum(packet, 62, quote)?);
    packet.store(54, &message(error, covered))
}
