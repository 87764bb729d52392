//! Terms and selections → the rows of a policy set.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use axon_abi::{
    ClassKey, ClassRow, Identity, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetRow, Scope,
    class,
};
use axon_model::PolicyRows;

use crate::compile::{Compiled, Term};
use crate::ports::L4;
use crate::select::Who;

/// The tier of NetworkPolicy and Cilium's policies; a lower tier outranks a
/// higher one.
const TIER_NORMAL: u32 = 200;

/// Indices of the far sides that mean an identity, in order.
pub(crate) type Vector = Vec<usize>;

/// Rows without a number: what a number is given to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    set: PolicySetRow,
    classes: Vec<(Identity, u32)>,
    entries: BTreeMap<PolicyKey, PolicyEntry>,
    rules: Vec<u32>,
}

impl Hash for Content {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let set = &self.set;
        [set.ingress_prefixes, set.egress_prefixes, set.flags].hash(hasher);
        self.classes.hash(hasher);
        self.rules.hash(hasher);
        self.entries.len().hash(hasher);
        for (key, entry) in &self.entries {
            key.hash(hasher);
            let rest = (entry.proxy_port.get(), entry.flags);
            (entry.precedence, entry.rule, rest).hash(hasher);
        }
    }
}

impl Content {
    /// The rows under a number.
    pub(crate) fn numbered(&self, set: u32) -> PolicyRows {
        let class = |(identity, class): &(Identity, u32)| {
            let identity = *identity;
            (ClassKey { set, identity }, ClassRow { class: *class })
        };
        PolicyRows {
            set: self.set,
            classes: self.classes.iter().map(class).collect(),
            entries: self
                .entries
                .iter()
                .map(|(key, entry)| (PolicyKey { set, ..*key }, *entry))
                .collect(),
        }
    }

    /// The rules that the rows come from.
    pub(crate) fn rules(&self) -> &[u32] {
        &self.rules
    }
}

/// Builds the rows of a set.
///
/// `defaults` is how each scope's stand-in is selected; `special` holds the
/// identities that are selected differently from theirs. Identities that are
/// selected alike share a class.
pub(crate) fn build(
    compiled: &Compiled,
    defaults: &BTreeMap<Scope, Vector>,
    special: &BTreeMap<Identity, Vector>,
) -> Content {
    let vectors: BTreeSet<&Vector> = special.values().collect();
    let classes: BTreeMap<&Vector, u32> = vectors.into_iter().zip(class::FIRST..).collect();
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); compiled.whos.len()];
    let of_scopes = defaults.iter().map(|(s, v)| (v, class::default_of(*s)));
    let of_vectors = classes.iter().map(|(v, class)| (*v, *class));
    for (vector, class) in of_scopes.chain(of_vectors) {
        for who in vector {
            if let Some(members) = members.get_mut(*who) {
                members.push(class);
            }
        }
    }
    let mut content = Content {
        set: PolicySetRow {
            flags: compiled.flags,
            ..PolicySetRow::default()
        },
        classes: special
            .iter()
            .filter_map(|(id, vector)| Some((*id, *classes.get(vector)?)))
            .collect(),
        rules: compiled.rules.clone(),
        ..Content::default()
    };
    for term in &compiled.terms {
        let anyone = compiled.whos.get(term.who).is_some_and(Who::is_anyone);
        let remotes: &[u32] = match members.get(term.who) {
            _ if anyone => &[class::ANY],
            Some(members) => members,
            None => &[],
        };
        for l4 in &term.l4 {
            for class in remotes {
                content.insert(term, *l4, *class);
            }
        }
    }
    content
}

impl Content {
    /// Adds an entry. Of two under one key the higher precedence stays, then
    /// the lower number; what is of no rule (0) comes last.
    fn insert(&mut self, term: &Term, l4: L4, class: u32) {
        let prefixes = if term.direction == PolicyKey::EGRESS {
            &mut self.set.egress_prefixes
        } else {
            &mut self.set.ingress_prefixes
        };
        *prefixes |= 1 << l4.bits;
        let key = PolicyKey {
            class,
            ..l4.key(term.direction)
        };
        let entry = PolicyEntry {
            precedence: precedence(term.deny, l4, class),
            rule: term.rule,
            flags: if term.deny { PolicyEntryFlags::DENY } else { 0 },
            ..PolicyEntry::default()
        };
        let slot = self.entries.entry(key).or_insert(entry);
        let order = |e: &PolicyEntry| (std::cmp::Reverse(e.precedence), e.rule.wrapping_sub(1));
        if order(&entry) < order(slot) {
            *slot = entry;
        }
    }
}

/// Who wins: the tier, then deny over allow. What is below decides nothing but
/// which of several agreeing entries is reported: the more specific one, by
/// port and then by remote.
fn precedence(deny: bool, l4: L4, class: u32) -> u32 {
    let remote = match class {
        class::ANY => 0,
        _ if class < class::FIRST => 1,
        _ => 2,
    };
    ((255 - TIER_NORMAL) << 24) | (u32::from(deny) << 16) | (l4.specificity() << 8) | remote
}

/// How many rows policy needs in the kernel: sets, and in each set one class
/// row per identity told apart and one entry per port prefix and class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCount {
    /// Rows of `axon_policy_set_v1`.
    pub sets: usize,
    /// Rows of `axon_class_v1`.
    pub classes: usize,
    /// Rows of `axon_policy_v1`.
    pub entries: usize,
}

impl RowCount {
    /// The rows of one set.
    pub fn of(rows: &PolicyRows) -> Self {
        Self {
            sets: 1,
            classes: rows.classes.len(),
            entries: rows.entries.len(),
        }
    }

    /// Bytes of keys and values, without the kernel's own per row.
    pub fn bytes(self) -> usize {
        self.sets * (size_of::<u32>() + size_of::<PolicySetRow>())
            + self.classes * (size_of::<ClassKey>() + size_of::<ClassRow>())
            + self.entries * (size_of::<PolicyKey>() + size_of::<PolicyEntry>())
    }
}

impl std::ops::Add for RowCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sets: self.sets + other.sets,
            classes: self.classes + other.classes,
            entries: self.entries + other.entries,
        }
    }
}

impl std::iter::Sum for RowCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| a + b)
    }
}
