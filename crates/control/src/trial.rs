//! Policies for the node itself on trial: what is not confirmed in time is taken
//! back.
//!
//! ```text
//!  other rules ──> on trial, in force ── confirmed ──> for good
//!                        └── time is over ──> refused: what was confirmed last is in force
//! ```
//!
//! What is on trial is on disk before it is in force, with its end by the wall
//! clock: an agent that is killed meanwhile takes it back all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_model::{Labels, Origin, PolicyObject, Rule, Subject};
use axon_policy::{PolicyConfig, unmet};
use serde::{Deserialize, Serialize};

use crate::controller::Controller;
use crate::policies::in_its_place;
use crate::seen::View;
use crate::views::{Condition, ConditionKind, HostStatus, WaitReason};

/// The rules about nodes of each policy that has any, by origin.
type NodeRules = Vec<(Origin, Vec<Rule>)>;

/// What must survive the agent, and the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostTrial {
    /// In force for good.
    confirmed: NodeRules,
    /// In force until then.
    trial: Option<Trial>,
    /// What was not confirmed in time.
    refused: Option<NodeRules>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    rules: NodeRules,
    /// When it is over, in milliseconds since 1970.
    until_unix_ms: u64,
}

impl HostTrial {
    fn in_force(&self) -> &NodeRules {
        match &self.trial {
            Some(trial) => &trial.rules,
            None => &self.confirmed,
        }
    }

    /// Takes back what is on trial once its time is over.
    fn expire(&mut self, now_unix_ms: u64, timeout_ms: u64) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        // A clock that was set back makes no trial longer.
        let latest = now_unix_ms.saturating_add(timeout_ms);
        trial.until_unix_ms = trial.until_unix_ms.min(latest);
        if now_unix_ms >= trial.until_unix_ms {
            self.refused = self.trial.take().map(|trial| trial.rules);
        }
    }

    /// Goes by what is wanted now.
    fn follow(&mut self, now_unix_ms: u64, timeout_ms: u64, wanted: NodeRules) {
        self.expire(now_unix_ms, timeout_ms);
        if same(&wanted, &self.confirmed) {
            self.confirmed = wanted;
            (self.trial, self.refused) = (None, None);
            return;
        }
        match (&mut self.trial, &mut self.refused) {
            (Some(trial), _) if same(&trial.rules, &wanted) => trial.rules = wanted,
            (_, Some(refused)) if same(refused, &wanted) => {
                *refused = wanted;
                self.trial = None;
            }
            _ => {
                self.trial = Some(Trial {
                    rules: wanted,
                    until_unix_ms: now_unix_ms.saturating_add(timeout_ms),
                });
                self.refused = None;
            }
        }
    }

    /// Takes for confirmed what is not about this node: it is in force as soon as
    /// the node has the labels for it. What was tried here stays tried.
    fn take_foreign(&mut self, wanted: &NodeRules, labels: &Labels) {
        let confirmed = gist(&self.confirmed);
        let tried = self.trial.iter().map(|trial| &trial.rules);
        let tried = tried.chain(&self.refused).flat_map(gist);
        let tried: BTreeSet<_> = tried.filter(|rule| !confirmed.contains(rule)).collect();
        let is_foreign = |origin: &Origin, rule: &Rule| {
            !is_about(rule, labels) && !tried.contains(&(origin.clone(), bare(rule)))
        };
        let foreign = |rules: &NodeRules, foreign: bool| -> Vec<(Origin, Rule)> {
            let rules = flat(rules).filter(|(origin, rule)| is_foreign(origin, rule) == foreign);
            rules.map(|(o, r)| (o.clone(), r.clone())).collect()
        };
        let others = foreign(wanted, true);
        let trial = self.trial.iter_mut().map(|trial| &mut trial.rules);
        let states = trial.chain(&mut self.refused).chain([&mut self.confirmed]);
        for rules in states {
            let own = foreign(rules, false);
            *rules = grouped(own.into_iter().chain(others.iter().cloned()));
        }
    }

    fn confirm(&mut self) -> bool {
        let trial = self.trial.take();
        let is_on_trial = trial.is_some();
        if let Some(trial) = trial {
            self.confirmed = trial.rules;
        }
        is_on_trial
    }
}

/// Trials of this node.
#[derive(Clone, Debug)]
pub(crate) struct Trials {
    timeout_ms: u64,
    /// Milliseconds since 1970 at the zero of the clock that is told.
    zero_unix_ms: u64,
    /// `None` before anything was ever seen: what is there then is confirmed.
    state: Option<HostTrial>,
    /// What is on disk.
    kept: Option<HostTrial>,
    /// Somebody has confirmed.
    poked: bool,
    /// What was on trial is not in force any more, and nothing has been since.
    taken_back: bool,
    /// The node's labels by which rules were tried last; `None` before.
    labels: Option<Labels>,
}

