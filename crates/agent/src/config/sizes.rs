//! How much kernel tables hold, and for how long.

use axon_abi::Timeouts;

use super::read::Reader;

/// What one connection costs in the tables, for the share of memory.
const BYTES_PER_CONNECTION: f64 = 256.0;
/// However little memory there is: Cilium's least.
const LEAST: u32 = 128 * 1024;
const FRAGMENT_S: u32 = 5;

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
        let range = 1024..=16 * 1024 * 1024;
        let tcp = reader.optional("bpf-ct-global-tcp-max", range.clone());
        let tcp = tcp.unwrap_or(by_memory.clamp(LEAST, 512 * 1024));
        let any = reader.optional("bpf-ct-global-any-max", range.clone());
        let any = any.unwrap_or(tcp / 2);
        let nat = reader.optional("bpf-nat-global-max", range.clone());
        let nat = nat.unwrap_or(by_memory.clamp(LEAST, 256 * 1024));
        // One table for every protocol of a family.
        let ct = tcp.saturating_add(any);
        let quota = reader.number("bpf-ct-endpoint-max", 0..=16 * 1024 * 1024);
        let policy = reader
            .number("bpf-policy-map-max", 256..=1024 * 1024)
            .saturating_mul(16);
        let gc = reader.duration("conntrack-gc-interval");
        Self {
            maps: vec![
                (axon_abi::CT4, ct),
                (axon_abi::CT6, ct),
                (axon_abi::NAT, nat),
                ("axon_policy_v1", policy),
                ("axon_class_v1", policy),
                (
                    "axon_fragment_v1",
                    reader.number("bpf-fragments-map-max", 64..=1024 * 1024),
                ),
            ],
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
