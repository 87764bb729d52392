//! Kernel maps as tables.

use axon_abi::Identity;
use axon_api::maps::{
    ConfigMapRow, CtMapRow, EndpointMapRow, IpcacheMapRow, MetricsMapRow, NatMapRow,
    PolicyMapEntry, PolicyMapSet, PressureRow,
};
use std::net::IpAddr;

use crate::output::{or_dash, table};

/// An identity's number, with its name if it is a reserved one.
pub(crate) fn identity_text(identity: u32) -> String {
    match Identity(identity).reserved_name() {
        Some(name) => format!("{identity} ({name})"),
        None => identity.to_string(),
    }
}

/// An address and a port.
fn socket(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) fn endpoints(rows: &[EndpointMapRow]) -> String {
    let header = [
        "ENDPOINT", "POD", "IDENTITY", "SET", "IPV4", "IPV6", "DEVICE", "MAC", "FLAGS",
    ];
    let rows = rows.iter().map(|row| {
        let flags = [
            (row.audit, "audit"),
            (row.no_source_check, "no-source-check"),
        ];
        let flags: Vec<&str> = flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, n)| *n)
            .collect();
        [
            row.id.to_string(),
            or_dash(&row.pod),
            identity_text(row.identity),
            row.policy_set.to_string(),
            optional(row.ipv4),
            optional(row.ipv6),
            match row.interface.as_str() {
                "" => format!("index {}", row.ifindex),
                name => name.to_owned(),
            },
            row.mac.to_string(),
            or_dash(&flags.join(",")),
        ]
    });
    table(header, rows)
}

pub(super) fn ipcache(rows: &[IpcacheMapRow]) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.cidr.clone(),
            identity_text(row.identity),
            or_dash(&row.pod),
            match row.node {
                Some(node) => node.to_string(),
                None if row.local_host => "this one".to_owned(),
                None => "-".to_owned(),
            },
        ]
    });
    table(["CIDR", "IDENTITY", "POD", "NODE"], rows)
}

pub(super) fn policy(sets: &[PolicyMapSet]) -> String {
    let mut text = String::new();
    for set in sets {
        let ids: Vec<String> = set.endpoints.iter().map(u16::to_string).collect();
        let default = |deny: bool| if deny { "denied" } else { "allowed" };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!(
            "Set {}, endpoints {}; by default ingress is {}, egress {}\n",
            set.set,
            or_dash(&ids.join(", ")),
            default(set.default_deny_ingress),
            default(set.default_deny_egress)
        ));
        if !set.entries.is_empty() {
            let header = [
                "DIRECTION",
                "REMOTE",
                "PROTOCOL",
                "PORT",
                "ACTION",
                "PRECEDENCE",
                "POLICY",
            ];
            text.push_str(&table(header, set.entries.iter().map(entry)));
        }
    }
    text
}

fn entry(entry: &PolicyMapEntry) -> [String; 7] {
    let identities: Vec<String> = entry.identities.iter().map(|i| identity_text(*i)).collect();
    [
        entry.direction.clone(),
        if identities.is_empty() {
            entry.remote.clone()
        } else {
            identities.join(", ")
        },
        entry.protocol.clone(),
        entry.port.clone(),
        match entry.auth.as_str() {
            "" => entry.action.clone(),
            mode => format!("{} (authentication {mode})", entry.action),
        },
        entry.precedence.to_string(),
        match (entry.policy.as_str(), entry.rule) {
            ("", 0) => "-".to_owned(),
            ("", rule) => format!("rule {rule}"),
            (policy, _) => policy.to_owned(),
        },
    ]
}

pub(super) fn conntrack(rows: &[CtMapRow]) -> String {
    let header = [
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "STATE",
        "IDENTITIES",
        "PACKETS",
        "BYTES",
        "EXPIRES",
        "POLICY",
    ];
    let rows = rows.iter().map(|row| {
        let [forward, reply] = row.packets;
        let [forward_bytes, reply_bytes] = row.bytes;
        [
            row.protocol.clone(),
            socket(row.source, row.source_port),
            socket(row.destination, row.destination_port),
            match row.denied.as_str() {
                "" => row.state.clone(),
                reason => format!("{}, {reason}", row.state),
            },
            format!("{} > {}", row.source_identity, row.destination_identity),
            format!("{forward}/{reply}"),
            format!("{forward_bytes}/{reply_bytes}"),
            if row.expires_in_s < 0 {
                "void".to_owned()
            } else {
                format!("{} s", row.expires_in_s)
            },
            match (row.policy.as_str(), row.rule) {
                ("", 0) => "-".to_owned(),
                ("", rule) => format!("rule {rule}"),
                (policy, _) => policy.to_owned(),
            },
        ]
    });
    table(header, rows)
}

pub(super) fn nat(rows: &[NatMapRow]) -> String {
    let header = ["WAY", "PROTO", "SOURCE", "DESTINATION", "BECOMES", "IDLE"];
    let rows = rows.iter().map(|row| {
        let to = socket(row.to, row.to_port);
        [
            row.direction.clone(),
            row.protocol.clone(),
            socket(row.source, row.source_port),
            socket(row.destination, row.destination_port),
            match (row.node_own, row.direction.as_str()) {
                _ if row.owner == "service" => format!("held for {to} (axon bpf lb snat)"),
                (true, _) => "unchanged (the node's own)".to_owned(),
                (false, "out") => format!("source {to}"),
                (false, _) => format!("destination {to}"),
            },
            format!("{} s", row.idle_s),
        ]
    });
    table(header, rows)
}

pub(super) fn pressure(rows: &[PressureRow]) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.map.clone(),
            row.entries.to_string(),
            row.capacity.to_string(),
            format!("{:.1} %", row.percent()),
        ]
    });
    table(["MAP", "ENTRIES", "CAPACITY", "TAKEN"], rows)
}

pub(super) fn metrics(rows: &[MetricsMapRow]) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.reason.clone(),
            row.direction.clone(),
            row.packets.to_string(),
            row.bytes.to_string(),
        ]
    });
    table(["REASON", "DIRECTION", "PACKETS", "BYTES"], rows)
}

pub(super) fn config(rows: &[ConfigMapRow]) -> String {
    let Some(config) = rows.first() else {
        return String::new();
    };
    let [first_port, last_port] = config.nat_ports;
    let mut lines = vec![
        ("generation".to_owned(), config.generation.to_string()),
        ("flags".to_owned(), or_dash(&config.flags.join(", "))),
        ("identity epoch".to_owned(), config.epoch.to_string()),
        ("mtu".to_owned(), config.mtu.to_string()),
        ("node ipv4".to_owned(), config.node_ipv4.to_string()),
        ("node ipv6".to_owned(), config.node_ipv6.to_string()),
        (
            "trace interval".to_owned(),
            format!("{} s", config.trace_interval_s),
        ),
        (
            "trace tcp flags".to_owned(),
            format!("0x{:02x}", config.trace_tcp_flags),
        ),
        (
            "conntrack quota".to_owned(),
            match config.ct_quota {
                0 => "no limit".to_owned(),
                quota => quota.to_string(),
            },
        ),
        (
            "masquerade ports".to_owned(),
            format!("{first_port}-{last_port}"),
        ),
    ];
    let timeouts = config.timeouts_s.iter();
    lines.extend(timeouts.map(|(name, s)| (format!("timeout {name}"), format!("{s} s"))));
    table(["SETTING", "VALUE"], lines.into_iter().map(|(k, v)| [k, v]))
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
