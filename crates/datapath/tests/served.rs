//! Flows of services whose service changes, and whose entries are lost.

use axon_abi::{Backend, DropReason, FrontendKind, Hook, ServiceFlowKey, ServiceKey};
use axon_datapath::Verdict;
use axon_testkit::cases::{Net, POD_A, UPLINK, V4, V6};
use axon_testkit::{Backend as _, Build, Listens, MemPacket, Native, Outcome};

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;
const PORT: u16 = 30080;
const SERVICE: u32 = 1;
/// The ids of its backends.
const FIRST: u32 = 16;
const SECOND: u32 = 17;

fn node_port(net: &Net, protocol: u8) -> Listens<'static> {
    Listens {
        addr: net.node,
        port: PORT,
        protocol,
        kind: FrontendKind::NodePort,
        flags: 0,
    }
}

/// A node port with one backend, elsewhere or here.
fn scene(net: &Net, protocol: u8, local: bool) -> Native {
    let mut world = Net::scene();
    let backend = if local { net.a } else { net.remote };
    let at = node_port(net, protocol);
    world.service(SERVICE, &at, &[(backend, 8080, local)]);
    Native { world }
}

fn arrives(native: &mut Native, packet: &Build) -> Outcome {
    native.run(Hook::FromNetdev, &MemPacket::new(UPLINK, packet.frame()))
}

/// Where a packet goes.
fn goes_to(outcome: &Outcome, net: &Net) -> Option<&'static str> {
    let Some(Ok(Verdict::RedirectNeigh { .. } | Verdict::RedirectPeer { .. })) = outcome.decided
    else {
        return None;
    };
    let places = [net.remote, net.a, net.b, net.world, net.router];
    let at = if net.version == 4 { 30..34 } else { 38..54 };
    let found = &outcome.bytes[at];
    places.into_iter().find(|place| {
        let key = Net::key(place).0;
        key.ends_with(found)
    })
}

/// Changes the service as the agent does: a further generation, another list.
fn change(native: &mut Native, net: &Net, protocol: u8, backends: &[(&str, u16, bool)]) {
    let world = &mut native.world;
    world.services.lists.clear();
    world.service(SERVICE, &node_port(net, protocol), backends);
    for entry in world.services.services.values_mut() {
        entry.generation = 2;
    }
}

#[test]
fn what_has_no_backend_any_more_gets_another() {
    for net in [V4, V6] {
        let mut native = scene(&net, 17, false);
        let asks = Build::udp(net.world, net.node, (40000, PORT), 5);
        assert_eq!(
            goes_to(&arrives(&mut native, &asks), &net),
            Some(net.remote)
        );
        // Of other services, and another of its own: it goes on.
        change(
            &mut native,
            &net,
            17,
            &[(net.remote, 8080, false), (net.a, 8080, true)],
        );
        for _ in 0..8 {
            assert_eq!(
                goes_to(&arrives(&mut native, &asks), &net),
                Some(net.remote)
            );
        }
        // It has gone.
        native.world.services.backends.remove(&FIRST);
        let rows = &mut native.world.services;
        rows.lists
            .values_mut()
            .for_each(|block| block.backends = [SECOND; 16]);
        rows.services
            .values_mut()
            .for_each(|entry| entry.generation = 3);
        assert_eq!(goes_to(&arrives(&mut native, &asks), &net), Some(net.a));
        // What the one before still says reaches nobody.
        native.world.wait_s(1);
        let late = Build::udp(net.remote, net.node, (8080, 40000), 5);
        assert_eq!(goes_to(&arrives(&mut native, &late), &net), None);
    }
}

#[test]
fn who_comes_back_under_an_id_is_somebody_else() {
    for net in [V4, V6] {
        let mut native = scene(&net, 17, false);
        let asks = Build::udp(net.world, net.node, (40000, PORT), 5);
        assert_eq!(
            goes_to(&arrives(&mut native, &asks), &net),
            Some(net.remote)
        );
        let rows = &mut native.world.services;
        let row = rows.backends[&FIRST];
        let other = Backend {
            addr: Net::key(net.a),
            flags: row.flags | axon_abi::BackendFlags::LOCAL,
            generation: row.generation + 1,
            ..row
        };
        rows.backends.insert(FIRST, other);
        rows.services
            .values_mut()
            .for_each(|entry| entry.generation = 2);
        assert_eq!(goes_to(&arrives(&mut native, &asks), &net), Some(net.a));
    }
}

#[test]
fn a_range_that_changes_is_asked_about_known_flows() {
    for net in [V4, V6] {
        let mut native = scene(&net, 6, false);
        let tcp = |flags| Build::tcp(net.world, net.node, (40000, PORT), flags);
        assert_eq!(
            goes_to(&arrives(&mut native, &tcp(SYN)), &net),
            Some(net.remote)
        );
        native.world.service_range(SERVICE, net.router, 128);
        for entry in native.world.services.services.values_mut() {
            entry.generation = 2;
        }
        let refused = arrives(&mut native, &tcp(ACK));
        assert_eq!(refused.decided, Some(Err(DropReason::SourceRangeDenied)));
    }
}

