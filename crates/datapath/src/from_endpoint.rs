//! Ingress of an endpoint's host-side device: what the endpoint sends.

use axon_abi::{
    ConfigFlags, CtFlags, Direction, DropReason, EndpointFlags, EndpointRow, ObservationPoint,
};

use crate::balance::balance;
use crate::conntrack::{Sets, find, open};
use crate::family::{Family, V4, V6, same};
use crate::header::{Ethernet, ethertype};
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::{Kind, Scratch, Translated};
use crate::service::Asker;
use crate::tables::Tables;
use crate::translate::translate;
use crate::verdict::Verdict;
use crate::{arp, deliver, event, icmp_error, nd, serve};

/// Decides on a packet that an endpoint sends.
///
/// Between two endpoints of one node everything is decided here, both ends'
/// policy included.
#[inline(always)]
pub fn from_endpoint(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    scratch.begin(0, Direction::Egress);
    let row = tables
        .own_endpoint(packet.ifindex())
        .ok_or(DropReason::EndpointNotReady)?;
    scratch.endpoint = row.id;
    scratch.source_identity = row.identity;
    scratch.device = packet.ifindex();
    if packet.vlan().is_some() {
        return Err(DropReason::VlanFiltered);
    }
    let ethernet: &Ethernet = packet.view(0).ok_or(DropReason::UnsupportedL2Protocol)?;
    match ethernet.ethertype.get() {
        ethertype::IPV4 => forward::<V4>(packet, tables, scratch, row)?,
        ethertype::IPV6 if nd::is_solicitation(packet) => {
            nd::answer(packet, row)?;
            scratch.reflect(None);
        }
        ethertype::IPV6 => forward::<V6>(packet, tables, scratch, row)?,
        ethertype::ARP => {
            arp::answer(packet, row)?;
            scratch.reflect(None);
        }
        _ => return Err(DropReason::UnsupportedL3Protocol),
    }
    Ok(scratch.verdict())
}

#[inline(never)]
fn forward<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
) -> Result<(), DropReason> {
    decide::<F>(packet, tables, scratch, row)?;
    icmp_error::tell::<F>(packet, tables, scratch)
}

#[inline(always)]
fn decide<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
) -> Result<(), DropReason> {
    if row.policy_set == 0 {
        return Err(DropReason::EndpointNotReady);
    }
    if tables.config().flags & F::CARRIED == 0 {
        return Err(DropReason::UnsupportedL3Protocol);
    }
    parse::<F>(packet, tables, scratch)?;
    event::report_received(packet, tables, scratch, ObservationPoint::FromEndpoint);
    check_source::<F>(scratch, row)?;
    if F::unroutable(&scratch.flow.tuple.destination) {
        return Err(DropReason::UnknownL3Target);
    }
    let receiver = match tables.receiver(&scratch.flow.tuple.destination) {
        None if same(&scratch.flow.tuple.destination, &F::HAIRPIN) => Some(row),
        found => found,
    };
    let sets = Sets {
        sender: Some(row.policy_set),
        receiver: match receiver {
            // A flow may be older than the endpoint that has its address now.
            Some(receiver) if receiver.policy_set == 0 => {
                return Err(DropReason::EndpointNotReady);
            }
            Some(receiver) => receiver.policy_set,
            None => 0,
        },
    };
    match find::<F>(packet, tables, scratch, sets) {
        Ok(true) if scratch.flow_flags & ASIDE == 0 => {}
        Ok(true) => return aside::<F>(packet, tables, scratch),
        Ok(false) => {
            return match admit::<F>(packet, tables, scratch, row) {
                Ok(()) => aside::<F>(packet, tables, scratch),
                Err(reason) => refuse::<F>(tables, scratch, reason),
            };
        }
        Err(reason) => return refuse::<F>(tables, scratch, reason),
    }
    match receiver {
        Some(receiver) => deliver::to_local::<F>(packet, tables, scratch, receiver),
        None => deliver::elsewhere::<F>(packet, tables, scratch),
    }
}

/// Flows that do not simply go to whom they are addressed.
const ASIDE: u8 = CtFlags::BY_STACK | CtFlags::SERVICE;

