//! Which flows a reader wants.

use std::net::IpAddr;
use std::str::FromStr;

use axon_abi::{DropReason, ObservationPoint};
use axon_model::Label;
use ipnet::IpNet;

use crate::{Endpoint, EventType, Flow, Layer4, TrafficDirection, Verdict};

/// Why a filter was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is no such key.
    #[error("filter {key:?} is not known; expected one of {}", Filter::KEYS.join(", "))]
    Key {
        /// The key.
        key: String,
    },
    /// The value does not fit the key.
    #[error("filter {key}: {value:?}; expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

/// What a reader asks for: which flows, how many old ones, and whether to go
/// on with new ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Which flows.
    pub filter: Filter,
    /// How many of the past flows that match, at most.
    pub last: usize,
    /// Whether to go on with new flows until the reader leaves.
    pub follow: bool,
}

impl Query {
    /// Reads the pairs of a query string: `last=N`, `follow=true|false`, and
    /// the keys of [`Filter`]. Without `last` and `follow` it is the stream of
    /// new flows.
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, FilterError> {
        let mut query = Self::default();
        let (mut last, mut follow) = (None, None);
        for (key, value) in pairs {
            match key {
                "last" => last = Some(number(key, value, "a number of flows")?),
                "follow" => follow = Some(number(key, value, "true or false")?),
                _ => query.filter.add(key, value)?,
            }
        }
        query.follow = follow.unwrap_or(last.is_none());
        query.last = last.unwrap_or(0);
        Ok(query)
    }
}

/// Which flows: values of one key are alternatives, keys must all match.
///
/// `pod`, `label` and the like match either side; `from-pod` the sender,
/// `to-pod` the receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    types: Vec<TypeMatch>,
    verdicts: Vec<Verdict>,
    protocols: Vec<ProtocolMatch>,
    drop_reasons: Vec<u32>,
    directions: Vec<TrafficDirection>,
    either: Side,
    from: Side,
    to: Side,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TypeMatch {
    kind: u8,
    sub_type: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProtocolMatch {
    Tcp,
    Udp,
    Sctp,
    Icmp4,
    Icmp6,
    Icmp,
}

/// What is asked of one side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    endpoints: Vec<u16>,
    identities: Vec<u32>,
    pods: Vec<PodMatch>,
    namespaces: Vec<String>,
    labels: Vec<LabelMatch>,
    ips: Vec<IpNet>,
    ports: Vec<u16>,
}

/// `namespace/prefix`, `namespace/`, `/prefix`; without a slash the namespace
/// is `default`, as in Hubble.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodMatch {
    namespace: Option<String>,
    prefix: String,
}

/// `[source:]key[=value]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelMatch {
    source: Option<String>,
    key: String,
    value: Option<String>,
}

fn refused(key: &str, value: &str, expected: &'static str) -> FilterError {
    FilterError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

fn number<T: FromStr>(key: &str, value: &str, expected: &'static str) -> Result<T, FilterError> {
    value.parse().map_err(|_| refused(key, value, expected))
}

impl Filter {
    /// The keys; those from `endpoint` on may also have `from-` or `to-`
    /// before them.
    pub const KEYS: [&'static str; 12] = [
        "type",
        "verdict",
        "protocol",
        "drop-reason",
        "direction",
        "endpoint",
        "identity",
        "pod",
        "namespace",
        "label",
        "ip",
        "port",
    ];

    /// Adds an alternative to a key.
    pub fn add(&mut self, key: &str, value: &str) -> Result<(), FilterError> {
        match key {
            "type" => self.types.push(type_match(key, value)?),
            "verdict" => self.verdicts.push(verdict(key, value)?),
            "protocol" => self.protocols.push(protocol(key, value)?),
            "drop-reason" => self.drop_reasons.push(drop_reason(key, value)?),
            "direction" => self.directions.push(direction(key, value)?),
            _ => {
                let (side, name) = if let Some(name) = key.strip_prefix("from-") {
                    (&mut self.from, name)
                } else if let Some(name) = key.strip_prefix("to-") {
                    (&mut self.to, name)
                } else {
                    (&mut self.either, key)
                };
                side.add(key, name, value)?;
            }
        }
        Ok(())
    }

    /// Whether a flow is wanted.
    pub fn matches(&self, flow: &Flow) -> bool {
        any(&self.types, |t| {
            t.kind == flow.event_type.kind
                && t.sub_type.is_none_or(|s| s == flow.event_type.sub_type)
        }) && any(&self.verdicts, |v| *v == flow.verdict)
            && any(&self.drop_reasons, |r| *r == flow.drop_reason)
            && any(&self.directions, |d| *d == flow.traffic_direction)
            && any(&self.protocols, |p| p.matches(flow.l4.as_ref()))
            && self.matches_sides(flow)
    }

    fn matches_sides(&self, flow: &Flow) -> bool {
        let nothing = Side::default();
        if self.either == nothing && self.from == nothing && self.to == nothing {
            return true;
        }
        let (source, destination) = (Seen::source(flow), Seen::destination(flow));
        self.from.matches(&[&source])
            && self.to.matches(&[&destination])
            && self.either.matches(&[&source, &destination])
    }
}

/// Whether one of the alternatives holds; none given is no demand.
fn any<T>(alternatives: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    alternatives.is_empty() || alternatives.iter().any(holds)
}

/// One side of a flow as it was seen.
struct Seen<'a> {
    endpoint: &'a Endpoint,
    address: Option<IpAddr>,
    translated: Option<IpAddr>,
    port: Option<u16>,
}

