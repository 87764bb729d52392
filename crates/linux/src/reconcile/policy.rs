//! Policy set versions: rows of three maps that appear as one.
//!
//! While endpoints use a version, identities come and go in it. A new one is
//! told apart before it is known: entries of its class, then its row of the
//! class table, then (elsewhere) its own row. One that is gone has left the
//! ipcache, and is nobody's, for a grace before its class row goes; the entries
//! of a class that nobody is in any more outlive its last row by as much. An
//! identity that stays known and changes its class does so by one write. So at
//! no instant is an identity in a class that is not its own.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{
    ClassKey, ClassRow, EndpointRow, Identity, IdentityRow, IpKey, PolicyEntry, PolicyKey,
    PolicySetRow,
};
use axon_model::{PolicyRows, RowDiff};
use axon_statedb::{Snapshot, Target};

use super::RowError;
use crate::maps::{Map, Maps};

/// Rows of a set in the kernel that are not wanted, each with the time when it
/// goes.
#[derive(Default)]
struct Surplus {
    classes: BTreeMap<ClassKey, u64>,
    entries: BTreeMap<PolicyKey, u64>,
}

/// A set in the kernel.
#[derive(Default)]
struct Held {
    /// What it shall be.
    wanted: PolicyRows,
    /// What it is, but for rows that are `surplus` too.
    written: PolicyRows,
    /// Rows that may be there beyond what is wanted.
    surplus: Surplus,
    /// The set's own row is there.
    whole: bool,
    /// Identities whose class rows the kernel has not taken, though endpoints
    /// may use the set.
    untold: BTreeSet<Identity>,
}

/// Writes classes and entries before the set's own row, whose presence tells
/// that the set is whole.
pub(super) struct PolicySetTarget {
    sets: Map<u32, PolicySetRow>,
    classes: Map<ClassKey, ClassRow>,
    entries: Map<PolicyKey, PolicyEntry>,
    endpoints: Map<u32, EndpointRow>,
    addresses: Map<IpKey, EndpointRow>,
    held: BTreeMap<u32, Held>,
    /// Identities that are to be known.
    identities: Option<Snapshot<Identity, IdentityRow>>,
    now_ms: u64,
    grace_ms: u64,
}

impl PolicySetTarget {
    pub(super) fn new(maps: &Maps, grace_ms: u64) -> Self {
        Self {
            sets: maps.policy_set.clone(),
            classes: maps.class.clone(),
            entries: maps.policy.clone(),
            endpoints: maps.endpoint.clone(),
            addresses: maps.address.clone(),
            held: BTreeMap::new(),
            identities: None,
            now_ms: 0,
            grace_ms,
        }
    }

