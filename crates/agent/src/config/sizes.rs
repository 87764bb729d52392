//! How much kernel tables hold, and for how long.

use axon_abi::Timeouts;

use super::read::Reader;

/// What one connection costs in the tables, for the share of memory.
const BYTES_PER_CONNECTION: f64 = 256.0;
/// However little memory there is: Cilium's least.
const LEAST: u32 = 128 * 1024;
const FRAGMENT_S: u32 = 5;
/// Addresses of an endpoint: one of each family.
const ADDRESSES: u32 = 2;
/// For so many addresses the ipcache has room for one prefix.
const ADDRESSES_PER_PREFIX: u32 = 8;
/// Endpoints have numbers of 16 bits.
const ENDPOINTS_MAX: u32 = 65_535;
const ROWS_MAX: u32 = 16 * 1024 * 1024;
/// So many addresses and ports of each service have room, and so many backends.
const ROWS_PER_SERVICE: u32 = 4;
/// Blocks of a Maglev table of the usual size, 16381 places.
const BLOCKS_PER_TABLE: u32 = 256;
const EVENTS_LEAST: u32 = 2 * 1024 * 1024;
const EVENTS_MOST: u32 = 16 * 1024 * 1024;
const MAGLEV_TABLES_MAX: u32 = ROWS_MAX / BLOCKS_PER_TABLE;

/// The option that sizes a map; `None` where there is none.
pub(crate) fn option_of(map: &str) -> Option<&'static str> {
    Some(match map {
        axon_abi::CT4 | axon_abi::CT6 => "bpf-ct-global-tcp-max",
        axon_abi::NAT | axon_abi::SERVICE_FLOW => "bpf-nat-global-max",
        "axon_policy_v1" | "axon_class_v1" => "bpf-policy-map-max",
        "axon_endpoint_v1" | "axon_address_v1" => "bpf-endpoint-map-max",
        "axon_ipcache_v1" | "axon_ipcache_cidr_v1" => "bpf-ipcache-map-max",
        "axon_identity_v1" => "bpf-identity-map-max",
        "axon_fragment_v1" => "bpf-fragments-map-max",
        "axon_service_v1" | "axon_service_list_v1" | "axon_service_skip_v1" => {
            "bpf-lb-service-map-max"
        }
        "axon_backend_v1" => "bpf-lb-service-backend-map-max",
        "axon_service_affinity_v1" => "bpf-lb-affinity-map-max",
        "axon_source_range_v1" => "bpf-lb-source-range-map-max",
        "axon_maglev_v1" => "bpf-lb-maglev-map-max",
        "axon_socket_v1" => "bpf-sock-rev-map-max",
        _ => return None,
    })
}

/// Sizes and lives of kernel tables.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Rows by name of the map.
    pub maps: Vec<(&'static str, u32)>,
    /// Conntrack entries that one endpoint may own.
    pub ct_quota: u32,
    /// Lives of idle connections.
    pub timeouts: Timeouts,
    /// Seconds between two sweeps; 0 follows the number of connections.
    pub gc_interval_s: u32,
}

