//! What a node knows of services: rows, and what their numbers are called.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, FrontendKind, IpKey, ListBlock, ListKey, ListRef,
    MAGLEV_BLOCK_SLOTS, MaglevBlock, MaglevKey, SERVICE_FLOW, ServiceClient, ServiceEntry,
    ServiceFlow, ServiceFlowKey, ServiceKey, SourceRangeKey,
};
use axon_api::maps::{LbRow, backend_state, frontend_kind, service_protocol};
use axon_api::state::{NodeState, RowError, ServiceRow, Sockets};
use axon_model::Protocol;
use zerocopy::FromBytes;

use crate::node::Node;
use crate::run::Place;

/// Why a service cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Nobody tells of it.
    #[error("no service {0} is known")]
    Unknown(String),
    /// It has no address of its own.
    #[error("service {name} has no address of its own: it is {what}")]
    NoAddress {
        /// `namespace/name`.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// None of its ports is the one that is asked for.
    #[error("service {name} has no port {port}; it has {has}")]
    NoPort {
        /// `namespace/name`.
        name: String,
        /// What is asked for.
        port: String,
        /// Where it listens.
        has: String,
    },
    /// None of its frontends is here.
    #[error("service {0} is known, but has no frontend on this node: see axon service list")]
    NoFrontend(String),
}

impl Node {
    /// The addresses at which a service may be asked for by a port, the nearest
    /// first: its own inside the cluster, unless it `is_outside` who asks.
    ///
    /// # Errors
    /// There is no such service, or port of it.
    pub fn addresses_of_service(
        &self,
        (namespace, name): (&str, &str),
        (port, protocol): (u16, u8),
        is_outside: bool,
    ) -> Result<Vec<IpAddr>, ServiceError> {
        let called = format!("{namespace}/{name}");
        let services = &self.services;
        let mut rows = services.services.iter();
        let row = rows.find(|row| row.namespace == namespace && row.name == name);
        let row = row.ok_or_else(|| ServiceError::Unknown(called.clone()))?;
        let what = match (row.kind.as_str(), row.headless) {
            ("ExternalName", _) => Some("an ExternalName, a name elsewhere"),
            (_, true) => Some("headless, its name stands for the addresses of its pods"),
            (_, false) => None,
        };
        if let Some(what) = what {
            let name = called;
            return Err(ServiceError::NoAddress { name, what });
        }
        let all: Vec<_> = services.of(row).collect();
        // The unspecified address stands for that of any node.
        let own = |addr: &IpKey| !IpAddr::from(*addr).is_unspecified();
        let is_meant = |key: &ServiceKey| {
            !Protocol::WITH_PORTS.contains(&Protocol(protocol))
                || (key.port.get(), key.protocol) == (port, protocol)
        };
        let mut found: Vec<(u8, IpAddr)> = all
            .iter()
            .filter(|(key, _)| own(&key.addr) && is_meant(key))
            .map(|(key, entry)| (nearness(entry, is_outside), key.addr.into()))
            .collect();
        found.sort_unstable();
        found.dedup();
        if !found.is_empty() {
            return Ok(found.into_iter().map(|(_, addr)| addr).collect());
        }
        let has: BTreeSet<String> = all
            .iter()
            .map(|(key, _)| format!("{}/{}", key.port.get(), service_protocol(key.protocol)))
            .collect();
        if has.is_empty() {
            return Err(ServiceError::NoFrontend(called));
        }
        Err(ServiceError::NoPort {
            name: called,
            port: format!("{port}/{}", service_protocol(protocol)),
            has: Vec::from_iter(has).join(", "),
        })
    }

    /// Whether the node is told of a service.
    pub fn has_service(&self, namespace: &str, name: &str) -> bool {
        let mut rows = self.services.services.iter();
        rows.any(|row| row.namespace == namespace && row.name == name)
    }

    /// Whether an address is neither the node's nor any workload's of it.
    pub fn is_outside(&self, addr: IpAddr) -> bool {
        matches!(self.place(addr), Place::Elsewhere)
    }
}

/// How near a frontend is to who asks: the least is the nearest.
fn nearness(entry: &ServiceEntry, is_outside: bool) -> u8 {
    match (entry.kind(), is_outside) {
        (Some(FrontendKind::LocalRedirect), false) => 0,
        (Some(FrontendKind::ClusterIp), false) => 1,
        (Some(FrontendKind::LoadBalancer), _) => 2,
        (Some(FrontendKind::ExternalIp), _) => 3,
        (Some(FrontendKind::NodePort), _) => 4,
        (Some(FrontendKind::HostPort), _) => 5,
        _ => 6,
    }
}

