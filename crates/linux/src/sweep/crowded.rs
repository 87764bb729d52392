//! Endpoints near their quota of flows: what is over goes early.
//!
//! A connection that has ended is remembered for a while, for its stragglers; so
//! is a question over UDP that was answered, for more of both. Of an endpoint
//! that ends thousands of connections a second, or answers as many questions,
//! these are nearly all, and would leave its new flows no room.

use std::collections::BTreeMap;

use axon_abi::{CtEntry, CtState, RuntimeConfig, Timeouts};

use super::{FlowKey, MapSweep};
use crate::maps::{Map, MapError};

/// From this share of its quota on, in percent, an endpoint is crowded; and
/// down to it go flows that are over.
const CROWDED_PERCENT: u64 = 50;
/// Stragglers come within this time, in seconds. The clock has whole ones, so
/// that it is at least half of it.
const STRAGGLERS_S: u32 = 2;
/// Packets each way of a question and its answer, one of them sent again. A
/// flow with more may be one in which the answering side speaks first next
/// time: forgotten, that would be a new flow to policy.
const EXCHANGE_PACKETS: u64 = 2;

/// The endpoints that are crowded.
pub(super) struct Crowded {
    /// By owner: flows too many.
    surplus: BTreeMap<u32, u32>,
    timeouts: Timeouts,
    now_s: u32,
}

impl Crowded {
    pub(super) fn find(config: &RuntimeConfig, owners: &BTreeMap<u32, u32>, now_s: u32) -> Self {
        let room = u64::from(config.ct_quota) * CROWDED_PERCENT / 100;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let over = |(owner, count): (&u32, &u32)| {
            let surplus = count.saturating_sub(room);
            (config.ct_quota != 0 && surplus > 0).then_some((*owner, surplus))
        };
        Self {
            surplus: owners.iter().filter_map(over).collect(),
            timeouts: config.timeouts,
            now_s,
        }
    }

    /// Removes flows of crowded endpoints that are over, the longest over first.
    pub(super) fn relieve<K: FlowKey>(
        &mut self,
        map: &Map<K, CtEntry>,
        sweep: &mut MapSweep,
        owners: &mut BTreeMap<u32, u32>,
    ) -> Result<(), MapError> {
        if self.surplus.is_empty() {
            return Ok(());
        }
        let mut over = Vec::new();
        map.for_each(|key, entry| {
            let owner = u32::from(entry.owner);
            if self.surplus.contains_key(&owner)
                && let Some(seen_s) = over_since(&entry, &self.timeouts, self.now_s)
            {
                over.push((seen_s, key, owner));
            }
        })?;
        over.sort_unstable();
        let (timeouts, now_s) = (self.timeouts, self.now_s);
        for (_, key, owner) in over {
            let Some(surplus) = self.surplus.get_mut(&owner).filter(|surplus| **surplus > 0) else {
                continue;
            };
            if map.remove_if(&key, |entry| over_since(entry, &timeouts, now_s).is_some())? {
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

/// The second of the last packet of a flow that is over; `None` of one that goes
/// on, or may have stragglers.
fn over_since(entry: &CtEntry, timeouts: &Timeouts, now_s: u32) -> Option<u32> {
    let lifetime_s = match CtState::from_u8(entry.state)? {
        CtState::Closing => timeouts.tcp_closing_s,
        CtState::TwoWay if entry.packets.iter().all(|n| *n <= EXCHANGE_PACKETS) => {
            timeouts.two_way_s
        }
        CtState::TwoWay | CtState::Opening | CtState::Established | CtState::OneWay => return None,
    };
    let seen_s = entry.expires_s.saturating_sub(lifetime_s);
    // What policy has cut is remembered so that the other side does not open it anew.
    (entry.denied == 0 && seen_s.saturating_add(STRAGGLERS_S) <= now_s).then_some(seen_s)
}

#[cfg(test)]
mod tests {
    use axon_abi::{CtEntry, CtState, Timeouts};

    use super::over_since;

    #[test]
    fn what_is_over_is_quiet_and_was_short_or_has_ended() {
        let timeouts = Timeouts {
            tcp_closing_s: 10,
            two_way_s: 60,
            one_way_s: 30,
            ..Timeouts::default()
        };
        let seen = |state: CtState, lifetime_s: u32, packets| CtEntry {
            state: state as u8,
            expires_s: 500 + lifetime_s,
            packets,
            ..CtEntry::default()
        };
        for (name, entry, expected) in [
            ("ended", seen(CtState::Closing, 10, [9, 9]), Some(500)),
            ("answered", seen(CtState::TwoWay, 60, [2, 1]), Some(500)),
            ("a talk", seen(CtState::TwoWay, 60, [3, 1]), None),
            ("unanswered", seen(CtState::OneWay, 30, [1, 0]), None),
            ("goes on", seen(CtState::Established, 9000, [1, 1]), None),
            (
                "cut",
                CtEntry {
                    denied: 133,
                    ..seen(CtState::Closing, 10, [9, 9])
                },
                None,
            ),
        ] {
            assert_eq!(over_since(&entry, &timeouts, 502), expected, "{name}");
            assert_eq!(over_since(&entry, &timeouts, 501), None, "{name}, just now");
        }
    }
}
