//! Sockets that name a service's address.

use axon_abi::{
    Backend, BackendFlags, BackendState, DropReason, FrontendKind, ListRef, ServiceFlags,
};
use axon_datapath::{Refusal, bind, connect, release, reverse, send};
use axon_testkit::MemSocket;

use crate::rows::{HOST_NETNS, Rows, SERVICE, TCP, UDP, ip, key};

const VIP: &str = "10.96.0.1";

/// Five backends of IPv4 behind a cluster address, TCP and UDP.
fn world() -> Rows {
    let (mut rows, list) = Rows::with_backends(5);
    for protocol in [TCP, UDP] {
        rows.frontend(key(VIP, 80, protocol), FrontendKind::ClusterIp, 0, list);
        rows.frontend(
            key("10.96.0.2", 80, protocol),
            FrontendKind::ClusterIp,
            0,
            list,
        );
        let none = ListRef::default();
        rows.frontend(
            key("10.96.0.9", 80, protocol),
            FrontendKind::ClusterIp,
            0,
            none,
        );
        rows.frontend(
            key("10.96.0.10", 80, protocol),
            FrontendKind::ClusterIp,
            ServiceFlags::DROP_INSIDE,
            none,
        );
    }
    rows.frontend(key(VIP, 0, 0), FrontendKind::Address, 0, ListRef::default());
    rows
}

/// The same with addresses of IPv6.
fn world6() -> Rows {
    let mut rows = world();
    for (id, backend) in &mut rows.backends {
        backend.addr = ip(&format!("fd00::{id}"));
    }
    let list = ListRef {
        list: crate::rows::LIST,
        slots: 5,
        maglev: 0,
    };
    rows.frontend(key("fd00:96::1", 80, TCP), FrontendKind::ClusterIp, 0, list);
    rows.frontend(key("fd00:96::1", 80, UDP), FrontendKind::ClusterIp, 0, list);
    rows
}

fn generation(rows: &mut Rows, generation: u32) {
    for entry in rows.services.values_mut() {
        entry.generation = generation;
    }
}

#[test]
fn a_connection_goes_to_a_backend_and_its_owner_is_told_the_services_address() {
    let v4 = MemSocket::new(TCP, VIP, 80);
    let mapped = MemSocket { is_v6: true, ..v4 };
    for (name, rows, named, backends) in [
        ("IPv4", world(), v4, "10.1.0."),
        ("IPv4 by a socket of IPv6", world(), mapped, "10.1.0."),
        (
            "IPv6",
            world6(),
            MemSocket::new(TCP, "fd00:96::1", 80),
            "[fd00::",
        ),
        (
            "datagrams",
            world(),
            MemSocket::new(UDP, VIP, 80),
            "10.1.0.",
        ),
    ] {
        let mut socket = named;
        assert_eq!(connect(&mut socket, &rows), Ok(()), "{name}");
        assert!(
            socket.names().starts_with(backends),
            "{name}: {}",
            socket.names()
        );
        assert!(
            socket.names().ends_with(":8080"),
            "{name}: {}",
            socket.names()
        );
        let mut other = MemSocket {
            cookie: 2,
            ..socket
        };
        reverse(&mut other, &rows);
        assert_eq!(
            other.names(),
            socket.names(),
            "{name}: another socket's peer"
        );
        let connected = socket;
        reverse(&mut socket, &rows);
        assert_eq!(socket.names(), named.names(), "{name}");
        release(&connected, &rows);
        assert!(rows.sockets.borrow().is_empty(), "{name}");
    }
}

