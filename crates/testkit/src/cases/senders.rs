//! Who somebody is taken for, by the device that brought his packets.

use axon_abi::{ConfigFlags, DropReason, Identity};
use axon_datapath::{Route, Verdict};

use super::safety::{STRANGER, hears, trusting};
use super::scene::{
    IDENTITY_A, IDENTITY_REMOTE, Net, POD_A, POD_B, POD_HERMIT, UPLINK, arrives, leaves, reaches,
    sends, to,
};
use crate::run::{Case, Step};
use crate::{Build, World};

const SYN: u8 = 2;
const ACK: u8 = 16;
const PASS: Result<Verdict, DropReason> = Ok(Verdict::Pass);
const DENIED: Result<Verdict, DropReason> = Err(DropReason::PolicyDenied);
const FORGED: Result<Verdict, DropReason> = Err(DropReason::InvalidSourceIp);

pub(super) fn cases(net: &Net) -> Vec<Case> {
    let mut cases = endpoints(net);
    cases.extend(claims(net));
    cases.extend(leaving(net));
    cases.push(nobody_to_answer(net));
    if net.version == 6 {
        cases.push(translator(net));
    }
    cases
}

/// An endpoint that reaches another by a port of the node has the node's
/// address, and is still itself.
fn endpoints(net: &Net) -> Vec<Case> {
    let tcp = |port, flags| Build::tcp(net.node, net.b, (port, 80), flags);
    let answer = Build::tcp(net.b, net.node, (80, 4000), SYN | ACK);
    let direct = Build::tcp(net.a, net.b, (4002, 80), SYN);
    vec![
        net.case(
            "an endpoint with the node's address, where it may come",
            hears(IDENTITY_A),
            vec![
                reaches("it", POD_A, &tcp(4000, SYN), PASS),
                sends("is answered", POD_B, &answer, PASS),
                reaches("and goes on", POD_A, &tcp(4000, ACK), PASS),
                reaches("another may not", POD_HERMIT, &tcp(4001, SYN), DENIED),
                reaches("nor by its flow", POD_HERMIT, &tcp(4000, ACK), DENIED),
                reaches("it again", POD_A, &tcp(4000, ACK), PASS),
                reaches("as itself", POD_A, &direct, PASS),
                reaches("the node may not", 0, &tcp(4003, SYN), DENIED),
            ],
        ),
        net.case(
            "an endpoint with the node's address, where only the node may come",
            trusting(),
            vec![
                reaches("it", POD_A, &tcp(4000, SYN), DENIED),
                reaches("the endpoint itself", POD_B, &tcp(4001, SYN), PASS),
                reaches("the node", 0, &tcp(4000, SYN), PASS),
            ],
        ),
    ]
}

/// A stranger with the address of somebody of the cluster.
fn claims(net: &Net) -> Vec<Case> {
    let udp = |from| Build::udp(from, net.b, (4000, 53), 4);
    let mut behind = hears(IDENTITY_REMOTE);
    for to in [net.remote, net.world] {
        let route = (Route::Via { ifindex: STRANGER }, Net::key(net.router));
        behind.routes.insert(Net::key(to), route);
    }
    let mut there = net.case(
        "a device leads to another node's endpoints",
        behind,
        vec![
            reaches("one of them", STRANGER, &udp(net.remote), PASS),
            reaches("the world", STRANGER, &udp(net.world), DENIED),
        ],
    );
    there.routes = true;
    let stranger = |name, from| reaches(name, STRANGER, &udp(from), DENIED);
    let other = Build::udp(net.b, net.remote, (5000, 53), 4);
    let told = Build::udp(net.remote, net.b, (53, 5000), 4);
    let mut asked = net.case(
        "an answer comes another way",
        hears(IDENTITY_REMOTE),
        vec![
            sends(
                "asks",
                POD_B,
                &other,
                Ok(Verdict::RedirectNeigh { ifindex: UPLINK }),
            ),
            reaches("is told", STRANGER, &told, PASS),
        ],
    );
    asked.routes = true;
    vec![
        net.case(
            "a stranger as another node's endpoint",
            hears(IDENTITY_REMOTE),
            vec![
                stranger("the stranger", net.remote),
                arrives("who it is", &udp(net.remote), to(POD_B)),
                reaches("in his flow", STRANGER, &udp(net.remote), FORGED),
            ],
        ),
        net.case(
            "a stranger as another node",
            hears(Identity::REMOTE_NODE),
            vec![stranger("the stranger", net.remote_node)],
        ),
        net.case(
            "a stranger was there first, where all may come",
            Net::scene(),
            vec![
                reaches("the stranger", STRANGER, &udp(net.remote), PASS),
                arrives("whose address it is", &udp(net.remote), to(POD_B)),
                reaches("the stranger again", STRANGER, &udp(net.remote), FORGED),
            ],
        ),
        there,
        asked,
    ]
}

fn by(ifindex: u32, mut step: Step) -> Step {
    step.packet.ingress_ifindex = ifindex;
    step
}

/// Other nodes take whoever has an endpoint's address for the endpoint.
fn leaving(net: &Net) -> Vec<Case> {
    let udp = |to| Build::udp(net.a, to, (40000, 53), 5);
    let case = |name, world: World, own: Result<Verdict, DropReason>| {
        net.case(
            name,
            world,
            vec![
                by(POD_A, leaves("the endpoint", &udp(net.world), own)),
                by(0, leaves("for it, the node", &udp(net.world), own)),
                by(STRANGER, leaves("a stranger", &udp(net.remote), FORGED)),
                by(POD_B, leaves("another", &udp(net.world), FORGED)),
                by(UPLINK, leaves("the network", &udp(net.world), FORGED)),
            ],
        )
    };
    let mut plain = Net::scene();
    plain.config.flags &= !(ConfigFlags::MASQUERADE_IPV4 | ConfigFlags::MASQUERADE_IPV6);
    vec![
        case("who leaves with an endpoint's address", Net::scene(), PASS),
        case(
            "who leaves with an endpoint's address, untranslated",
            plain,
            Ok(Verdict::Ignore),
        ),
    ]
}

/// No error is sent to many.
fn nobody_to_answer(net: &Net) -> Case {
    let dying = |from| Build::udp(from, net.a, (4000, 53), 4).hops(1);
    let told = Ok(Verdict::Reflect {
        dropped: Some(DropReason::TtlExceeded),
    });
    let mut case = net.case(
        "errors go to one sender",
        Net::scene(),
        vec![
            arrives("one", &dying(net.world), told),
            arrives("a group", &dying(net.multicast), FORGED),
        ],
    );
    if net.version == 4 {
        let silent = Err(DropReason::TtlExceeded);
        let reserved = arrives("whom endpoints never reach", &dying("240.0.0.1"), silent);
        case.steps.push(reserved);
    }
    case
}

/// IPv4 is reached through the well-known prefix (RFC 6052).
fn translator(net: &Net) -> Case {
    let udp = |to| Build::udp(net.a, to, (4000, 53), 4);
    let nowhere = Err(DropReason::UnknownL3Target);
    let mut case = net.case(
        "a translator to IPv4",
        Net::scene(),
        vec![
            sends("translated", POD_A, &udp("64:ff9b::c633:6407"), PASS),
            sends("loopback", POD_A, &udp("::1"), nowhere),
        ],
    );
    case.routes = true;
    case
}