/// Decides on a packet of a flow that is not known under its own addresses: it
/// may be a service's, and the flow to the backend known.
#[inline(always)]
fn admit<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
) -> Result<(), DropReason> {
    if tables.can_serve() {
        lead::<F>(packet, tables, scratch)?;
        let is_done = match scratch.translated {
            Translated::Answered => true,
            Translated::Served => meet::<F>(packet, tables, scratch, row)?,
            Translated::Not | Translated::Back | Translated::Sent => false,
        };
        if is_done {
            return Ok(());
        }
    }
    open::<F>(packet, tables, scratch)
}

/// Gives a packet that is for a service the address of a backend.
#[inline(never)]
fn lead<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let destination = &scratch.flow.tuple.destination;
    if tables.serves() && tables.receiver(destination).is_none() {
        balance::<F>(packet, tables, scratch, Asker::Pod)?;
    }
    match scratch.translated {
        Translated::Served => translate::<F>(packet, scratch).ok_or(DropReason::PacketWrite),
        Translated::Not | Translated::Back | Translated::Sent
            if same(&scratch.flow.tuple.destination, &F::HAIRPIN) =>
        {
            Err(DropReason::UnknownL3Target)
        }
        Translated::Not | Translated::Back | Translated::Sent | Translated::Answered => Ok(()),
    }
}

/// Finds the flow to the backend.
#[inline(never)]
fn meet<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
) -> Result<bool, DropReason> {
    scratch.flow_flags = CtFlags::SERVICE;
    let receiver = match tables.receiver(&scratch.flow.tuple.destination) {
        Some(receiver) if receiver.policy_set == 0 => return Err(DropReason::EndpointNotReady),
        Some(receiver) => receiver.policy_set,
        None => 0,
    };
    let sets = Sets {
        sender: Some(row.policy_set),
        receiver,
    };
    find::<F>(packet, tables, scratch, sets)
}

/// Sends an allowed packet where it is to go now: it may have other addresses,
/// or get them here.
#[inline(never)]
fn aside<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if tables.can_serve() && matches!(scratch.translated, Translated::Answered) {
        return Ok(());
    }
    if serve::is_answer(tables, scratch) {
        serve::answer::<F>(packet, tables, scratch)?;
    }
    match tables.receiver(&scratch.flow.tuple.destination) {
        Some(receiver) if scratch.flow_flags & CtFlags::BY_STACK == 0 => {
            deliver::to_local::<F>(packet, tables, scratch, receiver)
        }
        _ => deliver::elsewhere::<F>(packet, tables, scratch),
    }
}

/// Drops what may not be, and tells the endpoint if its own policy did not let
/// it out and the configuration has it told. The egress that is asked about is
/// the opener's, so who answers is told nothing.
#[inline(always)]
fn refuse<F: Family>(
    tables: &impl Tables,
    scratch: &mut Scratch,
    reason: DropReason,
) -> Result<(), DropReason> {
    let told = tables.config().flags & ConfigFlags::DENY_RESPONSE != 0;
    let own = scratch.judged && scratch.question.egress && scratch.forward;
    if told && reason.is_policy() && own {
        icmp_error::prohibited::<F>(scratch, reason);
        return Ok(());
    }
    Err(reason)
}

/// An endpoint speaks for its own addresses only, and reports errors only of
/// packets that were sent to them.
#[inline(always)]
fn check_source<F: Family>(scratch: &mut Scratch, row: &EndpointRow) -> Result<(), DropReason> {
    let flow = &mut scratch.flow;
    if matches!(flow.kind, Kind::Error) && !same(&flow.about.source, &flow.tuple.source) {
        flow.kind = Kind::Single;
        flow.icmp = true;
        flow.policy_type = flow.icmp_type;
    }
    let source = &flow.tuple.source;
    // An endpoint without an address of the family has the unspecified one.
    let own = F::is_own(row, source) && !F::unroutable(source);
    if own || row.flags & EndpointFlags::NO_SOURCE_CHECK != 0 {
        Ok(())
    } else {
        Err(DropReason::InvalidSourceIp)
    }
}
