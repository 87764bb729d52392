//! Removes what has expired, before maps overflow.
//!
//! ```text
//!  every pass:  conntrack (expired) → services' flows (silent) → NAT (its flow is gone)
//!               → fragments → counts by owner
//!  above 80 %:  flows go early: half-open and one-way ones first, then idle ones
//!  an endpoint above half of its quota:  its flows that are over go early
//! ```
//!
//! Within each kind the soonest to expire goes first: of flows that both sides
//! have spoken in, the longest idle. A flow that policy cut goes last, for its
//! entry keeps the other side from opening it anew.

mod crowded;
mod nat;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::{
    CtEntry, CtKey4, CtKey6, CtState, IpKey, NatEntry, NatKey, ServiceFlow, ServiceFlowKey,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::maps::{Map, MapError, Maps};
use crowded::Crowded;

/// Above this share of a map's capacity, in percent, flows go early.
const HIGH_PERCENT: u64 = 80;
/// And so many that this share is left.
const TARGET_PERCENT: u64 = 75;

/// What a pass did to one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MapSweep {
    /// The map.
    pub map: &'static str,
    /// Entries left.
    pub entries: u32,
    /// Entries it can hold.
    pub capacity: u32,
    /// Expired entries removed, and flows that are over of endpoints near their quota.
    pub removed: u32,
    /// Entries removed before their time because the map was too full.
    pub evicted_early: u32,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// By map.
    pub maps: Vec<MapSweep>,
    /// How much of its quota of flows the endpoint owns that is nearest to it,
    /// in percent; 0 without a quota.
    pub crowding_percent: u32,
}

/// Sweeps conntrack, flows of services, NAT and fragments.
#[derive(Debug)]
pub struct Sweeper {
    maps: Maps,
    /// Who owned flows at the last pass; `None` before the first.
    owners: Option<BTreeSet<u32>>,
}

/// What a flow's key tells.
trait FlowKey: FromBytes + IntoBytes + Immutable + Copy + Ord {
    fn ends(&self) -> [IpKey; 2];
}

impl FlowKey for CtKey4 {
    fn ends(&self) -> [IpKey; 2] {
        [IpKey::from_v4(self.low), IpKey::from_v4(self.high)]
    }
}

impl FlowKey for CtKey6 {
    fn ends(&self) -> [IpKey; 2] {
        [IpKey::from_v6(self.low), IpKey::from_v6(self.high)]
    }
}

/// What a map holds after its sweep.
struct Swept<K> {
    sweep: MapSweep,
    live: Keys<K>,
}

/// Keys in order: a search in half a million costs less than making a tree of
/// them.
struct Keys<K>(Vec<K>);

impl<K: Ord> Keys<K> {
    fn new(mut keys: Vec<K>) -> Self {
        keys.sort_unstable();
        Self(keys)
    }

    fn contains(&self, key: &K) -> bool {
        self.0.binary_search(key).is_ok()
    }
}

impl Sweeper {
    /// A sweeper of these maps.
    pub fn new(maps: Maps) -> Self {
        Self { maps, owners: None }
    }

    /// Removes what has expired at `now_s` ([`crate::monotonic_s`]).
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn pass(&mut self, now_s: u32) -> Result<SweepReport, MapError> {
        let config = self.maps.config.get(&0)?.unwrap_or_default();
        let timeouts = config.timeouts;
        let mut owners = BTreeMap::new();
        let mut ct4 = sweep_flows(&self.maps.ct4, now_s, &mut owners)?;
        let mut ct6 = sweep_flows(&self.maps.ct6, now_s, &mut owners)?;
        let mut crowded = Crowded::find(&config, &owners, now_s);
        crowded.relieve(&self.maps.ct4, &mut ct4.sweep, &mut owners)?;
        crowded.relieve(&self.maps.ct6, &mut ct6.sweep, &mut owners)?;
        self.recount(&owners)?;
        let crowding_percent = crowding(config.ct_quota, &owners);
        let pairs = service::Pairs::read(&self.maps.service_flow)?;
        let service_flow = sweep(
            &self.maps.service_flow,
            |key, flow| pairs.is_stale(key, flow, &timeouts, now_s),
            |key, flow| pairs.early_order(key, flow),
            |_| {},
        )?;
        let flows = nat::Flows {
            ct4: &ct4.live,
            ct6: &ct6.live,
            services: &service_flow.live,
        };
        let nat = sweep(
            &self.maps.nat,
            |key, entry| nat::is_stale(key, entry, &timeouts, now_s, &flows),
            |_, entry| u64::from(entry.seen_s),
            |_| {},
        )?;
        let fragment = sweep(
            &self.maps.fragment,
            |_, ports| ports.seen_s.saturating_add(timeouts.fragment_s.max(1)) <= now_s,
            |_, ports| u64::from(ports.seen_s),
            |_| {},
        )?;
        Ok(SweepReport {
            maps: vec![
                ct4.sweep,
                ct6.sweep,
                service_flow.sweep,
                nat.sweep,
                fragment.sweep,
            ],
            crowding_percent,
        })
    }

