//! The maps, named and laid out as [`axon_abi::MAPS`] says.
//!
//! The loader pins them by name and may size those that `MAPS` calls sizable;
//! only the scratch space is private to a load.

use axon_abi::{
    AffinityEntry, Backend, ClassKey, ClassRow, CtEntry, CtKey4, CtKey6, EndpointRow, FragmentKey,
    FragmentPorts, GENERATIONS, HOOKS, IdentityRow, IpKey, IpcacheRow, ListBlock, ListKey,
    METRICS_ENTRIES, MaglevBlock, MaglevKey, MetricsRow, NatEntry, NatKey, PolicyEntry, PolicyKey,
    PolicySetRow, RuntimeConfig, ServiceClient, ServiceEntry, ServiceFlow, ServiceFlowKey,
    ServiceKey, SocketEntry, SocketKey, SourceRangeKey,
};
use axon_datapath::Scratch;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};

use crate::copies::{COPIES, Copied};
use crate::skb::WINDOW_LEN;

#[map(name = "axon_programs_v1")]
pub static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(GENERATIONS * HOOKS, 0);

#[map(name = "axon_generation_v1")]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

#[map(name = "axon_config_v1")]
pub static CONFIG: Array<RuntimeConfig> = Array::with_max_entries(1, 0);

#[map(name = "axon_endpoint_v1")]
pub static ENDPOINT: HashMap<u32, EndpointRow> = HashMap::with_max_entries(4096, 0);

#[map(name = "axon_rows_version_v1")]
pub static ROWS_VERSION: Array<u32> = Array::with_max_entries(1, 0);

#[map(name = "axon_address_v1")]
pub static ADDRESS: HashMap<IpKey, EndpointRow> = HashMap::with_max_entries(8192, 0);

#[map(name = "axon_ipcache_v1")]
pub static IPCACHE: HashMap<IpKey, IpcacheRow> =
    HashMap::with_max_entries(524_288, BPF_F_NO_PREALLOC);

#[map(name = "axon_ipcache_cidr_v1")]
pub static IPCACHE_CIDR: LpmTrie<IpKey, IpcacheRow> = LpmTrie::with_max_entries(65_536, 0);

#[map(name = "axon_identity_v1")]
pub static IDENTITY: HashMap<u32, IdentityRow> =
    HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

#[map(name = "axon_policy_set_v1")]
pub static POLICY_SET: HashMap<u32, PolicySetRow> =
    HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

#[map(name = "axon_class_v1")]
pub static CLASS: HashMap<ClassKey, ClassRow> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[map(name = "axon_policy_v1")]
pub static POLICY: HashMap<PolicyKey, PolicyEntry> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[cfg_attr(not(feature = "next-layout"), map(name = "axon_ct4_v1"))]
#[cfg_attr(feature = "next-layout", map(name = "axon_ct4_v2"))]
pub static CT4: LruHashMap<CtKey4, CtEntry> = LruHashMap::with_max_entries(524_288, 0);

#[cfg_attr(not(feature = "next-layout"), map(name = "axon_ct6_v1"))]
#[cfg_attr(feature = "next-layout", map(name = "axon_ct6_v2"))]
pub static CT6: LruHashMap<CtKey6, CtEntry> = LruHashMap::with_max_entries(524_288, 0);

#[map(name = "axon_uplink_v1")]
pub static UPLINK: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);

#[map(name = "axon_icmp_limit_v1")]
pub static ICMP_LIMIT: Array<u64> = Array::with_max_entries(65_536, 0);

#[map(name = "axon_ct_count_v1")]
pub static CT_COUNT: Array<u32> = Array::with_max_entries(65_536, 0);

#[cfg_attr(not(feature = "next-layout"), map(name = "axon_nat_v1"))]
#[cfg_attr(feature = "next-layout", map(name = "axon_nat_v2"))]
pub static NAT: LruHashMap<NatKey, NatEntry> = LruHashMap::with_max_entries(262_144, 0);

#[map(name = "axon_nomasq_v1")]
pub static NOMASQ: LpmTrie<IpKey, u32> = LpmTrie::with_max_entries(1024, 0);

#[map(name = "axon_service_flow_v1")]
pub static SERVICE_FLOW: LruHashMap<ServiceFlowKey, ServiceFlow> =
    LruHashMap::with_max_entries(262_144, 0);

#[map(name = "axon_fragment_v1")]
pub static FRAGMENT: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(8192, 0);

#[map(name = "axon_service_v1")]
pub static SERVICE: HashMap<ServiceKey, ServiceEntry> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[map(name = "axon_service_list_v1")]
pub static SERVICE_LIST: HashMap<ListKey, ListBlock> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[map(name = "axon_maglev_v1")]
pub static MAGLEV: HashMap<MaglevKey, MaglevBlock> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[map(name = "axon_backend_v1")]
pub static BACKEND: HashMap<u32, Backend> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[map(name = "axon_service_affinity_v1")]
pub static SERVICE_AFFINITY: LruHashMap<ServiceClient, AffinityEntry> =
    LruHashMap::with_max_entries(65_536, 0);

/// A service and an address behind the bits of a prefix: what [`SourceRangeKey`]
/// is in one.
pub type SourceRange = [u8; size_of::<SourceRangeKey>() - size_of::<u32>()];

#[map(name = "axon_source_range_v1")]
pub static SOURCE_RANGE: LpmTrie<SourceRange, u32> = LpmTrie::with_max_entries(65_536, 0);

#[map(name = "axon_service_skip_v1")]
pub static SERVICE_SKIP: HashMap<ServiceClient, u32> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

#[map(name = "axon_socket_v1")]
pub static SOCKET: LruHashMap<SocketKey, SocketEntry> = LruHashMap::with_max_entries(131_072, 0);

#[map(name = "axon_metrics_v1")]
pub static METRICS: PerCpuArray<MetricsRow> = PerCpuArray::with_max_entries(METRICS_ENTRIES, 0);

#[map(name = "axon_lost_v1")]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map(name = "axon_events_v1")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(2 * 1024 * 1024, 0);

/// Copies of endpoints' rows, by device; see [`crate::copies`].
#[map(name = "axon_by_device")]
pub static BY_DEVICE: PerCpuArray<Copied<u32>> = PerCpuArray::with_max_entries(COPIES, 0);

/// Copies of endpoints' rows, by address.
#[map(name = "axon_by_address")]
pub static BY_ADDRESS: PerCpuArray<Copied<IpKey>> = PerCpuArray::with_max_entries(COPIES, 0);

/// The CPU's room for the packet in hand; private to a load.
#[map(name = "axon_scratch")]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The CPU's room for what is moved to and from packets; private to a load.
#[map(name = "axon_window")]
pub static WINDOW: PerCpuArray<[u64; WINDOW_LEN / 8]> = PerCpuArray::with_max_entries(1, 0);
