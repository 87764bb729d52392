//! The node under policy, and who it has to do with: its endpoints, what it only
//! passes on, whom it does not know.

use axon_abi::{
    Be16, ConfigFlags, DropReason, Hook, PolicyEntry, PolicyEntryFlags, PolicyKey, class,
};
use axon_datapath::Verdict;

use super::host::{ACK, BOTH, DENIED, IGNORE, PASS, SET, SYN, guarded, second};
use super::scene::{
    IDENTITY_A, IDENTITY_REMOTE, Net, POD_A, POD_B, UPLINK, arrives, leaves, reaches, sends, step,
    to,
};
use crate::Build;
use crate::run::{Case, Step};
use crate::world::Rule;

/// A device that is neither an uplink nor an endpoint's.
const BRIDGE: u32 = 77;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![
        endpoints(net),
        forwarded(net),
        translated(net),
        forged(net),
        unknown(net),
        audited(net),
        without_quota(net),
    ]
}

/// What another device has brought and leaves by the uplink.
fn passes_on(name: &'static str, packet: &Build, expected: Result<Verdict, DropReason>) -> Step {
    let mut step = step(name, (Hook::ToNetdev, UPLINK), packet.frame(), expected);
    step.packet.ingress_ifindex = BRIDGE;
    step
}

/// Between the node and its own endpoints both ends are asked.
fn endpoints(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    world.rule(
        SET,
        Some(IDENTITY_A),
        Rule {
            precedence: 1,
            ..Rule::default()
        },
    );
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    net.case(
        "a guarded host and its endpoints",
        world,
        vec![
            sends(
                "who may",
                POD_A,
                &tcp(net.a, net.node, (4000, 80), SYN),
                PASS,
            ),
            sends("again", POD_A, &tcp(net.a, net.node, (4000, 80), ACK), PASS),
            sends(
                "who may not",
                POD_B,
                &tcp(net.b, net.node, (4000, 80), SYN),
                DENIED,
            ),
            sends(
                "to another address",
                POD_B,
                &tcp(net.b, second(net), (4000, 80), SYN),
                DENIED,
            ),
            sends(
                "what all may",
                POD_B,
                &tcp(net.b, net.node, (4000, 22), SYN),
                PASS,
            ),
            reaches(
                "its reply",
                0,
                &tcp(net.node, net.b, (22, 4000), SYN | ACK),
                PASS,
            ),
            reaches(
                "not allowed",
                0,
                &tcp(net.node, net.b, (5000, 80), SYN),
                DENIED,
            ),
            reaches("allowed", 0, &tcp(net.node, net.b, (5000, 443), SYN), PASS),
            sends(
                "its reply",
                POD_B,
                &tcp(net.b, net.node, (443, 5000), SYN | ACK),
                PASS,
            ),
            reaches(
                "by an uplink",
                UPLINK,
                &tcp(net.world, net.b, (5000, 80), SYN),
                PASS,
            ),
            sends(
                "past it",
                POD_A,
                &tcp(net.a, net.b, (5000, 80), SYN),
                to(POD_B),
            ),
        ],
    )
}

/// What the node only passes on is not its own, also where the stack has given
/// it the node's address.
fn forwarded(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    net.case(
        "what a guarded host passes on",
        guarded(BOTH),
        vec![
            passes_on(
                "another's",
                &tcp("198.18.0.1", "198.18.0.2", (1, 2), SYN),
                IGNORE,
            ),
            passes_on(
                "masqueraded",
                &tcp(net.node, net.world, (4000, 80), SYN),
                PASS,
            ),
            arrives(
                "its answer",
                &tcp(net.world, net.node, (80, 4000), SYN | ACK),
                PASS,
            ),
            passes_on("its next", &tcp(net.node, net.world, (4000, 80), ACK), PASS),
            leaves(
                "the node itself",
                &tcp(net.node, net.world, (4001, 80), SYN),
                DENIED,
            ),
            arrives(
                "to a mapped port",
                &tcp(net.world, net.node, (4000, 8080), SYN),
                DENIED,
            ),
            arrives(
                "to one that is allowed",
                &tcp(net.world, net.node, (4000, 22), SYN),
                PASS,
            ),
            passes_on(
                "its answer",
                &tcp(net.node, net.world, (22, 4000), SYN | ACK),
                PASS,
            ),
        ],
    )
}

