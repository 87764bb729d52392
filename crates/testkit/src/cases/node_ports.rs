//! Services asked by the network: node ports and load balancers' addresses, with
//! backends here, elsewhere, and the node itself.

use axon_abi::{DropReason, FrontendKind, Hook, PolicySetFlags};
use axon_datapath::Verdict;

use super::scene::{Net, POD_A, UPLINK, arrives, delivered, leaves, out, sends, sent_on, step, to};
use crate::run::{Case, Step};
use crate::{Build, Listens, MemPacket, Rule, World};

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The node port.
const PORT: u16 = 30080;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![
        here(net),
        there(net),
        datagrams_there(net),
        fragments_there(net),
        errors_there(net),
        ports_are_held(net),
        the_node(net),
        policy(net),
        what_is_no_service(net),
        forged(net),
        last_hops(net),
    ]
}

/// The scene with a node port and a load balancer's address of one service.
fn with(net: &Net, protocol: u8, backends: &[(&str, u16, bool)]) -> World {
    let mut world = Net::scene();
    let node_port = Listens {
        addr: net.node,
        port: PORT,
        protocol,
        kind: FrontendKind::NodePort,
        flags: 0,
    };
    world.service(1, &node_port, backends);
    let balancer = Listens {
        addr: net.vip,
        port: 80,
        kind: FrontendKind::LoadBalancer,
        ..node_port
    };
    world.service(1, &balancer, backends);
    world.service_address(net.vip);
    world
}

fn routed(case: Case) -> Case {
    Case {
        routes: true,
        ..case
    }
}

/// What leaves by the uplink after a service had it.
fn leaves_served(name: &'static str, packet: &Build) -> Step {
    let hook = (Hook::ToNetdev, UPLINK);
    let mut step = step(name, hook, packet.frame(), Ok(Verdict::Ignore));
    step.packet = MemPacket {
        served: true,
        ..step.packet
    };
    step
}

fn here(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let steps = vec![
        delivered(
            arrives(
                "SYN",
                &tcp(net.world, net.node, (4000, PORT), SYN),
                to(POD_A),
            ),
            1,
            tcp(net.world, net.a, (4000, 8080), SYN),
        ),
        sent_on(
            sends(
                "SYN ACK",
                POD_A,
                &tcp(net.a, net.world, (8080, 4000), SYN | ACK),
                out(),
            ),
            tcp(net.node, net.world, (PORT, 4000), SYN | ACK),
        ),
        leaves_served(
            "on its way out",
            &tcp(net.node, net.world, (PORT, 4000), SYN | ACK),
        ),
        delivered(
            arrives(
                "ACK",
                &tcp(net.world, net.node, (4000, PORT), ACK),
                to(POD_A),
            ),
            1,
            tcp(net.world, net.a, (4000, 8080), ACK),
        ),
        delivered(
            arrives(
                "by the balancer's address",
                &tcp(net.world, net.vip, (4001, 80), SYN),
                to(POD_A),
            ),
            1,
            tcp(net.world, net.a, (4001, 8080), SYN),
        ),
        sent_on(
            sends(
                "its answer",
                POD_A,
                &tcp(net.a, net.world, (8080, 4001), SYN | ACK),
                out(),
            ),
            tcp(net.vip, net.world, (80, 4001), SYN | ACK),
        ),
    ];
    routed(net.case(
        "a node port with an endpoint here",
        with(net, TCP, &[(net.a, 8080, true)]),
        steps,
    ))
}

