//! Makes something outside equal to a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{Changes, Table};

/// What is to be made equal to a table: a kernel map, routes, devices.
///
/// Both calls are idempotent: updating to what is there and deleting what is
/// absent are no errors.
pub trait Target {
    /// Names a row.
    type Key: Ord + Clone;
    /// A row.
    type Value: PartialEq;
    /// Why a row was not taken.
    type Error: fmt::Display;

    /// Puts a row in place.
    ///
    /// # Errors
    /// The row is kept for a retry.
    fn update(&mut self, key: &Self::Key, value: &Self::Value) -> Result<(), Self::Error>;

    /// Takes a row away.
    ///
    /// # Errors
    /// The removal is kept for a retry.
    fn delete(&mut self, key: &Self::Key) -> Result<(), Self::Error>;

    /// Everything that is there, for a full pass.
    ///
    /// # Errors
    /// The full pass writes every row and takes none away.
    fn dump(&mut self) -> Result<BTreeMap<Self::Key, Self::Value>, Self::Error>;
}

/// How long a failed row waits: doubled with every failure.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first_ms: u64,
    /// At most.
    pub max_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first_ms: 50,
            max_ms: 30_000,
        }
    }
}

/// A row that its target does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFailure {
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again.
    pub due_ms: u64,
    /// The target's words.
    pub error: String,
}

/// What a pass has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows put in place.
    pub updated: usize,
    /// Rows taken away.
    pub deleted: usize,
    /// Rows that wait for a retry.
    pub failing: usize,
    /// When the next retry is due.
    pub retry_due_ms: Option<u64>,
    /// Whether this was a full pass.
    pub full: bool,
    /// Of a full pass: why it could not read the target, in the target's
    /// words. Every row was written then, and none taken away.
    pub unread: Option<String>,
}

/// Follows one table into one target.
#[derive(Debug)]
pub struct Reconciler<K> {
    revision: u64,
    backoff: Backoff,
    failures: BTreeMap<K, RowFailure>,
}

