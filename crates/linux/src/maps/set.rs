//! Every map of a node.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use axon_abi::{
    AffinityEntry, Backend, ClassKey, ClassRow, CtEntry, CtKey4, CtKey6, EndpointRow, FragmentKey,
    FragmentPorts, Identity, IdentityRow, IpKey, IpcacheRow, ListBlock, ListKey, LpmKey, MAPS,
    MaglevBlock, MaglevKey, MapSpec, MetricsRow, NatEntry, NatKey, PolicyEntry, PolicyKey,
    PolicySetRow, RuntimeConfig, ServiceClient, ServiceEntry, ServiceFlow, ServiceFlowKey,
    ServiceKey, SocketEntry, SocketKey, SourceRangeKey,
};

use super::{Map, MapError, PerCpuArray};
use crate::sys::{RawMap, map_flags};

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MapUse {
    /// The map.
    pub map: &'static str,
    /// Rows in it.
    pub entries: u32,
    /// Rows it can hold.
    pub capacity: u32,
}

/// Every pinned map of a node, typed; clones share the descriptors.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The generation in force, at index 0.
    pub generation: Map<u32, u32>,
    /// The programs' configuration, at index 0.
    pub config: Map<u32, RuntimeConfig>,
    /// Endpoints by host-side device.
    pub endpoint: Map<u32, EndpointRow>,
    /// Endpoints by address.
    pub address: Map<IpKey, EndpointRow>,
    /// The version of both, at index 0.
    pub rows_version: Map<u32, u32>,
    /// Host addresses.
    pub ipcache: Map<IpKey, IpcacheRow>,
    /// Prefixes.
    pub ipcache_cidr: Map<LpmKey, IpcacheRow>,
    /// Known identities.
    pub identity: Map<Identity, IdentityRow>,
    /// Policy set versions.
    pub policy_set: Map<u32, PolicySetRow>,
    /// Classes of identities in sets.
    pub class: Map<ClassKey, ClassRow>,
    /// Policy entries.
    pub policy: Map<PolicyKey, PolicyEntry>,
    /// IPv4 flows.
    pub ct4: Map<CtKey4, CtEntry>,
    /// IPv6 flows.
    pub ct6: Map<CtKey6, CtEntry>,
    /// Uplinks, by index.
    pub uplink: Map<u32, u32>,
    /// Up to when the ICMP errors to endpoints are spoken for, by their number.
    pub icmp_limit: Map<u32, u64>,
    /// Flows by owning endpoint.
    pub ct_count: Map<u32, u32>,
    /// Translations.
    pub nat: Map<NatKey, NatEntry>,
    /// Flows that services translate.
    pub service_flow: Map<ServiceFlowKey, ServiceFlow>,
    /// Destinations towards which pods keep their address.
    pub nomasq: Map<LpmKey, u32>,
    /// Fragmented datagrams.
    pub fragment: Map<FragmentKey, FragmentPorts>,
    /// Frontends of services.
    pub service: Map<ServiceKey, ServiceEntry>,
    /// Lists of backends, in blocks.
    pub service_list: Map<ListKey, ListBlock>,
    /// Maglev tables, in blocks.
    pub maglev: Map<MaglevKey, MaglevBlock>,
    /// Backends by id.
    pub backend: Map<u32, Backend>,
    /// Where clients of services with affinity went last.
    pub service_affinity: Map<ServiceClient, AffinityEntry>,
    /// Prefixes that services tell apart.
    pub source_range: Map<SourceRangeKey, u32>,
    /// Who passes by a redirection.
    pub service_skip: Map<ServiceClient, u32>,
    /// Sockets that were connected to frontends.
    pub socket: Map<SocketKey, SocketEntry>,
    /// Counters by reason and direction.
    pub metrics: PerCpuArray<MetricsRow>,
    /// Events lost.
    pub lost: PerCpuArray<u64>,
}

impl Maps {
    /// The pinned maps under a bpffs root, for reading only; works whether or
    /// not the agent lives.
    ///
    /// # Errors
    /// [`MapError::Absent`], [`MapError::Layout`], [`MapError::Syscall`].
    pub fn open_readonly(bpf_root: &Path) -> Result<Self, MapError> {
        let mut raw = BTreeMap::new();
        for spec in MAPS {
            raw.insert(spec.name, Arc::new(open_checked(spec, bpf_root)?));
        }
        Self::from_raw(&raw)
    }

