//! Terms and vectors → rows of the kernel.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axon_abi::{
    ClassKey, ClassRow, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetRow, Scope, class,
};
use axon_model::PolicyRows;

use crate::compile::{Compiled, Term};
use crate::failsafe;
use crate::ports::L4;
use crate::select::Who;

/// The tier of NetworkPolicy and Cilium's policies; a lower tier outranks a
/// higher one.
const TIER_NORMAL: u32 = 200;
/// The tier of what is never denied to the node itself: above all others.
const TIER_FAILSAFE: u32 = 0;

/// Indices of the far sides that mean an identity, in order.
pub(crate) type Vector = Vec<usize>;

/// What a set says, whoever exists: all that its number stands for, but for
/// how its classes are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) compiled: Compiled,
    /// How each scope's stand-in is selected.
    pub(crate) defaults: BTreeMap<Scope, Vector>,
    /// Indices of the terms of each far side.
    terms_of: Vec<Vec<usize>>,
}

impl Shape {
    pub(crate) fn new(compiled: Compiled, defaults: BTreeMap<Scope, Vector>) -> Self {
        let mut terms_of = vec![Vec::new(); compiled.whos.len()];
        for (n, term) in compiled.terms.iter().enumerate() {
            if let Some(terms) = terms_of.get_mut(term.who) {
                terms.push(n);
            }
        }
        Self {
            compiled,
            defaults,
            terms_of,
        }
    }

    /// How the stand-in of a scope is selected.
    pub(crate) fn default_of(&self, scope: Scope) -> &[usize] {
        self.defaults.get(&scope).map_or(&[], Vec::as_slice)
    }

    /// The set's own row. The prefixes are those of all its terms, also of
    /// those that mean nobody at present: the row never changes.
    pub(crate) fn set_row(&self) -> PolicySetRow {
        let mut row = PolicySetRow {
            flags: self.compiled.flags,
            ..PolicySetRow::default()
        };
        for term in &self.compiled.terms {
            let prefixes = if term.direction == PolicyKey::EGRESS {
                &mut row.egress_prefixes
            } else {
                &mut row.ingress_prefixes
            };
            *prefixes |= term.l4.iter().fold(0, |all, l4| all | 1 << l4.bits);
        }
        row
    }

    /// The entries that are there whoever exists: of anyone, and of the
    /// default classes of the scopes.
    pub(crate) fn fixed_entries(&self, set: u32) -> BTreeMap<PolicyKey, PolicyEntry> {
        let mut entries = BTreeMap::new();
        for (who, terms) in self.compiled.whos.iter().zip(&self.terms_of) {
            if who.is_anyone() {
                self.insert_all(set, class::ANY, terms, &mut entries);
            }
        }
        for (scope, vector) in &self.defaults {
            entries.extend(self.entries_of(set, class::default_of(*scope), vector));
        }
        entries
    }

    /// The entries of a class.
    pub(crate) fn entries_of(
        &self,
        set: u32,
        class: u32,
        vector: &[usize],
    ) -> BTreeMap<PolicyKey, PolicyEntry> {
        let mut entries = BTreeMap::new();
        for who in vector {
            let anyone = self.compiled.whos.get(*who).is_none_or(Who::is_anyone);
            if let Some(terms) = self.terms_of.get(*who).filter(|_| !anyone) {
                self.insert_all(set, class, terms, &mut entries);
            }
        }
        entries
    }

    fn insert_all(
        &self,
        set: u32,
        class: u32,
        terms: &[usize],
        entries: &mut BTreeMap<PolicyKey, PolicyEntry>,
    ) {
        for term in terms.iter().filter_map(|n| self.compiled.terms.get(*n)) {
            for l4 in &term.l4 {
                let key = PolicyKey {
                    set,
                    class,
                    ..l4.key(term.direction)
                };
                put(entries, key, entry(term, *l4, class));
            }
        }
    }
}

/// Adds an entry. Of two under one key the higher precedence stays, then the
/// lower number; what is of no rule (0) comes last.
fn put(entries: &mut BTreeMap<PolicyKey, PolicyEntry>, key: PolicyKey, entry: PolicyEntry) {
    let order = |e: &PolicyEntry| (std::cmp::Reverse(e.precedence), e.rule.wrapping_sub(1));
    match entries.entry(key) {
        Entry::Vacant(slot) => {
            slot.insert(entry);
        }
        Entry::Occupied(mut slot) => {
            if order(&entry) < order(slot.get()) {
                slot.insert(entry);
            }
        }
    }
}

fn entry(term: &Term, l4: L4, class: u32) -> PolicyEntry {
    PolicyEntry {
        precedence: precedence(term, l4, class),
        rule: term.rule,
        flags: match (term.deny, term.redirect) {
            (true, _) => PolicyEntryFlags::DENY,
            // Nothing carries it there yet: nobody passes whom nobody listens to.
            (false, true) => PolicyEntryFlags::DENY | PolicyEntryFlags::REDIRECT,
            (false, false) if term.rank == failsafe::RANK => PolicyEntryFlags::UNKNOWN_TOO,
            (false, false) => 0,
        },
        ..PolicyEntry::default()
    }
}

/// Who wins: the tier, then the rank of the term (a deny before all else). What
/// is below decides nothing but which of several agreeing entries is reported:
/// the more specific one, by port and then by remote.
fn precedence(term: &Term, l4: L4, class: u32) -> u32 {
    let remote = match class {
        class::ANY => 0,
        _ if class < class::FIRST => 1,
        _ => 2,
    };
    let tier = match term.rank {
        failsafe::RANK => TIER_FAILSAFE,
        _ => TIER_NORMAL,
    };
    ((255 - tier) << 24) | (u32::from(term.rank) << 16) | (l4.specificity() << 8) | remote
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

impl std::ops::Sub for RowCount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            sets: self.sets.saturating_sub(other.sets),
            classes: self.classes.saturating_sub(other.classes),
            entries: self.entries.saturating_sub(other.entries),
        }
    }
}

impl std::iter::Sum for RowCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| a + b)
    }
}
