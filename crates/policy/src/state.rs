//! What the engine remembers of subjects and sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::Identity;
use axon_model::{Labels, Origin, PolicyObject, Protocol, Rule};

use crate::compile::SubjectTraits;
use crate::resolve::{is_about, rules_of};
use crate::rows::{Shape, Vector};
use crate::version::Version;
use crate::whos::{SetId, WhoId, Whos};
use crate::{Numbers, PolicySet, RuleRef};

/// What makes a set: two subjects with the same have the same set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetKey {
    /// Numbers of the rules, in the order of policies.
    pub(crate) rules: Vec<u32>,
    pub(crate) traits: SubjectTraits,
}

/// A rule that is about a subject.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matched {
    /// Which of its policy's rules.
    pub(crate) index: usize,
    /// Its number; 0 while it was not asked for.
    pub(crate) number: u32,
}

#[derive(Debug, Default)]
pub(crate) struct SubjectState {
    /// The rules of each policy that are about the subject.
    pub(crate) matched: BTreeMap<Origin, Vec<Matched>>,
    /// The set that follows; `None` while it must be found again.
    pub(crate) set: Option<SetId>,
}

impl SubjectState {
    /// The rules with their numbers.
    pub(crate) fn rules<'a>(
        &mut self,
        policies: &'a BTreeMap<Origin, PolicyObject>,
        numbers: &mut Numbers,
    ) -> Vec<(u32, &'a Rule)> {
        let mut rules = Vec::new();
        for (origin, matched) in &mut self.matched {
            let Some(policy) = policies.get(origin) else {
                continue;
            };
            for one in matched {
                let Some(rule) = policy.rules.get(one.index) else {
                    continue;
                };
                if one.number == 0 {
                    let (origin, index) = (origin.clone(), one.index);
                    one.number = numbers.rules.number_of(RuleRef { origin, index });
                }
                rules.push((one.number, rule));
            }
        }
        rules
    }
}

/// The rules of a policy that are about a subject.
pub(crate) fn matching(policy: &PolicyObject, id: Identity, labels: &Labels) -> Vec<Matched> {
    rules_of(policy)
        .filter(|(_, rule)| is_about(rule, id, labels))
        .map(|(index, _)| Matched { index, number: 0 })
        .collect()
}

/// A set in use.
#[derive(Debug)]
pub(crate) struct SetState {
    pub(crate) key: SetKey,
    /// Port names that its egress asks for.
    pub(crate) asked_ports: BTreeSet<(String, Protocol)>,
    pub(crate) shape: Shape,
    /// Its far sides, by index.
    pub(crate) whos: Vec<WhoId>,
    /// The other way round.
    index_of: BTreeMap<WhoId, usize>,
    version: Version,
    /// `None` while its rows have changed.
    built: Option<Arc<PolicySet>>,
    /// How many subjects have it.
    pub(crate) subjects: usize,
}

impl SetState {
    /// A set whose far sides are held already.
    pub(crate) fn new(
        key: SetKey,
        shape: Shape,
        whos: Vec<WhoId>,
        all: &Whos,
        class_bits: u32,
        numbers: &mut Numbers,
    ) -> Self {
        let mut flips: BTreeMap<Identity, Vector> = BTreeMap::new();
        for (n, who) in whos.iter().enumerate() {
            for id in all.told(*who) {
                flips.entry(id).or_default().push(n);
            }
        }
        let special = flips
            .into_iter()
            .map(|(id, flips)| (id, flipped(shape.default_of(id.scope()), &flips)))
            .collect();
        Self {
            version: Version::build(&shape, class_bits, &special, numbers),
            index_of: whos.iter().enumerate().map(|(n, who)| (*who, n)).collect(),
            key,
            asked_ports: BTreeSet::new(),
            shape,
            whos,
            built: None,
            subjects: 0,
        }
    }

    /// Looks again at an identity.
    pub(crate) fn follow(&mut self, id: Identity, all: &Whos, numbers: &mut Numbers) {
        let mut flips: Vector = all
            .telling(id)
            .filter_map(|who| self.index_of.get(&who).copied())
            .collect();
        flips.sort_unstable();
        let vector =
            (!flips.is_empty()).then(|| flipped(self.shape.default_of(id.scope()), &flips));
        if self.version.tell(&self.shape, id, vector, numbers) {
            self.built = None;
        }
    }

    /// The set as it is now.
    pub(crate) fn built(&mut self) -> &Arc<PolicySet> {
        self.built
            .get_or_insert_with(|| Arc::new(self.version.set()))
    }
}

/// A vector with these indices, in order, the other way round.
fn flipped(vector: &[usize], flips: &[usize]) -> Vector {
    let kept = vector.iter().filter(|n| flips.binary_search(n).is_err());
    let added = flips.iter().filter(|n| vector.binary_search(n).is_err());
    let mut flipped: Vector = kept.chain(added).copied().collect();
    flipped.sort_unstable();
    flipped
}
