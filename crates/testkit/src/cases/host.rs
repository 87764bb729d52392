//! The node itself, held to policy as endpoints are.

use axon_abi::{ConfigFlags, DropReason, Hook, Identity, IpcacheFlags, PolicySetFlags};
use axon_datapath::Verdict;

use super::scene::{Net, POD_A, UPLINK, arrives, leaves, reaches, sends, step, to};
use crate::run::{Case, Step};
use crate::world::Rule;
use crate::{Build, World};

pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;
const RST: u8 = 4;
pub(super) const DENIED: Result<Verdict, DropReason> = Err(DropReason::PolicyDenied);
pub(super) const PASS: Result<Verdict, DropReason> = Ok(Verdict::Pass);
pub(super) const IGNORE: Result<Verdict, DropReason> = Ok(Verdict::Ignore);
/// The node's number among the endpoints.
const HOST: u16 = 9;
/// The node's policy set.
pub(super) const SET: u32 = 9;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    let mut cases = vec![
        none(net),
        no_row(net),
        ingress(net),
        egress(net),
        link(net),
        redirects(net),
        not_carried(net),
        tagged(net),
        protocols(net),
        fragments(net),
    ];
    if net.version == 6 {
        cases.push(link_local(net));
    } else {
        cases.push(link_local_v4(net));
    }
    cases
}

/// Another address of the node than the one that it is known by.
pub(super) fn second(net: &Net) -> &'static str {
    match net.version {
        4 => "203.0.113.1",
        _ => "2001:db8:5::1",
    }
}

