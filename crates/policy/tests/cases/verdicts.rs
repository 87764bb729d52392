//! What sets say, and how many rows that takes.

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Entity, HttpRule, L7, L7Rules, Peer, Peers, PolicyObject, PortMatch, PortRule, Ports,
    Protocol, Requirement, RuleEntry, Selector, keys,
};
use axon_policy::{
    Engine, IdentityInfo, Numbers, PolicyConfig, PolicySet, RowCount, Verdict, World,
    at_least_as_strict, evaluate, reserved_identities, resolve,
};

use crate::server::{app, from, ingress, pod, policy, server_set, server_set_of, tcp};

#[test]
fn rows_grow_with_what_is_told_apart_and_not_with_identities() {
    let allow = |peer| vec![ingress(Action::Allow, from(peer), Ports::Any)];
    let every_pod = Selector::new(vec![Requirement::exists("k8s", keys::NAMESPACE)]);
    let count = |classes, entries| RowCount {
        sets: 1,
        classes,
        entries,
    };
    for (name, entries, expected) in [
        ("everyone", allow(Peer::Entity(Entity::All)), count(0, 1)),
        (
            "the cluster",
            allow(Peer::Entity(Entity::Cluster)),
            count(0, 8),
        ),
        ("every pod", allow(Peer::Endpoints(every_pod)), count(0, 1)),
        ("the world", allow(Peer::Entity(Entity::World)), count(0, 1)),
        (
            "one app",
            allow(Peer::Endpoints(app("client-7"))),
            count(1, 1),
        ),
        (
            "nobody",
            vec![ingress(Action::Allow, Peers::List(vec![]), Ports::Any)],
            count(0, 0),
        ),
        (
            "one app on a range",
            vec![ingress(
                Action::Allow,
                from(Peer::Endpoints(app("client-7"))),
                tcp(1024, 65535),
            )],
            count(1, 6),
        ),
    ] {
        for clients in [10, 1000] {
            let (set, _) = server_set(&[policy("p", app("web"), entries.clone())], clients);
            assert_eq!(
                RowCount::of(&set.rows),
                expected,
                "{name}, {clients} clients"
            );
        }
    }
}

#[test]
fn the_empty_set_allows_everything_under_a_number() {
    let (set, _) = server_set(&[policy("other", app("db"), vec![])], 3);
    assert_ne!(set.number, 0);
    for egress in [false, true] {
        assert!(!PolicySet::is_enforced(&set.rows.set, egress));
    }
    assert_eq!(RowCount::of(&set.rows).entries, 0);
    let verdict = evaluate(&set.rows, Direction::Ingress, Identity(301), 6, 80);
    assert_eq!(verdict, Verdict::AllowedByDefault);
}

#[test]
fn a_deny_wins_and_the_more_specific_entry_is_reported() {
    let allow = |peers, ports| ingress(Action::Allow, peers, ports);
    let deny = |peers, ports| ingress(Action::Deny, peers, ports);
    let client = |n: u32| from(Peer::Endpoints(app(&format!("client-{n}"))));
    let policies = [
        policy("a-all", app("web"), vec![allow(Peers::Any, Ports::Any)]),
        policy("b-port", app("web"), vec![allow(Peers::Any, tcp(80, 80))]),
        policy("c-client", app("web"), vec![allow(client(1), tcp(80, 80))]),
        policy("d-deny", app("web"), vec![deny(client(2), Ports::Any)]),
    ];
    let (set, numbers) = server_set(&policies, 3);
    let said = |remote, port| {
        let verdict = evaluate(&set.rows, Direction::Ingress, Identity(remote), 6, port);
        let (Verdict::Allowed { rule } | Verdict::Denied { rule }) = verdict else {
            return (verdict.is_allowed(), "");
        };
        let origin = &numbers.rules.rule(rule).expect("a known rule").origin;
        let n = policies
            .iter()
            .position(|p| p.origin == *origin)
            .expect("a policy");
        (verdict.is_allowed(), ["a", "b", "c", "d"][n])
    };
    for (name, remote, port, expected) in [
        ("client and port", 301, 80, (true, "c")),
        ("anyone on the port", 303, 80, (true, "b")),
        ("anyone elsewhere", 303, 81, (true, "a")),
        ("denied, whatever allows it", 302, 80, (false, "d")),
    ] {
        assert_eq!(said(remote, port), expected, "{name}");
    }
}

