//! One table of services in one map: what the kernel holds of it, what it does not
//! take, and what waits to go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use axon_statedb::{Backoff, Changes, Snapshot, Table};

use super::super::follow::wait_ms;
use super::super::{Pass, ReconcileReport};
use crate::maps::{Entries, MapError};

/// A key that a hash knows and a tree sorts.
pub(super) trait Key: Ord + Hash + Copy {}

impl<K: Ord + Hash + Copy> Key for K {}

/// A value that can be compared.
pub(super) trait Value: PartialEq + Copy {}

impl<V: PartialEq + Copy> Value for V {}

/// A row that the kernel does not take, or does not let go.
struct Failure {
    attempts: u32,
    due_ms: u64,
    error: String,
}

/// Rows in a map.
pub(super) struct Rows<K, V> {
    map: Box<dyn Entries<K, V>>,
    /// By this name they are reported.
    name: &'static str,
    show: fn(&K) -> String,
    backoff: Backoff,
    /// What the kernel holds.
    held: HashMap<K, V>,
    /// The table's revision that was looked at last; `None` before that.
    revision: Option<u64>,
    /// Whether the table had told everything then.
    is_complete: bool,
    /// Rows that are to be written.
    failures: BTreeMap<K, Failure>,
    /// Rows that nobody wants, and when they may go.
    doomed: BTreeMap<K, u64>,
    /// Rows of these that could not be taken away.
    stuck: BTreeMap<K, Failure>,
    /// Why the map could not be read; read again when that is due.
    unread: Option<Failure>,
    updated: usize,
    deleted: usize,
}

/// What a look at a table has found.
pub(super) struct Found<K, V> {
    /// Rows that are not in the kernel.
    pub(super) wanted: Vec<(K, V)>,
    /// Rows in the kernel that nobody wants.
    pub(super) unwanted: Vec<K>,
}

impl<K: Key, V: Value> Rows<K, V> {
    pub(super) fn new(
        map: Box<dyn Entries<K, V>>,
        name: &'static str,
        show: fn(&K) -> String,
        backoff: Backoff,
    ) -> Self {
        Self {
            map,
            name,
            show,
            backoff,
            held: HashMap::new(),
            revision: None,
            is_complete: false,
            failures: BTreeMap::new(),
            doomed: BTreeMap::new(),
            stuck: BTreeMap::new(),
            unread: None,
            updated: 0,
            deleted: 0,
        }
    }

    /// A row as the kernel holds it.
    pub(super) fn held(&self, key: &K) -> Option<&V> {
        self.held.get(key)
    }

    /// Rows that are wanted and not in the kernel.
    pub(super) fn failing(&self) -> impl Iterator<Item = &K> {
        self.failures.keys()
    }

    /// Rows that should have gone and are in the kernel still.
    pub(super) fn lingering(&self) -> impl Iterator<Item = &K> {
        self.doomed.keys()
    }

    /// A row as the kernel holds it, if that is as it shall be.
    pub(super) fn in_place(&self, key: &K) -> Option<&V> {
        let is_late = self.failures.contains_key(key);
        self.held.get(key).filter(|_| !is_late)
    }

    /// Whether it is not known what the kernel holds beside what was written since.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Whether a row waits to go.
    pub(super) fn is_doomed(&self, key: &K) -> bool {
        self.doomed.contains_key(key)
    }

    /// Whether a row could not be written.
    pub(super) fn has_failed(&self, key: &K) -> bool {
        self.failures.contains_key(key)
    }

    /// Whether the kernel has taken every row that it was given.
    pub(super) fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// Looks at what has changed in a table, or compares all of it with the
    /// kernel. Row by row `to_row` makes a value of the kernel's of the table's.
    pub(super) fn look<T: PartialEq>(
        &mut self,
        (pass, now_ms): (Pass, u64),
        table: &Table<K, T>,
        to_row: impl Fn(&T) -> V,
    ) -> Found<K, V> {
        let is_due = |f: &Failure| f.due_ms <= now_ms;
        let read = pass == Pass::Everything
            || self.revision.is_none()
            || self.unread.as_ref().is_some_and(is_due);
        if read {
            self.read(now_ms);
        }
        let (rows, changes) = table.changes(self.revision.unwrap_or(0));
        // From now on absence means something.
        let completed = rows.is_complete() && !self.is_complete;
        let keys = match changes {
            Changes::Keys(keys) if !read && !completed => keys,
            Changes::Keys(_) | Changes::All => return self.compare(&rows, to_row),
        };
        self.revision = Some(rows.revision());
        let due = self.failures.iter().filter(|(_, f)| is_due(f));
        let mut keys: BTreeSet<K> = keys.into_iter().collect();
        keys.extend(due.map(|(key, _)| *key));
        let mut found = Found {
            wanted: Vec::new(),
            unwanted: Vec::new(),
        };
        for key in keys {
            match rows.get(&key) {
                Some(row) => self.want(&mut found, key, to_row(row)),
                None => self.leave(&mut found, key),
            }
        }
        found
    }

    fn compare<T>(&mut self, rows: &Snapshot<K, T>, to_row: impl Fn(&T) -> V) -> Found<K, V> {
        self.revision = Some(rows.revision());
        self.is_complete |= rows.is_complete();
        let mut found = Found {
            wanted: Vec::new(),
            unwanted: Vec::new(),
        };
        self.failures.retain(|key, _| rows.get(key).is_some());
        for (key, row) in rows.iter() {
            let row: &Arc<T> = row;
            self.want(&mut found, *key, to_row(row));
        }
        if self.is_complete {
            let gone = self.held.keys().filter(|key| rows.get(key).is_none());
            let mut gone: Vec<K> = gone.copied().collect();
            gone.sort_unstable();
            for key in gone {
                self.leave(&mut found, key);
            }
        }
        found
    }

