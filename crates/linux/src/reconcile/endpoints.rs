//! Endpoints: a row by device, and the same row by each address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{Ordering, fence};

use axon_abi::{EndpointRow, HOST_DEVICE, Identity, IpKey, PolicySetRow};
use axon_statedb::{Snapshot, Target};

use super::RowError;
use crate::maps::{Map, MapError, Maps};

/// Writes the row by device first: what the endpoint sends is judged before
/// anything is delivered to it. Removal is the other way round.
///
/// The programs keep copies of rows as long as their version lasts: each change
/// is made under an even one, which has no copies.
pub(super) struct EndpointTarget {
    endpoints: Map<u32, EndpointRow>,
    addresses: Map<IpKey, EndpointRow>,
    version: Map<u32, u32>,
    sets: Map<u32, PolicySetRow>,
    /// The sets that rows of each endpoint in the kernel name, by device.
    in_force: BTreeMap<u32, BTreeSet<u32>>,
    /// Devices whose rows by address do not agree, or were being changed.
    doubtful: BTreeSet<u32>,
    /// Sets that no other endpoint may get, each with somebody whom it would
    /// allow too much.
    misleading: BTreeMap<u32, Identity>,
}

/// A set that an endpoint is asked about, and the one that it shall have; 0 is
/// none, which allows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(super) ifindex: u32,
    /// The endpoint's number; 0 if it is to go.
    pub(super) endpoint: u16,
    pub(super) set: u32,
    pub(super) wanted: u32,
}

/// The addresses of a row.
fn addresses(row: &EndpointRow) -> impl Iterator<Item = IpKey> + use<> {
    let v4 = (row.ipv4 != [0; 4]).then(|| IpKey::from_v4(row.ipv4));
    let v6 = (row.ipv6 != IpKey::UNSPECIFIED).then_some(row.ipv6);
    v4.into_iter().chain(v6)
}

/// Whether the kernel holds exactly this row, by device and by each address,
/// and the policy set that it names.
pub(super) fn is_enforced(maps: &Maps, ifindex: u32, row: &EndpointRow) -> Result<bool, MapError> {
    if maps.endpoint.get(&ifindex)? != Some(*row) {
        return Ok(false);
    }
    for addr in addresses(row) {
        if maps.address.get(&addr)? != Some(*row) {
            return Ok(false);
        }
    }
    Ok(row.policy_set == 0 || maps.policy_set.get(&row.policy_set)?.is_some())
}

impl std::fmt::Display for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            ifindex,
            endpoint,
            set,
            wanted,
        } = self;
        if *endpoint == 0 {
            write!(
                f,
                "policy set {set} of the device {ifindex}, which is to have none,"
            )
        } else if set == wanted {
            write!(
                f,
                "policy set {set} of endpoint {endpoint}, at device {ifindex},"
            )
        } else {
            write!(
                f,
                "policy set {set}, which endpoint {endpoint} at device {ifindex} has while set \
                 {wanted} is not in its place,"
            )
        }
    }
}

impl EndpointTarget {
    pub(super) fn new(maps: &Maps) -> Self {
        Self {
            endpoints: maps.endpoint.clone(),
            addresses: maps.address.clone(),
            version: maps.rows_version.clone(),
            sets: maps.policy_set.clone(),
            in_force: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            misleading: BTreeMap::new(),
        }
    }

    /// Says which sets no other endpoint may get.
    pub(super) fn set_misleading(&mut self, sets: BTreeMap<u32, Identity>) {
        self.misleading = sets;
    }

