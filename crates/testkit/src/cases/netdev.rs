//! Masquerading, and the way back.

use axon_datapath::Verdict;

use super::scene::{Net, POD_A, arrives, leaves, to};
use crate::Build;
use crate::run::{Case, Step};

const SYN: u8 = 2;
const ACK: u8 = 16;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![
        sessions(net),
        messages(net),
        fragments(net),
        exceptions(net),
    ]
}

fn becomes(mut step: Step, after: &Build) -> Step {
    step.bytes = Some(after.frame());
    step
}

/// As delivered: a hop less, and the endpoint's MAC addresses.
fn delivered(mut step: Step, after: Build) -> Step {
    let hops = after.hops - 1;
    let mut frame = after.hops(hops).frame();
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0xff, 1]);
    step.bytes = Some(frame);
    step
}

fn sessions(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    let (out, back) = ((40000, 443), (443, 40000));
    net.case(
        "masquerading",
        Net::scene(),
        vec![
            becomes(
                leaves("SYN", &tcp(net.a, net.world, out, SYN), Ok(Verdict::Pass)),
                &tcp(net.node, net.world, out, SYN),
            ),
            delivered(
                arrives(
                    "SYN ACK",
                    &tcp(net.world, net.node, back, SYN | ACK),
                    to(POD_A),
                ),
                tcp(net.world, net.a, back, SYN | ACK),
            ),
            becomes(
                leaves("ACK", &tcp(net.a, net.world, out, ACK), Ok(Verdict::Pass)),
                &tcp(net.node, net.world, out, ACK),
            ),
            becomes(
                leaves(
                    "UDP",
                    &udp(net.a, net.world, (50000, 53)),
                    Ok(Verdict::Pass),
                ),
                &udp(net.node, net.world, (50000, 53)),
            ),
            leaves(
                "another pod, same port",
                &udp(net.b, net.world, (50000, 53)),
                Ok(Verdict::Pass),
            ),
            leaves(
                "the node itself, another port",
                &udp(net.node, net.world, (50001, 53)),
                Ok(Verdict::Ignore),
            ),
            leaves(
                "the node itself, that port",
                &udp(net.node, net.world, (50000, 53)),
                Ok(Verdict::Pass),
            ),
            delivered(
                arrives(
                    "UDP reply",
                    &udp(net.world, net.node, (53, 50000)),
                    to(POD_A),
                ),
                udp(net.world, net.a, (53, 50000)),
            ),
            arrives(
                "the node's reply",
                &udp(net.world, net.node, (53, 50001)),
                Ok(Verdict::Ignore),
            ),
            leaves(
                "the node's low port",
                &udp(net.node, net.world, (123, 123)),
                Ok(Verdict::Ignore),
            ),
        ],
    )
}

fn messages(net: &Net) -> Case {
    let udp = |source| Build::udp(source, net.world, (50000, 53), 9);
    net.case(
        "masquerading ICMP",
        Net::scene(),
        vec![
            becomes(
                leaves(
                    "ping",
                    &Build::ping(net.a, net.world, 40001),
                    Ok(Verdict::Pass),
                ),
                &Build::ping(net.node, net.world, 40001),
            ),
            delivered(
                arrives("pong", &Build::pong(net.world, net.node, 40001), to(POD_A)),
                Build::pong(net.world, net.a, 40001),
            ),
            leaves("UDP", &udp(net.a), Ok(Verdict::Pass)),
            arrives(
                "an error about it, from a router",
                &Build::unreachable(net.router, net.node, &udp(net.node).frame()),
                to(POD_A),
            ),
            arrives(
                "an error about nothing",
                &Build::unreachable(
                    net.router,
                    net.node,
                    &Build::udp(net.node, net.world, (1, 2), 3).frame(),
                ),
                Ok(Verdict::Ignore),
            ),
            arrives(
                "a ping to the node",
                &Build::ping(net.world, net.node, 40001),
                Ok(Verdict::Ignore),
            ),
        ],
    )
}

fn fragments(net: &Net) -> Case {
    let out = |source| Build::udp(source, net.world, (50000, 5001), 64);
    let back = |target| Build::udp(net.world, target, (5001, 50000), 64);
    let part = |packet: Build, from, to| packet.part(77, from, to);
    let mut steps = vec![
        becomes(
            leaves("first", &part(out(net.a), 0, 24), Ok(Verdict::Pass)),
            &part(out(net.node), 0, 24),
        ),
        becomes(
            leaves("later", &part(out(net.a), 24, 72), Ok(Verdict::Pass)),
            &part(out(net.node), 24, 72),
        ),
    ];
    steps.push(delivered(
        arrives("first back", &part(back(net.node), 0, 24), to(POD_A)),
        part(back(net.a), 0, 24),
    ));
    steps.push(delivered(
        arrives("later back", &part(back(net.node), 24, 72), to(POD_A)),
        part(back(net.a), 24, 72),
    ));
    net.case("masquerading fragments", Net::scene(), steps)
}

fn exceptions(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    net.case(
        "what keeps its address",
        Net::scene(),
        vec![
            leaves(
                "to another node's pod",
                &udp(net.a, net.remote, (1, 2)),
                Ok(Verdict::Ignore),
            ),
            leaves(
                "to another node",
                &udp(net.a, net.remote_node, (1, 2)),
                Ok(Verdict::Ignore),
            ),
            leaves(
                "somebody else's",
                &udp(net.remote, net.world, (1, 2)),
                Ok(Verdict::Ignore),
            ),
            arrives(
                "to the pod's own address",
                &udp(net.world, net.a, (1, 2)),
                to(POD_A),
            ),
            leaves(
                "its reply",
                &udp(net.a, net.world, (2, 1)),
                Ok(Verdict::Ignore),
            ),
        ],
    )
}