/// The proxy knows what passes it by as well, and not the other way round.
#[test]
fn what_must_be_said_yields_to_denies_and_without_a_proxy_to_what_passes() {
    let asks = |peers, ports| RuleEntry {
        l7: Some(std::sync::Arc::new(L7 {
            rules: L7Rules::Http(vec![HttpRule::default()]),
            ..L7::default()
        })),
        ..ingress(Action::Allow, peers, ports)
    };
    let client = |n: u32| from(Peer::Endpoints(app(&format!("client-{n}"))));
    let policies = [
        policy(
            "a",
            app("web"),
            vec![ingress(Action::Allow, client(1), tcp(80, 80))],
        ),
        policy("b", app("web"), vec![asks(Peers::Any, tcp(80, 89))]),
        policy(
            "c",
            app("web"),
            vec![ingress(Action::Deny, client(2), Ports::Any)],
        ),
        policy(
            "d",
            app("web"),
            vec![ingress(Action::Allow, Peers::Any, tcp(90, 90))],
        ),
    ];
    let all = [301, 302, 303].map(Identity);
    let open = [policy(
        "a",
        app("web"),
        vec![ingress(Action::Allow, Peers::Any, tcp(80, 89))],
    )];
    let (open, _) = server_set(&open, 3);
    for proxy in [true, false] {
        let config = PolicyConfig {
            proxy,
            ..PolicyConfig::default()
        };
        let (set, _) = server_set_of(&config, &policies, 3);
        let said = |remote, port| {
            let verdict = evaluate(&set.rows, Direction::Ingress, Identity(remote), 6, port);
            match verdict {
                Verdict::Redirected { .. } => "redirected",
                verdict if verdict.is_allowed() => "allowed",
                _ => "denied",
            }
        };
        let may_anyway = if proxy { "redirected" } else { "allowed" };
        for (remote, port, expected) in [
            (301, 80, may_anyway),
            (301, 81, "redirected"),
            (303, 85, "redirected"),
            (302, 80, "denied"),
            (303, 90, "allowed"),
        ] {
            assert_eq!(
                said(remote, port),
                expected,
                "proxy: {proxy}, {remote} {port}"
            );
        }
        assert!(at_least_as_strict(&set.rows, &set.rows, all.into_iter()));
        assert!(!at_least_as_strict(&open.rows, &set.rows, all.into_iter()));
    }
}

#[test]
fn endpoints_without_labels_are_closed() {
    let config = PolicyConfig::default();
    let world = World {
        identities: reserved_identities(&config),
        subjects: [Identity::INIT].into(),
        ..World::default()
    };
    let resolution = resolve(&config, &world, &mut Numbers::default());
    let set = &resolution.sets[&resolution.subjects[&Identity::INIT]];
    for egress in [false, true] {
        assert!(PolicySet::is_enforced(&set.rows.set, egress));
    }
}

#[test]
fn nobody_known_counts_for_strictness_too() {
    let allow_all = |default_deny_ingress| {
        let mut policy = policy(
            "p",
            app("web"),
            vec![ingress(Action::Allow, Peers::Any, Ports::Any)],
        );
        policy.rules[0].default_deny_ingress = default_deny_ingress;
        policy
    };
    let none = policy("q", app("other"), vec![]);
    let identities = [Identity(300), Identity::HOST, Identity::WORLD_IPV4];
    let rows = |policy: PolicyObject| {
        let mut engine = Engine::new(PolicyConfig::default());
        engine.upsert_identity(Identity(300), pod("web"));
        engine.upsert_policy(policy);
        engine.set_subjects([Identity(300)].into());
        let mut numbers = Numbers::default();
        let resolution = engine.resolution(&mut numbers);
        resolution.sets.values().next().expect("a set").rows.clone()
    };
    let (open, told, closed) = (rows(none), rows(allow_all(false)), rows(allow_all(true)));
    for (name, one, other, expected) in [
        (
            "no entry allows who is not known, one denies",
            &open,
            &told,
            false,
        ),
        ("and so does default deny", &open, &closed, false),
        (
            "an entry is as strict as default deny there",
            &told,
            &closed,
            true,
        ),
        ("what denies more is stricter", &closed, &open, true),
    ] {
        let said = at_least_as_strict(one, other, identities.into_iter());
        assert_eq!(said, expected, "{name}");
    }
}

#[test]
fn named_ports_are_the_receivers() {
    let config = PolicyConfig::default();
    let declares = |name: &str, port: u16| IdentityInfo {
        named_ports: [((name.to_owned(), Protocol::TCP), [port].into())].into(),
        ..pod("web")
    };
    let named = || {
        Ports::List(vec![PortRule {
            protocol: Protocol::TCP,
            port: PortMatch::Named("http".into()),
        }])
    };
    let both = |direction| RuleEntry {
        direction,
        ..ingress(Action::Allow, Peers::Any, named())
    };
    let entries = vec![both(Direction::Ingress), both(Direction::Egress)];
    let world = World {
        identities: [
            (Identity(300), declares("http", 8080)),
            (Identity(301), declares("http", 9090)),
            (Identity(302), declares("other", 80)),
        ]
        .into(),
        policies: [policy("p", app("web"), entries)]
            .map(|p| (p.origin.clone(), p))
            .into(),
        subjects: [300, 301, 302].map(Identity).into(),
        ..World::default()
    };
    let resolution = resolve(&config, &world, &mut Numbers::default());
    assert_eq!(resolution.sets.len(), 3, "the same rules, other ports");
    let allowed = |subject: u32, direction, remote: u32, port| {
        let rows = &resolution.sets[&resolution.subjects[&Identity(subject)]].rows;
        evaluate(rows, direction, Identity(remote), 6, port).is_allowed()
    };
    for (name, subject, direction, remote, port, expected) in [
        ("own port", 300, Direction::Ingress, 302, 8080, true),
        ("another's port", 300, Direction::Ingress, 302, 9090, false),
        ("no such name", 302, Direction::Ingress, 300, 80, false),
        ("the remote's port", 300, Direction::Egress, 301, 9090, true),
        (
            "own port at the remote",
            300,
            Direction::Egress,
            301,
            8080,
            false,
        ),
        (
            "a remote without the name",
            300,
            Direction::Egress,
            302,
            80,
            false,
        ),
    ] {
        assert_eq!(
            allowed(subject, direction, remote, port),
            expected,
            "{name}"
        );
    }
}
