//! Flows, with the fields of Hubble's `flow.proto` in protobuf's JSON mapping:
//! names as declared, default values left out.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Staged, Time, Uuid, staged};

/// Whether a value is left out of the JSON.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What was seen of a packet, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// When.
    pub time: Time,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub uuid: Uuid,
    /// What became of the packet.
    #[serde(skip_serializing_if = "is_default")]
    pub verdict: Verdict,
    /// Number of the drop reason, if it was dropped.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_reason: u32,
    /// The frame's addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethernet: Option<Ethernet>,
    /// The packet's addresses; none if it is no IP packet.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ip>,
    /// Ports, flags, types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l4: Option<Layer4>,
    /// The sender.
    #[serde(skip_serializing_if = "is_default")]
    pub source: Endpoint,
    /// The receiver.
    #[serde(skip_serializing_if = "is_default")]
    pub destination: Endpoint,
    /// How deep the packet was looked into.
    #[serde(rename = "Type", skip_serializing_if = "is_default")]
    pub flow_type: FlowType,
    /// The node that saw it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub node_name: Arc<str>,
    /// The kind of event.
    pub event_type: EventType,
    /// The packet's way, as the reporting endpoint sees it.
    #[serde(skip_serializing_if = "is_default")]
    pub traffic_direction: TrafficDirection,
    /// Which parts of a policy entry matched (of a policy verdict).
    #[serde(skip_serializing_if = "is_default")]
    pub policy_match_type: u32,
    /// How its ends would have to prove who they are (of a policy verdict).
    #[serde(skip_serializing_if = "is_default")]
    pub auth_type: AuthType,
    /// Where it was seen (of a trace), as `TO_ENDPOINT`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_observation_point: Cow<'static, str>,
    /// What conntrack said of it (of a trace), as `ESTABLISHED`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_reason: Cow<'static, str>,
    /// Why it was dropped, as `POLICY_DENIED`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub drop_reason_desc: Cow<'static, str>,
    /// Whether it answers; `None` if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_reply: Option<bool>,
    /// The device it was seen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// Policies that let it out of its sender.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_allowed_by: Vec<Policy>,
    /// Policies that let it into its receiver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress_allowed_by: Vec<Policy>,
    /// Policies that kept it in its sender: the one that denies it, or all
    /// those that do not allow it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_denied_by: Vec<Policy>,
    /// Policies that kept it from its receiver; likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress_denied_by: Vec<Policy>,
    /// What the rule that decided says of its verdicts (`log.value`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_log: Vec<Arc<str>>,
    /// What would become of it if staged policies were enforced; `None` if none
    /// is about the reporting endpoint, or the flow is no policy verdict.
    #[serde(
        rename = "extensions",
        with = "staged",
        skip_serializing_if = "Option::is_none"
    )]
    pub staged: Option<Box<Staged>>,
    /// Layer 4 in words.
    #[serde(rename = "Summary", skip_serializing_if = "str::is_empty")]
    pub summary: Cow<'static, str>,
}

impl Flow {
    /// Whether it is the drop of what a kernel sends by itself for a device
    /// that nobody else is behind: reports of multicast groups (IGMP, MLD),
    /// searches for routers and for whoever has one's address too.
    pub fn is_background(&self) -> bool {
        let Some(ip) = &self.ip else { return false };
        if self.verdict != Verdict::Dropped || !ip.destination.is_multicast() {
            return false;
        }
        match (&self.l4, ip.destination) {
            (Some(Layer4::ICMPv6(icmp)), _) => match icmp.icmp_type {
                130..=133 | 143 => true,
                135 => ip.source.is_unspecified(),
                _ => false,
            },
            (None, IpAddr::V4(group)) => group.octets().starts_with(&[224, 0, 0]),
            _ => false,
        }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Not told.
    #[default]
    VerdictUnknown,
    /// It went on.
    Forwarded,
    /// It was dropped.
    Dropped,
    /// Something went wrong with it.
    Error,
    /// Policy would have dropped it, but only audits.
    Audit,
    /// It was handed to the proxy.
    Redirected,
    /// It was only looked at.
    Traced,
    /// Its addresses were translated at a socket.
    Translated,
}

/// How deep a packet was looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowType {
    /// Not told.
    #[default]
    #[serde(rename = "UNKNOWN_TYPE")]
    Unknown,
    /// Addresses and ports.
    #[serde(rename = "L3_L4")]
    L3L4,
}

/// How ends prove who they are, in Hubble's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuthType {
    /// They need not.
    #[default]
    Disabled,
    /// By certificates.
    Spire,
    /// In no way.
    TestAlwaysFail,
}

impl AuthType {
    /// Its name in Hubble's enumeration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Spire => "SPIRE",
            Self::TestAlwaysFail => "TEST_ALWAYS_FAIL",
        }
    }
}

