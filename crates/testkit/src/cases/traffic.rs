//! Who reaches whom where policy allows everything.

use axon_abi::{DropReason, Hook};
use axon_datapath::Verdict;

use super::scene::{Net, POD_A, POD_B, POD_HERMIT, UPLINK, arrives, reaches, sends, step, to};
use crate::run::Case;
use crate::{Build, arp_request, neighbour_solicitation};

const SYN: u8 = 2;
const ACK: u8 = 16;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    let mut cases = pods(net);
    cases.extend(outwards(net));
    cases.extend(messages(net));
    cases.extend(by_stack(net));
    cases.push(neighbours(net));
    cases
}

/// A port of the node is mapped to the second endpoint's, by rules in the stack:
/// they have to see the answers, and only of what went through them.
fn by_stack(net: &Net) -> Vec<Case> {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let (mapped, direct) = ((40000, 80), (40001, 80));
    let (answer, direct_answer) = ((80, 40000), (80, 40001));
    let out = Ok(Verdict::RedirectNeigh { ifindex: UPLINK });
    let pass = Ok(Verdict::Pass);
    let syn = |from, ports| tcp(from, net.b, ports, SYN);
    let syn_ack = |to, ports| tcp(net.b, to, ports, SYN | ACK);
    let mut both = net.case(
        "through the stack and past it",
        Net::scene(),
        vec![
            reaches("from outside", UPLINK, &syn(net.world, mapped), pass),
            sends("its answer", POD_B, &syn_ack(net.world, answer), pass),
            arrives("past the stack", &syn(net.world, direct), to(POD_B)),
            sends("its answer", POD_B, &syn_ack(net.world, direct_answer), out),
            reaches(
                "again, of both",
                UPLINK,
                &tcp(net.world, net.b, mapped, ACK),
                pass,
            ),
            sends(
                "the first's answer",
                POD_B,
                &tcp(net.b, net.world, answer, ACK),
                pass,
            ),
            sends(
                "the other's",
                POD_B,
                &tcp(net.b, net.world, direct_answer, ACK),
                out,
            ),
        ],
    );
    both.routes = true;
    vec![
        both,
        net.case(
            "through the stack",
            Net::scene(),
            vec![
                reaches("from outside", UPLINK, &syn(net.world, mapped), pass),
                sends("its answer", POD_B, &syn_ack(net.world, answer), pass),
                reaches("from an endpoint", POD_A, &syn(net.a, mapped), pass),
                sends("its answer", POD_B, &syn_ack(net.a, answer), pass),
                sends("past the stack", POD_A, &syn(net.a, direct), to(POD_B)),
                sends(
                    "its answer",
                    POD_B,
                    &syn_ack(net.a, direct_answer),
                    to(POD_A),
                ),
            ],
        ),
    ]
}

fn pods(net: &Net) -> Vec<Case> {
    let out = (40000, 80);
    let back = (80, 40000);
    let mut delivered = Build::tcp(net.a, net.b, out, SYN).hops(63).frame();
    delivered[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0xff, 2]);
    let mut first = sends("SYN", POD_A, &Build::tcp(net.a, net.b, out, SYN), to(POD_B));
    first.bytes = Some(delivered);
    vec![
        net.case(
            "pod to pod",
            Net::scene(),
            vec![
                first,
                sends(
                    "SYN ACK",
                    POD_B,
                    &Build::tcp(net.b, net.a, back, SYN | ACK),
                    to(POD_A),
                ),
                sends("ACK", POD_A, &Build::tcp(net.a, net.b, out, ACK), to(POD_B)),
                sends(
                    "with options",
                    POD_A,
                    &Build::tcp(net.a, net.b, out, ACK).options(&[1, 1, 1, 1]),
                    to(POD_B),
                ),
            ],
        ),
        net.case(
            "who may send",
            Net::scene(),
            vec![
                sends(
                    "another's address",
                    POD_A,
                    &Build::tcp(net.b, net.a, out, SYN),
                    Err(DropReason::InvalidSourceIp),
                ),
                sends(
                    "the node's address",
                    POD_A,
                    &Build::udp(net.node, net.b, out, 4),
                    Err(DropReason::InvalidSourceIp),
                ),
                sends(
                    "to a group",
                    POD_A,
                    &Build::udp(net.a, net.multicast, out, 4),
                    Err(DropReason::UnknownL3Target),
                ),
                sends(
                    "from an unknown device",
                    77,
                    &Build::udp(net.a, net.b, out, 4),
                    Err(DropReason::EndpointNotReady),
                ),
                sends(
                    "before its policy is there",
                    POD_HERMIT,
                    &Build::udp(net.hermit, net.b, out, 4),
                    Err(DropReason::EndpointNotReady),
                ),
                sends(
                    "to itself",
                    POD_A,
                    &Build::udp(net.a, net.a, out, 4),
                    to(POD_A),
                ),
            ],
        ),
        net.case(
            "host and pod",
            Net::scene(),
            vec![
                sends(
                    "pod to node",
                    POD_A,
                    &Build::tcp(net.a, net.node, (40000, 6443), SYN),
                    Ok(Verdict::Pass),
                ),
                step(
                    "and back",
                    (Hook::ToEndpoint, POD_A),
                    Build::tcp(net.node, net.a, (6443, 40000), SYN | ACK).frame(),
                    Ok(Verdict::Pass),
                ),
                step(
                    "node to pod",
                    (Hook::ToEndpoint, POD_A),
                    Build::udp(net.node, net.a, (5000, 53), 9).frame(),
                    Ok(Verdict::Pass),
                ),
                step(
                    "not IP",
                    (Hook::ToEndpoint, POD_A),
                    arp_request([192, 0, 2, 1], [10, 0, 0, 11]),
                    Err(DropReason::UnsupportedL3Protocol),
                ),
            ],
        ),
    ]
}

