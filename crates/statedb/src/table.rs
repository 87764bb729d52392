//! Tables of immutable rows.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imbl::OrdMap;

/// Changes remembered by key; whoever has missed more compares everything.
const LOG_ENTRIES_MAX: usize = 16 * 1024;

/// A table; clones share its rows.
pub struct Table<K, V> {
    inner: Arc<Mutex<Inner<K, V>>>,
    observers: Arc<Mutex<Vec<Observer>>>,
}

type Observer = Arc<dyn Fn() + Send + Sync>;

struct Inner<K, V> {
    rows: OrdMap<K, Arc<V>>,
    revision: u64,
    complete: bool,
    /// Keys changed, oldest first, each with its revision.
    log: VecDeque<(u64, K)>,
}

/// The rows of a table at one revision.
#[derive(Clone)]
pub struct Snapshot<K, V> {
    rows: OrdMap<K, Arc<V>>,
    revision: u64,
    complete: bool,
}

/// What has changed since a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes<K> {
    /// These keys: now present with a new row, or absent. Without repeats.
    Keys(Vec<K>),
    /// More than is remembered: compare everything.
    All,
}

/// A write in progress; its changes appear together.
pub struct Txn<'a, K, V> {
    inner: MutexGuard<'a, Inner<K, V>>,
    changed: bool,
}

impl<K: Ord + Clone, V: PartialEq> Default for Table<K, V> {
    fn default() -> Self {
        let inner = Inner {
            rows: OrdMap::new(),
            revision: 0,
            complete: false,
            log: VecDeque::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            observers: Arc::default(),
        }
    }
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            observers: Arc::clone(&self.observers),
        }
    }
}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// A panic inside a write closure leaves rows that are each whole: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// Changes rows; observers are told once, afterwards, if anything changed.
    pub fn write<R>(&self, change: impl FnOnce(&mut Txn<'_, K, V>) -> R) -> R {
        let mut txn = Txn {
            inner: lock(&self.inner),
            changed: false,
        };
        let result = change(&mut txn);
        let changed = txn.changed;
        drop(txn);
        if changed {
            self.notify();
        }
        result
    }

    /// Makes the rows equal to `desired`: one write, only differences count.
    pub fn replace(&self, desired: impl IntoIterator<Item = (K, V)>) {
        self.write(|txn| {
            let mut stale: std::collections::BTreeSet<K> = txn.inner.rows.keys().cloned().collect();
            for (key, value) in desired {
                stale.remove(&key);
                txn.insert(key, value);
            }
            for key in stale {
                txn.remove(&key);
            }
        });
    }

    /// Says that the source has told everything it knows: from now on absence
    /// means something.
    pub fn mark_complete(&self) {
        let was = std::mem::replace(&mut lock(&self.inner).complete, true);
        if !was {
            self.notify();
        }
    }

    /// The rows as they are now.
    pub fn snapshot(&self) -> Snapshot<K, V> {
        let inner = lock(&self.inner);
        Snapshot {
            rows: inner.rows.clone(),
            revision: inner.revision,
            complete: inner.complete,
        }
    }

    /// A row as it is now.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        lock(&self.inner).rows.get(key).map(Arc::clone)
    }

    /// The rows as they are now, and what has changed since `revision`.
    pub fn changes(&self, revision: u64) -> (Snapshot<K, V>, Changes<K>) {
        let inner = lock(&self.inner);
        let forgotten = inner.revision - inner.log.len() as u64;
        let changes = if revision < forgotten || revision > inner.revision {
            Changes::All
        } else {
            let seen = inner.log.partition_point(|(r, _)| *r <= revision);
            let news = inner.log.range(seen..);
            let mut keys: Vec<K> = news.map(|(_, k)| k.clone()).collect();
            keys.sort();
            keys.dedup();
            Changes::Keys(keys)
        };
        let snapshot = Snapshot {
            rows: inner.rows.clone(),
            revision: inner.revision,
            complete: inner.complete,
        };
        (snapshot, changes)
    }

    /// Calls `observer` after every change, from the writer's thread: it must
    /// only wake somebody.
    pub fn on_change(&self, observer: impl Fn() + Send + Sync + 'static) {
        lock(&self.observers).push(Arc::new(observer));
    }

    fn notify(&self) {
        let observers: Vec<Observer> = lock(&self.observers).clone();
        for observer in observers {
            observer();
        }
    }
}

impl<K: Ord + Clone, V: PartialEq> Txn<'_, K, V> {
    /// Puts a row in place; an equal one is left alone. Says whether it
    /// changed anything.
    pub fn insert(&mut self, key: K, value: V) -> bool {
        if self.inner.rows.get(&key).is_some_and(|old| **old == value) {
            return false;
        }
        self.inner.rows.insert(key.clone(), Arc::new(value));
        self.log(key);
        true
    }

    /// Takes a row away and hands it back.
    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        let old = self.inner.rows.remove(key)?;
        self.log(key.clone());
        Some(old)
    }

    /// A row, with this write's changes.
    pub fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.inner.rows.get(key)
    }

    /// Every row, with this write's changes.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.inner.rows.iter()
    }

    fn log(&mut self, key: K) {
        self.changed = true;
        self.inner.revision += 1;
        let revision = self.inner.revision;
        self.inner.log.push_back((revision, key));
        if self.inner.log.len() > LOG_ENTRIES_MAX {
            self.inner.log.pop_front();
        }
    }
}

impl<K: Ord + Clone, V> Snapshot<K, V> {
    /// A row.
    pub fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.rows.get(key)
    }

    /// Every row, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.rows.iter()
    }

    /// Every value, in the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.rows.values()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the source had told everything it knew.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Changes, LOG_ENTRIES_MAX, Table};

    #[test]
    fn equal_rows_change_nothing() {
        let table: Table<u8, &str> = Table::default();
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&calls);
        table.on_change(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        table.write(|txn| txn.insert(1, "a"));
        table.write(|txn| txn.insert(1, "a"));
        table.replace([(1, "a")]);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(table.snapshot().revision(), 1);
    }

    #[test]
    fn changes_name_each_key_once() {
        let table: Table<u8, u8> = Table::default();
        table.replace([(1, 1), (2, 2)]);
        let (snapshot, _) = table.changes(0);
        table.write(|txn| {
            txn.insert(1, 3);
            txn.insert(1, 4);
            txn.remove(&2);
        });
        assert_eq!(
            table.changes(snapshot.revision()).1,
            Changes::Keys(vec![1, 2])
        );
        assert_eq!(
            snapshot.get(&2).map(|v| **v),
            Some(2),
            "a snapshot never changes"
        );
        assert_eq!(
            table.changes(99).1,
            Changes::All,
            "a revision of another life"
        );
    }

    #[test]
    fn what_is_forgotten_is_compared_whole() {
        let table: Table<usize, usize> = Table::default();
        table.write(|txn| {
            for n in 0..=LOG_ENTRIES_MAX {
                txn.insert(n, n);
            }
        });
        assert_eq!(table.changes(0).1, Changes::All);
        assert!(matches!(table.changes(1).1, Changes::Keys(keys) if keys.len() == LOG_ENTRIES_MAX));
    }
}
