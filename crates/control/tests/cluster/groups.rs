//! Groups of prefixes and services, as they come, change and go.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity};
use axon_control::ConditionKind;
use axon_model::{
    Action, CidrGroup, EndpointSlice, Entity, Fault, GroupRef, ObjectKey, Peer, Peers, RuleEntry,
    Service,
};

use crate::world::{Cluster, ingress, ip};

fn group(c: &Cluster, name: &str, cidrs: &[&str]) {
    let row = CidrGroup {
        name: name.into(),
        labels: [("trust".to_owned(), "low".to_owned())].into(),
        cidrs: cidrs.iter().map(|c| c.parse().expect("prefix")).collect(),
    };
    let groups = &c.observed.cidr_groups;
    groups.write(|txn| txn.insert(name.to_owned(), row));
}

fn service(c: &Cluster, name: &str, selector: &[(&str, &str)]) {
    let selector = selector
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let row = Service {
        namespace: "shop".into(),
        name: name.into(),
        selector: selector.collect(),
        ..Service::default()
    };
    let key = ObjectKey::new("shop", name);
    c.observed.services.write(|txn| txn.insert(key, row));
}

fn slice(c: &Cluster, service: &str, addresses: &[&str]) {
    let row = EndpointSlice {
        service: service.into(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        ..EndpointSlice::default()
    };
    let key = ObjectKey::new("shop", &format!("{service}-1"));
    c.observed.endpoint_slices.write(|txn| txn.insert(key, row));
}

fn to(of: GroupRef, except: &[&str]) -> RuleEntry {
    let except = except.iter().map(|p| p.parse().expect("prefix")).collect();
    let peers = Peers::List(vec![Peer::Group { of, except }]);
    RuleEntry {
        direction: Direction::Egress,
        ..ingress(Action::Allow, peers, 443)
    }
}

fn named(name: &str) -> GroupRef {
    GroupRef::CidrGroup(name.into())
}

/// A cluster with a web server on this node.
fn web() -> Cluster {
    let mut c = Cluster::ready();
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    c.step();
    c
}

/// Whom an address outside is, and whether web may send to it.
pub(crate) fn may(c: &Cluster, addr: &str) -> bool {
    let addr = ip(addr);
    let entries = c.controller.ips().into_iter();
    let around = entries.filter(|entry| entry.prefix.contains(&addr));
    let who = around
        .max_by_key(|entry| entry.prefix.prefix_len())
        .expect("the world");
    c.allows(7, Direction::Egress, who.identity, 443)
}

#[test]
fn a_group_is_followed_row_by_row() {
    let mut c = web();
    c.policy(
        "p",
        "web",
        vec![to(named("partners"), &["198.51.100.128/25"])],
    );
    c.step();
    let set = c.controller.endpoints()[&7].policy_set;
    assert!(
        !may(&c, "198.51.100.7"),
        "a group that is missing is nobody"
    );
    assert!(!may(&c, "8.8.8.8"));

    group(&c, "partners", &["198.51.100.0/24", "203.0.113.0/28"]);
    group(&c, "others", &["192.0.2.128/25"]);
    c.step();
    let seen = [
        "198.51.100.7",
        "198.51.100.200",
        "203.0.113.9",
        "192.0.2.200",
    ];
    assert_eq!(seen.map(|addr| may(&c, addr)), [true, false, true, false]);
    let prefixes = |c: &Cluster| -> BTreeMap<String, Identity> {
        let persisted = c.controller.persisted().cidr_identities.iter();
        persisted
            .map(|(id, prefix)| (prefix.to_string(), id))
            .collect()
    };
    let before = prefixes(&c);
    let kept: BTreeSet<&str> = before.keys().map(String::as_str).collect();
    let expected = ["198.51.100.0/24", "198.51.100.128/25", "203.0.113.0/28"];
    assert_eq!(kept, expected.into(), "only what somebody refers to");

    group(&c, "partners", &["198.51.100.0/24", "203.0.113.16/28"]);
    let report = c.step();
    assert!(report.changed);
    let after = prefixes(&c);
    assert_eq!(after["198.51.100.0/24"], before["198.51.100.0/24"]);
    let seen = ["198.51.100.7", "203.0.113.9", "203.0.113.17"];
    assert_eq!(seen.map(|addr| may(&c, addr)), [true, false, true]);
    assert_eq!(
        c.controller.endpoints()[&7].policy_set,
        set,
        "no version of its own"
    );

    c.observed
        .cidr_groups
        .write(|txn| txn.remove(&"partners".to_owned()));
    c.step();
    assert_eq!(seen.map(|addr| may(&c, addr)), [false; 3]);
    assert_eq!(prefixes(&c).len(), 1, "the hole is named by the policy");
}

/// Within a prefix of one group there may be one of another: it is in both.
#[test]
fn groups_within_each_other_are_both_meant() {
    let mut c = web();
    c.policy("p", "web", vec![to(named("wide"), &[])]);
    group(&c, "wide", &["198.51.0.0/16"]);
    group(&c, "narrow", &["198.51.100.0/24"]);
    c.step();
    assert!(may(&c, "198.51.100.7"));
    let denied = RuleEntry {
        action: Action::Deny,
        ..to(named("narrow"), &[])
    };
    c.policy("q", "web", vec![denied]);
    c.step();
    assert_eq!(
        ["198.51.100.7", "198.51.101.7"].map(|addr| may(&c, addr)),
        [false, true]
    );
    c.no_policy("q");
    c.step();
    assert!(may(&c, "198.51.100.7"));
}

#[test]
fn a_group_of_everything_is_the_world() {
    let mut c = web();
    c.policy("p", "web", vec![to(named("all"), &["198.51.100.0/24"])]);
    group(&c, "all", &["0.0.0.0/0"]);
    c.step();
    assert_eq!(
        ["8.8.8.8", "198.51.100.7"].map(|addr| may(&c, addr)),
        [true, false]
    );
}

#[test]
fn a_service_is_its_pods_or_its_addresses() {
    let mut c = web();
    c.pod("cart", "two", "10.0.2.7");
    let by_name = |name: &str| GroupRef::Service(ObjectKey::new("", name));
    c.policy(
        "p",
        "web",
        vec![to(by_name("cart-svc"), &[]), to(by_name("partner"), &[])],
    );
    c.step();
    let seen = ["10.0.2.7", "198.51.100.7", "198.51.100.8"];
    let look = |c: &Cluster| seen.map(|addr| may(c, addr));
    assert_eq!(look(&c), [false; 3], "services that are missing are nobody");
    slice(&c, "partner", &["198.51.100.7"]);
    slice(&c, "cart-svc", &["198.51.100.8"]);
    c.step();
    assert_eq!(look(&c), [false; 3], "nor are slices without a service");
    service(&c, "partner", &[]);
    service(&c, "cart-svc", &[("app", "cart")]);
    c.step();
    assert_eq!(
        look(&c),
        [true, true, false],
        "with a selector slices count for nothing"
    );
    service(&c, "cart-svc", &[("app", "other")]);
    slice(&c, "partner", &["198.51.100.8", "10.0.2.7"]);
    c.step();
    assert_eq!(
        look(&c),
        [false, false, true],
        "a pod is not meant by its address"
    );
    c.observed
        .services
        .write(|txn| txn.remove(&ObjectKey::new("shop", "partner")));
    c.step();
    assert_eq!(look(&c), [false; 3]);
}

/// The endpoints of the API servers' Service.
fn apiservers(c: &Cluster, addresses: &[&str]) {
    let row = EndpointSlice {
        service: "kubernetes".into(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        ..EndpointSlice::default()
    };
    let key = ObjectKey::new("default", "kubernetes");
    c.observed.endpoint_slices.write(|txn| txn.insert(key, row));
}

fn to_apiserver() -> RuleEntry {
    let peers = Peers::List(vec![Peer::Entity(Entity::KubeApiserver)]);
    RuleEntry {
        direction: Direction::Egress,
        ..ingress(Action::Allow, peers, 443)
    }
}

#[test]
fn api_servers_are_who_their_service_says() {
    let mut c = web();
    c.policy("p", "web", vec![to_apiserver()]);
    c.step();
    let places = ["192.0.2.1", "192.0.2.2", "203.0.113.50", "203.0.113.51"];
    let seen = |c: &Cluster| places.map(|addr| may(c, addr));
    assert_eq!(seen(&c), [false; 4], "none is known");

    // Of the Service of another namespace by that name nobody is.
    slice(&c, "kubernetes", &["203.0.113.51"]);
    apiservers(&c, &["192.0.2.2", "203.0.113.50"]);
    c.step();
    assert_eq!(seen(&c), [false, true, true, false]);
    assert_eq!(c.identity("192.0.2.2"), Some(Identity::KUBE_APISERVER.0));
    let outside = c.identity("203.0.113.50").map(Identity);
    assert!(
        outside.is_some_and(Identity::is_world),
        "{outside:?}: outside"
    );

    apiservers(&c, &["192.0.2.1", "203.0.113.51"]);
    c.step();
    assert_eq!(seen(&c), [true, false, false, true]);
    assert_eq!(c.identity("192.0.2.1"), Some(Identity::HOST.0));
    assert_eq!(c.identity("192.0.2.2"), Some(Identity::REMOTE_NODE.0));

    apiservers(&c, &[]);
    c.step();
    assert_eq!(seen(&c), [false; 4]);
    assert_eq!(c.identity("203.0.113.51"), None);
}

#[test]
fn what_denies_api_servers_denies_them_while_a_new_agent_learns_who_they_are() {
    let mut c = web();
    apiservers(&c, &["192.0.2.2"]);
    c.step();
    c.restart(crate::world::config());
    c.observed = Cluster::new(crate::world::config()).observed;
    c.observed.nodes.mark_complete();
    c.step();
    let wrong = c
        .identity("192.0.2.2")
        .filter(|id| *id != Identity::KUBE_APISERVER.0);
    assert_eq!(wrong, None, "no other row is written before that");
    apiservers(&c, &["192.0.2.2"]);
    c.complete();
    c.step();
    assert_eq!(c.identity("192.0.2.2"), Some(Identity::KUBE_APISERVER.0));
}

/// A field that is left out is told for as long as it is wrong.
#[test]
fn what_is_wrong_with_a_service_is_told() {
    let mut c = Cluster::ready();
    let key = ObjectKey::new("shop", "web");
    let mut row = Service::default();
    row.spec.faults = vec![Fault::new(
        "spec.ports[0].port",
        "70000; expected 1 to 65535",
    )];
    c.observed
        .services
        .write(|txn| txn.insert(key.clone(), row));
    let told = |c: &mut Cluster| -> Vec<String> {
        let conditions = c.step().conditions.into_iter();
        let of_fields = conditions.filter(|c| c.kind == ConditionKind::Fault);
        of_fields.map(|condition| condition.message).collect()
    };
    let expected =
        "Service shop/web: spec.ports[0].port: 70000; expected 1 to 65535; it is left out";
    assert_eq!(told(&mut c), [expected]);
    assert_eq!(told(&mut c), [expected], "with nothing new");
    c.observed
        .services
        .write(|txn| txn.insert(key, Service::default()));
    assert!(told(&mut c).is_empty());
}

/// Policy comes first, and has numbers of its own.
#[test]
fn services_have_a_step_and_numbers_of_their_own() {
    let mut c = Cluster::new(crate::world::config());
    let key = ObjectKey::new("shop", "web");
    let mut row = Service::default();
    row.spec.has_v4 = true;
    row.spec.cluster_ips = vec![axon_model::Written {
        field: "spec.clusterIP".into(),
        addr: ip("10.96.0.1"),
    }];
    row.spec.ports = vec![axon_model::ServicePort {
        index: 0,
        name: String::new(),
        protocol: axon_model::Protocol::TCP,
        port: 80,
        target: axon_model::TargetPort::Number(8080),
        node_port: 0,
    }];
    c.observed.services.write(|txn| txn.insert(key, row));
    slice(&c, "web", &["10.0.2.9"]);
    c.complete();
    let frontends = |c: &Cluster| {
        let services = c.controller.desired_services();
        services.frontends.snapshot().len()
    };
    let report = c.controller.step(0, &c.observed, &c.desired);
    assert!(report.persist, "sets have numbers");
    assert_eq!(frontends(&c), 0, "nothing of services yet");
    let first = c.controller.step_services(0, &c.observed);
    assert!(first.persist && frontends(&c) > 0);

    // Who comes and goes behind a service is nothing that policy writes down.
    let later = 1_000_000;
    c.controller.step(later, &c.observed, &c.desired);
    let before = c.controller.persisted().clone();
    slice(&c, "web", &["10.0.2.9", "10.0.2.10"]);
    assert!(!c.controller.step(later, &c.observed, &c.desired).persist);
    let key = ObjectKey::new("shop", "web");
    c.observed.services.write(|txn| txn.remove(&key));
    assert!(!c.controller.step(later, &c.observed, &c.desired).persist);
    assert!(c.controller.step_services(later, &c.observed).persist);
    assert_eq!(c.controller.persisted(), &before);
    assert_eq!(frontends(&c), 0);
}