fn outwards(net: &Net) -> Vec<Case> {
    let out = (40000, 443);
    let routed = Ok(Verdict::RedirectNeigh { ifindex: UPLINK });
    let mut routes = net.case(
        "pod to elsewhere",
        Net::scene(),
        vec![
            sends(
                "to the world",
                POD_A,
                &Build::tcp(net.a, net.world, out, SYN),
                routed,
            ),
            sends(
                "to another node's pod",
                POD_A,
                &Build::tcp(net.a, net.remote, out, SYN),
                routed,
            ),
        ],
    );
    routes.routes = true;
    let mut aggregate = sends(
        "an aggregate of small segments",
        POD_A,
        &Build::udp(net.a, net.world, out, 3000),
        routed,
    );
    aggregate.packet.gso_size = 1200;
    let mut large = net.case("sizes", Net::scene(), vec![aggregate]);
    large.routes = true;
    let too_big = Ok(Verdict::Reflect {
        dropped: Some(DropReason::FragmentationNeeded),
    });
    let big = Build::udp(net.a, net.world, out, 2000).dont_fragment();
    let mut steps = vec![
        sends("too large to go out", POD_A, &big, too_big),
        sends(
            "out of hops",
            POD_A,
            &Build::udp(net.a, net.b, out, 4).hops(1),
            Ok(Verdict::Reflect {
                dropped: Some(DropReason::TtlExceeded),
            }),
        ),
        sends(
            "out of hops, odd length",
            POD_A,
            &Build::udp(net.a, net.world, out, 151).hops(1),
            Ok(Verdict::Reflect {
                dropped: Some(DropReason::TtlExceeded),
            }),
        ),
        sends(
            "to the node with one hop",
            POD_A,
            &Build::udp(net.a, net.node, out, 4).hops(1),
            Ok(Verdict::Pass),
        ),
    ];
    if net.version == 4 {
        steps.push(sends(
            "too large, but may be cut",
            POD_A,
            &Build::udp(net.a, net.world, out, 2000),
            Ok(Verdict::Pass),
        ));
    }
    vec![routes, large, net.case("answers", Net::scene(), steps)]
}