fn there(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let led = (40000, 8080);
    let steps = vec![
        sent_on(
            arrives("SYN", &tcp(net.world, net.node, (40000, PORT), SYN), out()),
            tcp(net.node, net.remote, led, SYN),
        ),
        leaves_served("on its way out", &tcp(net.node, net.remote, led, SYN)),
        sent_on(
            arrives(
                "SYN ACK",
                &tcp(net.remote, net.node, (8080, 40000), SYN | ACK),
                out(),
            ),
            tcp(net.node, net.world, (PORT, 40000), SYN | ACK),
        ),
        sent_on(
            arrives("ACK", &tcp(net.world, net.node, (40000, PORT), ACK), out()),
            tcp(net.node, net.remote, led, ACK),
        ),
        sent_on(
            arrives(
                "FIN",
                &tcp(net.world, net.node, (40000, PORT), FIN | ACK),
                out(),
            ),
            tcp(net.node, net.remote, led, FIN | ACK),
        ),
        sent_on(
            arrives(
                "its FIN",
                &tcp(net.remote, net.node, (8080, 40000), FIN | ACK),
                out(),
            ),
            tcp(net.node, net.world, (PORT, 40000), FIN | ACK),
        ),
    ];
    routed(net.case(
        "a node port with an endpoint elsewhere",
        with(net, TCP, &[(net.remote, 8080, false)]),
        steps,
    ))
}

fn datagrams_there(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    let mut steps = vec![
        sent_on(
            arrives("asked", &udp(net.world, net.vip, (40000, 80)), out()),
            udp(net.node, net.remote, (40000, 53)),
        ),
        sent_on(
            arrives("answered", &udp(net.remote, net.node, (53, 40000)), out()),
            udp(net.vip, net.world, (80, 40000)),
        ),
    ];
    if net.version == 4 {
        let bare = |from, to, ports| udp(from, to, ports).unsummed();
        steps.push(sent_on(
            arrives(
                "asked without checksum",
                &bare(net.world, net.vip, (40000, 80)),
                out(),
            ),
            bare(net.node, net.remote, (40000, 53)),
        ));
        steps.push(sent_on(
            arrives(
                "answered without checksum",
                &bare(net.remote, net.node, (53, 40000)),
                out(),
            ),
            bare(net.vip, net.world, (80, 40000)),
        ));
    }
    routed(net.case(
        "a balancer's datagrams",
        with(net, UDP, &[(net.remote, 53, false)]),
        steps,
    ))
}

fn fragments_there(net: &Net) -> Case {
    let asked = |from, to, port| Build::udp(from, to, (40000, port), 64);
    let answered = |from, to, port| Build::udp(from, to, (port, 40000), 64);
    let part = |packet: Build, from, to| packet.part(78, from, to);
    let steps = vec![
        sent_on(
            arrives(
                "first",
                &part(asked(net.world, net.node, PORT), 0, 24),
                out(),
            ),
            part(asked(net.node, net.remote, 53), 0, 24),
        ),
        sent_on(
            arrives(
                "later",
                &part(asked(net.world, net.node, PORT), 24, 72),
                out(),
            ),
            part(asked(net.node, net.remote, 53), 24, 72),
        ),
        sent_on(
            arrives(
                "first back",
                &part(answered(net.remote, net.node, 53), 0, 24),
                out(),
            ),
            part(answered(net.node, net.world, PORT), 0, 24),
        ),
        sent_on(
            arrives(
                "later back",
                &part(answered(net.remote, net.node, 53), 24, 72),
                out(),
            ),
            part(answered(net.node, net.world, PORT), 24, 72),
        ),
    ];
    routed(net.case(
        "a node port's fragments",
        with(net, UDP, &[(net.remote, 53, false)]),
        steps,
    ))
}