    /// Makes a change of rows. If it fails, what it has changed is in force.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, RowError>,
    ) -> Result<T, RowError> {
        let before = self.version.get(&0)?.unwrap_or(0);
        let during = before.wrapping_add(2) & !1;
        self.version.insert(&0, &during)?;
        let changed = change(self);
        // Who sees the next version sees the rows.
        fence(Ordering::SeqCst);
        // If this fails the programs ask the tables, until a change succeeds.
        self.version.insert(&0, &(during | 1))?;
        changed
    }

    fn put(&mut self, ifindex: u32, row: &EndpointRow) -> Result<(), RowError> {
        let before = self.endpoints.get(&ifindex)?;
        let same = before.is_some_and(|old| addresses(&old).eq(addresses(row)));
        if !same {
            self.doubtful.insert(ifindex);
        }
        let sets = self.in_force.entry(ifindex).or_default();
        sets.insert(row.policy_set);
        self.endpoints.insert(&ifindex, row)?;
        for addr in addresses(row) {
            self.addresses.insert(&addr, row)?;
        }
        if self.doubtful.contains(&ifindex) {
            for addr in self.surplus(ifindex, Some(row))? {
                self.remove_address(&addr, ifindex)?;
            }
            self.doubtful.remove(&ifindex);
        }
        self.in_force.insert(ifindex, [row.policy_set].into());
        Ok(())
    }

    fn remove(&mut self, ifindex: u32) -> Result<(), RowError> {
        for addr in self.surplus(ifindex, None)? {
            self.remove_address(&addr, ifindex)?;
        }
        self.endpoints.remove(&ifindex)?;
        self.in_force.remove(&ifindex);
        self.doubtful.remove(&ifindex);
        Ok(())
    }

    /// Takes the row of an endpoint away so that there is room for that of the node
    /// itself: one that is not wanted if there is one, else the one whose device
    /// came last. The endpoint is cut off; without its row the node would be open.
    pub(super) fn give_way(
        &mut self,
        wanted: &Snapshot<u32, EndpointRow>,
    ) -> Result<Option<u32>, RowError> {
        let rows = self.endpoints.dump()?.into_iter();
        let others = rows.filter(|(ifindex, _)| *ifindex != HOST_DEVICE);
        let last = others.max_by_key(|(ifindex, _)| (wanted.get(ifindex).is_none(), *ifindex));
        if let Some((ifindex, _)) = &last {
            self.change(|target| target.remove(*ifindex))?;
        }
        Ok(last.map(|(ifindex, _)| ifindex))
    }

    /// What is asked about each endpoint in the kernel.
    pub(super) fn in_force(&self, wanted: &Snapshot<u32, EndpointRow>) -> Vec<InForce> {
        let of_device = |(ifindex, sets): (&u32, &BTreeSet<u32>)| {
            let row = wanted.get(ifindex);
            let (endpoint, wanted) = row.map_or((0, 0), |row| (row.id, row.policy_set));
            let ifindex = *ifindex;
            let each = move |set: &u32| InForce {
                ifindex,
                endpoint,
                set: *set,
                wanted,
            };
            sets.iter().map(each).collect::<Vec<_>>()
        };
        self.in_force.iter().flat_map(of_device).collect()
    }

    /// Removes an address unless it has become another endpoint's.
    fn remove_address(&self, addr: &IpKey, ifindex: u32) -> Result<(), RowError> {
        if self
            .addresses
            .get(addr)?
            .is_some_and(|row| row.ifindex == ifindex)
        {
            self.addresses.remove(addr)?;
        }
        Ok(())
    }

    /// The addresses that the kernel has for a device beyond those of `kept`.
    fn surplus(&self, ifindex: u32, kept: Option<&EndpointRow>) -> Result<Vec<IpKey>, RowError> {
        let mut surplus = Vec::new();
        self.addresses.for_each(|addr, row| {
            let wanted = kept.is_some_and(|kept| addresses(kept).any(|kept| kept == addr));
            if row.ifindex == ifindex && !wanted {
                surplus.push(addr);
            }
        })?;
        Ok(surplus)
    }
}

impl Target for EndpointTarget {
    type Key = u32;
    type Value = EndpointRow;
    type Error = RowError;

    fn update(&mut self, ifindex: &u32, row: &EndpointRow) -> Result<(), RowError> {
        if row.policy_set != 0 && self.sets.get(&row.policy_set)?.is_none() {
            return Err(RowError::NoPolicySet {
                set: row.policy_set,
            });
        }
        let has = self.in_force.get(ifindex);
        let has = has.is_some_and(|sets| sets.contains(&row.policy_set));
        if let Some(identity) = self.misleading.get(&row.policy_set).filter(|_| !has) {
            return Err(RowError::Misleading {
                set: row.policy_set,
                identity: identity.0,
            });
        }
        self.change(|target| target.put(*ifindex, row))
    }

    fn delete(&mut self, ifindex: &u32) -> Result<(), RowError> {
        self.change(|target| target.remove(*ifindex))
    }

    /// Rows by device, as far as the rows by address agree with them; what
    /// does not agree is told in a way that no desired row equals.
    ///
    /// Whoever else has written rows has told no version.
    fn dump(&mut self) -> Result<BTreeMap<u32, EndpointRow>, RowError> {
        const DIFFERENT: EndpointRow = EndpointRow {
            ifindex: 0,
            identity: axon_abi::Identity(0),
            policy_set: u32::MAX,
            id: 0,
            flags: u16::MAX,
            ipv4: [0; 4],
            ipv6: IpKey::UNSPECIFIED,
            mac: [0; 6],
            node_mac: [0; 6],
        };
        self.change(|_| Ok(()))?;
        let mut rows: BTreeMap<u32, EndpointRow> = self.endpoints.dump()?.into_iter().collect();
        let by_address: BTreeMap<IpKey, EndpointRow> = self.addresses.dump()?.into_iter().collect();
        self.in_force.clear();
        let of_devices = rows.iter().map(|(ifindex, row)| (*ifindex, row));
        let of_addresses = by_address.values().map(|row| (row.ifindex, row));
        for (ifindex, row) in of_devices.chain(of_addresses) {
            let sets = self.in_force.entry(ifindex).or_default();
            sets.insert(row.policy_set);
        }
        self.doubtful.clear();
        for (ifindex, row) in &rows {
            if addresses(row).any(|addr| by_address.get(&addr) != Some(row)) {
                self.doubtful.insert(*ifindex);
            }
        }
        for (addr, row) in by_address {
            let known = rows.get(&row.ifindex);
            if !known.is_some_and(|known| addresses(known).any(|known| known == addr)) {
                self.doubtful.insert(row.ifindex);
            }
        }
        rows.extend(self.doubtful.iter().map(|ifindex| (*ifindex, DIFFERENT)));
        Ok(rows)
    }
}
