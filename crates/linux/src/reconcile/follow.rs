//! One table and its target, with removals that wait for their turn.

use std::collections::BTreeMap;

use axon_statedb::{Backoff, Reconciler, Table, Target};

use super::{Pass, ReconcileReport};

/// A removal that waits.
struct Removal {
    due_ms: u64,
    attempts: u32,
    error: String,
}

/// What a full pass could not read; it is due again.
struct Unread {
    due_ms: u64,
    attempts: u32,
    error: String,
}

/// Follows a table into a target in two steps, [`Follower::put`] and
/// [`Follower::take`], so that several of them can be interleaved.
pub(super) struct Follower<T: Target> {
    target: T,
    reconciler: Reconciler<T::Key>,
    removals: BTreeMap<T::Key, Removal>,
    unread: Option<Unread>,
    backoff: Backoff,
    grace_ms: u64,
    name: fn(&T::Key) -> String,
}

/// Passes updates on and keeps removals for later.
struct Deferring<'a, T: Target> {
    target: &'a mut T,
    removals: &'a mut BTreeMap<T::Key, Removal>,
    due_ms: u64,
}

impl<T: Target> Target for Deferring<'_, T> {
    type Key = T::Key;
    type Value = T::Value;
    type Error = T::Error;

    fn update(&mut self, key: &T::Key, value: &T::Value) -> Result<(), T::Error> {
        self.removals.remove(key);
        self.target.update(key, value)
    }

    fn delete(&mut self, key: &T::Key) -> Result<(), T::Error> {
        self.removals.entry(key.clone()).or_insert(Removal {
            due_ms: self.due_ms,
            attempts: 0,
            error: String::new(),
        });
        Ok(())
    }

    fn dump(&mut self) -> Result<BTreeMap<T::Key, T::Value>, T::Error> {
        self.target.dump()
    }
}

impl<T: Target> Follower<T> {
    pub(super) fn new(target: T, backoff: Backoff, name: fn(&T::Key) -> String) -> Self {
        Self {
            target,
            reconciler: Reconciler::new(backoff),
            removals: BTreeMap::new(),
            unread: None,
            backoff,
            grace_ms: 0,
            name,
        }
    }

    /// Removals wait so long.
    pub(super) fn with_grace(self, grace_ms: u64) -> Self {
        Self { grace_ms, ..self }
    }

    pub(super) fn target_mut(&mut self) -> &mut T {
        &mut self.target
    }

    /// Has the next [`Self::put`] try again every row that has failed.
    pub(super) fn hasten(&mut self) {
        self.reconciler.hasten();
    }

    pub(super) fn target(&self) -> &T {
        &self.target
    }

    /// Why what the target holds could not be read by the last full pass, if it
    /// could not.
    pub(super) fn unread(&self) -> Option<&str> {
        self.unread.as_ref().map(|unread| unread.error.as_str())
    }

    /// Whether a wanted row is not in place.
    pub(super) fn lacks_rows(&self) -> bool {
        !self.reconciler.failures().is_empty()
    }

    /// Puts rows in place, and notes those that are to go. Says whether a row
    /// is in place now that had failed before.
    pub(super) fn put(
        &mut self,
        pass: Pass,
        now_ms: u64,
        table: &Table<T::Key, T::Value>,
        name: &'static str,
        report: &mut ReconcileReport,
    ) -> bool {
        let failed: Vec<T::Key> = self.reconciler.failures().keys().cloned().collect();
        // A row that came back with the content that is still in the kernel is no update.
        let snapshot = table.snapshot();
        self.removals.retain(|key, _| snapshot.get(key).is_none());
        let mut target = Deferring {
            target: &mut self.target,
            removals: &mut self.removals,
            due_ms: now_ms + self.grace_ms,
        };
        let due = self
            .unread
            .as_ref()
            .is_some_and(|unread| unread.due_ms <= now_ms);
        let done = match pass {
            Pass::Changes if !due => self.reconciler.sync(now_ms, table, &mut target),
            Pass::Changes | Pass::Everything => self.reconciler.full(now_ms, table, &mut target),
        };
        if done.full {
            let attempts = self.unread.as_ref().map_or(0, |unread| unread.attempts) + 1;
            self.unread = done.unread.map(|error| Unread {
                due_ms: now_ms + wait_ms(self.backoff, attempts),
                attempts,
                error,
            });
        }
        report.tables.entry(name).or_default().updated += done.updated;
        failed
            .iter()
            .any(|key| !self.reconciler.failures().contains_key(key))
    }

