//! What sets keep through edits, and what edits touch.

use std::collections::BTreeSet;

use axon_abi::{Direction, Identity};
use axon_model::{Action, GroupKey, GroupRef, Labels, Peer, Peers, Ports, Protocol};
use axon_policy::{
    Engine, Group, IdentityInfo, Members, Numbers, PolicyConfig, PolicySet, cidr_labels, evaluate,
    reserved_identities,
};

use crate::server::{app, from, ingress, pod, policy, tcp};

/// A rule says the same whatever its group holds: one row for each identity
/// that comes or goes, under the number that the set has.
#[test]
fn a_group_that_changes_touches_the_rows_of_who_changes() {
    let config = PolicyConfig::default();
    let net = |n: u32| -> ipnet::IpNet { format!("198.51.{n}.0/24").parse().expect("prefix") };
    let outside = |n: u32| IdentityInfo {
        prefix: Some(net(n)),
        ..IdentityInfo::labelled(cidr_labels(&config, net(n)))
    };
    let of = GroupRef::CidrGroup("partners".into());
    let peer = |of, except| from(Peer::Group { of, except });
    let policies = [
        policy(
            "group",
            app("web"),
            vec![ingress(Action::Allow, peer(of, vec![net(7)]), tcp(80, 80))],
        ),
        policy(
            "missing",
            app("web"),
            vec![ingress(
                Action::Allow,
                peer(GroupRef::CidrGroup("ghost".into()), vec![]),
                Ports::Any,
            )],
        ),
    ];
    let mut engine = Engine::new(config.clone());
    for (id, info) in reserved_identities(&config) {
        engine.upsert_identity(id, info);
    }
    engine.upsert_identity(Identity(300), pod("web"));
    for n in 1..=100 {
        engine.upsert_identity(Identity(Identity::LOCAL_MIN.0 + n), outside(n));
    }
    for policy in policies {
        engine.upsert_policy(policy);
    }
    engine.set_subjects([Identity(300)].into());
    let mut numbers = Numbers::default();
    let mut look = |engine: &mut Engine| {
        let resolution = engine.resolution(&mut numbers);
        (*resolution.sets[&resolution.subjects[&Identity(300)]]).clone()
    };
    let group = |prefixes: std::ops::RangeInclusive<u32>| Group {
        labels: Labels::default().into(),
        members: Members::Prefixes(prefixes.map(net).collect()),
    };
    let key = GroupKey::CidrGroup("partners".into());

    let without = look(&mut engine);
    assert_eq!(
        without.rows.classes.len(),
        0,
        "a missing group selects nobody"
    );
    assert_eq!(engine.upsert_group(&key, group(1..=50)).len(), 50);
    let fifty = look(&mut engine);
    assert_eq!(fifty.number, without.number);
    assert_eq!(fifty.rows.classes.len(), 49, "but for the hole");
    assert_eq!(engine.upsert_group(&key, group(2..=51)).len(), 2);
    let moved = look(&mut engine);
    assert_eq!(moved.number, without.number);
    assert_eq!(moved.rows.entries, fifty.rows.entries);
    assert_eq!(moved.rows.classes.diff(&fifty.rows.classes).count(), 2);
    let allowed = |set: &PolicySet, n| {
        let remote = Identity(Identity::LOCAL_MIN.0 + n);
        evaluate(&set.rows, Direction::Ingress, remote, 6, 80).is_allowed()
    };
    assert_eq!(
        [1, 2, 7, 51, 52].map(|n| allowed(&moved, n)),
        [false, true, false, true, false]
    );
    assert_eq!(engine.remove_group(&key).len(), 50);
    assert_eq!(look(&mut engine), without);
}