#[test]
fn what_becomes_of_addresses_and_ports() {
    let rows = world();
    let dropped = Refusal::Dropped(DropReason::ServiceBackendNotFound);
    for (addr, port, protocol, expected) in [
        ("192.0.2.1", 80, TCP, Ok(())),
        (VIP, 81, TCP, Err(Refusal::Closed)),
        ("10.96.0.9", 80, UDP, Err(Refusal::Closed)),
        ("10.96.0.10", 80, TCP, Err(dropped)),
        ("10.96.0.9", 80, 132, Ok(())),
    ] {
        let named = MemSocket::new(protocol, addr, port);
        for (call, result) in [
            ("connect", connect(&mut { named }, &rows)),
            ("send", send(&mut { named }, &rows)),
        ] {
            assert_eq!(result, expected, "{call} {addr} {port} {protocol}");
        }
        let mut socket = named;
        let _ = connect(&mut socket, &rows);
        assert_eq!(socket, named, "{addr} {port} {protocol} stays what it is");
    }
    assert!(rows.sockets.borrow().is_empty());
    assert_eq!(Refusal::Closed.errno(), nix_errno("ECONNREFUSED"));
    assert_eq!(dropped.errno(), nix_errno("EHOSTUNREACH"));
    assert_eq!(Refusal::InUse.errno(), nix_errno("EADDRINUSE"));
}

/// The system's number of an error, by what it says.
fn nix_errno(name: &str) -> i32 {
    let kind = match name {
        "ECONNREFUSED" => std::io::ErrorKind::ConnectionRefused,
        "EHOSTUNREACH" => std::io::ErrorKind::HostUnreachable,
        _ => std::io::ErrorKind::AddrInUse,
    };
    let of = |number: &i32| std::io::Error::from_raw_os_error(*number).kind() == kind;
    (1..200).find(of).expect("a number")
}

#[test]
fn a_family_is_not_answered_by_the_other() {
    let mut rows = world();
    let list = ListRef {
        list: crate::rows::LIST,
        slots: 5,
        maglev: 0,
    };
    rows.frontend(key("fd00:96::1", 80, UDP), FrontendKind::ClusterIp, 0, list);
    let named = MemSocket::new(UDP, "fd00:96::1", 80);
    let mut socket = named;
    assert_eq!(send(&mut socket, &rows), Ok(()));
    assert_eq!(connect(&mut socket, &rows), Ok(()));
    assert_eq!(socket, named);
}

#[test]
fn datagrams_of_a_socket_stay_with_their_backend_while_it_is_there() {
    let mut rows = world();
    let named = MemSocket::new(UDP, VIP, 80);
    let sent = |rows: &Rows| {
        let mut socket = named;
        assert_eq!(send(&mut socket, rows), Ok(()));
        socket
    };
    let first = sent(&rows);
    for _ in 0..20 {
        assert_eq!(sent(&rows), first);
    }
    assert_eq!(
        rows.written.get(),
        2,
        "nothing is written that stands there"
    );
    generation(&mut rows, 1);
    assert_eq!(
        sent(&rows),
        first,
        "the service has changed, its backend has not"
    );
    let id = *rows
        .backends
        .iter()
        .find(|(_, b)| b.addr == first.addr)
        .expect("it")
        .0;
    let backend = rows.backends[&id];
    rows.backends.insert(
        id,
        Backend {
            state: BackendState::Terminating as u8,
            flags: 0,
            ..backend
        },
    );
    generation(&mut rows, 2);
    assert_eq!(sent(&rows), first, "what was begun is ended");
    for (name, now, n) in [
        ("it is gone", None, 3),
        (
            "its number is another service's",
            Some(Backend {
                service: SERVICE + 1,
                ..backend
            }),
            4,
        ),
        (
            "it has come back, and may be another",
            Some(Backend {
                generation: 1,
                ..backend
            }),
            6,
        ),
        (
            "others have taken its place",
            Some(Backend {
                flags: BackendFlags::IN_EXTERNAL,
                ..backend
            }),
            5,
        ),
    ] {
        rows.sockets.borrow_mut().clear();
        rows.backends.insert(id, backend);
        generation(&mut rows, 100 + n);
        while sent(&rows) != first {
            rows.sockets.borrow_mut().clear();
        }
        rows.backends.remove(&id);
        now.map(|now| rows.backends.insert(id, now));
        // What remains is a list without it, under another generation.
        for block in rows.lists.values_mut() {
            let other = if id == 1 { 2 } else { 1 };
            block
                .backends
                .iter_mut()
                .filter(|slot| **slot == id)
                .for_each(|slot| *slot = other);
        }
        generation(&mut rows, n);
        let then = sent(&rows);
        assert_ne!(then.addr, first.addr, "{name}");
        assert_eq!(sent(&rows), then, "{name}");
        let mut answer = then;
        reverse(&mut answer, &rows);
        assert_eq!(answer.names(), named.names(), "{name}");
        for block in rows.lists.values_mut() {
            for (slot, backend) in block.backends.iter_mut().take(5).enumerate() {
                *backend = slot as u32 + 1;
            }
        }
    }
}