    /// Puts rows in place that `must` be and have failed, at the cost of others:
    /// `make_room` takes one away if that helps against the error, and says which;
    /// it is also told for how many rows room is asked. What had to go is wanted
    /// still, and fails. Says whether any was put in place.
    pub(super) fn insist(
        &mut self,
        now_ms: u64,
        table: &Table<T::Key, T::Value>,
        must: impl Fn(&T::Key, &T::Value) -> bool,
        mut make_room: impl FnMut(&mut T, &T::Error, usize) -> Option<T::Key>,
    ) -> bool {
        let snapshot = table.snapshot();
        let failed = self.reconciler.failures().keys();
        let rows = failed.filter_map(|key| Some((key, snapshot.get(key)?)));
        let rows = rows.filter(|(key, row)| must(key, row));
        let rows: Vec<_> = rows.map(|(key, row)| (key.clone(), row)).collect();
        let mut put = false;
        for (n, (key, row)) in rows.iter().enumerate() {
            let mut result = self.target.update(key, row);
            if let Err(error) = &result
                && let Some(gone) = make_room(&mut self.target, error, rows.len() - n)
            {
                if snapshot.get(&gone).is_some() {
                    let error = "it had to make room for the node itself";
                    self.reconciler.note(now_ms, gone, Err(error));
                }
                result = self.target.update(key, row);
            }
            put |= self.reconciler.note(now_ms, key.clone(), result);
        }
        put
    }

    /// Takes away what is due, and tells what fails. Says whether a row is
    /// gone now whose removal had failed before.
    pub(super) fn take(
        &mut self,
        now_ms: u64,
        name: &'static str,
        report: &mut ReconcileReport,
    ) -> bool {
        let mut late = false;
        let row = report.tables.entry(name).or_default();
        let due: Vec<T::Key> = self
            .removals
            .iter()
            .filter(|(_, removal)| removal.due_ms <= now_ms)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            match self.target.delete(&key) {
                Ok(()) => {
                    let removal = self.removals.remove(&key);
                    late |= removal.is_some_and(|removal| removal.attempts > 0);
                    row.deleted += 1;
                }
                Err(error) => {
                    if let Some(removal) = self.removals.get_mut(&key) {
                        removal.attempts += 1;
                        removal.error = error.to_string();
                        removal.due_ms = now_ms + wait_ms(self.backoff, removal.attempts);
                    }
                }
            }
        }
        let updates = self
            .reconciler
            .failures()
            .iter()
            .map(|(key, f)| (key, &f.error));
        let removals = self
            .removals
            .iter()
            .filter(|(_, r)| r.attempts > 0)
            .map(|(key, r)| (key, &r.error));
        if let Some(unread) = &self.unread {
            let error = format!(
                "cannot be read, so that none is taken away: {}",
                unread.error
            );
            row.fail("rows".to_owned(), error);
        }
        for (key, error) in updates.chain(removals) {
            row.fail((self.name)(key), error.clone());
        }
        let retries = self
            .reconciler
            .failures()
            .values()
            .map(|failure| failure.due_ms);
        let waiting = self.removals.values().map(|removal| removal.due_ms);
        let unread = self.unread.as_ref().map(|unread| unread.due_ms);
        let due = retries.chain(waiting).chain(unread).chain(report.due_ms);
        report.due_ms = due.min();
        late
    }
}