impl Trials {
    fn unix_ms(&self, now_ms: u64) -> u64 {
        self.zero_unix_ms.saturating_add(now_ms)
    }

    /// Ends what is over: the clock and the disk suffice for that.
    fn expire(&mut self, now_ms: u64) {
        let (now_unix_ms, timeout_ms) = (self.unix_ms(now_ms), self.timeout_ms);
        self.ending(|state| state.expire(now_unix_ms, timeout_ms));
    }

    /// Does something by which a trial may begin or end.
    fn ending(&mut self, change: impl FnOnce(&mut HostTrial)) {
        let Some(state) = &mut self.state else {
            return;
        };
        let was_on_trial = state.trial.is_some();
        change(state);
        self.taken_back = match state.trial {
            Some(_) => false,
            None => self.taken_back || was_on_trial,
        };
    }

    /// Whether what is in force now would not be taken back by an agent that knows
    /// no more than is on disk.
    fn must_be_kept(&self) -> bool {
        let on_trial = |state: &Option<HostTrial>| {
            let trial = state.as_ref()?.trial.as_ref()?;
            Some(gist(&trial.rules))
        };
        let now = on_trial(&self.state);
        now.is_some() && now != on_trial(&self.kept)
    }

    /// Whether the rules about nodes are known whatever policies are.
    pub(crate) fn are_known(&self) -> bool {
        self.state.is_some()
    }

    fn follow(&mut self, now_ms: u64, wanted: NodeRules, labels: &Labels) {
        self.labels = Some(labels.clone());
        let (now_unix_ms, timeout_ms) = (self.unix_ms(now_ms), self.timeout_ms);
        if self.state.is_none() {
            self.state = Some(HostTrial {
                confirmed: wanted,
                ..HostTrial::default()
            });
        } else {
            self.ending(|state| {
                state.take_foreign(&wanted, labels);
                state.follow(now_unix_ms, timeout_ms, wanted);
            });
        }
    }

    /// When what is on trial is over, by the clock that is told.
    fn over_ms(&self) -> Option<u64> {
        let trial = self.state.as_ref()?.trial.as_ref()?;
        Some(trial.until_unix_ms.saturating_sub(self.zero_unix_ms))
    }

    /// Whether there is something to do though nothing has changed.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.poked || self.over_ms().is_some_and(|over| over <= now_ms)
    }

    /// When there will be.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.over_ms()
    }

    /// The rules in force of each policy; none of a policy that has none.
    fn in_force(&self) -> BTreeMap<Origin, Vec<Rule>> {
        let rules = self.state.iter().flat_map(HostTrial::in_force);
        rules.cloned().collect()
    }

    fn condition(&self, host: &HostStatus) -> Option<Condition> {
        let state = self.state.as_ref()?;
        let remedy = "confirm it by `axon policy host-confirm`, from where it must let you in";
        let (rules, message, remedy) = if let Some(trial) = &state.trial {
            let timeout_s = self.timeout_ms.div_ceil(1000);
            let message = format!("is on trial, and taken back after {timeout_s} s");
            (&trial.rules, message, remedy)
        } else {
            let mut message =
                "was not confirmed in time: what was in force before is again".to_owned();
            if let Some(WaitReason::Sources { what }) = &host.waiting {
                message = format!("{message}, once {what} are known");
            }
            let remedy = "correct it; any change of it is tried anew";
            (state.refused.as_ref()?, message, remedy)
        };
        Some(Condition {
            kind: ConditionKind::HostPolicyTrial,
            policies: rules.iter().map(|(origin, _)| origin.clone()).collect(),
            message: format!("policy for the node itself {message}"),
            remedy: remedy.to_owned(),
        })
    }
}

fn is_about_nodes(rule: &&Rule) -> bool {
    matches!(rule.subject, Subject::Nodes(_))
}

/// Whether a rule selects a node with such labels.
fn is_about(rule: &Rule, labels: &Labels) -> bool {
    matches!(&rule.subject, Subject::Nodes(selector) if selector.matches(labels))
}

/// A rule without what decides nothing.
fn bare(rule: &Rule) -> Rule {
    Rule {
        description: String::new(),
        labels: Vec::new(),
        ..rule.clone()
    }
}

fn flat(rules: &NodeRules) -> impl Iterator<Item = (&Origin, &Rule)> {
    rules
        .iter()
        .flat_map(|(origin, rules)| rules.iter().map(move |rule| (origin, rule)))
}

