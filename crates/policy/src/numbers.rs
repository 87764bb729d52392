//! Numbers that live in kernel rows, and never change their meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use axon_model::Origin;
use serde::{Deserialize, Serialize};

/// The numbers of policy set versions: one number never stands for two
/// contents, and a content that is known keeps its number over restarts. A
/// content is what a version says, not who exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetNumbers {
    /// The last number given out.
    last: u32,
    /// Number of each known content, by its digest.
    known: BTreeMap<String, u32>,
}

impl SetNumbers {
    /// Says that numbers up to `last` are in use elsewhere (in pinned rows
    /// whose content is not known): they are not given out.
    pub fn reserve_through(&mut self, last: u32) {
        self.last = self.last.max(last);
    }

    /// The number of a content: the one it has, or the next.
    pub fn number_of(&mut self, content: &impl Hash) -> u32 {
        let digest = digest(content);
        if let Some(number) = self.known.get(&digest) {
            return *number;
        }
        // After 2^32 versions numbers would begin again; those still known
        // are left out.
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.known.values().any(|used| *used == self.last) {
                break;
            }
        }
        self.known.insert(digest, self.last);
        self.last
    }

    /// The number given out last.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Forgets contents that nobody refers to any more. Their numbers are not
    /// given out again before the counter has gone round.
    pub fn retain(&mut self, in_use: &BTreeSet<u32>) {
        self.known.retain(|_, number| in_use.contains(number));
    }
}

/// 128 bits of a content. Another version of the standard library may hash
/// differently: then a content gets a new number, which costs a rewrite and
/// changes no meaning.
fn digest(content: &impl Hash) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        content.hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(1), half(2))
}

/// A rule, as the number in a policy entry names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleRef {
    /// The policy.
    pub origin: Origin,
    /// Which of its rules, from 0.
    pub index: usize,
}

/// The numbers of rules: what [`axon_abi::PolicyEntry::rule`] holds. 0 is no
/// rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RuleNumbersFile", into = "RuleNumbersFile")]
pub struct RuleNumbers {
    last: u32,
    by_rule: BTreeMap<RuleRef, u32>,
    by_number: BTreeMap<u32, RuleRef>,
}

#[derive(Clone, Serialize, Deserialize)]
struct RuleNumbersFile {
    last: u32,
    rules: BTreeMap<u32, RuleRef>,
}

impl From<RuleNumbersFile> for RuleNumbers {
    fn from(file: RuleNumbersFile) -> Self {
        Self {
            last: file.last,
            by_rule: file.rules.iter().map(|(n, r)| (r.clone(), *n)).collect(),
            by_number: file.rules,
        }
    }
}

impl From<RuleNumbers> for RuleNumbersFile {
    fn from(numbers: RuleNumbers) -> Self {
        Self {
            last: numbers.last,
            rules: numbers.by_number,
        }
    }
}

impl RuleNumbers {
    /// The number of a rule: the one it has, or the next.
    pub fn number_of(&mut self, rule: RuleRef) -> u32 {
        if let Some(number) = self.by_rule.get(&rule) {
            return *number;
        }
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.by_number.contains_key(&self.last) {
                break;
            }
        }
        self.by_number.insert(self.last, rule.clone());
        self.by_rule.insert(rule, self.last);
        self.last
    }

    /// The number given out last.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// The rule of a number.
    pub fn rule(&self, number: u32) -> Option<&RuleRef> {
        self.by_number.get(&number)
    }

    /// Whether a rule of this policy has a number: it was in force.
    pub fn knows(&self, origin: &Origin) -> bool {
        let first = RuleRef {
            origin: origin.clone(),
            index: 0,
        };
        let mut of_it = self.by_rule.range(first..);
        of_it.next().is_some_and(|(rule, _)| rule.origin == *origin)
    }

    /// Forgets rules that are neither in a policy nor in a row.
    pub fn retain(&mut self, mut keep: impl FnMut(u32, &RuleRef) -> bool) {
        self.by_number.retain(|number, rule| keep(*number, rule));
        self.by_rule
            .retain(|_, number| self.by_number.contains_key(number));
    }
}

/// Every number that policy gives out. Persisted before rows that hold them
/// are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Of set versions.
    pub sets: SetNumbers,
    /// Of rules.
    pub rules: RuleNumbers,
}
