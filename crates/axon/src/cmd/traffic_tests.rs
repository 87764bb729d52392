use std::net::IpAddr;

use axon_abi::{
    Backend, Be16, CtEntry, CtFlags, CtKey4, FrontendKind, IpKey, NatEntry, NatKey, NatOwner,
    ServiceEntry, ServiceKey,
};
use axon_api::maps::{CtMapRow, LbBackendRow, LbRow, NatMapRow};

use super::{By, Filter, ends_of, top};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A flow that its first address has opened.
fn flow(from: [u8; 4], to: [u8; 4], port: u16, protocol: u8, bytes: u64) -> CtMapRow {
    let key = CtKey4 {
        low: from,
        high: to,
        low_port: 40_000.into(),
        high_port: port.into(),
        protocol,
        pad: [0; 3],
    };
    let entry = CtEntry {
        flags: CtFlags::OPENED_BY_LOW,
        packets: [1, 1],
        bytes: [bytes, 0],
        ..CtEntry::default()
    };
    CtMapRow::v4(&key, &entry, 0)
}

fn flows() -> [CtMapRow; 4] {
    [
        flow([10, 0, 0, 1], [10, 0, 1, 1], 8080, 6, 100),
        flow([10, 0, 0, 1], [10, 0, 1, 2], 53, 17, 5),
        flow([10, 0, 0, 2], [10, 0, 1, 1], 8080, 6, 1000),
        flow([10, 0, 0, 3], [192, 0, 2, 1], 443, 6, 1),
    ]
}

fn filter(address: &str, port: &str, protocol: &str) -> Filter {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Filter {
        address: given(address),
        port: given(port),
        protocol: given(protocol),
        service: None,
    }
}

#[test]
fn those_are_listed_that_are_meant() {
    let flows = flows();
    for (address, port, protocol, expected) in [
        ("", "", "", &[0, 1, 2, 3][..]),
        ("10.0.0.1", "", "", &[0, 1]),
        ("10.0.1.0/24", "", "", &[0, 1, 2]),
        ("", "8080", "", &[0, 2]),
        ("", "40000", "tcp", &[0, 2, 3]),
        ("", "", "UDP", &[1]),
        ("", "", "17", &[1]),
        ("10.0.0.1", "8080", "tcp", &[0]),
        ("2001:db8::/32", "", "", &[]),
    ] {
        let filter = filter(address, port, protocol);
        let meant = filter.parse().expect("a filter");
        let numbered = flows.iter().enumerate();
        let found = numbered.filter(|(_, row)| meant.means(*row));
        let found: Vec<usize> = found.map(|(n, _)| n).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[test]
fn what_is_no_filter_is_refused_by_its_name() {
    let service = |text: &str| Filter {
        service: Some(text.to_owned()),
        ..Filter::default()
    };
    for (filter, told) in [
        (
            filter("10.0.0", "", ""),
            "--address \"10.0.0\"; expected an address",
        ),
        (filter("10.0.0.0/33", "", ""), "--address"),
        (filter("", "http", ""), "--port \"http\"; expected a number"),
        (filter("", "65536", ""), "--port"),
        (filter("", "", "tpc"), "--protocol \"tpc\"; expected tcp"),
        (filter("", "", "256"), "--protocol"),
        (service("web"), "--service \"web\"; expected namespace/name"),
        (service("shop/"), "--service"),
        (service("/web"), "--service"),
        (service("shop/:http"), "--service"),
    ] {
        let error = filter.parse().expect_err(told).text();
        assert!(error.starts_with(told), "{error}");
    }
}

/// A service's frontends and backends; another one's name that begins alike is no
/// part of it.
#[test]
fn a_service_is_its_frontends_and_backends() {
    let frontend = |addr: &str, service: &str| {
        let key = ServiceKey {
            addr: ip(addr).into(),
            port: Be16::new(80),
            protocol: 6,
            pad: 0,
        };
        let entry = ServiceEntry {
            flags: FrontendKind::ClusterIp as u32,
            ..ServiceEntry::default()
        };
        let mut row = LbRow::new(&key, &entry);
        service.clone_into(&mut row.service);
        row
    };
    let backend = |addr: &str, service: &str| {
        let row = Backend {
            addr: ip(addr).into(),
            port: Be16::new(8080),
            protocol: 6,
            ..Backend::default()
        };
        let mut row = LbBackendRow::new(1, &row);
        service.clone_into(&mut row.service);
        row
    };
    let frontends = [
        frontend("10.96.0.1", "shop/web:http"),
        frontend("10.96.0.2", "shop/web-admin:http"),
    ];
    let backends = [
        backend("10.0.1.1", "shop/web:http"),
        backend("192.0.2.1", "shop/web-admin:http"),
    ];
    for name in ["shop/web", "shop/web:http"] {
        let ends = ends_of(name, &frontends, &backends).expect("a service");
        let tcp = || "tcp".to_owned();
        let expected = [(ip("10.0.1.1"), 8080, tcp()), (ip("10.96.0.1"), 80, tcp())];
        assert_eq!(Vec::from_iter(ends.clone()), expected, "{name}");
        let meant = super::Meant {
            ends: Some(ends),
            ..super::Meant::default()
        };
        let found: Vec<bool> = flows().iter().map(|row| meant.means(row)).collect();
        assert_eq!(found, [true, false, true, false], "{name}");
    }
    for name in ["shop/we", "shop/web:https", "other/web"] {
        let error = ends_of(name, &frontends, &backends).expect_err(name).text();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn who_has_most_comes_first() {
    let told = |by, count| {
        let talkers = top(flows().iter(), by, count);
        let told = talkers.into_iter();
        told.map(|talker| (talker.who, talker.flows, talker.bytes))
            .collect::<Vec<_>>()
    };
    let of = |who: &str, flows, bytes| (who.to_owned(), flows, Some(bytes));
    assert_eq!(
        told(By::Source, 2),
        [of("10.0.0.2", 1, 1000), of("10.0.0.1", 2, 105)]
    );
    assert_eq!(told(By::Destination, 1), [of("10.0.1.1", 2, 1100)]);
    assert_eq!(told(By::Pair, 1), [of("10.0.0.2 > 10.0.1.1", 1, 1000)]);
    assert_eq!(told(By::Source, 0), []);
}

fn translation(inbound: u8, owner: u16) -> NatMapRow {
    let key = NatKey {
        source: IpKey::from_v4([10, 0, 0, 1]),
        destination: IpKey::from_v4([192, 0, 2, 9]),
        inbound,
        protocol: 6,
        ..NatKey::default()
    };
    let entry = NatEntry {
        addr: IpKey::from_v4([198, 51, 100, 7]),
        node_own: owner,
        ..NatEntry::default()
    };
    NatMapRow::new(&key, &entry, 0)
}

/// A masqueraded flow has two rows, a service's client one; either is one flow.
#[test]
fn a_translation_is_counted_once() {
    let rows = [
        translation(0, NatOwner::ENDPOINT),
        translation(1, NatOwner::ENDPOINT),
        translation(1, NatOwner::SERVICE),
    ];
    assert_eq!(rows.each_ref().map(super::Row::counts), [true, false, true]);
    let talkers = top(rows.iter(), By::Source, 10);
    let told: Vec<(&str, u64)> = talkers.iter().map(|t| (t.who.as_str(), t.flows)).collect();
    assert_eq!(told, [("10.0.0.1", 1), ("198.51.100.7", 1)]);
}