fn messages(net: &Net) -> Vec<Case> {
    let udp = Build::udp(net.a, net.b, (5000, 53), 16);
    let large = Build::udp(net.a, net.b, (5000, 5001), 64);
    let error = Build::unreachable(net.b, net.a, &udp.frame());
    vec![
        net.case(
            "ICMP",
            Net::scene(),
            vec![
                sends("ping", POD_A, &Build::ping(net.a, net.b, 7), to(POD_B)),
                sends("pong", POD_B, &Build::pong(net.b, net.a, 7), to(POD_A)),
                sends(
                    "ping the other way, same id",
                    POD_B,
                    &Build::ping(net.b, net.a, 7),
                    to(POD_A),
                ),
                sends("UDP", POD_A, &udp, to(POD_B)),
                sends("an error about it", POD_B, &error, to(POD_A)),
            ],
        ),
        net.case(
            "fragments",
            Net::scene(),
            vec![
                sends(
                    "later before first",
                    POD_A,
                    &large.clone().part(8, 24, 72),
                    Err(DropReason::FragmentNotFound),
                ),
                sends(
                    "first in another's name",
                    POD_B,
                    &large.clone().part(8, 0, 24),
                    Err(DropReason::InvalidSourceIp),
                ),
                sends(
                    "later, of which only another knows the first",
                    POD_A,
                    &large.clone().part(8, 24, 72),
                    Err(DropReason::FragmentNotFound),
                ),
                sends("first", POD_A, &large.clone().part(9, 0, 24), to(POD_B)),
                sends("later", POD_A, &large.clone().part(9, 24, 72), to(POD_B)),
                sends(
                    "overlapping the header",
                    POD_A,
                    &large.clone().part(9, 8, 72),
                    Err(DropReason::InvalidPacket),
                ),
            ],
        ),
        net.case(
            "from the network",
            Net::scene(),
            vec![
                arrives(
                    "to a pod",
                    &Build::tcp(net.world, net.a, (999, 80), SYN),
                    to(POD_A),
                ),
                arrives(
                    "to the node",
                    &Build::tcp(net.world, net.node, (999, 22), SYN),
                    Ok(Verdict::Ignore),
                ),
                arrives(
                    "to somebody else",
                    &Build::tcp(net.world, net.remote, (999, 22), SYN),
                    Ok(Verdict::Ignore),
                ),
                arrives(
                    "from a pod's address",
                    &Build::udp(net.b, net.a, (999, 22), 1),
                    Err(DropReason::InvalidSourceIp),
                ),
                arrives(
                    "from the node's address",
                    &Build::udp(net.node, net.a, (999, 22), 1),
                    Err(DropReason::InvalidSourceIp),
                ),
                arrives(
                    "out of hops",
                    &Build::udp(net.world, net.a, (999, 22), 8).hops(1),
                    Ok(Verdict::Reflect {
                        dropped: Some(DropReason::TtlExceeded),
                    }),
                ),
                sends(
                    "a flow of two pods",
                    POD_B,
                    &Build::udp(net.b, net.a, (1, 2), 1),
                    to(POD_A),
                ),
                arrives(
                    "claims to belong to it",
                    &Build::udp(net.b, net.a, (1, 2), 1),
                    Err(DropReason::InvalidSourceIp),
                ),
            ],
        ),
    ]
}

fn neighbours(net: &Net) -> Case {
    let answered = Ok(Verdict::Reflect { dropped: None });
    let arp = |sender, target| arp_request(sender, target);
    let from = (Hook::FromEndpoint, POD_A);
    if net.version == 4 {
        let (own, gateway) = ([10, 0, 0, 11], [169, 254, 1, 1]);
        return net.case(
            "ARP",
            Net::scene(),
            vec![
                step("for the gateway", from, arp(own, gateway), answered),
                step(
                    "for somebody else",
                    from,
                    arp(own, [10, 0, 0, 12]),
                    Err(DropReason::UnknownL3Target),
                ),
                step(
                    "about itself",
                    from,
                    arp(own, own),
                    Err(DropReason::UnknownL3Target),
                ),
                step(
                    "as somebody else",
                    from,
                    arp([10, 0, 0, 12], gateway),
                    Err(DropReason::InvalidSourceIp),
                ),
                step(
                    "cut",
                    from,
                    arp(own, gateway)[..40].to_vec(),
                    Err(DropReason::InvalidPacket),
                ),
            ],
        );
    }
    let forbidden = Err(DropReason::ForbiddenIcmpv6Message);
    net.case(
        "neighbour discovery",
        Net::scene(),
        vec![
            step(
                "for the gateway",
                from,
                neighbour_solicitation(net.a, "fe80::1"),
                answered,
            ),
            step(
                "for somebody else",
                from,
                neighbour_solicitation(net.a, net.b),
                forbidden,
            ),
            step(
                "duplicate address detection",
                from,
                neighbour_solicitation("::", "fe80::1"),
                forbidden,
            ),
            step(
                "router solicitation",
                from,
                Build::icmp(net.a, "ff02::2", (133, 0, 0), &[])
                    .hops(255)
                    .frame(),
                forbidden,
            ),
        ],
    )
}
