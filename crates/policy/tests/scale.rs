//! What a rule costs does not depend on how many there are whom it does not tell
//! apart.

use std::collections::BTreeSet;

use axon_abi::{ClassKey, ClassRow, Direction, Identity};
use axon_model::{
    Action, Auth, Entity, Label, Origin, Peer, Peers, PolicyKind, PolicyObject, PolicyRows, Ports,
    Requirement, RowDiff, Rule, RuleEntry, Selector, Subject, Tier, source,
};
use axon_policy::{Engine, IdentityInfo, Numbers, PolicyConfig, RowCount, reserved_identities};

const NAMESPACE: &str = "io.kubernetes.pod.namespace";

fn pod(n: u32) -> IdentityInfo {
    let labels = [
        Label::new(source::K8S, "app", &format!("app-{n}")),
        Label::new(source::K8S, NAMESPACE, &format!("ns-{}", n % 50)),
        Label::new(source::K8S, "io.cilium.k8s.policy.cluster", "default"),
    ];
    IdentityInfo::labelled(labels.into_iter().collect())
}

fn policy(tier: Tier, action: Action, peer: Peer) -> PolicyObject {
    let direction = Direction::Ingress;
    let rule = Rule {
        subject: Subject::Endpoints(Selector::default()),
        tier,
        default_deny_ingress: true,
        default_deny_egress: false,
        entries: vec![RuleEntry {
            direction,
            action,
            peers: Peers::List(vec![peer]),
            ports: Ports::Any,
            l7: None,
            auth: Auth::Unsaid,
        }],
        description: String::new(),
        labels: Vec::new(),
        log: String::new(),
    };
    PolicyObject {
        origin: Origin {
            kind: PolicyKind::CiliumClusterwideNetworkPolicy,
            namespace: String::new(),
            name: format!("{tier:?}-{action:?}"),
        },
        uid: String::new(),
        staged: false,
        rules: vec![rule],
    }
}

/// An engine of so many identities, with one subject.
fn engine(identities: u32) -> Engine {
    let config = PolicyConfig::default();
    let mut engine = Engine::new(config.clone());
    for (id, info) in reserved_identities(&config) {
        engine.upsert_identity(id, info);
    }
    for n in 0..identities {
        engine.upsert_identity(Identity(1000 + n), pod(n));
    }
    engine.set_subjects(BTreeSet::from([Identity(1000)]));
    engine
}

/// The rows of the subject's set under these policies alone.
fn rows(engine: &mut Engine, policies: &[PolicyObject]) -> RowCount {
    for policy in policies {
        engine.upsert_policy(policy.clone());
    }
    let count = engine.resolution(&mut Numbers::default()).row_count();
    for policy in policies {
        engine.remove_policy(&policy.origin);
    }
    count
}

#[test]
fn a_rule_for_the_cluster_costs_the_same_among_100_000_identities() {
    let cluster = || Peer::Entity(Entity::Cluster);
    let pods = || {
        let has_namespace = Requirement::exists(source::K8S, NAMESPACE);
        Peer::Endpoints(Selector::new(vec![has_namespace]))
    };
    let (mut few, mut many) = (engine(10), engine(100_000));
    for (what, policies) in [
        (
            "the cluster",
            vec![policy(Tier::Normal, Action::Allow, cluster())],
        ),
        (
            "every pod",
            vec![policy(Tier::Normal, Action::Allow, pods())],
        ),
        (
            "every pod passes to a tier that allows the cluster",
            vec![
                policy(Tier::Admin(1), Action::Pass, pods()),
                policy(Tier::Admin(2), Action::Deny, cluster()),
                policy(Tier::Normal, Action::Allow, cluster()),
            ],
        ),
    ] {
        let count = rows(&mut few, &policies);
        assert_eq!(rows(&mut many, &policies), count, "{what}");
        assert!(
            count.classes <= 1 && count.entries <= 20,
            "{what}: {count:?}"
        );
    }
}

/// The identities in whose class rows two versions of a set differ, and how many
/// entries they differ in.
fn difference(old: &PolicyRows, new: &PolicyRows) -> (Vec<Identity>, usize) {
    let of = |difference: RowDiff<'_, '_, ClassKey, ClassRow>| match difference {
        RowDiff::Add(key, _) | RowDiff::Remove(key, _) => key,
        RowDiff::Update { new, .. } => new.0,
    }
    .identity;
    let classes = old.classes.diff(&new.classes).map(of).collect();
    (classes, old.entries.diff(&new.entries).count())
}

#[test]
fn who_comes_among_100_000_identities_changes_no_row_but_his_own() {
    let app = |name: &str| {
        let requirement = Requirement::equals(source::K8S, "app", name);
        Peer::Endpoints(Selector::new(vec![requirement]))
    };
    let mut engine = engine(100_000);
    engine.upsert_policy(policy(
        Tier::Normal,
        Action::Allow,
        Peer::Entity(Entity::Cluster),
    ));
    engine.upsert_policy(policy(Tier::Normal, Action::Deny, app("app-7")));
    let mut numbers = Numbers::default();
    let mut rows = |engine: &mut Engine| {
        let resolution = engine.resolution(&mut numbers);
        let [set] = resolution.sets.values().collect::<Vec<_>>()[..] else {
            panic!("one subject has one set");
        };
        (set.number, set.rows.clone())
    };
    let (number, before) = rows(&mut engine);
    let comes = |engine: &mut Engine, n: u32, like: u32| {
        engine.upsert_identity(Identity(1000 + n), pod(like));
    };
    comes(&mut engine, 100_000, 100_000);
    let (same, after) = rows(&mut engine);
    assert_eq!((same, difference(&before, &after)), (number, (vec![], 0)));
    // One whom a rule tells apart has a row, and no more entries than others like him.
    comes(&mut engine, 100_001, 7);
    let (same, told) = rows(&mut engine);
    let expected = (vec![Identity(101_001)], 0);
    assert_eq!((same, difference(&after, &told)), (number, expected));
    engine.remove_identity(Identity(101_001));
    let (same, gone) = rows(&mut engine);
    assert_eq!((same, gone == after), (number, true));
}