/// Either entry of a flow, and the claim to its port, come back by the other.
#[test]
fn an_entry_that_is_lost_is_put_back() {
    for net in [V4, V6] {
        for reply in [0, 1] {
            let mut native = scene(&net, 6, false);
            let out = |flags| Build::tcp(net.world, net.node, (40000, PORT), flags);
            let back = |flags| Build::tcp(net.remote, net.node, (8080, 40000), flags);
            assert_eq!(
                goes_to(&arrives(&mut native, &out(SYN)), &net),
                Some(net.remote)
            );
            let whole = native.world.service_flows.borrow().clone();
            assert_eq!(whole.len(), 2);
            let lost = |key: &ServiceFlowKey| key.reply == reply;
            native
                .world
                .service_flows
                .borrow_mut()
                .retain(|key, _| !lost(key));
            if reply == 1 {
                native.world.nat.borrow_mut().clear();
            }
            native.world.wait_s(1);
            let other = if reply == 1 {
                out(ACK)
            } else {
                back(SYN | ACK)
            };
            assert!(goes_to(&arrives(&mut native, &other), &net).is_some());
            let keys: Vec<_> = native
                .world
                .service_flows
                .borrow()
                .keys()
                .copied()
                .collect();
            assert!(
                keys.iter().all(|key| whole.contains_key(key)) && keys.len() == 2,
                "{keys:?}"
            );
            assert_eq!(
                goes_to(&arrives(&mut native, &back(ACK)), &net),
                Some(net.world)
            );
            assert_eq!(
                goes_to(&arrives(&mut native, &out(ACK)), &net),
                Some(net.remote)
            );
        }
    }
}

/// The client is chosen for anew, and comes to the same ends.
#[test]
fn a_client_whose_entry_is_lost_goes_on_with_what_is_left() {
    for net in [V4, V6] {
        for local in [true, false] {
            let mut native = scene(&net, 17, local);
            let to = if local { net.a } else { net.remote };
            let asks = Build::udp(net.world, net.node, (40000, PORT), 5);
            assert_eq!(goes_to(&arrives(&mut native, &asks), &net), Some(to));
            let whole = native.world.service_flows.borrow().clone();
            let mut flows = native.world.service_flows.borrow_mut();
            flows.retain(|key, _| key.reply == 1);
            drop(flows);
            assert_eq!(goes_to(&arrives(&mut native, &asks), &net), Some(to));
            assert_eq!(*native.world.service_flows.borrow(), whole);
        }
    }
}

/// Who answers without an entry is not let through as somebody else.
#[test]
fn an_answer_whose_entry_is_lost_reaches_nobody_as_it_is() {
    for net in [V4, V6] {
        let mut native = scene(&net, 6, true);
        let syn = Build::tcp(net.world, net.node, (40000, PORT), SYN);
        assert_eq!(goes_to(&arrives(&mut native, &syn), &net), Some(net.a));
        native.world.service_flows.borrow_mut().clear();
        let answer = Build::tcp(net.a, net.world, (8080, 40000), SYN | ACK);
        let packet = MemPacket::new(POD_A, answer.frame());
        let outcome = native.run(Hook::FromEndpoint, &packet);
        assert_eq!(outcome.decided, Some(Err(DropReason::NoNatMapping)));
    }
}

/// A client that uses its port again is led anew.
#[test]
fn a_connection_that_is_opened_anew_is_chosen_for_anew() {
    for net in [V4, V6] {
        let mut native = scene(&net, 6, false);
        let out = |flags| Build::tcp(net.world, net.node, (40000, PORT), flags);
        assert_eq!(
            goes_to(&arrives(&mut native, &out(SYN)), &net),
            Some(net.remote)
        );
        change(&mut native, &net, 6, &[(net.a, 8080, true)]);
        // The backend's row is another's now; under its id is who it was before.
        let rows = &mut native.world.services;
        let here = rows.backends[&FIRST];
        let there = Backend {
            addr: Net::key(net.remote),
            flags: 0,
            ..here
        };
        rows.backends.insert(FIRST, there);
        rows.backends.insert(SECOND, here);
        rows.lists
            .values_mut()
            .for_each(|block| block.backends[0] = SECOND);
        assert_eq!(
            goes_to(&arrives(&mut native, &out(ACK)), &net),
            Some(net.remote)
        );
        assert_eq!(
            goes_to(&arrives(&mut native, &out(SYN)), &net),
            Some(net.remote),
            "again"
        );
        let end = Build::tcp(net.remote, net.node, (8080, 40000), FIN | ACK);
        assert_eq!(goes_to(&arrives(&mut native, &end), &net), Some(net.world));
        assert_eq!(
            goes_to(&arrives(&mut native, &out(ACK)), &net),
            Some(net.remote)
        );
        assert_eq!(goes_to(&arrives(&mut native, &out(SYN)), &net), Some(net.a));
    }
}

/// Where no port is left a client is refused, and told of by its reason.
#[test]
fn without_a_port_nobody_gets_through() {
    for net in [V4, V6] {
        let mut native = scene(&net, 17, false);
        native.world.config.nat_port_min = 40000;
        native.world.config.nat_port_max = 40001;
        let asks = |from: u16| Build::udp(net.world, net.node, (from, PORT), 5);
        assert_eq!(
            goes_to(&arrives(&mut native, &asks(1)), &net),
            Some(net.remote)
        );
        assert_eq!(
            goes_to(&arrives(&mut native, &asks(2)), &net),
            Some(net.remote)
        );
        let refused = arrives(&mut native, &asks(3));
        assert_eq!(refused.decided, Some(Err(DropReason::NoNatMapping)));
    }
}

/// The frontend's row decides whether there is a service; without it the node
/// has its port again.
#[test]
fn a_service_that_is_gone_leaves_the_port_to_the_node() {
    for net in [V4, V6] {
        let mut native = scene(&net, 6, false);
        let syn = Build::tcp(net.world, net.node, (40000, PORT), SYN);
        assert_eq!(goes_to(&arrives(&mut native, &syn), &net), Some(net.remote));
        native
            .world
            .services
            .services
            .retain(|key: &ServiceKey, _| key.port.get() != PORT);
        assert_eq!(
            arrives(&mut native, &syn).decided,
            Some(Ok(Verdict::Ignore))
        );
    }
}
