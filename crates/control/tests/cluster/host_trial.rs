//! Policy for the node itself that is on trial until somebody confirms it.

use axon_abi::Identity;
use axon_control::{ConditionKind, HostTrial};
use axon_model::{Action, Peers};

use crate::host::{firewall, guard, guard_origin, guard_says, may, pool, row};
use crate::world::{Cluster, ingress};

/// A policy on trial is in force until its time is over, also for an agent that
/// is another one by then.
#[test]
fn policy_for_the_node_that_is_not_confirmed_is_taken_back() {
    let trials = |c: &mut Cluster, known| {
        c.controller.have_host_policy_confirmed(10_000, 0, known);
    };
    let shut = |c: &Cluster| !may(c, Identity::WORLD_IPV4, 80);
    let kinds = |report: &axon_control::StepReport| -> Vec<ConditionKind> {
        report.conditions.iter().map(|c| c.kind).collect()
    };
    let mut c = Cluster::new(firewall());
    trials(&mut c, None);
    pool(&c, "edge");
    c.complete();
    c.step();
    assert!(!shut(&c));
    guard(&c, "edge");
    let report = c.step();
    assert_eq!(
        (shut(&c), kinds(&report)),
        (true, vec![ConditionKind::HostPolicyTrial])
    );
    let over_ms = c.now_ms + 10_000;
    assert!(report.next_step_ms.is_some_and(|due| due <= over_ms));
    let kept = c.controller.unkept_host_trial().expect("news").clone();

    // The agent is killed; the next one knows what is on disk.
    let mut next = Cluster::new(firewall());
    trials(&mut next, Some(kept.clone()));
    pool(&next, "edge");
    guard(&next, "edge");
    next.complete();
    next.now_ms = over_ms - 1;
    next.step();
    assert!(shut(&next), "it is still on trial");
    next.now_ms = over_ms;
    let report = next.step();
    assert_eq!(
        (shut(&next), kinds(&report)),
        (false, vec![ConditionKind::HostPolicyTrial])
    );
    assert!(!next.controller.confirm_host_policy(), "it is too late");
    assert!(next.controller.unkept_host_trial().is_some());

    // Confirmed in time it stays.
    assert!(c.controller.confirm_host_policy());
    c.now_ms = over_ms + 1;
    let report = c.step();
    assert_eq!((shut(&c), kinds(&report)), (true, vec![]));
    assert_ne!(c.controller.unkept_host_trial(), Some(&kept));
    c.controller.host_trial_is_kept();
    c.step();
    assert_eq!(c.controller.unkept_host_trial(), None);
}

/// A staged policy is not in force: there is nothing to try. That one is no longer
/// in force is tried.
#[test]
fn only_what_is_enforced_goes_on_trial() {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    let shut = |c: &Cluster| !may(c, Identity::WORLD_IPV4, 80);
    let stage = |c: &Cluster, staged: bool| {
        guard(c, "edge");
        let policies = &c.observed.policies;
        let mut policy = (*policies.get(&guard_origin()).expect("guard")).clone();
        policy.staged = staged;
        policies.write(|txn| txn.insert(guard_origin(), policy));
    };
    pool(&c, "edge");
    c.complete();
    c.step();
    stage(&c, true);
    let report = c.step();
    assert_eq!((shut(&c), report.conditions), (false, vec![]));
    let uses = c.controller.staged_policies();
    assert!(
        uses.iter()
            .any(|used| used.host && used.endpoints.is_empty())
    );
    assert!(!c.controller.confirm_host_policy(), "nothing to confirm");
    stage(&c, false);
    c.step();
    assert!(shut(&c) && c.controller.confirm_host_policy());
    c.step();
    stage(&c, true);
    let report = c.step();
    assert_eq!(
        (shut(&c), report.conditions.first().map(|c| c.kind)),
        (false, Some(ConditionKind::HostPolicyTrial))
    );
    c.now_ms += 10_000;
    c.step();
    assert!(shut(&c), "taken back: it is enforced again");
}

/// What goes on trial must be on disk first; what is taken back need not.
#[test]
fn only_what_goes_on_trial_waits_for_the_disk() {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    let told = |c: &Cluster| {
        let controller = &c.controller;
        let is_news = controller.unkept_host_trial().is_some();
        let must_be = controller.host_trial_must_be_kept();
        (is_news, must_be, controller.host_trial_is_taken_back())
    };
    pool(&c, "edge");
    c.complete();
    c.step();
    assert_eq!(told(&c), (true, false, false), "the first time");
    c.controller.host_trial_is_kept();
    guard(&c, "edge");
    c.step();
    assert_eq!(told(&c), (true, true, false), "on trial");
    c.controller.host_trial_is_kept();
    assert_eq!(told(&c), (false, false, false));
    c.now_ms += 10_000;
    c.step();
    assert_eq!(told(&c), (true, false, true), "taken back");
    guard_says(&c, "edge", 443, "");
    c.step();
    assert!(!told(&c).2, "something else is on trial");
}

