//! Senders that no host beyond the link is: what the network brings from them
//! goes to no endpoint, whatever policy allows.

use axon_abi::DropReason;
use axon_datapath::Verdict;

use super::host;
use super::scene::{Net, POD_A, arrives, to};
use crate::Build;
use crate::run::Case;

const SYN: u8 = 2;
const FORGED: Result<Verdict, DropReason> = Err(DropReason::InvalidSourceIp);

/// Unspecified, loopback, multicast, broadcast, of the link; the first and last
/// of their ranges.
fn nobody(net: &Net) -> &'static [&'static str] {
    if net.version == 4 {
        &[
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.0",
            "127.0.0.1",
            "127.255.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
        ]
    } else {
        &[
            "::",
            "::1",
            "::198.51.100.7",
            "fe80::",
            "fe80::9",
            "febf:ffff::1",
            "ff02::1",
            "ffff::1",
        ]
    }
}

/// What stands beside those ranges, and the addresses that clouds route.
fn somebody(net: &Net) -> &'static [&'static str] {
    if net.version == 4 {
        &[
            "1.0.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.254.169.254",
            "223.255.255.255",
            "240.0.0.1",
            "255.255.255.254",
        ]
    } else {
        &[
            "1::1",
            "64:ff9b::c633:6407",
            "fe7f:ffff::1",
            "fec0::1",
            "feff::1",
        ]
    }
}

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![
        to_endpoint(net),
        errors(net),
        to_node(net),
        to_held_node(net),
    ]
}

fn to_endpoint(net: &Net) -> Case {
    let mut steps = Vec::new();
    for from in nobody(net) {
        let udp = Build::udp(from, net.a, (4000, 53), 4);
        steps.extend([
            arrives(from, &udp, FORGED),
            arrives(from, &udp.clone().hops(1), FORGED),
            arrives(from, &Build::tcp(from, net.a, (4000, 80), SYN), FORGED),
            arrives(from, &Build::ping(from, net.a, 4000), FORGED),
        ]);
    }
    for from in somebody(net) {
        let udp = Build::udp(from, net.a, (4000, 53), 4);
        steps.push(arrives(from, &udp, to(POD_A)));
    }
    net.case("senders that nobody is", Net::scene(), steps)
}

/// Also of flows that are known, and of those that are not.
fn errors(net: &Net) -> Case {
    let flow = Build::udp(net.a, net.world, (4000, 53), 4);
    let other = Build::udp(net.a, net.world, (4001, 53), 4);
    let mut steps = vec![arrives(
        "a flow",
        &Build::udp(net.world, net.a, (53, 4000), 4),
        to(POD_A),
    )];
    for from in nobody(net) {
        for about in [&flow, &other] {
            let error = Build::unreachable(from, net.a, &about.frame());
            steps.push(arrives(from, &error, FORGED));
        }
    }
    let error = Build::unreachable(net.router, net.a, &flow.frame());
    steps.push(arrives("a router", &error, to(POD_A)));
    net.case("errors that nobody sends", Net::scene(), steps)
}

/// The node's stack judges for itself: without such senders it would have
/// neither addresses nor neighbours.
fn to_node(net: &Net) -> Case {
    let steps = nobody(net)
        .iter()
        .map(|from| {
            arrives(
                from,
                &Build::udp(from, net.node, (67, 68), 40),
                host::IGNORE,
            )
        })
        .collect();
    net.case("such senders to the node", Net::scene(), steps)
}

fn to_held_node(net: &Net) -> Case {
    let steps = nobody(net)
        .iter()
        .map(|from| {
            let ssh = Build::tcp(from, net.node, (4000, 22), SYN);
            arrives(from, &ssh, host::PASS)
        })
        .collect();
    let world = host::guarded(0);
    net.case("such senders to a node with policy", world, steps)
}
