//! What policy lets through, and what becomes of flows when it changes.

use axon_abi::{DropReason, EndpointFlags, Hook, PolicySetFlags, PolicySetRow};
use axon_datapath::Verdict;

use super::scene::{IDENTITY_A, Net, POD_A, POD_B, sends, step, to};
use crate::run::Case;
use crate::world::Rule;
use crate::{Build, World};

const SYN: u8 = 2;
const ACK: u8 = 16;
const DENIED: Result<Verdict, DropReason> = Err(DropReason::PolicyDenied);

/// The second endpoint is closed but for TCP port 80 from the first.
fn closed() -> World {
    let mut world = Net::scene();
    close(&mut world, 2, PolicySetFlags::DEFAULT_DENY_INGRESS);
    let allow = Rule {
        protocol: 6,
        port: 80,
        prefix: 16,
        precedence: 10,
        ..Rule::default()
    };
    world.rule(2, Some(IDENTITY_A), allow);
    world
}

fn close(world: &mut World, set: u32, flags: u32) {
    world.sets.insert(
        set,
        PolicySetRow {
            flags,
            ..PolicySetRow::default()
        },
    );
}

pub(super) fn cases(net: &Net) -> Vec<Case> {
    let mut cases = vec![
        rules(net),
        proofs(net),
        directions(net),
        messages(net),
        pings_across(net),
        limits(net),
        states(net),
    ];
    cases.extend(hosts(net));
    cases
}

fn rules(net: &Net) -> Case {
    let mut world = closed();
    let deny = Rule {
        protocol: 6,
        port: 8080,
        prefix: 16,
        precedence: 20,
        deny: true,
        ..Rule::default()
    };
    let range = Rule {
        protocol: 6,
        port: 8080,
        prefix: 12,
        precedence: 5,
        ..Rule::default()
    };
    // As where a Pass hands on to a tier that denies by default.
    let default = Rule {
        port: 9090,
        default: true,
        ..deny
    };
    world.rule(2, None, deny);
    world.rule(2, None, range);
    world.rule(2, None, default);
    let tcp = |port| Build::tcp(net.a, net.b, (40000, port), SYN);
    net.case(
        "rules",
        world,
        vec![
            sends("allowed port", POD_A, &tcp(80), to(POD_B)),
            sends(
                "its reply",
                POD_B,
                &Build::tcp(net.b, net.a, (80, 40000), SYN | ACK),
                to(POD_A),
            ),
            sends("port of no rule", POD_A, &tcp(443), DENIED),
            sends("again", POD_A, &tcp(443), DENIED),
            sends("port of a range", POD_A, &tcp(8081), to(POD_B)),
            sends(
                "denied port in the range",
                POD_A,
                &tcp(8080),
                Err(DropReason::PolicyDeny),
            ),
            sends(
                "port in the place of the default",
                POD_A,
                &tcp(9090),
                DENIED,
            ),
            sends(
                "another protocol",
                POD_A,
                &Build::udp(net.a, net.b, (40000, 80), 1),
                DENIED,
            ),
            step(
                "another remote",
                (Hook::FromNetdev, super::UPLINK),
                Build::tcp(net.world, net.b, (40000, 80), SYN).frame(),
                DENIED,
            ),
        ],
    )
}