fn grouped(rules: impl Iterator<Item = (Origin, Rule)>) -> NodeRules {
    let mut by_origin: BTreeMap<Origin, Vec<Rule>> = BTreeMap::new();
    for (origin, rule) in rules {
        by_origin.entry(origin).or_default().push(rule);
    }
    by_origin.into_iter().collect()
}

/// What rules decide, in whatever order they are.
fn gist(rules: &NodeRules) -> BTreeSet<(Origin, Rule)> {
    let rules = flat(rules).map(|(origin, rule)| (origin.clone(), bare(rule)));
    rules.collect()
}

fn same(one: &NodeRules, other: &NodeRules) -> bool {
    one == other || gist(one) == gist(other)
}

fn node_rules<'a>(policies: impl Iterator<Item = &'a PolicyObject>) -> NodeRules {
    // What is not enforced needs no trial; that it no longer is, does.
    let of = |policy: &PolicyObject| {
        let enforced = (!policy.staged).then_some(policy.rules.iter());
        let rules: Vec<Rule> = enforced
            .into_iter()
            .flatten()
            .filter(is_about_nodes)
            .cloned()
            .collect();
        (!rules.is_empty()).then(|| (policy.origin.clone(), rules))
    };
    let mut rules: NodeRules = policies.filter_map(of).collect();
    rules.sort();
    rules
}

impl Controller {
    /// Has rules about nodes be confirmed within so long; `known` is what an
    /// earlier life has kept, and `zero_unix_ms` the wall clock's time at the zero
    /// of the clock that steps are told. Call it before the first step.
    pub fn have_host_policy_confirmed(
        &mut self,
        timeout_ms: u64,
        zero_unix_ms: u64,
        known: Option<HostTrial>,
    ) {
        self.trials = Some(Trials {
            timeout_ms,
            zero_unix_ms,
            state: known.clone(),
            kept: known,
            poked: false,
            taken_back: false,
            labels: None,
        });
    }

    /// Confirms what is on trial; `false` if nothing is.
    pub fn confirm_host_policy(&mut self) -> bool {
        let Some(trials) = &mut self.trials else {
            return false;
        };
        let confirmed = trials.state.as_mut().is_some_and(HostTrial::confirm);
        trials.poked |= confirmed;
        confirmed
    }

    /// What is to be on disk, if that is news.
    pub fn unkept_host_trial(&self) -> Option<&HostTrial> {
        let trials = self.trials.as_ref()?;
        trials
            .state
            .as_ref()
            .filter(|_| trials.state != trials.kept)
    }

    /// Whether rows must not go to the kernel before it is: something goes on
    /// trial. What is taken back follows from what is on disk already.
    pub fn host_trial_must_be_kept(&self) -> bool {
        self.trials.as_ref().is_some_and(Trials::must_be_kept)
    }

    /// Whether what was on trial last is to be out of force, whatever else the
    /// kernel's rows wait for.
    pub fn host_trial_is_taken_back(&self) -> bool {
        self.trials.as_ref().is_some_and(|trials| trials.taken_back)
    }

    /// Whether something is in force that is to be confirmed yet.
    pub(crate) fn host_policy_is_on_trial(&self) -> bool {
        self.trials.as_ref().is_some_and(|t| t.over_ms().is_some())
    }

    /// Says that it is.
    pub fn host_trial_is_kept(&mut self) {
        if let Some(trials) = &mut self.trials {
            trials.kept.clone_from(&trials.state);
        }
    }

    /// Tells the policy engine of policies whose rules about nodes may be others
    /// than those that are wanted.
    pub(crate) fn follow_tried_rules(&mut self, now_ms: u64, view: &View, config: &PolicyConfig) {
        let Some(trials) = &mut self.trials else {
            return;
        };
        trials.poked = false;
        trials.expire(now_ms);
        let complete = view.policies.rows.is_complete();
        let known = self.engine.policies();
        let numbers = &self.persisted.numbers.rules;
        let wanted = |(origin, policy): (&Origin, &Arc<PolicyObject>)| {
            // What is refused changes nothing.
            let refused = unmet(config, policy).is_some();
            let policy = if refused {
                in_its_place(config, known.get(origin), numbers, policy)?
            } else {
                (**policy).clone()
            };
            Some((origin.clone(), policy))
        };
        let mut wanted: BTreeMap<Origin, PolicyObject> =
            view.policies.rows.iter().filter_map(wanted).collect();
        // Which rules are about this node is not known before its object is.
        let is_known = view.nodes.rows.get(&self.config.node_name).is_some();
        if complete && (is_known || trials.labels.is_some()) {
            trials.follow(now_ms, node_rules(wanted.values()), self.engine.node());
        }
        let mut in_force = trials.in_force();
        let origins = known.keys().chain(wanted.keys()).chain(in_force.keys());
        let origins: BTreeSet<Origin> = origins.cloned().collect();
        for origin in origins {
            let tried = in_force.remove(&origin).unwrap_or_default();
            // While the source has not told everything, what was in force stays.
            let before = self.engine.policies().get(&origin);
            let before = before.filter(|_| !complete);
            let policy = wanted.remove(&origin);
            let policy = policy.or_else(|| before.cloned());
            if policy.is_none() && tried.is_empty() {
                self.engine.remove_policy(&origin);
                continue;
            }
            let mut policy = policy.unwrap_or_else(|| PolicyObject {
                origin,
                uid: String::new(),
                staged: false,
                rules: Vec::new(),
            });
            if policy.staged && !tried.is_empty() {
                // It was not confirmed that these are not in force.
                policy.staged = false;
                policy.rules.clear();
            } else if !policy.staged {
                policy.rules.retain(|rule| !is_about_nodes(&rule));
            }
            policy.rules.extend(tried);
            self.engine.upsert_policy(policy);
        }
    }

