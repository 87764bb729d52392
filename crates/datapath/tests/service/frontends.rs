//! Which frontend somebody finds, and what he is told there.

use axon_abi::{DropReason, FrontendKind, ListRef, ServiceClient, ServiceFlags, SourceRangeKey};
use axon_datapath::{Ask, Asker, select};

use crate::rows::{Rows, SERVICE, TABLE, TCP, UDP, ask, ip, key, short};

#[test]
fn who_asks_finds_what_is_for_him() {
    let none = ListRef::default();
    let (mut rows, list) = Rows::with_backends(3);
    rows.nodes = vec![ip("198.51.100.1"), ip("198.51.100.2")];
    let closed_in = ServiceFlags::CLOSED_INSIDE;
    for (key, kind, flags, list) in [
        (
            key("10.96.0.1", 80, TCP),
            FrontendKind::ClusterIp,
            ServiceFlags::CLOSED_OUTSIDE,
            list,
        ),
        (key("10.96.0.1", 0, 0), FrontendKind::Address, 0, none),
        (key("fd96::1", 80, TCP), FrontendKind::LoadBalancer, 0, list),
        (
            key("10.96.0.2", 80, TCP),
            FrontendKind::LoadBalancer,
            0,
            none,
        ),
        (
            key("10.96.0.3", 80, TCP),
            FrontendKind::LoadBalancer,
            ServiceFlags::DROP_OUTSIDE,
            none,
        ),
        (
            key("10.96.0.4", 80, TCP),
            FrontendKind::ClusterIp,
            ServiceFlags::DROP_INSIDE,
            none,
        ),
        (
            key("203.0.113.9", 80, TCP),
            FrontendKind::ExternalIp,
            closed_in,
            list,
        ),
        (
            key("203.0.113.9", 0, 0),
            FrontendKind::Address,
            closed_in,
            none,
        ),
        (key("0.0.0.0", 30_080, TCP), FrontendKind::NodePort, 0, list),
        (
            key("198.51.100.1", 30_080, TCP),
            FrontendKind::NodePort,
            0,
            list,
        ),
        (key("::", 30_080, TCP), FrontendKind::NodePort, 0, list),
    ] {
        rows.frontend(key, kind, flags, list);
    }
    use Asker::{Network, Node, Pod};
    let clusterip = Err(DropReason::IsAClusterip);
    let nobody = Err(DropReason::ServiceBackendNotFound);
    for (name, asker, addr, port, expected) in [
        (
            "a cluster address, from a pod",
            Pod,
            "10.96.0.1",
            80,
            Ok("backend"),
        ),
        ("from the node", Node, "10.96.0.1", 80, Ok("backend")),
        ("from the network", Network, "10.96.0.1", 80, clusterip),
        ("a port that it has not", Pod, "10.96.0.1", 81, Ok("closed")),
        (
            "that, from the network",
            Network,
            "10.96.0.1",
            81,
            Ok("closed"),
        ),
        ("no service at all", Pod, "10.96.0.9", 80, Ok("elsewhere")),
        ("IPv6", Network, "fd96::1", 80, Ok("backend")),
        (
            "an address that nobody owns as a whole",
            Pod,
            "fd96::1",
            81,
            Ok("elsewhere"),
        ),
        ("nobody behind it", Network, "10.96.0.2", 80, Ok("refused")),
        ("nobody near, outside", Network, "10.96.0.3", 80, nobody),
        (
            "nobody near, outside, from inside",
            Pod,
            "10.96.0.3",
            80,
            Ok("refused"),
        ),
        ("nobody near, inside", Pod, "10.96.0.4", 80, nobody),
        (
            "an external address, outside",
            Network,
            "203.0.113.9",
            80,
            Ok("backend"),
        ),
        (
            "an external address, inside",
            Pod,
            "203.0.113.9",
            80,
            Ok("elsewhere"),
        ),
        (
            "its other ports, inside",
            Pod,
            "203.0.113.9",
            81,
            Ok("elsewhere"),
        ),
        (
            "its other ports, outside",
            Network,
            "203.0.113.9",
            81,
            Ok("closed"),
        ),
        (
            "a node port here, outside",
            Network,
            "198.51.100.1",
            30_080,
            Ok("backend"),
        ),
        (
            "a node port elsewhere, outside",
            Network,
            "198.51.100.2",
            30_080,
            Ok("elsewhere"),
        ),
        (
            "a node port elsewhere, inside",
            Pod,
            "198.51.100.2",
            30_080,
            Ok("backend"),
        ),
        (
            "another port of a node",
            Pod,
            "198.51.100.2",
            30_081,
            Ok("elsewhere"),
        ),
        (
            "a node port on who is no node",
            Pod,
            "198.51.100.3",
            30_080,
            Ok("elsewhere"),
        ),
        (
            "a node port at home",
            Node,
            "127.0.0.1",
            30_080,
            Ok("backend"),
        ),
        (
            "a node port at home, IPv6",
            Node,
            "::1",
            30_080,
            Ok("backend"),
        ),
        (
            "a pod's own home",
            Pod,
            "127.0.0.1",
            30_080,
            Ok("elsewhere"),
        ),
    ] {
        assert_eq!(
            short(select(&rows, &ask(asker, addr, port))),
            expected,
            "{name}"
        );
    }
    let udp = Ask {
        protocol: UDP,
        ..ask(Pod, "10.96.0.1", 80)
    };
    assert_eq!(short(select(&rows, &udp)), Ok("closed"), "another protocol");
}

