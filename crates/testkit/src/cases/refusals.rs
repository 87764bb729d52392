//! What an endpoint is told of what its policy does not let out
//! (`policy-deny-response: icmp`).

use axon_abi::{ConfigFlags, DropReason, PolicySetFlags};
use axon_datapath::Verdict;

use super::scene::{Net, POD_A, arrives, sends};
use crate::run::Case;
use crate::world::Rule;
use crate::{Build, World};

const SYN: u8 = 2;
const DENIED: Result<Verdict, DropReason> = Err(DropReason::PolicyDenied);

/// The first endpoint may send to one port, and is denied UDP; the second may be sent
/// nothing.
fn closed(told: bool) -> World {
    let mut world = Net::scene();
    if told {
        world.config.flags |= ConfigFlags::DENY_RESPONSE;
    }
    let deny = Rule {
        egress: true,
        protocol: 17,
        precedence: 1,
        deny: true,
        ..Rule::default()
    };
    world.rule(1, None, deny);
    let allow = Rule {
        egress: true,
        protocol: 6,
        port: 8080,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(1, None, allow);
    let flags = [
        (1, PolicySetFlags::DEFAULT_DENY_EGRESS),
        (2, PolicySetFlags::DEFAULT_DENY_INGRESS),
    ];
    for (set, flags) in flags {
        world.sets.entry(set).or_default().flags = flags;
    }
    world
}

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![told(net), untold(net)]
}

fn told(net: &Net) -> Case {
    let answered = |reason| {
        Ok(Verdict::Reflect {
            dropped: Some(reason),
        })
    };
    let denied = answered(DropReason::PolicyDenied);
    let udp = Build::udp(net.a, net.world, (4000, 53), 64);
    net.case(
        "an endpoint that is told of its policy",
        closed(true),
        vec![
            sends(
                "TCP",
                POD_A,
                &Build::tcp(net.a, net.world, (4000, 80), SYN),
                denied,
            ),
            sends(
                "to a neighbour",
                POD_A,
                &Build::tcp(net.a, net.b, (4000, 80), SYN),
                denied,
            ),
            sends("ping", POD_A, &Build::ping(net.a, net.world, 7), denied),
            sends("by a rule", POD_A, &udp, answered(DropReason::PolicyDeny)),
            sends(
                "an error of its own is never answered",
                POD_A,
                &Build::unreachable(
                    net.a,
                    net.world,
                    &Build::udp(net.world, net.a, (1, 2), 3).frame(),
                ),
                DENIED,
            ),
            sends(
                "what another's policy keeps away",
                POD_A,
                &Build::tcp(net.a, net.b, (4000, 8080), SYN),
                DENIED,
            ),
            arrives(
                "from outside",
                &Build::tcp(net.world, net.b, (4000, 80), SYN),
                DENIED,
            ),
        ],
    )
}

fn untold(net: &Net) -> Case {
    net.case(
        "an endpoint that is not told of its policy",
        closed(false),
        vec![
            sends(
                "TCP",
                POD_A,
                &Build::tcp(net.a, net.world, (4000, 80), SYN),
                DENIED,
            ),
            sends(
                "by a rule",
                POD_A,
                &Build::udp(net.a, net.world, (4000, 53), 64),
                Err(DropReason::PolicyDeny),
            ),
        ],
    )
}
