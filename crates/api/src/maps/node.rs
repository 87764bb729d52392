//! Counters and configuration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use axon_abi::{Direction, RuntimeConfig};
use serde::{Deserialize, Serialize};

use super::reason_text;

/// Packets and bytes of one reason and direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MetricsMapRow {
    /// `Success`, or why they were dropped.
    pub reason: String,
    /// `INGRESS`, `EGRESS` or `UNKNOWN`.
    pub direction: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl MetricsMapRow {
    /// The row of a reason (0 is success) and direction.
    pub fn new(reason: u8, direction: Direction, packets: u64, bytes: u64) -> Self {
        Self {
            reason: match reason {
                0 => "Success".to_owned(),
                reason => reason_text(reason),
            },
            direction: match direction {
                Direction::Unknown => "UNKNOWN",
                Direction::Ingress => "INGRESS",
                Direction::Egress => "EGRESS",
            }
            .to_owned(),
            packets,
            bytes,
        }
    }
}

/// The programs' configuration as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigMapRow {
    /// The generation of programs in force.
    pub generation: u32,
    /// The flags that are set, by name.
    pub flags: Vec<String>,
    /// The identity epoch.
    pub epoch: u32,
    /// Bytes of an IP packet that the underlay carries.
    pub mtu: u32,
    /// Seconds between two reports of an established flow.
    pub trace_interval_s: u32,
    /// TCP flags whose first sight is reported (low byte).
    pub trace_tcp_flags: u32,
    /// Conntrack entries that an endpoint may own; 0 is no limit.
    pub ct_quota: u32,
    /// The node's IPv4 address.
    pub node_ipv4: Ipv4Addr,
    /// The node's IPv6 address.
    pub node_ipv6: Ipv6Addr,
    /// First and last port of masquerading.
    pub nat_ports: [u16; 2],
    /// Seconds after which flows are forgotten, by state.
    pub timeouts_s: BTreeMap<String, u32>,
}

impl ConfigMapRow {
    /// The row.
    pub fn new(generation: u32, config: &RuntimeConfig) -> Self {
        use axon_abi::ConfigFlags as F;
        let flags = [
            (F::IPV4, "ipv4"),
            (F::IPV6, "ipv6"),
            (F::MASQUERADE_IPV4, "masquerade-ipv4"),
            (F::MASQUERADE_IPV6, "masquerade-ipv6"),
            (F::ALLOW_LOCALHOST, "allow-localhost"),
            (F::AUDIT, "audit"),
            (F::EVENT_VERDICT, "event-verdict"),
            (F::EVENT_TRACE, "event-trace"),
            (F::EVENT_DROP, "event-drop"),
        ];
        let t = &config.timeouts;
        let timeouts = [
            ("tcp-opening", t.tcp_opening_s),
            ("tcp-established", t.tcp_established_s),
            ("tcp-closing", t.tcp_closing_s),
            ("one-way", t.one_way_s),
            ("two-way", t.two_way_s),
            ("fragment", t.fragment_s),
        ];
        Self {
            generation,
            flags: flags
                .into_iter()
                .filter(|(bit, _)| config.flags & bit != 0)
                .map(|(_, name)| name.to_owned())
                .collect(),
            epoch: config.epoch,
            mtu: config.mtu,
            trace_interval_s: config.trace_interval_s,
            trace_tcp_flags: config.trace_tcp_flags,
            ct_quota: config.ct_quota,
            node_ipv4: config.node_ipv4.into(),
            node_ipv6: config.node_ipv6.0.into(),
            nat_ports: [config.nat_port_min, config.nat_port_max],
            timeouts_s: timeouts
                .into_iter()
                .map(|(name, s)| (name.to_owned(), s))
                .collect(),
        }
    }
}