/// A node that allows one TCP port each way.
pub(super) fn guarded(flags: u32) -> World {
    let mut world = Net::scene();
    world.host_firewall(HOST, SET);
    for net in [super::V4, super::V6] {
        world.known(second(&net), Identity::HOST, IpcacheFlags::LOCAL_HOST);
    }
    world.sets.entry(SET).or_default().flags = flags;
    let allow = |egress, port| Rule {
        egress,
        protocol: 6,
        port,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(SET, None, allow(false, 22));
    world.rule(SET, None, allow(true, 443));
    world
}

pub(super) const BOTH: u32 =
    PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;

fn none(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    world.config.flags &= !ConfigFlags::HOST_FIREWALL;
    let tcp = |from, to, ports| Build::tcp(from, to, ports, SYN);
    net.case(
        "no host firewall",
        world,
        vec![
            arrives("in", &tcp(net.world, net.node, (4000, 80)), IGNORE),
            arrives(
                "another address",
                &tcp(net.world, second(net), (4000, 80)),
                IGNORE,
            ),
            leaves("out", &tcp(net.node, net.world, (4000, 80)), IGNORE),
            sends(
                "by an endpoint",
                POD_A,
                &tcp(net.a, net.node, (4000, 80)),
                PASS,
            ),
            reaches("to an endpoint", 0, &tcp(net.node, net.b, (4000, 80)), PASS),
        ],
    )
}

fn no_row(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    world.endpoints.remove(&axon_abi::HOST_DEVICE);
    let tcp = |from, to, ports| Build::tcp(from, to, ports, SYN);
    net.case(
        "a host firewall without a policy yet",
        world,
        vec![
            arrives("in", &tcp(net.world, net.node, (4000, 80)), IGNORE),
            leaves("out", &tcp(net.node, net.world, (4000, 80)), IGNORE),
            sends(
                "by an endpoint",
                POD_A,
                &tcp(net.a, net.node, (4000, 80)),
                PASS,
            ),
            reaches("to an endpoint", 0, &tcp(net.node, net.b, (4000, 80)), PASS),
        ],
    )
}

fn ingress(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    net.case(
        "host ingress",
        guarded(PolicySetFlags::DEFAULT_DENY_INGRESS),
        vec![
            arrives("allowed", &tcp(net.world, net.node, (4000, 22), SYN), PASS),
            leaves(
                "its reply",
                &tcp(net.node, net.world, (22, 4000), SYN | ACK),
                PASS,
            ),
            arrives("its next", &tcp(net.world, net.node, (4000, 22), ACK), PASS),
            arrives(
                "not allowed",
                &tcp(net.world, net.node, (4000, 80), SYN),
                DENIED,
            ),
            arrives("again", &tcp(net.world, net.node, (4000, 80), SYN), DENIED),
            arrives(
                "another address",
                &tcp(net.world, second(net), (4000, 80), SYN),
                DENIED,
            ),
            arrives(
                "allowed there",
                &tcp(net.world, second(net), (4000, 22), SYN),
                PASS,
            ),
            arrives(
                "of a node",
                &tcp(net.remote_node, net.node, (4000, 80), SYN),
                DENIED,
            ),
            arrives(
                "of a pod",
                &tcp(net.remote, net.node, (4000, 80), SYN),
                DENIED,
            ),
            arrives(
                "UDP",
                &Build::udp(net.world, net.node, (4000, 22), 3),
                DENIED,
            ),
            arrives("ping", &Build::ping(net.world, net.node, 7), DENIED),
            leaves("own", &tcp(net.node, net.world, (5000, 80), SYN), PASS),
            arrives(
                "its answer",
                &tcp(net.world, net.node, (80, 5000), SYN | ACK),
                PASS,
            ),
            leaves(
                "own UDP",
                &Build::udp(net.node, net.world, (5000, 53), 3),
                PASS,
            ),
            arrives(
                "its answer",
                &Build::udp(net.world, net.node, (53, 5000), 9),
                PASS,
            ),
            arrives(
                "no answer",
                &Build::udp(net.world, net.node, (53, 5001), 9),
                DENIED,
            ),
            leaves("own ping", &Build::ping(net.node, net.world, 8), PASS),
            arrives("its pong", &Build::pong(net.world, net.node, 8), PASS),
            arrives(
                "for a pod",
                &tcp(net.world, net.a, (4000, 80), SYN),
                to(POD_A),
            ),
            arrives(
                "to a group",
                &Build::udp(net.world, net.multicast, (1, 2), 3),
                IGNORE,
            ),
        ],
    )
}

fn egress(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    net.case(
        "host egress",
        guarded(PolicySetFlags::DEFAULT_DENY_EGRESS),
        vec![
            leaves("allowed", &tcp(net.node, net.world, (4000, 443), SYN), PASS),
            arrives(
                "its reply",
                &tcp(net.world, net.node, (443, 4000), SYN | ACK),
                PASS,
            ),
            leaves(
                "not allowed",
                &tcp(net.node, net.world, (4000, 80), SYN),
                DENIED,
            ),
            leaves(
                "another address",
                &tcp(second(net), net.world, (4000, 80), SYN),
                DENIED,
            ),
            leaves(
                "allowed there",
                &tcp(second(net), net.world, (4000, 443), SYN),
                PASS,
            ),
            leaves("ping", &Build::ping(net.node, net.world, 7), DENIED),
            leaves(
                "to a pod",
                &tcp(net.node, net.remote, (4000, 80), SYN),
                DENIED,
            ),
            leaves(
                "to a group",
                &Build::udp(net.node, net.multicast, (5353, 5353), 3),
                DENIED,
            ),
            arrives("in", &tcp(net.world, net.node, (5000, 80), SYN), PASS),
            leaves(
                "its reply",
                &tcp(net.node, net.world, (80, 5000), SYN | ACK),
                PASS,
            ),
            leaves(
                "its refusal",
                &tcp(net.node, net.world, (80, 5000), RST | ACK),
                PASS,
            ),
            leaves("of a pod", &tcp(net.a, net.remote, (4000, 80), SYN), IGNORE),
        ],
    )
}

/// What the link lives of, and what tells of packets that did not come
/// through.
fn link(net: &Net) -> Case {
    let about = Build::tcp(net.node, net.world, (5000, 80), ACK).frame();
    let icmp = |head: (u8, u8, u32)| Build::icmp(net.router, net.node, head, &[0; 28]);
    let mut steps = vec![
        arrives(
            "an error about something unknown",
            &Build::unreachable(net.router, net.node, &about),
            PASS,
        ),
        leaves(
            "the node's own error",
            &Build::unreachable(
                net.node,
                net.world,
                &Build::udp(net.world, net.node, (1, 2), 3).frame(),
            ),
            PASS,
        ),
    ];
    if net.version == 4 {
        for (name, head) in [
            ("a redirect", (5, 1, 0)),
            ("a router", (9, 0, 0)),
            ("a code that nobody knows", (3, 16, 0)),
            ("a question of no use", (13, 0, 0)),
        ] {
            steps.push(arrives(name, &icmp(head), DENIED));
        }
    } else {
        for kind in [130, 134, 135, 136, 143] {
            steps.push(arrives("of the link", &icmp((kind, 0, 0)), PASS));
        }
        steps.push(arrives("a redirect", &icmp((137, 0, 0)), DENIED));
        steps.push(arrives("new prefixes", &icmp((138, 0, 0)), DENIED));
        steps.push(arrives("too big", &icmp((2, 0, 1280)), PASS));
        steps.push(arrives("a node's name", &icmp((139, 0, 0)), DENIED));
    }
    net.case("the link of a guarded host", guarded(BOTH), steps)
}

/// Policy may allow what turns the node's ways aside.
fn redirects(net: &Net) -> Case {
    let (protocol, kind) = if net.version == 4 { (1, 5) } else { (58, 137) };
    let mut world = guarded(BOTH);
    let allow = Rule {
        protocol,
        port: u16::from(kind),
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(SET, None, allow);
    let redirect = |from, to| Build::icmp(from, to, (kind, 1, 0), &[0; 28]);
    net.case(
        "redirects to a guarded host",
        world,
        vec![
            arrives("in", &redirect(net.router, net.node), PASS),
            leaves("out", &redirect(net.node, net.router), DENIED),
        ],
    )
}

fn link_local(net: &Net) -> Case {
    let tcp = |from, to, ports| Build::tcp(from, to, ports, SYN);
    net.case(
        "a guarded host by its address on the link",
        guarded(BOTH),
        vec![
            arrives("allowed", &tcp("fe80::7", "fe80::1", (4000, 22)), PASS),
            arrives(
                "not allowed",
                &tcp("fe80::7", "fe80::1", (4000, 80)),
                DENIED,
            ),
            leaves("allowed out", &tcp("fe80::1", "fe80::7", (4000, 443)), PASS),
            leaves(
                "not allowed out",
                &tcp("fe80::1", "fe80::7", (4000, 80)),
                DENIED,
            ),
            leaves(
                "DHCP without a rule",
                &Build::udp("fe80::1", "ff02::1:2", (546, 547), 30),
                DENIED,
            ),
        ],
    )
}

/// The node is held to policy also in a family that its endpoints do not have.
fn not_carried(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    let (carried, outside) = match net.version {
        4 => (ConfigFlags::IPV6, Identity::WORLD_IPV4),
        _ => (ConfigFlags::IPV4, Identity::WORLD_IPV6),
    };
    world.config.flags &= !(ConfigFlags::IPV4 | ConfigFlags::IPV6);
    world.config.flags |= carried;
    let of_family = Rule {
        protocol: 6,
        port: 8080,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(SET, Some(outside), of_family);
    let tcp = |from, to, ports| Build::tcp(from, to, ports, SYN);
    net.case(
        "a guarded host in a family of its own",
        world,
        vec![
            arrives("allowed", &tcp(net.world, net.node, (4000, 22)), PASS),
            arrives(
                "allowed the world of the family",
                &tcp(net.world, net.node, (4000, 8080)),
                PASS,
            ),
            arrives("not allowed", &tcp(net.world, net.node, (4000, 80)), DENIED),
            leaves("allowed out", &tcp(net.node, net.world, (4000, 443)), PASS),
            leaves(
                "not allowed out",
                &tcp(net.node, net.world, (4000, 80)),
                DENIED,
            ),
        ],
    )
}

/// A tag that tells a priority alone hides nothing; what is in a VLAN is seen at the
/// VLAN's device.
fn tagged(net: &Net) -> Case {
    let tcp = |from, to, ports| Build::tcp(from, to, ports, SYN);
    let with = |mut step: Step, id| {
        step.packet.vlan = Some(id);
        step
    };
    let twice = |name, ethertype: u16, id| {
        let mut frame = tcp(net.world, net.node, (4000, 22)).frame();
        let tag = ethertype.to_be_bytes().into_iter().chain([0, 0]);
        frame.splice(12..12, tag);
        let filtered = Err(DropReason::VlanFiltered);
        let mut step = step(name, (Hook::FromNetdev, UPLINK), frame, filtered);
        step.packet.vlan = id;
        step
    };
    let syn = tcp(net.world, net.node, (4000, 80));
    let out = tcp(net.node, net.world, (4000, 80));
    let allowed = tcp(net.world, net.node, (4000, 22));
    let mut in_vlan = twice("in a VLAN within a VLAN", 0x8100, Some(5));
    in_vlan.expected = IGNORE;
    net.case(
        "a guarded host and tags",
        guarded(BOTH),
        vec![
            with(arrives("allowed", &allowed, PASS), 0),
            with(arrives("not allowed", &syn, DENIED), 0),
            with(leaves("not allowed out", &out, DENIED), 0),
            with(arrives("in a VLAN", &syn, IGNORE), 5),
            with(leaves("out in a VLAN", &out, IGNORE), 5),
            twice("a tag within a tag", 0x8100, Some(0)),
            twice("a provider's tag within a tag", 0x88a8, Some(0)),
            twice("a tag that the kernel has left", 0x8100, None),
            twice("a provider's tag that it has left", 0x88a8, None),
            in_vlan,
        ],
    )
}

/// Of IPv4 only the addresses that devices have are the node's, also where an
/// endpoint knows one for its gateway.
fn link_local_v4(net: &Net) -> Case {
    let tcp = |from, to, ports| Build::tcp(from, to, ports, SYN);
    let mut world = guarded(BOTH);
    for addr in ["169.254.7.7", "169.254.1.1"] {
        world.known(addr, Identity::HOST, IpcacheFlags::LOCAL_HOST);
    }
    let mut steps = vec![arrives(
        "another's",
        &tcp(net.world, "169.254.7.8", (4000, 80)),
        IGNORE,
    )];
    for addr in ["169.254.7.7", "169.254.1.1"] {
        steps.extend([
            arrives("allowed", &tcp(net.world, addr, (4000, 22)), PASS),
            arrives("not allowed", &tcp(net.world, addr, (4000, 80)), DENIED),
            leaves("allowed out", &tcp(addr, net.world, (4000, 443)), PASS),
            leaves("not allowed out", &tcp(addr, net.world, (4000, 80)), DENIED),
        ]);
    }
    net.case("a guarded host by addresses of its links", world, steps)
}

/// Protocols without ports, asked about each time.
fn protocols(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    for egress in [false, true] {
        world.rule(
            SET,
            None,
            Rule {
                egress,
                protocol: 112,
                precedence: 1,
                ..Rule::default()
            },
        );
    }
    let other = |from, to, protocol| Build {
        protocol,
        ..Build::udp(from, to, (1, 2), 30)
    };
    net.case(
        "protocols of a guarded host",
        world,
        vec![
            arrives("VRRP", &other(net.router, net.node, 112), PASS),
            leaves("VRRP out", &other(net.node, net.router, 112), PASS),
            arrives(
                "a part of it",
                &other(net.router, net.node, 112).part(5, 16, 38),
                PASS,
            ),
            arrives("OSPF", &other(net.router, net.node, 89), DENIED),
            leaves("OSPF out", &other(net.node, net.router, 89), DENIED),
            arrives(
                "broken TCP",
                &Build::tcp(net.world, net.node, (4000, 22), 3),
                Err(DropReason::CtInvalidHeader),
            ),
        ],
    )
}

fn fragments(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    for egress in [false, true] {
        world.rule(
            SET,
            None,
            Rule {
                egress,
                protocol: 17,
                port: 53,
                prefix: 16,
                precedence: 1,
                ..Rule::default()
            },
        );
    }
    let part = |from, to, ports, (begin, end)| Build::udp(from, to, ports, 64).part(77, begin, end);
    net.case(
        "fragments of a guarded host",
        world,
        vec![
            arrives(
                "first",
                &part(net.world, net.node, (4000, 53), (0, 24)),
                PASS,
            ),
            arrives(
                "later",
                &part(net.world, net.node, (4000, 53), (24, 72)),
                PASS,
            ),
            leaves(
                "first back",
                &part(net.node, net.world, (53, 4000), (0, 24)),
                PASS,
            ),
            leaves(
                "later back",
                &part(net.node, net.world, (53, 4000), (24, 72)),
                PASS,
            ),
            arrives(
                "not allowed",
                &part(net.remote, net.node, (4000, 54), (0, 24)),
                DENIED,
            ),
            arrives(
                "its later part",
                &part(net.remote, net.node, (4000, 54), (24, 72)),
                DENIED,
            ),
            arrives(
                "alone",
                &part(net.router, net.node, (4000, 53), (24, 72)),
                Err(DropReason::FragmentNotFoundWorld),
            ),
        ],
    )
}
