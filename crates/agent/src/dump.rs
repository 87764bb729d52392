//! Dumps of the kernel's maps, for `GET /v1/map/{name}`, and for `axon bpf`
//! when no agent lives.

mod services;

use std::collections::HashMap;
use std::net::IpAddr;

use axon_abi::{Identity, IpKey, PolicySetFlags};
use axon_api::maps::{
    ConfigMapRow, CtMapRow, EndpointMapRow, IpcacheMapRow, LbAffinityRow, LbBackendRow,
    LbMaglevRow, LbRevnatRow, LbRow, LbSnatRow, LbSourceRangeRow, MapName, MetricsMapRow,
    NatMapRow, PolicyMapEntry, PolicyMapSet, PressureRow,
};
use axon_hubble::Names;
use axon_linux::{MapError, Maps, read_metrics};
use serde::Serialize;

pub use services::PortNames;

/// The rows of one name.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Rows {
    /// Endpoints.
    Endpoint(Vec<EndpointMapRow>),
    /// Addresses.
    Ipcache(Vec<IpcacheMapRow>),
    /// Policy sets.
    Policy(Vec<PolicyMapSet>),
    /// Flows.
    Ct(Vec<CtMapRow>),
    /// Translations.
    Nat(Vec<NatMapRow>),
    /// Counters.
    Metrics(Vec<MetricsMapRow>),
    /// Configuration.
    Config(Vec<ConfigMapRow>),
    /// Frontends of services.
    Lb(Vec<LbRow>),
    /// Backends.
    LbBackend(Vec<LbBackendRow>),
    /// Maglev tables.
    LbMaglev(Vec<LbMaglevRow>),
    /// Clients that are remembered.
    LbAffinity(Vec<LbAffinityRow>),
    /// Source ranges.
    LbSourceRange(Vec<LbSourceRangeRow>),
    /// What answers of backends become.
    LbRevnat(Vec<LbRevnatRow>),
    /// Flows of services whose clients are known by the node's address.
    LbSnat(Vec<LbSnatRow>),
    /// How full maps are.
    Pressure(Vec<PressureRow>),
}

/// Reads the maps behind a name; `now_s` is the monotonic clock.
///
/// # Errors
/// [`MapError::Syscall`].
pub fn rows(maps: &Maps, name: MapName, names: &impl Names, now_s: u32) -> Result<Rows, MapError> {
    Ok(match name {
        MapName::Endpoint => Rows::Endpoint(endpoints(maps, names)?),
        MapName::Ipcache => Rows::Ipcache(ipcache(maps, names)?),
        MapName::Policy => Rows::Policy(policy(maps, names)?),
        MapName::Ct => Rows::Ct(conntrack(maps, names, now_s)?),
        MapName::Nat => {
            let mut rows = Vec::new();
            maps.nat
                .for_each(|key, entry| rows.push(NatMapRow::new(&key, &entry, now_s)))?;
            Rows::Nat(rows)
        }
        MapName::Metrics => Rows::Metrics(
            read_metrics(maps)?
                .into_iter()
                .map(|c| MetricsMapRow::new(c.reason, c.direction, c.packets, c.bytes))
                .collect(),
        ),
        MapName::Config => {
            let generation = maps.generation.get(&0)?.unwrap_or_default();
            let config = maps.config.get(&0)?.unwrap_or_default();
            Rows::Config(vec![ConfigMapRow::new(generation, &config)])
        }
        MapName::Lb => Rows::Lb(services::frontends(maps)?),
        MapName::LbBackend => Rows::LbBackend(services::backends(maps)?),
        MapName::LbMaglev => Rows::LbMaglev(services::maglev(maps)?),
        MapName::LbAffinity => Rows::LbAffinity(services::affinity(maps, now_s)?),
        MapName::LbSourceRange => Rows::LbSourceRange(services::source_ranges(maps)?),
        MapName::LbRevnat => Rows::LbRevnat(services::revnat(maps, now_s)?),
        MapName::LbSnat => Rows::LbSnat(services::snat(maps, now_s)?),
        MapName::Pressure => Rows::Pressure(pressure(maps)?),
    })
}

fn pressure(maps: &Maps) -> Result<Vec<PressureRow>, MapError> {
    let rows = maps.pressure()?.into_iter().map(|of| PressureRow {
        map: of.map.to_owned(),
        entries: of.entries,
        capacity: of.capacity,
    });
    Ok(rows.collect())
}

/// `namespace/name` of the pod that has an address; empty if none is known.
fn pod(names: &impl Names, address: IpAddr) -> String {
    match names.endpoint(address) {
        Some(name) if !name.pod_name.is_empty() => format!("{}/{}", name.namespace, name.pod_name),
        Some(_) | None => String::new(),
    }
}

