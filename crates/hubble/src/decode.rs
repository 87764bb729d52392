//! Records to flows.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::{
    Be16, Direction, DropReason, EventFlags, EventKind, EventRecord, Identity, IpKey,
    ObservationPoint, TraceReason,
};
use axon_model::Mac;

use crate::{
    AuthType, Endpoint, Ethernet, EventType, Flow, FlowType, Icmp, Interface, Ip, IpVersion,
    Layer4, Names, Policy, Port, Tcp, TcpFlags, TrafficDirection, Uuid, Verdict,
};

/// IP protocol numbers (IANA).
mod protocol {
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
}

/// Makes a flow of a record, with the names of this moment.
///
/// Every record has a flow: what has no meaning is shown as its number, or
/// left out.
pub fn decode(record: &EventRecord, names: &impl Names) -> Flow {
    let kind = EventKind::from_u8(record.kind);
    let direction = Direction::from_u8(record.direction);
    let dropped = is_dropped(record, kind);
    let ip = addresses(record);
    let l4 = ip.as_ref().and_then(|_| layer4(record));
    let (source, destination) = sides(record, direction, ip.as_ref(), names);
    let mut flow = Flow {
        time: names.time(record.time_ns),
        uuid: Uuid::new(record, &names.node()),
        verdict: verdict(record, kind),
        drop_reason: if dropped { u32::from(record.reason) } else { 0 },
        ethernet: ethernet(record),
        summary: summary(record, ip.as_ref(), l4.as_ref()),
        ip,
        l4,
        source,
        destination,
        flow_type: FlowType::L3L4,
        node_name: names.node(),
        event_type: event_type(record, kind),
        traffic_direction: match direction {
            Direction::Unknown => TrafficDirection::Unknown,
            Direction::Ingress => TrafficDirection::Ingress,
            Direction::Egress => TrafficDirection::Egress,
        },
        policy_match_type: match kind {
            Some(EventKind::PolicyVerdict) => u32::from(record.match_type),
            Some(EventKind::Drop | EventKind::Trace) | None => 0,
        },
        auth_type: auth_type(record, kind),
        trace_observation_point: observation_point(record, kind),
        trace_reason: trace_reason(record, kind),
        drop_reason_desc: if dropped {
            Cow::Borrowed(reason_name(record.reason))
        } else {
            Cow::Borrowed("")
        },
        is_reply: (record.flags & EventFlags::REPLY_KNOWN != 0)
            .then_some(record.flags & EventFlags::REPLY != 0),
        interface: (record.ifindex != 0).then(|| Interface {
            index: record.ifindex,
            name: names.interface(record.ifindex).unwrap_or_default(),
        }),
        ..Flow::default()
    };
    correlate(&mut flow, record, direction, dropped, names);
    flow
}

/// Whether policy or something else turned against the packet (of an audited
/// verdict: would have).
fn is_dropped(record: &EventRecord, kind: Option<EventKind>) -> bool {
    match kind {
        Some(EventKind::Drop) => true,
        Some(EventKind::PolicyVerdict) => record.reason != 0,
        Some(EventKind::Trace) | None => false,
    }
}

fn verdict(record: &EventRecord, kind: Option<EventKind>) -> Verdict {
    match kind {
        Some(EventKind::Drop) => Verdict::Dropped,
        Some(EventKind::Trace) => Verdict::Forwarded,
        Some(EventKind::PolicyVerdict) if record.reason == 0 => Verdict::Forwarded,
        Some(EventKind::PolicyVerdict) if record.flags & EventFlags::AUDIT != 0 => Verdict::Audit,
        Some(EventKind::PolicyVerdict) => Verdict::Dropped,
        None => Verdict::VerdictUnknown,
    }
}

fn auth_type(record: &EventRecord, kind: Option<EventKind>) -> AuthType {
    let reason = DropReason::from_u8(record.reason);
    match (kind, reason, record.flags & EventFlags::AUTH_FAIL) {
        (Some(EventKind::PolicyVerdict), Some(DropReason::AuthRequired), 0) => AuthType::Spire,
        (Some(EventKind::PolicyVerdict), Some(DropReason::AuthRequired), _) => {
            AuthType::TestAlwaysFail
        }
        _ => AuthType::Disabled,
    }
}

fn reason_name(reason: u8) -> &'static str {
    DropReason::from_u8(reason).map_or("DROP_REASON_UNKNOWN", DropReason::name)
}

