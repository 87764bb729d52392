//! Policy set versions: rows of three maps that appear as one.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{ClassKey, ClassRow, EndpointRow, IpKey, PolicyEntry, PolicyKey, PolicySetRow};
use axon_model::PolicyRows;
use axon_statedb::Target;

use super::RowError;
use crate::maps::{Map, Maps};

/// The keys of a set in the kernel.
#[derive(Default)]
struct Keys {
    classes: BTreeSet<ClassKey>,
    entries: BTreeSet<PolicyKey>,
}

/// Writes classes and entries before the set's own row, whose presence tells
/// that the set is whole.
pub(super) struct PolicySetTarget {
    sets: Map<u32, PolicySetRow>,
    classes: Map<ClassKey, ClassRow>,
    entries: Map<PolicyKey, PolicyEntry>,
    endpoints: Map<u32, EndpointRow>,
    addresses: Map<IpKey, EndpointRow>,
    known: BTreeMap<u32, Keys>,
}

impl PolicySetTarget {
    pub(super) fn new(maps: &Maps) -> Self {
        Self {
            sets: maps.policy_set.clone(),
            classes: maps.class.clone(),
            entries: maps.policy.clone(),
            endpoints: maps.endpoint.clone(),
            addresses: maps.address.clone(),
            known: BTreeMap::new(),
        }
    }

    /// Every row of the set but its own; keys are noted before they are
    /// written, so that a failure leaves nothing unknown.
    fn write_rows(&mut self, set: u32, rows: &PolicyRows) -> Result<(), RowError> {
        let known = self.known.entry(set).or_default();
        for (key, row) in &rows.classes {
            known.classes.insert(*key);
            self.classes.insert(key, row)?;
        }
        for (key, entry) in &rows.entries {
            known.entries.insert(*key);
            self.entries.insert(key, entry)?;
        }
        Ok(())
    }

    /// Removes the set's rows except those of `kept`.
    fn remove_rows(&mut self, set: u32, kept: &PolicyRows) -> Result<(), RowError> {
        let kept = Keys {
            classes: kept.classes.iter().map(|(key, _)| *key).collect(),
            entries: kept.entries.iter().map(|(key, _)| *key).collect(),
        };
        let Some(known) = self.known.get_mut(&set) else {
            return Ok(());
        };
        for key in known.entries.difference(&kept.entries) {
            self.entries.remove(key)?;
        }
        for key in known.classes.difference(&kept.classes) {
            self.classes.remove(key)?;
        }
        *known = kept;
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

/// Refuses rows that would land in another set.
fn check(set: u32, rows: &PolicyRows) -> Result<(), RowError> {
    let classes = rows.classes.iter().map(|(key, _)| key.set);
    let entries = rows.entries.iter().map(|(key, _)| key.set);
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
        if let Err(error) = self.write_rows(*set, rows) {
            // Half a set that nobody uses only takes room from others.
            if self.sets.get(set)?.is_none() {
                self.remove_rows(*set, &PolicyRows::default())?;
            }
            return Err(error);
        }
        self.remove_rows(*set, rows)?;
        Ok(self.sets.insert(set, &rows.set)?)
    }

    fn delete(&mut self, set: &u32) -> Result<(), RowError> {
        if let Some(ifindex) = self.user(*set)? {
            return Err(RowError::PolicySetInUse { set: *set, ifindex });
        }
        self.sets.remove(set)?;
        self.remove_rows(*set, &PolicyRows::default())?;
        self.known.remove(set);
        Ok(())
    }

    /// Sets of which only some rows are there are told too: they are to be
    /// made whole, or to go.
    fn dump(&mut self) -> Result<BTreeMap<u32, PolicyRows>, RowError> {
        let mut found: BTreeMap<u32, PolicyRows> = BTreeMap::new();
        self.classes
            .for_each(|key, row| found.entry(key.set).or_default().classes.push((key, row)))?;
        self.entries
            .for_each(|key, row| found.entry(key.set).or_default().entries.push((key, row)))?;
        let mut whole = BTreeSet::new();
        self.sets.for_each(|set, row| {
            found.entry(set).or_default().set = row;
            whole.insert(set);
        })?;
        self.known.clear();
        for (set, rows) in &mut found {
            rows.classes.sort_unstable_by_key(|(key, _)| *key);
            rows.entries.sort_unstable_by_key(|(key, _)| *key);
            if !whole.contains(set) {
                // No such bit is ever wanted: the row differs from every desired one.
                rows.set.pad = u32::MAX;
            }
            let keys = Keys {
                classes: rows.classes.iter().map(|(key, _)| *key).collect(),
                entries: rows.entries.iter().map(|(key, _)| *key).collect(),
            };
            self.known.insert(*set, keys);
        }
        Ok(found)
    }
}
