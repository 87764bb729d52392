//! Numbers of identities and epochs: who gives them, and that they keep their meaning.

use crate::world::{Cluster, cidr, config, crd, ingress, pods};
use axon_abi::Identity;
use axon_control::{Adopted, WaitReason};
use axon_model::{Action, Labels, Peers};

#[test]
fn the_cluster_numbers_identities_where_it_does() {
    let mut c = Cluster::new(crd());
    c.complete();
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    c.cilium_endpoint("client", 4711, "10.0.2.7", "192.0.2.2");
    c.cilium_endpoint("gone", 4712, "10.0.1.9", "192.0.2.1");
    let report = c.step();
    assert!(matches!(report.waiting[..], [(5, WaitReason::Identity)]));
    assert_eq!(c.identity("10.0.2.7"), Some(4711));
    assert!(
        c.desired.identities.get(&Identity(4711)).is_none(),
        "no allow matches what nobody has described"
    );
    assert_eq!(
        c.address("10.0.1.9"),
        None,
        "of its own endpoints the node knows best"
    );

    c.cluster_identity(300, "web");
    c.cluster_identity(4711, "client");
    c.policy("p", "web", vec![ingress(Action::Allow, pods("client"), 80)]);
    let report = c.step();
    assert_eq!(report.waiting, []);
    assert_eq!(c.row(5).map(|row| row.identity), Some(Identity(300)));
    assert!(c.allowed(4711, 5, 80) && !c.allowed(300, 5, 80));
    assert!(c.desired.identities.get(&Identity(4711)).is_some());
}

#[test]
fn a_process_is_told_by_its_own_labels() {
    let mut c = Cluster::ready();
    let labels: Labels = ["app=web".parse().expect("label")].into_iter().collect();
    c.endpoint(5, "");
    let mut endpoint = (*c.observed.endpoints.get(&5).expect("endpoint")).clone();
    endpoint.own_labels = labels;
    endpoint.namespace = String::new();
    c.observed.endpoints.write(|txn| txn.insert(5, endpoint));
    c.step();
    let status = &c.controller.endpoints()[&5];
    assert_eq!(status.waiting, None);
    assert_eq!(status.labels.get("unspec", "app"), Some("web"));
}

#[test]
fn numbers_survive_a_restart() {
    let mut c = Cluster::ready();
    for (id, name) in [(5, "web"), (6, "db")] {
        c.pod(name, "one", "");
        c.endpoint(id, name);
    }
    c.policy(
        "p",
        "web",
        vec![ingress(Action::Allow, cidr("198.51.100.0/24"), 80)],
    );
    c.step();
    let before = (c.row(5), c.row(6), c.prefixes());
    let epoch = c.epoch();
    c.restart(config());
    // Another order of arrival.
    c.no_pod("web");
    c.step();
    c.pod("web", "one", "");
    c.restart(config());
    c.step();
    assert_eq!(before.1, c.row(6));
    assert_eq!(before.2, c.prefixes());
    let set = |row: &Option<axon_abi::EndpointRow>| row.map(|r| r.policy_set);
    assert_ne!(set(&before.0), None);
    assert!(c.epoch() > epoch, "what has changed meanwhile is not known");

    c.restart(config());
    c.controller.adopt(Adopted {
        last_set: 900,
        epoch: 77,
        ..Adopted::default()
    });
    c.policy("q", "db", vec![ingress(Action::Allow, Peers::Any, 5432)]);
    c.step();
    assert!(
        set(&c.row(6)).expect("a set") > 900,
        "numbers in pinned rows are taken"
    );
    assert_eq!(c.epoch(), 78);
}

#[test]
fn numbers_that_the_kernel_knows_keep_their_meaning_where_the_state_is_lost() {
    let mut c = Cluster::ready();
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    c.policy(
        "p",
        "db",
        vec![ingress(Action::Allow, cidr("198.51.100.0/24"), 80)],
    );
    c.step();
    let web = c.row(5).expect("a row").identity;
    let labels = c.controller.endpoints()[&5].labels.clone();
    let prefix = c.prefixes()["198.51.100.0/24"];
    c.controller = axon_control::Controller::new(config(), axon_control::Persisted::default());
    c.controller.adopt(Adopted {
        identities: vec![Identity(web.0 + 10), Identity(prefix), Identity(2)],
        labels: vec![(web, labels)],
        ..Adopted::default()
    });
    c.pod("other", "one", "");
    c.endpoint(6, "other");
    c.policy(
        "q",
        "db",
        vec![ingress(Action::Allow, cidr("203.0.113.0/24"), 80)],
    );
    c.step();
    assert_eq!(
        c.row(5).expect("a row").identity,
        web,
        "known by its labels"
    );
    let other = c.row(6).expect("a row").identity;
    assert!(other.0 > web.0 + 10, "{other:?}");
    let prefixes = c.prefixes();
    for name in ["198.51.100.0/24", "203.0.113.0/24"] {
        assert!(prefixes[name] > prefix, "{prefixes:?} after {prefix}");
    }
}

#[test]
fn the_epoch_grows_when_somebody_is_somebody_else() {
    let mut c = Cluster::ready();
    c.pod("web", "one", "");
    c.pod("client", "two", "10.0.2.7");
    c.endpoint(5, "web");
    c.step();
    c.now_ms += 10_000;
    c.step();
    let mut last = c.epoch();
    let mut grown = |c: &mut Cluster, what: &str, at_once: bool, later: bool| {
        let report = c.step();
        assert_eq!(c.epoch() > last, at_once, "{what}, at once");
        if let Some(due) = report.next_step_ms.filter(|due| *due <= c.now_ms + 1000) {
            c.now_ms = due;
            c.step();
        }
        assert_eq!(
            c.epoch() > last,
            at_once || later,
            "{what}, within a second"
        );
        c.now_ms += 10_000;
        c.step();
        last = c.epoch();
    };
    grown(&mut c, "nothing new", false, false);
    c.policy("p", "web", vec![ingress(Action::Allow, pods("client"), 80)]);
    grown(&mut c, "a policy: the set's number tells", false, false);
    c.pod("other", "two", "10.0.2.8");
    grown(&mut c, "a new address", false, true);
    c.pod("other", "two", "10.0.2.9");
    grown(&mut c, "an address of nobody any more", true, true);
    c.no_pod("client");
    c.pod("guest", "two", "10.0.2.7");
    grown(&mut c, "an address of somebody else", true, true);
    c.policy(
        "p",
        "web",
        vec![ingress(Action::Deny, cidr("198.51.100.0/24"), 80)],
    );
    grown(&mut c, "a prefix of its own", false, true);
    c.no_policy("p");
    grown(&mut c, "the prefix is the world again", true, true);
}
