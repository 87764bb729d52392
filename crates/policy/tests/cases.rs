//! What sets cost and say in cases known by hand.

use std::collections::BTreeSet;

use axon_abi::{Direction, Identity, PolicySetFlags};
use axon_model::{
    Action, Entity, GroupKey, GroupRef, HttpRule, L7, L7Rules, Label, Labels, Origin, Peer, Peers,
    PolicyKind, PolicyObject, PortMatch, PortRule, Ports, Protocol, Requirement, Rule, RuleEntry,
    Selector, Subject, Tier,
};
use axon_policy::{
    Engine, Group, IdentityInfo, Members, Numbers, PolicyConfig, PolicySet, RowCount, Verdict,
    World, at_least_as_strict, cidr_labels, evaluate, reserved_identities, resolve,
};

const NAMESPACE: &str = "io.kubernetes.pod.namespace";

fn labels(texts: &[&str]) -> Labels {
    let label = |text: &&str| text.parse::<Label>().expect("label");
    texts.iter().map(label).collect()
}

fn pod(app: &str) -> IdentityInfo {
    let app = format!("k8s:app={app}");
    let place = [
        "k8s:io.kubernetes.pod.namespace=shop",
        "k8s:io.cilium.k8s.policy.cluster=default",
    ];
    IdentityInfo::labelled(labels(&[&app, place[0], place[1]]))
}

fn app(name: &str) -> Selector {
    Selector::new(vec![Requirement::equals("k8s", "app", name)])
}

fn policy(name: &str, subject: Selector, entries: Vec<RuleEntry>) -> PolicyObject {
    let has = |direction| entries.iter().any(|e: &RuleEntry| e.direction == direction);
    let rule = Rule {
        subject: Subject::Endpoints(subject),
        tier: Tier::Normal,
        default_deny_ingress: has(Direction::Ingress),
        default_deny_egress: has(Direction::Egress),
        entries,
        description: String::new(),
        labels: Vec::new(),
        log: String::new(),
    };
    PolicyObject {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "shop".into(),
            name: name.into(),
        },
        uid: String::new(),
        staged: false,
        rules: vec![rule],
    }
}

fn ingress(action: Action, peers: Peers, ports: Ports) -> RuleEntry {
    RuleEntry {
        direction: Direction::Ingress,
        action,
        peers,
        ports,
        l7: None,
    }
}

fn from(peer: Peer) -> Peers {
    Peers::List(vec![peer])
}

fn tcp(first: u16, last: u16) -> Ports {
    Ports::List(vec![PortRule {
        protocol: Protocol::TCP,
        port: PortMatch::Range(first, last),
    }])
}

/// A web server (300), its clients (301 on), and the set of the server.
fn server_set(policies: &[PolicyObject], clients: u32) -> (PolicySet, Numbers) {
    server_set_of(&PolicyConfig::default(), policies, clients)
}

fn server_set_of(
    config: &PolicyConfig,
    policies: &[PolicyObject],
    clients: u32,
) -> (PolicySet, Numbers) {
    let mut world = World {
        identities: reserved_identities(config),
        ..World::default()
    };
    world.identities.insert(Identity(300), pod("web"));
    for n in 1..=clients {
        world
            .identities
            .insert(Identity(300 + n), pod(&format!("client-{n}")));
    }
    world.policies = policies
        .iter()
        .map(|p| (p.origin.clone(), p.clone()))
        .collect();
    world.subjects = [Identity(300)].into();
    let mut numbers = Numbers::default();
    let resolution = resolve(config, &world, &mut numbers);
    let set = &resolution.sets[&resolution.subjects[&Identity(300)]];
    ((**set).clone(), numbers)
}

#[test]
fn rows_grow_with_what_is_told_apart_and_not_with_identities() {
    let allow = |peer| vec![ingress(Action::Allow, from(peer), Ports::Any)];
    let every_pod = Selector::new(vec![Requirement::exists("k8s", NAMESPACE)]);
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
fn the_empty_set_allows_everything_under_a_number() {
    let (set, _) = server_set(&[policy("other", app("db"), vec![])], 3);
    assert_ne!(set.number, 0);
    assert_eq!(set.rows.set.flags, 0);
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
    let both = PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;
    assert_eq!(set.rows.set.flags, both);
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
