//! What becomes of packets where something is missing, spent or forged.

use axon_abi::{
    Be16, ConfigFlags, DropReason, Identity, IpcacheRow, LpmKey, NatEntry, NatKey, PolicySetFlags,
    PolicySetRow,
};
use axon_datapath::Verdict;

use super::scene::{
    IDENTITY_REMOTE, Net, POD_A, POD_B, UPLINK, arrives, leaves, reaches, sends, to,
};
use crate::run::{Backend, Case, Native, Step};
use crate::world::Rule;
use crate::{Build, World};

const SYN: u8 = 2;
const ACK: u8 = 16;
/// Later than any clock of these tests.
const ALIVE_S: u32 = 0x7000_0000;
/// A prefix that holds [`Net::world`].
const WIDE: Identity = Identity(0x0100_0001);
/// A prefix that policy denies.
const OTHER: Identity = Identity(0x0100_0002);
const DENIED: Result<Verdict, DropReason> = Err(DropReason::PolicyDenied);
/// A device that is neither an uplink nor an endpoint's.
pub(super) const STRANGER: u32 = 77;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    let mut cases = missing_rows(net);
    cases.extend(unexplained(net));
    cases.push(origins(net));
    cases.extend(borrowers(net));
    cases.push(errors(net));
    cases.push(rulers(net));
    cases.extend(ports(net));
    cases
}

/// The second endpoint is closed but for a prefix and a remote endpoint; the
/// first has no policy.
fn prefixes(net: &Net) -> World {
    let mut world = Net::scene();
    let prefix_bits = if net.version == 4 { 120 } else { 48 };
    let addr = Net::key(net.world);
    let row = IpcacheRow {
        identity: WIDE,
        ..IpcacheRow::default()
    };
    world.cidrs.push((LpmKey { prefix_bits, addr }, row));
    world.identities.extend([WIDE, OTHER]);
    world.sets.insert(
        2,
        PolicySetRow {
            flags: PolicySetFlags::DEFAULT_DENY_INGRESS,
            ..PolicySetRow::default()
        },
    );
    let allow = Rule {
        precedence: 1,
        ..Rule::default()
    };
    for identity in [WIDE, IDENTITY_REMOTE] {
        world.rule(2, Some(identity), allow);
    }
    world
}

fn missing_rows(net: &Net) -> Vec<Case> {
    let tcp = |from, to, port| Build::tcp(from, to, (port, 80), SYN);
    let mut partial = prefixes(net);
    partial.config.flags |= ConfigFlags::IPCACHE_PARTIAL;
    let mut denies = partial.clone();
    denies.sets.insert(2, PolicySetRow::default());
    let deny = Rule {
        precedence: 2,
        deny: true,
        ..Rule::default()
    };
    denies.rule(2, Some(OTHER), deny);
    vec![
        net.case(
            "every prefix has its row",
            prefixes(net),
            vec![arrives("allowed", &tcp(net.world, net.b, 1), to(POD_B))],
        ),
        net.case(
            "a prefix has no row",
            partial,
            vec![
                arrives(
                    "perhaps of the missing one",
                    &tcp(net.world, net.b, 1),
                    DENIED,
                ),
                arrives("known itself", &tcp(net.remote, net.b, 1), to(POD_B)),
                arrives("to whom all may", &tcp(net.world, net.a, 1), to(POD_A)),
                sends("of the node", POD_A, &tcp(net.a, net.b, 2), DENIED),
            ],
        ),
        net.case(
            "a prefix that is denied has no row",
            denies,
            vec![
                arrives("perhaps it", &tcp(net.world, net.b, 1), DENIED),
                arrives("known itself", &tcp(net.remote, net.b, 1), to(POD_B)),
                sends("of the node", POD_A, &tcp(net.a, net.b, 2), to(POD_B)),
            ],
        ),
    ]
}

/// Everybody may come, but who has a number that nobody explains.
fn unexplained(net: &Net) -> Vec<Case> {
    let tcp = Build::tcp(net.remote, net.b, (1, 80), SYN);
    let numbers = [
        ("a workload", IDENTITY_REMOTE),
        ("a prefix", WIDE),
        ("a node", Identity(Identity::REMOTE_NODE_MIN.0 + 1)),
    ];
    let case = |(name, number): (&'static str, Identity)| {
        let mut world = Net::scene();
        world.known(net.remote, number, 0);
        world.rule(
            2,
            None,
            Rule {
                precedence: 1,
                ..Rule::default()
            },
        );
        let mut without = world.clone();
        without.identities.remove(&number);
        let arrive = |expected| vec![arrives(name, &tcp, expected)];
        [
            net.case("known to policy", world, arrive(to(POD_B))),
            net.case("unknown to policy", without, arrive(DENIED)),
        ]
    };
    numbers.into_iter().flat_map(case).collect()
}

