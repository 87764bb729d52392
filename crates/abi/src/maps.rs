//! The maps: names, kinds and layouts, for the loader's check of what is
//! pinned.

use crate::{
    AffinityEntry, Backend, ClassKey, ClassRow, CtEntry, CtKey4, CtKey6, EndpointRow, FragmentKey,
    FragmentPorts, IdentityRow, IpKey, IpcacheRow, ListBlock, ListKey, LpmKey, METRICS_ENTRIES,
    MaglevBlock, MaglevKey, MetricsRow, NatEntry, NatKey, PolicyEntry, PolicyKey, PolicySetRow,
    RuntimeConfig, ServiceClient, ServiceEntry, ServiceFlow, ServiceFlowKey, ServiceKey,
    SocketEntry, SocketKey, SourceRangeKey,
};

/// Kinds of maps, with the kernel's `bpf_map_type` numbers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Hash table.
    Hash = 1,
    /// Array.
    Array = 2,
    /// Array of programs for tail calls.
    ProgArray = 3,
    /// Array with a value per CPU.
    PerCpuArray = 6,
    /// Hash table that evicts the least recently used.
    LruHash = 9,
    /// Longest-prefix-match trie.
    LpmTrie = 11,
    /// Ring buffer; `max_entries` is its size in bytes.
    RingBuf = 27,
}

/// The layout of one pinned map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// The pin's file name; it ends in the version of the layout.
    pub name: &'static str,
    /// The kernel's type.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries (ring buffer: bytes) unless configuration says otherwise.
    pub max_entries: u32,
    /// Whether configuration may size the map.
    pub sizable: bool,
    /// Whether entries take memory only once they are there
    /// (`BPF_F_NO_PREALLOC`), and not all of it from the start. Tries always
    /// are so; maps that programs write never: the kernel may refuse memory.
    pub on_demand: bool,
}

const fn spec<K, V>(name: &'static str, kind: MapKind, max_entries: u32, sizable: bool) -> MapSpec {
    MapSpec {
        name,
        kind,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries,
        sizable,
        on_demand: matches!(kind, MapKind::LpmTrie),
    }
}

/// A map that may become large, and is small in most clusters.
const fn on_demand<K, V>(name: &'static str, max_entries: u32) -> MapSpec {
    MapSpec {
        on_demand: true,
        ..spec::<K, V>(name, MapKind::Hash, max_entries, true)
    }
}

/// Generations of programs that may be loaded at once: the one in force and
/// the one that replaces it.
pub const GENERATIONS: u32 = 2;

/// Hooks that have a stub.
pub const HOOKS: u32 = 4;

/// Where a program hangs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Ingress of an endpoint's host-side device: what the endpoint sends.
    FromEndpoint = 0,
    /// Egress of an endpoint's host-side device: what the stack sends to it.
    ToEndpoint = 1,
    /// Ingress of an uplink.
    FromNetdev = 2,
    /// Egress of an uplink.
    ToNetdev = 3,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; HOOKS as usize] = [
        Self::FromEndpoint,
        Self::ToEndpoint,
        Self::FromNetdev,
        Self::ToNetdev,
    ];

    /// The name of the hook's program in the object file; the stub's is
    /// `stub_` and this.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromEndpoint => "from_endpoint",
            Self::ToEndpoint => "to_endpoint",
            Self::FromNetdev => "from_netdev",
            Self::ToNetdev => "to_netdev",
        }
    }
}

/// The slot of a hook's program of a generation in `axon_programs_v1`.
#[inline(always)]
pub const fn program_slot(generation: u32, hook: Hook) -> u32 {
    (generation % GENERATIONS) * HOOKS + hook as u32
}

/// Name of the map of IPv4 flows.
pub const CT4: &str = versioned("axon_ct4_v1", "axon_ct4_v2");
/// Name of the map of IPv6 flows.
pub const CT6: &str = versioned("axon_ct6_v1", "axon_ct6_v2");
/// Name of the map of translations.
pub const NAT: &str = versioned("axon_nat_v1", "axon_nat_v2");

/// Name of the map of flows that services translate.
pub const SERVICE_FLOW: &str = "axon_service_flow_v1";

/// A map's name with its present layout, and with that of `next-layout`.
const fn versioned(now: &'static str, next: &'static str) -> &'static str {
    if cfg!(feature = "next-layout") {
        next
    } else {
        now
    }
}

/// Flows of a family unless configuration says otherwise.
pub(crate) const CT_ENTRIES_MAX: u32 = 524_288;

/// Services unless configuration says otherwise.
pub(crate) const SERVICES_MAX: u32 = 65_536;
/// Rows of frontends, of lists and of backends for each service that there is
/// room for.
pub(crate) const ROWS_PER_SERVICE: u32 = 4;

