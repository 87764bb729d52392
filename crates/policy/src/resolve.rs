//! The slow, obvious way from rules and identities to policy sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_abi::Identity;
use axon_model::{GroupKey, Labels, PolicyObject, PolicyRows, Rule, Subject};

use crate::compile::{Compiled, SubjectTraits, compile};
use crate::rows::{RowCount, Shape, Vector};
use crate::select::stand_ins;
use crate::version::Version;
use crate::{Group, IdentityInfo, NamedPorts, Numbers, PolicyConfig, RuleRef, World};

/// A policy set version, resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySet {
    /// Its number, never 0: the key of its rows.
    pub number: u32,
    /// What the kernel shall hold of it.
    pub rows: PolicyRows,
    /// Numbers of the rules that make it, in the order of policies.
    pub rules: Arc<[u32]>,
}

/// Which set each subject has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolution {
    /// Number of the set of each subject's identity.
    pub subjects: BTreeMap<Identity, u32>,
    /// The sets by number.
    pub sets: BTreeMap<u32, Arc<PolicySet>>,
}

impl Resolution {
    /// Rows that all sets need together.
    pub fn row_count(&self) -> RowCount {
        self.sets.values().map(|set| RowCount::of(&set.rows)).sum()
    }
}

/// Whether a rule is about a subject with these labels: one about nodes is
/// about the node itself alone, and one about endpoints never is.
pub fn is_about(rule: &Rule, id: Identity, labels: &Labels) -> bool {
    let is_node = id == Identity::HOST;
    match &rule.subject {
        Subject::Endpoints(selector) => !is_node && selector.matches(labels),
        Subject::Nodes(selector) => is_node && selector.matches(labels),
    }
}

/// The labels by which rules are about a subject; `None` if it is not known.
pub(crate) fn subject_labels<'a>(
    id: Identity,
    identities: &'a BTreeMap<Identity, IdentityInfo>,
    node: &'a Labels,
) -> Option<&'a Labels> {
    let info = identities.get(&id)?;
    Some(match id {
        Identity::HOST => node,
        _ => &info.labels,
    })
}

/// A policy's rules by index; a staged one has none that counts.
pub(crate) fn rules_of(policy: &PolicyObject) -> impl Iterator<Item = (usize, &Rule)> {
    let rules = if policy.staged { &[] } else { &*policy.rules };
    rules.iter().enumerate()
}

/// Ports that any identity declares by name.
pub(crate) fn declared_ports<'a>(identities: impl Iterator<Item = &'a IdentityInfo>) -> NamedPorts {
    let mut declared = NamedPorts::new();
    for info in identities {
        for (name, ports) in &info.named_ports {
            declared.entry(name.clone()).or_default().extend(ports);
        }
    }
    declared
}

/// Resolves everything from nothing. A subject that is not a known identity
/// has no set.
pub fn resolve(config: &PolicyConfig, world: &World, numbers: &mut Numbers) -> Resolution {
    let grouped = |(id, info): (&Identity, &IdentityInfo)| {
        let mut info = info.clone();
        let member =
            |(key, group): (&GroupKey, &Group)| Some((key.clone(), group.member(*id, &info)?));
        info.groups = world.groups.iter().filter_map(member).collect();
        (*id, info)
    };
    let world = &World {
        identities: world.identities.iter().map(grouped).collect(),
        ..world.clone()
    };
    let declared = declared_ports(world.identities.values());
    let mut resolution = Resolution::default();
    for subject in &world.subjects {
        let labels = subject_labels(*subject, &world.identities, &world.node);
        let (Some(info), Some(labels)) = (world.identities.get(subject), labels) else {
            continue;
        };
        let mut rules: Vec<(u32, &Rule)> = Vec::new();
        for policy in world.policies.values() {
            for (index, rule) in rules_of(policy) {
                if is_about(rule, *subject, labels) {
                    let origin = policy.origin.clone();
                    let number = numbers.rules.number_of(RuleRef { origin, index });
                    rules.push((number, rule));
                }
            }
        }
        let traits = SubjectTraits::new(*subject, &info.named_ports, &rules);
        let compiled = compile(config, &traits, &rules, &declared);
        let set = version(config, world, compiled, numbers).set();
        resolution.subjects.insert(*subject, set.number);
        resolution.sets.insert(set.number, Arc::new(set));
    }
    resolution
}

fn version(
    config: &PolicyConfig,
    world: &World,
    compiled: Compiled,
    numbers: &mut Numbers,
) -> Version {
    let vector = |id: Identity, info: &IdentityInfo| -> Vector {
        let selects = |n: &usize| compiled.whos.get(*n).is_some_and(|w| w.selects(id, info));
        (0..compiled.whos.len()).filter(selects).collect()
    };
    let defaults: BTreeMap<_, _> = stand_ins(config)
        .iter()
        .map(|(scope, id, info)| (*scope, vector(*id, info)))
        .collect();
    let special = world
        .identities
        .iter()
        .map(|(id, info)| (*id, vector(*id, info)))
        .filter(|(id, vector)| defaults.get(&id.scope()) != Some(vector))
        .collect();
    let shape = Shape::new(compiled, defaults);
    Version::build(&shape, config.class_bits, &special, numbers)
}
