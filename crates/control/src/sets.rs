//! The policy sets that the kernel shall hold: admitted while they fit, kept
//! for a while after the last endpoint has left them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_policy::{PolicySet, RowCount};

use crate::config::Capacity;

/// A set in the desired table.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) set: Arc<PolicySet>,
    /// When it goes; `None` while an endpoint has it.
    pub(crate) retire_at_ms: Option<u64>,
}

/// Every set in the desired table, by number.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    live: BTreeMap<u32, Live>,
    /// Rows of all of them.
    rows: RowCount,
    /// Those whose rows are not in the desired table yet.
    changed: BTreeSet<u32>,
}

impl Sets {
    /// The set of a number.
    pub(crate) fn get(&self, number: u32) -> Option<&Arc<PolicySet>> {
        self.live.get(&number).map(|live| &live.set)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Live)> {
        self.live.iter().map(|(number, live)| (*number, live))
    }

    /// Takes a set in, or its rows as they are now, if they fit beside the
    /// others; sets that only wait to go make room for it.
    ///
    /// One set row stays free for the set that allows nothing, which always
    /// fits.
    ///
    /// # Errors
    /// What does not fit, in a sentence.
    pub(crate) fn admit(
        &mut self,
        set: &Arc<PolicySet>,
        capacity: &Capacity,
    ) -> Result<(), String> {
        let number = set.number;
        let known = self.live.get(&number);
        if !known.is_some_and(|live| Arc::ptr_eq(&live.set, set)) {
            let old = known.map(|live| RowCount::of(&live.set.rows));
            let new = RowCount::of(&set.rows);
            self.make_room(number, old.unwrap_or_default(), new, capacity)?;
            self.rows = self.rows - old.unwrap_or_default() + new;
            let live = Live {
                set: Arc::clone(set),
                retire_at_ms: None,
            };
            self.live.insert(number, live);
            self.changed.insert(number);
        }
        if let Some(live) = self.live.get_mut(&number) {
            live.retire_at_ms = None;
        }
        Ok(())
    }

    /// Lets sets go that only wait to, until `new` rows fit in place of `old`.
    fn make_room(
        &mut self,
        number: u32,
        old: RowCount,
        new: RowCount,
        capacity: &Capacity,
    ) -> Result<(), String> {
        let is_lockdown = new.entries == 0 && new.classes == 0;
        loop {
            let total = self.rows - old + new;
            let sets = total.sets + usize::from(!is_lockdown);
            let checks = [
                ("policy sets", sets, capacity.policy_sets),
                ("identity classes", total.classes, capacity.classes),
                ("policy entries", total.entries, capacity.entries),
            ];
            let Some((what, needed, room)) = checks.iter().find(|(_, needed, room)| needed > room)
            else {
                return Ok(());
            };
            if !self.evict_retiring(number) {
                return Err(format!("{needed} {what} are needed, the map holds {room}"));
            }
        }
    }

    /// Lets the set go that has waited longest, but not `kept`; `false` if none
    /// waits.
    fn evict_retiring(&mut self, kept: u32) -> bool {
        let waiting = self.live.iter().filter(|(number, _)| **number != kept);
        let oldest = waiting
            .filter_map(|(number, live)| Some((live.retire_at_ms?, *number)))
            .min();
        match oldest {
            Some((_, number)) => {
                self.remove(number);
                true
            }
            None => false,
        }
    }

    fn remove(&mut self, number: u32) {
        if let Some(live) = self.live.remove(&number) {
            self.rows = self.rows - RowCount::of(&live.set.rows);
            self.changed.remove(&number);
        }
    }

    /// The sets whose rows are not in the desired table yet.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// Lets sets go whose time has come; says whether any went.
    pub(crate) fn remove_due(&mut self, now_ms: u64) -> bool {
        let due = |live: &Live| live.retire_at_ms.is_some_and(|at| at <= now_ms);
        let gone: Vec<u32> = self
            .iter()
            .filter(|(_, l)| due(l))
            .map(|(n, _)| n)
            .collect();
        for number in &gone {
            self.remove(*number);
        }
        !gone.is_empty()
    }

    /// Has sets that no endpoint has any more wait to go.
    pub(crate) fn retire(&mut self, used: &BTreeSet<u32>, go_at_ms: u64) {
        for (number, live) in &mut self.live {
            if used.contains(number) {
                live.retire_at_ms = None;
            } else {
                live.retire_at_ms.get_or_insert(go_at_ms);
            }
        }
    }

    /// When the next one goes.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.live
            .values()
            .filter_map(|live| live.retire_at_ms)
            .min()
    }

    /// Rows of all of them.
    pub(crate) fn row_count(&self) -> RowCount {
        self.rows
    }
}
