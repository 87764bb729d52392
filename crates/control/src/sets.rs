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
}

impl Sets {
    /// The set of a number.
    pub(crate) fn get(&self, number: u32) -> Option<&Arc<PolicySet>> {
        self.live.get(&number).map(|live| &live.set)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Live)> {
        self.live.iter().map(|(number, live)| (*number, live))
    }

    /// Takes a set in if its rows fit beside the others; sets that only wait
    /// to go make room for it.
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
        let rows = RowCount::of(&set.rows);
        let is_lockdown = rows.entries == 0 && rows.classes == 0;
        while !self.live.contains_key(&set.number) {
            let total = self.row_count() + rows;
            let sets = total.sets + usize::from(!is_lockdown);
            let checks = [
                ("policy sets", sets, capacity.policy_sets),
                ("identity classes", total.classes, capacity.classes),
                ("policy entries", total.entries, capacity.entries),
            ];
            match checks.iter().find(|(_, needed, room)| needed > room) {
                None => {
                    let live = Live {
                        set: Arc::clone(set),
                        retire_at_ms: None,
                    };
                    self.live.insert(set.number, live);
                }
                Some((what, needed, room)) => {
                    if !self.evict_retiring() {
                        return Err(format!("{needed} {what} are needed, the map holds {room}"));
                    }
                }
            }
        }
        if let Some(live) = self.live.get_mut(&set.number) {
            live.retire_at_ms = None;
        }
        Ok(())
    }

    /// Lets the set go that has waited longest; `false` if none waits.
    fn evict_retiring(&mut self) -> bool {
        let waiting = self.live.iter();
        let oldest = waiting
            .filter_map(|(number, live)| Some((live.retire_at_ms?, *number)))
            .min();
        match oldest {
            Some((_, number)) => self.live.remove(&number).is_some(),
            None => false,
        }
    }

    /// Lets sets go whose time has come; says whether any went.
    pub(crate) fn remove_due(&mut self, now_ms: u64) -> bool {
        let before = self.live.len();
        let due = |live: &Live| live.retire_at_ms.is_some_and(|at| at <= now_ms);
        self.live.retain(|_, live| !due(live));
        self.live.len() < before
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
        self.live
            .values()
            .map(|live| RowCount::of(&live.set.rows))
            .sum()
    }
}
