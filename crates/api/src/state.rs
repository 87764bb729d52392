//! The state of a node, for whoever replays packets over it elsewhere:
//! `GET /v1/debug/state`, and `api/state.json` in a sysdump.
//!
//! The rows of the kernel's maps are given byte by byte, in hexadecimal: a map's
//! name carries the version of their layout. With them comes what the numbers
//! in them stand for, and the policies that they were made from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::{GroupKey, Labels, NamePattern, Origin, PolicyObject, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The version of the format; what has another is not read.
pub const STATE_VERSION: u32 = 1;
/// Flows of each family in a state that is asked for whole; the first that come.
pub const STATE_FLOWS_MAX: usize = 20_000;
/// Bytes of the texts of all policies in a state; what comes after has none.
pub const STATE_TEXT_MAX: usize = 16 << 20;

/// Clients of services with affinity in a state; the first that come.
pub const STATE_CLIENTS_MAX: usize = 20_000;
/// Blocks of Maglev tables in a state; the first that come.
pub const STATE_MAGLEV_MAX: usize = 20_000;

/// The maps whose rows are in a state.
pub const STATE_MAPS: [&str; 21] = [
    "axon_config_v1",
    "axon_endpoint_v1",
    "axon_address_v1",
    "axon_ipcache_v1",
    "axon_ipcache_cidr_v1",
    "axon_identity_v1",
    "axon_policy_set_v1",
    "axon_class_v1",
    "axon_policy_v1",
    "axon_uplink_v1",
    "axon_nomasq_v1",
    axon_abi::CT4,
    axon_abi::CT6,
    STATE_SERVICE_MAPS[0],
    STATE_SERVICE_MAPS[1],
    STATE_SERVICE_MAPS[2],
    STATE_SERVICE_MAPS[3],
    STATE_SERVICE_MAPS[4],
    STATE_SERVICE_MAPS[5],
    STATE_SERVICE_MAPS[6],
    STATE_SERVICE_MAPS[7],
];

/// Those of services: states that were taken before there were any lack them.
pub const STATE_SERVICE_MAPS: [&str; 8] = [
    "axon_service_v1",
    "axon_service_list_v1",
    "axon_maglev_v1",
    "axon_backend_v1",
    "axon_source_range_v1",
    "axon_service_skip_v1",
    "axon_service_affinity_v1",
    axon_abi::SERVICE_FLOW,
];

/// What a node knows and enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// The node's name.
    pub node: String,
    /// Nanoseconds of its monotonic clock when the state was taken.
    pub now_ns: u64,
    /// The rows of its maps, by the maps' names.
    pub maps: BTreeMap<String, MapRows>,
    /// How it reads policy.
    pub reading: PolicyReading,
    /// What the rule numbers in the rows stand for.
    pub rules: Vec<RuleRow>,
    /// The policies in force.
    pub policies: Vec<PolicyRow>,
    /// Every known identity.
    pub identities: Vec<IdentityRow>,
    /// The labels of the node itself, by which rules about nodes select it.
    pub node_labels: Labels,
    /// Who has which address.
    pub workloads: Vec<WorkloadRow>,
    /// The nodes of the cluster.
    pub nodes: Vec<NodeRow>,
    /// Names of devices by their index.
    pub interfaces: BTreeMap<u32, String>,
    /// What is known of services beside their rows.
    #[serde(default)]
    pub services: ServiceState,
}

/// What is known of services beside their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ServiceState {
    /// Whose sockets are led to backends before there is a packet.
    pub sockets: Sockets,
    /// What the ports of services in the rows are called, by their numbers:
    /// `namespace/name:port`.
    pub ports: BTreeMap<u32, String>,
    /// The services that the node is told of.
    pub services: Vec<ServiceRow>,
}

/// Whose sockets are led to backends before there is a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sockets {
    /// Nobody's.
    #[default]
    Off,
    /// The node's own.
    Host,
    /// The node's and its pods'.
    All,
}

/// A service that a node is told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its type, as Kubernetes writes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// It has no address of its own.
    pub headless: bool,
    /// Who asks from inside finds backends of his own node alone.
    pub internal_local: bool,
    /// The network finds backends of the node that it came to alone.
    pub external_local: bool,
}

/// The rows of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MapRows {
    /// Key and value in hexadecimal.
    pub rows: Vec<(String, String)>,
    /// Rows that were left out, for they are too many.
    #[serde(default)]
    pub left_out: usize,
}

/// How a node reads policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyReading {
    /// `enable-policy`: `default`, `always`, `never`.
    pub enforcement: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// IPv4 is carried.
    pub ipv4: bool,
    /// IPv6 is carried.
    pub ipv6: bool,
    /// The node reaches its endpoints unless a rule denies it.
    pub allow_localhost: bool,
    /// Prefixes select pods too.
    pub cidr_selects_pods: bool,
    /// A proxy listens to what is said.
    pub proxy: bool,
}

/// What a rule number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleRow {
    /// The number.
    pub number: u32,
    /// The policy.
    pub origin: Origin,
    /// Which of its rules, from 0.
    pub index: usize,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyRow {
    /// Its rules.
    pub object: PolicyObject,
    /// The file that it comes from; empty if that is not known.
    #[serde(default)]
    pub file: String,
    /// The line of the file on which its document begins, from 1; 0 if that is
    /// not known.
    #[serde(default)]
    pub line: usize,
    /// Its document; empty if it is not at hand.
    #[serde(default)]
    pub text: String,
}

