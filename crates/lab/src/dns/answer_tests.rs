use std::collections::BTreeMap;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::super::zone::tests::{book, ip};
use super::super::zone::{Endpoint, Entry, Port, StandsFor};
use super::{Book, By, answer};

const SERIAL: u32 = 42;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("a name");
    message.add_query(Query::query(name, kind));
    message
}

fn put(message: &Message, book: &Book, by: By) -> (Message, usize) {
    let bytes = message.to_vec().expect("a query");
    let bytes = answer(&bytes, (book, SERIAL), by).expect("an answer");
    let read = Message::from_vec(&bytes).expect("it can be read");
    assert_eq!(read.metadata.id, 7);
    assert_eq!(read.metadata.message_type, MessageType::Response);
    assert!(read.metadata.recursion_desired, "as it was asked");
    assert_eq!(read.queries, message.queries, "also in its letters");
    (read, bytes.len())
}

fn ask(name: &str, kind: RecordType) -> Message {
    put(&query(name, kind), &book(), By::Udp).0
}

fn words(records: &[Record]) -> Vec<String> {
    let word = |record: &Record| {
        let owner = record.name.to_string().to_ascii_lowercase();
        let owner = owner.replace(".shop.svc.cluster.local.", "");
        format!(
            "{owner} {} {} {}",
            record.ttl,
            record.record_type(),
            record.data
        )
    };
    let mut words: Vec<String> = records.iter().map(word).collect();
    words.sort();
    words
}