fn event_type(record: &EventRecord, kind: Option<EventKind>) -> EventType {
    EventType {
        kind: record.kind,
        sub_type: match kind {
            Some(EventKind::Drop) => record.reason,
            Some(EventKind::Trace) => record.point,
            Some(EventKind::PolicyVerdict) | None => 0,
        },
    }
}

fn observation_point(record: &EventRecord, kind: Option<EventKind>) -> Cow<'static, str> {
    if kind != Some(EventKind::Trace) {
        return Cow::Borrowed("");
    }
    Cow::Borrowed(match ObservationPoint::from_u8(record.point) {
        Some(ObservationPoint::ToEndpoint) => "TO_ENDPOINT",
        Some(ObservationPoint::ToProxy) => "TO_PROXY",
        Some(ObservationPoint::ToHost) => "TO_HOST",
        Some(ObservationPoint::ToStack) => "TO_STACK",
        Some(ObservationPoint::ToOverlay) => "TO_OVERLAY",
        Some(ObservationPoint::FromEndpoint) => "FROM_ENDPOINT",
        Some(ObservationPoint::FromProxy) => "FROM_PROXY",
        Some(ObservationPoint::FromHost) => "FROM_HOST",
        Some(ObservationPoint::FromStack) => "FROM_STACK",
        Some(ObservationPoint::FromOverlay) => "FROM_OVERLAY",
        Some(ObservationPoint::FromNetwork) => "FROM_NETWORK",
        Some(ObservationPoint::ToNetwork) => "TO_NETWORK",
        None => "",
    })
}

fn trace_reason(record: &EventRecord, kind: Option<EventKind>) -> Cow<'static, str> {
    if kind != Some(EventKind::Trace) {
        return Cow::Borrowed("");
    }
    Cow::Borrowed(match TraceReason::from_u8(record.reason) {
        Some(TraceReason::New) => "NEW",
        Some(TraceReason::Established) => "ESTABLISHED",
        Some(TraceReason::Reply) => "REPLY",
        Some(TraceReason::Related) => "RELATED",
        Some(TraceReason::Unknown) | None => "",
    })
}

fn ethernet(record: &EventRecord) -> Option<Ethernet> {
    let told = record.source_mac != [0; 6] || record.destination_mac != [0; 6];
    told.then_some(Ethernet {
        source: Mac(record.source_mac),
        destination: Mac(record.destination_mac),
    })
}

/// The addresses of an IP packet; `None` if the record says it is none.
fn addresses(record: &EventRecord) -> Option<Ip> {
    let version = match record.ip_version {
        4 => IpVersion::IPv4,
        6 => IpVersion::IPv6,
        _ => return None,
    };
    let seen = IpAddr::from(record.source);
    let translated = record.source_before_nat != IpKey::UNSPECIFIED;
    Some(Ip {
        source: if translated {
            record.source_before_nat.into()
        } else {
            seen
        },
        source_xlated: translated.then_some(seen),
        destination: record.destination.into(),
        version,
    })
}

fn layer4(record: &EventRecord) -> Option<Layer4> {
    let source_port = record.source_port.get();
    let destination_port = record.destination_port.get();
    let port = Port {
        source_port,
        destination_port,
    };
    Some(match record.protocol {
        protocol::TCP => Layer4::Tcp(Tcp {
            source_port,
            destination_port,
            flags: TcpFlags(record.tcp_flags),
        }),
        protocol::UDP => Layer4::Udp(port),
        protocol::SCTP => Layer4::Sctp(port),
        protocol::ICMP => Layer4::ICMPv4(icmp(record.source_port)),
        protocol::ICMPV6 => Layer4::ICMPv6(icmp(record.source_port)),
        _ => return None,
    })
}

fn icmp(type_and_code: Be16) -> Icmp {
    let [icmp_type, code] = type_and_code.get().to_be_bytes();
    Icmp { icmp_type, code }
}

fn sides(
    record: &EventRecord,
    direction: Direction,
    ip: Option<&Ip>,
    names: &impl Names,
) -> (Endpoint, Endpoint) {
    let mut source = side(record.source_identity, ip.map(|ip| ip.source), names);
    let mut destination = side(
        record.destination_identity,
        ip.map(|ip| ip.destination),
        names,
    );
    // The reporting endpoint is known by number even if its address is not.
    match direction {
        Direction::Egress if source.id == 0 => source.id = record.endpoint,
        Direction::Ingress if destination.id == 0 => destination.id = record.endpoint,
        Direction::Egress | Direction::Ingress | Direction::Unknown => {}
    }
    (source, destination)
}

