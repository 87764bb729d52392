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