/// What pods send under the node's address is theirs; the node's own flow keeps
/// its verdict under another port.
fn translated(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    let mut world = guarded(BOTH);
    world.rule(
        SET,
        None,
        Rule {
            egress: true,
            protocol: 17,
            port: 53,
            prefix: 16,
            precedence: 1,
            ..Rule::default()
        },
    );
    net.case(
        "translation at a guarded host",
        world,
        vec![
            leaves("of a pod", &udp(net.a, net.world, (50000, 5000)), PASS),
            arrives(
                "its answer",
                &udp(net.world, net.node, (5000, 50000)),
                to(POD_A),
            ),
            leaves(
                "of the node, denied",
                &udp(net.node, net.world, (50000, 5000)),
                DENIED,
            ),
            leaves("of the node", &udp(net.node, net.world, (50001, 53)), PASS),
            arrives("its answer", &udp(net.world, net.node, (53, 50001)), PASS),
            arrives(
                "nobody's answer",
                &udp(net.world, net.node, (53, 50002)),
                DENIED,
            ),
        ],
    )
}

fn forged(net: &Net) -> Case {
    let tcp = |from, to| Build::tcp(from, to, (4000, 22), SYN);
    let forged = Err(DropReason::InvalidSourceIp);
    net.case(
        "forged packets to a guarded host",
        guarded(0),
        vec![
            arrives("with its own address", &tcp(second(net), net.node), forged),
            arrives("with a pod's", &tcp(net.a, net.node), forged),
            arrives("with nobody's", &tcp(net.world, net.node), PASS),
        ],
    )
}

/// What keeps the node from being locked out counts for unknown senders too.
fn unknown(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    let entry = |port, flags| {
        let key = PolicyKey {
            set: SET,
            class: class::ANY,
            port: Be16::new(port),
            protocol: 6,
            direction_prefix: PolicyKey::INGRESS | 16,
        };
        let entry = PolicyEntry {
            precedence: 2,
            flags,
            ..PolicyEntry::default()
        };
        (key, entry)
    };
    let failsafe = PolicyEntryFlags::UNKNOWN_TOO;
    world
        .policy
        .extend([entry(10250, failsafe), entry(10251, 0)]);
    world.identities.remove(&IDENTITY_REMOTE);
    let tcp = |from, port| Build::tcp(from, net.node, (4000, port), SYN);
    net.case(
        "unknown senders to a guarded host",
        world,
        vec![
            arrives("an allow", &tcp(net.remote, 10251), DENIED),
            arrives("what is never denied", &tcp(net.remote, 10250), PASS),
            arrives("known, an allow", &tcp(net.world, 10251), PASS),
            arrives("known, never denied", &tcp(net.world, 10250), PASS),
        ],
    )
}

fn audited(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    world.config.flags |= ConfigFlags::AUDIT;
    net.case(
        "a host that is only audited",
        world,
        vec![
            arrives(
                "in",
                &Build::tcp(net.world, net.node, (4000, 80), SYN),
                PASS,
            ),
            leaves(
                "out",
                &Build::tcp(net.node, net.world, (4000, 80), SYN),
                PASS,
            ),
        ],
    )
}

fn without_quota(net: &Net) -> Case {
    let mut world = guarded(BOTH);
    world.config.ct_quota = 1;
    let call = |name, port| {
        arrives(
            name,
            &Build::tcp(net.world, net.node, (port, 22), SYN),
            PASS,
        )
    };
    net.case(
        "a host has no quota of connections",
        world,
        vec![call("first", 1), call("second", 2), call("third", 3)],
    )
}
