//! Services as the kernel has them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use axon_abi::{LIST_BLOCK_SLOTS, ListBlock, ListKey, ListRef};
use axon_api::maps::{
    LbAffinityRow, LbBackendRow, LbList, LbMaglevRow, LbRevnatRow, LbRow, LbSnatRow,
    LbSourceRangeRow,
};
use axon_linux::{MapError, Maps};

use super::Rows;

/// What ports of services are called, by number.
pub type PortNames = BTreeMap<u32, String>;

pub(super) fn backends(maps: &Maps) -> Result<Vec<LbBackendRow>, MapError> {
    let mut rows = Vec::new();
    maps.backend
        .for_each(|id, row| rows.push(LbBackendRow::new(id, &row)))?;
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}

/// Frontends, each with its backends.
pub(super) fn frontends(maps: &Maps) -> Result<Vec<LbRow>, MapError> {
    let mut addresses = HashMap::new();
    maps.backend.for_each(|id, row| {
        let at = SocketAddr::new(row.addr.into(), row.port.get());
        addresses.insert(id, at.to_string());
    })?;
    let mut blocks = HashMap::new();
    maps.service_list.for_each(|key, block| {
        blocks.insert(key, block);
    })?;
    let mut keyed = Vec::new();
    maps.service.for_each(|key, entry| {
        let mut row = LbRow::new(&key, &entry);
        row.internal = list(&entry.internal, &blocks, &addresses);
        row.external = list(&entry.external, &blocks, &addresses);
        keyed.push((key, row));
    })?;
    keyed.sort_by_key(|(key, _)| *key);
    Ok(keyed.into_iter().map(|(_, row)| row).collect())
}

fn list(
    list: &ListRef,
    blocks: &HashMap<ListKey, ListBlock>,
    addresses: &HashMap<u32, String>,
) -> LbList {
    let id = |slot: u32| {
        let key = ListKey {
            list: list.list,
            block: slot / LIST_BLOCK_SLOTS,
        };
        let ids = blocks.get(&key)?.backends;
        ids.get((slot % LIST_BLOCK_SLOTS) as usize).copied()
    };
    let slots = if list.list == 0 { 0 } else { list.slots };
    let backends: Vec<u32> = (0..slots).map(|slot| id(slot).unwrap_or(0)).collect();
    let address = |id: &u32| addresses.get(id).cloned().unwrap_or_default();
    LbList {
        addresses: backends.iter().map(address).collect(),
        backends,
        ..LbList::new(list)
    }
}

/// Maglev tables: whose they are, and how evenly they choose.
pub(super) fn maglev(maps: &Maps) -> Result<Vec<LbMaglevRow>, MapError> {
    let mut tables: BTreeMap<u32, (u32, u32, Vec<String>)> = BTreeMap::new();
    maps.service.for_each(|_, row| {
        for list in [row.internal, row.external] {
            if list.maglev != 0 {
                let of = tables.entry(list.maglev).or_default();
                (of.0, of.1) = (list.slots, row.maglev_slots);
                let service = row.service.to_string();
                if !of.2.contains(&service) {
                    of.2.push(service);
                }
            }
        }
    })?;
    let mut blocks = BTreeMap::new();
    maps.maglev.for_each(|key, block| {
        blocks.insert(key, block);
    })?;
    let mut rows: BTreeMap<u32, LbMaglevRow> = BTreeMap::new();
    for (key, block) in blocks {
        let (slots, places, services) = tables.get(&key.table).cloned().unwrap_or_default();
        let row = rows.entry(key.table).or_insert_with(|| LbMaglevRow {
            table: key.table,
            services,
            places,
            slots: vec![0; slots as usize],
        });
        // Behind the last place there are zeros that mean nothing.
        let first = key.block.saturating_mul(axon_abi::MAGLEV_BLOCK_SLOTS);
        let held = places.saturating_sub(first) as usize;
        for slot in block.slots.iter().take(held) {
            if let Some(count) = row.slots.get_mut(usize::from(*slot)) {
                *count += 1;
            }
        }
    }
    Ok(rows.into_values().collect())
}