    fn want(&mut self, found: &mut Found<K, V>, key: K, row: V) {
        self.doomed.remove(&key);
        self.stuck.remove(&key);
        if self.held.get(&key) == Some(&row) {
            self.failures.remove(&key);
        } else {
            found.wanted.push((key, row));
        }
    }

    fn leave(&mut self, found: &mut Found<K, V>, key: K) {
        self.failures.remove(&key);
        if self.held.contains_key(&key) && !self.doomed.contains_key(&key) {
            found.unwanted.push(key);
        }
    }

    /// Learns what the kernel holds. What cannot be read is written whole, and
    /// nothing of it is taken away.
    fn read(&mut self, now_ms: u64) {
        self.held.clear();
        match self.map.dump() {
            Ok(rows) => {
                self.unread = None;
                self.held.extend(rows);
                let held = &self.held;
                self.doomed.retain(|key, _| held.contains_key(key));
                self.stuck.retain(|key, _| held.contains_key(key));
            }
            Err(error) => {
                let attempts = self.unread.as_ref().map_or(0, |f| f.attempts) + 1;
                self.unread = Some(self.failure(now_ms, attempts, &error.to_string()));
            }
        }
    }

    fn failure(&self, now_ms: u64, attempts: u32, error: &str) -> Failure {
        Failure {
            attempts,
            due_ms: now_ms + wait_ms(self.backoff, attempts),
            error: error.to_owned(),
        }
    }

    /// Writes rows, and notes those that the kernel does not take.
    pub(super) fn put(&mut self, now_ms: u64, rows: &[(K, V)]) {
        let mut failed = self.map.insert_all(rows).into_iter().peekable();
        self.held.reserve(rows.len());
        for (n, (key, row)) in rows.iter().enumerate() {
            match failed.next_if(|(at, _)| *at == n) {
                Some((_, error)) => self.fail(now_ms, *key, &error.to_string()),
                None => {
                    self.failures.remove(key);
                    self.held.insert(*key, *row);
                    self.updated += 1;
                }
            }
        }
    }

    /// Notes that a row cannot be written.
    pub(super) fn fail(&mut self, now_ms: u64, key: K, error: &str) {
        let attempts = self.failures.get(&key).map_or(0, |f| f.attempts) + 1;
        let failure = self.failure(now_ms, attempts, error);
        self.failures.insert(key, failure);
    }

    /// Has rows that failed be tried again.
    pub(super) fn hasten(&mut self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            if let Some(failure) = self.failures.get_mut(&key) {
                failure.due_ms = 0;
            }
        }
    }

    /// Has every row that failed be tried again.
    pub(super) fn hasten_all(&mut self) {
        for failure in self.failures.values_mut() {
            failure.due_ms = 0;
        }
    }

    /// Has rows go at that time.
    pub(super) fn doom(&mut self, due_ms: u64, keys: &[K]) {
        self.doomed.extend(keys.iter().map(|key| (*key, due_ms)));
    }

    /// Takes away what is due and not `needed`. Says whether that has made room
    /// for rows that have failed.
    pub(super) fn take(&mut self, now_ms: u64, needed: impl Fn(&K) -> bool) -> bool {
        let may_go = |key: &K| {
            let waits = self.stuck.get(key).is_some_and(|f| f.due_ms > now_ms);
            !waits && !needed(key)
        };
        let due = self.doomed.iter().filter(|(_, due_ms)| **due_ms <= now_ms);
        let due: Vec<K> = due.map(|(key, _)| *key).filter(may_go).collect();
        if due.is_empty() {
            return false;
        }
        let failed: BTreeMap<usize, MapError> = self.map.remove_all(&due).into_iter().collect();
        for (n, key) in due.iter().enumerate() {
            if let Some(error) = failed.get(&n) {
                let attempts = self.stuck.get(key).map_or(0, |f| f.attempts) + 1;
                let failure = self.failure(now_ms, attempts, &error.to_string());
                self.stuck.insert(*key, failure);
                continue;
            }
            self.doomed.remove(key);
            self.stuck.remove(key);
            self.held.remove(key);
            self.deleted += 1;
        }
        failed.len() < due.len() && !self.failures.is_empty()
    }

    /// Tells what has become of rows since this was asked last.
    pub(super) fn tell(&mut self, now_ms: u64, report: &mut ReconcileReport) {
        let table = report.tables.entry(self.name).or_default();
        table.updated += std::mem::take(&mut self.updated);
        table.deleted += std::mem::take(&mut self.deleted);
        if let Some(unread) = &self.unread {
            let error = &unread.error;
            let error = format!("cannot be read, so that none is taken away: {error}");
            table.fail("rows".to_owned(), error);
        }
        let failures = self.failures.iter().chain(&self.stuck);
        for (key, failure) in failures {
            table.fail((self.show)(key), failure.error.clone());
        }
        let failures = self.failures.values().chain(self.stuck.values());
        let failures = failures.chain(&self.unread).map(|f| f.due_ms);
        // What is due and has not gone waits for what fails, which has a time of its own.
        let doomed = self.doomed.values().filter(|due_ms| **due_ms > now_ms);
        let due = failures.chain(doomed.copied()).min();
        report.due_ms = report.due_ms.into_iter().chain(due).min();
    }
}
