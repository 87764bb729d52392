//! What user space is told: drops, policy verdicts, and passing packets.

use axon_abi::{
    Be16, ConfigFlags, Direction, DropReason, EventFlags, EventKind, EventRecord, ObservationPoint,
    PolicyEntryFlags, TraceReason,
};

use crate::header::Ethernet;
use crate::packet::Packet;
use crate::scratch::{Fragmentation, Kind, Scratch};
use crate::tables::Tables;

/// Reports that the packet is dropped, if drops are reported, and says under
/// which direction the drop counts: what an endpoint's policy refuses counts as
/// that endpoint sees it, whichever hook carries the policy out.
#[inline(never)]
pub fn report_drop(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    reason: DropReason,
) -> Direction {
    let judged = scratch.judged && reason.is_policy();
    let direction = match (judged, scratch.question.egress) {
        (false, _) => scratch.direction,
        (true, true) => Direction::Egress,
        (true, false) => Direction::Ingress,
    };
    if tables.config().flags & ConfigFlags::EVENT_DROP == 0 {
        return direction;
    }
    fill(packet, tables, scratch, EventKind::Drop);
    let Scratch {
        event,
        question,
        decision,
        forward,
        judge,
        ..
    } = scratch;
    event.reason = reason as u8;
    event.direction = direction as u8;
    if judged {
        event.endpoint = *judge;
        event.policy_set = question.set;
        event.rule = decision.rule;
        event.match_type = decision.match_type;
        event.flags |= EventFlags::REPLY_KNOWN;
        if !*forward {
            event.flags |= EventFlags::REPLY;
        }
    }
    tables.emit(event);
    direction
}

/// Reports what an endpoint's policy says of the flow, in the flow's forward
/// orientation.
#[inline(never)]
pub(crate) fn report_verdict(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    said: Result<(), DropReason>,
) {
    fill(packet, tables, scratch, EventKind::PolicyVerdict);
    let Scratch {
        event,
        question,
        decision,
        forward,
        audit,
        judge,
        ..
    } = scratch;
    event.reason = match said {
        Ok(()) => 0,
        Err(reason) => reason as u8,
    };
    event.endpoint = *judge;
    event.direction = if question.egress {
        Direction::Egress
    } else {
        Direction::Ingress
    } as u8;
    event.policy_set = question.set;
    event.rule = decision.rule;
    event.match_type = decision.match_type;
    event.flags &= EventFlags::FRAGMENT;
    event.flags |= EventFlags::REPLY_KNOWN;
    if *audit && said.is_err() {
        event.flags |= EventFlags::AUDIT;
    }
    if decision.flags & PolicyEntryFlags::AUTH_FAIL != 0 {
        event.flags |= EventFlags::AUTH_FAIL;
    }
    if !*forward {
        turn(event);
    }
    tables.emit(event);
}

/// Swaps the ends of an event.
fn turn(event: &mut EventRecord) {
    core::mem::swap(&mut event.source, &mut event.destination);
    core::mem::swap(&mut event.source_identity, &mut event.destination_identity);
    core::mem::swap(&mut event.source_mac, &mut event.destination_mac);
    if event.protocol != crate::header::protocol::ICMP
        && event.protocol != crate::header::protocol::ICMPV6
    {
        core::mem::swap(&mut event.source_port, &mut event.destination_port);
    }
}

/// Reports that the packet was received at `point`, if that is asked for.
#[inline(always)]
pub(crate) fn report_received(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    point: ObservationPoint,
) {
    if tables.config().flags & ConfigFlags::EVENT_RECEIVED != 0 {
        scratch.seen = Some(TraceReason::Unknown);
        report_trace(packet, tables, scratch, point, 0);
        scratch.seen = None;
    }
}

/// Reports that the packet passes `point` on its way to `endpoint` (0: none).
#[inline(never)]
pub(crate) fn report_trace(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    point: ObservationPoint,
    endpoint: u16,
) {
    fill(packet, tables, scratch, EventKind::Trace);
    let event = &mut scratch.event;
    event.reason = scratch.seen.unwrap_or(TraceReason::New) as u8;
    event.point = point as u8;
    if endpoint != 0 {
        event.endpoint = endpoint;
        event.direction = Direction::Ingress as u8;
    }
    tables.emit(event);
}

/// Tells the sweep of conntrack that the endpoint has opened many flows since
/// the last such notice, and owns `owned`: of the node, which has no quota that it
/// could fill, 0.
#[inline(never)]
pub(crate) fn report_flows(tables: &impl Tables, scratch: &mut Scratch, owned: u32) {
    let event = &mut scratch.event;
    *event = EventRecord {
        time_ns: tables.now_ns(),
        kind: EventRecord::FLOWS_OPENED,
        endpoint: scratch.endpoint,
        len: if scratch.of_host { 0 } else { owned },
        ..EventRecord::default()
    };
    tables.emit(event);
}

/// Fills in what every event tells.
#[inline(always)]
fn fill(packet: &impl Packet, tables: &impl Tables, scratch: &mut Scratch, kind: EventKind) {
    let Scratch { flow, event, .. } = scratch;
    *event = EventRecord::default();
    event.time_ns = tables.now_ns();
    event.kind = kind as u8;
    event.direction = scratch.direction as u8;
    event.endpoint = scratch.endpoint;
    event.ifindex = packet.ifindex();
    event.len = packet.len();
    if let Some(ethernet) = packet.view::<Ethernet>(0) {
        event.ethertype = ethernet.ethertype;
        event.source_mac = ethernet.source;
        event.destination_mac = ethernet.destination;
    }
    event.source_identity = scratch.source_identity;
    event.destination_identity = scratch.destination_identity;
    if flow.version == 0 {
        return;
    }
    event.ip_version = flow.version;
    event.protocol = flow.tuple.protocol;
    event.tcp_flags = flow.tcp_flags;
    event.source = flow.tuple.source;
    event.destination = flow.tuple.destination;
    event.source_before_nat = scratch.source_before_nat;
    event.source_port = flow.tuple.source_port;
    event.destination_port = flow.tuple.destination_port;
    if flow.icmp_message() {
        event.source_port = Be16::from_bytes([flow.icmp_type, flow.icmp_code]);
        if matches!(flow.kind, Kind::Query) {
            event.destination_port = flow.tuple.source_port;
        }
    }
    event.flags = flags(flow.fragmentation, scratch.seen);
}

#[inline(always)]
fn flags(fragmentation: Fragmentation, seen: Option<TraceReason>) -> u16 {
    let fragment = match fragmentation {
        Fragmentation::Later => EventFlags::FRAGMENT,
        Fragmentation::Whole | Fragmentation::First => 0,
    };
    fragment
        | match seen {
            Some(TraceReason::Reply) => EventFlags::REPLY | EventFlags::REPLY_KNOWN,
            Some(TraceReason::New | TraceReason::Established) => EventFlags::REPLY_KNOWN,
            Some(TraceReason::Related | TraceReason::Unknown) | None => 0,
        }
}
