//! Services.

use std::net::{IpAddr, SocketAddr};

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, BackendState, FrontendKind, IpKey, ListRef,
    ServiceClient, ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};
use serde::{Deserialize, Serialize};

/// A protocol as services name it.
pub fn service_protocol(number: u8) -> String {
    match number {
        0 => "ANY".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// A backend as programs see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbBackendRow {
    /// Its id.
    pub id: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// `active`, `terminating`, `quarantined` or `maintenance`.
    pub state: String,
    /// Whether it is on this node.
    pub local: bool,
    /// Where it may be chosen: `internal`, `external`; none if it has gone.
    pub lists: Vec<String>,
    /// The port of a service that it is behind, by number.
    pub service_id: u32,
    /// The same by name, where that is known.
    #[serde(default)]
    pub service: String,
    /// How often it has come back.
    pub generation: u32,
}

impl LbBackendRow {
    /// From a row of `axon_backend_v1`.
    pub fn new(id: u32, row: &Backend) -> Self {
        let lists = [
            (BackendFlags::IN_INTERNAL, "internal"),
            (BackendFlags::IN_EXTERNAL, "external"),
        ];
        let lists = lists.iter().filter(|(flag, _)| row.flags & flag != 0);
        Self {
            id,
            address: row.addr.into(),
            port: row.port.get(),
            protocol: service_protocol(row.protocol),
            state: backend_state(row.state),
            local: row.flags & BackendFlags::LOCAL != 0,
            lists: lists.map(|(_, word)| (*word).to_owned()).collect(),
            service_id: row.service,
            service: String::new(),
            generation: row.generation,
        }
    }
}

/// A state's word.
pub fn backend_state(state: u8) -> String {
    match BackendState::from_u8(state) {
        Some(BackendState::Active) => "active".to_owned(),
        Some(BackendState::Terminating) => "terminating".to_owned(),
        Some(BackendState::Quarantined) => "quarantined".to_owned(),
        Some(BackendState::Maintenance) => "maintenance".to_owned(),
        None => state.to_string(),
    }
}

/// A list of a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbList {
    /// Its number; 0 if nobody is in it.
    pub list: u32,
    /// The number of its Maglev table; 0 if there is none.
    pub maglev: u32,
    /// Backend ids by slot; 0 where the row is not there.
    pub backends: Vec<u32>,
    /// The same as addresses and ports, in the order of slots.
    pub addresses: Vec<String>,
}

impl LbList {
    /// A list whose backends are filled in.
    pub fn new(list: &ListRef) -> Self {
        Self {
            list: list.list,
            maglev: list.maglev,
            ..Self::default()
        }
    }
}

/// A frontend as programs see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbRow {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 is the address as a whole.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// `ClusterIP`, `NodePort` and so on.
    pub kind: String,
    /// The port of a service, by number.
    pub service_id: u32,
    /// The same by name, where that is known.
    #[serde(default)]
    pub service: String,
    /// What holds of it, in words.
    pub flags: Vec<String>,
    /// Who may be chosen for pods and the node.
    pub internal: LbList,
    /// Who may be chosen for the network.
    pub external: LbList,
    /// Places of its Maglev tables.
    pub maglev_size: u32,
    /// Seconds for which a client is remembered; 0 without affinity.
    pub affinity_timeout_s: u32,
    /// Grows with each change.
    pub generation: u32,
}

/// Flags and their words.
const FLAGS: [(u32, &str); 11] = [
    (ServiceFlags::AFFINITY, "sessionAffinity"),
    (ServiceFlags::SOURCE_RANGES, "check source-range"),
    (ServiceFlags::SOURCE_DENY, "deny source-range"),
    (ServiceFlags::DSR_TCP, "dsr-tcp"),
    (ServiceFlags::DSR_OTHER, "dsr-other"),
    (ServiceFlags::CLOSED_OUTSIDE, "non-routable"),
    (ServiceFlags::CLOSED_INSIDE, "closed inside"),
    (ServiceFlags::DROP_INSIDE, "drop inside"),
    (ServiceFlags::DROP_OUTSIDE, "drop outside"),
    (ServiceFlags::SKIP_OWN, "own pods have the original"),
    (ServiceFlags::SKIP_AWAY, "own pods pass by"),
];

/// A frontend's kind, as Kubernetes and Cilium call it.
pub fn frontend_kind(entry: &ServiceEntry) -> &'static str {
    match entry.kind() {
        Some(FrontendKind::ClusterIp) => "ClusterIP",
        Some(FrontendKind::NodePort) => "NodePort",
        Some(FrontendKind::LoadBalancer) => "LoadBalancer",
        Some(FrontendKind::ExternalIp) => "ExternalIPs",
        Some(FrontendKind::HostPort) => "HostPort",
        Some(FrontendKind::LocalRedirect) => "LocalRedirect",
        Some(FrontendKind::Address) => "Address",
        None => "unknown",
    }
}

