//! What would be in force if staged policies were.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity};
use axon_model::{Origin, PolicyObject, Rule};

use crate::{Engine, Numbers, Resolution, RuleRef};

/// Resolves policy as if staged policies were enforced beside the others, for
/// those subjects that a staged one is about.
///
/// It has an engine and numbers of its own: nothing that is in force, and no
/// number in the kernel's rows, follows from it.
#[derive(Debug)]
pub struct Rehearsal {
    engine: Engine,
    numbers: Numbers,
    staged: BTreeSet<Origin>,
}

/// What staged policies would have in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Staged {
    /// The sets of subjects that a staged policy is about. Their numbers are not
    /// those of the kernel.
    pub resolution: Resolution,
    /// Who is known.
    pub known: BTreeSet<Identity>,
    /// The staged policies of rules in these sets, by the rules' numbers.
    pub rules: BTreeMap<u32, Origin>,
    /// The staged policies of each set that have what no rule allows denied:
    /// ingress, then egress.
    pub closing: BTreeMap<u32, [Vec<Origin>; 2]>,
    /// Every staged policy.
    pub policies: BTreeSet<Origin>,
}

impl Rehearsal {
    /// A rehearsal of what an engine knows.
    pub fn new(engine: &Engine) -> Self {
        let mut rehearsal = Self {
            engine: Engine::new(engine.config().clone()),
            numbers: Numbers::default(),
            staged: BTreeSet::new(),
        };
        let all = engine.identities().keys().copied().collect();
        rehearsal.follow(engine, &all);
        rehearsal
    }

    /// Takes over what the engine knows now; of identities, that of `changed`.
    pub fn follow(&mut self, engine: &Engine, changed: &BTreeSet<Identity>) {
        self.engine.set_node(engine.node().clone());
        self.follow_groups(engine);
        for id in changed {
            match engine.identities().get(id) {
                Some(info) => self.engine.upsert_identity(*id, info.clone()),
                None => self.engine.remove_identity(id.to_owned()),
            };
        }
        self.follow_policies(engine);
        let subjects = engine.subjects().filter(|id| self.is_about(engine, *id));
        self.engine.set_subjects(subjects.collect());
    }

    fn follow_groups(&mut self, engine: &Engine) {
        let known: Vec<_> = self.engine.groups().keys().cloned().collect();
        for key in known {
            if !engine.groups().contains_key(&key) {
                self.engine.remove_group(&key);
            }
        }
        for (key, group) in engine.groups() {
            self.engine.upsert_group(key, group.clone());
        }
    }

    fn follow_policies(&mut self, engine: &Engine) {
        let known: Vec<_> = self.engine.policies().keys().cloned().collect();
        for origin in known {
            if !engine.policies().contains_key(&origin) {
                self.engine.remove_policy(&origin);
            }
        }
        for (origin, policy) in engine.policies() {
            let same = |known: &PolicyObject| known.rules == policy.rules;
            if !self.engine.policies().get(origin).is_some_and(same) {
                self.engine.upsert_policy(PolicyObject {
                    staged: false,
                    ..policy.clone()
                });
            }
        }
        let staged = engine.policies().values().filter(|policy| policy.staged);
        self.staged = staged.map(|policy| policy.origin.clone()).collect();
    }

    fn is_about(&self, engine: &Engine, id: Identity) -> bool {
        let policy = |origin| engine.policies().get(origin);
        let mut staged = self.staged.iter().filter_map(policy);
        staged.any(|policy| engine.is_about(policy, id))
    }

    /// What would be in force.
    pub fn staged(&mut self) -> Staged {
        let resolution = self.engine.resolution(&mut self.numbers).clone();
        let policies = self.engine.policies();
        let numbers = &mut self.numbers;
        numbers
            .sets
            .retain(&resolution.sets.keys().copied().collect());
        numbers
            .rules
            .retain(|_, rule| policies.contains_key(&rule.origin));
        let mut staged = Staged {
            known: self.engine.identities().keys().copied().collect(),
            policies: self.staged.clone(),
            ..Staged::default()
        };
        for (number, set) in &resolution.sets {
            let mut closing = [Vec::new(), Vec::new()];
            for rule in set.rules.iter() {
                let Some(RuleRef { origin, index }) = self.numbers.rules.rule(*rule) else {
                    continue;
                };
                if !self.staged.contains(origin) {
                    continue;
                }
                staged.rules.insert(*rule, origin.clone());
                let text = policies.get(origin).and_then(|p| p.rules.get(*index));
                for (list, direction) in closing
                    .iter_mut()
                    .zip([Direction::Ingress, Direction::Egress])
                {
                    let closes = text.is_some_and(|rule| closes(rule, direction));
                    if closes && !list.contains(origin) {
                        list.push(origin.clone());
                    }
                }
            }
            staged.closing.insert(*number, closing);
        }
        staged.resolution = resolution;
        staged
    }
}

fn closes(rule: &Rule, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => rule.default_deny_ingress,
        Direction::Egress => rule.default_deny_egress,
        Direction::Unknown => false,
    }
}
