//! Services: from what is asked for to frontends, lists and backends of a node.
//!
//! ```text
//! slices, pods ─> endpoints of a service's port ─> who may be chosen here ─> lists, tables
//! services, redirections, host ports ─> claims of addresses ─> frontends ─────┘
//! ```
//!
//! [`resolve`] is the whole in one pass, the slow and obvious way; [`Engine`] keeps
//! the same rows up with changes. What an
//! author got wrong is left out and told as a [`Report`].

mod asked;
mod book;
mod digest;
mod endpoints;
mod engine;
mod follow;
mod frontends;
mod index;
mod known;
mod lists;
mod maglev;
mod near;
mod numbers;
mod slow;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::{
    Backend, ListBlock, ListKey, MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceKey,
    SourceRangeKey,
};
use axon_model::{
    Algorithm, EndpointSlice, LocalRedirect, Node, ObjectKey, Pod, Protocol, Service,
};
use ipnet::IpNet;

pub use endpoints::{selected, target};
pub use engine::{Engine, Stepped};
pub use follow::ServicesReport;
pub use maglev::{SEED as MAGLEV_SEED, TABLE_SIZES as MAGLEV_TABLE_SIZES, table as maglev_table};
pub use numbers::{KEPT_MS, Numbers, NumbersChange, Remembered, SeenNumbers};
pub use tables::ServiceTables;

/// How answers come back to clients outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By way of the node that took the packet.
    #[default]
    Snat,
    /// From the backend's node.
    Dsr,
    /// TCP from the backend's node, the rest by way of the first.
    Hybrid,
}

/// What the agents of a cluster are told about services.
#[derive(Clone, Debug)]
pub struct ServicesConfig {
    /// How answers come back.
    pub mode: Mode,
    /// Whether a service may say so itself.
    pub mode_annotation: bool,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Whether a service may say so itself.
    pub algorithm_annotation: bool,
    /// Places of a Maglev table, one of [`MAGLEV_TABLE_SIZES`].
    pub maglev_table_size: u32,
    /// Whether cluster addresses are open to the network.
    pub external_cluster_ip: bool,
    /// Whether source ranges count for all frontends that the network sees.
    pub source_range_all_types: bool,
    /// First and last node port.
    pub node_port_range: (u16, u16),
    /// Where node ports are; empty: at all addresses of the node.
    pub node_port_addresses: Vec<IpNet>,
    /// Whether affinity is to be had.
    pub session_affinity: bool,
    /// Whether hints count.
    pub topology: bool,
    /// Whether health-check node ports are there.
    pub health_checks: bool,
    /// Whether a frontend without backends drops, and does not refuse.
    pub drop_without_backends: bool,
    /// Whether external addresses are services from inside too.
    pub external_ips_inside: bool,
    /// Whether redirections count.
    pub local_redirects: bool,
    /// Which services are ours, by the label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: String,
    /// Whether there is IPv6.
    pub ipv6: bool,
}

impl Default for ServicesConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Snat,
            mode_annotation: false,
            algorithm: Algorithm::Random,
            algorithm_annotation: false,
            maglev_table_size: 16_381,
            external_cluster_ip: false,
            source_range_all_types: false,
            node_port_range: (30_000, 32_767),
            node_port_addresses: Vec::new(),
            session_affinity: true,
            topology: false,
            health_checks: true,
            drop_without_backends: false,
            external_ips_inside: false,
            local_redirects: false,
            proxy_name: String::new(),
            ipv6: true,
        }
    }
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Services.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// Slices that somebody wrote.
    pub slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// Redirections.
    pub redirects: BTreeMap<ObjectKey, Arc<LocalRedirect>>,
    /// Whether slices are made here of selectors and pods, because nobody else
    /// does.
    pub makes_slices: bool,
    /// Ports of this node that processes listen at.
    pub listeners: BTreeSet<(Protocol, u16)>,
}

/// Something that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// `Kind namespace/name`.
    pub object: String,
    /// The field, from the object's root.
    pub field: String,
    /// What it is, and what was expected.
    pub reason: String,
}

/// Whom a health-check node port speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service.
    pub service: ObjectKey,
    /// How many of its backends are here and ready.
    pub here: usize,
}

/// What a node shall hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRows {
    /// Frontends.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Lists.
    pub lists: BTreeMap<ListKey, ListBlock>,
    /// Maglev tables.
    pub maglev: BTreeMap<MaglevKey, MaglevBlock>,
    /// Backends by id.
    pub backends: BTreeMap<u32, Backend>,
    /// Source ranges.
    pub ranges: BTreeSet<SourceRangeKey>,
    /// Who passes by a redirection.
    pub skips: BTreeSet<ServiceClient>,
    /// Health-check node ports.
    pub health: BTreeMap<u16, HealthCheck>,
    /// What is wrong.
    pub reports: BTreeSet<Report>,
}

/// What a node shall hold, from all that is known.
pub fn resolve(
    cluster: &Cluster,
    node: &str,
    config: &ServicesConfig,
    numbers: &mut Numbers,
) -> ServiceRows {
    let place = frontends::Place {
        cluster,
        node,
        config,
    };
    slow::resolve(place, numbers)
}

/// Whether an address is some node's.
pub fn is_node(cluster: &Cluster, addr: IpAddr) -> bool {
    let mut all = cluster.nodes.values().flat_map(|node| &node.addresses);
    all.any(|address| address.addr == addr)
}
