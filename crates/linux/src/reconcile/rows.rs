//! Tables whose rows are entries of one map.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{ConfigFlags, Identity, IdentityRow, RuntimeConfig};
use axon_statedb::Target;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::RowError;
use crate::maps::Map;

/// A hash or trie.
pub(super) struct MapTarget<K, V> {
    map: Map<K, V>,
}

impl<K, V> MapTarget<K, V> {
    pub(super) fn new(map: Map<K, V>) -> Self {
        Self { map }
    }
}

impl<K, V> Target for MapTarget<K, V>
where
    K: FromBytes + IntoBytes + Immutable + Ord + Clone,
    V: FromBytes + IntoBytes + Immutable + PartialEq,
{
    type Key = K;
    type Value = V;
    type Error = RowError;

    fn update(&mut self, key: &K, value: &V) -> Result<(), RowError> {
        Ok(self.map.insert(key, value)?)
    }

    fn delete(&mut self, key: &K) -> Result<(), RowError> {
        self.map.remove(key)?;
        Ok(())
    }

    fn dump(&mut self) -> Result<BTreeMap<K, V>, RowError> {
        Ok(self.map.dump()?.into_iter().collect())
    }
}

/// Identities that stay unknown if they are.
#[derive(Debug)]
pub(super) enum Withheld {
    All,
    These(BTreeSet<Identity>),
}

/// Known identities.
pub(super) struct IdentityTarget {
    rows: MapTarget<Identity, IdentityRow>,
    withheld: Withheld,
}

impl IdentityTarget {
    pub(super) fn new(map: Map<Identity, IdentityRow>) -> Self {
        Self {
            rows: MapTarget::new(map),
            withheld: Withheld::These(BTreeSet::new()),
        }
    }

    /// Says which identities are not to become known.
    pub(super) fn withhold(&mut self, withheld: Withheld) {
        self.withheld = withheld;
    }
}

impl Target for IdentityTarget {
    type Key = Identity;
    type Value = IdentityRow;
    type Error = RowError;

    fn update(&mut self, id: &Identity, row: &IdentityRow) -> Result<(), RowError> {
        let withheld = match &self.withheld {
            Withheld::All => true,
            Withheld::These(ids) => ids.contains(id),
        };
        if withheld && self.rows.map.get(id)?.is_none() {
            return Err(RowError::Withheld);
        }
        self.rows.update(id, row)
    }

    fn delete(&mut self, id: &Identity) -> Result<(), RowError> {
        self.rows.delete(id)
    }

    fn dump(&mut self) -> Result<BTreeMap<Identity, IdentityRow>, RowError> {
        self.rows.dump()
    }
}

/// The programs' configuration: one row, which cannot be removed.
///
/// The epoch in the kernel is the desired one and the number of times that
/// rows came late; that rows of the ipcache are missing is known only here.
pub(super) struct ConfigTarget {
    map: Map<u32, RuntimeConfig>,
    late: u32,
    /// [`ConfigFlags::IPCACHE_PARTIAL`], or 0.
    partial: u32,
    written: Option<RuntimeConfig>,
}

impl ConfigTarget {
    pub(super) fn new(map: Map<u32, RuntimeConfig>) -> Self {
        Self {
            map,
            late: 0,
            partial: 0,
            written: None,
        }
    }

    /// Says whether rows of the ipcache are missing; `true` if that is news,
    /// which [`Self::next_epoch`] is to carry out.
    pub(super) fn set_partial(&mut self, partial: bool) -> bool {
        let partial = if partial {
            ConfigFlags::IPCACHE_PARTIAL
        } else {
            0
        };
        std::mem::replace(&mut self.partial, partial) != partial
    }

    /// Has every verdict made again.
    pub(super) fn next_epoch(&mut self) {
        self.late = self.late.wrapping_add(1);
        if let Some(config) = self.written {
            // What fails here is found different by the next full pass.
            let _ = self.update(&0, &config);
        }
    }
}

impl Target for ConfigTarget {
    type Key = u32;
    type Value = RuntimeConfig;
    type Error = RowError;

    fn update(&mut self, key: &u32, value: &RuntimeConfig) -> Result<(), RowError> {
        let epoch = value.epoch.wrapping_add(self.late);
        let flags = value.flags | self.partial;
        let row = RuntimeConfig {
            epoch,
            flags,
            ..*value
        };
        self.map.insert(key, &row)?;
        self.written = Some(*value);
        Ok(())
    }

    /// What was configured last stays in force.
    fn delete(&mut self, _key: &u32) -> Result<(), RowError> {
        Ok(())
    }

    fn dump(&mut self) -> Result<BTreeMap<u32, RuntimeConfig>, RowError> {
        let mut rows: BTreeMap<u32, RuntimeConfig> = self.map.dump()?.into_iter().collect();
        for row in rows.values_mut() {
            row.epoch = row.epoch.wrapping_sub(self.late);
            // What is not as it shall be differs from every desired row.
            row.flags ^= self.partial;
        }
        self.written = rows.get(&0).copied();
        Ok(rows)
    }
}
