//! Flows and translations.

use std::net::IpAddr;

use axon_abi::{CtEntry, CtFlags, CtKey4, CtKey6, CtState, NatEntry, NatKey, NatOwner};
use serde::{Deserialize, Serialize};

use super::{protocol_name, reason_text};

/// A flow as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CtMapRow {
    /// `tcp`, `udp`, … or the number.
    pub protocol: String,
    /// Address of the side that opened the flow.
    pub source: IpAddr,
    /// Its port (of ICMP: the query's identifier).
    pub source_port: u16,
    /// Address of the other side.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// `opening`, `established`, `closing`, `one-way`, `two-way`.
    pub state: String,
    /// Identity of the side that opened the flow.
    pub source_identity: u32,
    /// Identity of the other side.
    pub destination_identity: u32,
    /// Packets, forward and reply.
    pub packets: [u64; 2],
    /// Bytes, forward and reply.
    pub bytes: [u64; 2],
    /// Seconds until the entry is void; negative if it is.
    pub expires_in_s: i64,
    /// Seconds since the entry was made.
    pub age_s: u32,
    /// Endpoint whose quota the entry counts against.
    pub owner: u16,
    /// The reason if policy has turned against the flow; else empty.
    pub denied: String,
    /// Number of the rule that decided last; 0 if none.
    pub rule: u32,
    /// The policy of that rule; empty if not known.
    pub policy: String,
}

impl CtMapRow {
    /// The row of an IPv4 flow; `now_s` is the monotonic clock.
    pub fn v4(key: &CtKey4, entry: &CtEntry, now_s: u32) -> Self {
        let low = (IpAddr::from(key.low), key.low_port.get());
        let high = (IpAddr::from(key.high), key.high_port.get());
        Self::new(low, high, key.protocol, entry, now_s)
    }

    /// The row of an IPv6 flow.
    pub fn v6(key: &CtKey6, entry: &CtEntry, now_s: u32) -> Self {
        let low = (IpAddr::from(key.low), key.low_port.get());
        let high = (IpAddr::from(key.high), key.high_port.get());
        Self::new(low, high, key.protocol, entry, now_s)
    }

    fn new(
        low: (IpAddr, u16),
        high: (IpAddr, u16),
        protocol: u8,
        entry: &CtEntry,
        now_s: u32,
    ) -> Self {
        let (source, destination) = if entry.flags & CtFlags::OPENED_BY_LOW != 0 {
            (low, high)
        } else {
            (high, low)
        };
        Self {
            protocol: protocol_name(protocol),
            source: source.0,
            source_port: source.1,
            destination: destination.0,
            destination_port: destination.1,
            state: match CtState::from_u8(entry.state) {
                Some(CtState::Opening) => "opening".to_owned(),
                Some(CtState::Established) => "established".to_owned(),
                Some(CtState::Closing) => "closing".to_owned(),
                Some(CtState::OneWay) => "one-way".to_owned(),
                Some(CtState::TwoWay) => "two-way".to_owned(),
                None => entry.state.to_string(),
            },
            source_identity: entry.source_identity.0,
            destination_identity: entry.destination_identity.0,
            packets: entry.packets,
            bytes: entry.bytes,
            expires_in_s: i64::from(entry.expires_s) - i64::from(now_s),
            age_s: now_s.saturating_sub(entry.created_s),
            owner: entry.owner,
            denied: match entry.denied {
                0 => String::new(),
                reason => reason_text(reason),
            },
            rule: entry.rule,
            policy: String::new(),
        }
    }
}

/// A translation as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NatMapRow {
    /// `out` or `in`.
    pub direction: String,
    /// `tcp`, `udp`, … or the number.
    pub protocol: String,
    /// Source of the packets.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// Destination of the packets.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// What the source (`out`) or the destination (`in`) becomes.
    pub to: IpAddr,
    /// Its port.
    pub to_port: u16,
    /// The flow is the node's own, nothing is changed.
    pub node_own: bool,
    /// Whose flow it is: `endpoint`, `node`, or `service`: the port is held for a
    /// service's client, and what becomes of packets is told by `axon bpf lb snat`.
    #[serde(default)]
    pub owner: String,
    /// Seconds since the last packet.
    pub idle_s: u32,
}

impl NatMapRow {
    /// The row; `now_s` is the monotonic clock.
    pub fn new(key: &NatKey, entry: &NatEntry, now_s: u32) -> Self {
        Self {
            direction: if key.inbound == 0 { "out" } else { "in" }.to_owned(),
            protocol: protocol_name(key.protocol),
            source: key.source.into(),
            source_port: key.source_port.get(),
            destination: key.destination.into(),
            destination_port: key.destination_port.get(),
            to: entry.addr.into(),
            to_port: entry.port.get(),
            node_own: entry.node_own == NatOwner::NODE,
            owner: match entry.node_own {
                NatOwner::ENDPOINT => "endpoint".to_owned(),
                NatOwner::NODE => "node".to_owned(),
                NatOwner::SERVICE => "service".to_owned(),
                other => other.to_string(),
            },
            idle_s: now_s.saturating_sub(entry.seen_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CtMapRow;
    use axon_abi::{CtEntry, CtFlags, CtKey4, CtState, DropReason};

    #[test]
    fn flows_are_shown_from_the_side_that_opened_them() {
        let key = CtKey4 {
            low: [10, 0, 0, 1],
            high: [10, 0, 0, 2],
            low_port: 80.into(),
            high_port: 41234.into(),
            protocol: 6,
            pad: [0; 3],
        };
        let mut entry = CtEntry {
            state: CtState::Established as u8,
            expires_s: 90,
            created_s: 40,
            denied: DropReason::PolicyDenied as u8,
            ..CtEntry::default()
        };
        let row = CtMapRow::v4(&key, &entry, 100);
        assert_eq!((row.source_port, row.destination_port), (41234, 80));
        assert_eq!(
            (row.state.as_str(), row.expires_in_s, row.age_s),
            ("established", -10, 60)
        );
        assert_eq!(row.denied, "Policy denied");
        entry.flags = CtFlags::OPENED_BY_LOW;
        assert_eq!(CtMapRow::v4(&key, &entry, 0).source_port, 80);
    }
}
