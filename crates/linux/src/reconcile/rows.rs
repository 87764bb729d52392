//! Tables whose rows are entries of one map.

use std::collections::BTreeMap;

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

/// An array: its rows cannot be removed, only written.
pub(super) struct ArrayTarget<V> {
    map: Map<u32, V>,
}

impl<V> ArrayTarget<V> {
    pub(super) fn new(map: Map<u32, V>) -> Self {
        Self { map }
    }
}

impl<V> Target for ArrayTarget<V>
where
    V: FromBytes + IntoBytes + Immutable + PartialEq,
{
    type Key = u32;
    type Value = V;
    type Error = RowError;

    fn update(&mut self, key: &u32, value: &V) -> Result<(), RowError> {
        Ok(self.map.insert(key, value)?)
    }

    /// What was configured last stays in force.
    fn delete(&mut self, _key: &u32) -> Result<(), RowError> {
        Ok(())
    }

    fn dump(&mut self) -> Result<BTreeMap<u32, V>, RowError> {
        Ok(self.map.dump()?.into_iter().collect())
    }
}
