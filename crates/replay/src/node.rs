//! The state of a node, typed and indexed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::{
    Be16, CT4, CT6, ClassKey, ClassRow, CtEntry, CtKey4, CtKey6, EndpointRow, HOST_DEVICE,
    Identity, IdentityRow, IpKey, IpcacheFlags, IpcacheRow, LpmKey, PolicyEntry, PolicyKey,
    PolicySetRow, RuntimeConfig,
};
use axon_api::state::{NodeState, PolicyRow, RowError, STATE_VERSION, WorkloadRow};
use axon_model::{Labels, Origin};
use axon_policy::{IdentityInfo, PolicyConfig};
use zerocopy::FromBytes;

use crate::known::{info, reading};
use crate::services::Services;

/// Why a state cannot be replayed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is of another format.
    #[error("the state is of version {0}; expected {STATE_VERSION}")]
    Version(u32),
    /// Its rows are none.
    #[error(transparent)]
    Rows(#[from] RowError),
    /// It has no configuration: programs have never run there.
    #[error("the state has no row in axon_config_v1")]
    NoConfig,
}

/// A node, as its state tells of it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    pub(crate) now_ns: u64,
    pub(crate) config: RuntimeConfig,
    pub(crate) endpoints: BTreeMap<u32, EndpointRow>,
    pub(crate) addresses: BTreeMap<IpKey, EndpointRow>,
    pub(crate) ipcache: BTreeMap<IpKey, IpcacheRow>,
    pub(crate) cidrs: BTreeMap<LpmKey, IpcacheRow>,
    pub(crate) known: BTreeSet<Identity>,
    pub(crate) sets: BTreeMap<u32, PolicySetRow>,
    pub(crate) classes: BTreeMap<ClassKey, u32>,
    pub(crate) policy: BTreeMap<PolicyKey, PolicyEntry>,
    pub(crate) uplinks: BTreeSet<u32>,
    pub(crate) nomasq: BTreeSet<LpmKey>,
    pub(crate) ct4: BTreeMap<CtKey4, CtEntry>,
    pub(crate) ct6: BTreeMap<CtKey6, CtEntry>,
    pub(crate) reading: PolicyConfig,
    pub(crate) rules: BTreeMap<u32, (Origin, usize)>,
    pub(crate) policies: BTreeMap<Origin, PolicyRow>,
    pub(crate) infos: BTreeMap<Identity, IdentityInfo>,
    pub(crate) node_labels: Labels,
    pub(crate) workloads: BTreeMap<IpAddr, WorkloadRow>,
    pub(crate) nodes: BTreeMap<IpAddr, String>,
    pub(crate) interfaces: BTreeMap<u32, String>,
    pub(crate) flows_left_out: usize,
    pub(crate) services: Services,
}