/// As [`Reconciler`] spaces its retries.
pub(super) fn wait_ms(backoff: Backoff, attempts: u32) -> u64 {
    let doublings = attempts.saturating_sub(1).min(16);
    backoff
        .first_ms
        .saturating_mul(1 << doublings)
        .min(backoff.max_ms)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use axon_statedb::{Backoff, Table, Target};

    use super::Follower;
    use crate::reconcile::{Pass, ReconcileReport};

    type Log = Rc<RefCell<Vec<String>>>;

    struct Fake {
        name: &'static str,
        rows: BTreeMap<u8, u8>,
        stuck: bool,
        unreadable: bool,
        log: Log,
    }

    impl Target for Fake {
        type Key = u8;
        type Value = u8;
        type Error = String;

        fn update(&mut self, key: &u8, value: &u8) -> Result<(), String> {
            self.log.borrow_mut().push(format!("{}+{key}", self.name));
            self.rows.insert(*key, *value);
            Ok(())
        }

        fn delete(&mut self, key: &u8) -> Result<(), String> {
            if self.stuck {
                return Err("in use".to_owned());
            }
            self.log.borrow_mut().push(format!("{}-{key}", self.name));
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

    fn follower(name: &'static str, log: &Log) -> Follower<Fake> {
        let fake = Fake {
            name,
            rows: BTreeMap::new(),
            stuck: false,
            unreadable: false,
            log: Rc::clone(log),
        };
        Follower::new(
            fake,
            Backoff {
                first_ms: 10,
                max_ms: 40,
            },
            u8::to_string,
        )
    }

    #[test]
    fn what_is_put_comes_before_what_is_taken_in_every_table() {
        let log = Log::default();
        let (mut sets, mut endpoints) = (follower("s", &log), follower("e", &log));
        let (set_table, endpoint_table) = (Table::default(), Table::default());
        let mut pass = |now_ms| {
            let mut report = ReconcileReport::default();
            sets.put(Pass::Changes, now_ms, &set_table, "s", &mut report);
            endpoints.put(Pass::Changes, now_ms, &endpoint_table, "e", &mut report);
            endpoints.take(now_ms, "e", &mut report);
            sets.take(now_ms, "s", &mut report);
        };
        set_table.replace([(1, 1)]);
        endpoint_table.replace([(7, 1)]);
        pass(0);
        set_table.replace([(2, 2)]);
        endpoint_table.replace([(8, 2)]);
        pass(1);
        assert_eq!(*log.borrow(), ["s+1", "e+7", "s+2", "e+8", "e-7", "s-1"]);
    }

    #[test]
    fn a_removal_waits_for_its_grace_and_is_called_off_by_a_return() {
        let log = Log::default();
        let mut sets = follower("s", &log).with_grace(100);
        let table = Table::default();
        let mut pass = |now_ms, table: &Table<u8, u8>| {
            let mut report = ReconcileReport::default();
            sets.put(Pass::Changes, now_ms, table, "s", &mut report);
            sets.take(now_ms, "s", &mut report);
            report.due_ms
        };
        table.replace([(1, 1), (2, 2)]);
        assert_eq!(pass(0, &table), None);
        table.replace([]);
        assert_eq!(pass(10, &table), Some(110));
        table.replace([(2, 2)]);
        assert_eq!(pass(50, &table), Some(110), "the other removal still waits");
        assert_eq!(pass(110, &table), None);
        assert_eq!(*log.borrow(), ["s+1", "s+2", "s+2", "s-1"]);
    }

    #[test]
    fn a_full_pass_that_cannot_read_is_told_and_made_again() {
        let log = Log::default();
        let mut sets = follower("s", &log);
        let table = Table::default();
        table.replace([(1, 1)]);
        table.mark_complete();
        sets.target.rows.insert(7, 7);
        sets.target.unreadable = true;
        let pass = |sets: &mut Follower<Fake>, kind, now_ms| {
            let mut report = ReconcileReport::default();
            sets.put(kind, now_ms, &table, "s", &mut report);
            sets.take(now_ms, "s", &mut report);
            report
        };
        let report = pass(&mut sets, Pass::Everything, 0);
        assert_eq!((report.failing_rows(), report.due_ms), (1, Some(10)));
        let (_, error) = &report.tables["s"].failing[0];
        assert!(error.ends_with("no dump"), "{error}");
        assert_eq!(sets.target.rows, [(1, 1), (7, 7)].into());
        let report = pass(&mut sets, Pass::Changes, 9);
        assert_eq!(report.failing_rows(), 1, "it is still to be told");
        sets.target.unreadable = false;
        let report = pass(&mut sets, Pass::Changes, 10);
        assert_eq!((report.failing_rows(), report.due_ms), (0, None));
        assert_eq!(sets.target.rows, [(1, 1)].into());
    }

    #[test]
    fn a_removal_that_fails_is_told_and_tried_again() {
        let log = Log::default();
        let mut sets = follower("s", &log);
        let table = Table::default();
        table.replace([(1, 1)]);
        let mut report = ReconcileReport::default();
        sets.put(Pass::Changes, 0, &table, "s", &mut report);
        table.replace([]);
        sets.target.stuck = true;
        let mut report = ReconcileReport::default();
        sets.put(Pass::Changes, 0, &table, "s", &mut report);
        sets.take(0, "s", &mut report);
        assert_eq!(report.due_ms, Some(10));
        assert_eq!(
            report.tables["s"].failing,
            [("1".to_owned(), "in use".to_owned())]
        );
        sets.target.stuck = false;
        let mut report = ReconcileReport::default();
        sets.put(Pass::Everything, 10, &table, "s", &mut report);
        assert!(sets.take(10, "s", &mut report), "a late removal");
        assert_eq!(report.tables["s"].deleted, 1);
        assert_eq!(report.tables["s"].failing_rows, 0);
    }
}