/// All but some table is complete.
fn complete_but(c: &Cluster, policies: bool) {
    c.observed.namespaces.mark_complete();
    c.observed.nodes.mark_complete();
    c.observed.cidr_groups.mark_complete();
    c.observed.services.mark_complete();
    c.observed.endpoint_slices.mark_complete();
    if policies {
        c.observed.policies.mark_complete();
    } else {
        c.observed.pods.mark_complete();
    }
}

/// A trial of another life, from 0 to 10 s.
fn tried() -> HostTrial {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    pool(&c, "edge");
    c.complete();
    c.now_ms = 0;
    c.step();
    guard(&c, "edge");
    c.step();
    c.controller.unkept_host_trial().expect("news").clone()
}

#[test]
fn a_trial_is_over_also_where_policies_never_come() {
    let mut c = Cluster::new(firewall());
    c.controller
        .have_host_policy_confirmed(10_000, 0, Some(tried()));
    pool(&c, "edge");
    complete_but(&c, false);
    let report = c.step();
    assert!(!may(&c, Identity::WORLD_IPV4, 80), "on trial");
    assert_eq!(report.next_step_ms, Some(10_000));
    c.now_ms = 10_000;
    let report = c.step();
    assert!(may(&c, Identity::WORLD_IPV4, 80), "taken back");
    assert!(report.next_step_ms.is_none_or(|due| due > c.now_ms));
    let set = c.controller.host().policy_set;
    assert_eq!(row(&c).map(|row| row.policy_set), Some(set));
}

#[test]
fn what_waits_for_a_source_says_so_and_is_not_due() {
    let mut c = Cluster::new(firewall());
    c.controller
        .have_host_policy_confirmed(10_000, 0, Some(tried()));
    pool(&c, "edge");
    guard(&c, "edge");
    complete_but(&c, true);
    c.now_ms = 20_000;
    let report = c.step();
    assert!(report.next_step_ms.is_none_or(|due| due > c.now_ms));
    let told = &report.conditions;
    let told = told
        .iter()
        .find(|c| c.kind == ConditionKind::HostPolicyTrial);
    let told = &told.expect("a condition").message;
    assert!(told.contains("once pods are known"), "{told}");
}

#[test]
fn rules_about_other_nodes_are_not_tried_here() {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    pool(&c, "batch");
    c.complete();
    c.step();
    guard(&c, "edge");
    let report = c.step();
    assert_eq!(report.conditions, [], "nothing is on trial");
    c.now_ms += 20_000;
    c.step();
    pool(&c, "edge");
    let report = c.step();
    assert_eq!(report.conditions, []);
    assert!(!may(&c, Identity::WORLD_IPV4, 80), "in force for good");
}

#[test]
fn what_was_refused_stays_so_whatever_labels_come_and_go() {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    pool(&c, "edge");
    c.complete();
    c.step();
    guard(&c, "edge");
    c.step();
    c.now_ms += 10_000;
    c.step();
    for label in ["batch", "edge"] {
        pool(&c, label);
        c.step();
        assert!(may(&c, Identity::WORLD_IPV4, 80), "refused");
    }
}

#[test]
fn a_description_is_not_tried() {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    pool(&c, "edge");
    c.complete();
    c.step();
    guard(&c, "edge");
    c.step();
    c.now_ms += 9_000;
    guard_says(&c, "edge", 22, "one more word");
    c.step();
    c.now_ms += 1_000;
    c.step();
    assert!(may(&c, Identity::WORLD_IPV4, 80), "no minute more");
    guard_says(&c, "edge", 22, "and another");
    c.step();
    assert!(may(&c, Identity::WORLD_IPV4, 80), "not tried anew");
}

/// Rules for endpoints are never on trial, also beside others in one policy.
#[test]
fn rules_for_endpoints_are_not_tried() {
    let mut c = Cluster::new(firewall());
    c.controller.have_host_policy_confirmed(10_000, 0, None);
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    pool(&c, "edge");
    c.complete();
    c.step();
    guard(&c, "edge");
    c.policy("p", "web", vec![ingress(Action::Deny, Peers::Any, 80)]);
    c.step();
    c.now_ms += 20_000;
    c.step();
    assert!(may(&c, Identity::WORLD_IPV4, 80), "taken back");
    assert!(!c.allowed(Identity::WORLD_IPV4.0, 7, 80), "in force");
    let policies = &c.observed.policies;
    policies.write(|txn| txn.remove(&guard_origin()));
    let report = c.step();
    assert_eq!(report.conditions, [], "what was refused is gone");
}