    /// Sets the counts of flows by owner right; the programs count up, and
    /// neither expiry nor eviction counts down.
    ///
    /// The first pass looks at all counts there may be, which costs as much as all
    /// else in a quiet one; the others at those of who owns flows, did, or could.
    fn recount(&mut self, owners: &BTreeMap<u32, u32>) -> Result<(), MapError> {
        let right = |owner: u32| owners.get(&owner).copied().unwrap_or(0);
        let mut wrong = Vec::new();
        let mut compare = |owner: u32, count: u32| {
            if count != right(owner) {
                wrong.push((owner, right(owner)));
            }
        };
        if let Some(mut known) = self.owners.take() {
            known.extend(owners.keys());
            let endpoints = &self.maps.endpoint;
            endpoints.for_each(|_, row| {
                known.insert(row.id.into());
            })?;
            for owner in known {
                if let Some(count) = self.maps.ct_count.get(&owner)? {
                    compare(owner, count);
                }
            }
        } else {
            self.maps.ct_count.for_each(compare)?;
        }
        for (owner, right) in wrong {
            self.maps.ct_count.insert(&owner, &right)?;
        }
        self.owners = Some(owners.keys().copied().collect());
        Ok(())
    }

    /// Removes every flow and translation of these addresses, which are given
    /// to a new endpoint, or were those of one that has gone; says how many. The
    /// counts of their owners are set right: between two passes an owner may come,
    /// open flows and go, and no pass sees it.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn flush(&mut self, addresses: &[IpAddr], owners: &[u16]) -> Result<usize, MapError> {
        let addresses: BTreeSet<IpKey> = addresses.iter().map(|addr| IpKey::from(*addr)).collect();
        let of_flow = |ends: [IpKey; 2]| ends.iter().any(|end| addresses.contains(end));
        let mut left: BTreeMap<u16, u32> = owners.iter().map(|owner| (*owner, 0)).collect();
        let mut removed = flush_flows(&self.maps.ct4, of_flow, &mut left)?;
        removed += flush_flows(&self.maps.ct6, of_flow, &mut left)?;
        for (owner, count) in left {
            self.maps.ct_count.insert(&owner.into(), &count)?;
        }
        removed += remove_where(&self.maps.nat, |key: &NatKey, entry: &NatEntry| {
            of_flow([key.source, key.destination]) || addresses.contains(&entry.addr)
        })?;
        removed += remove_where(
            &self.maps.service_flow,
            |key: &ServiceFlowKey, flow: &ServiceFlow| {
                of_flow([key.source, key.destination]) || of_flow([flow.source, flow.destination])
            },
        )?;
        Ok(removed)
    }
}

/// Removes flows of such addresses, and counts those that are left by owner.
fn flush_flows<K: FlowKey>(
    map: &Map<K, CtEntry>,
    is_doomed: impl Fn([IpKey; 2]) -> bool,
    left: &mut BTreeMap<u16, u32>,
) -> Result<usize, MapError> {
    let mut keys = Vec::new();
    map.for_each(|key, entry: CtEntry| {
        if is_doomed(key.ends()) {
            keys.push(key);
        } else if let Some(count) = left.get_mut(&entry.owner) {
            *count += 1;
        }
    })?;
    remove_keys(map, &keys)
}

fn remove_where<K, V>(map: &Map<K, V>, doomed: impl Fn(&K, &V) -> bool) -> Result<usize, MapError>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    let mut keys = Vec::new();
    map.for_each(|key, value| {
        if doomed(&key, &value) {
            keys.push(key);
        }
    })?;
    remove_keys(map, &keys)
}

fn remove_keys<K, V>(map: &Map<K, V>, keys: &[K]) -> Result<usize, MapError>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    let mut removed = 0;
    for key in keys {
        removed += usize::from(map.remove(key)?);
    }
    Ok(removed)
}

fn sweep_flows<K: FlowKey>(
    map: &Map<K, CtEntry>,
    now_s: u32,
    owners: &mut BTreeMap<u32, u32>,
) -> Result<Swept<K>, MapError> {
    let mut found = BTreeMap::new();
    let mut count = |entry: &CtEntry| *found.entry(u32::from(entry.owner)).or_insert(0) += 1;
    let swept = sweep(
        map,
        |_, entry: &CtEntry| entry.expires_s <= now_s,
        early_order,
        &mut count,
    )?;
    if swept.sweep.evicted_early > 0 {
        found.clear();
        map.for_each(|_, entry: CtEntry| {
            *found.entry(u32::from(entry.owner)).or_insert(0) += 1;
        })?;
    }
    for (owner, count) in found {
        *owners.entry(owner).or_insert(0) += count;
    }
    Ok(swept)
}

