//! Tables whose rows are entries of one map.

use std::collections::BTreeMap;

use axon_abi::{ConfigFlags, Identity, IdentityRow, RuntimeConfig};
use axon_statedb::{Backoff, Snapshot, Target};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::follow::wait_ms;
use super::{ReconcileReport, RowError};
use crate::maps::{Entries, Map};

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

/// Somebody who is to become known.
#[derive(Debug, Default)]
struct Arrival {
    row: IdentityRow,
    /// How often in vain.
    attempts: u32,
    /// The kernel is not asked before.
    due_ms: u64,
    error: String,
}

/// Known identities. Who comes is noted, and becomes known when the pass says
/// so ([`Self::arrive`]).
pub(super) struct IdentityTarget {
    rows: MapTarget<Identity, IdentityRow>,
    arrivals: BTreeMap<Identity, Arrival>,
}

impl IdentityTarget {
    pub(super) fn new(map: Map<Identity, IdentityRow>) -> Self {
        Self {
            rows: MapTarget::new(map),
            arrivals: BTreeMap::new(),
        }
    }

    /// Whether somebody is to become known.
    pub(super) fn awaits_any(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Has those who have come, are still `wanted` and whom nothing stands
    /// against be known. Says whether somebody is who had to wait for it.
    pub(super) fn arrive(
        &mut self,
        (now_ms, backoff): (u64, Backoff),
        mut may_come: impl FnMut(Identity) -> Result<(), RowError>,
        wanted: &Snapshot<Identity, IdentityRow>,
        report: &mut ReconcileReport,
    ) -> bool {
        let Self { rows, arrivals } = self;
        let table = report.tables.entry("identities").or_default();
        let mut late = false;
        arrivals.retain(|id, arrival| {
            if wanted.get(id).is_none() {
                return false;
            }
            // Who is withheld is asked about in every pass.
            let withheld = may_come(*id).err();
            let waits = withheld.is_some();
            let result = match withheld {
                Some(error) => Err(error),
                None if arrival.due_ms <= now_ms => rows.update(id, &arrival.row),
                None => {
                    table.fail(id.0.to_string(), arrival.error.clone());
                    report.due_ms = report.due_ms.into_iter().chain([arrival.due_ms]).min();
                    return true;
                }
            };
            let Err(error) = result else {
                late |= arrival.attempts > 0;
                table.updated += usize::from(arrival.attempts > 0);
                return false;
            };
            // It was counted when it was noted.
            table.updated -= usize::from(arrival.attempts == 0 && table.updated > 0);
            arrival.attempts = arrival.attempts.saturating_add(1);
            arrival.error = error.to_string();
            table.fail(id.0.to_string(), arrival.error.clone());
            if !waits {
                arrival.due_ms = now_ms + wait_ms(backoff, arrival.attempts);
                report.due_ms = report.due_ms.into_iter().chain([arrival.due_ms]).min();
            }
            true
        });
        late
    }
}

impl Target for IdentityTarget {
    type Key = Identity;
    type Value = IdentityRow;
    type Error = RowError;

    fn update(&mut self, id: &Identity, row: &IdentityRow) -> Result<(), RowError> {
        if self.rows.map.get(id)?.is_some() {
            return self.rows.update(id, row);
        }
        self.arrivals.entry(*id).or_default().row = *row;
        Ok(())
    }

    fn delete(&mut self, id: &Identity) -> Result<(), RowError> {
        self.arrivals.remove(id);
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
    map: Box<dyn Entries<u32, RuntimeConfig>>,
    late: u32,
    /// [`ConfigFlags::IPCACHE_PARTIAL`], or 0.
    partial: u32,
    written: Option<RuntimeConfig>,
}

impl ConfigTarget {
    pub(super) fn new(map: impl Entries<u32, RuntimeConfig> + 'static) -> Self {
        Self {
            map: Box::new(map),
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

    /// Has the programs know that rows of the ipcache are missing, before they are.
    /// Where that fails it is news still to [`Self::set_partial`].
    pub(super) fn tell_partial(&mut self) -> Result<(), RowError> {
        let partial = ConfigFlags::IPCACHE_PARTIAL;
        let known = self.map.get(&0)?;
        if let Some(row) = known.filter(|row| row.flags & partial == 0) {
            let row = RuntimeConfig {
                epoch: row.epoch.wrapping_add(1),
                flags: row.flags | partial,
                ..row
            };
            self.map.insert(&0, &row)?;
            self.late = self.late.wrapping_add(1);
        }
        self.partial = partial;
        Ok(())
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

#[cfg(test)]
mod tests {
    use axon_abi::{ConfigFlags, RuntimeConfig};
    use axon_statedb::Target;

    use super::ConfigTarget;
    use crate::maps::fake::{Fake, Refused};

    #[test]
    fn what_the_programs_were_not_told_is_told_later() {
        let map = Fake::default();
        let mut config = ConfigTarget::new(map.clone());
        let row = RuntimeConfig::default();
        config.update(&0, &row).expect("written");
        map.state().refused = Refused::All;
        assert!(config.tell_partial().is_err());
        let in_kernel = || map.state().rows[&0];
        assert_eq!(in_kernel().flags & ConfigFlags::IPCACHE_PARTIAL, 0);

        map.state().refused = Refused::These([].into());
        assert!(config.set_partial(true), "it is news still");
        config.next_epoch();
        assert_ne!(in_kernel().flags & ConfigFlags::IPCACHE_PARTIAL, 0);
        assert_ne!(in_kernel().epoch, row.epoch);

        // Where it was told before rows went, it is none afterwards.
        assert!(config.set_partial(false));
        config.next_epoch();
        let before = in_kernel();
        config.tell_partial().expect("told");
        assert!(!config.set_partial(true));
        assert_eq!(in_kernel().epoch, before.epoch.wrapping_add(1));
    }
}
