//! Policy set versions: rows of three maps that appear as one.
//!
//! While endpoints use a version, identities come and go in it. A new one is
//! told apart before it is known: entries of its class, then its row of the
//! class table, then (elsewhere) its own row. One that is gone has left the
//! ipcache, and is nobody's, for a grace before its class row goes; the entries
//! of a class stay as long as a row leads to it, and a grace longer. An
//! identity that stays known and changes its class does so by one write. So at
//! no instant is an identity in a class that is not its own.
//!
//! What does not fit holds nothing else up: every other row is written, and
//! whom the set does not tell apart for want of a row stays unknown.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{
    ClassKey, ClassRow, EndpointRow, Identity, IdentityRow, IpKey, PolicyEntry, PolicyKey,
    PolicySetRow, class,
};
use axon_model::{Newcomers, PolicyRows, RowDiff};
use axon_statedb::{Snapshot, Target};

use super::RowError;
use crate::maps::{Map, Maps};

/// Rows of a set in the kernel that are not wanted, each with the time when it
/// goes.
#[derive(Default)]
struct Surplus {
    /// `None` while the identity is known.
    classes: BTreeMap<ClassKey, (ClassRow, Option<u64>)>,
    entries: BTreeMap<PolicyKey, u64>,
}

/// A set in the kernel: the rows there are `written` ones and `surplus` ones,
/// and none is both.
#[derive(Default)]
struct Held {
    /// Rows that are wanted, or that what is wanted could not take the place of.
    written: PolicyRows,
    /// Rows that are not wanted.
    surplus: Surplus,
    /// The set's own row is there.
    whole: bool,
    /// Identities whose class rows the kernel has not taken, though endpoints
    /// may use the set.
    untold: BTreeSet<Identity>,
    /// Classes that somebody is still in whose row could not be changed.
    stuck: BTreeSet<u32>,
}

impl Held {
    /// Notes what of the wanted rows the kernel has not taken.
    fn note_lacking(&mut self, rows: &PolicyRows) {
        self.untold.clear();
        self.stuck.clear();
        for difference in self.written.classes.diff(&rows.classes) {
            match difference {
                RowDiff::Add(key, _) => {
                    self.untold.insert(key.identity);
                }
                RowDiff::Update { old, new } => {
                    self.untold.insert(new.0.identity);
                    self.stuck.insert(old.1.class);
                }
                RowDiff::Remove(_, old) => {
                    self.stuck.insert(old.class);
                }
            }
        }
    }

    /// The classes that rows lead to which are not as they shall be.
    fn classes_left(&self) -> BTreeSet<u32> {
        let left = self.surplus.classes.values().map(|(row, _)| row.class);
        left.chain(self.stuck.iter().copied()).collect()
    }

    /// When the next surplus row goes.
    fn due_ms(&self) -> Option<u64> {
        let classes = self.surplus.classes.values();
        let classes = classes.filter_map(|(_, due_ms)| *due_ms);
        classes.chain(self.surplus.entries.values().copied()).min()
    }
}