/// Errors come from routers, which are no end of the flow, and go through.
fn errors_there(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 9);
    let about = |from, to, packet: &Build| Build::unreachable(from, to, &packet.frame());
    let unfixed = |packet: Build, like: &Build| {
        let mut packet = packet;
        let at = like.frame().len() - like.body.len();
        packet.body[6..8].copy_from_slice(&like.frame()[at + 6..at + 8]);
        packet.unsummed = true;
        packet
    };
    let led = udp(net.node, net.remote, (40000, 53)).hop();
    let said = udp(net.node, net.world, (PORT, 40000)).hop();
    let asked = udp(net.world, net.node, (40000, PORT));
    let answered = udp(net.remote, net.node, (53, 40000));
    let steps = vec![
        arrives("asked", &asked, out()),
        sent_on(
            arrives(
                "an error on the way there",
                &about(net.remote_node, net.node, &led),
                out(),
            ),
            about(
                net.remote_node,
                net.world,
                &unfixed(asked.clone().hop(), &led),
            ),
        ),
        sent_on(
            arrives(
                "the backend's own",
                &about(net.remote, net.node, &led),
                out(),
            ),
            about(net.node, net.world, &unfixed(asked.hop(), &led)),
        ),
        arrives("answered", &answered, out()),
        sent_on(
            arrives(
                "an error on the way back",
                &about(net.router, net.node, &said),
                out(),
            ),
            about(
                net.router,
                net.remote,
                &unfixed(answered.clone().hop(), &said),
            ),
        ),
        sent_on(
            arrives(
                "the client's own",
                &about(net.world, net.node, &said),
                out(),
            ),
            about(net.node, net.remote, &unfixed(answered.hop(), &said)),
        ),
    ];
    routed(net.case(
        "errors about a node port's flow",
        with(net, UDP, &[(net.remote, 53, false)]),
        steps,
    ))
}

/// A port of the node that one has towards a backend nobody else gets.
fn ports_are_held(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    let mut world = with(net, UDP, &[(net.world, 53, false)]);
    let other = "198.51.100.8";
    let client = if net.version == 4 {
        other
    } else {
        "2001:db8:ffff::8"
    };
    let via = world.routes[&Net::key(net.world)];
    world.routes.insert(Net::key(client), via);
    let steps = vec![
        sent_on(
            arrives("a client's", &udp(client, net.node, (40000, PORT)), out()),
            udp(net.node, net.world, (40000, 53)),
        ),
        leaves(
            "a pod's, which gets another",
            &udp(net.a, net.world, (40000, 53)),
            Ok(Verdict::Pass),
        ),
        leaves(
            "the node's own, too",
            &udp(net.node, net.world, (40000, 53)),
            Ok(Verdict::Pass),
        ),
        sent_on(
            arrives(
                "the client's answer",
                &udp(net.world, net.node, (53, 40000)),
                out(),
            ),
            udp(net.node, client, (PORT, 40000)),
        ),
        leaves(
            "a pod was first",
            &udp(net.b, net.world, (40001, 53)),
            Ok(Verdict::Pass),
        ),
        arrives(
            "the client gets another",
            &udp(client, net.node, (40001, PORT)),
            out(),
        ),
        delivered(
            arrives(
                "the pod's answer",
                &udp(net.world, net.node, (53, 40001)),
                to(super::scene::POD_B),
            ),
            2,
            udp(net.world, net.b, (53, 40001)),
        ),
    ];
    routed(net.case("ports that are lent to clients", world, steps))
}

fn becomes(mut step: Step, after: &Build) -> Step {
    step.bytes = Some(after.frame());
    step
}

fn the_node(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let pass = Ok(Verdict::Pass);
    let steps = vec![
        becomes(
            arrives("SYN", &tcp(net.world, net.vip, (4000, 80), SYN), pass),
            &tcp(net.world, net.node, (4000, 6443), SYN),
        ),
        becomes(
            leaves(
                "SYN ACK",
                &tcp(net.node, net.world, (6443, 4000), SYN | ACK),
                pass,
            ),
            &tcp(net.vip, net.world, (80, 4000), SYN | ACK),
        ),
        leaves(
            "the node's own",
            &tcp(net.node, net.world, (6443, 4001), SYN | ACK),
            Ok(Verdict::Ignore),
        ),
    ];
    net.case(
        "a service of the node, asked from outside",
        with(net, TCP, &[(net.node, 6443, true)]),
        steps,
    )
}