/// What policy knows of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdentityRow {
    /// Its number.
    pub id: u32,
    /// Its labels.
    pub labels: Labels,
    /// The addresses that it stands for, outside the cluster.
    #[serde(default)]
    pub prefix: Option<IpNet>,
    /// The prefixes by which prefixes select it inside the cluster.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// The groups that it is in, with their labels, and the prefixes by which it
    /// is.
    #[serde(default)]
    pub groups: Vec<(GroupKey, Labels, Vec<IpNet>)>,
    /// Patterns of the names that its addresses were given for.
    #[serde(default)]
    pub names: Vec<NamePattern>,
    /// The ports that its pods declare by name.
    #[serde(default)]
    pub named_ports: Vec<(String, Protocol, u16)>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkloadRow {
    /// The address.
    pub address: IpAddr,
    /// The namespace of the pod or process.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The number of the endpoint if it is of this node, else 0.
    pub endpoint: u16,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Why rows cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The map is not in the state.
    #[error("the state has no rows of {map}; it is of another version of axon")]
    Absent {
        /// The map.
        map: &'static str,
    },
    /// A row is none.
    #[error("row {row} of {map}: {what} {text:?}; expected {size} bytes in hexadecimal")]
    Bytes {
        /// The map.
        map: &'static str,
        /// The row, from 0.
        row: usize,
        /// `key` or `value`.
        what: &'static str,
        /// What is there instead, its beginning.
        text: String,
        /// Bytes that are expected.
        size: usize,
    },
}

impl MapRows {
    /// Adds a row.
    pub fn push<K, V>(&mut self, key: &K, value: &V)
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        self.rows.push((hex(key), hex(value)));
    }
}

impl NodeState {
    /// The rows of a map, typed.
    ///
    /// # Errors
    /// The map is not there, or a row is no row of it.
    pub fn rows<K, V>(&self, map: &'static str) -> Result<Vec<(K, V)>, RowError>
    where
        K: FromBytes,
        V: FromBytes,
    {
        rows_of(&self.maps, map)
    }
}

/// The rows of one of several maps, typed.
///
/// # Errors
/// The map is not there, or a row is no row of it.
pub fn rows_of<K, V>(
    maps: &BTreeMap<String, MapRows>,
    map: &'static str,
) -> Result<Vec<(K, V)>, RowError>
where
    K: FromBytes,
    V: FromBytes,
{
    let rows = maps.get(map).ok_or(RowError::Absent { map })?;
    let typed = rows.rows.iter().enumerate().map(|(row, (key, value))| {
        let key = unhex::<K>(key).ok_or_else(|| wrong::<K>(map, row, "key", key))?;
        let value = unhex::<V>(value).ok_or_else(|| wrong::<V>(map, row, "value", value))?;
        Ok((key, value))
    });
    typed.collect()
}

fn wrong<T>(map: &'static str, row: usize, what: &'static str, text: &str) -> RowError {
    RowError::Bytes {
        map,
        row,
        what,
        text: text.chars().take(80).collect(),
        size: size_of::<T>(),
    }
}

fn hex<T: IntoBytes + Immutable>(value: &T) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |n: u8| DIGITS.get(usize::from(n)).copied().unwrap_or('0');
    let bytes = value.as_bytes().iter();
    bytes
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn unhex<T: FromBytes>(text: &str) -> Option<T> {
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let bytes: Vec<u8> = pairs.collect::<Option<_>>()?;
    T::read_from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use axon_abi::{ClassKey, ClassRow, Identity};

    use super::{MapRows, NodeState, RowError};

    #[test]
    fn rows_are_what_they_were() {
        let mut rows = MapRows::default();
        let key = ClassKey {
            set: 7,
            identity: Identity(0x0102_03ff),
        };
        rows.push(&key, &ClassRow { class: 16 });
        let mut state = NodeState::default();
        state.maps.insert("axon_class_v1".into(), rows);
        let text = serde_json::to_string(&state).expect("json");
        let read: NodeState = serde_json::from_str(&text).expect("read");
        let typed = read.rows("axon_class_v1").expect("rows");
        assert_eq!(typed, [(key, ClassRow { class: 16 })]);
        assert_eq!(
            read.rows::<u32, u32>("axon_uplink_v1"),
            Err(RowError::Absent {
                map: "axon_uplink_v1"
            })
        );
    }

    #[test]
    fn what_is_no_row_is_refused_by_its_place() {
        for (key, value, named) in [
            ("00", "00000000", "key"),
            ("00000000", "0000000", "value"),
            ("0000000g", "00000000", "key"),
            ("00000000", "é0000000", "value"),
            ("", "00000000", "key"),
        ] {
            let mut state = NodeState::default();
            let rows = MapRows {
                rows: vec![(key.into(), value.into())],
                left_out: 0,
            };
            state.maps.insert("axon_uplink_v1".into(), rows);
            let error = state.rows::<u32, u32>("axon_uplink_v1").expect_err(key);
            let text = error.to_string();
            assert!(text.contains(named) && text.contains("row 0"), "{text}");
        }
    }
}