impl<'a> Seen<'a> {
    fn source(flow: &'a Flow) -> Self {
        Self {
            endpoint: &flow.source,
            address: flow.ip.as_ref().map(|ip| ip.source),
            translated: flow.ip.as_ref().and_then(|ip| ip.source_xlated),
            port: ports(flow).map(|(source, _)| source),
        }
    }

    fn destination(flow: &'a Flow) -> Self {
        Self {
            endpoint: &flow.destination,
            address: flow.ip.as_ref().map(|ip| ip.destination),
            translated: None,
            port: ports(flow).map(|(_, destination)| destination),
        }
    }
}

fn ports(flow: &Flow) -> Option<(u16, u16)> {
    match flow.l4.as_ref()? {
        Layer4::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
        Layer4::Udp(port) | Layer4::Sctp(port) => Some((port.source_port, port.destination_port)),
        Layer4::ICMPv4(_) | Layer4::ICMPv6(_) => None,
    }
}

impl Side {
    fn add(&mut self, key: &str, name: &str, value: &str) -> Result<(), FilterError> {
        match name {
            "endpoint" => {
                self.endpoints
                    .push(number(key, value, "the number of an endpoint, 1 to 65535")?);
            }
            "identity" => self.identities.push(identity(key, value)?),
            "pod" => self.pods.push(PodMatch::parse(key, value)?),
            "namespace" => self.namespaces.push(value.to_owned()),
            "label" => self.labels.push(LabelMatch::parse(key, value)?),
            "ip" => self.ips.push(address(key, value)?),
            "port" => self.ports.push(number(key, value, "a port, 0 to 65535")?),
            _ => {
                return Err(FilterError::Key {
                    key: key.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether, for every key, one of the sides has one of the values.
    fn matches(&self, sides: &[&Seen<'_>]) -> bool {
        let seen = |holds: &dyn Fn(&Seen<'_>) -> bool| sides.iter().any(|side| holds(side));
        any(&self.endpoints, |id| seen(&|s| s.endpoint.id == *id))
            && any(&self.identities, |id| seen(&|s| s.endpoint.identity == *id))
            && any(&self.pods, |pod| seen(&|s| pod.matches(s.endpoint)))
            && any(&self.namespaces, |ns| {
                seen(&|s| *s.endpoint.namespace == **ns)
            })
            && any(&self.labels, |label| {
                seen(&|s| s.endpoint.labels.iter().any(|l| label.matches(l)))
            })
            && any(&self.ips, |net| {
                seen(&|s| {
                    let within = |a: Option<IpAddr>| a.is_some_and(|a| net.contains(&a));
                    within(s.address) || within(s.translated)
                })
            })
            && any(&self.ports, |port| seen(&|s| s.port == Some(*port)))
    }
}

impl PodMatch {
    fn parse(key: &str, value: &str) -> Result<Self, FilterError> {
        let (namespace, prefix) = match value.split_once('/') {
            Some(("", prefix)) => (None, prefix),
            Some((namespace, prefix)) => (Some(namespace), prefix),
            None => (Some("default"), value),
        };
        if namespace.is_none() && prefix.is_empty() {
            return Err(refused(
                key,
                value,
                "namespace/name, the beginning of one, or /name",
            ));
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            prefix: prefix.to_owned(),
        })
    }

    fn matches(&self, endpoint: &Endpoint) -> bool {
        !endpoint.pod_name.is_empty()
            && endpoint.pod_name.starts_with(&self.prefix)
            && self
                .namespace
                .as_deref()
                .is_none_or(|ns| *ns == *endpoint.namespace)
    }
}

impl LabelMatch {
    fn parse(key: &str, value: &str) -> Result<Self, FilterError> {
        let label: Label = value
            .parse()
            .map_err(|_| refused(key, value, "[source:]key[=value]"))?;
        let name = value.split_once('=').map_or(value, |(name, _)| name);
        Ok(Self {
            source: name
                .contains(':')
                .then_some(label.source)
                .filter(|s| s != "any"),
            key: label.key,
            value: value.contains('=').then_some(label.value),
        })
    }

    fn matches(&self, label: &str) -> bool {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        key == self.key
            && self.source.as_deref().is_none_or(|s| s == source)
            && self.value.as_deref().is_none_or(|v| v == value)
    }
}

impl ProtocolMatch {
    fn matches(self, l4: Option<&Layer4>) -> bool {
        match l4 {
            Some(Layer4::Tcp(_)) => self == Self::Tcp,
            Some(Layer4::Udp(_)) => self == Self::Udp,
            Some(Layer4::Sctp(_)) => self == Self::Sctp,
            Some(Layer4::ICMPv4(_)) => matches!(self, Self::Icmp4 | Self::Icmp),
            Some(Layer4::ICMPv6(_)) => matches!(self, Self::Icmp6 | Self::Icmp),
            None => false,
        }
    }
}

fn protocol(key: &str, value: &str) -> Result<ProtocolMatch, FilterError> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "tcp" => ProtocolMatch::Tcp,
        "udp" => ProtocolMatch::Udp,
        "sctp" => ProtocolMatch::Sctp,
        "icmpv4" | "icmp4" => ProtocolMatch::Icmp4,
        "icmpv6" | "icmp6" => ProtocolMatch::Icmp6,
        "icmp" => ProtocolMatch::Icmp,
        _ => {
            return Err(refused(
                key,
                value,
                "tcp, udp, sctp, icmp, icmpv4 or icmpv6",
            ));
        }
    })
}

fn verdict(key: &str, value: &str) -> Result<Verdict, FilterError> {
    Ok(match value.to_ascii_uppercase().as_str() {
        "FORWARDED" | "ALLOWED" => Verdict::Forwarded,
        "DROPPED" | "DENIED" => Verdict::Dropped,
        "AUDIT" => Verdict::Audit,
        _ => return Err(refused(key, value, "forwarded, dropped or audit")),
    })
}

fn direction(key: &str, value: &str) -> Result<TrafficDirection, FilterError> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "ingress" => TrafficDirection::Ingress,
        "egress" => TrafficDirection::Egress,
        _ => return Err(refused(key, value, "ingress or egress")),
    })
}

