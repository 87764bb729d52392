//! Random histories: a controller that followed every change has the same
//! rows as one that starts now and sees only the end.

use std::collections::BTreeMap;

use crate::world::{Cluster, cidr, config, crd, ingress, ip, pods};
use axon_abi::Identity;
use axon_control::{Config, Controller, IdentityMode, Persisted, PersistedChange};
use axon_model::{Action, Desired, Entity, Namespace, ObjectKey, Peer, Peers};
use axon_statedb::Table;
use proptest::prelude::*;
use proptest::sample::select;

const NAMES: [&str; 3] = ["web", "client", "other"];

#[derive(Clone, Debug)]
enum Edit {
    Pod(usize, &'static str, u8),
    NoPod(usize),
    Endpoint(u16, usize),
    NoEndpoint(u16),
    CiliumEndpoint(usize, u32, u8),
    ClusterIdentity(u32, usize),
    NoClusterIdentity(u32),
    Policy(usize, usize, usize, bool),
    NoPolicy(usize),
    NodeMoves(u8),
    NoNode,
    NamespaceLabel(bool),
    Step,
    Wait,
}

fn edit() -> impl Strategy<Value = Edit> {
    let name = || 0..NAMES.len();
    prop_oneof![
        3 => (name(), select(vec!["one", "two"]), 1..5_u8).prop_map(|(n, at, a)| Edit::Pod(n, at, a)),
        1 => name().prop_map(Edit::NoPod),
        3 => (5..8_u16, name()).prop_map(|(id, n)| Edit::Endpoint(id, n)),
        1 => (5..8_u16).prop_map(Edit::NoEndpoint),
        1 => (name(), 300..303_u32, 1..5_u8).prop_map(|(n, id, a)| Edit::CiliumEndpoint(n, id, a)),
        1 => (300..303_u32, name()).prop_map(|(id, n)| Edit::ClusterIdentity(id, n)),
        1 => (300..303_u32).prop_map(Edit::NoClusterIdentity),
        3 => (name(), name(), 0..5_usize, any::<bool>())
            .prop_map(|(p, s, peer, deny)| Edit::Policy(p, s, peer, deny)),
        1 => name().prop_map(Edit::NoPolicy),
        1 => (2..5_u8).prop_map(Edit::NodeMoves),
        1 => Just(Edit::NoNode),
        1 => any::<bool>().prop_map(Edit::NamespaceLabel),
        4 => Just(Edit::Step),
        1 => Just(Edit::Wait),
    ]
}

fn apply(c: &mut Cluster, edit: &Edit) {
    match edit {
        Edit::Pod(n, node, a) => c.pod(NAMES[*n], node, &format!("10.0.2.{a}")),
        Edit::NoPod(n) => c.no_pod(NAMES[*n]),
        Edit::Endpoint(id, n) => c.endpoint(*id, NAMES[*n]),
        Edit::NoEndpoint(id) => c.no_endpoint(*id),
        Edit::CiliumEndpoint(n, id, a) => {
            c.cilium_endpoint(NAMES[*n], *id, &format!("10.0.2.{a}"), "192.0.2.2");
        }
        Edit::ClusterIdentity(id, n) => c.cluster_identity(*id, NAMES[*n]),
        Edit::NoClusterIdentity(id) => {
            c.observed.identities.write(|txn| txn.remove(id));
        }
        Edit::Policy(p, subject, peer, deny) => {
            let peers = match peer {
                0 => Peers::Any,
                1 => cidr("198.51.100.0/24"),
                2 => cidr("10.0.2.2/32"),
                n => pods(NAMES[n - 3]),
            };
            let action = if *deny { Action::Deny } else { Action::Allow };
            c.policy(NAMES[*p], NAMES[*subject], vec![ingress(action, peers, 80)]);
        }
        Edit::NoPolicy(p) => c.no_policy(NAMES[*p]),
        Edit::NodeMoves(n) => {
            let two = "two".to_owned();
            let Some(node) = c.observed.nodes.get(&two) else {
                return;
            };
            let mut node = (*node).clone();
            node.addresses[0].addr = ip(&format!("192.0.2.{n}"));
            node.pod_cidrs[0] = format!("10.0.{n}.0/24").parse().expect("prefix");
            c.observed.nodes.write(|txn| txn.insert(two, node));
        }
        Edit::NoNode => {
            c.observed.nodes.write(|txn| txn.remove(&"two".to_owned()));
        }
        Edit::NamespaceLabel(on) => {
            let labels = on.then(|| ("team".to_owned(), "a".to_owned()));
            let namespace = Namespace {
                name: "shop".into(),
                labels: labels.into_iter().collect(),
                audit: false,
            };
            c.observed
                .namespaces
                .write(|txn| txn.insert("shop".into(), namespace));
        }
        Edit::Step => {
            c.step();
        }
        Edit::Wait => {
            c.now_ms += 10_000;
            c.step();
        }
    }
}

fn rows<K: Ord + Clone, V: PartialEq + Clone>(table: &Table<K, V>) -> BTreeMap<K, V> {
    table
        .snapshot()
        .iter()
        .map(|(key, row)| (key.clone(), (**row).clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn following_is_as_good_as_looking(
        mode in select(vec![IdentityMode::Local, IdentityMode::Crd]),
        complete_at in 0..20_usize,
        edits in prop::collection::vec(edit(), 1..50),
    ) {
        let config = Config { identity_mode: mode, ..config() };
        let mut c = Cluster::new(config.clone());
        for (n, edit) in edits.iter().enumerate() {
            if n == complete_at {
                c.complete();
            }
            apply(&mut c, edit);
        }
        c.complete();
        c.step();
        let desired = Desired::default();
        let mut fresh = Controller::new(config, c.controller.persisted().clone());
        fresh.step(c.now_ms, &c.observed, &desired);
        prop_assert_eq!(rows(&c.desired.endpoints), rows(&desired.endpoints));
        prop_assert_eq!(rows(&c.desired.ipcache), rows(&desired.ipcache));
        prop_assert_eq!(rows(&c.desired.ipcache_cidrs), rows(&desired.ipcache_cidrs));
        prop_assert_eq!(rows(&c.desired.identities), rows(&desired.identities));
        prop_assert_eq!(rows(&c.desired.nomasq), rows(&desired.nomasq));
        prop_assert_eq!(rows(&c.desired.routes), rows(&desired.routes));
        let (kept, needed) = (rows(&c.desired.policy_sets), rows(&desired.policy_sets));
        for (number, rows) in needed {
            prop_assert_eq!(kept.get(&number), Some(&rows), "set {}", number);
        }
        prop_assert_eq!(c.controller.endpoints(), fresh.endpoints());
        prop_assert_eq!(c.controller.ips(), fresh.ips());
    }

    /// What is told of changes makes the whole, also if some are told twice.
    #[test]
    fn changes_are_as_good_as_the_whole(
        mode in select(vec![IdentityMode::Local, IdentityMode::Crd]),
        whole_at in 0..50_usize,
        edits in prop::collection::vec(edit(), 1..50),
    ) {
        let mut c = Cluster::new(Config { identity_mode: mode, ..config() });
        c.complete();
        let mut changes = Vec::new();
        let mut whole = Persisted::default();
        for (n, edit) in edits.iter().chain([&Edit::Step]).enumerate() {
            apply(&mut c, edit);
            changes.push(c.controller.take_persisted_change());
            if n == whole_at {
                whole = c.controller.persisted().clone();
            }
        }
        let text = serde_json::to_string(&changes).expect("text");
        let changes: Vec<PersistedChange> = serde_json::from_str(&text).expect("and back");
        for change in changes {
            whole.apply(change);
        }
        let now = c.controller.persisted();
        let (identities, prefixes) = (now.identities.iter(), now.cidr_identities.iter());
        prop_assert!(identities.eq(whole.identities.iter()));
        prop_assert!(prefixes.eq(whole.cidr_identities.iter()));
        prop_assert_eq!(now.epoch, whole.epoch);
        prop_assert_eq!(now.numbers.sets.last(), whole.numbers.sets.last());
        let rules = |p: &Persisted| {
            let rules = 1..=now.numbers.rules.last();
            rules.filter_map(|n| p.numbers.rules.rule(n).cloned().map(|rule| (n, rule))).collect()
        };
        let (known, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = (rules(now), rules(&whole));
        prop_assert!(known.iter().all(|(n, rule)| kept.get(n) == Some(rule)));
    }
}

/// While a source has not told everything, what it no longer names stays.
#[test]
fn nothing_goes_before_everything_is_known() {
    let mut c = Cluster::new(config());
    c.observed.namespaces.mark_complete();
    c.observed.endpoint_slices.mark_complete();
    c.pod("client", "two", "10.0.2.7");
    c.policy(
        "p",
        "web",
        vec![ingress(Action::Allow, cidr("198.51.100.0/24"), 80)],
    );
    c.step();
    let before = (rows(&c.desired.ipcache), rows(&c.desired.ipcache_cidrs));
    assert!(before.0.len() > 4);
    c.no_pod("client");
    c.no_policy("p");
    c.observed.nodes.write(|txn| txn.remove(&"two".to_owned()));
    c.step();
    assert_eq!(
        before,
        (rows(&c.desired.ipcache), rows(&c.desired.ipcache_cidrs))
    );
    assert_eq!(c.desired.routes.snapshot().len(), 2);
    c.complete();
    c.step();
    assert_eq!(
        c.desired.ipcache.snapshot().len(),
        2,
        "this node's addresses"
    );
    assert_eq!(c.desired.routes.snapshot().len(), 0);
    assert!(
        c.observed
            .pods
            .get(&ObjectKey::new("shop", "client"))
            .is_none()
    );
}

/// While rows of somebody who is gone may not go, a deny of him holds.
#[test]
fn whoever_may_still_be_there_is_told_apart() {
    let all_but_nodes = |c: &Cluster| {
        c.observed.namespaces.mark_complete();
        c.observed.pods.mark_complete();
        c.observed.policies.mark_complete();
        c.observed.cidr_groups.mark_complete();
        c.observed.services.mark_complete();
        c.observed.endpoint_slices.mark_complete();
        c.observed.names.mark_complete();
        c.observed.cilium_endpoints.mark_complete();
        c.observed.identities.mark_complete();
        c.observed.endpoints.mark_complete();
    };
    let mut c = Cluster::new(crd());
    all_but_nodes(&c);
    for (id, name) in [(300, "web"), (301, "client")] {
        c.cluster_identity(id, name);
        c.pod(name, "one", "");
    }
    c.endpoint(5, "web");
    let allow = ingress(Action::Allow, Peers::Any, 80);
    let deny = ingress(Action::Deny, pods("client"), 80);
    c.policy("p", "web", vec![allow.clone(), deny]);
    c.step();
    c.observed.identities.write(|txn| txn.remove(&301));
    c.step();
    let has_row = |c: &Cluster, id| c.desired.identities.get(&Identity(id)).is_some();
    assert!(has_row(&c, 301) && !c.allowed(301, 5, 80));
    c.complete();
    c.step();
    assert!(!has_row(&c, 301));

    let mut c = Cluster::new(config());
    all_but_nodes(&c);
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    let world = Peers::List(vec![Peer::Entity(Entity::World)]);
    let deny = ingress(Action::Deny, cidr("198.51.0.0/16"), 80);
    c.policy("p", "web", vec![ingress(Action::Allow, world, 80), deny]);
    c.policy(
        "q",
        "other",
        vec![ingress(Action::Allow, cidr("198.51.100.0/24"), 80)],
    );
    c.step();
    let prefix = c.prefixes()["198.51.100.0/24"];
    c.no_policy("q");
    c.step();
    assert!(has_row(&c, prefix) && !c.allowed(prefix, 5, 80));
    c.complete();
    c.step();
    assert!(!has_row(&c, prefix) && !c.prefixes().contains_key("198.51.100.0/24"));
}