impl<K: Ord + Clone> Reconciler<K> {
    /// A reconciler that has seen nothing yet: its first pass compares all.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            revision: 0,
            backoff,
            failures: BTreeMap::new(),
        }
    }

    /// The rows that wait for a retry.
    pub fn failures(&self) -> &BTreeMap<K, RowFailure> {
        &self.failures
    }

    /// Has the next pass try every row again that waits for it: what kept them
    /// out has gone.
    pub fn hasten(&mut self) {
        for failure in self.failures.values_mut() {
            failure.due_ms = 0;
        }
    }

    /// Carries out what has changed since the last pass, and retries what is
    /// due. Updates come before removals: for a moment there is too much in
    /// the target, never too little.
    pub fn sync<T>(&mut self, now_ms: u64, table: &Table<K, T::Value>, target: &mut T) -> Report
    where
        T: Target<Key = K>,
    {
        let (snapshot, changes) = table.changes(self.revision);
        let keys: BTreeSet<K> = match changes {
            Changes::All => return self.full(now_ms, table, target),
            Changes::Keys(keys) => keys
                .into_iter()
                .chain(
                    self.failures
                        .iter()
                        .filter(|(_, f)| f.due_ms <= now_ms)
                        .map(|(k, _)| k.clone()),
                )
                .collect(),
        };
        let (updates, removals): (Vec<K>, Vec<K>) = keys
            .into_iter()
            .partition(|key| snapshot.get(key).is_some());
        let mut report = Report::default();
        for key in updates {
            if let Some(value) = snapshot.get(&key) {
                let result = target.update(&key, value);
                report.updated += usize::from(self.note(now_ms, key, result));
            }
        }
        for key in removals {
            let result = target.delete(&key);
            report.deleted += usize::from(self.note(now_ms, key, result));
        }
        self.revision = snapshot.revision();
        self.finish(report)
    }

    /// Compares everything and repairs the difference. What only the target
    /// has is removed if the table is complete.
    pub fn full<T>(&mut self, now_ms: u64, table: &Table<K, T::Value>, target: &mut T) -> Report
    where
        T: Target<Key = K>,
    {
        let snapshot = table.snapshot();
        let mut report = Report {
            full: true,
            ..Report::default()
        };
        // Without a dump every row is written and nothing is removed: what is
        // there in excess may stay in force, which the caller is to tell.
        let present = target.dump().unwrap_or_else(|error| {
            report.unread = Some(error.to_string());
            BTreeMap::new()
        });
        for (key, value) in snapshot.iter() {
            if present.get(key).is_none_or(|old| old != value.as_ref()) {
                let result = target.update(key, value);
                report.updated += usize::from(self.note(now_ms, key.clone(), result));
            } else {
                self.failures.remove(key);
            }
        }
        if snapshot.is_complete() {
            for key in present.keys().filter(|key| snapshot.get(key).is_none()) {
                let result = target.delete(key);
                report.deleted += usize::from(self.note(now_ms, key.clone(), result));
            }
        }
        self.revision = snapshot.revision();
        self.finish(report)
    }

    /// Keeps a row's outcome, also of one that was put in place or lost between two
    /// passes; says whether it was a success.
    pub fn note<E: fmt::Display>(&mut self, now_ms: u64, key: K, result: Result<(), E>) -> bool {
        match result.map_err(|error| error.to_string()) {
            Ok(()) => {
                self.failures.remove(&key);
                true
            }
            Err(error) => {
                let attempts = self.failures.get(&key).map_or(0, |f| f.attempts) + 1;
                let wait_ms = self
                    .backoff
                    .first_ms
                    .saturating_mul(1 << (attempts - 1).min(16))
                    .min(self.backoff.max_ms);
                let failure = RowFailure {
                    attempts,
                    due_ms: now_ms + wait_ms,
                    error,
                };
                self.failures.insert(key, failure);
                false
            }
        }
    }

    fn finish(&self, report: Report) -> Report {
        Report {
            failing: self.failures.len(),
            retry_due_ms: self.failures.values().map(|f| f.due_ms).min(),
            ..report
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Backoff, Reconciler, Target};
    use crate::Table;

    /// A target that refuses some keys.
    #[derive(Default)]
    struct Fake {
        rows: BTreeMap<u8, u8>,
        refused: BTreeSet<u8>,
        unreadable: bool,
        writes: usize,
    }

    impl Target for Fake {
        type Key = u8;
        type Value = u8;
        type Error = String;

        fn update(&mut self, key: &u8, value: &u8) -> Result<(), String> {
            if self.refused.contains(key) {
                return Err("full".to_owned());
            }
            self.writes += 1;
            self.rows.insert(*key, *value);
            Ok(())
        }

        fn delete(&mut self, key: &u8) -> Result<(), String> {
            self.writes += 1;
            self.rows.remove(key);
            Ok(())
        }

        fn dump(&mut self) -> Result<BTreeMap<u8, u8>, String> {
            if self.unreadable {
                return Err("no dump".to_owned());
            }
            Ok(self.rows.clone())
        }
    }

    #[test]
    fn a_target_that_cannot_be_read_is_told_and_loses_nothing() {
        let table: Table<u8, u8> = Table::default();
        let mut target = Fake {
            rows: [(7, 7)].into(),
            unreadable: true,
            ..Fake::default()
        };
        let mut reconciler = Reconciler::new(Backoff::default());
        table.replace([(1, 1)]);
        table.mark_complete();
        let report = reconciler.full(0, &table, &mut target);
        assert_eq!(report.unread.as_deref(), Some("no dump"));
        assert_eq!(target.rows, [(1, 1), (7, 7)].into());
        target.unreadable = false;
        let report = reconciler.full(0, &table, &mut target);
        assert_eq!((report.unread, report.deleted), (None, 1));
        assert_eq!(target.rows, [(1, 1)].into());
    }

    #[test]
    fn only_changes_are_written() {
        let table: Table<u8, u8> = Table::default();
        let (mut target, mut reconciler) = (Fake::default(), Reconciler::new(Backoff::default()));
        table.replace([(1, 1), (2, 2)]);
        assert_eq!(reconciler.sync(0, &table, &mut target).updated, 2);
        table.replace([(2, 3)]);
        let report = reconciler.sync(0, &table, &mut target);
        assert_eq!((report.updated, report.deleted), (1, 1));
        assert_eq!(target.rows, [(2, 3)].into());
        reconciler.sync(0, &table, &mut target);
        assert_eq!(target.writes, 4);
    }

    #[test]
    fn failures_are_retried_when_due() {
        let table: Table<u8, u8> = Table::default();
        let mut target = Fake {
            refused: [1].into(),
            ..Fake::default()
        };
        let mut reconciler = Reconciler::new(Backoff {
            first_ms: 10,
            max_ms: 15,
        });
        table.replace([(1, 1)]);
        assert_eq!(
            reconciler.sync(0, &table, &mut target).retry_due_ms,
            Some(10)
        );
        target.refused.clear();
        reconciler.sync(9, &table, &mut target);
        assert!(target.rows.is_empty(), "not due yet");
        assert_eq!(reconciler.sync(10, &table, &mut target).failing, 0);
        assert_eq!(target.rows, [(1, 1)].into());

        target.refused = [2].into();
        table.replace([(1, 1), (2, 2)]);
        reconciler.sync(20, &table, &mut target);
        target.refused.clear();
        reconciler.hasten();
        assert_eq!(reconciler.sync(21, &table, &mut target).failing, 0);

        target.rows.remove(&1);
        assert!(!reconciler.note(30, 1, Err("it had to go")));
        assert_eq!(reconciler.failures()[&1].due_ms, 40);
        reconciler.sync(40, &table, &mut target);
        assert_eq!(
            target.rows,
            [(1, 1), (2, 2)].into(),
            "what was lost is back"
        );
    }

    #[test]
    fn nothing_is_pruned_before_the_table_is_complete() {
        let table: Table<u8, u8> = Table::default();
        let mut target = Fake {
            rows: [(7, 7)].into(),
            ..Fake::default()
        };
        let mut reconciler = Reconciler::new(Backoff::default());
        reconciler.full(0, &table, &mut target);
        assert_eq!(target.rows, [(7, 7)].into());
        table.mark_complete();
        reconciler.full(0, &table, &mut target);
        assert!(target.rows.is_empty());
    }

    proptest::proptest! {
        /// Whatever is written in whatever batches, incremental passes end
        /// where a full pass would.
        #[test]
        fn incremental_equals_full(batches: Vec<Vec<(u8, Option<u8>)>>) {
            let table: Table<u8, u8> = Table::default();
            let (mut target, mut reconciler) = (Fake::default(), Reconciler::new(Backoff::default()));
            for batch in batches {
                table.write(|txn| for (key, value) in batch {
                    match value {
                        Some(value) => { txn.insert(key, value); }
                        None => { txn.remove(&key); }
                    }
                });
                reconciler.sync(0, &table, &mut target);
                let want: BTreeMap<u8, u8> = table.snapshot().iter().map(|(k, v)| (*k, **v)).collect();
                proptest::prop_assert_eq!(&target.rows, &want);
            }
        }
    }
}