pub(super) fn affinity(maps: &Maps, now_s: u32) -> Result<Vec<LbAffinityRow>, MapError> {
    let mut rows = Vec::new();
    maps.service_affinity
        .for_each(|key, entry| rows.push(LbAffinityRow::new(&key, &entry, now_s)))?;
    rows.sort_by(|a, b| (a.service_id, &a.client).cmp(&(b.service_id, &b.client)));
    Ok(rows)
}

pub(super) fn source_ranges(maps: &Maps) -> Result<Vec<LbSourceRangeRow>, MapError> {
    let mut keys = Vec::new();
    maps.source_range.for_each(|key, _| keys.push(key))?;
    keys.sort_by_key(|key| (key.service, key.addr, key.prefix_bits));
    Ok(keys.iter().map(LbSourceRangeRow::from).collect())
}

/// What answers of backends become: of flows that are translated packet by packet,
/// and of sockets.
pub(super) fn revnat(maps: &Maps, now_s: u32) -> Result<Vec<LbRevnatRow>, MapError> {
    let mut rows = Vec::new();
    maps.service_flow
        .for_each(|key, flow| rows.extend(LbRevnatRow::of_flow(&key, &flow, now_s)))?;
    maps.socket
        .for_each(|key, entry| rows.extend(LbRevnatRow::of_socket(&key, &entry)))?;
    rows.sort();
    Ok(rows)
}

/// Flows of services whose clients are known to backends by the node's address.
pub(super) fn snat(maps: &Maps, now_s: u32) -> Result<Vec<LbSnatRow>, MapError> {
    let mut rows = Vec::new();
    maps.service_flow
        .for_each(|key, flow| rows.extend(LbSnatRow::of_flow(&key, &flow, now_s)))?;
    rows.sort();
    Ok(rows)
}

impl Rows {
    /// Whether there are ports of services in it.
    pub(crate) fn has_services(&self) -> bool {
        matches!(
            self,
            Self::Lb(_)
                | Self::LbBackend(_)
                | Self::LbMaglev(_)
                | Self::LbAffinity(_)
                | Self::LbSourceRange(_)
                | Self::LbRevnat(_)
                | Self::LbSnat(_)
        )
    }

    /// Says what ports of services are called.
    pub(crate) fn name_services(&mut self, names: &PortNames) {
        let name = |id: &u32| names.get(id).cloned().unwrap_or_default();
        match self {
            Self::Lb(rows) => rows
                .iter_mut()
                .for_each(|row| row.service = name(&row.service_id)),
            Self::LbBackend(rows) => rows
                .iter_mut()
                .for_each(|row| row.service = name(&row.service_id)),
            Self::LbAffinity(rows) => rows
                .iter_mut()
                .for_each(|row| row.service = name(&row.service_id)),
            Self::LbSourceRange(rows) => rows
                .iter_mut()
                .for_each(|row| row.service = name(&row.service_id)),
            Self::LbRevnat(rows) => rows
                .iter_mut()
                .for_each(|row| row.service = name(&row.service_id)),
            Self::LbSnat(rows) => rows
                .iter_mut()
                .for_each(|row| row.service = name(&row.service_id)),
            Self::LbMaglev(rows) => {
                for service in rows.iter_mut().flat_map(|row| &mut row.services) {
                    let named = service.parse().ok().and_then(|id: u32| names.get(&id));
                    if let Some(named) = named {
                        service.clone_from(named);
                    }
                }
            }
            Self::Endpoint(_)
            | Self::Ipcache(_)
            | Self::Policy(_)
            | Self::Ct(_)
            | Self::Nat(_)
            | Self::Metrics(_)
            | Self::Pressure(_)
            | Self::Config(_) => {}
        }
    }
}