    /// Begins a pass: says what time it is and which identities are to be
    /// known. Of those that are known again, class rows of another life go
    /// now.
    ///
    /// # Errors
    /// A row cannot be taken away; no identity may become known meanwhile.
    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        identities: Snapshot<Identity, IdentityRow>,
    ) -> Result<(), RowError> {
        self.now_ms = now_ms;
        for held in self.held.values_mut() {
            let back: Vec<ClassKey> = held
                .surplus
                .classes
                .keys()
                .filter(|key| identities.get(&key.identity).is_some())
                .copied()
                .collect();
            for key in back {
                if !held.wanted.classes.contains_key(&key) {
                    self.classes.remove(&key)?;
                    held.written.classes.remove(&key);
                }
                held.surplus.classes.remove(&key);
            }
        }
        self.identities = Some(identities);
        Ok(())
    }

    /// Identities that some set in the kernel does not tell apart though it
    /// shall: they are not to become known.
    pub(super) fn untold(&self) -> BTreeSet<Identity> {
        self.held
            .values()
            .flat_map(|held| &held.untold)
            .copied()
            .collect()
    }

    /// Ends a pass: takes surplus rows away whose time has come. Says when the
    /// next is due.
    ///
    /// # Errors
    /// A row cannot be taken away; it is tried again.
    pub(super) fn end(&mut self) -> Result<Option<u64>, RowError> {
        let mut next = None;
        let later_ms = self.now_ms + self.grace_ms;
        for held in self.held.values_mut() {
            let Surplus { classes, entries } = &mut held.surplus;
            for key in due(classes, self.now_ms) {
                if !held.wanted.classes.contains_key(&key) {
                    self.classes.remove(&key)?;
                    held.written.classes.remove(&key);
                } else if !held.written.classes.contains_key(&key) {
                    // A set that could not be written whole is not done with it.
                    classes.insert(key, later_ms);
                    continue;
                }
                classes.remove(&key);
            }
            for key in due(entries, self.now_ms) {
                if !held.wanted.entries.contains_key(&key) {
                    self.entries.remove(&key)?;
                    held.written.entries.remove(&key);
                } else if !held.written.entries.contains_key(&key) {
                    entries.insert(key, later_ms);
                    continue;
                }
                entries.remove(&key);
            }
            let waiting = classes.values().chain(entries.values()).copied();
            next = next.into_iter().chain(waiting).min();
        }
        Ok(next)
    }

    /// Whether an identity is not to become unknown in this pass: then a class
    /// row that is not wanted is wrong, not left over.
    fn stays(&self, id: Identity) -> bool {
        let known = self.identities.as_ref();
        id.is_reserved() || known.is_some_and(|known| known.get(&id).is_some())
    }

    /// Writes every row that the kernel does not hold; keys are noted before
    /// they are written, so that a failure leaves nothing unknown. Rows that
    /// are not wanted any more become surplus; the grace of those that were not
    /// wanted `before` either runs on, however often the writing is tried.
    fn write_rows(
        &mut self,
        rows: &PolicyRows,
        before: &PolicyRows,
        held: &mut Held,
    ) -> Result<(), RowError> {
        let goes_ms = self.now_ms + self.grace_ms;
        for difference in held.written.entries.diff(&rows.entries) {
            match difference {
                RowDiff::Add(key, entry)
                | RowDiff::Update {
                    new: (key, entry), ..
                } => {
                    held.surplus.entries.insert(*key, goes_ms);
                    self.entries.insert(key, entry)?;
                }
                RowDiff::Remove(key, _) => {
                    // After the class rows that lead to it.
                    let goes_ms = goes_ms + self.grace_ms;
                    let news = before.entries.contains_key(key);
                    note(&mut held.surplus.entries, *key, goes_ms, news);
                }
            }
        }
        for difference in held.written.classes.diff(&rows.classes) {
            match difference {
                RowDiff::Add(key, row)
                | RowDiff::Update {
                    new: (key, row), ..
                } => {
                    held.surplus.classes.insert(*key, goes_ms);
                    self.classes.insert(key, row)?;
                }
                RowDiff::Remove(key, _) if self.stays(key.identity) => {
                    held.surplus.classes.insert(*key, goes_ms);
                    self.classes.remove(key)?;
                    held.surplus.classes.remove(key);
                }
                RowDiff::Remove(key, _) => {
                    let news = before.classes.contains_key(key);
                    note(&mut held.surplus.classes, *key, goes_ms, news);
                }
            }
        }
        let Surplus { classes, entries } = &mut held.surplus;
        classes.retain(|key, _| !rows.classes.contains_key(key));
        entries.retain(|key, _| !rows.entries.contains_key(key));
        Ok(())
    }

    /// Removes every row of a set that nobody uses.
    fn remove_rows(&mut self, held: &Held) -> Result<(), RowError> {
        let entries = held.written.entries.keys();
        for key in entries.chain(held.surplus.entries.keys()) {
            self.entries.remove(key)?;
        }
        let classes = held.written.classes.keys();
        for key in classes.chain(held.surplus.classes.keys()) {
            self.classes.remove(key)?;
        }
        Ok(())
    }

    fn put(&mut self, set: u32, rows: &PolicyRows, held: &mut Held) -> Result<(), RowError> {
        let before = std::mem::replace(&mut held.wanted, rows.clone());
        if let Err(error) = self.write_rows(rows, &before, held) {
            // Half a set that nobody uses only takes room from others.
            if !held.whole && self.sets.get(&set)?.is_none() {
                self.remove_rows(held)?;
                *held = Held::default();
            } else {
                let wanted = rows.classes.keys();
                let lacks = |key: &&ClassKey| !held.written.classes.contains_key(*key);
                held.untold = wanted.filter(lacks).map(|key| key.identity).collect();
            }
            return Err(error);
        }
        held.untold.clear();
        let same = held.whole && held.written.set == rows.set;
        held.written = rows.clone();
        if !same {
            self.sets.insert(&set, &rows.set)?;
            held.whole = true;
        }
        Ok(())
    }

    /// The device of an endpoint that names the set.
    fn user(&self, set: u32) -> Result<Option<u32>, RowError> {
        let mut user = None;
        self.endpoints.for_each(|_, row| {
            if row.policy_set == set {
                user = Some(row.ifindex);
            }
        })?;
        self.addresses.for_each(|_, row| {
            if row.policy_set == set {
                user = Some(row.ifindex);
            }
        })?;
        Ok(user)
    }
}