    /// Whether other rules may be about this node than those that were tried last.
    pub(crate) fn trial_has_moved(&self, view: &View) -> bool {
        let is_known = view.nodes.rows.get(&self.config.node_name).is_some();
        let trials = self.trials.as_ref().filter(|_| is_known);
        trials.is_some_and(|trials| trials.labels.as_ref() != Some(self.engine.node()))
    }

    /// Whether a trial is over, or was confirmed.
    pub(crate) fn trial_is_due(&self, now_ms: u64) -> bool {
        let trials = self.trials.as_ref();
        trials.is_some_and(|trials| trials.is_due(now_ms))
    }

    /// What is on trial, or was refused.
    pub(crate) fn trial_condition(&self) -> Option<Condition> {
        self.trials.as_ref()?.condition(&self.host)
    }
}

#[cfg(test)]
mod tests {
    use axon_model::{Origin, PolicyKind, Rule, Selector, Subject, Tier};

    use super::{HostTrial, NodeRules};

    fn rules(name: &str) -> NodeRules {
        let rule = Rule {
            subject: Subject::Nodes(Selector::default()),
            tier: Tier::default(),
            default_deny_ingress: true,
            default_deny_egress: false,
            entries: Vec::new(),
            description: String::new(),
            labels: Vec::new(),
            log: String::new(),
        };
        let origin = Origin {
            kind: PolicyKind::CiliumClusterwideNetworkPolicy,
            namespace: String::new(),
            name: name.to_owned(),
        };
        vec![(origin, vec![rule])]
    }

    /// Goes by what is wanted at a time, on and off the disk.
    fn follow(state: &mut HostTrial, now: u64, wanted: &str) -> String {
        state.follow(now, 100, rules(wanted));
        let text = serde_json::to_vec(state).expect("JSON");
        *state = serde_json::from_slice(&text).expect("the same");
        state.in_force()[0].0.name.clone()
    }

    #[test]
    fn what_is_not_confirmed_is_taken_back_and_stays_so() {
        let mut state = HostTrial {
            confirmed: rules("old"),
            ..HostTrial::default()
        };
        assert_eq!(follow(&mut state, 0, "old"), "old");
        assert_eq!(follow(&mut state, 10, "new"), "new");
        assert_eq!(follow(&mut state, 109, "new"), "new");
        assert_eq!(follow(&mut state, 110, "new"), "old", "not confirmed");
        assert_eq!(follow(&mut state, 500, "new"), "old", "not tried again");
        assert_eq!(follow(&mut state, 510, "other"), "other", "a change is");
        assert!(state.confirm() && !state.confirm());
        assert_eq!(follow(&mut state, 900, "other"), "other", "for good");
        assert_eq!(follow(&mut state, 910, "new"), "new", "tried anew");
        assert_eq!(follow(&mut state, 920, "other"), "other", "called off");
        assert_eq!(state.trial, None);
    }

    #[test]
    fn a_change_on_trial_begins_another() {
        let mut state = HostTrial {
            confirmed: rules("old"),
            ..HostTrial::default()
        };
        assert_eq!(follow(&mut state, 0, "one"), "one");
        assert_eq!(follow(&mut state, 90, "two"), "two");
        assert_eq!(follow(&mut state, 189, "two"), "two");
        assert_eq!(follow(&mut state, 190, "two"), "old");
    }

    #[test]
    fn a_clock_that_is_set_makes_no_trial_longer() {
        let mut state = HostTrial {
            confirmed: rules("old"),
            ..HostTrial::default()
        };
        assert_eq!(follow(&mut state, 1_000_000, "new"), "new");
        assert_eq!(follow(&mut state, 5, "new"), "new", "set back");
        assert_eq!(follow(&mut state, 105, "new"), "old");
    }
}