fn policy_name(names: &impl Names, rule: u32) -> String {
    names
        .rule(rule)
        .filter(|_| rule != 0)
        .map(|policy| policy.to_string())
        .unwrap_or_default()
}

fn endpoints(maps: &Maps, names: &impl Names) -> Result<Vec<EndpointMapRow>, MapError> {
    let mut rows = Vec::new();
    maps.endpoint.for_each(|ifindex, row| {
        let mut view = EndpointMapRow::from(&row);
        let address = view.ipv4.map(IpAddr::V4).or(view.ipv6.map(IpAddr::V6));
        view.pod = address.map(|a| pod(names, a)).unwrap_or_default();
        view.interface = names
            .interface(ifindex)
            .map(|name| name.to_string())
            .unwrap_or_default();
        rows.push(view);
    })?;
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}

fn ipcache(maps: &Maps, names: &impl Names) -> Result<Vec<IpcacheMapRow>, MapError> {
    let mut keyed = Vec::new();
    let mut add = |addr: IpKey, bits, row: &axon_abi::IpcacheRow| {
        let mut view = IpcacheMapRow::new(addr, bits, row);
        view.pod = if bits == 128 {
            pod(names, addr.into())
        } else {
            String::new()
        };
        view.labels = labels(names, row.identity);
        keyed.push(((addr, bits), view));
    };
    maps.ipcache.for_each(|addr, row| add(addr, 128, &row))?;
    maps.ipcache_cidr
        .for_each(|key, row| add(key.addr, key.prefix_bits, &row))?;
    keyed.sort_by_key(|(key, _)| *key);
    Ok(keyed.into_iter().map(|(_, view)| view).collect())
}

fn labels(names: &impl Names, identity: Identity) -> Vec<String> {
    match (names.labels(identity), identity.reserved_name()) {
        (Some(labels), _) => labels.to_vec(),
        (None, Some(name)) => vec![format!("reserved:{name}")],
        (None, None) => Vec::new(),
    }
}

fn policy(maps: &Maps, names: &impl Names) -> Result<Vec<PolicyMapSet>, MapError> {
    let mut sets = std::collections::BTreeMap::new();
    maps.policy_set.for_each(|set, row| {
        let view = PolicyMapSet {
            set,
            default_deny_ingress: row.flags & PolicySetFlags::DEFAULT_DENY_INGRESS != 0,
            default_deny_egress: row.flags & PolicySetFlags::DEFAULT_DENY_EGRESS != 0,
            ..PolicyMapSet::default()
        };
        sets.insert(set, view);
    })?;
    maps.endpoint.for_each(|_, row| {
        if let Some(set) = sets.get_mut(&row.policy_set) {
            set.endpoints.push(row.id);
        }
    })?;
    let mut classes: HashMap<(u32, u32), Vec<u32>> = HashMap::new();
    maps.class.for_each(|key, row| {
        let members = classes.entry((key.set, row.class)).or_default();
        members.push(key.identity.0);
    })?;
    classes
        .values_mut()
        .for_each(|members| members.sort_unstable());
    maps.policy.for_each(|key, entry| {
        // A set whose row is gone is being removed; its entries follow.
        let Some(set) = sets.get_mut(&key.set) else {
            return;
        };
        let members = classes.get(&(key.set, key.class));
        let mut view = PolicyMapEntry::new(&key, &entry, members.map_or(&[], Vec::as_slice));
        view.policy = policy_name(names, entry.rule);
        set.entries.push(view);
    })?;
    let mut sets: Vec<_> = sets.into_values().collect();
    for set in &mut sets {
        set.endpoints.sort_unstable();
        set.entries.sort_by(|a, b| {
            (&b.direction, b.precedence, &a.remote, &a.protocol, &a.port).cmp(&(
                &a.direction,
                a.precedence,
                &b.remote,
                &b.protocol,
                &b.port,
            ))
        });
    }
    Ok(sets)
}

fn conntrack(maps: &Maps, names: &impl Names, now_s: u32) -> Result<Vec<CtMapRow>, MapError> {
    let mut rows = Vec::new();
    maps.ct4
        .for_each(|key, entry| rows.push(CtMapRow::v4(&key, &entry, now_s)))?;
    maps.ct6
        .for_each(|key, entry| rows.push(CtMapRow::v6(&key, &entry, now_s)))?;
    // Few rules stand behind many flows.
    let mut policies: HashMap<u32, String> = HashMap::new();
    for row in &mut rows {
        let policy = policies
            .entry(row.rule)
            .or_insert_with(|| policy_name(names, row.rule));
        row.policy.clone_from(policy);
    }
    Ok(rows)
}