/// Rows of services, typed and indexed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    pub(crate) sockets: Sockets,
    pub(crate) frontends: BTreeMap<ServiceKey, ServiceEntry>,
    pub(crate) lists: BTreeMap<ListKey, ListBlock>,
    pub(crate) maglev: BTreeMap<MaglevKey, MaglevBlock>,
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) ranges: BTreeSet<SourceRangeKey>,
    pub(crate) skips: BTreeSet<ServiceClient>,
    pub(crate) affinity: BTreeMap<ServiceClient, AffinityEntry>,
    pub(crate) flows: BTreeMap<ServiceFlowKey, ServiceFlow>,
    /// What ports of services are called.
    pub(crate) ports: BTreeMap<u32, String>,
    pub(crate) services: Vec<ServiceRow>,
    /// Ports of services whose Maglev tables are not in the state.
    pub(crate) unhashed: BTreeSet<u32>,
    /// Clients with affinity that are not in the state.
    pub(crate) clients_left_out: usize,
}

impl Services {
    /// Reads them; a state of before there were services has none.
    pub(crate) fn load(state: &NodeState) -> Result<Self, RowError> {
        let left_out = |map| state.maps.get(map).map_or(0, |rows| rows.left_out);
        let ranges = some::<SourceRangeKey, u32>(state, "axon_source_range_v1")?;
        let skips = some::<ServiceClient, u32>(state, "axon_service_skip_v1")?;
        let mut services = Self {
            sockets: state.services.sockets,
            frontends: some(state, "axon_service_v1")?,
            lists: some(state, "axon_service_list_v1")?,
            maglev: some(state, "axon_maglev_v1")?,
            backends: some(state, "axon_backend_v1")?,
            ranges: ranges.into_keys().collect(),
            skips: skips.into_keys().collect(),
            affinity: some(state, "axon_service_affinity_v1")?,
            flows: some(state, SERVICE_FLOW)?,
            ports: state.services.ports.clone(),
            services: state.services.services.clone(),
            unhashed: BTreeSet::new(),
            clients_left_out: left_out("axon_service_affinity_v1"),
        };
        services.unhash();
        Ok(services)
    }

    /// Has frontends whose Maglev tables are not whole choose among all: any of
    /// theirs may be the one.
    fn unhash(&mut self) {
        let tables = &self.maglev;
        let is_whole = |list: &ListRef, places: u32| {
            let blocks = 0..places.div_ceil(MAGLEV_BLOCK_SLOTS);
            blocks.into_iter().all(|block| {
                let key = MaglevKey {
                    table: list.maglev,
                    block,
                };
                tables.contains_key(&key)
            })
        };
        for entry in self.frontends.values_mut() {
            for list in [&mut entry.internal, &mut entry.external] {
                if list.maglev != 0 && !is_whole(list, entry.maglev_slots) {
                    list.maglev = 0;
                    self.unhashed.insert(entry.service);
                }
            }
        }
    }

    /// What a port of a service is called.
    pub(crate) fn port_name(&self, number: u32) -> String {
        match (self.ports.get(&number), number) {
            (Some(name), _) => name.clone(),
            (None, 0) => "a service".to_owned(),
            (None, number) => format!("service number {number}"),
        }
    }

    /// The service, as its author wrote it, of a port of it.
    pub(crate) fn row_of(&self, number: u32) -> Option<&ServiceRow> {
        let name = self.ports.get(&number)?;
        self.services.iter().find(|row| is_of(name, row))
    }