fn side(identity: Identity, address: Option<IpAddr>, names: &impl Names) -> Endpoint {
    let labels = names
        .labels(identity)
        .or_else(|| {
            let name = identity.reserved_name()?;
            Some(Arc::from([format!("reserved:{name}")]))
        })
        .unwrap_or_default();
    let mut endpoint = Endpoint {
        identity: identity.0,
        labels,
        ..Endpoint::default()
    };
    if let Some(name) = address.and_then(|address| names.endpoint(address)) {
        endpoint.id = name.id;
        endpoint.namespace = name.namespace;
        endpoint.pod_name = name.pod_name;
    }
    endpoint
}

fn summary(record: &EventRecord, ip: Option<&Ip>, l4: Option<&Layer4>) -> Cow<'static, str> {
    let fragment = record.flags & EventFlags::FRAGMENT != 0;
    match l4 {
        Some(_) if fragment => Cow::Borrowed("fragment"),
        Some(Layer4::Tcp(tcp)) => {
            let flags: Vec<&str> = tcp.flags.names().collect();
            Cow::Owned(format!("TCP Flags: {}", flags.join(", ")))
        }
        Some(Layer4::Udp(_)) => Cow::Borrowed("UDP"),
        Some(Layer4::Sctp(_)) => Cow::Borrowed("SCTP"),
        Some(Layer4::ICMPv4(icmp)) => icmp_summary("ICMPv4", icmp, icmpv4_name(icmp.icmp_type)),
        Some(Layer4::ICMPv6(icmp)) => icmp_summary("ICMPv6", icmp, icmpv6_name(icmp.icmp_type)),
        None if ip.is_some() => Cow::Owned(format!("IP protocol {}", record.protocol)),
        None => Cow::Owned(format!("EtherType 0x{:04x}", record.ethertype.get())),
    }
}

fn icmp_summary(version: &str, icmp: &Icmp, name: Option<&str>) -> Cow<'static, str> {
    Cow::Owned(match name {
        Some(name) if icmp.code == 0 => format!("{version} {name}"),
        Some(name) => format!("{version} {name}(code {})", icmp.code),
        None => format!("{version} type {} code {}", icmp.icmp_type, icmp.code),
    })
}

/// Names of ICMP types (RFC 792), as gopacket and so Hubble write them.
fn icmpv4_name(icmp_type: u8) -> Option<&'static str> {
    Some(match icmp_type {
        0 => "EchoReply",
        3 => "DestinationUnreachable",
        5 => "Redirect",
        8 => "EchoRequest",
        11 => "TimeExceeded",
        12 => "ParameterProblem",
        _ => return None,
    })
}

/// Names of ICMPv6 types (RFC 4443, RFC 4861), likewise.
fn icmpv6_name(icmp_type: u8) -> Option<&'static str> {
    Some(match icmp_type {
        1 => "DestinationUnreachable",
        2 => "PacketTooBig",
        3 => "TimeExceeded",
        4 => "ParameterProblem",
        128 => "EchoRequest",
        129 => "EchoReply",
        133 => "RouterSolicitation",
        134 => "RouterAdvertisement",
        135 => "NeighborSolicitation",
        136 => "NeighborAdvertisement",
        _ => return None,
    })
}

/// Says which policies the verdict comes from.
fn correlate(
    flow: &mut Flow,
    record: &EventRecord,
    direction: Direction,
    dropped: bool,
    names: &impl Names,
) {
    let by_policy =
        !dropped || DropReason::from_u8(record.reason).is_some_and(DropReason::is_policy);
    if !by_policy || record.policy_set == 0 {
        return;
    }
    flow.policy_log.extend(names.log(record.rule));
    let policies = if record.rule != 0 {
        Vec::from_iter(names.rule(record.rule))
    } else if dropped {
        default_deny(record.policy_set, direction, names)
    } else {
        Vec::new()
    };
    match (direction, dropped) {
        (Direction::Ingress, true) => flow.ingress_denied_by = policies,
        (Direction::Ingress, false) => flow.ingress_allowed_by = policies,
        (Direction::Egress, true) => flow.egress_denied_by = policies,
        (Direction::Egress, false) => flow.egress_allowed_by = policies,
        (Direction::Unknown, _) => {}
    }
}

/// Those that select the endpoint and do not allow the packet.
fn default_deny(set: u32, direction: Direction, names: &impl Names) -> Vec<Policy> {
    names.enforcing(set, direction).to_vec()
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
