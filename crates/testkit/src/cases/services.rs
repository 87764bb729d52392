//! Services asked by endpoints, packet by packet.

use axon_abi::{DropReason, FrontendKind, PolicySetFlags, ServiceFlags};

use super::scene::{
    IDENTITY_A, IDENTITY_B, IDENTITY_REMOTE, Net, POD_A, POD_B, arrives, delivered, out, reaches,
    sends, sent_on, to,
};
use crate::run::{Case, Step};
use crate::{Build, Listens, Rule, World};

const SYN: u8 = 2;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![
        sessions(net),
        datagrams(net),
        fragments(net),
        errors(net),
        itself(net),
        elsewhere(net),
        the_node(net),
        egress(net),
        ingress(net),
        the_same_ends(net),
        nobody(net),
    ]
}

/// The scene with a service at the cluster's address, port 80.
pub(super) fn with(net: &Net, protocol: u8, backends: &[(&str, u16, bool)]) -> World {
    let mut world = Net::scene();
    let at = Listens {
        addr: net.cluster_ip,
        port: 80,
        protocol,
        kind: FrontendKind::ClusterIp,
        flags: ServiceFlags::CLOSED_OUTSIDE,
    };
    world.service(1, &at, backends);
    world.service_address(net.cluster_ip);
    world
}

fn sessions(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let (asked, led) = ((4000, 80), (4000, 8080));
    let (answered, said) = ((8080, 4000), (80, 4000));
    let steps = vec![
        delivered(
            sends(
                "SYN",
                POD_A,
                &tcp(net.a, net.cluster_ip, asked, SYN),
                to(POD_B),
            ),
            2,
            tcp(net.a, net.b, led, SYN),
        ),
        delivered(
            sends(
                "SYN ACK",
                POD_B,
                &tcp(net.b, net.a, answered, SYN | ACK),
                to(POD_A),
            ),
            1,
            tcp(net.cluster_ip, net.a, said, SYN | ACK),
        ),
        delivered(
            sends(
                "ACK",
                POD_A,
                &tcp(net.a, net.cluster_ip, asked, ACK),
                to(POD_B),
            ),
            2,
            tcp(net.a, net.b, led, ACK),
        ),
        delivered(
            sends(
                "beside it, without the service",
                POD_A,
                &tcp(net.a, net.b, (4001, 8080), SYN),
                to(POD_B),
            ),
            2,
            tcp(net.a, net.b, (4001, 8080), SYN),
        ),
        delivered(
            sends(
                "answered as itself",
                POD_B,
                &tcp(net.b, net.a, (8080, 4001), SYN | ACK),
                to(POD_A),
            ),
            1,
            tcp(net.b, net.a, (8080, 4001), SYN | ACK),
        ),
        sends(
            "to the last hop",
            POD_A,
            &tcp(net.a, net.cluster_ip, asked, ACK).hops(1),
            Ok(axon_datapath::Verdict::Reflect {
                dropped: Some(DropReason::TtlExceeded),
            }),
        ),
    ];
    net.case(
        "a service of an endpoint of the node",
        with(net, TCP, &[(net.b, 8080, true)]),
        steps,
    )
}

fn datagrams(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    let mut steps = vec![
        delivered(
            sends(
                "asked",
                POD_A,
                &udp(net.a, net.cluster_ip, (5000, 80)),
                to(POD_B),
            ),
            2,
            udp(net.a, net.b, (5000, 53)),
        ),
        delivered(
            sends("answered", POD_B, &udp(net.b, net.a, (53, 5000)), to(POD_A)),
            1,
            udp(net.cluster_ip, net.a, (80, 5000)),
        ),
    ];
    if net.version == 4 {
        let bare = |from, to, ports| udp(from, to, ports).unsummed();
        steps.push(delivered(
            sends(
                "asked without checksum",
                POD_A,
                &bare(net.a, net.cluster_ip, (5000, 80)),
                to(POD_B),
            ),
            2,
            bare(net.a, net.b, (5000, 53)),
        ));
        steps.push(delivered(
            sends(
                "answered without checksum",
                POD_B,
                &bare(net.b, net.a, (53, 5000)),
                to(POD_A),
            ),
            1,
            bare(net.cluster_ip, net.a, (80, 5000)),
        ));
    }
    net.case(
        "a service of datagrams",
        with(net, UDP, &[(net.b, 53, true)]),
        steps,
    )
}

fn fragments(net: &Net) -> Case {
    let asked = |to, port| Build::udp(net.a, to, (5000, port), 64);
    let answered = |from, port| Build::udp(from, net.a, (port, 5000), 64);
    let part = |packet: Build, from, to| packet.part(77, from, to);
    let steps = vec![
        delivered(
            sends(
                "first",
                POD_A,
                &part(asked(net.cluster_ip, 80), 0, 24),
                to(POD_B),
            ),
            2,
            part(asked(net.b, 53), 0, 24),
        ),
        delivered(
            sends(
                "later",
                POD_A,
                &part(asked(net.cluster_ip, 80), 24, 72),
                to(POD_B),
            ),
            2,
            part(asked(net.b, 53), 24, 72),
        ),
        delivered(
            sends(
                "first back",
                POD_B,
                &part(answered(net.b, 53), 0, 24),
                to(POD_A),
            ),
            1,
            part(answered(net.cluster_ip, 80), 0, 24),
        ),
        delivered(
            sends(
                "later back",
                POD_B,
                &part(answered(net.b, 53), 24, 72),
                to(POD_A),
            ),
            1,
            part(answered(net.cluster_ip, 80), 24, 72),
        ),
    ];
    net.case(
        "a service's fragments",
        with(net, UDP, &[(net.b, 53, true)]),
        steps,
    )
}