impl LbRow {
    /// From a row of `axon_service_v1`; its lists have no backends yet.
    pub fn new(key: &ServiceKey, row: &ServiceEntry) -> Self {
        let flags = FLAGS.iter().filter(|(flag, _)| row.has(*flag));
        Self {
            address: key.addr.into(),
            port: key.port.get(),
            protocol: service_protocol(key.protocol),
            kind: frontend_kind(row).to_owned(),
            service_id: row.service,
            service: String::new(),
            flags: flags.map(|(_, word)| (*word).to_owned()).collect(),
            internal: LbList::new(&row.internal),
            external: LbList::new(&row.external),
            maglev_size: row.maglev_slots,
            affinity_timeout_s: row.affinity_timeout_s,
            generation: row.generation,
        }
    }

    /// `address:port/protocol`, or the address alone.
    pub fn frontend(&self) -> String {
        if self.port == 0 {
            return self.address.to_string();
        }
        let at = SocketAddr::new(self.address, self.port);
        format!("{at}/{}", self.protocol)
    }
}

/// A Maglev table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbMaglevRow {
    /// Its number.
    pub table: u32,
    /// The ports of services that choose by it, by name or number.
    pub services: Vec<String>,
    /// Its places.
    pub places: u32,
    /// For each slot of the list, how many places lead there.
    pub slots: Vec<u32>,
}

/// A client that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbAffinityRow {
    /// The client's address, or `netns COOKIE`.
    pub client: String,
    /// Where it asked: `inside` or `network`.
    pub asked: String,
    /// The port of a service, by number.
    pub service_id: u32,
    /// The same by name, where that is known.
    #[serde(default)]
    pub service: String,
    /// The backend's id.
    pub backend: u32,
    /// Seconds since it was there.
    pub idle_s: u32,
}

impl LbAffinityRow {
    /// From a row of `axon_service_affinity_v1`.
    pub fn new(key: &ServiceClient, entry: &AffinityEntry, now_s: u32) -> Self {
        Self {
            client: client(key.client),
            asked: if key.external == 0 {
                "inside"
            } else {
                "network"
            }
            .to_owned(),
            service_id: key.service,
            service: String::new(),
            backend: entry.backend,
            idle_s: now_s.saturating_sub(entry.last_s),
        }
    }
}

/// An address, or the cookie that stands in its last eight bytes.
fn client(addr: IpKey) -> String {
    let [head @ .., _, _, _, _, _, _, _, _] = addr.0;
    let [.., a, b, c, d, e, f, g, h] = addr.0;
    if head == [0; 8] && !addr.is_v4() {
        return format!("netns {}", u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    }
    IpAddr::from(addr).to_string()
}

/// A prefix that a service tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LbSourceRangeRow {
    /// The port of a service, by number.
    pub service_id: u32,
    /// The same by name, where that is known.
    #[serde(default)]
    pub service: String,
    /// The prefix.
    pub cidr: String,
}

impl From<&SourceRangeKey> for LbSourceRangeRow {
    fn from(key: &SourceRangeKey) -> Self {
        let bits = key.prefix_bits.saturating_sub(SourceRangeKey::SERVICE_BITS);
        let bits = if key.addr.is_v4() {
            bits.saturating_sub(96)
        } else {
            bits
        };
        Self {
            service_id: key.service,
            service: String::new(),
            cidr: format!("{}/{bits}", IpAddr::from(key.addr)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::{
        AffinityEntry, Be16, FrontendKind, IpKey, ServiceClient, ServiceEntry, ServiceFlags,
        ServiceKey, SourceRangeKey,
    };

    use super::{LbAffinityRow, LbRow, LbSourceRangeRow};

    #[test]
    fn rows_are_told_in_words() {
        let key = ServiceKey {
            addr: IpKey::from_v4([10, 96, 0, 1]),
            port: Be16::new(80),
            protocol: 6,
            pad: 0,
        };
        let entry = ServiceEntry {
            flags: FrontendKind::NodePort as u32 | ServiceFlags::AFFINITY,
            ..ServiceEntry::default()
        };
        let row = LbRow::new(&key, &entry);
        assert_eq!(row.frontend(), "10.96.0.1:80/TCP");
        assert_eq!(
            (row.kind.as_str(), row.flags.as_slice()),
            ("NodePort", &["sessionAffinity".to_owned()][..])
        );
        let whole = ServiceKey {
            port: Be16::new(0),
            protocol: 0,
            ..key
        };
        assert_eq!(LbRow::new(&whole, &entry).frontend(), "10.96.0.1");

        let cookie = ServiceClient::namespace(7);
        for (client, expected) in [
            (cookie, "netns 7"),
            (IpKey::from_v4([192, 0, 2, 1]), "192.0.2.1"),
            (
                IpKey::from("2001:db8::1".parse::<std::net::IpAddr>().expect("one")),
                "2001:db8::1",
            ),
        ] {
            let key = ServiceClient {
                client,
                service: 1,
                external: 1,
            };
            let entry = AffinityEntry {
                backend: 2,
                last_s: 10,
            };
            let row = LbAffinityRow::new(&key, &entry, 15);
            assert_eq!((row.client.as_str(), row.idle_s), (expected, 5));
        }
        let key = SourceRangeKey {
            prefix_bits: 32 + 96 + 24,
            service: 3,
            addr: IpKey::from_v4([192, 0, 2, 0]),
        };
        assert_eq!(LbSourceRangeRow::from(&key).cidr, "192.0.2.0/24");
    }
}
