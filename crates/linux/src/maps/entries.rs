//! What reconcilers ask of a map.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Map, MapError};

/// A map as reconcilers see it: the kernel's, or one of a test that fails when it is
/// told to.
pub(crate) trait Entries<K, V>: Send {
    /// The value of a key.
    fn get(&self, key: &K) -> Result<Option<V>, MapError>;

    /// Puts a value in place.
    fn insert(&self, key: &K, value: &V) -> Result<(), MapError>;

    /// Puts values in place in this order; hands back those that are not taken.
    fn insert_all(&self, entries: &[(K, V)]) -> Vec<(usize, MapError)>;

    /// Removes keys; hands back those that stay.
    fn remove_all(&self, keys: &[K]) -> Vec<(usize, MapError)>;

    /// Everything that is there.
    fn dump(&self) -> Result<Vec<(K, V)>, MapError>;
}

impl<K, V> Entries<K, V> for Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        Map::get(self, key)
    }

    fn insert(&self, key: &K, value: &V) -> Result<(), MapError> {
        Map::insert(self, key, value)
    }

    fn insert_all(&self, entries: &[(K, V)]) -> Vec<(usize, MapError)> {
        Map::insert_all(self, entries)
    }

    fn remove_all(&self, keys: &[K]) -> Vec<(usize, MapError)> {
        Map::remove_all(self, keys)
    }

    fn dump(&self) -> Result<Vec<(K, V)>, MapError> {
        Map::dump(self)
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use super::Entries;
    use crate::maps::MapError;

    /// A map in memory; clones share it.
    #[derive(Debug)]
    pub(crate) struct Fake<K, V>(Arc<Mutex<State<K, V>>>);

    #[derive(Debug)]
    pub(crate) struct State<K, V> {
        pub(crate) rows: BTreeMap<K, V>,
        /// Why it cannot be read now, as a number of errno.
        pub(crate) unreadable: Option<i32>,
        /// Keys that are not written, or all.
        pub(crate) refused: Refused<K>,
        /// Keys that are not removed.
        pub(crate) stuck: BTreeSet<K>,
    }

    #[derive(Debug)]
    pub(crate) enum Refused<K> {
        These(BTreeSet<K>),
        All,
    }

    impl<K, V> Clone for Fake<K, V> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<K, V> Default for Fake<K, V> {
        fn default() -> Self {
            Self(Arc::new(Mutex::new(State {
                rows: BTreeMap::new(),
                unreadable: None,
                refused: Refused::These(BTreeSet::new()),
                stuck: BTreeSet::new(),
            })))
        }
    }

    impl<K, V> Fake<K, V> {
        pub(crate) fn state(&self) -> MutexGuard<'_, State<K, V>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    fn error(call: &'static str, errno: i32) -> MapError {
        MapError::Syscall {
            map: "fake",
            call,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    impl<K: Ord + Copy + Send, V: Copy + Send> Entries<K, V> for Fake<K, V> {
        fn get(&self, key: &K) -> Result<Option<V>, MapError> {
            Ok(self.state().rows.get(key).copied())
        }

        fn insert(&self, key: &K, value: &V) -> Result<(), MapError> {
            let mut state = self.state();
            let is_refused = match &state.refused {
                Refused::These(keys) => keys.contains(key),
                Refused::All => true,
            };
            if is_refused {
                return Err(error("update", nix::libc::EIO));
            }
            state.rows.insert(*key, *value);
            Ok(())
        }

        fn insert_all(&self, entries: &[(K, V)]) -> Vec<(usize, MapError)> {
            let entries = entries.iter().enumerate();
            let all = entries.map(|(n, (key, value))| (n, self.insert(key, value)));
            all.filter_map(|(n, result)| Some((n, result.err()?)))
                .collect()
        }

        fn remove_all(&self, keys: &[K]) -> Vec<(usize, MapError)> {
            let mut state = self.state();
            let mut failed = Vec::new();
            for (n, key) in keys.iter().enumerate() {
                if state.stuck.contains(key) {
                    failed.push((n, error("delete", nix::libc::EIO)));
                } else {
                    state.rows.remove(key);
                }
            }
            failed
        }

        fn dump(&self) -> Result<Vec<(K, V)>, MapError> {
            let state = self.state();
            match state.unreadable {
                Some(errno) => Err(error("dump", errno)),
                None => Ok(state.rows.iter().map(|(k, v)| (*k, *v)).collect()),
            }
        }
    }
}