fn errors(net: &Net) -> Case {
    let udp = |from, to, ports| Build::udp(from, to, ports, 9);
    let about = |from, to, packet: &Build| Build::unreachable(from, to, &packet.frame());
    // As it came to the backend, and as its answer came to the client.
    let led = udp(net.a, net.b, (5000, 53)).hop();
    let said = udp(net.cluster_ip, net.a, (80, 5000)).hop();
    let steps = vec![
        sends(
            "asked",
            POD_A,
            &udp(net.a, net.cluster_ip, (5000, 80)),
            to(POD_B),
        ),
        delivered(
            sends(
                "the backend's error",
                POD_B,
                &about(net.b, net.a, &led),
                to(POD_A),
            ),
            1,
            about(
                net.cluster_ip,
                net.a,
                &unfixed(&udp(net.a, net.cluster_ip, (5000, 80)).hop(), &led),
            ),
        ),
        sends("answered", POD_B, &udp(net.b, net.a, (53, 5000)), to(POD_A)),
        delivered(
            sends(
                "the client's error",
                POD_A,
                &about(net.a, net.cluster_ip, &said),
                to(POD_B),
            ),
            2,
            about(
                net.a,
                net.b,
                &unfixed(&udp(net.b, net.a, (53, 5000)).hop(), &said),
            ),
        ),
        sends(
            "an error about nothing",
            POD_A,
            &about(net.a, net.cluster_ip, &udp(net.cluster_ip, net.a, (80, 1))),
            Err(DropReason::ServiceBackendNotFound),
        ),
    ];
    net.case(
        "errors about a service's flow",
        with(net, UDP, &[(net.b, 53, true)]),
        steps,
    )
}

/// A packet with the transport checksum of another: what is quoted keeps it.
fn unfixed(packet: &Build, like: &Build) -> Build {
    let at = like.frame().len() - like.body.len();
    let mut fixed = packet.clone();
    fixed.body[6..8].copy_from_slice(&like.frame()[at + 6..at + 8]);
    fixed.unsummed = true;
    fixed
}

fn itself(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let mut world = with(net, TCP, &[(net.a, 8080, true)]);
    let closed = PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;
    world.sets.entry(1).or_default().flags = closed;
    let steps = vec![
        delivered(
            sends(
                "SYN",
                POD_A,
                &tcp(net.a, net.cluster_ip, (4000, 80), SYN),
                to(POD_A),
            ),
            1,
            tcp(net.hairpin, net.a, (4000, 8080), SYN),
        ),
        delivered(
            sends(
                "SYN ACK",
                POD_A,
                &tcp(net.a, net.hairpin, (8080, 4000), SYN | ACK),
                to(POD_A),
            ),
            1,
            tcp(net.cluster_ip, net.a, (80, 4000), SYN | ACK),
        ),
        sends(
            "of no flow",
            POD_A,
            &tcp(net.a, net.hairpin, (8080, 4001), SYN),
            Err(DropReason::UnknownL3Target),
        ),
        sends(
            "another's",
            POD_B,
            &tcp(net.b, net.hairpin, (8080, 4000), ACK),
            Err(DropReason::UnknownL3Target),
        ),
        arrives(
            "from outside",
            &tcp(net.hairpin, net.a, (4000, 8080), ACK),
            Err(DropReason::InvalidSourceIp),
        ),
    ];
    net.case(
        "an endpoint reaches itself through its service",
        world,
        steps,
    )
}

fn elsewhere(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let steps = vec![
        sent_on(
            sends(
                "SYN",
                POD_A,
                &tcp(net.a, net.cluster_ip, (4000, 80), SYN),
                out(),
            ),
            tcp(net.a, net.remote, (4000, 8080), SYN),
        ),
        delivered(
            arrives(
                "SYN ACK",
                &tcp(net.remote, net.a, (8080, 4000), SYN | ACK),
                to(POD_A),
            ),
            1,
            tcp(net.cluster_ip, net.a, (80, 4000), SYN | ACK),
        ),
    ];
    let world = with(net, TCP, &[(net.remote, 8080, false)]);
    Case {
        routes: true,
        ..net.case("a service of an endpoint elsewhere", world, steps)
    }
}