/// Notes when a row goes; a time that was noted before stands, unless it is
/// news that the row is to go.
fn note<K: Ord>(waiting: &mut BTreeMap<K, u64>, key: K, goes_ms: u64, news: bool) {
    let noted = waiting.entry(key).or_insert(goes_ms);
    if news {
        *noted = goes_ms;
    }
}

/// The keys whose time has come.
fn due<K: Copy + Ord>(waiting: &BTreeMap<K, u64>, now_ms: u64) -> Vec<K> {
    let due = waiting.iter().filter(|(_, due_ms)| **due_ms <= now_ms);
    due.map(|(key, _)| *key).collect()
}

/// Refuses rows that would land in another set. Keys begin with the set, so
/// the first and the last tell of all.
fn check(set: u32, rows: &PolicyRows) -> Result<(), RowError> {
    let classes = [rows.classes.get_min(), rows.classes.get_max()];
    let entries = [rows.entries.get_min(), rows.entries.get_max()];
    let classes = classes.into_iter().flatten().map(|(key, _)| key.set);
    let entries = entries.into_iter().flatten().map(|(key, _)| key.set);
    classes
        .chain(entries)
        .find(|other| *other != set)
        .map_or(Ok(()), |other| Err(RowError::ForeignRow { set, other }))
}

impl Target for PolicySetTarget {
    type Key = u32;
    type Value = PolicyRows;
    type Error = RowError;

    fn update(&mut self, set: &u32, rows: &PolicyRows) -> Result<(), RowError> {
        check(*set, rows)?;
        let mut held = self.held.remove(set).unwrap_or_default();
        let result = self.put(*set, rows, &mut held);
        self.held.insert(*set, held);
        result
    }

    fn delete(&mut self, set: &u32) -> Result<(), RowError> {
        if let Some(ifindex) = self.user(*set)? {
            return Err(RowError::PolicySetInUse { set: *set, ifindex });
        }
        self.sets.remove(set)?;
        let Some(mut held) = self.held.remove(set) else {
            return Ok(());
        };
        held.whole = false;
        let result = self.remove_rows(&held);
        if result.is_err() {
            self.held.insert(*set, held);
        }
        result
    }

    /// Sets of which only some rows are there are told too: they are to be
    /// made whole, or to go.
    fn dump(&mut self) -> Result<BTreeMap<u32, PolicyRows>, RowError> {
        let mut classes: BTreeMap<u32, Vec<(ClassKey, ClassRow)>> = BTreeMap::new();
        let mut entries: BTreeMap<u32, Vec<(PolicyKey, PolicyEntry)>> = BTreeMap::new();
        let mut whole: BTreeMap<u32, PolicySetRow> = BTreeMap::new();
        self.classes
            .for_each(|key, row| classes.entry(key.set).or_default().push((key, row)))?;
        self.entries
            .for_each(|key, row| entries.entry(key.set).or_default().push((key, row)))?;
        self.sets.for_each(|set, row| {
            whole.insert(set, row);
        })?;
        let numbers: BTreeSet<u32> = classes
            .keys()
            .chain(entries.keys())
            .chain(whole.keys())
            .copied()
            .collect();
        let mut found = BTreeMap::new();
        let mut before = std::mem::take(&mut self.held);
        for set in numbers {
            // No such bit is ever wanted: the row differs from every desired one.
            let none = PolicySetRow {
                pad: u32::MAX,
                ..PolicySetRow::default()
            };
            let mut rows = PolicyRows {
                set: whole.get(&set).copied().unwrap_or(none),
                classes: classes.remove(&set).into_iter().flatten().collect(),
                entries: entries.remove(&set).into_iter().flatten().collect(),
            };
            // What only waits to go is as it shall be.
            let surplus = before.remove(&set).map(|held| held.surplus);
            let surplus = surplus.unwrap_or_default();
            for key in surplus.classes.keys() {
                rows.classes.remove(key);
            }
            for key in surplus.entries.keys() {
                rows.entries.remove(key);
            }
            let held = Held {
                wanted: rows.clone(),
                written: rows.clone(),
                surplus,
                whole: whole.contains_key(&set),
                untold: BTreeSet::new(),
            };
            self.held.insert(set, held);
            found.insert(set, rows);
        }
        Ok(found)
    }
}