/// What is allowed to who has proved who he is, narrower and broader than what
/// is allowed and denied to anybody.
fn proofs(net: &Net) -> Case {
    let mut world = closed();
    let demand = Rule {
        protocol: 6,
        port: 8080,
        prefix: 12,
        precedence: 5,
        deny: true,
        auth: true,
        ..Rule::default()
    };
    let need_not = Rule {
        port: 8081,
        prefix: 16,
        precedence: 6,
        deny: false,
        auth: false,
        ..demand
    };
    let deny = Rule {
        deny: true,
        port: 8082,
        precedence: 20,
        ..need_not
    };
    world.rule(2, None, demand);
    world.rule(2, Some(IDENTITY_A), need_not);
    world.rule(2, None, deny);
    let tcp = |port| Build::tcp(net.a, net.b, (40000, port), SYN);
    let unproved = Err(DropReason::AuthRequired);
    net.case(
        "authentication",
        world,
        vec![
            sends("who must prove who he is", POD_A, &tcp(8080), unproved),
            sends("again", POD_A, &tcp(8080), unproved),
            sends("who need not", POD_A, &tcp(8081), to(POD_B)),
            sends(
                "a reply to him",
                POD_B,
                &Build::tcp(net.b, net.a, (8081, 40000), SYN | ACK),
                to(POD_A),
            ),
            sends(
                "who is denied whatever he proves",
                POD_A,
                &tcp(8082),
                Err(DropReason::PolicyDeny),
            ),
            sends("port of no rule", POD_A, &tcp(9090), DENIED),
            step(
                "from outside",
                (Hook::FromNetdev, super::UPLINK),
                Build::tcp(net.world, net.b, (40000, 8081), SYN).frame(),
                unproved,
            ),
        ],
    )
}

