//! Endpoints near their quota of flows: what they have ended goes early.
//!
//! A flow that has ended is remembered for a while, for the stragglers. Of an
//! endpoint that opens and ends thousands a second these are nearly all, and
//! would leave its new ones no room.

use std::collections::BTreeMap;

use axon_abi::{CtEntry, CtState, RuntimeConfig};

use super::{FlowKey, MapSweep};
use crate::maps::{Map, MapError};

/// From this share of its quota on, in percent, an endpoint is crowded; and
/// down to it ended flows go.
const CROWDED_PERCENT: u64 = 50;
/// Stragglers come within this time, in seconds. The clock has whole ones, so
/// that it is at least half of it.
const STRAGGLERS_S: u32 = 2;

/// The endpoints that are crowded.
pub(super) struct Crowded {
    /// By owner: flows too many.
    surplus: BTreeMap<u32, u32>,
    /// An ended flow that expires by then has had no packet lately.
    until_s: u32,
}

impl Crowded {
    pub(super) fn find(config: &RuntimeConfig, owners: &BTreeMap<u32, u32>, now_s: u32) -> Self {
        let room = u64::from(config.ct_quota) * CROWDED_PERCENT / 100;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let over = |(owner, count): (&u32, &u32)| {
            let surplus = count.saturating_sub(room);
            (config.ct_quota != 0 && surplus > 0).then_some((*owner, surplus))
        };
        let quiet_s = config.timeouts.tcp_closing_s.saturating_sub(STRAGGLERS_S);
        Self {
            surplus: owners.iter().filter_map(over).collect(),
            until_s: now_s.saturating_add(quiet_s),
        }
    }

    /// Removes ended flows of crowded endpoints, the longest ended first.
    pub(super) fn relieve<K: FlowKey>(
        &mut self,
        map: &Map<K, CtEntry>,
        sweep: &mut MapSweep,
        owners: &mut BTreeMap<u32, u32>,
    ) -> Result<(), MapError> {
        if self.surplus.is_empty() {
            return Ok(());
        }
        let has_ended = |entry: &CtEntry| {
            entry.state == CtState::Closing as u8
                && entry.denied == 0
                && entry.expires_s <= self.until_s
        };
        let mut ended = Vec::new();
        map.for_each(|key, entry| {
            let owner = u32::from(entry.owner);
            if has_ended(&entry) && self.surplus.contains_key(&owner) {
                ended.push((entry.expires_s, key, owner));
            }
        })?;
        ended.sort_unstable();
        for (_, key, owner) in ended {
            let Some(surplus) = self.surplus.get_mut(&owner).filter(|surplus| **surplus > 0) else {
                continue;
            };
            if map.remove_if(&key, has_ended)? {
                *surplus -= 1;
                sweep.removed += 1;
                sweep.entries = sweep.entries.saturating_sub(1);
                if let Some(count) = owners.get_mut(&owner) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        Ok(())
    }
}