#[test]
fn questions_are_answered_by_name_and_type() {
    use RecordType as T;
    let soa =
        "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5";
    let no = ResponseCode::NXDomain;
    let ok = ResponseCode::NoError;
    /// Name, type, code, answers, authorities.
    type Asked<'a> = (&'a str, T, ResponseCode, &'a [&'a str], &'a [&'a str]);
    let cases: [Asked<'_>; 31] = [
        (
            "web.shop.svc.cluster.local.",
            T::A,
            ok,
            &["web 5 A 10.96.0.7"],
            &[],
        ),
        (
            "WeB.Shop.SVC.Cluster.LOCAL.",
            T::AAAA,
            ok,
            &["web 5 AAAA fd00:10:96::7"],
            &[],
        ),
        ("web.shop.svc.cluster.local.", T::TXT, ok, &[], &[soa]),
        ("web.shop.svc.cluster.local.", T::MX, ok, &[], &[soa]),
        ("web.shop.svc.cluster.local.", T::ANY, ok, &[], &[soa]),
        (
            "web.shop.svc.cluster.local.",
            T::Unknown(65_400),
            ok,
            &[],
            &[soa],
        ),
        ("web.shop.svc.cluster.local.", T::HTTPS, ok, &[], &[soa]),
        ("idle.shop.svc.cluster.local.", T::AAAA, ok, &[], &[soa]),
        ("none.shop.svc.cluster.local.", T::A, no, &[], &[soa]),
        (
            "none.shop.svc.cluster.local.",
            T::Unknown(65_400),
            no,
            &[],
            &[soa],
        ),
        ("nobody.shop.svc.cluster.local.", T::A, no, &[], &[soa]),
        ("web.absent.svc.cluster.local.", T::A, no, &[], &[soa]),
        ("shop.svc.cluster.local.", T::A, ok, &[], &[soa]),
        (
            "_http._tcp.web.shop.svc.cluster.local.",
            T::SRV,
            ok,
            &["_http._tcp.web 5 SRV 0 100 80 web.shop.svc.cluster.local."],
            &[],
        ),
        (
            "_peer._tcp.pets.shop.svc.cluster.local.",
            T::SRV,
            ok,
            &[
                "_peer._tcp.pets 5 SRV 0 50 2380 10-0-0-3.pets.shop.svc.cluster.local.",
                "_peer._tcp.pets 5 SRV 0 50 2380 rex.pets.shop.svc.cluster.local.",
            ],
            &[],
        ),
        (
            "_peer._udp.pets.shop.svc.cluster.local.",
            T::SRV,
            no,
            &[],
            &[soa],
        ),
        (
            "pets.shop.svc.cluster.local.",
            T::A,
            ok,
            &["pets 5 A 10.0.0.2", "pets 5 A 10.0.0.3"],
            &[],
        ),
        (
            "rex.pets.shop.svc.cluster.local.",
            T::AAAA,
            ok,
            &["rex.pets 5 AAAA fd00::2"],
            &[],
        ),
        (
            "10-0-0-2.shop.pod.cluster.local.",
            T::A,
            ok,
            &["10-0-0-2.shop.pod.cluster.local. 5 A 10.0.0.2"],
            &[],
        ),
        ("10-0-0-2.shop.pod.cluster.local.", T::AAAA, ok, &[], &[soa]),
        (
            "far.shop.svc.cluster.local.",
            T::A,
            ok,
            &["far 5 CNAME www.example.com."],
            &[],
        ),
        (
            "far.shop.svc.cluster.local.",
            T::CNAME,
            ok,
            &["far 5 CNAME www.example.com."],
            &[],
        ),
        (
            "near.shop.svc.cluster.local.",
            T::A,
            ok,
            &[
                "near 5 CNAME web.shop.svc.cluster.local.",
                "web 5 A 10.96.0.7",
            ],
            &[],
        ),
        (
            "lost.shop.svc.cluster.local.",
            T::A,
            ok,
            &["lost 5 CNAME x.shop.svc.cluster.local."],
            &[],
        ),
        (
            "dns-version.cluster.local.",
            T::TXT,
            ok,
            &["dns-version.cluster.local. 28800 TXT 1.1.0"],
            &[],
        ),
        (
            "cluster.local.",
            T::NS,
            ok,
            &["cluster.local. 5 NS ns.dns.cluster.local."],
            &[],
        ),
        ("cluster.local.", T::SOA, ok, &[soa], &[]),
        ("cluster.local.", T::A, ok, &[], &[soa]),
        (
            "7.0.96.10.in-addr.arpa.",
            T::PTR,
            ok,
            &["7.0.96.10.in-addr.arpa. 5 PTR web.shop.svc.cluster.local."],
            &[],
        ),
        (
            "3.0.0.10.in-addr.arpa.",
            T::PTR,
            no,
            &[],
            &[
                "in-addr.arpa. 5 SOA ns.dns.in-addr.arpa. hostmaster.in-addr.arpa. 42 7200 1800 86400 5",
            ],
        ),
        ("example.com.", T::A, no, &[], &[]),
    ];
    for (name, kind, code, answers, authorities) in cases {
        let found = ask(name, kind);
        assert_eq!(found.metadata.response_code, code, "{name} {kind}");
        assert_eq!(words(&found.answers), answers, "{name} {kind}");
        assert_eq!(words(&found.authorities), authorities, "{name} {kind}");
        let ours = name != "example.com.";
        assert_eq!(found.metadata.authoritative, ours, "{name} {kind}");
        assert!(!found.metadata.truncation, "{name} {kind}");
    }
}

