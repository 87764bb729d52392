//! Addresses that names were answered with.

use std::collections::BTreeMap;

use axon_abi::{Direction, Identity};
use axon_model::{Action, NameAnswer, NameKey, NamePattern, Peer, Peers, RuleEntry};
use proptest::prelude::*;
use proptest::sample::select;

use crate::groups::may;
use crate::world::{Cluster, cidr, config, ingress, ip};

/// An egress entry to names on port 443.
fn to(patterns: &[&str]) -> RuleEntry {
    let peer = |text: &&str| Peer::Name(NamePattern::new(text).expect("pattern"));
    let peers = Peers::List(patterns.iter().map(peer).collect());
    RuleEntry {
        direction: Direction::Egress,
        ..ingress(Action::Allow, peers, 443)
    }
}

fn answer(c: &Cluster, name: &str, addresses: &[(&str, u64)]) {
    let row = NameAnswer {
        addresses: addresses.iter().map(|(a, until)| (ip(a), *until)).collect(),
    };
    c.observed.names.write(|txn| txn.insert(key(name), row));
}

fn key(name: &str) -> NameKey {
    NameKey {
        endpoint: 7,
        name: name.to_owned(),
    }
}

fn web() -> Cluster {
    let mut c = Cluster::ready();
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    c.step();
    c
}

fn who(c: &Cluster, addr: &str) -> Option<Identity> {
    c.address(addr).map(|row| row.identity)
}

const LATER: u64 = 1_000_000;

#[test]
fn a_further_address_of_a_name_is_one_row() {
    let mut c = web();
    c.policy("p", "web", vec![to(&["*.shop.example"])]);
    answer(&c, "a.shop.example", &[("198.51.100.1", LATER)]);
    answer(&c, "other.example", &[("198.51.100.9", LATER)]);
    c.step();
    assert!(may(&c, "198.51.100.1"));
    assert!(!may(&c, "198.51.100.9") && who(&c, "198.51.100.9").is_none());
    let first = who(&c, "198.51.100.1").expect("a row");
    let text = c.controller.labels_of(first).expect("known").to_string();
    assert_eq!(text, "fqdn:*.shop.example,reserved:world-ipv4");

    let sets = c.desired.policy_sets.snapshot().revision();
    let known = c.desired.identities.snapshot().revision();
    answer(
        &c,
        "b.shop.example",
        &[("198.51.100.2", LATER), ("2001:db8:9::2", LATER)],
    );
    c.step();
    assert_eq!(
        who(&c, "198.51.100.2"),
        Some(first),
        "no identity of its own"
    );
    assert!(may(&c, "198.51.100.2") && may(&c, "2001:db8:9::2"));
    // The first address of the other family is somebody new.
    assert_ne!(c.desired.identities.snapshot().revision(), known);
    let known = c.desired.identities.snapshot().revision();
    answer(&c, "c.shop.example", &[("198.51.100.3", LATER)]);
    c.step();
    assert!(may(&c, "198.51.100.3"));
    assert_eq!(c.desired.identities.snapshot().revision(), known);
    assert_ne!(
        c.desired.policy_sets.snapshot().revision(),
        sets,
        "IPv6's class"
    );
}

#[test]
fn names_are_forgotten_when_their_time_is_over() {
    let mut c = web();
    c.policy("p", "web", vec![to(&["a.example"])]);
    answer(
        &c,
        "A.example.",
        &[("198.51.100.1", 5_000), ("198.51.100.2", 9_000)],
    );
    c.step();
    c.now_ms = 4_999;
    let report = c.step();
    assert_eq!(report.next_step_ms, Some(5_000));
    assert!(may(&c, "198.51.100.1"));
    let id = who(&c, "198.51.100.1").expect("a row");
    c.now_ms = 5_000;
    let report = c.step();
    assert!(!may(&c, "198.51.100.1") && may(&c, "198.51.100.2"));
    assert!(report.next_step_ms.is_some_and(|at| at <= 9_000));
    // Somebody asks again.
    answer(&c, "a.example", &[("198.51.100.1", 20_000)]);
    c.now_ms = 9_000;
    c.step();
    assert!(may(&c, "198.51.100.1") && !may(&c, "198.51.100.2"));
    assert_eq!(who(&c, "198.51.100.1"), Some(id));
    c.now_ms = 20_000;
    c.step();
    assert_eq!(c.controller.labels_of(id), None, "nobody is left of it");
    assert_eq!(c.controller.persisted().name_identities.iter().count(), 0);
}