/// In which order flows go early: by what losing them costs, then by when they
/// would expire.
fn early_order<K>(_: &K, entry: &CtEntry) -> u64 {
    let cost = match CtState::from_u8(entry.state) {
        _ if entry.denied != 0 => 2,
        Some(CtState::Established | CtState::TwoWay) => 1,
        None | Some(CtState::Opening | CtState::OneWay | CtState::Closing) => 0,
    };
    cost << 32 | u64::from(entry.expires_s)
}

/// Removes what is `expired`; if the map is still too full, the least by their
/// `early` order too. What has not expired is `seen`.
fn sweep<K, V>(
    map: &Map<K, V>,
    expired: impl Fn(&K, &V) -> bool,
    early: impl Fn(&K, &V) -> u64,
    mut seen: impl FnMut(&V),
) -> Result<Swept<K>, MapError>
where
    K: FromBytes + IntoBytes + Immutable + Copy + Ord,
    V: FromBytes + IntoBytes + Immutable,
{
    let (mut stale, mut live) = (Vec::new(), Vec::new());
    map.for_each(|key, value| {
        if expired(&key, &value) {
            stale.push(key);
            return;
        }
        seen(&value);
        live.push(key);
    })?;
    let mut sweep = MapSweep {
        map: map.name(),
        capacity: map.capacity(),
        ..MapSweep::default()
    };
    for key in stale {
        // A packet may have revived the entry since it was read.
        let removed = map.remove_if(&key, |value| expired(&key, value))?;
        sweep.removed += u32::from(removed);
    }
    if is_too_full(live.len(), map.capacity()) {
        // Read once more: most passes need no order of half a million flows.
        let mut order = Vec::new();
        map.for_each(|key, value| order.push((early(&key, &value), key)))?;
        for key in early_victims(map.capacity(), order) {
            sweep.evicted_early += u32::from(map.remove(&key)?);
        }
    }
    sweep.entries = u32::try_from(live.len())
        .unwrap_or(u32::MAX)
        .saturating_sub(sweep.evicted_early);
    Ok(Swept {
        sweep,
        live: Keys::new(live),
    })
}

fn crowding(quota: u32, owners: &BTreeMap<u32, u32>) -> u32 {
    let most = owners.values().max().copied().unwrap_or(0);
    let percent = (u64::from(most) * 100).checked_div(quota.into());
    u32::try_from(percent.unwrap_or(0)).unwrap_or(u32::MAX)
}

fn is_too_full(live: usize, capacity: u32) -> bool {
    live as u64 * 100 > u64::from(capacity) * HIGH_PERCENT
}

/// Which entries go before their time.
fn early_victims<K: Ord>(capacity: u32, mut order: Vec<(u64, K)>) -> Vec<K> {
    let target = u64::from(capacity) * TARGET_PERCENT / 100;
    let surplus = (order.len() as u64).saturating_sub(target);
    order.sort_unstable();
    let count = usize::try_from(surplus).unwrap_or(usize::MAX);
    order.into_iter().take(count).map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use axon_abi::{CtEntry, CtState};

    use super::{early_order, early_victims, is_too_full};

    #[test]
    fn only_a_map_that_is_too_full_loses_entries_early() {
        let order = |n: u64| (0..n).map(|k| (100 - k, k)).collect();
        assert!(!is_too_full(80, 100) && is_too_full(81, 100));
        assert_eq!(
            early_victims(100, order(81)),
            [80, 79, 78, 77, 76, 75],
            "the soonest to expire, down to 75 of 100"
        );
    }

    #[test]
    fn what_costs_least_goes_first() {
        let order = |state: CtState, denied: u8, expires_s: u32| {
            let entry = CtEntry {
                state: state as u8,
                denied,
                expires_s,
                ..CtEntry::default()
            };
            early_order(&(), &entry)
        };
        let costs = [
            order(CtState::OneWay, 0, 5),
            order(CtState::Opening, 0, 6),
            order(CtState::Closing, 0, u32::MAX),
            order(CtState::TwoWay, 0, 0),
            order(CtState::Established, 0, 1),
            order(CtState::Established, 0, 2),
            order(CtState::Opening, 133, 0),
        ];
        assert!(costs.is_sorted(), "{costs:?}");
    }
}
