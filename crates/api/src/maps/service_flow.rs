//! What becomes of single flows of services, and of what answers them.

use std::net::{IpAddr, SocketAddr};

use axon_abi::{Be16, IpKey, ServiceFlow, ServiceFlowKey, SocketEntry, SocketKey};
use serde::{Deserialize, Serialize};

use super::protocol_name;

fn at(addr: IpKey, port: Be16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(addr), port.get())
}

/// What a backend's answers become: the frontend's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbRevnatRow {
    /// `packet` or `socket`: what translates.
    pub by: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The backend that answers.
    pub backend: SocketAddr,
    /// Whose address its answers get.
    pub frontend: SocketAddr,
    /// Whom it answers: an address and port, or `socket COOKIE`.
    pub client: String,
    /// The port of a service, by number.
    pub service_id: u32,
    /// The same by name, where that is known.
    #[serde(default)]
    pub service: String,
    /// Seconds since the last packet; of sockets it is not known.
    pub idle_s: Option<u32>,
}

impl LbRevnatRow {
    /// Of what a backend answers to a flow that is translated packet by packet;
    /// nothing if the row is of the other direction.
    pub fn of_flow(key: &ServiceFlowKey, flow: &ServiceFlow, now_s: u32) -> Option<Self> {
        (key.reply != 0).then(|| Self {
            by: "packet".to_owned(),
            protocol: protocol_name(key.protocol),
            backend: at(key.source, key.source_port),
            frontend: at(flow.source, flow.source_port),
            client: at(flow.destination, flow.destination_port).to_string(),
            service_id: flow.service,
            service: String::new(),
            idle_s: Some(now_s.saturating_sub(flow.seen_s)),
        })
    }

    /// Of what a backend answers to a socket; nothing if the row is a choice.
    pub fn of_socket(key: &SocketKey, entry: &SocketEntry) -> Option<Self> {
        (key.choice == 0).then(|| Self {
            by: "socket".to_owned(),
            protocol: protocol_name(key.protocol),
            backend: at(key.addr, key.port),
            frontend: at(entry.addr, entry.port),
            client: format!("socket {}", key.cookie),
            service_id: entry.service,
            service: String::new(),
            idle_s: None,
        })
    }
}

/// A flow of a service whose client is known to the backend by the node's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbSnatRow {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The client.
    pub client: SocketAddr,
    /// What it asks for.
    pub frontend: SocketAddr,
    /// What it is known by to the backend.
    pub known_by: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The port of a service, by number.
    pub service_id: u32,
    /// The same by name, where that is known.
    #[serde(default)]
    pub service: String,
    /// Seconds since the last packet.
    pub idle_s: u32,
}

impl LbSnatRow {
    /// The row of a flow; nothing if it is of the other direction, or its client
    /// keeps its address.
    pub fn of_flow(key: &ServiceFlowKey, flow: &ServiceFlow, now_s: u32) -> Option<Self> {
        let is_translated = (key.source, key.source_port) != (flow.source, flow.source_port);
        (key.reply == 0 && is_translated).then(|| Self {
            protocol: protocol_name(key.protocol),
            client: at(key.source, key.source_port),
            frontend: at(key.destination, key.destination_port),
            known_by: at(flow.source, flow.source_port),
            backend: at(flow.destination, flow.destination_port),
            service_id: flow.service,
            service: String::new(),
            idle_s: now_s.saturating_sub(flow.seen_s),
        })
    }
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PressureRow {
    /// The map.
    pub map: String,
    /// Rows in it.
    pub entries: u32,
    /// Rows it can hold.
    pub capacity: u32,
}

impl PressureRow {
    /// Hundredths of it that are taken.
    pub fn percent(&self) -> f64 {
        match self.capacity {
            0 => 0.0,
            capacity => f64::from(self.entries) * 100.0 / f64::from(capacity),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use axon_abi::{Be16, IpKey, ServiceFlow, ServiceFlowKey, SocketEntry, SocketKey};

    use super::{LbRevnatRow, LbSnatRow};

    fn key(text: &str) -> IpKey {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn each_direction_of_a_flow_is_told_in_its_own_table() {
        let there = ServiceFlowKey {
            source: key("198.51.100.7"),
            destination: key("192.0.2.1"),
            source_port: Be16::new(40_000),
            destination_port: Be16::new(30_080),
            protocol: 6,
            ..ServiceFlowKey::default()
        };
        let flow = ServiceFlow {
            source: key("192.0.2.1"),
            destination: key("10.0.2.11"),
            source_port: Be16::new(50_000),
            destination_port: Be16::new(8080),
            service: 7,
            seen_s: 90,
            ..ServiceFlow::default()
        };
        let back = flow.turned(6, 1);
        let answer = ServiceFlow {
            source: there.destination,
            destination: there.source,
            source_port: there.destination_port,
            destination_port: there.source_port,
            ..flow
        };
        let snat = LbSnatRow::of_flow(&there, &flow, 100).expect("translated");
        assert_eq!(snat.client.to_string(), "198.51.100.7:40000");
        assert_eq!(snat.known_by.to_string(), "192.0.2.1:50000");
        assert_eq!(snat.backend.to_string(), "10.0.2.11:8080");
        assert_eq!(snat.idle_s, 10);
        let revnat = LbRevnatRow::of_flow(&back, &answer, 100).expect("an answer");
        assert_eq!(revnat.backend.to_string(), "10.0.2.11:8080");
        assert_eq!(revnat.frontend.to_string(), "192.0.2.1:30080");
        assert_eq!(revnat.client, "198.51.100.7:40000");
        assert_eq!(LbSnatRow::of_flow(&back, &answer, 100), None);
        assert_eq!(LbRevnatRow::of_flow(&there, &flow, 100), None);
        // Who keeps its address is in the one table alone.
        let kept = ServiceFlow {
            source: there.source,
            source_port: there.source_port,
            ..flow
        };
        assert_eq!(LbSnatRow::of_flow(&there, &kept, 100), None);
    }

    #[test]
    fn a_socket_has_a_row_for_its_answers_and_none_for_its_choice() {
        let entry = SocketEntry {
            addr: key("10.96.0.1"),
            port: Be16::new(80),
            service: 7,
            ..SocketEntry::default()
        };
        let answer = SocketKey::answer(5, key("10.0.2.11"), Be16::new(8080), 17);
        let row = LbRevnatRow::of_socket(&answer, &entry).expect("an answer");
        assert_eq!(row.client, "socket 5");
        assert_eq!(row.frontend.to_string(), "10.96.0.1:80");
        let choice = SocketKey::choice(5, key("10.96.0.1"), Be16::new(80), 17);
        assert_eq!(LbRevnatRow::of_socket(&choice, &entry), None);
    }
}