#[test]
fn a_number_keeps_its_content_through_edits_and_restarts() {
    let config = PolicyConfig::default();
    let mut numbers = Numbers::default();
    let mut meanings = std::collections::BTreeMap::new();
    let open = policy("p", app("web"), vec![]);
    let port = |n| {
        policy(
            "p",
            app("web"),
            vec![ingress(Action::Allow, Peers::Any, tcp(n, n))],
        )
    };
    let mut history = Vec::new();
    for (restart, edit) in [
        (false, &open),
        (false, &port(80)),
        (true, &port(80)),
        (true, &port(81)),
    ] {
        if restart {
            let text = serde_json::to_string(&numbers).expect("numbers are text");
            numbers = serde_json::from_str(&text).expect("and come back");
        }
        let mut engine = Engine::new(config.clone());
        engine.upsert_identity(Identity(300), pod("web"));
        engine.set_subjects([Identity(300)].into());
        engine.upsert_policy(edit.clone());
        let resolution = engine.resolution(&mut numbers).clone();
        for (number, set) in &resolution.sets {
            let meaning = meanings.entry(*number).or_insert_with(|| set.rows.clone());
            assert_eq!(meaning, &set.rows, "set {number}");
        }
        history.push(resolution.subjects[&Identity(300)]);
        numbers
            .sets
            .retain(&resolution.sets.keys().copied().collect());
    }
    assert_eq!(history[1], history[2], "known content");
    let distinct: BTreeSet<u32> = history.iter().copied().collect();
    assert_eq!(distinct.len(), 3, "{history:?}");
}

#[test]
fn identities_come_and_go_under_one_number() {
    let rules = vec![
        ingress(
            Action::Allow,
            from(Peer::Endpoints(app("client"))),
            tcp(80, 80),
        ),
        ingress(
            Action::Deny,
            from(Peer::Endpoints(app("enemy"))),
            tcp(80, 80),
        ),
    ];
    let mut numbers = Numbers::default();
    let mut engine = Engine::new(PolicyConfig::default());
    engine.upsert_identity(Identity(300), pod("web"));
    engine.upsert_policy(policy("p", app("web"), rules));
    engine.set_subjects([Identity(300)].into());
    let mut look = |engine: &mut Engine| {
        let resolution = engine.resolution(&mut numbers).clone();
        let set = &resolution.sets[&resolution.subjects[&Identity(300)]];
        (set.number, set.rows.clone())
    };
    let (number, empty) = look(&mut engine);
    for (id, name, classes, entries) in [
        (301, "client", 1, 1),
        (302, "client", 2, 1),
        (303, "enemy", 3, 2),
        (304, "other", 3, 2),
    ] {
        engine.upsert_identity(Identity(id), pod(name));
        let (same, rows) = look(&mut engine);
        assert_eq!(same, number, "{name}");
        assert_eq!(
            (rows.classes.len(), rows.entries.len()),
            (classes, entries),
            "{name}"
        );
    }
    for id in 301..305 {
        engine.remove_identity(Identity(id));
    }
    assert_eq!(look(&mut engine), (number, empty));
}

/// The subject has left its set, and so does not tell the engine which one the
/// policy changes.
#[test]
fn a_policy_that_changes_in_the_same_breath_as_its_subject_is_in_force() {
    let config = PolicyConfig::default();
    let mut engine = Engine::new(config.clone());
    for (id, info) in reserved_identities(&config) {
        engine.upsert_identity(id, info);
    }
    let (subject, mut numbers) = (Identity(300), Numbers::default());
    let says = |action| {
        policy(
            "p",
            app("web"),
            vec![ingress(action, Peers::Any, tcp(80, 80))],
        )
    };
    let goes_and_comes_back = |engine: &mut Engine| {
        engine.set_subjects(BTreeSet::new());
        engine.set_subjects([subject].into());
    };
    let declares_another_port = |engine: &mut Engine| {
        let mut info = pod("web");
        info.named_ports = [(("web".to_owned(), Protocol::TCP), [80].into())].into();
        engine.upsert_identity(subject, info);
    };
    type Edit<'a> = &'a dyn Fn(&mut Engine);
    for (name, edit) in [
        ("it goes and comes back", &goes_and_comes_back as Edit<'_>),
        ("its pods declare another port", &declares_another_port),
    ] {
        engine.upsert_identity(subject, pod("web"));
        engine.set_subjects([subject].into());
        engine.upsert_policy(says(Action::Allow));
        let is_allowed = |engine: &mut Engine, numbers: &mut Numbers| {
            let resolution = engine.resolution(numbers);
            let set = &resolution.sets[&resolution.subjects[&subject]];
            evaluate(&set.rows, Direction::Ingress, Identity::HOST, 6, 80).is_allowed()
        };
        assert!(is_allowed(&mut engine, &mut numbers), "{name}");
        edit(&mut engine);
        engine.upsert_policy(says(Action::Deny));
        assert!(!is_allowed(&mut engine, &mut numbers), "{name}");
    }
}