/// What the node's stack sends to the second endpoint, by where it got it.
fn came(name: &'static str, by: u32, packet: &Build, allowed: bool) -> Step {
    let expected = if allowed {
        Ok(Verdict::Pass)
    } else {
        Err(DropReason::InvalidSourceIp)
    };
    reaches(name, by, packet, expected)
}

fn origins(net: &Net) -> Case {
    let world = Net::scene();
    let udp = |from| Build::udp(from, net.b, (4000, 53), 4);
    net.case(
        "who says that it is the node",
        world,
        vec![
            came("the node", 0, &udp(net.node), true),
            came("the node, by way of itself", 1, &udp(net.node), true),
            came("translated, by an uplink", UPLINK, &udp(net.node), true),
            came("an endpoint, of its flow", POD_A, &udp(net.node), false),
            came("a stranger, of its flow", STRANGER, &udp(net.node), false),
            came("a stranger as an endpoint", STRANGER, &udp(net.a), false),
            came("an uplink as an endpoint", UPLINK, &udp(net.a), false),
            came("the endpoint", POD_A, &udp(net.a), true),
            came("a stranger as itself", STRANGER, &udp(net.world), true),
        ],
    )
}

/// The second endpoint hears only `from`.
pub(super) fn hears(from: Identity) -> World {
    let mut world = Net::scene();
    world.identities.insert(from);
    let flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
    let closed = PolicySetRow {
        flags,
        ..PolicySetRow::default()
    };
    world.sets.insert(2, closed);
    let allow = Rule {
        precedence: 1,
        ..Rule::default()
    };
    world.rule(2, Some(from), allow);
    world
}

/// The world's identity of this family.
fn world(net: &Net) -> Identity {
    if net.version == 4 {
        Identity::WORLD_IPV4
    } else {
        Identity::WORLD_IPV6
    }
}

/// The second endpoint hears only another node, and its own as ever.
pub(super) fn trusting() -> World {
    let mut world = hears(Identity::REMOTE_NODE);
    world.config.flags |= ConfigFlags::ALLOW_LOCALHOST;
    world
}

fn refused(mut step: Step) -> Step {
    step.expected = DENIED;
    step
}

/// Others behind the node's address, as containers of another engine are whose
/// packets the node masquerades.
fn borrowers(net: &Net) -> Vec<Case> {
    let request = Build::tcp(net.node, net.b, (4000, 80), SYN);
    let answer = Build::tcp(net.b, net.node, (80, 4000), SYN | ACK);
    let data = Build::tcp(net.node, net.b, (4000, 80), ACK);
    let asked = Build::udp(net.b, net.node, (5000, 53), 4);
    let told = Build::udp(net.node, net.b, (53, 5000), 4);
    let pass = Ok(Verdict::Pass);
    vec![
        net.case(
            "behind the node's address, where the world may come",
            hears(world(net)),
            vec![
                came("a stranger", STRANGER, &request, true),
                sends("is answered", POD_B, &answer, pass),
                came("and goes on", STRANGER, &data, true),
                arrives(
                    "which nobody outside can",
                    &data,
                    Err(DropReason::InvalidSourceIp),
                ),
                refused(came(
                    "the node itself may not",
                    0,
                    &Build::tcp(net.node, net.b, (4001, 80), SYN),
                    true,
                )),
                refused(came("nor by the stranger's flow", 0, &data, true)),
                came("which is still his", STRANGER, &data, true),
            ],
        ),
        net.case(
            "behind the node's address, where only the node may come",
            trusting(),
            vec![
                refused(came("a stranger", STRANGER, &request, true)),
                came("the node", 0, &request, true),
                came("a stranger, of its flow", STRANGER, &data, false),
                sends("the node is answered", POD_B, &answer, pass),
                sends("asked at the node's address", POD_B, &asked, pass),
                came("whoever has its port answers", STRANGER, &told, true),
            ],
        ),
        turned(net),
    ]
}

/// A verdict that is made again, at the answer to a stranger's packet, is about
/// the stranger.
fn turned(net: &Net) -> Case {
    let mut earlier = Native {
        world: hears(world(net)),
    };
    let request = Build::tcp(net.node, net.b, (4000, 80), SYN);
    let opening = came("", STRANGER, &request, true);
    earlier.run(opening.hook, &opening.packet);
    let mut later = trusting();
    later.config.epoch += 1;
    (later.ct4, later.ct6) = (earlier.world.ct4, earlier.world.ct6);
    for entry in later.ct4.borrow_mut().values_mut() {
        entry.expires_s = ALIVE_S;
    }
    for entry in later.ct6.borrow_mut().values_mut() {
        entry.expires_s = ALIVE_S;
    }
    let answer = Build::tcp(net.b, net.node, (80, 4000), SYN | ACK);
    net.case(
        "policy turns against who is behind the node's address",
        later,
        vec![
            sends("the answer", POD_B, &answer, DENIED),
            refused(came("the next", STRANGER, &request, true)),
        ],
    )
}

