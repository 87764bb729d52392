//! Policy that is only tried: staged policies, which are known, followed, and in
//! force nowhere; and audit mode.

use axon_abi::{Direction, EndpointFlags, HOST_DEVICE, Identity};
use axon_control::{ConditionKind, Config, StagedUse};
use axon_model::{Action, Auth, Namespace, Peers, RuleEntry};

use crate::world::{Cluster, cidr, config, ingress, origin, pods};

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
    let of_web = StagedUse {
        policy: origin("closing"),
        endpoints: vec![1],
        host: false,
    };
    assert_eq!(c.controller.staged_policies(), [of_web]);

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
    let uses = c.controller.staged_policies();
    assert!(uses.iter().all(|used| used.policy != origin("closing")));
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
    let asks = |entry: &mut RuleEntry| entry.l7 = Some(Default::default());
    let demands = |entry: &mut RuleEntry| entry.auth = Auth::Required;
    let both = |entry: &mut RuleEntry| {
        asks(entry);
        demands(entry);
    };
    let fails = |entry: &mut RuleEntry| entry.auth = Auth::AlwaysFail;
    type Edit<'a> = (&'a dyn Fn(&mut RuleEntry), &'a [&'a str]);
    let cases: [Edit<'_>; 4] = [
        (&asks, &["no proxy"]),
        (&demands, &["no mutual authentication"]),
        (&both, &["no proxy", "no mutual authentication"]),
        // That is what its author wants.
        (&fails, &[]),
    ];
    for (ask, expected) in cases {
        let mut c = Cluster::ready();
        c.pod("web", "one", "10.0.0.1");
        c.endpoint(1, "web");
        let mut entry = ingress(Action::Allow, Peers::Any, 80);
        ask(&mut entry);
        c.policy("http", "web", vec![entry]);
        let unsupported = |c: &mut Cluster| -> Vec<String> {
            let conditions = c.step().conditions.into_iter();
            let kind = ConditionKind::PolicyUnsupported;
            let conditions = conditions.filter(|condition| condition.kind == kind);
            conditions.map(|condition| condition.message).collect()
        };
        let told = unsupported(&mut c);
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{told}");
        }
        assert!(!c.allowed(Identity::HOST.0, 1, 80), "{expected:?}");
        stage(&c, "http", true);
        assert!(unsupported(&mut c).is_empty());
        assert!(c.allowed(Identity::HOST.0, 1, 80));
    }
}

/// An endpoint is audited if it, or its namespace, is switched so; flows that were
/// let through are judged again when it is not any more.
#[test]
fn endpoints_and_namespaces_and_the_node_are_audited() {
    let firewall = Config {
        host_firewall: true,
        ..config()
    };
    let mut c = Cluster::new(firewall);
    c.complete();
    c.pod("web", "one", "10.0.0.1");
    c.endpoint(1, "web");
    c.step();
    let audited = |c: &Cluster| {
        let host = c.desired.endpoints.get(&HOST_DEVICE).map(|row| *row);
        [c.row(1), host].map(|row| row.is_some_and(|row| row.flags & EndpointFlags::AUDIT != 0))
    };
    let endpoint = |c: &Cluster, audit: bool| {
        let mut endpoint = (*c.observed.endpoints.get(&1).expect("it")).clone();
        endpoint.audit = audit;
        c.observed.endpoints.write(|txn| txn.insert(1, endpoint));
    };
    let namespace = |c: &Cluster, audit: bool| {
        let namespace = Namespace {
            name: "shop".into(),
            audit,
            ..Namespace::default()
        };
        let namespaces = &c.observed.namespaces;
        namespaces.write(|txn| txn.insert("shop".into(), namespace));
    };
    let mut epoch = c.epoch();
    let mut turns = |c: &mut Cluster, expected: [bool; 2], what: &str| {
        c.step();
        assert_eq!(audited(c), expected, "{what}");
        c.now_ms += 60_000;
        c.step();
        assert_ne!(
            std::mem::replace(&mut epoch, c.epoch()),
            c.epoch(),
            "{what}"
        );
    };
    endpoint(&c, true);
    turns(&mut c, [true, false], "itself");
    endpoint(&c, false);
    turns(&mut c, [false, false], "not any more");
    namespace(&c, true);
    turns(&mut c, [true, false], "its namespace");
    namespace(&c, false);
    turns(&mut c, [false, false], "its namespace not any more");
    c.controller.set_host_audit(true);
    turns(&mut c, [false, true], "the node");
    c.controller.set_host_audit(false);
    turns(&mut c, [false, false], "the node not any more");
}
