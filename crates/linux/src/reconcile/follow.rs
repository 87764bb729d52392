//! One table and its target, with removals that wait for their turn.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Rows that the last [`Follower::put`] has tried in vain.
    refused: BTreeSet<T::Key>,
    /// Rows for which another was taken away in vain.
    futile: BTreeSet<T::Key>,
    unread: Option<Unread>,
    backoff: Backoff,
    grace_ms: u64,
    name: fn(&T::Key) -> String,
}

/// Whether another row that goes makes room for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It does.
    Sure,
    /// It may or may not: where it does not, no other goes.
    Maybe,
    /// What is wrong is not room.
    No,
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
            refused: BTreeSet::new(),
            futile: BTreeSet::new(),
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
        let failures = self.reconciler.failures().iter();
        let failed: BTreeMap<T::Key, u32> = failures
            .map(|(key, failure)| (key.clone(), failure.attempts))
            .collect();
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
        let failures = self.reconciler.failures();
        let tried = failures.iter().filter(|(key, failure)| {
            let before = failed.get(*key);
            before.is_none_or(|attempts| *attempts < failure.attempts)
        });
        self.refused = tried.map(|(key, _)| key.clone()).collect();
        self.futile.retain(|key| failures.contains_key(key));
        failed.keys().any(|key| !failures.contains_key(key))
    }

    /// Puts rows in place that `must` be and that the last [`Self::put`] has tried in
    /// vain, at the cost of others: `may_help` says whether another that goes helps
    /// against the error, and `make_room` takes one away and says which; it is told
    /// for how many rows room is asked. What had to go is wanted still, and fails. One
    /// for which another went in vain costs no other, until it is in place or another
    /// that goes is sure to help. Says whether any was put in place.
    pub(super) fn insist(
        &mut self,
        now_ms: u64,
        table: &Table<T::Key, T::Value>,
        must: impl Fn(&T::Key, &T::Value) -> bool,
        may_help: impl Fn(&T::Error) -> Room,
        mut make_room: impl FnMut(&mut T, usize) -> Option<T::Key>,
    ) -> bool {
        let snapshot = table.snapshot();
        let refused = std::mem::take(&mut self.refused).into_iter();
        let rows = refused.filter_map(|key| snapshot.get(&key).map(|row| (key.clone(), row)));
        let rows: Vec<_> = rows.filter(|(key, row)| must(key, row)).collect();
        let mut put = false;
        for (n, (key, row)) in rows.iter().enumerate() {
            let mut result = self.target.update(key, row);
            let room = result.as_ref().map_or_else(&may_help, |_| Room::No);
            let may_go = match room {
                Room::Sure => true,
                Room::Maybe => !self.futile.contains(key),
                Room::No => false,
            };
            if may_go && let Some(gone) = make_room(&mut self.target, rows.len() - n) {
                if snapshot.get(&gone).is_some() {
                    let error = "it had to make room for the node itself";
                    self.reconciler.note(now_ms, gone, Err(error));
                }
                result = self.target.update(key, row);
                if result.is_err() {
                    self.futile.insert(key.clone());
                }
            }
            // That it has failed is noted already.
            if result.is_ok() {
                self.futile.remove(key);
                put |= self
                    .reconciler
                    .note::<T::Error>(now_ms, key.clone(), Ok(()));
            }
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

    use super::{Follower, Room};
    use crate::reconcile::{Pass, ReconcileReport};

    type Log = Rc<RefCell<Vec<String>>>;

    struct Fake {
        name: &'static str,
        rows: BTreeMap<u8, u8>,
        stuck: bool,
        unreadable: bool,
        /// Why the row 1 is not taken.
        refuses: Option<&'static str>,
        log: Log,
    }

    impl Target for Fake {
        type Key = u8;
        type Value = u8;
        type Error = String;

        fn update(&mut self, key: &u8, value: &u8) -> Result<(), String> {
            if let Some(why) = self.refuses.filter(|_| *key == 1) {
                return Err(why.to_owned());
            }
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
            refuses: None,
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

    #[test]
    fn where_memory_is_short_no_more_than_one_row_goes_for_another() {
        let log = Log::default();
        let mut rows = follower("r", &log);
        let table = Table::default();
        let pass = |rows: &mut Follower<Fake>, now_ms| {
            let mut report = ReconcileReport::default();
            rows.put(Pass::Changes, now_ms, &table, "r", &mut report);
            let may_help = |why: &String| match why.as_str() {
                "full" => Room::Sure,
                "no memory" => Room::Maybe,
                _ => Room::No,
            };
            let mut gone = Vec::new();
            let make_room = |target: &mut Fake, _| {
                let (last, _) = target.rows.pop_last()?;
                gone.push(last);
                Some(last)
            };
            rows.insist(now_ms, &table, |key, _| *key == 1, may_help, make_room);
            rows.take(now_ms, "r", &mut report);
            (gone, report)
        };
        table.replace((2..20).map(|n| (n, n)));
        pass(&mut rows, 0);
        table.write(|t| t.insert(1, 1));
        let attempts = |rows: &Follower<Fake>| rows.reconciler.failures()[&1].attempts;
        for (why, first) in [("no memory", vec![19]), ("busy", vec![])] {
            rows.target.refuses = Some(why);
            let mut now_ms = 100;
            table.write(|t| t.insert(1, 2));
            for n in 1..10 {
                let (gone, report) = pass(&mut rows, now_ms);
                let expected = if n == 1 { first.clone() } else { Vec::new() };
                assert_eq!(gone, expected, "{why}, attempt {n}");
                assert_eq!(attempts(&rows), n, "noted once");
                let failure = &rows.reconciler.failures()[&1];
                now_ms = failure.due_ms;
                // A pass before that does not try.
                let (gone, _) = pass(&mut rows, now_ms - 1);
                assert_eq!((gone, attempts(&rows)), (Vec::new(), n), "{report:?}");
            }
            rows.target.refuses = None;
            pass(&mut rows, now_ms);
            assert_eq!(rows.target.rows.get(&1), Some(&2), "{why}");
            table.write(|t| t.insert(1, 1));
            pass(&mut rows, now_ms);
        }
        // Where it is sure to help, another goes each time.
        rows.target.refuses = Some("full");
        table.write(|t| t.insert(1, 3));
        assert_eq!(pass(&mut rows, 100_000).0.len(), 1);
        let due_ms = rows.reconciler.failures()[&1].due_ms;
        assert_eq!(pass(&mut rows, due_ms).0.len(), 1);
    }
}