    pub(crate) fn from_raw(raw: &BTreeMap<&'static str, Arc<RawMap>>) -> Result<Self, MapError> {
        let get = |name: &'static str| {
            raw.get(name)
                .map(|map| (Arc::clone(map), name))
                .ok_or_else(|| MapError::Absent {
                    map: name,
                    path: String::new(),
                })
        };
        fn map<K, V>((raw, name): (Arc<RawMap>, &'static str)) -> Result<Map<K, V>, MapError> {
            Map::new(raw, name)
        }

        Ok(Self {
            generation: map(get("axon_generation_v1")?)?,
            config: map(get("axon_config_v1")?)?,
            endpoint: map(get("axon_endpoint_v1")?)?,
            address: map(get("axon_address_v1")?)?,
            rows_version: map(get("axon_rows_version_v1")?)?,
            ipcache: map(get("axon_ipcache_v1")?)?,
            ipcache_cidr: map(get("axon_ipcache_cidr_v1")?)?,
            identity: map(get("axon_identity_v1")?)?,
            policy_set: map(get("axon_policy_set_v1")?)?,
            class: map(get("axon_class_v1")?)?,
            policy: map(get("axon_policy_v1")?)?,
            ct4: map(get(axon_abi::CT4)?)?,
            ct6: map(get(axon_abi::CT6)?)?,
            uplink: map(get("axon_uplink_v1")?)?,
            icmp_limit: map(get("axon_icmp_limit_v1")?)?,
            ct_count: map(get("axon_ct_count_v1")?)?,
            nat: map(get(axon_abi::NAT)?)?,
            service_flow: map(get(axon_abi::SERVICE_FLOW)?)?,
            nomasq: map(get("axon_nomasq_v1")?)?,
            fragment: map(get("axon_fragment_v1")?)?,
            service: map(get("axon_service_v1")?)?,
            service_list: map(get("axon_service_list_v1")?)?,
            maglev: map(get("axon_maglev_v1")?)?,
            backend: map(get("axon_backend_v1")?)?,
            service_affinity: map(get("axon_service_affinity_v1")?)?,
            source_range: map(get("axon_source_range_v1")?)?,
            service_skip: map(get("axon_service_skip_v1")?)?,
            socket: map(get("axon_socket_v1")?)?,
            metrics: PerCpuArray::new(get("axon_metrics_v1")?.0, "axon_metrics_v1")?,
            lost: PerCpuArray::new(get("axon_lost_v1")?.0, "axon_lost_v1")?,
        })
    }

    /// How full the maps are that can fill up. Counts every entry: not for
    /// every second.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn pressure(&self) -> Result<Vec<MapUse>, MapError> {
        macro_rules! uses {
            ($($map:ident),*) => {
                vec![$(MapUse {
                    map: self.$map.name(),
                    entries: self.$map.count()?,
                    capacity: self.$map.capacity(),
                }),*]
            };
        }
        Ok(uses!(
            endpoint,
            address,
            ipcache,
            ipcache_cidr,
            identity,
            policy_set,
            class,
            policy,
            ct4,
            ct6,
            nat,
            service_flow,
            nomasq,
            fragment,
            service,
            service_list,
            maglev,
            backend,
            service_affinity,
            source_range,
            service_skip,
            socket
        ))
    }
}

/// What of a pinned map's layout is not as wanted; sizes are configuration
/// and not looked at.
pub(crate) fn layout_problem(spec: &MapSpec, raw: &RawMap) -> Option<MapError> {
    let info = raw.info();
    [
        ("type", info.kind, spec.kind as u32),
        ("key size", info.key_size, spec.key_size),
        ("value size", info.value_size, spec.value_size),
        ("flags", info.flags, map_flags(spec)),
    ]
    .into_iter()
    .find(|(_, found, expected)| found != expected)
    .map(|(field, found, expected)| MapError::Layout {
        map: spec.name,
        field,
        found,
        expected,
    })
}

fn open_checked(spec: &MapSpec, bpf_root: &Path) -> Result<RawMap, MapError> {
    let path = bpf_root.join(spec.name);
    let raw = RawMap::open(&path, true).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            MapError::Absent {
                map: spec.name,
                path: path.display().to_string(),
            }
        } else {
            MapError::Syscall {
                map: spec.name,
                call: "open",
                source,
            }
        }
    })?;
    layout_problem(spec, &raw).map_or(Ok(raw), Err)
}