/// A reason by number, by Hubble's name or by its text.
fn drop_reason(key: &str, value: &str) -> Result<u32, FilterError> {
    let named = DropReason::ALL.iter().find(|reason| {
        reason.name().eq_ignore_ascii_case(value)
            || reason.text().eq_ignore_ascii_case(value)
            || value.parse() == Ok(**reason as u8)
    });
    named
        .map(|reason| u32::from(*reason as u8))
        .ok_or_else(|| refused(key, value, "a drop reason such as POLICY_DENIED or 133"))
}

/// `drop`, `policy-verdict`, `trace`, `trace:to-endpoint`.
fn type_match(key: &str, value: &str) -> Result<TypeMatch, FilterError> {
    const EXPECTED: &str = "drop, policy-verdict, trace or trace:POINT (such as trace:to-endpoint)";
    let (name, point) = value
        .split_once(':')
        .map_or((value, None), |(name, point)| (name, Some(point)));
    let kind = match name {
        "drop" => EventType::DROP,
        "policy-verdict" => EventType::POLICY_VERDICT,
        "trace" => EventType::TRACE,
        _ => return Err(refused(key, value, EXPECTED)),
    };
    let sub_type = match point {
        None => None,
        Some(point) if kind == EventType::TRACE => {
            Some(point_number(point).ok_or_else(|| refused(key, value, EXPECTED))?)
        }
        Some(_) => return Err(refused(key, value, EXPECTED)),
    };
    Ok(TypeMatch { kind, sub_type })
}

fn point_number(name: &str) -> Option<u8> {
    (0..=u8::MAX)
        .map_while(ObservationPoint::from_u8)
        .find(|point| crate::text::point_name(*point) == name)
        .map(|point| point as u8)
}

fn identity(key: &str, value: &str) -> Result<u32, FilterError> {
    let name = value.strip_prefix("reserved:").unwrap_or(value);
    (0..=10)
        .find(|n| axon_abi::Identity(*n).reserved_name() == Some(name))
        .or_else(|| value.parse().ok())
        .ok_or_else(|| {
            refused(
                key,
                value,
                "the number of an identity, or a reserved name such as world",
            )
        })
}

fn address(key: &str, value: &str) -> Result<IpNet, FilterError> {
    value
        .parse::<IpNet>()
        .ok()
        .or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))
        .ok_or_else(|| refused(key, value, "an address or a prefix"))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