/// Writes classes and entries before the set's own row, whose presence tells
/// that the set is whole.
pub(super) struct PolicySetTarget {
    sets: Map<u32, PolicySetRow>,
    classes: Map<ClassKey, ClassRow>,
    entries: Map<PolicyKey, PolicyEntry>,
    endpoints: Map<u32, EndpointRow>,
    addresses: Map<IpKey, EndpointRow>,
    known: Map<Identity, IdentityRow>,
    held: BTreeMap<u32, Held>,
    /// Identities that are to be known.
    identities: Option<Snapshot<Identity, IdentityRow>>,
    /// Rows were taken away in this pass.
    made_room: bool,
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
            known: maps.identity.clone(),
            held: BTreeMap::new(),
            identities: None,
            made_room: false,
            now_ms: 0,
            grace_ms,
        }
    }

    /// Begins a pass: says what time it is, which identities are to be known
    /// and which sets there are to be. Class rows of another life of those that
    /// are known again go now, unless the set is about to put its own in their
    /// place.
    ///
    /// # Errors
    /// A row cannot be taken away; no identity may become known meanwhile.
    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        identities: Snapshot<Identity, IdentityRow>,
        sets: &Snapshot<u32, PolicyRows>,
    ) -> Result<(), RowError> {
        self.now_ms = now_ms;
        self.made_room = false;
        for (set, held) in &mut self.held {
            let wanted = sets.get(set).map(|rows| &rows.classes);
            let is_left = |key: &&ClassKey| {
                identities.get(&key.identity).is_some()
                    && wanted.is_none_or(|wanted| !wanted.contains_key(*key))
            };
            let left = held.surplus.classes.keys().filter(is_left);
            for key in left.copied().collect::<Vec<_>>() {
                self.classes.remove(&key)?;
                held.surplus.classes.remove(&key);
            }
        }
        self.identities = Some(identities);
        Ok(())
    }

    /// Whether a set is in the kernel.
    pub(super) fn is_whole(&self, set: u32) -> bool {
        self.held.get(&set).is_some_and(|held| held.whole)
    }

    /// Identities that a set in the kernel does not tell apart though it shall.
    pub(super) fn untold_of(&self, set: u32) -> &BTreeSet<Identity> {
        static NOBODY: BTreeSet<Identity> = BTreeSet::new();
        self.held.get(&set).map_or(&NOBODY, |held| &held.untold)
    }

    /// The rows of a set that are in the kernel, but for those that wait to go.
    pub(super) fn in_kernel(&self, set: u32) -> Option<&PolicyRows> {
        self.held.get(&set).map(|held| &held.written)
    }

    /// Whether rows wait to go that a set is asked for about an identity.
    pub(super) fn is_settling(&self, set: u32, identity: Identity) -> bool {
        let Some(held) = self.held.get(&set) else {
            return false;
        };
        let key = ClassKey { set, identity };
        if held.surplus.classes.contains_key(&key) {
            return true;
        }
        let row = held.written.classes.get(&key).map(|row| row.class);
        let own = row.unwrap_or(class::default_of(identity.scope()));
        [own, class::ANY].into_iter().any(|class| {
            let first = PolicyKey {
                set,
                class,
                ..PolicyKey::default()
            };
            let next = held.surplus.entries.range(first..).next();
            next.is_some_and(|(key, _)| key.class == class)
        })
    }

    /// Sets in the kernel that would allow somebody who is known more than they
    /// shall, for want of a row: nobody else may get them.
    ///
    /// # Errors
    /// Who is known cannot be read.
    pub(super) fn misleading(
        &self,
        wanted: &Snapshot<u32, PolicyRows>,
    ) -> Result<BTreeMap<u32, Identity>, RowError> {
        let mut misleading = BTreeMap::new();
        for (set, held) in self.held.iter().filter(|(_, held)| held.whole) {
            let Some(rows) = wanted.get(set).filter(|_| !held.untold.is_empty()) else {
                continue;
            };
            let mut newcomers = Newcomers::new(&held.written, Some(&**rows));
            for id in &held.untold {
                let is_allowed = !self.is_settling(*set, *id) && newcomers.may_come(*id);
                if !is_allowed && self.known.get(id)?.is_some() {
                    misleading.insert(*set, *id);
                    break;
                }
            }
        }
        Ok(misleading)
    }

    /// Ends a pass: takes surplus rows away whose time has come, but no class
    /// row of somebody known, and no entry of a class that a row leads to. Says
    /// when the next is due.
    ///
    /// # Errors
    /// A row cannot be taken away; it is tried again.
    pub(super) fn end(&mut self) -> Result<Option<u64>, RowError> {
        let later_ms = self.now_ms + self.grace_ms;
        for held in self.held.values_mut() {
            let is_due = |at: Option<u64>| at.is_none_or(|at| at <= self.now_ms);
            let classes = held.surplus.classes.iter();
            let classes = classes.filter(|(_, (_, at))| is_due(*at));
            for key in classes.map(|(key, _)| *key).collect::<Vec<_>>() {
                let is_known = self.known.get(&key.identity)?.is_some();
                let Some((_, at)) = held.surplus.classes.get_mut(&key) else {
                    continue;
                };
                if is_known {
                    *at = None;
                } else if at.is_none() {
                    *at = Some(later_ms);
                } else {
                    self.classes.remove(&key)?;
                    held.surplus.classes.remove(&key);
                    self.made_room = true;
                }
            }
            let entries = held.surplus.entries.iter();
            let entries: Vec<PolicyKey> = entries
                .filter(|(_, at)| is_due(Some(**at)))
                .map(|(key, _)| *key)
                .collect();
            if entries.is_empty() {
                continue;
            }
            let left = held.classes_left();
            for key in entries {
                if left.contains(&key.class) {
                    held.surplus.entries.insert(key, later_ms);
                } else {
                    self.entries.remove(&key)?;
                    held.surplus.entries.remove(&key);
                    self.made_room = true;
                }
            }
        }
        Ok(self.held.values().filter_map(Held::due_ms).min())
    }

    /// Whether rows were taken away in this pass: what did not fit may fit now.
    pub(super) fn has_made_room(&self) -> bool {
        self.made_room
    }

    /// Whether an identity is not to become unknown in this pass: then a class
    /// row that is not wanted is wrong, not left over.
    fn stays(&self, id: Identity) -> bool {
        let known = self.identities.as_ref();
        id.is_reserved() || known.is_some_and(|known| known.get(&id).is_some())
    }

    /// Writes every row that the kernel does not hold and takes; rows that are
    /// not wanted become surplus.
    ///
    /// # Errors
    /// The first row that was not taken.
    fn write_rows(&mut self, rows: &PolicyRows, held: &mut Held) -> Result<(), RowError> {
        let mut failed = None;
        let lacking = self.write_entries(rows, held, &mut failed);
        // What classes say never changes, but one that nobody is in any more may
        // have had the number of one that somebody comes into.
        let of_entries = held.surplus.entries.keys();
        let left: BTreeSet<u32> = of_entries.map(|key| key.class).collect();
        let written = held.written.classes.clone();
        for difference in written.diff(&rows.classes) {
            match difference {
                RowDiff::Add(key, row)
                | RowDiff::Update {
                    new: (key, row), ..
                } => {
                    if left.contains(&row.class) {
                        let (set, class) = (key.set, row.class);
                        failed.get_or_insert(RowError::ClassLeft { set, class });
                    }
                    if lacking.contains(&row.class) || left.contains(&row.class) {
                        continue;
                    }
                    match self.classes.insert(key, row) {
                        Ok(()) => {
                            held.written.classes.insert(*key, *row);
                            held.surplus.classes.remove(key);
                        }
                        Err(error) => failed = failed.or(Some(error.into())),
                    }
                }
                RowDiff::Remove(key, _) if self.stays(key.identity) => {
                    match self.classes.remove(key) {
                        Ok(_) => {
                            held.written.classes.remove(key);
                        }
                        Err(error) => failed = failed.or(Some(error.into())),
                    }
                }
                RowDiff::Remove(key, row) => {
                    held.written.classes.remove(key);
                    held.surplus.classes.insert(*key, (*row, None));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes entries; hands back the classes that lack some.
    fn write_entries(
        &self,
        rows: &PolicyRows,
        held: &mut Held,
        failed: &mut Option<RowError>,
    ) -> BTreeSet<u32> {
        // After the class rows that lead to them.
        let goes_ms = self.now_ms + 2 * self.grace_ms;
        let mut lacking = BTreeSet::new();
        let written = held.written.entries.clone();
        for difference in written.diff(&rows.entries) {
            match difference {
                RowDiff::Add(key, entry)
                | RowDiff::Update {
                    new: (key, entry), ..
                } => match self.entries.insert(key, entry) {
                    Ok(()) => {
                        held.written.entries.insert(*key, *entry);
                        held.surplus.entries.remove(key);
                    }
                    Err(error) => {
                        lacking.insert(key.class);
                        failed.get_or_insert(error.into());
                    }
                },
                RowDiff::Remove(key, _) => {
                    held.written.entries.remove(key);
                    held.surplus.entries.insert(*key, goes_ms);
                }
            }
        }
        lacking
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
        if let Err(error) = self.write_rows(rows, held) {
            // Half a set that nobody uses only takes room from others.
            if !held.whole && self.sets.get(&set)?.is_none() {
                self.remove_rows(held)?;
                *held = Held::default();
            } else {
                held.note_lacking(rows);
            }
            return Err(error);
        }
        held.untold.clear();
        held.stuck.clear();
        // The same rows, and now what the next ones have in common with them is
        // not compared.
        held.written.classes = rows.classes.clone();
        held.written.entries = rows.entries.clone();
        if !held.whole || held.written.set != rows.set {
            self.sets.insert(&set, &rows.set)?;
            held.written.set = rows.set;
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
        self.made_room = true;
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
        let mut found: BTreeMap<u32, Held> = BTreeMap::new();
        let before = std::mem::take(&mut self.held);
        let waiting = |set: &u32| before.get(set).map(|held| &held.surplus);
        let mut read = || -> Result<(), RowError> {
            self.classes.for_each(|key, row| {
                let held = found.entry(key.set).or_default();
                // What only waits to go is as it shall be.
                match waiting(&key.set).and_then(|surplus| surplus.classes.get(&key)) {
                    Some((_, at)) => drop(held.surplus.classes.insert(key, (row, *at))),
                    None => drop(held.written.classes.insert(key, row)),
                }
            })?;
            self.entries.for_each(|key, row| {
                let held = found.entry(key.set).or_default();
                match waiting(&key.set).and_then(|surplus| surplus.entries.get(&key)) {
                    Some(at) => drop(held.surplus.entries.insert(key, *at)),
                    None => drop(held.written.entries.insert(key, row)),
                }
            })?;
            self.sets.for_each(|set, row| {
                let held = found.entry(set).or_default();
                held.written.set = row;
                held.whole = true;
            })?;
            Ok(())
        };
        if let Err(error) = read() {
            self.held = before;
            return Err(error);
        }
        // No such bit is ever wanted: the row differs from every desired one.
        let none = PolicySetRow {
            pad: u32::MAX,
            ..PolicySetRow::default()
        };
        for held in found.values_mut().filter(|held| !held.whole) {
            held.written.set = none;
        }
        self.held = found;
        let rows = |(set, held): (&u32, &Held)| (*set, held.written.clone());
        Ok(self.held.iter().map(rows).collect())
    }
}
