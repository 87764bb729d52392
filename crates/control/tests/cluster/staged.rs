//! Staged policies: known, followed, and in force nowhere.

use axon_abi::{Direction, Identity};
use axon_control::ConditionKind;
use axon_model::{Action, Peers};

use crate::world::{Cluster, cidr, ingress, origin, pods};

/// Has a policy staged, or not any more.
fn stage(c: &Cluster, name: &str, staged: bool) {
    let policies = &c.observed.policies;
    let mut policy = (*policies.get(&origin(name)).expect("a policy")).clone();
    policy.staged = staged;
    policies.write(|txn| txn.insert(origin(name), policy));
}

#[test]
fn staged_policies_are_followed_and_not_in_force() {
    let mut c = Cluster::ready();
    for (id, name) in [(1, "web"), (2, "client")] {
        c.pod(name, "one", &format!("10.0.0.{id}"));
        c.endpoint(id, name);
    }
    c.step();
    assert!(c.controller.take_staged().is_none(), "nothing is staged");
    let client = c.row(2).expect("a row").identity.0;
    let before = (c.row(1), c.controller.persisted().clone());

    c.policy(
        "closing",
        "web",
        vec![ingress(Action::Allow, pods("web"), 80)],
    );
    stage(&c, "closing", true);
    c.step();
    assert!(c.allowed(client, 1, 80));
    let persisted = c.controller.persisted().clone();
    assert_eq!(
        (c.row(1), persisted),
        before,
        "no row and no number has changed"
    );
    let staged = c.controller.take_staged().expect("news");
    assert!(staged.policies.contains(&origin("closing")));
    let subject = c.row(1).expect("a row").identity;
    assert_eq!(
        Vec::from_iter(staged.resolution.subjects.keys()),
        [&subject]
    );
    assert!(c.controller.take_staged().is_none(), "told already");

    // A prefix that only a staged policy names is told apart.
    c.policy(
        "places",
        "web",
        vec![ingress(Action::Deny, cidr("198.51.100.0/24"), 80)],
    );
    stage(&c, "places", true);
    c.step();
    let prefix = c.prefixes().get("198.51.100.0/24").copied();
    let prefix = Identity(prefix.expect("an identity"));
    assert!(c.allows(1, Direction::Ingress, prefix, 80));
    let staged = c.controller.take_staged().expect("news");
    assert!(staged.known.contains(&prefix));

    // Somebody who comes later is known to it too.
    c.pod("late", "two", "10.0.2.7");
    c.step();
    let late = Identity(c.identity("10.0.2.7").expect("its identity"));
    let staged = c.controller.take_staged().expect("news");
    assert!(staged.known.contains(&late));

    // Enforced, and staged again.
    stage(&c, "closing", false);
    c.step();
    assert!(!c.allowed(client, 1, 80));
    stage(&c, "closing", true);
    c.step();
    assert!(c.allowed(client, 1, 80));
    c.no_policy("closing");
    c.no_policy("places");
    c.step();
    let staged = c.controller.take_staged().expect("news");
    assert!(staged.policies.is_empty() && staged.resolution.sets.is_empty());
}

/// What a staged policy asks for that is not enforced here drops nothing.
#[test]
fn nobody_is_told_of_what_a_staged_policy_would_not_get() {
    let mut c = Cluster::ready();
    c.pod("web", "one", "10.0.0.1");
    c.endpoint(1, "web");
    let mut entry = ingress(Action::Allow, Peers::Any, 80);
    entry.l7 = Some(Default::default());
    c.policy("http", "web", vec![entry]);
    let unsupported = |c: &mut Cluster| {
        let conditions = c.step().conditions;
        let mut kinds = conditions.iter().map(|condition| condition.kind);
        kinds.any(|kind| kind == ConditionKind::PolicyUnsupported)
    };
    assert!(unsupported(&mut c));
    stage(&c, "http", true);
    assert!(!unsupported(&mut c));
    assert!(c.allowed(Identity::HOST.0, 1, 80));
}