#[test]
fn source_ranges_let_in_or_keep_out() {
    let (mut rows, list) = Rows::with_backends(1);
    let prefix = |service, addr, bits| SourceRangeKey {
        prefix_bits: SourceRangeKey::SERVICE_BITS + bits,
        service,
        addr: ip(addr),
    };
    rows.ranges = vec![
        prefix(SERVICE, "192.0.2.0", 96 + 24),
        prefix(SERVICE + 1, "203.0.113.0", 96 + 24),
        prefix(SERVICE, "2001:db8::", 32),
    ];
    let kind = FrontendKind::LoadBalancer;
    let allow = ServiceFlags::SOURCE_RANGES;
    rows.frontend(key("10.96.0.1", 80, TCP), kind, allow, list);
    rows.frontend(
        key("10.96.0.2", 80, TCP),
        kind,
        allow | ServiceFlags::SOURCE_DENY,
        list,
    );
    let denied = Err(DropReason::SourceRangeDenied);
    for (addr, source, asker, expected) in [
        ("10.96.0.1", "192.0.2.7", Asker::Network, Ok("backend")),
        ("10.96.0.1", "2001:db8::7", Asker::Network, Ok("backend")),
        ("10.96.0.1", "203.0.113.7", Asker::Network, denied),
        ("10.96.0.1", "203.0.113.7", Asker::Pod, Ok("backend")),
        ("10.96.0.2", "192.0.2.7", Asker::Network, denied),
        ("10.96.0.2", "203.0.113.7", Asker::Network, Ok("backend")),
    ] {
        let ask = Ask {
            source: ip(source),
            ..ask(asker, addr, 80)
        };
        assert_eq!(short(select(&rows, &ask)), expected, "{addr} from {source}");
    }
}

#[test]
fn targets_of_a_redirection_may_pass_it_by() {
    let (mut rows, list) = Rows::with_backends(1);
    let flags = ServiceFlags::SKIP_OWN;
    rows.frontend(
        key("10.96.0.1", 80, TCP),
        FrontendKind::LocalRedirect,
        flags,
        list,
    );
    let entry = rows.services.values_mut().next().expect("a row");
    entry.external = ListRef::default();
    let ask = ask(Asker::Pod, "10.96.0.1", 80);
    assert_eq!(short(select(&rows, &ask)), Ok("backend"));
    rows.skips.push(ServiceClient {
        client: ask.client,
        service: SERVICE,
        external: 0,
    });
    assert_eq!(
        short(select(&rows, &ask)),
        Ok("refused"),
        "the list without it"
    );
    let entry = rows.services.values_mut().next().expect("a row");
    entry.flags ^= ServiceFlags::SKIP_OWN | ServiceFlags::SKIP_AWAY;
    assert_eq!(short(select(&rows, &ask)), Ok("elsewhere"), "no service");
    rows.skips.clear();
    assert_eq!(short(select(&rows, &ask)), Ok("backend"), "another client");
}

#[test]
fn rows_that_are_not_there_yet_drop_and_never_mislead() {
    let (mut rows, list) = Rows::with_backends(20);
    rows.frontend(
        key("10.96.0.1", 80, TCP),
        FrontendKind::LoadBalancer,
        0,
        list,
    );
    let mut maglev = list;
    maglev.maglev = TABLE;
    rows.frontend(
        key("10.96.0.2", 80, TCP),
        FrontendKind::LoadBalancer,
        0,
        maglev,
    );
    let entry = rows
        .services
        .get_mut(&key("10.96.0.2", 80, TCP))
        .expect("a row");
    entry.maglev_slots = 251;
    let lost = Err(DropReason::ServiceBackendNotFound);
    let to = |rows: &Rows, addr| short(select(rows, &ask(Asker::Network, addr, 80)));
    assert_eq!(to(&rows, "10.96.0.2"), lost, "no table");
    rows.backends.clear();
    assert_eq!(to(&rows, "10.96.0.1"), lost, "no backend");
    rows.lists.clear();
    assert_eq!(to(&rows, "10.96.0.1"), lost, "no list");
}