/// The packet's way, as an endpoint sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDirection {
    /// Not told.
    #[default]
    #[serde(rename = "TRAFFIC_DIRECTION_UNKNOWN")]
    Unknown,
    /// Towards the endpoint.
    #[serde(rename = "INGRESS")]
    Ingress,
    /// From the endpoint.
    #[serde(rename = "EGRESS")]
    Egress,
}

/// The frame's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ethernet {
    /// Of the sender.
    pub source: axon_model::Mac,
    /// Of the receiver.
    pub destination: axon_model::Mac,
}

/// The packet's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// The sender's, before translation.
    pub source: IpAddr,
    /// The sender's after translation, if it was translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_xlated: Option<IpAddr>,
    /// The receiver's.
    pub destination: IpAddr,
    /// The version.
    #[serde(rename = "ipVersion")]
    pub version: IpVersion,
}

/// Versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpVersion {
    /// Version 4.
    IPv4,
    /// Version 6.
    IPv6,
}

/// What the transport header said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer4 {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp(Tcp),
    /// UDP.
    #[serde(rename = "UDP")]
    Udp(Port),
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp(Port),
    /// ICMP.
    ICMPv4(Icmp),
    /// ICMPv6.
    ICMPv6(Icmp),
}

/// Ports and flags of TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tcp {
    /// The sender's.
    #[serde(skip_serializing_if = "is_default")]
    pub source_port: u16,
    /// The receiver's.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_port: u16,
    /// The flags that are set.
    #[serde(skip_serializing_if = "is_default")]
    pub flags: TcpFlags,
}

/// Ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// The sender's.
    #[serde(skip_serializing_if = "is_default")]
    pub source_port: u16,
    /// The receiver's.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_port: u16,
}

/// Type and code of ICMP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Icmp {
    /// The type.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub icmp_type: u8,
    /// The code.
    #[serde(skip_serializing_if = "is_default")]
    pub code: u8,
}

/// TCP flags, as the low byte of TCP's flags word; in JSON `{"SYN":true}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Names by bit, from the lowest on.
    const NAMES: [&'static str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// The names of the flags that are set, in Hubble's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 >> bit & 1 == 1)
            .map(|(_, name)| name)
    }
}

impl Serialize for TcpFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for name in self.names() {
            map.serialize_entry(name, &true)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for TcpFlags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let set = std::collections::BTreeMap::<String, bool>::deserialize(deserializer)?;
        let mut bits = 0;
        for (name, on) in set {
            match Self::NAMES.iter().position(|n| *n == name) {
                Some(bit) => bits |= u8::from(on) << bit,
                // The ninth flag has no bit in the low byte.
                None if name == "NS" => {}
                None => return Err(D::Error::custom(format!("TCP flag {name:?} is not known"))),
            }
        }
        Ok(Self(bits))
    }
}

/// One side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The endpoint's number if it is of the node that reports.
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub id: u16,
    /// Its identity.
    #[serde(skip_serializing_if = "is_default")]
    pub identity: u32,
    /// Namespace of the pod.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    /// Labels of the identity.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub labels: Arc<[String]>,
    /// Name of the pod.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pod_name: Arc<str>,
}

/// The kind of event, in the numbers of Cilium's monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventType {
    /// 1 drop, 4 trace, 5 policy verdict.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Of a drop its reason, of a trace its observation point, of a policy
    /// verdict 0.
    #[serde(skip_serializing_if = "is_default")]
    pub sub_type: u8,
}

impl EventType {
    /// A packet was dropped.
    pub const DROP: u8 = axon_abi::EventKind::Drop as u8;
    /// A packet passed an observation point.
    pub const TRACE: u8 = axon_abi::EventKind::Trace as u8;
    /// Policy decided.
    pub const POLICY_VERDICT: u8 = axon_abi::EventKind::PolicyVerdict as u8;
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name; empty if it is gone.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Arc<str>,
}

/// A policy object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace; empty for a clusterwide one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    /// Labels of the rule that decided, in Cilium's text form.
    #[serde(skip_serializing_if = "is_empty")]
    pub labels: Arc<[String]>,
    /// Its kind.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Arc<str>,
}

fn is_empty(list: &Arc<[String]>) -> bool {
    list.is_empty()
}

impl From<&axon_model::Origin> for Policy {
    fn from(origin: &axon_model::Origin) -> Self {
        Self {
            name: origin.name.as_str().into(),
            namespace: origin.namespace.as_str().into(),
            labels: Arc::default(),
            kind: origin.kind.to_string().into(),
        }
    }
}

impl std::fmt::Display for Policy {
    /// `namespace/name`, or the name alone for a clusterwide policy.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}