/// Every pinned map.
///
/// - `axon_generation_v1`: index 0 holds the generation whose programs the
///   stubs call; one write switches every device, both directions.
/// - `axon_rows_version_v1`: index 0 holds the version of the two tables of
///   endpoints: odd, or even while they are written; the programs keep copies of
///   their rows for as long as an odd version lasts.
/// - `axon_uplink_v1`: the uplinks by index, whatever value; a full map means
///   that what the node translates from further uplinks is refused.
/// - `axon_icmp_limit_v1`: up to when (nanoseconds of the monotonic clock) the
///   ICMP errors are spoken for, by endpoint's number; 0 for what comes from
///   the network. Written by the programs.
/// - `axon_ct_count_v1`: conntrack entries by owning endpoint's number,
///   counted up by the programs, set right by the sweep.
/// - `axon_lost_v1`: events that found the ring buffer full.
/// - `axon_nomasq_v1`: destinations towards which pods keep their address.
/// - `axon_service_affinity_v1`, `axon_socket_v1`: written by the programs; full,
///   they forget whom nobody has asked about for longest.
/// - `axon_service_flow_v1`: written by the programs, swept by user space; full, it
///   forgets the flows that have been silent for longest.
/// - `axon_source_range_v1`, `axon_service_skip_v1`: that a key is there is all that
///   they say.
pub const MAPS: &[MapSpec] = &[
    spec::<u32, u32>(
        "axon_programs_v1",
        MapKind::ProgArray,
        GENERATIONS * HOOKS,
        false,
    ),
    spec::<u32, u32>("axon_generation_v1", MapKind::Array, 1, false),
    spec::<u32, RuntimeConfig>("axon_config_v1", MapKind::Array, 1, false),
    spec::<u32, EndpointRow>("axon_endpoint_v1", MapKind::Hash, 4096, true),
    spec::<IpKey, EndpointRow>("axon_address_v1", MapKind::Hash, 8192, true),
    spec::<u32, u32>("axon_rows_version_v1", MapKind::Array, 1, false),
    on_demand::<IpKey, IpcacheRow>("axon_ipcache_v1", 524_288),
    spec::<LpmKey, IpcacheRow>("axon_ipcache_cidr_v1", MapKind::LpmTrie, 65_536, true),
    on_demand::<u32, IdentityRow>("axon_identity_v1", 131_072),
    on_demand::<u32, PolicySetRow>("axon_policy_set_v1", 16_384),
    on_demand::<ClassKey, ClassRow>("axon_class_v1", 262_144),
    on_demand::<PolicyKey, PolicyEntry>("axon_policy_v1", 262_144),
    spec::<CtKey4, CtEntry>(CT4, MapKind::LruHash, CT_ENTRIES_MAX, true),
    spec::<CtKey6, CtEntry>(CT6, MapKind::LruHash, CT_ENTRIES_MAX, true),
    spec::<u32, u32>("axon_uplink_v1", MapKind::Hash, 256, false),
    spec::<u32, u64>("axon_icmp_limit_v1", MapKind::Array, 65_536, false),
    spec::<u32, u32>("axon_ct_count_v1", MapKind::Array, 65_536, false),
    spec::<NatKey, NatEntry>(NAT, MapKind::LruHash, CT_ENTRIES_MAX / 2, true),
    spec::<ServiceFlowKey, ServiceFlow>(SERVICE_FLOW, MapKind::LruHash, CT_ENTRIES_MAX / 2, true),
    spec::<LpmKey, u32>("axon_nomasq_v1", MapKind::LpmTrie, 1024, false),
    spec::<FragmentKey, FragmentPorts>("axon_fragment_v1", MapKind::LruHash, 8192, true),
    on_demand::<ServiceKey, ServiceEntry>("axon_service_v1", ROWS_PER_SERVICE * SERVICES_MAX),
    on_demand::<ListKey, ListBlock>("axon_service_list_v1", ROWS_PER_SERVICE * SERVICES_MAX),
    on_demand::<MaglevKey, MaglevBlock>("axon_maglev_v1", 262_144),
    on_demand::<u32, Backend>("axon_backend_v1", ROWS_PER_SERVICE * SERVICES_MAX),
    spec::<ServiceClient, AffinityEntry>(
        "axon_service_affinity_v1",
        MapKind::LruHash,
        SERVICES_MAX,
        true,
    ),
    spec::<SourceRangeKey, u32>("axon_source_range_v1", MapKind::LpmTrie, SERVICES_MAX, true),
    on_demand::<ServiceClient, u32>("axon_service_skip_v1", SERVICES_MAX),
    spec::<SocketKey, SocketEntry>("axon_socket_v1", MapKind::LruHash, 131_072, true),
    spec::<u32, MetricsRow>(
        "axon_metrics_v1",
        MapKind::PerCpuArray,
        METRICS_ENTRIES,
        false,
    ),
    spec::<u32, u64>("axon_lost_v1", MapKind::PerCpuArray, 1, false),
    MapSpec {
        name: "axon_events_v1",
        kind: MapKind::RingBuf,
        key_size: 0,
        value_size: 0,
        max_entries: 2 * 1024 * 1024,
        sizable: true,
        on_demand: false,
    },
];

#[cfg(test)]
mod tests {
    use super::MAPS;

    #[test]
    fn names_are_unique_versioned_and_fit_the_kernel() {
        for (n, map) in MAPS.iter().enumerate() {
            assert!(map.name.starts_with("axon_"), "{}", map.name);
            assert!(map.name.contains("_v"), "{}", map.name);
            assert!(
                MAPS[..n].iter().all(|other| other.name != map.name),
                "{}",
                map.name
            );
        }
    }
}