impl Node {
    /// Reads a state.
    ///
    /// # Errors
    /// It is of another version, or rows of it are none.
    pub fn load(state: NodeState) -> Result<Self, StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version(state.version));
        }
        let configs = state.rows::<u32, RuntimeConfig>("axon_config_v1")?;
        let (_, config) = configs.into_iter().next().ok_or(StateError::NoConfig)?;
        let set = |map| -> Result<BTreeSet<u32>, RowError> {
            let rows = state.rows::<u32, u32>(map)?;
            Ok(rows.into_iter().map(|(key, _)| key).collect())
        };
        let classes = state.rows::<ClassKey, ClassRow>("axon_class_v1")?;
        let known = state.rows::<Identity, IdentityRow>("axon_identity_v1")?;
        let nomasq = state.rows::<LpmKey, u32>("axon_nomasq_v1")?;
        let services = Services::load(&state)?;
        let left_out = |map| state.maps.get(map).map_or(0, |rows| rows.left_out);
        Ok(Self {
            now_ns: state.now_ns,
            config,
            endpoints: map(&state, "axon_endpoint_v1")?,
            addresses: map(&state, "axon_address_v1")?,
            ipcache: map(&state, "axon_ipcache_v1")?,
            cidrs: map(&state, "axon_ipcache_cidr_v1")?,
            known: known.into_iter().map(|(id, _)| id).collect(),
            sets: map(&state, "axon_policy_set_v1")?,
            classes: classes.into_iter().map(|(k, row)| (k, row.class)).collect(),
            policy: map(&state, "axon_policy_v1")?,
            uplinks: set("axon_uplink_v1")?,
            nomasq: nomasq.into_iter().map(|(key, _)| key).collect(),
            ct4: map(&state, CT4)?,
            ct6: map(&state, CT6)?,
            reading: reading(&state.reading),
            flows_left_out: left_out(CT4).saturating_add(left_out(CT6)),
            rules: state
                .rules
                .into_iter()
                .map(|rule| (rule.number, (rule.origin, rule.index)))
                .collect(),
            policies: state
                .policies
                .into_iter()
                .map(|policy| (policy.object.origin.clone(), policy))
                .collect(),
            infos: state.identities.into_iter().map(info).collect(),
            node_labels: state.node_labels,
            workloads: state
                .workloads
                .into_iter()
                .map(|workload| (workload.address, workload))
                .collect(),
            nodes: state
                .nodes
                .into_iter()
                .flat_map(|node| {
                    node.addresses
                        .into_iter()
                        .map(move |a| (a, node.name.clone()))
                })
                .collect(),
            interfaces: state.interfaces,
            services,
            name: state.node,
        })
    }

    /// The addresses of a workload, of `namespace/name`.
    pub fn addresses_of(&self, namespace: &str, name: &str) -> Vec<IpAddr> {
        let workloads = self.workloads.values();
        workloads
            .filter(|workload| workload.namespace == namespace && workload.name == name)
            .map(|workload| workload.address)
            .collect()
    }

    /// The addresses of a node of the cluster.
    pub fn addresses_of_node(&self, name: &str) -> Vec<IpAddr> {
        let nodes = self.nodes.iter();
        nodes
            .filter(|(_, node)| *node == name)
            .map(|(address, _)| *address)
            .collect()
    }

    /// Every workload that the node knows of, as `namespace/name`.
    pub fn workloads(&self) -> BTreeSet<String> {
        let workloads = self.workloads.values();
        workloads
            .map(|w| format!("{}/{}", w.namespace, w.name))
            .collect()
    }

    /// A port from which no connection of an address is known, to whomever: a
    /// service may lead to others than are asked for.
    pub fn free_port(&self, source: IpAddr) -> u16 {
        let used = self.used_ports(source);
        (32768..=u16::MAX)
            .find(|port| !used.contains(port))
            .unwrap_or(u16::MAX)
    }

    /// Ports of known connections of an address, of either end.
    pub(crate) fn used_ports(&self, source: IpAddr) -> BTreeSet<u16> {
        let source = IpKey::from(source);
        let between = |low: IpKey, high: IpKey| low == source || high == source;
        let v4 = self
            .ct4
            .keys()
            .filter(|key| between(IpKey::from_v4(key.low), IpKey::from_v4(key.high)));
        let v6 = self
            .ct6
            .keys()
            .filter(|key| between(IpKey::from_v6(key.low), IpKey::from_v6(key.high)));
        let v4 = v4.flat_map(|key| [key.low_port, key.high_port]);
        let v6 = v6.flat_map(|key| [key.low_port, key.high_port]);
        v4.chain(v6).map(Be16::get).collect()
    }

    /// Whether an address is the node's own.
    pub(crate) fn is_own(&self, addr: IpAddr) -> bool {
        let key = IpKey::from(addr);
        let named = match addr {
            IpAddr::V4(v4) => v4.octets() == self.config.node_ipv4 && !v4.is_unspecified(),
            IpAddr::V6(v6) => key == self.config.node_ipv6 && !v6.is_unspecified(),
        };
        let row = self.ipcache.get(&key);
        named || row.is_some_and(|row| row.flags & IpcacheFlags::LOCAL_HOST != 0)
    }

    /// The identity of the endpoint of a number.
    pub(crate) fn identity_of(&self, endpoint: u16) -> Option<Identity> {
        let row = self.endpoints.values().find(|row| row.id == endpoint)?;
        Some(if row.ifindex == HOST_DEVICE {
            Identity::HOST
        } else {
            row.identity
        })
    }

    /// What policy knows of an identity.
    pub(crate) fn info(&self, id: Identity) -> IdentityInfo {
        self.infos.get(&id).cloned().unwrap_or_default()
    }
}

fn map<K, V>(state: &NodeState, name: &'static str) -> Result<BTreeMap<K, V>, RowError>
where
    K: FromBytes + Ord,
    V: FromBytes,
{
    Ok(state.rows::<K, V>(name)?.into_iter().collect())
}
