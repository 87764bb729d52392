//! Terms and vectors → rows of the kernel.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{Hash, Hasher};

use axon_abi::{
    ClassKey, ClassRow, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetFlags, PolicySetRow,
    Scope, class,
};
use axon_model::{Auth, PolicyRows};

use crate::auth::{demanded_of, demanded_of_anyone};
use crate::compile::{Compiled, Does, Term};
use crate::pass::{Anyone, Passed, Said};
use crate::ports::L4;

/// Indices of the far sides that mean an identity, in order.
pub(crate) type Vector = Vec<usize>;

/// What a set says, whoever exists: all that its number stands for, but for
/// how its classes are numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) compiled: Compiled,
    /// How each scope's stand-in is selected.
    pub(crate) defaults: BTreeMap<Scope, Vector>,
    /// Indices of the terms of each far side.
    terms_of: Vec<Vec<usize>>,
    anyone: Anyone,
    /// What is demanded of anyone.
    demanded: Passed,
}

impl Hash for Shape {
    /// All else follows from this.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compiled.hash(state);
        self.defaults.hash(state);
        self.terms_of.hash(state);
        self.anyone.passed.hash(state);
    }
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
            anyone: Anyone::new(&compiled),
            demanded: demanded_of_anyone(&compiled),
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
            flags: self.compiled.flags | self.without_anyone(),
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

    /// Flags of the directions in which nothing is said of anyone's ports.
    fn without_anyone(&self) -> u32 {
        let terms = self.compiled.terms.iter();
        let of_anyone = terms.filter(|term| self.compiled.is_anyone(term.who));
        let said = of_anyone.flat_map(|term| term.l4.iter().map(|l4| (term.direction, l4)));
        let placed = self.anyone.passed.keys().chain(self.demanded.keys());
        let placed = placed.map(|(direction, l4)| (*direction, l4));
        let ports = said.chain(placed).filter(|(_, l4)| l4.bits != 0);
        let mut flags =
            PolicySetFlags::NO_ANYONE_PORTS_INGRESS | PolicySetFlags::NO_ANYONE_PORTS_EGRESS;
        for (direction, _) in ports {
            flags &= if direction == PolicyKey::EGRESS {
                !PolicySetFlags::NO_ANYONE_PORTS_EGRESS
            } else {
                !PolicySetFlags::NO_ANYONE_PORTS_INGRESS
            };
        }
        flags
    }

    /// The entries that are there whoever exists: of anyone, and of the
    /// default classes of the scopes.
    pub(crate) fn fixed_entries(&self, set: u32) -> BTreeMap<PolicyKey, PolicyEntry> {
        let of_anyone = Entries::new(set, class::ANY);
        let anyone = |who: &usize| self.compiled.is_anyone(*who);
        let whos = (0..self.compiled.whos.len()).filter(anyone);
        let mut entries = of_anyone
            .with(whos.flat_map(|who| self.terms(who)), &self.anyone.passed)
            .demanding(&self.demanded);
        for (scope, vector) in &self.defaults {
            entries.extend(self.entries_of(set, class::default_of(*scope), vector));
        }
        entries
    }

    /// The entries of a class: what is said of it and not of anyone.
    pub(crate) fn entries_of(
        &self,
        set: u32,
        class: u32,
        vector: &[usize],
    ) -> BTreeMap<PolicyKey, PolicyEntry> {
        let own = vector.iter().filter(|who| !self.compiled.is_anyone(**who));
        let own = own.flat_map(|who| self.terms(*who));
        let (mut passed, mut demanded) = (Passed::new(), Passed::new());
        if self.compiled.passes {
            passed = self.anyone.passed_to(&self.compiled, &own);
        }
        if self.compiled.demands {
            let view: Vec<&Term> = vector.iter().flat_map(|who| self.terms(*who)).collect();
            demanded = demanded_of(&self.compiled, &view, &self.demanded);
        }
        let entries = Entries::new(set, class).with(own, &passed);
        entries.demanding(&demanded)
    }

    /// The terms of a far side.
    fn terms(&self, who: usize) -> impl Iterator<Item = &Term> + Clone {
        let terms = self.terms_of.get(who).into_iter().flatten();
        terms.filter_map(|n| self.compiled.terms.get(*n))
    }
}

/// The entries of one class.
struct Entries {
    set: u32,
    class: u32,
    entries: BTreeMap<PolicyKey, PolicyEntry>,
}

impl Entries {
    fn new(set: u32, class: u32) -> Self {
        Self {
            set,
            class,
            entries: BTreeMap::new(),
        }
    }

    fn with<'a>(mut self, terms: impl Iterator<Item = &'a Term>, passed: &Passed) -> Self {
        for term in terms.filter(|term| term.does != Does::Pass) {
            let said = Said {
                order: term.order,
                does: term.does,
                rule: term.rule,
            };
            for l4 in &term.l4 {
                self.put(term.direction, *l4, &said);
            }
        }
        for ((direction, l4), said) in passed {
            self.put(*direction, *l4, said);
        }
        self
    }

    /// All entries: what is demanded takes the places of what would be allowed,
    /// but not of what is above that.
    fn demanding(mut self, demanded: &Passed) -> BTreeMap<PolicyKey, PolicyEntry> {
        for ((direction, l4), said) in demanded {
            let entry = entry(said, *l4, self.class);
            let slot = self.entries.entry(self.key(*direction, *l4));
            let slot = slot.or_insert(entry);
            if slot.precedence <= entry.precedence {
                *slot = entry;
            }
        }
        self.entries
    }

    fn put(&mut self, direction: u8, l4: L4, said: &Said) {
        let key = self.key(direction, l4);
        put(&mut self.entries, key, entry(said, l4, self.class));
    }

    fn key(&self, direction: u8, l4: L4) -> PolicyKey {
        PolicyKey {
            set: self.set,
            class: self.class,
            ..l4.key(direction)
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

fn entry(said: &Said, l4: L4, class: u32) -> PolicyEntry {
    PolicyEntry {
        precedence: said.order.precedence(l4, class),
        rule: match said.does {
            Does::Open | Does::Close => 0,
            Does::Allow
            | Does::Deny
            | Does::Redirect
            | Does::Pass
            | Does::Failsafe
            | Does::Authenticate(_) => said.rule,
        },
        flags: match said.does {
            Does::Allow => 0,
            Does::Open => PolicyEntryFlags::DEFAULT,
            Does::Close => PolicyEntryFlags::DENY | PolicyEntryFlags::DEFAULT,
            Does::Deny | Does::Pass => PolicyEntryFlags::DENY,
            // Nothing carries it there yet: nobody passes whom nobody listens to.
            Does::Redirect => PolicyEntryFlags::DENY | PolicyEntryFlags::REDIRECT,
            Does::Failsafe => PolicyEntryFlags::UNKNOWN_TOO,
            // Nobody has yet.
            Does::Authenticate(Auth::AlwaysFail) => {
                PolicyEntryFlags::DENY | PolicyEntryFlags::AUTH | PolicyEntryFlags::AUTH_FAIL
            }
            Does::Authenticate(_) => PolicyEntryFlags::DENY | PolicyEntryFlags::AUTH,
        },
        ..PolicyEntry::default()
    }
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