#[test]
fn what_policies_name_around_an_address_still_counts() {
    let mut c = web();
    let denied = RuleEntry {
        direction: Direction::Egress,
        ..ingress(Action::Deny, cidr("198.51.100.0/24"), 443)
    };
    c.policy("p", "web", vec![to(&["*"]), denied]);
    let addresses = ["198.51.100.1", "203.0.113.1", "10.0.2.200", "192.0.2.2"];
    let later = addresses.map(|addr| (addr, LATER));
    answer(&c, "a.example", &later);
    c.step();
    let expected = [false, true, false, false];
    assert_eq!(addresses.map(|addr| may(&c, addr)), expected);
    assert_eq!(
        who(&c, "192.0.2.2"),
        Some(Identity::REMOTE_NODE),
        "a node stays one"
    );
    assert_eq!(
        who(&c, "10.0.2.200"),
        None,
        "an address of pods is nobody's"
    );
    c.policy("p", "web", vec![to(&["*"])]);
    c.step();
    assert!(may(&c, "198.51.100.1"));
    c.policy("p", "web", vec![to(&["b.example"])]);
    c.step();
    assert_eq!(addresses.map(|addr| may(&c, addr)), [false; 4]);
}

#[test]
fn numbers_of_names_outlive_the_agent() {
    let mut c = web();
    c.policy("p", "web", vec![to(&["a.example", "*.example"])]);
    answer(&c, "a.example", &[("198.51.100.1", LATER)]);
    c.step();
    let id = who(&c, "198.51.100.1").expect("a row");
    c.restart(config());
    c.step();
    assert_eq!(who(&c, "198.51.100.1"), Some(id));
    assert!(may(&c, "198.51.100.1"));
}

/// Who is allowed by names, from nothing: addresses, and patterns that policies
/// ask for.
fn slowly(c: &Cluster, patterns: &[&str], now_ms: u64) -> BTreeMap<String, bool> {
    let names = c.observed.names.snapshot();
    let patterns = patterns
        .iter()
        .map(|text| NamePattern::new(text).expect("pattern"));
    let patterns: Vec<NamePattern> = patterns.collect();
    let given = |addr: &str| {
        names.iter().any(|(key, answer)| {
            let until = answer.addresses.get(&ip(addr));
            until.is_some_and(|until| *until > now_ms)
                && patterns.iter().any(|pattern| pattern.matches(&key.name))
        })
    };
    ADDRESSES
        .iter()
        .map(|addr| ((*addr).to_owned(), given(addr)))
        .collect()
}

const ADDRESSES: [&str; 4] = [
    "198.51.100.1",
    "198.51.100.2",
    "203.0.113.1",
    "2001:db8:9::1",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Following answers, policies and time gives what a look at everything gives.
    #[test]
    fn names_are_followed(
        edits in prop::collection::vec(
            (
                select(vec!["a.example", "b.example", "x.a.example"]),
                prop::collection::btree_map(0..4_usize, 1..8_u64, 0..3),
                prop::option::of(prop::collection::vec(
                    select(vec!["a.example", "*.example", "**.example", "*"]), 1..3)),
                0..3_u64,
            ),
            1..20,
        ),
    ) {
        let mut c = web();
        let mut asked: Vec<&str> = Vec::new();
        for (name, addresses, patterns, pause) in edits {
            let addresses: Vec<(&str, u64)> = addresses
                .iter()
                .map(|(n, until)| (ADDRESSES[*n], c.now_ms + until * 1000))
                .collect();
            match addresses.is_empty() {
                true => { c.observed.names.write(|txn| txn.remove(&key(name))); }
                false => answer(&c, name, &addresses),
            }
            if let Some(patterns) = patterns {
                asked = patterns;
                let around = RuleEntry {
                    direction: Direction::Egress,
                    ..ingress(Action::Allow, cidr("203.0.113.0/24"), 80)
                };
                c.policy("p", "web", vec![to(&asked), around]);
            }
            c.now_ms += pause * 1000;
            c.step();
            if !asked.is_empty() {
                let found = ADDRESSES.iter().map(|addr| ((*addr).to_owned(), may(&c, addr)));
                prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), slowly(&c, &asked, c.now_ms));
            }
            let numbered = c.controller.persisted().name_identities.iter();
            for (id, _) in numbered {
                let mut rows = ADDRESSES.iter().filter_map(|addr| who(&c, addr));
                prop_assert!(rows.any(|row| row == id), "{} is nobody's number", id.0);
            }
        }
    }
}