#[test]
fn one_socket_may_speak_to_several_services() {
    let rows = world();
    let to = |addr: &str| {
        let mut socket = MemSocket::new(UDP, addr, 80);
        assert_eq!(send(&mut socket, &rows), Ok(()));
        socket
    };
    let (one, two) = (to(VIP), to("10.96.0.2"));
    for _ in 0..20 {
        assert_eq!((to(VIP), to("10.96.0.2")), (one, two));
    }
}

#[test]
fn affinity_is_asked_for_each_datagram() {
    let mut rows = world();
    let list = ListRef {
        list: crate::rows::LIST,
        slots: 5,
        maglev: 0,
    };
    rows.frontend(
        key(VIP, 80, UDP),
        FrontendKind::ClusterIp,
        ServiceFlags::AFFINITY,
        list,
    );
    let to = |rows: &Rows, cookie| {
        let mut socket = MemSocket {
            cookie,
            ..MemSocket::new(UDP, VIP, 80)
        };
        assert_eq!(send(&mut socket, rows), Ok(()));
        socket.addr
    };
    let first = to(&rows, 1);
    for cookie in 0..20 {
        assert_eq!(to(&rows, cookie), first, "its namespace is the client");
    }
    let moved = (0..50).any(|_| {
        rows.now_s += 11;
        to(&rows, 1) != first
    });
    assert!(moved, "affinity ends by its time");
    assert!(rows.sockets.borrow().keys().all(|key| key.choice == 0));
}

#[test]
fn a_closed_socket_of_datagrams_leaves_nothing_behind() {
    let rows = world();
    let mut socket = MemSocket::new(UDP, VIP, 80);
    assert_eq!(send(&mut socket, &rows), Ok(()));
    assert_eq!(rows.sockets.borrow().len(), 2);
    let closed = MemSocket::new(UDP, "0.0.0.0", 0);
    let other = MemSocket {
        cookie: 2,
        ..closed
    };
    release(&other, &rows);
    assert_eq!(rows.sockets.borrow().len(), 2);
    release(&closed, &rows);
    assert!(rows.sockets.borrow().is_empty());
}

#[test]
fn without_room_packets_are_balanced() {
    let rows = Rows {
        is_full: true,
        ..world()
    };
    for protocol in [TCP, UDP] {
        let named = MemSocket::new(protocol, VIP, 80);
        let mut socket = named;
        assert_eq!(connect(&mut socket, &rows), Ok(()));
        assert_eq!(send(&mut socket, &rows), Ok(()));
        assert_eq!(socket, named, "{protocol}");
    }
}

#[test]
fn pods_are_left_to_packets_where_only_the_node_is_meant() {
    let rows = Rows {
        host_only: true,
        ..world()
    };
    for (netns_cookie, is_led) in [(HOST_NETNS, true), (1, false), (0, false)] {
        let named = MemSocket {
            netns_cookie,
            ..MemSocket::new(UDP, VIP, 80)
        };
        let (mut connected, mut sent) = (named, named);
        assert_eq!(connect(&mut connected, &rows), Ok(()));
        assert_eq!(send(&mut sent, &rows), Ok(()));
        assert_eq!(
            (connected != named, sent != named),
            (is_led, is_led),
            "{netns_cookie}"
        );
    }
}