/// The backend's policy is asked about the client, at the backend's port.
fn policy(net: &Net) -> Case {
    let mut world = with(net, TCP, &[(net.a, 8080, true)]);
    world.sets.entry(1).or_default().flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
    let world_identity = if net.version == 4 {
        axon_abi::Identity::WORLD_IPV4
    } else {
        axon_abi::Identity::WORLD_IPV6
    };
    world.identities.insert(world_identity);
    let rule = Rule {
        protocol: TCP,
        port: 8080,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(1, Some(world_identity), rule);
    let tcp = |from, ports| Build::tcp(from, net.node, ports, SYN);
    let steps = vec![
        arrives("who may", &tcp(net.world, (4000, PORT)), to(POD_A)),
        arrives(
            "who may not",
            &tcp(net.remote, (4000, PORT)),
            Err(DropReason::PolicyDenied),
        ),
        arrives(
            "nor then",
            &tcp(net.remote, (4000, PORT)),
            Err(DropReason::PolicyDenied),
        ),
    ];
    net.case("policy of a node port's backend", world, steps)
}

/// What the node's own sockets are sent stays theirs, and what it forwards.
fn what_is_no_service(net: &Net) -> Case {
    let ignored = Ok(Verdict::Ignore);
    let steps = vec![
        arrives(
            "to a port of the node",
            &Build::tcp(net.world, net.node, (4000, 22), SYN),
            ignored,
        ),
        arrives(
            "the other protocol",
            &Build::udp(net.world, net.node, (4000, PORT), 5),
            ignored,
        ),
        arrives("a ping", &Build::ping(net.world, net.node, 7), ignored),
        arrives(
            "through the node",
            &Build::udp(net.world, net.remote, (1, 2), 5),
            ignored,
        ),
        arrives(
            "to a group",
            &Build::udp(net.world, net.multicast, (5353, 5353), 5),
            ignored,
        ),
        leaves(
            "the node's own",
            &Build::tcp(net.node, net.world, (22, 4000), SYN | ACK),
            ignored,
        ),
        leaves(
            "a pod's",
            &Build::tcp(net.a, net.world, (40000, 443), SYN),
            Ok(Verdict::Pass),
        ),
        delivered(
            arrives(
                "and its answer",
                &Build::tcp(net.world, net.node, (443, 40000), SYN | ACK),
                to(POD_A),
            ),
            1,
            Build::tcp(net.world, net.a, (443, 40000), SYN | ACK),
        ),
    ];
    net.case(
        "what is no service's",
        with(net, TCP, &[(net.a, 8080, true)]),
        steps,
    )
}

/// Nobody outside is this node or one of its endpoints.
fn forged(net: &Net) -> Case {
    let tcp = |from, to| Build::tcp(from, to, (4000, PORT), SYN);
    let forged = Err(DropReason::InvalidSourceIp);
    let loopback = if net.version == 4 { "127.0.0.1" } else { "::1" };
    let steps = vec![
        arrives("an endpoint's", &tcp(net.b, net.node), forged),
        arrives("the node's", &tcp(net.node, net.node), forged),
        arrives("the host's itself", &tcp(loopback, net.node), forged),
        arrives("the hairpin's", &tcp(net.hairpin, net.node), forged),
        arrives(
            "a ping of an endpoint",
            &Build::ping(net.b, net.vip, 7),
            forged,
        ),
    ];
    net.case(
        "forged clients of a node port",
        with(net, TCP, &[(net.remote, 8080, false)]),
        steps,
    )
}

fn last_hops(net: &Net) -> Case {
    let expired = Ok(Verdict::Reflect {
        dropped: Some(DropReason::TtlExceeded),
    });
    let tcp = |port| Build::tcp(net.world, net.node, (40000, port), SYN).hops(1);
    let mut world = with(net, TCP, &[(net.remote, 8080, false)]);
    let here = Listens {
        addr: net.node,
        port: PORT + 1,
        protocol: TCP,
        kind: FrontendKind::NodePort,
        flags: 0,
    };
    world.service(2, &here, &[(net.a, 8080, true)]);
    let steps = vec![
        arrives("elsewhere", &tcp(PORT), expired),
        arrives("here", &tcp(PORT + 1), expired),
    ];
    net.case("a node port at the last hop", world, steps)
}
