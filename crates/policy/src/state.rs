//! What the engine remembers of subjects, selectors and sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{Identity, Scope};
use axon_model::{Origin, PolicyObject, Rule};

use crate::compile::{Compiled, SubjectTraits};
use crate::resolve::{is_about, rules_of};
use crate::rows::Vector;
use crate::select::Who;
use crate::{IdentityInfo, PolicySet, RuleRef};

/// What makes a set: two subjects with the same have the same set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetKey {
    pub(crate) rules: Vec<RuleRef>,
    pub(crate) traits: SubjectTraits,
}

#[derive(Debug, Default)]
pub(crate) struct SubjectState {
    /// Indices of the rules of each policy that are about the subject.
    pub(crate) matched: BTreeMap<Origin, Vec<usize>>,
    /// The set that follows; `None` while it must be found again.
    pub(crate) key: Option<SetKey>,
}

/// Whom a far side means.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) identities: BTreeSet<Identity>,
    pub(crate) scopes: BTreeSet<Scope>,
    /// Sets that hold it.
    pub(crate) users: usize,
}

#[derive(Debug, Default)]
pub(crate) struct SetState {
    pub(crate) compiled: Compiled,
    /// Port names that its egress asks for.
    pub(crate) asks_ports: bool,
    pub(crate) defaults: BTreeMap<Scope, Vector>,
    /// Identities that are selected differently from their scope's stand-in.
    pub(crate) special: BTreeMap<Identity, Vector>,
    /// `None` while its rows must be built again.
    pub(crate) built: Option<Arc<PolicySet>>,
}

pub(crate) fn select(
    who: &Who,
    identities: &BTreeMap<Identity, IdentityInfo>,
    stand_ins: &[(Scope, Identity, IdentityInfo)],
) -> Selection {
    Selection {
        identities: identities
            .iter()
            .filter(|(id, info)| who.selects(**id, info))
            .map(|(id, _)| *id)
            .collect(),
        scopes: stand_ins
            .iter()
            .filter(|(_, id, info)| who.selects(*id, info))
            .map(|(scope, _, _)| *scope)
            .collect(),
        users: 0,
    }
}

pub(crate) fn set_key(
    id: Identity,
    info: &IdentityInfo,
    policies: &BTreeMap<Origin, PolicyObject>,
    matched: &BTreeMap<Origin, Vec<usize>>,
) -> SetKey {
    let named = matched.iter().flat_map(|(origin, indices)| {
        let rule = move |index: &usize| {
            let origin = origin.clone();
            let index = *index;
            RuleRef { origin, index }
        };
        indices.iter().map(rule)
    });
    let names: Vec<RuleRef> = named.collect();
    let rules: Vec<(u32, &Rule)> = names
        .iter()
        .filter_map(|name| Some((0, policies.get(&name.origin)?.rules.get(name.index)?)))
        .collect();
    let is_init = id == Identity::INIT;
    SetKey {
        traits: SubjectTraits::new(is_init, &info.named_ports, &rules),
        rules: names,
    }
}

pub(crate) fn matching(policy: &PolicyObject, info: &IdentityInfo) -> Vec<usize> {
    rules_of(policy)
        .filter(|(_, rule)| is_about(rule, &info.labels))
        .map(|(name, _)| name.index)
        .collect()
}

pub(crate) fn indices(whos: &[Who], selects: impl Fn(&Who) -> bool) -> Vector {
    let selected = |(n, who): (usize, &Who)| selects(who).then_some(n);
    whos.iter().enumerate().filter_map(selected).collect()
}
