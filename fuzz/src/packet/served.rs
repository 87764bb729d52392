//! What must hold of packets that services have a hand in, from their addresses
//! alone; nothing here is shared with the datapath.

use std::net::IpAddr;

use axon_abi::{DropReason, FrontendKind, Hook, ServiceFlags};
use axon_datapath::Verdict;
use axon_testkit::cases::{Net, V4, V6};
use axon_testkit::{Listens, MemPacket, Outcome, World};

use super::ends::{is_any, is_own, is_pod};
use super::judge::{addresses, tagged};
use super::message::{Message, Packet};

/// The port of the node that is a service's.
const NODE_PORT: u16 = 30080;
/// Another host that has a backend besides the endpoint elsewhere.
const BACKENDS_OUTSIDE: [&str; 2] = [V4.remote, V6.remote];

/// Adds services: of endpoints here and elsewhere, of the node, and of nobody.
pub(super) fn add(world: &mut World) {
    for (net, first) in [(V4, 1), (V6, 21)] {
        add_of(world, &net, first);
    }
}

fn add_of(world: &mut World, net: &Net, first: u32) {
    let inside = |port, protocol| Listens {
        addr: net.cluster_ip,
        port,
        protocol,
        kind: FrontendKind::ClusterIp,
        flags: ServiceFlags::CLOSED_OUTSIDE,
    };
    let outside = |port, protocol| Listens {
        addr: net.vip,
        port,
        protocol,
        kind: FrontendKind::LoadBalancer,
        flags: 0,
    };
    let node_port = Listens {
        addr: net.node,
        port: NODE_PORT,
        protocol: 6,
        kind: FrontendKind::NodePort,
        flags: 0,
    };
    world.service(first, &inside(80, 6), &[(net.b, 8080, true)]);
    world.service(
        first + 1,
        &inside(80, 17),
        &[(net.a, 53, true), (net.remote, 53, false)],
    );
    world.service(first + 2, &inside(8080, 6), &[(net.a, 80, true)]);
    world.service(first + 3, &node_port, &[(net.a, 80, true)]);
    world.service(first + 4, &outside(80, 6), &[(net.remote, 80, false)]);
    world.service(first + 5, &outside(80, 17), &[(net.remote, 53, false)]);
    world.service(first + 6, &outside(6443, 6), &[(net.node, 6443, true)]);
    world.service(first + 7, &outside(81, 6), &[]);
    world.service_address(net.cluster_ip);
    world.service_address(net.vip);
}

/// Whether nobody but services has an address.
pub(super) fn is_services(addr: IpAddr) -> bool {
    is_any(addr, &[V4.cluster_ip, V6.cluster_ip, V4.vip, V6.vip])
}

/// Whether a packet that is the node's by its address is a service's, or what
/// became of it can only come of one.
pub(super) fn is_for_service(packet: &MemPacket, outcome: &Outcome) -> bool {
    let read = Packet::read(&packet.bytes, packet.gso_size != 0);
    let message = read.as_ref().and_then(Packet::message);
    let is_asked = match message {
        Some(Message::Session { destination, .. }) => {
            destination == NODE_PORT && read.is_some_and(|read| read.protocol == 6)
        }
        // Of which datagram is told by the first part.
        Some(Message::Part) => true,
        _ => false,
    };
    let only = [
        DropReason::FibLookupFailed,
        DropReason::ServiceBackendNotFound,
        DropReason::NoNatMapping,
    ];
    is_asked || matches!(outcome.decided, Some(Err(reason)) if only.contains(&reason))
}

/// Nothing goes on to an address that is only services'; whoever gets other
/// addresses gets those of a frontend and a backend.
pub(super) fn judge(hook: Hook, packet: &MemPacket, outcome: &Outcome) {
    if tagged(hook, packet) || !matches!(hook, Hook::FromEndpoint | Hook::FromNetdev) {
        return;
    }
    let Some(Ok(verdict)) = outcome.decided else {
        return;
    };
    let (Some(before), Some(after)) = (addresses(&packet.bytes), addresses(&outcome.bytes)) else {
        return;
    };
    match verdict {
        Verdict::Reflect { dropped: None } if hook == Hook::FromNetdev => {
            assert!(is_services(before.1), "answers for {}", before.1);
            assert_eq!(after, (before.1, before.0), "a pong");
        }
        Verdict::Reflect { .. } => {}
        Verdict::Ignore | Verdict::Pass => {
            assert!(!is_services(after.1), "{} is nobody's", after.1);
        }
        Verdict::RedirectPeer { .. } | Verdict::RedirectNeigh { .. } => {
            assert!(!is_services(after.1), "{} is nobody's", after.1);
            translated(hook, before, after, verdict);
        }
    }
}

fn translated(hook: Hook, before: (IpAddr, IpAddr), after: (IpAddr, IpAddr), verdict: Verdict) {
    let is_frontend = |addr| is_services(addr) || is_any(addr, &[V4.node, V6.node]);
    let is_hairpin = |addr| is_any(addr, &[V4.hairpin, V6.hairpin]);
    let is_out = matches!(verdict, Verdict::RedirectNeigh { .. });
    if after.1 != before.1 {
        // Of the node's own also what answers translated flows.
        let may = is_frontend(before.1) || is_hairpin(before.1);
        assert!(may, "{} becomes {}", before.1, after.1);
    }
    if hook == Hook::FromNetdev && is_out {
        let there = is_any(after.1, &BACKENDS_OUTSIDE) && is_own(after.0);
        let back = is_any(before.0, &BACKENDS_OUTSIDE) && is_frontend(after.0);
        // Errors come from anybody on the way.
        let is_error = after.0 == before.0;
        assert!(there || back || is_error, "{before:?} becomes {after:?}");
        assert!(!is_pod(after.1) && !is_own(after.1), "out to {}", after.1);
        return;
    }
    if after.0 != before.0 {
        let may = is_frontend(after.0) || is_hairpin(after.0);
        assert!(may, "{} becomes {}", before.0, after.0);
    }
}
