//! What the values of a filter match.

use std::net::IpAddr;
use std::str::FromStr;

use axon_abi::{DropReason, Identity, ObservationPoint};
use axon_model::Label;
use ipnet::IpNet;

use crate::filter::FilterError;
use crate::{Endpoint, EventType, Layer4, TrafficDirection, Verdict};

/// A kind of event, and of it one place or reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeMatch {
    pub(crate) kind: u8,
    pub(crate) sub_type: Option<u8>,
}

/// A protocol, or both versions of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolMatch {
    Tcp,
    Udp,
    Sctp,
    Icmp4,
    Icmp6,
    Icmp,
}

/// `namespace/prefix`, `namespace/`, `/prefix`; without a slash the namespace
/// is `default`, as in Hubble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodMatch {
    namespace: Option<String>,
    prefix: String,
}

/// `[source:]key[=value]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelMatch {
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

/// A number, or what was expected instead.
pub(crate) fn number<T: FromStr>(
    key: &str,
    value: &str,
    expected: &'static str,
) -> Result<T, FilterError> {
    value.parse().map_err(|_| refused(key, value, expected))
}

impl PodMatch {
    pub(crate) fn parse(key: &str, value: &str) -> Result<Self, FilterError> {
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

    pub(crate) fn matches(&self, endpoint: &Endpoint) -> bool {
        !endpoint.pod_name.is_empty()
            && endpoint.pod_name.starts_with(&self.prefix)
            && self
                .namespace
                .as_deref()
                .is_none_or(|ns| *ns == *endpoint.namespace)
    }
}

impl LabelMatch {
    pub(crate) fn parse(key: &str, value: &str) -> Result<Self, FilterError> {
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

    pub(crate) fn matches(&self, label: &str) -> bool {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        key == self.key
            && self.source.as_deref().is_none_or(|s| s == source)
            && self.value.as_deref().is_none_or(|v| v == value)
    }
}

impl ProtocolMatch {
    pub(crate) fn matches(self, l4: Option<&Layer4>) -> bool {
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

pub(crate) fn protocol(key: &str, value: &str) -> Result<ProtocolMatch, FilterError> {
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

pub(crate) fn verdict(key: &str, value: &str) -> Result<Verdict, FilterError> {
    Ok(match value.to_ascii_uppercase().as_str() {
        "FORWARDED" | "ALLOWED" => Verdict::Forwarded,
        "DROPPED" | "DENIED" => Verdict::Dropped,
        "AUDIT" => Verdict::Audit,
        _ => return Err(refused(key, value, "forwarded, dropped or audit")),
    })
}

pub(crate) fn direction(key: &str, value: &str) -> Result<TrafficDirection, FilterError> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "ingress" => TrafficDirection::Ingress,
        "egress" => TrafficDirection::Egress,
        _ => return Err(refused(key, value, "ingress or egress")),
    })
}

/// A reason by number, by Hubble's name or by its text.
pub(crate) fn drop_reason(key: &str, value: &str) -> Result<u32, FilterError> {
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
pub(crate) fn type_match(key: &str, value: &str) -> Result<TypeMatch, FilterError> {
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

pub(crate) fn identity(key: &str, value: &str) -> Result<u32, FilterError> {
    let name = value.strip_prefix("reserved:").unwrap_or(value);
    (0..=10)
        .find(|n| Identity(*n).reserved_name() == Some(name))
        .or_else(|| value.parse().ok())
        .ok_or_else(|| {
            refused(
                key,
                value,
                "the number of an identity, or a reserved name such as world",
            )
        })
}

pub(crate) fn address(key: &str, value: &str) -> Result<IpNet, FilterError> {
    value
        .parse::<IpNet>()
        .ok()
        .or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))
        .ok_or_else(|| refused(key, value, "an address or a prefix"))
}
