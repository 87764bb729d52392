//! Services for the network: to backends of this node, to those of others, and
//! what these answer.

use axon_abi::{ConfigFlags, CtFlags, DropReason, ObservationPoint, ServiceKey, TraceReason};

use crate::balance::balance;
use crate::event;
use crate::family::{Family, same};
use crate::icmp_error;
use crate::identity::who;
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::{Aim, Scratch, Translated, Way};
use crate::serve::recall;
use crate::service::{Asker, ServiceTables};
use crate::tables::{Route, RouteQuery, Tables};
use crate::translate::translate;

/// Reads a packet that is neither for the node's own address nor an endpoint's: it
/// may be for a frontend.
///
/// What cannot be read, to an address that is only services', goes no further:
/// the stack would send it on, perhaps to where it came from.
#[inline(never)]
pub(crate) fn read<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let Err(reason) = parse::<F>(packet, tables, scratch) else {
        scratch.aim = Aim::Frontend;
        return Ok(());
    };
    let whole = ServiceKey {
        addr: F::destination(packet).unwrap_or_default(),
        ..ServiceKey::default()
    };
    match tables.services().service(&whole) {
        Some(_) => Err(reason),
        None => Ok(()),
    }
}

/// Serves a packet from the network that has been read.
#[inline(never)]
pub(crate) fn serve<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.aim = Aim::Elsewhere;
    balance::<F>(packet, tables, scratch, Asker::Network)?;
    if !matches!(scratch.translated, Translated::Served) {
        return Ok(());
    }
    let node = F::node(tables.config());
    let new = &scratch.service_flow;
    // The node has nobody's port to give back but its own.
    if same(&new.source, &node) {
        return send::<F>(packet, tables, scratch);
    }
    event::report_received(packet, tables, scratch, ObservationPoint::FromNetwork);
    scratch.flow_flags = CtFlags::SERVICE;
    if tables.receiver(&scratch.service_flow.destination).is_some() {
        scratch.aim = Aim::Endpoint;
    }
    translate::<F>(packet, scratch).ok_or(DropReason::PacketWrite)
}

/// Sends on what a backend of another node has answered to a port of this one.
#[inline(never)]
pub(crate) fn give_back<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.aim = Aim::Elsewhere;
    if !recall::<F>(tables, scratch, 1) {
        return Ok(());
    }
    scratch.opens = false;
    send::<F>(packet, tables, scratch)
}

/// Translates a packet from the network and sends it on.
#[inline(never)]
fn send<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if scratch.flow.hop_limit <= 1 {
        icmp_error::time_exceeded::<F>(scratch);
        scratch.translated = Translated::Answered;
        return Ok(());
    }
    let Scratch {
        service_flow: new,
        next_hop,
        ..
    } = scratch;
    let query = RouteQuery {
        ifindex: packet.ifindex(),
        source: &new.source,
        destination: &new.destination,
        ipv6: F::VERSION == 6,
    };
    scratch.leaves_by = match tables.route(&query, next_hop) {
        Route::Via { ifindex } => ifindex,
        Route::TooBig { mtu } => {
            icmp_error::too_big::<F>(scratch, mtu);
            scratch.translated = Translated::Answered;
            return Ok(());
        }
        // The stack would not take its own address from the network.
        Route::Stack | Route::Unreachable => return Err(DropReason::FibLookupFailed),
    };
    scratch.source_before_nat = scratch.flow.tuple.source;
    translate::<F>(packet, scratch).ok_or(DropReason::PacketWrite)?;
    F::hop(packet, None, true).ok_or(DropReason::PacketWrite)?;
    packet.set_served();
    scratch.way = Way::Neigh;
    scratch.translated = Translated::Sent;
    if scratch.opens && tables.config().flags & ConfigFlags::EVENT_TRACE != 0 {
        let Scratch { flow, lpm, .. } = scratch;
        let receiver = who(tables, &flow.tuple.destination, lpm).identity;
        scratch.destination_identity = receiver;
        scratch.seen = Some(TraceReason::New);
        event::report_trace(packet, tables, scratch, ObservationPoint::ToNetwork, 0);
    }
    Ok(())
}
