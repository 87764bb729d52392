//! Names of ICMP types, as Cilium's policies write them.

use axon_model::{PortMatch, PortRule, Protocol};

use super::policy::{IcmpField, IcmpRule};
use crate::k8s::IntOrString;
use crate::manifest::FieldError;

/// Types that one rule may name.
const FIELDS_MAX: usize = 40;

const V4_NAMES: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const V6_NAMES: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// The port rules of `icmps`.
///
/// # Errors
/// What Cilium would refuse, by its path.
pub(super) fn port_rules(list: &[IcmpRule], path: &str) -> Result<Vec<PortRule>, FieldError> {
    let mut rules = Vec::new();
    for (n, rule) in list.iter().enumerate() {
        let path = format!("{path}[{n}].fields");
        if rule.fields.len() > FIELDS_MAX {
            return Err(FieldError::new(
                path,
                format!("{} types; expected at most {FIELDS_MAX}", rule.fields.len()),
            ));
        }
        for (m, field) in rule.fields.iter().enumerate() {
            rules.push(port_rule(field, &format!("{path}[{m}]"))?);
        }
    }
    Ok(rules)
}

fn port_rule(field: &IcmpField, path: &str) -> Result<PortRule, FieldError> {
    let (protocol, names): (_, &[(&str, u8)]) = match field.family.as_str() {
        "" | "IPv4" => (Protocol::ICMP, &V4_NAMES),
        "IPv6" => (Protocol::ICMPV6, &V6_NAMES),
        other => {
            return Err(FieldError::new(
                format!("{path}.family"),
                format!("{other:?}; expected IPv4 or IPv6"),
            ));
        }
    };
    let number = match &field.icmp_type {
        IntOrString::Int(number) => u8::try_from(*number).ok(),
        IntOrString::String(text) => names
            .iter()
            .find(|(name, _)| name == text)
            .map(|(_, number)| *number)
            .or_else(|| text.parse().ok()),
    };
    let Some(number) = number.map(u16::from) else {
        return Err(FieldError::new(
            format!("{path}.type"),
            format!(
                "{} is no {protocol} type; expected 0 to 255, or a name as EchoRequest",
                field.icmp_type
            ),
        ));
    };
    Ok(PortRule {
        protocol,
        port: PortMatch::Range(number, number),
    })
}
