//! Policies of more rules than anybody writes by hand, and tiers that
//! contradict each other: bounded, told, and never less strict.

use axon_control::{Capacity, ConditionKind, Config, WaitReason};
use axon_model::{Action, Peers, Tier};

use super::world::{Cluster, config, ingress, origin, pods};

/// One entry for each port.
const RULES: u16 = u16::MAX;

fn every_port(action: Action) -> Vec<axon_model::RuleEntry> {
    (1..=RULES)
        .map(|port| ingress(action, Peers::Any, port))
        .collect()
}

fn with_room(entries: usize) -> Config {
    Config {
        capacity: Capacity {
            entries,
            ..Capacity::default()
        },
        ..config()
    }
}

#[test]
fn a_policy_of_64k_rules_is_in_force_where_it_fits() {
    let mut c = Cluster::new(with_room(usize::from(RULES) + 10));
    c.complete();
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    c.policy("p", "web", every_port(Action::Allow));
    let report = c.step();
    assert_eq!((report.conditions, report.waiting), (vec![], vec![]));
    assert!(c.allowed(9, 5, 1) && c.allowed(9, 5, RULES) && !c.allowed(9, 5, 0));
}

#[test]
fn a_policy_of_64k_rules_is_told_where_it_does_not_fit() {
    for (action, kept) in [(Action::Allow, true), (Action::Deny, false)] {
        let mut c = Cluster::new(with_room(1000));
        c.complete();
        c.pod("web", "one", "");
        c.endpoint(5, "web");
        c.policy("p", "web", vec![ingress(Action::Allow, Peers::Any, 80)]);
        c.step();
        c.policy("p", "web", every_port(action));
        let report = c.step();
        assert!(
            matches!(report.waiting[..], [(5, WaitReason::Capacity(_))]),
            "{action:?}"
        );
        let condition = &report.conditions[0];
        assert_eq!(condition.kind, ConditionKind::PolicyOverflow);
        assert_eq!(condition.policies, [origin("p")]);
        assert!(
            condition.message.contains("65536 policy entries"),
            "{}",
            condition.message
        );
        // What both allow stays, nothing else.
        assert_eq!(c.allowed(9, 5, 80), kept, "{action:?}");
        assert!(!c.allowed(9, 5, 81), "{action:?}");
        c.no_policy("p");
        assert_eq!(c.step().conditions, []);
        assert!(c.allowed(9, 5, 81));
    }
}

/// What passes is said once more: those rows are counted too (100 of the first
/// set, 119 of the second), and where they do not fit nothing is open that the
/// administrators deny.
#[test]
fn rows_of_tiers_are_counted() {
    let admin = |c: &Cluster, entries| c.policy_in("admin", Tier::Admin(3), entries);
    let ports = |action| {
        (1..=100)
            .map(|port| ingress(action, Peers::Any, port))
            .collect()
    };
    for (room, fits) in [(219, true), (218, false)] {
        let mut c = Cluster::new(with_room(room));
        c.complete();
        c.pod("web", "one", "");
        c.endpoint(5, "web");
        admin(&c, vec![ingress(Action::Deny, pods("client"), 80)]);
        c.policy("p", "web", ports(Action::Allow));
        let report = c.step();
        assert_eq!(report.conditions, []);
        let mut entries = vec![ingress(Action::Deny, Peers::Any, 80)];
        for port in 101..120 {
            entries.insert(0, ingress(Action::Pass, Peers::Any, port));
        }
        admin(&c, entries);
        let report = c.step();
        assert_eq!(report.conditions.is_empty(), fits, "{room}");
        assert!(!c.allowed(9, 5, 80), "{room}");
        assert_eq!(c.allowed(9, 5, 81), fits, "{room}: else nothing passes");
    }
}

/// Policies of one priority that say different things are told of: nobody wrote
/// down which goes first.
#[test]
fn policies_of_one_priority_that_clash_are_told() {
    let of = |c: &Cluster, name, tier, action| {
        c.policy_in(name, tier, vec![ingress(action, Peers::Any, 80)]);
    };
    for (what, tiers, actions, told) in [
        (
            "one priority",
            [Tier::Admin(3), Tier::Admin(3)],
            [Action::Allow, Action::Deny],
            true,
        ),
        (
            "of Baseline too",
            [Tier::Baseline(0), Tier::Baseline(0)],
            [Action::Deny, Action::Allow],
            true,
        ),
        (
            "another priority",
            [Tier::Admin(3), Tier::Admin(4)],
            [Action::Allow, Action::Deny],
            false,
        ),
        (
            "another tier",
            [Tier::Admin(3), Tier::Baseline(3)],
            [Action::Allow, Action::Deny],
            false,
        ),
        (
            "the same is said",
            [Tier::Admin(3), Tier::Admin(3)],
            [Action::Deny, Action::Deny],
            false,
        ),
    ] {
        let mut c = Cluster::ready();
        c.pod("web", "one", "");
        c.endpoint(5, "web");
        of(&c, "first", tiers[0], actions[0]);
        of(&c, "second", tiers[1], actions[1]);
        let conditions = c.step().conditions;
        let names = |condition: &axon_control::Condition| -> Vec<String> {
            condition.policies.iter().map(|p| p.name.clone()).collect()
        };
        let found: Vec<_> = conditions.iter().map(|c| (c.kind, names(c))).collect();
        let both = vec!["first".to_owned(), "second".to_owned()];
        let expected = told.then_some((ConditionKind::Conflict, both));
        assert_eq!(found, Vec::from_iter(expected), "{what}");
    }
}

/// What comes after the last place of a tier is told of, and counted.
#[test]
fn entries_without_a_place_of_their_own_are_told() {
    let mut c = Cluster::new(with_room(1 << 17));
    c.complete();
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    let all = || [every_port(Action::Allow), every_port(Action::Allow)].concat();
    let admin = |c: &Cluster, more: u16| {
        let rest = (1..=more).map(|port| ingress(Action::Allow, Peers::Any, port));
        let last = ingress(Action::Deny, Peers::Any, 0);
        let entries = all().into_iter().chain(rest).chain([last]).collect();
        c.policy_in("admin", Tier::Admin(3), entries);
    };
    admin(&c, 0);
    assert_eq!(c.step().conditions, [], "131,071 entries");
    admin(&c, 3);
    let conditions = c.step().conditions;
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].kind, ConditionKind::PolicyOverflow);
    assert_eq!(conditions[0].policies[0].name, "admin");
    let message = &conditions[0].message;
    assert!(message.contains("131074 entries"), "{message}");
    assert!(message.contains("131071 places"), "{message}");
    assert!(message.contains("last 2 that allow or pass"), "{message}");
}