impl Sizes {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let by_memory = connections(reader);
        let range = 1024..=ROWS_MAX;
        let tcp = reader.optional("bpf-ct-global-tcp-max", range.clone());
        let tcp = tcp.unwrap_or(by_memory.clamp(LEAST, 512 * 1024));
        let any = reader.optional("bpf-ct-global-any-max", range.clone());
        let any = any.unwrap_or(tcp / 2);
        let nat = reader.optional("bpf-nat-global-max", range.clone());
        let nat = nat.unwrap_or(by_memory.clamp(LEAST, 256 * 1024));
        // One table for every protocol of a family.
        let ct = tcp.saturating_add(any);
        let quota = reader.number("bpf-ct-endpoint-max", 0..=ROWS_MAX);
        let gc = reader.duration("conntrack-gc-interval");
        Self {
            maps: [
                (axon_abi::CT4, ct),
                (axon_abi::CT6, ct),
                (axon_abi::NAT, nat),
                (axon_abi::SERVICE_FLOW, nat),
            ]
            .into_iter()
            .chain(written_by_agent(reader))
            .chain(of_services(reader, by_memory))
            .chain([("axon_events_v1", events(axon_linux::online_cpus()))])
            .chain([(
                "axon_fragment_v1",
                reader.number("bpf-fragments-map-max", 64..=1024 * 1024),
            )])
            .collect(),
            ct_quota: if quota == 0 { ct / 4 } else { quota },
            timeouts: Timeouts {
                tcp_opening_s: reader.seconds("bpf-ct-timeout-regular-tcp-syn"),
                tcp_established_s: reader.seconds("bpf-ct-timeout-regular-tcp"),
                tcp_closing_s: reader.seconds("bpf-ct-timeout-regular-tcp-fin"),
                one_way_s: reader.seconds("bpf-ct-timeout-one-way-any"),
                two_way_s: reader.seconds("bpf-ct-timeout-regular-any"),
                fragment_s: FRAGMENT_S,
            },
            gc_interval_s: u32::try_from(gc.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

/// Sizes of the maps whose rows are derived from intent.
fn written_by_agent(reader: &mut Reader<'_>) -> [(&'static str, u32); 7] {
    let policy = reader
        .number("bpf-policy-map-max", 256..=1024 * 1024)
        .saturating_mul(16);
    let endpoints = reader.number("bpf-endpoint-map-max", 8..=ENDPOINTS_MAX);
    let ipcache = reader.number("bpf-ipcache-map-max", 256..=ROWS_MAX);
    let identities = reader.number("bpf-identity-map-max", 256..=ROWS_MAX);
    [
        ("axon_policy_v1", policy),
        ("axon_class_v1", policy),
        ("axon_endpoint_v1", endpoints),
        ("axon_address_v1", ADDRESSES * endpoints),
        ("axon_ipcache_v1", ipcache),
        ("axon_ipcache_cidr_v1", ipcache / ADDRESSES_PER_PREFIX),
        ("axon_identity_v1", identities),
    ]
}

/// Sizes of the maps of services.
fn of_services(reader: &mut Reader<'_>, by_memory: u32) -> [(&'static str, u32); 8] {
    let all = reader.number("bpf-lb-map-max", 256..=ROWS_MAX / ROWS_PER_SERVICE);
    // As in Cilium, 0 is as good as nothing.
    let mut own = |option, otherwise| {
        let is_set = reader.settings.text(option) != "0";
        let own = is_set.then(|| reader.optional(option, 256..=ROWS_MAX));
        own.flatten().unwrap_or(otherwise)
    };
    let services = own("bpf-lb-service-map-max", all);
    let backends = own("bpf-lb-service-backend-map-max", ROWS_PER_SERVICE * all);
    let clients = own("bpf-lb-affinity-map-max", all);
    let ranges = own("bpf-lb-source-range-map-max", all);
    let tables = reader.number("bpf-lb-maglev-map-max", 1..=MAGLEV_TABLES_MAX);
    let sockets = reader.optional("bpf-sock-rev-map-max", 1024..=ROWS_MAX);
    [
        ("axon_service_v1", services.saturating_mul(ROWS_PER_SERVICE)),
        (
            "axon_service_list_v1",
            services.saturating_mul(ROWS_PER_SERVICE),
        ),
        ("axon_service_skip_v1", services),
        ("axon_backend_v1", backends),
        ("axon_service_affinity_v1", clients),
        ("axon_source_range_v1", ranges),
        ("axon_maglev_v1", BLOCKS_PER_TABLE * tables),
        (
            "axon_socket_v1",
            sockets.unwrap_or(by_memory.clamp(LEAST / 4, LEAST)),
        ),
    ]
}

/// Bytes of the ring of events: as much for each CPU as Cilium's buffers have.
///
/// The kernel maps a ring twice, so twice this much counts as the agent's memory.
fn events(cpus: usize) -> u32 {
    const PER_CPU: u32 = 64 * 4096;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let bytes = PER_CPU.saturating_mul(cpus);
    // A power of two, as the kernel demands.
    bytes.clamp(EVENTS_LEAST, EVENTS_MOST).next_power_of_two()
}

/// Connections that the share of memory pays for; Cilium's ratio.
fn connections(reader: &mut Reader<'_>) -> u32 {
    let ratio = reader
        .settings
        .text("bpf-map-dynamic-size-ratio")
        .parse::<f64>()
        .ok();
    let Some(ratio) = ratio.filter(|r| (0.0..=1.0).contains(r)) else {
        reader.refuse("bpf-map-dynamic-size-ratio", "a number from 0 to 1");
        return 0;
    };
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    match total_kib {
        Some(kib) if ratio > 0.0 => (kib * 1024.0 * ratio / BYTES_PER_CONNECTION) as u32,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::{MAPS, MapSpec};

    use super::{Reader, Sizes, events, option_of};
    use crate::options::{AgentArgs, OPTIONS, Settings};

    /// The sizes with one option set, or none.
    fn sizes(option: &str, value: &str) -> Sizes {
        let variable = format!("AXON_{}", option.to_uppercase().replace('-', "_"));
        let env = |name: &str| (name == variable).then(|| value.to_owned());
        let settings = Settings::resolve(&AgentArgs::default(), env).expect("settings");
        let mut reader = Reader::new(&settings);
        let sizes = Sizes::read(&mut reader);
        assert!(reader.finish().is_empty(), "{option}={value}");
        sizes
    }

    fn rows(sizes: &Sizes, map: &MapSpec) -> Option<u32> {
        let mut maps = sizes.maps.iter();
        maps.find(|(name, _)| *name == map.name)
            .map(|(_, rows)| *rows)
    }

    #[test]
    fn maps_that_an_option_sizes_are_sizable_and_the_option_is_one() {
        for map in MAPS {
            if let Some(option) = option_of(map.name) {
                assert!(map.sizable, "{}", map.name);
                assert!(OPTIONS.iter().any(|o| o.name == option), "{option}");
            }
        }
    }

    #[test]
    fn defaults_are_the_sizes_that_maps_have_by_themselves() {
        let defaults = sizes("", "");
        for map in MAPS.iter().filter(|map| map.sizable) {
            let rows = rows(&defaults, map);
            assert_eq!(
                rows.is_some(),
                option_of(map.name).is_some() || map.name == "axon_events_v1",
                "{}",
                map.name
            );
            let by_machine = [
                "axon_events_v1",
                axon_abi::CT4,
                axon_abi::CT6,
                axon_abi::NAT,
                "axon_socket_v1",
                axon_abi::SERVICE_FLOW,
            ]
            .contains(&map.name);
            if let Some(rows) = rows.filter(|_| !by_machine) {
                assert_eq!(rows, map.max_entries, "{}", map.name);
            }
        }
    }

    #[test]
    fn an_option_sizes_its_maps_and_no_other() {
        let defaults = sizes("", "");
        for option in MAPS.iter().filter_map(|map| option_of(map.name)) {
            let sizes = sizes(option, "2048");
            for map in MAPS {
                let is_another = rows(&sizes, map) != rows(&defaults, map);
                let is_its = option_of(map.name) == Some(option);
                assert_eq!(is_another, is_its, "{option}: {}", map.name);
            }
        }
    }

    #[test]
    fn one_option_sizes_all_maps_of_services_that_have_none_of_their_own() {
        let sizes = sizes("bpf-lb-map-max", "1000");
        let rows = |name| sizes.maps.iter().find(|(map, _)| *map == name);
        for (map, expected) in [
            ("axon_service_v1", 4000),
            ("axon_service_list_v1", 4000),
            ("axon_backend_v1", 4000),
            ("axon_service_affinity_v1", 1000),
            ("axon_source_range_v1", 1000),
            ("axon_maglev_v1", 262_144),
        ] {
            assert_eq!(rows(map), Some(&(map, expected)));
        }
    }

    #[test]
    fn the_ring_of_events_is_a_power_of_two_for_any_number_of_cpus() {
        for (cpus, mib) in [(1, 2), (8, 2), (9, 4), (32, 8), (64, 16), (usize::MAX, 16)] {
            assert_eq!(events(cpus), mib * 1024 * 1024, "{cpus} CPUs");
        }
    }
}
