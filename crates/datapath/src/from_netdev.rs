//! Ingress of an uplink: what the network sends to this node and its
//! endpoints.

use axon_abi::{Direction, DropReason, ObservationPoint};

use crate::conntrack::{Sets, track};
use crate::family::{Family, V4, V6, same};
use crate::header::{Ethernet, ethertype};
use crate::nat::{self, Back};
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::{Aim, Kind, Scratch, Translated, Way};
use crate::tables::Tables;
use crate::verdict::Verdict;
use crate::{deliver, event, forward, host, icmp_error, serve};

/// Decides on a packet from the network. What is neither for an endpoint of this
/// node nor, where it has a firewall, for the node itself is not ours.
#[inline(always)]
pub fn from_netdev(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    scratch.begin(0, Direction::Ingress);
    scratch.from_outside = true;
    if packet.in_vlan() {
        return Ok(Verdict::Ignore);
    }
    let Some(ethernet) = packet.view::<Ethernet>(0) else {
        return Ok(Verdict::Ignore);
    };
    match ethernet.ethertype.get() {
        ethertype::IPV4 => receive::<V4>(packet, tables, scratch)?,
        ethertype::IPV6 => receive::<V6>(packet, tables, scratch)?,
        // The kernel takes the tag away once we have looked, and what is behind it for
        // the node's all the same if that says no VLAN either.
        ethertype::VLAN | ethertype::SERVICE_VLAN if host::is_held(tables) => {
            return Err(DropReason::VlanFiltered);
        }
        _ => return Ok(Verdict::Ignore),
    }
    Ok(scratch.verdict())
}

#[inline(never)]
fn receive<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    decide::<F>(packet, tables, scratch)?;
    icmp_error::tell::<F>(packet, tables, scratch)
}

#[inline(always)]
fn decide<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    aim::<F>(packet, tables, scratch)?;
    // From here, and not from where that is found out: the kernel counts nested calls.
    match scratch.aim {
        Aim::Elsewhere | Aim::Endpoint => {}
        Aim::Frontend | Aim::Client if !tables.can_serve() => {}
        Aim::Frontend => forward::serve::<F>(packet, tables, scratch)?,
        Aim::Client => forward::give_back::<F>(packet, tables, scratch)?,
    }
    if matches!(scratch.aim, Aim::Endpoint) {
        return deliver_to::<F>(packet, tables, scratch);
    }
    if matches!(scratch.translated, Translated::Answered | Translated::Sent) {
        return Ok(());
    }
    if host::is_held(tables) {
        host::receive::<F>(packet, tables, scratch)?;
    }
    // What was translated to the node is not what it was.
    scratch.way = if scratch.of_host || !matches!(scratch.translated, Translated::Not) {
        Way::Pass
    } else {
        Way::Ignore
    };
    Ok(())
}

/// Finds out whether the packet is for an endpoint of this node, translated if
/// need be: then it is read, and `scratch.aim` says so.
///
/// Through memory, so that the verifier walks what follows once.
#[inline(never)]
fn aim<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.aim = Aim::Elsewhere;
    let Some(destination) = F::destination(packet) else {
        return Ok(());
    };
    let config = tables.config();
    let serves = tables.serves();
    if (serves || config.flags & F::MASQUERADE != 0) && same(&destination, &F::node(config)) {
        match nat::back::<F>(packet, tables, scratch)? {
            Back::Endpoint => scratch.aim = Aim::Endpoint,
            Back::Client => scratch.aim = Aim::Client,
            Back::Untouched if serves => scratch.aim = Aim::Frontend,
            Back::Node | Back::Untouched | Back::Unread => {}
        }
        return Ok(());
    }
    if tables.receiver(&destination).is_none() {
        return if serves {
            forward::read::<F>(packet, tables, scratch)
        } else {
            Ok(())
        };
    }
    parse::<F>(packet, tables, scratch)?;
    event::report_received(packet, tables, scratch, ObservationPoint::FromNetwork);
    scratch.aim = Aim::Endpoint;
    Ok(())
}

/// Holds a parsed packet to conntrack and policy, and delivers it.
#[inline(never)]
fn deliver_to<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let Some(row) = tables.receiver(&scratch.flow.tuple.destination) else {
        return Err(DropReason::StaleOrUnroutableIp);
    };
    scratch.endpoint = row.id;
    scratch.destination_identity = row.identity;
    if row.policy_set == 0 {
        return Err(DropReason::EndpointNotReady);
    }
    // The sender of an error is not always an end of the flow it is about. Routers that have
    // addresses of the link only need another for their errors (RFC 7404).
    if matches!(scratch.flow.kind, Kind::Error) {
        let source = &scratch.flow.tuple.source;
        if F::is_martian(source) || tables.address(source).is_some() {
            return Err(DropReason::InvalidSourceIp);
        }
    }
    let sets = Sets {
        sender: Some(0),
        receiver: row.policy_set,
    };
    track::<F>(packet, tables, scratch, sets)?;
    if serve::is_answer(tables, scratch) {
        serve::answer::<F>(packet, tables, scratch)?;
    }
    deliver::to_local::<F>(packet, tables, scratch, row)
}