#[test]
fn a_name_that_stands_for_itself_ends() {
    let found = ask("round.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(found.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn addresses_of_both_families_have_names() {
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.f.ip6.arpa.";
    let found = ask(v6, RecordType::PTR);
    let RData::PTR(name) = &found.answers.first().expect("an answer").data else {
        panic!("no PTR")
    };
    assert_eq!(name.to_string(), "rex.pets.shop.svc.cluster.local.");
    let other = ask(v6, RecordType::A);
    assert_eq!(other.metadata.response_code, ResponseCode::NoError);
    assert!(other.answers.is_empty());
    for name in [
        "10.in-addr.arpa.",
        "x.0.0.10.in-addr.arpa.",
        "1.2.3.4.5.in-addr.arpa.",
    ] {
        let found = ask(name, RecordType::PTR);
        assert_eq!(
            found.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
    }
}

#[test]
fn who_serves_a_port_is_told_with_addresses() {
    let found = ask("_peer._tcp.pets.shop.svc.cluster.local.", RecordType::SRV);
    let expected = [
        "10-0-0-3.pets 5 A 10.0.0.3",
        "rex.pets 5 A 10.0.0.2",
        "rex.pets 5 AAAA fd00::2",
    ];
    assert_eq!(words(&found.additionals), expected);
}

/// A headless service of so many pods.
fn many(count: u8) -> Book {
    let ports = vec![Port {
        name: "peer".into(),
        protocol: "tcp".into(),
        port: 1,
    }];
    let endpoint = |n: u8| Endpoint {
        addr: [10, 0, 0, n].into(),
        hostname: format!("a-host-with-a-rather-long-name-{n}"),
        ports: ports.clone(),
    };
    let entry = Entry {
        stands_for: StandsFor::Endpoints,
        ports: ports.clone(),
        endpoints: (1..=count).map(endpoint).collect(),
    };
    let mut book = book();
    let shop = book.services.get_mut("shop").expect("a namespace");
    shop.insert("many".into(), entry);
    book
}

#[test]
fn answers_have_the_length_that_was_asked_for() {
    let name = "many.shop.svc.cluster.local.";
    // Type, what the client takes, how; the most bytes, answers, cut off.
    for (kind, takes, by, room, count, cut) in [
        (RecordType::A, None, By::Udp, 512, 29, true),
        (RecordType::A, Some(512), By::Udp, 512, 28, true),
        (RecordType::A, Some(100), By::Udp, 512, 28, true),
        (RecordType::A, Some(1232), By::Udp, 1232, 73, true),
        (RecordType::A, Some(4096), By::Udp, 1232, 73, true),
        (RecordType::A, None, By::Tcp, 65_535, 200, false),
        (RecordType::SRV, None, By::Tcp, 65_535, 200, false),
        (RecordType::AAAA, None, By::Udp, 512, 0, false),
    ] {
        let mut query = query(name, kind);
        if let Some(takes) = takes {
            let mut edns = Edns::new();
            edns.set_max_payload(takes);
            query.set_edns(edns);
        }
        let (found, length) = put(&query, &many(200), by);
        let case = format!("{kind} {takes:?} {by:?}");
        assert!(length <= room, "{case}: {length}");
        assert_eq!(found.answers.len(), count, "{case}");
        assert_eq!(found.metadata.truncation, cut, "{case}");
        assert_eq!(found.edns.is_some(), takes.is_some(), "{case}");
    }
}

#[test]
fn what_only_saves_a_question_is_left_out_without_notice() {
    let mut query = query("_peer._tcp.many.shop.svc.cluster.local.", RecordType::SRV);
    let count = 8;
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns.clone());
    let (found, length) = put(&query, &many(count), By::Udp);
    assert_eq!(found.additionals.len(), usize::from(count));
    edns.set_max_payload(u16::try_from(length - 1).expect("it fits"));
    query.set_edns(edns);
    let (found, _) = put(&query, &many(count), By::Udp);
    assert_eq!(found.answers.len(), usize::from(count));
    assert!(found.additionals.is_empty() && !found.metadata.truncation);
}

#[test]
fn edns_is_answered_by_version_and_flag() {
    let mut plain = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    plain.set_edns(edns.clone());
    let (found, _) = put(&plain, &book(), By::Udp);
    let own = found.edns.expect("EDNS");
    assert_eq!((own.max_payload(), own.version()), (1232, 0));
    assert!(own.flags().dnssec_ok);
    edns.set_version(1);
    plain.set_edns(edns);
    let (found, _) = put(&plain, &book(), By::Udp);
    assert_eq!(u16::from(found.metadata.response_code), 16, "BADVERS");
    assert!(found.answers.is_empty());
}

#[test]
fn what_is_not_asked_as_it_should_be_is_told_so() {
    let good = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut two = good.clone();
    two.add_queries(good.queries.clone());
    let mut none = good.clone();
    none.queries.clear();
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut notify = good.clone();
    notify.metadata.op_code = OpCode::Notify;
    for (name, query, code) in [
        ("two questions", two, ResponseCode::FormErr),
        ("no question", none, ResponseCode::FormErr),
        ("class CH", chaos, ResponseCode::Refused),
        ("NOTIFY", notify, ResponseCode::NotImp),
    ] {
        let bytes = query.to_vec().expect("a query");
        let bytes = answer(&bytes, (&book(), SERIAL), By::Udp).expect(name);
        let found = Message::from_vec(&bytes).expect(name);
        assert_eq!(found.metadata.response_code, code, "{name}");
        assert!(found.answers.is_empty(), "{name}");
    }
}

#[test]
fn what_is_no_query_is_answered_by_its_head_or_not() {
    let half = &query("web.shop.svc.cluster.local.", RecordType::A)
        .to_vec()
        .expect("a query")[..20];
    let response = [&[0, 7, 0x84, 0][..], &[0xff; 8]].concat();
    for (name, bytes, code) in [
        ("nothing", &b""[..], None),
        ("half a head", b"not DNS", None),
        ("half a query", half, Some(ResponseCode::FormErr)),
        (
            "some text",
            b"not DNS at all, not at all",
            Some(ResponseCode::NotImp),
        ),
        ("a broken response", &response, None),
    ] {
        let found = answer(bytes, (&book(), SERIAL), By::Udp);
        let found = found.map(|bytes| Message::from_vec(&bytes).expect(name));
        let found = found.map(|found| found.metadata.response_code);
        assert_eq!(found, code, "{name}");
    }
}

#[test]
fn addresses_take_turns() {
    let first = || {
        let found = ask("pets.shop.svc.cluster.local.", RecordType::A);
        words(&found.answers[..1])
    };
    let seen: std::collections::BTreeSet<_> = (0..20).map(|_| first()).collect();
    assert_eq!(seen.len(), 2);
}

#[test]
fn names_that_do_not_fit_are_left_out() {
    let mut book = book();
    let long = "x".repeat(64);
    let name = vec!["y".repeat(60); 5].join(".");
    let entry = |stands_for| Entry {
        stands_for,
        ports: Vec::new(),
        endpoints: vec![Endpoint {
            addr: ip("10.0.0.9"),
            hostname: long.clone(),
            ports: vec![Port {
                name: "p".into(),
                protocol: "tcp".into(),
                port: 1,
            }],
        }],
    };
    let shop = BTreeMap::from([
        ("odd".to_owned(), entry(StandsFor::Endpoints)),
        ("long".to_owned(), entry(StandsFor::Name(name))),
    ]);
    book.services.insert("shop".into(), shop);
    for (name, kind) in [
        ("_p._tcp.odd.shop.svc.cluster.local.", RecordType::SRV),
        ("long.shop.svc.cluster.local.", RecordType::A),
        ("9.0.0.10.in-addr.arpa.", RecordType::PTR),
    ] {
        let (found, _) = put(&query(name, kind), &book, By::Udp);
        assert!(found.answers.is_empty(), "{name}");
    }
}

/// Bytes of queries, hurt in some places.
fn hurt() -> impl Strategy<Value = Vec<u8>> {
    let names = [
        "web.shop.svc.cluster.local.",
        "_peer._tcp.pets.shop.svc.cluster.local.",
        "round.shop.svc.cluster.local.",
        "7.0.96.10.in-addr.arpa.",
        "cluster.local.",
        ".",
    ];
    let name = prop::sample::select(names.to_vec());
    let wounds = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (
        name,
        any::<u16>(),
        any::<bool>(),
        wounds,
        any::<prop::sample::Index>(),
    )
        .prop_map(|(name, kind, edns, wounds, end)| {
            let mut message = query(name, RecordType::from(kind));
            if edns {
                message.set_edns(Edns::new());
            }
            let mut bytes = message.to_vec().expect("a query");
            for (at, byte) in wounds {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            // Half of them stay whole.
            if end.index(2) == 0 {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever comes: no panic, no answer to an answer, the same number in it, and
    /// nothing that is longer than it may be.
    #[test]
    fn nothing_that_comes_does_harm(
        bytes in prop_oneof![hurt(), prop::collection::vec(any::<u8>(), 0..300)],
        by in prop::sample::select(vec![By::Udp, By::Tcp]),
    ) {
        if let Some(found) = answer(&bytes, (&many(200), SERIAL), by) {
            prop_assert!(bytes.len() >= 12 && bytes[2] & 0x80 == 0);
            prop_assert_eq!(&found[..2], &bytes[..2]);
            prop_assert!(found[2] & 0x80 != 0);
            prop_assert!(by == By::Tcp || found.len() <= 1232);
            let read = Message::from_vec(&found);
            prop_assert!(read.is_ok(), "{:?}", read);
        }
    }
}