/// What would rule a link that others are on.
fn rulers(net: &Net) -> Case {
    let spoofed = Err(DropReason::InvalidSourceIp);
    let nowhere = Err(DropReason::UnknownL3Target);
    let (nobody, everybody, ports) = if net.version == 4 {
        ("0.0.0.0", "255.255.255.255", (68, 67))
    } else {
        ("fe80::1", "ff02::1:2", (546, 547))
    };
    let back = (ports.1, ports.0);
    let dhcp = |from, to, ports| Build::udp(from, to, ports, 40);
    let mut steps = vec![
        sends("asks DHCP", POD_A, &dhcp(nobody, everybody, ports), spoofed),
        sends(
            "offers addresses to all",
            POD_A,
            &dhcp(net.a, everybody, back),
            nowhere,
        ),
        sends(
            "answers as the node",
            POD_A,
            &dhcp(net.node, net.b, back),
            spoofed,
        ),
    ];
    if net.version == 6 {
        let forbidden = Err(DropReason::ForbiddenIcmpv6Message);
        for (name, kind) in [
            ("advertises a router", 134),
            ("advertises a neighbour", 136),
            ("redirects", 137),
        ] {
            for from in [net.a, nobody] {
                let packet = Build::icmp(from, "ff02::1", (kind, 0, 0), &[0; 24]).hops(255);
                steps.push(sends(name, POD_A, &packet, forbidden));
            }
        }
    }
    net.case("who would rule the link", Net::scene(), steps)
}

fn errors(net: &Net) -> Case {
    let world = Net::scene();
    world.icmp_times.borrow_mut().insert(1, u64::MAX);
    let udp = |from, to| Build::udp(from, to, (4000, 53), 4).hops(1);
    let answered = Ok(Verdict::Reflect {
        dropped: Some(DropReason::TtlExceeded),
    });
    net.case(
        "errors have a budget",
        world,
        vec![
            sends(
                "spent",
                POD_A,
                &udp(net.a, net.b),
                Err(DropReason::RateLimited),
            ),
            sends("another's", POD_B, &udp(net.b, net.a), answered),
            arrives("the network's", &udp(net.world, net.a), answered),
        ],
    )
}

/// The node's flows have four ports to share with those of endpoints, which
/// have them all and were last seen then.
fn four_ports(net: &Net, seen_s: u32) -> World {
    let mut world = Net::scene();
    (world.config.nat_port_min, world.config.nat_port_max) = (50000, 50003);
    for port in 50000..=50003 {
        let (pod, peer, node) = (Net::key(net.a), Net::key(net.world), Net::key(net.node));
        let (port, peer_port) = (Be16::new(port), Be16::new(53));
        let outbound = NatKey {
            source: pod,
            destination: peer,
            source_port: port,
            destination_port: peer_port,
            protocol: 17,
            ..NatKey::default()
        };
        let inbound = NatKey {
            source: peer,
            destination: node,
            source_port: peer_port,
            destination_port: port,
            protocol: 17,
            inbound: 1,
            ..NatKey::default()
        };
        let mut nat = world.nat.borrow_mut();
        for (key, addr) in [(outbound, node), (inbound, pod)] {
            let entry = NatEntry {
                addr,
                port,
                node_own: 0,
                seen_s,
            };
            nat.insert(key, entry);
        }
    }
    world
}

fn ports(net: &Net) -> Vec<Case> {
    let udp = |from| Build::udp(from, net.world, (50000, 53), 5);
    // A day before the machine began to count: it may have begun just now.
    let (alive, silent) = (ALIVE_S, 0_u32.wrapping_sub(86_400));
    vec![
        net.case(
            "every port is taken",
            four_ports(net, alive),
            vec![
                leaves("the node", &udp(net.node), Err(DropReason::NoNatMapping)),
                leaves("an endpoint", &udp(net.b), Err(DropReason::NoNatMapping)),
            ],
        ),
        net.case(
            "every port is taken, by silent flows",
            four_ports(net, silent),
            vec![
                leaves(
                    "the node keeps its own",
                    &udp(net.node),
                    Ok(Verdict::Ignore),
                ),
                arrives(
                    "and has the answer",
                    &Build::udp(net.world, net.node, (53, 50000), 5),
                    Ok(Verdict::Ignore),
                ),
                leaves("an endpoint", &udp(net.b), Err(DropReason::NoNatMapping)),
            ],
        ),
    ]
}