#[test]
fn a_node_port_is_reached_at_loopback_by_the_node_alone() {
    let (mut rows, list) = Rows::with_backends(1);
    rows.frontend(key("0.0.0.0", 30_080, TCP), FrontendKind::NodePort, 0, list);
    rows.nodes.push(ip("192.0.2.20"));
    for (addr, netns_cookie, is_led) in [
        ("127.0.0.1", HOST_NETNS, true),
        ("127.0.0.1", 1, false),
        ("192.0.2.20", 1, true),
        ("192.0.2.21", 1, false),
    ] {
        let named = MemSocket {
            netns_cookie,
            ..MemSocket::new(TCP, addr, 30_080)
        };
        let mut socket = named;
        assert_eq!(connect(&mut socket, &rows), Ok(()));
        assert_eq!(socket != named, is_led, "{addr} {netns_cookie}");
    }
}

#[test]
fn pods_are_left_to_packets_where_some_pass_by_a_redirection() {
    let (mut rows, list) = Rows::with_backends(1);
    for (flags, in_pod) in [
        (ServiceFlags::SKIP_AWAY, false),
        (ServiceFlags::SKIP_OWN, false),
        (0, true),
    ] {
        rows.frontend(key(VIP, 80, UDP), FrontendKind::LocalRedirect, flags, list);
        for (netns_cookie, expected) in [(3, in_pod), (HOST_NETNS, true)] {
            let named = MemSocket {
                netns_cookie,
                ..MemSocket::new(UDP, VIP, 80)
            };
            let mut socket = named;
            assert_eq!(connect(&mut socket, &rows), Ok(()));
            assert_eq!(socket != named, expected, "{flags:#x} {netns_cookie}");
        }
    }
}

#[test]
fn a_services_port_is_not_bound_to_on_the_node() {
    let (mut rows, list) = Rows::with_backends(1);
    for (addr, port, kind) in [
        ("0.0.0.0", 30_080, FrontendKind::NodePort),
        ("::", 30_081, FrontendKind::NodePort),
        ("192.0.2.1", 30_080, FrontendKind::NodePort),
        ("198.51.100.1", 443, FrontendKind::LoadBalancer),
        ("198.51.100.2", 443, FrontendKind::ExternalIp),
        ("10.96.0.1", 443, FrontendKind::ClusterIp),
        ("192.0.2.1", 8080, FrontendKind::HostPort),
    ] {
        rows.frontend(key(addr, port, TCP), kind, 0, list);
    }
    rows.nodes.push(ip("192.0.2.3"));
    for (addr, port, protocol, is_taken) in [
        ("0.0.0.0", 30_080, TCP, true),
        ("0.0.0.0", 30_080, UDP, false),
        ("0.0.0.0", 30_081, TCP, false),
        ("::", 30_080, TCP, true),
        ("::", 30_081, TCP, true),
        ("::", 30_082, TCP, false),
        ("::1", 30_081, TCP, true),
        ("::1", 30_080, TCP, false),
        ("127.0.0.1", 30_080, TCP, true),
        ("192.0.2.1", 30_080, TCP, true),
        ("192.0.2.3", 30_080, TCP, true),
        ("192.0.2.4", 30_080, TCP, false),
        ("198.51.100.1", 443, TCP, true),
        ("198.51.100.2", 443, TCP, true),
        ("10.96.0.1", 443, TCP, false),
        ("192.0.2.1", 8080, TCP, false),
    ] {
        let bound = MemSocket {
            netns_cookie: HOST_NETNS,
            ..MemSocket::new(protocol, addr, port)
        };
        let expected = if is_taken {
            Err(Refusal::InUse)
        } else {
            Ok(())
        };
        assert_eq!(bind(&bound, &rows), expected, "{addr} {port} {protocol}");
        let in_pod = MemSocket {
            netns_cookie: 1,
            ..bound
        };
        assert_eq!(bind(&in_pod, &rows), Ok(()), "{addr} {port} in a pod");
    }
}
