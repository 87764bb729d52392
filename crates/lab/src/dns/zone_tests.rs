use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Book, Endpoint, Entry, Hit, Port, StandsFor};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn port(name: &str, protocol: &str, port: u16) -> Port {
    Port {
        name: name.into(),
        protocol: protocol.into(),
        port,
    }
}

fn endpoint(addr: &str, hostname: &str, ports: &[Port]) -> Endpoint {
    Endpoint {
        addr: ip(addr),
        hostname: hostname.into(),
        ports: ports.to_vec(),
    }
}

fn entry(stands_for: StandsFor, ports: &[Port], endpoints: &[Endpoint]) -> Entry {
    Entry {
        stands_for,
        ports: ports.to_vec(),
        endpoints: endpoints.to_vec(),
    }
}

/// A cluster with a service of each kind.
pub(crate) fn book() -> Book {
    let web = [port("http", "tcp", 80), port("", "udp", 53)];
    let pet = [port("peer", "tcp", 2380)];
    let shop = [
        (
            "web",
            entry(
                StandsFor::Addresses(ips(&["10.96.0.7", "fd00:10:96::7"])),
                &web,
                &[endpoint("10.0.0.1", "", &[port("http", "tcp", 8080)])],
            ),
        ),
        (
            "idle",
            entry(StandsFor::Addresses(ips(&["10.96.0.8"])), &web, &[]),
        ),
        (
            "pets",
            entry(
                StandsFor::Endpoints,
                &pet,
                &[
                    endpoint("10.0.0.2", "rex", &pet),
                    endpoint("fd00::2", "rex", &pet),
                    endpoint("10.0.0.3", "", &pet),
                ],
            ),
        ),
        ("nobody", entry(StandsFor::Endpoints, &pet, &[])),
        (
            "portless",
            entry(StandsFor::Endpoints, &[], &[endpoint("10.0.0.4", "", &[])]),
        ),
        (
            "far",
            entry(StandsFor::Name("www.example.com".into()), &[], &[]),
        ),
        (
            "near",
            entry(
                StandsFor::Name("web.shop.svc.cluster.local".into()),
                &[],
                &[],
            ),
        ),
        (
            "lost",
            entry(StandsFor::Name("x.shop.svc.cluster.local".into()), &[], &[]),
        ),
        (
            "round",
            entry(
                StandsFor::Name("round.shop.svc.cluster.local".into()),
                &[],
                &[],
            ),
        ),
    ];
    let services = shop.map(|(name, entry)| (name.to_owned(), entry));
    let pods = BTreeMap::from([("rex".to_owned(), ips(&["10.0.0.2", "fd00::2"]))]);
    Book {
        server: ips(&["10.96.0.10", "fd00:10:96::a"]),
        namespaces: BTreeSet::from(["shop".to_owned(), "empty".to_owned()]),
        services: BTreeMap::from([("shop".to_owned(), BTreeMap::from(services))]),
        pods: BTreeMap::from([("shop".to_owned(), pods)]),
    }
}

/// What a name stands for, in words.
fn found(name: &str) -> Option<Vec<String>> {
    let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    let hits = book().find(&labels)?;
    let word = |hit: &Hit| match hit {
        Hit::Address { owner, addr, port } => {
            let owner = owner.trim_end_matches(".svc.cluster.local");
            let port = port.map(|port| format!(" {port}")).unwrap_or_default();
            format!("{owner} {addr}{port}")
        }
        Hit::Alias(name) => format!("as {name}"),
        Hit::Text(text) => format!("text {text}"),
        Hit::Server => "server".into(),
    };
    Some(hits.iter().map(word).collect())
}

#[test]
fn names_stand_for_what_the_specification_says() {
    let web = [
        "web.shop 10.96.0.7 80",
        "web.shop 10.96.0.7 53",
        "web.shop fd00:10:96::7 80",
        "web.shop fd00:10:96::7 53",
    ];
    let cases: [(&str, Option<&[&str]>); 33] = [
        ("", Some(&["server"])),
        ("dns-version", Some(&["text 1.1.0"])),
        (
            "ns.dns",
            Some(&[
                "ns.dns.cluster.local 10.96.0.10",
                "ns.dns.cluster.local fd00:10:96::a",
            ]),
        ),
        ("svc", Some(&[])),
        ("pod", Some(&[])),
        ("other", None),
        ("shop.svc", Some(&[])),
        ("empty.svc", Some(&[])),
        ("absent.svc", None),
        ("web.shop.svc", Some(&web)),
        ("web.empty.svc", None),
        ("web.absent.svc", None),
        (
            "idle.shop.svc",
            Some(&["idle.shop 10.96.0.8 80", "idle.shop 10.96.0.8 53"]),
        ),
        (
            "_http._tcp.web.shop.svc",
            Some(&["web.shop 10.96.0.7 80", "web.shop fd00:10:96::7 80"]),
        ),
        ("_http._udp.web.shop.svc", None),
        ("_ftp._tcp.web.shop.svc", None),
        ("_tcp.web.shop.svc", None),
        (
            "10-0-0-1.web.shop.svc",
            Some(&["10-0-0-1.web.shop 10.0.0.1 8080"]),
        ),
        ("10-0-0-9.web.shop.svc", None),
        (
            "pets.shop.svc",
            Some(&[
                "rex.pets.shop 10.0.0.2 2380",
                "rex.pets.shop fd00::2 2380",
                "10-0-0-3.pets.shop 10.0.0.3 2380",
            ]),
        ),
        (
            "rex.pets.shop.svc",
            Some(&["rex.pets.shop 10.0.0.2 2380", "rex.pets.shop fd00::2 2380"]),
        ),
        ("10-0-0-2.pets.shop.svc", None),
        (
            "10-0-0-3.pets.shop.svc",
            Some(&["10-0-0-3.pets.shop 10.0.0.3 2380"]),
        ),
        ("nobody.shop.svc", None),
        (
            "portless.shop.svc",
            Some(&["10-0-0-4.portless.shop 10.0.0.4"]),
        ),
        ("_x._tcp.portless.shop.svc", None),
        ("far.shop.svc", Some(&["as www.example.com"])),
        ("_x._tcp.far.shop.svc", None),
        (
            "10-0-0-2.shop.pod",
            Some(&["10-0-0-2.shop.pod.cluster.local 10.0.0.2"]),
        ),
        (
            "fd00--2.shop.pod",
            Some(&["fd00--2.shop.pod.cluster.local fd00::2"]),
        ),
        ("10-0-0-9.shop.pod", None),
        ("10-0-0-2.absent.pod", None),
        ("a.b.c.web.shop.svc", None),
    ];
    for (name, expected) in cases {
        let expected: Option<Vec<String>> =
            expected.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(found(name), expected, "{name:?}");
    }
}

#[test]
fn addresses_have_the_names_of_services_and_of_named_endpoints() {
    let book = book();
    for (addr, expected) in [
        ("10.96.0.7", &["web.shop.svc.cluster.local"][..]),
        ("fd00:10:96::7", &["web.shop.svc.cluster.local"]),
        ("10.0.0.2", &["rex.pets.shop.svc.cluster.local"]),
        ("fd00::2", &["rex.pets.shop.svc.cluster.local"]),
        ("10.0.0.3", &[]),
        ("192.0.2.1", &[]),
    ] {
        assert_eq!(book.names_of(ip(addr)), expected, "{addr}");
    }
}

#[test]
fn a_book_is_read_as_it_was_written() {
    let text = serde_json::to_vec(&book()).expect("a text");
    let read: Book = serde_json::from_slice(&text).expect("a book");
    assert_eq!(read, book());
}