    /// Frontends of a service, each with its row.
    pub(crate) fn of<'a>(
        &'a self,
        row: &'a ServiceRow,
    ) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceEntry)> {
        let is_his = |number: &u32| self.ports.get(number).is_some_and(|name| is_of(name, row));
        let frontends = self.frontends.iter();
        frontends.filter(move |(key, entry)| key.protocol != 0 && is_his(&entry.service))
    }

    /// The service whose an address is, if it is only services'.
    pub(crate) fn owner_of(&self, addr: &IpKey) -> Option<String> {
        let mut at = self.frontends.iter().filter(|(key, _)| key.addr == *addr);
        let whole = at.clone().any(|(key, _)| key.protocol == 0);
        let (_, first) = at.find(|(key, _)| key.protocol != 0)?;
        let row = self.row_of(first.service).filter(|_| whole)?;
        Some(format!("service {}/{}", row.namespace, row.name))
    }

    /// The backends behind a port of a service.
    pub(crate) fn behind(&self, number: u32) -> impl Iterator<Item = (u32, &Backend)> {
        let all = self.backends.iter().map(|(id, backend)| (*id, backend));
        all.filter(move |(_, backend)| backend.service == number)
    }

    /// Whether a prefix of a port of a service holds what is asked.
    pub(crate) fn range(&self, asked: &SourceRangeKey) -> Option<&SourceRangeKey> {
        self.ranges.iter().find(|range| {
            let bits = range
                .prefix_bits
                .saturating_sub(SourceRangeKey::SERVICE_BITS);
            let rest = 128_u32.saturating_sub(bits);
            let head = |addr: IpKey| u128::from_be_bytes(addr.0).checked_shr(rest);
            range.service == asked.service && head(range.addr) == head(asked.addr)
        })
    }

    pub(crate) fn frontend_words(&self, key: &ServiceKey, entry: &ServiceEntry) -> String {
        let lists = match entry.internal == entry.external {
            true => format!("list {}", list(&entry.internal)),
            false => format!(
                "lists {} from inside, {} from the network",
                list(&entry.internal),
                list(&entry.external)
            ),
        };
        let flags = LbRow::new(key, entry).flags;
        let flags = match flags.is_empty() {
            true => String::new(),
            false => format!(" ({})", flags.join(", ")),
        };
        let of = match entry.service {
            0 => String::new(),
            number => format!(" of {}", self.port_name(number)),
        };
        format!("{}{of}: {lists}{flags}", frontend_kind(entry))
    }

    pub(crate) fn block_words(&self, block: &ListBlock) -> String {
        let ids = block.backends.iter().filter(|id| **id != 0);
        let ids: Vec<String> = ids.map(u32::to_string).collect();
        format!("backends {}", ids.join(" "))
    }
}

/// Whether a port that is called so is a service's.
fn is_of(name: &str, row: &ServiceRow) -> bool {
    let rest = name.strip_prefix(row.namespace.as_str());
    let rest = rest.and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.and_then(|rest| rest.strip_prefix(row.name.as_str()));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

fn list(list: &ListRef) -> String {
    match (list.list, list.maglev) {
        (0, _) => "of nobody".to_owned(),
        (number, 0) => format!("{number} ({} slots)", list.slots),
        (number, table) => format!("{number} ({} slots, table {table})", list.slots),
    }
}

/// `address:port/protocol`.
pub(crate) fn at(addr: IpKey, port: u16, protocol: u8) -> String {
    let at = SocketAddr::new(IpAddr::from(addr), port);
    format!("{at}/{}", service_protocol(protocol))
}

pub(crate) fn backend_words(backend: &Backend) -> String {
    let here = match backend.flags & BackendFlags::LOCAL {
        0 => "elsewhere",
        _ => "here",
    };
    let (port, protocol) = (backend.port.get(), backend.protocol);
    let state = backend_state(backend.state);
    format!("{}, {state}, {here}", at(backend.addr, port, protocol))
}

pub(crate) fn service_key(key: &ServiceKey) -> String {
    match key.protocol {
        0 => IpAddr::from(key.addr).to_string(),
        protocol => at(key.addr, key.port.get(), protocol),
    }
}

pub(crate) fn flow_key(key: &ServiceFlowKey) -> String {
    let end = |addr: IpKey, port: u16| SocketAddr::new(addr.into(), port);
    let source = end(key.source, key.source_port.get());
    let destination = end(key.destination, key.destination_port.get());
    format!("{} {source} {destination}", Protocol(key.protocol))
}

pub(crate) fn flow(flow: &ServiceFlow) -> String {
    let end = |addr: IpKey, port: u16| SocketAddr::new(addr.into(), port);
    let source = end(flow.source, flow.source_port.get());
    let destination = end(flow.destination, flow.destination_port.get());
    format!("becomes {source} {destination}, backend {}", flow.backend)
}

/// The rows of a map that a state may lack.
fn some<K, V>(state: &NodeState, map: &'static str) -> Result<BTreeMap<K, V>, RowError>
where
    K: FromBytes + Ord,
    V: FromBytes,
{
    match state.maps.contains_key(map) {
        true => Ok(state.rows::<K, V>(map)?.into_iter().collect()),
        false => Ok(BTreeMap::new()),
    }
}
