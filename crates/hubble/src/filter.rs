//! Which flows a reader wants.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::matchers::{
    LabelMatch, PodMatch, ProtocolMatch, TypeMatch, address, direction, drop_reason, identity,
    number, protocol, type_match, verdict,
};
use crate::{Endpoint, Flow, Layer4, TrafficDirection, Uuid, Verdict};

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
    /// Reads the pairs of a query string: `last=N`, `follow=true|false`,
    /// `background=true|false` (whether drops of what kernels send by
    /// themselves are wanted), and the keys of [`Filter`]. Without `last` and `follow` it is the stream of
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
                "background" => {
                    query.filter.no_background = !number(key, value, "true or false")?;
                }
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
    uuids: Vec<Uuid>,
    no_background: bool,
    directions: Vec<TrafficDirection>,
    either: Side,
    from: Side,
    to: Side,
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

impl Filter {
    /// The keys; those from `endpoint` on may also have `from-` or `to-`
    /// before them.
    pub const KEYS: [&'static str; 13] = [
        "type",
        "verdict",
        "protocol",
        "drop-reason",
        "direction",
        "uuid",
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
            "uuid" => self.uuids.push(number(key, value, "the uuid of a flow")?),
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
            && any(&self.uuids, |uuid| *uuid == flow.uuid)
            && any(&self.protocols, |p| p.matches(flow.l4.as_ref()))
            && !(self.no_background && flow.is_background())
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

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