fn the_node(net: &Net) -> Case {
    let tcp = |from, to, ports, flags| Build::tcp(from, to, ports, flags);
    let becomes = |mut step: Step, after: Build| {
        step.bytes = Some(after.frame());
        step
    };
    let pass = Ok(axon_datapath::Verdict::Pass);
    let steps = vec![
        becomes(
            sends(
                "SYN",
                POD_B,
                &tcp(net.b, net.cluster_ip, (4000, 80), SYN),
                pass,
            ),
            tcp(net.b, net.node, (4000, 6443), SYN),
        ),
        becomes(
            reaches(
                "SYN ACK",
                0,
                &tcp(net.node, net.b, (6443, 4000), SYN | ACK),
                pass,
            ),
            tcp(net.cluster_ip, net.b, (80, 4000), SYN | ACK),
        ),
    ];
    net.case(
        "a service of the node itself",
        with(net, TCP, &[(net.node, 6443, true)]),
        steps,
    )
}

/// Policy is asked about the backend, not about the service's address.
fn egress(net: &Net) -> Case {
    let mut world = with(net, TCP, &[(net.b, 8080, true)]);
    world.sets.entry(1).or_default().flags = PolicySetFlags::DEFAULT_DENY_EGRESS;
    let rule = |port| Rule {
        egress: true,
        protocol: TCP,
        port,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(1, Some(IDENTITY_B), rule(8080));
    let far = Listens {
        addr: net.vip,
        port: 80,
        protocol: TCP,
        kind: FrontendKind::LoadBalancer,
        flags: 0,
    };
    world.service(2, &far, &[(net.remote, 8080, false)]);
    let tcp = |to| Build::tcp(net.a, to, (4000, 80), SYN);
    let steps = vec![
        sends(
            "to whom it may speak",
            POD_A,
            &tcp(net.cluster_ip),
            to(POD_B),
        ),
        sends(
            "to whom it may not",
            POD_A,
            &tcp(net.vip),
            Err(DropReason::PolicyDenied),
        ),
        sends("again", POD_A, &tcp(net.vip), Err(DropReason::PolicyDenied)),
    ];
    let _ = IDENTITY_REMOTE;
    net.case("egress to a service", world, steps)
}

fn ingress(net: &Net) -> Case {
    let mut world = with(net, TCP, &[(net.b, 8080, true)]);
    world.sets.entry(2).or_default().flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
    let rule = Rule {
        protocol: TCP,
        port: 8080,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    world.rule(2, Some(IDENTITY_A), rule);
    let tcp = |port| Build::tcp(net.a, net.cluster_ip, (4000, port), SYN);
    let steps = vec![sends("who may", POD_A, &tcp(80), to(POD_B))];
    net.case("ingress from a service's client", world, steps)
}

/// One port of a client may speak to a backend by two ways at once.
fn the_same_ends(net: &Net) -> Case {
    let mut world = with(net, UDP, &[(net.b, 53, true)]);
    let other = Listens {
        addr: net.vip,
        port: 53,
        protocol: UDP,
        kind: FrontendKind::LoadBalancer,
        flags: 0,
    };
    world.service(1, &other, &[(net.b, 53, true)]);
    let udp = |from, to, ports| Build::udp(from, to, ports, 5);
    let steps = vec![
        sends(
            "by the service",
            POD_A,
            &udp(net.a, net.cluster_ip, (5000, 80)),
            to(POD_B),
        ),
        sends(
            "by another address of it",
            POD_A,
            &udp(net.a, net.vip, (5000, 53)),
            to(POD_B),
        ),
        delivered(
            sends("answered", POD_B, &udp(net.b, net.a, (53, 5000)), to(POD_A)),
            1,
            udp(net.cluster_ip, net.a, (80, 5000)),
        ),
        sends(
            "another, without it",
            POD_A,
            &udp(net.a, net.b, (5001, 53)),
            to(POD_B),
        ),
        sends(
            "and with it",
            POD_A,
            &udp(net.a, net.cluster_ip, (5001, 80)),
            to(POD_B),
        ),
        delivered(
            sends(
                "answered as itself",
                POD_B,
                &udp(net.b, net.a, (53, 5001)),
                to(POD_A),
            ),
            1,
            udp(net.b, net.a, (53, 5001)),
        ),
    ];
    net.case("the same ends by two ways", world, steps)
}

fn nobody(net: &Net) -> Case {
    let mut world = with(net, TCP, &[]);
    let dropping = Listens {
        addr: net.vip,
        port: 80,
        protocol: TCP,
        kind: FrontendKind::LoadBalancer,
        flags: ServiceFlags::DROP_INSIDE,
    };
    world.service(2, &dropping, &[]);
    world.service_address(net.vip);
    let refused = Ok(axon_datapath::Verdict::Reflect {
        dropped: Some(DropReason::ServiceBackendNotFound),
    });
    let steps = vec![
        sends(
            "refused",
            POD_A,
            &Build::tcp(net.a, net.cluster_ip, (4000, 80), SYN),
            refused,
        ),
        sends(
            "dropped",
            POD_A,
            &Build::tcp(net.a, net.vip, (4000, 80), SYN),
            Err(DropReason::ServiceBackendNotFound),
        ),
        sends(
            "no such port",
            POD_A,
            &Build::udp(net.a, net.vip, (4000, 81), 5),
            refused,
        ),
    ];
    net.case("nobody behind a service", world, steps)
}
