//! The rows of services as tables.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{
    Backend, ListBlock, ListKey, MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceKey,
    SourceRangeKey,
};
use axon_model::DesiredServices;
use axon_statedb::Table;

use super::{HealthCheck, Report, ServiceRows};

/// What a node shall hold of services. Cloning shares the tables.
///
/// What a row refers to is there before the row is, and goes after it.
#[derive(Clone, Debug, Default)]
pub struct ServiceTables {
    /// Frontends.
    pub services: Table<ServiceKey, ServiceEntry>,
    /// Lists.
    pub lists: Table<ListKey, ListBlock>,
    /// Maglev tables.
    pub maglev: Table<MaglevKey, MaglevBlock>,
    /// Backends by id.
    pub backends: Table<u32, Backend>,
    /// Source ranges.
    pub ranges: Table<SourceRangeKey, ()>,
    /// Who passes by a redirection.
    pub skips: Table<ServiceClient, ()>,
    /// Health-check node ports.
    pub health: Table<u16, HealthCheck>,
    /// What is wrong, by object and field.
    pub reports: Table<(String, String), Report>,
}

impl ServiceTables {
    /// Those that are for the kernel, shared.
    pub fn desired(&self) -> DesiredServices {
        DesiredServices {
            frontends: self.services.clone(),
            lists: self.lists.clone(),
            maglev: self.maglev.clone(),
            backends: self.backends.clone(),
            ranges: self.ranges.clone(),
            skips: self.skips.clone(),
        }
    }

    /// All rows, as the slow way gives them.
    pub fn rows(&self) -> ServiceRows {
        ServiceRows {
            services: all(&self.services),
            lists: all(&self.lists),
            maglev: all(&self.maglev),
            backends: all(&self.backends),
            ranges: all(&self.ranges).into_keys().collect(),
            skips: all(&self.skips).into_keys().collect(),
            health: all(&self.health),
            reports: all(&self.reports).into_values().collect(),
        }
    }
}

fn all<K: Ord + Clone, V: PartialEq + Clone>(table: &Table<K, V>) -> BTreeMap<K, V> {
    let rows = table.snapshot();
    let rows = rows.iter();
    rows.map(|(key, row)| (key.clone(), (**row).clone()))
        .collect()
}

/// Rows that are to change: there, or not.
type Changes<K, V> = BTreeMap<K, Option<V>>;

/// What a step changes.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) services: Changes<ServiceKey, ServiceEntry>,
    pub(super) lists: Changes<ListKey, ListBlock>,
    pub(super) maglev: Changes<MaglevKey, MaglevBlock>,
    pub(super) backends: Changes<u32, Backend>,
    pub(super) ranges: Changes<SourceRangeKey, ()>,
    pub(super) skips: Changes<ServiceClient, ()>,
    pub(super) health: Changes<u16, HealthCheck>,
    pub(super) reports: Changes<(String, String), Report>,
}

/// Notes how some rows of one object differ from what they were.
pub(super) fn differ<K: Ord + Clone, V: PartialEq + Clone>(
    changes: &mut Changes<K, V>,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) {
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        changes.insert(key.clone(), None);
    }
    for (key, row) in new.iter().filter(|(key, row)| old.get(key) != Some(row)) {
        changes.insert(key.clone(), Some(row.clone()));
    }
}

/// The same of rows that are nothing but keys.
pub(super) fn differ_in<K: Ord + Clone>(
    changes: &mut Changes<K, ()>,
    old: &BTreeSet<K>,
    new: &BTreeSet<K>,
) {
    changes.extend(old.difference(new).map(|key| (key.clone(), None)));
    changes.extend(new.difference(old).map(|key| (key.clone(), Some(()))));
}

impl Pending {
    /// Carries it out, and says how many rows are others now.
    pub(super) fn write(self, tables: &ServiceTables) -> usize {
        let mut rows = 0;
        rows += insert(&tables.backends, &self.backends);
        rows += insert(&tables.lists, &self.lists);
        rows += insert(&tables.maglev, &self.maglev);
        rows += insert(&tables.ranges, &self.ranges) + insert(&tables.skips, &self.skips);
        rows += insert(&tables.services, &self.services);
        rows += insert(&tables.health, &self.health) + insert(&tables.reports, &self.reports);
        rows += remove(&tables.reports, &self.reports) + remove(&tables.health, &self.health);
        rows += remove(&tables.services, &self.services);
        rows += remove(&tables.skips, &self.skips) + remove(&tables.ranges, &self.ranges);
        rows += remove(&tables.maglev, &self.maglev) + remove(&tables.lists, &self.lists);
        rows + remove(&tables.backends, &self.backends)
    }
}

fn insert<K: Ord + Clone, V: PartialEq + Clone>(
    table: &Table<K, V>,
    changes: &Changes<K, V>,
) -> usize {
    let there = changes
        .iter()
        .filter_map(|(k, row)| Some((k, row.as_ref()?)));
    table.write(|txn| {
        let news = there.filter(|(key, row)| txn.insert((*key).clone(), (*row).clone()));
        news.count()
    })
}

fn remove<K: Ord + Clone, V: PartialEq + Clone>(
    table: &Table<K, V>,
    changes: &Changes<K, V>,
) -> usize {
    let gone = changes.iter().filter(|(_, row)| row.is_none());
    table.write(|txn| gone.filter(|(key, _)| txn.remove(key).is_some()).count())
}