fn directions(net: &Net) -> Case {
    let mut world = Net::scene();
    close(&mut world, 1, PolicySetFlags::DEFAULT_DENY_EGRESS);
    let allow = Rule {
        egress: true,
        protocol: 17,
        port: 53,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(1, None, allow);
    let udp = |ports| Build::udp(net.a, net.b, ports, 4);
    net.case(
        "egress",
        world,
        vec![
            sends("allowed", POD_A, &udp((4000, 53)), to(POD_B)),
            sends("not allowed", POD_A, &udp((4000, 54)), DENIED),
            sends(
                "opened from outside",
                POD_B,
                &Build::udp(net.b, net.a, (54, 4000), 4),
                to(POD_A),
            ),
            sends("so this is a reply", POD_A, &udp((4000, 54)), to(POD_B)),
        ],
    )
}

/// A query that is no echo; IPv6 has none, there it is a private experiment.
fn kind_of_time(net: &Net) -> u8 {
    if net.version == 4 { 13 } else { 200 }
}

/// With the identifier 0 a flow looks alike from both sides.
fn pings_across(net: &Net) -> Case {
    net.case(
        "a query is no answer",
        closed(),
        vec![
            sends("out", POD_B, &Build::ping(net.b, net.a, 0), to(POD_A)),
            sends("back", POD_A, &Build::pong(net.a, net.b, 0), to(POD_B)),
            sends("in", POD_A, &Build::ping(net.a, net.b, 0), DENIED),
            sends("still out", POD_B, &Build::ping(net.b, net.a, 0), to(POD_A)),
            sends("still in", POD_A, &Build::ping(net.a, net.b, 0), DENIED),
            sends(
                "still back",
                POD_A,
                &Build::pong(net.a, net.b, 0),
                to(POD_B),
            ),
        ],
    )
}

fn messages(net: &Net) -> Case {
    let mut world = closed();
    let kind = if net.version == 4 { 8 } else { 128 };
    let protocol = if net.version == 4 { 1 } else { 58 };
    let ping = Rule {
        protocol,
        port: kind,
        prefix: 16,
        precedence: 3,
        ..Rule::default()
    };
    world.rule(2, Some(IDENTITY_A), ping);
    let udp = Build::udp(net.b, net.a, (53, 5000), 8);
    let error = |about: &Build| Build::unreachable(net.a, net.b, &about.frame());
    net.case(
        "ICMP by type",
        world,
        vec![
            sends(
                "an answer nobody asked for",
                POD_A,
                &Build::pong(net.a, net.b, 9),
                DENIED,
            ),
            sends(
                "echo is allowed",
                POD_A,
                &Build::ping(net.a, net.b, 9),
                to(POD_B),
            ),
            sends(
                "its answer",
                POD_B,
                &Build::pong(net.b, net.a, 9),
                to(POD_A),
            ),
            sends(
                "another query under the identifier of one that is allowed",
                POD_A,
                &Build::icmp(net.a, net.b, (kind_of_time(net), 0, 9 << 16), &[0; 12]),
                DENIED,
            ),
            sends("an error about nothing", POD_A, &error(&udp), DENIED),
            sends("a datagram", POD_B, &udp, to(POD_A)),
            sends("an error about it", POD_A, &error(&udp), to(POD_B)),
            sends(
                "an error about another's flow",
                POD_A,
                &error(&Build::udp(net.b, net.world, (53, 5000), 8)),
                DENIED,
            ),
        ],
    )
}

fn limits(net: &Net) -> Case {
    let mut world = Net::scene();
    world.config.ct_quota = 2;
    let udp = |port| Build::udp(net.a, net.b, (port, 53), 4);
    net.case(
        "quota",
        world,
        vec![
            sends("one", POD_A, &udp(1), to(POD_B)),
            sends("two", POD_A, &udp(2), to(POD_B)),
            sends(
                "three",
                POD_A,
                &udp(3),
                Err(DropReason::CtMapInsertionFailed),
            ),
            sends("the first goes on", POD_A, &udp(1), to(POD_B)),
            sends(
                "another endpoint's own",
                POD_B,
                &Build::udp(net.b, net.a, (9, 9), 4),
                to(POD_A),
            ),
        ],
    )
}

fn states(net: &Net) -> Case {
    let udp = Build::udp(net.a, net.b, (4000, 53), 4);
    let reply = Build::udp(net.b, net.a, (53, 4000), 4);
    let mut world = Net::scene();
    close(&mut world, 1, PolicySetFlags::DEFAULT_DENY_INGRESS);
    let mut late = sends("too late a reply", POD_B, &reply, DENIED);
    late.after_s = 31;
    let mut kept = sends("both ways live longer", POD_B, &reply, to(POD_A));
    kept.after_s = 59;
    net.case(
        "expiry",
        world,
        vec![
            sends("unasked", POD_B, &reply, DENIED),
            sends("question", POD_A, &udp, to(POD_B)),
            sends("reply", POD_B, &reply, to(POD_A)),
            kept,
            sends(
                "another question",
                POD_A,
                &Build::udp(net.a, net.b, (4001, 53), 4),
                to(POD_B),
            ),
            {
                let mut late = late;
                late.packet.bytes = Build::udp(net.b, net.a, (53, 4001), 4).frame();
                late
            },
        ],
    )
}

fn hosts(net: &Net) -> Vec<Case> {
    let packet = || Build::tcp(net.node, net.b, (4000, 443), SYN).frame();
    let at = (Hook::ToEndpoint, POD_B);
    let mut open = closed();
    open.config.flags |= axon_abi::ConfigFlags::ALLOW_LOCALHOST;
    let mut audit = closed();
    for row in audit
        .endpoints
        .values_mut()
        .chain(audit.addresses.values_mut())
    {
        row.flags |= EndpointFlags::AUDIT;
    }
    let mut node_audits = closed();
    node_audits.config.flags |= axon_abi::ConfigFlags::AUDIT;
    let deny = Rule {
        protocol: 6,
        port: 22,
        prefix: 16,
        precedence: 20,
        deny: true,
        ..Rule::default()
    };
    node_audits.rule(2, None, deny);
    let demand = Rule {
        port: 23,
        auth: true,
        ..deny
    };
    node_audits.rule(2, None, demand);
    vec![
        net.case(
            "host under policy",
            closed(),
            vec![step("denied", at, packet(), DENIED)],
        ),
        net.case(
            "host always",
            open,
            vec![step("allowed", at, packet(), Ok(Verdict::Pass))],
        ),
        net.case(
            "audit",
            audit,
            vec![sends(
                "reported only",
                POD_A,
                &Build::udp(net.a, net.b, (1, 2), 3),
                to(POD_B),
            )],
        ),
        net.case(
            "audit of the node",
            node_audits,
            vec![
                sends(
                    "what nothing allows",
                    POD_A,
                    &Build::udp(net.a, net.b, (1, 2), 3),
                    to(POD_B),
                ),
                sends(
                    "what a rule denies",
                    POD_A,
                    &Build::tcp(net.a, net.b, (40000, 22), SYN),
                    to(POD_B),
                ),
                sends(
                    "what nobody has proved",
                    POD_A,
                    &Build::tcp(net.a, net.b, (40000, 23), SYN),
                    to(POD_B),
                ),
            ],
        ),
    ]
}
