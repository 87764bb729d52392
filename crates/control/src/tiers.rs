//! What is wrong with ordered tiers: policies of one priority that say different
//! things, and more entries than there are places.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::Direction;
use axon_model::{Action, Origin, PolicyKind, Rule, Tier};
use axon_policy::{Resolution, RuleRef, crowds};

use crate::controller::Controller;
use crate::views::{Condition, ConditionKind};

impl Controller {
    /// What an operator should know of the tiers of policies that meet in a set.
    pub(crate) fn tier_conditions(&self, resolution: &Resolution) -> Vec<Condition> {
        let ordered = |origin: &Origin| origin.kind == PolicyKind::ClusterNetworkPolicy;
        if !self.engine.policies().keys().any(ordered) {
            return Vec::new();
        }
        let mut clashes: BTreeSet<(Tier, BTreeSet<Origin>)> = BTreeSet::new();
        let mut conditions = BTreeMap::new();
        for set in resolution.sets.values() {
            let rules = set.rules.iter().filter_map(|number| {
                let RuleRef { origin, index } = self.persisted.numbers.rules.rule(*number)?;
                let rule = self.engine.policies().get(origin)?.rules.get(*index)?;
                (rule.tier != Tier::Normal).then_some((origin, rule))
            });
            let rules: Vec<(&Origin, &Rule)> = rules.collect();
            clashes.extend(clashing(&rules));
            let bare: Vec<&Rule> = rules.iter().map(|(_, rule)| *rule).collect();
            for crowd in crowds(&bare) {
                let tier = tier_name(crowd.tier);
                let message = format!(
                    "the {tier} tier has {} entries for some endpoints, and {} places: of those \
                     that come last {} that allow or pass are not in force, and denies are in no \
                     order",
                    crowd.entries, crowd.places, crowd.cut
                );
                let of_tier = |rule: &Rule| tier_name(rule.tier) == tier;
                let policies = rules.iter().filter(|(_, rule)| of_tier(rule));
                let policies: BTreeSet<Origin> = policies.map(|(o, _)| (*o).clone()).collect();
                conditions.insert(message, policies);
            }
        }
        let cut = conditions.into_iter().map(|(message, policies)| Condition {
            kind: ConditionKind::PolicyOverflow,
            policies: policies.into_iter().collect(),
            message,
            remedy: "name fewer peers and ports in ClusterNetworkPolicies".to_owned(),
        });
        let clash = clashes.into_iter().map(|(tier, policies)| {
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            Condition {
                kind: ConditionKind::Conflict,
                message: format!(
                    "{} have one priority ({}) and say different things of the same endpoints: \
                     the one whose name comes first is asked first",
                    names.join(", "),
                    priority(tier)
                ),
                policies: policies.into_iter().collect(),
                remedy: "give ClusterNetworkPolicies priorities of their own".to_owned(),
            }
        });
        clash.chain(cut).collect()
    }
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin(_) => "Admin",
        Tier::Normal => "Normal",
        Tier::Baseline(_) => "Baseline",
    }
}

fn priority(tier: Tier) -> String {
    match tier {
        Tier::Admin(n) | Tier::Baseline(n) => format!("{} {n}", tier_name(tier)),
        Tier::Normal => tier_name(tier).to_owned(),
    }
}

/// The policies of one tier and priority of which one does something else than
/// another with traffic of the same direction.
fn clashing<'a>(rules: &[(&'a Origin, &'a Rule)]) -> BTreeSet<(Tier, BTreeSet<Origin>)> {
    let mut owners: BTreeMap<Tier, &Origin> = BTreeMap::new();
    let mut shared = false;
    for (origin, rule) in rules {
        shared |= *owners.entry(rule.tier).or_insert(*origin) != *origin;
    }
    if !shared {
        return BTreeSet::new();
    }
    let mut does: BTreeMap<(Tier, u8), BTreeMap<Action, BTreeSet<&Origin>>> = BTreeMap::new();
    for (origin, rule) in rules {
        for entry in &rule.entries {
            let way = u8::from(entry.direction == Direction::Egress);
            let by = does.entry((rule.tier, way)).or_default();
            by.entry(entry.action).or_default().insert(*origin);
        }
    }
    let mut clashes: BTreeMap<Tier, BTreeSet<Origin>> = BTreeMap::new();
    for ((tier, _), by) in does {
        let all: BTreeSet<&Origin> = by.values().flatten().copied().collect();
        // Where all do the same, or one policy does all, the order is no question.
        if by.len() > 1 && all.len() > 1 {
            clashes
                .entry(tier)
                .or_default()
                .extend(all.into_iter().cloned());
        }
    }
    clashes.into_iter().collect()
}
