//! Egress of an endpoint's host-side device: what the node's stack sends to
//! the endpoint. What comes from other endpoints and from the network goes
//! past it.

use axon_abi::{Direction, DropReason, EndpointRow, ObservationPoint};

use crate::conntrack::{Sets, track};
use crate::event;
use crate::family::{Family, V4, V6};
use crate::header::{Ethernet, ethertype};
use crate::identity::who;
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::Scratch;
use crate::tables::Tables;
use crate::verdict::Verdict;

/// Decides on a packet that the node's stack sends to an endpoint.
///
/// Neighbours of endpoints are permanent, so that nothing but IP has to pass.
#[inline(always)]
pub fn to_endpoint(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    scratch.begin(0, Direction::Ingress);
    let row = tables
        .endpoint(packet.ifindex())
        .ok_or(DropReason::EndpointNotReady)?;
    scratch.endpoint = row.id;
    scratch.destination_identity = row.identity;
    scratch.device = packet.ifindex();
    if packet.vlan() {
        return Err(DropReason::VlanFiltered);
    }
    let ethernet: &Ethernet = packet.view(0).ok_or(DropReason::UnsupportedL2Protocol)?;
    match ethernet.ethertype.get() {
        ethertype::IPV4 => receive::<V4>(packet, tables, scratch, row)?,
        ethertype::IPV6 => receive::<V6>(packet, tables, scratch, row)?,
        _ => return Err(DropReason::UnsupportedL3Protocol),
    }
    Ok(Verdict::Pass)
}

/// Index of the loopback device, in every network namespace.
const LOOPBACK: u32 = 1;

/// An address of the node or of an endpoint says nothing on a packet that some
/// other device brought: the kernel forwards it all the same (IPv6), or only
/// refuses its own (IPv4).
///
/// The node's own packets came by no device, and endpoints' are checked where
/// they are sent. By an uplink comes what the node's own address translation
/// (kube-proxy) has made the node's. What else it has made so, as it does for
/// the containers of other engines, is not the node's own: whoever sent it is
/// of the world. An endpoint's address it makes nobody's.
#[inline(always)]
fn check_origin(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let came_by = packet.ingress_ifindex();
    if came_by <= LOOPBACK {
        return Ok(());
    }
    scratch.by_stack = true;
    check_stranger(tables, scratch, came_by)
}

#[inline(never)]
fn check_stranger(
    tables: &impl Tables,
    scratch: &mut Scratch,
    came_by: u32,
) -> Result<(), DropReason> {
    if tables.endpoint(came_by).is_some() {
        return Ok(());
    }
    let Scratch { flow, lpm, .. } = scratch;
    let sender = who(tables, &flow.tuple.source, lpm);
    if sender.endpoint.is_some() {
        scratch.source_identity = sender.identity;
        return Err(DropReason::InvalidSourceIp);
    }
    scratch.borrowed = sender.host && !tables.uplink(came_by);
    Ok(())
}

#[inline(never)]
fn receive<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
) -> Result<(), DropReason> {
    if row.policy_set == 0 {
        return Err(DropReason::EndpointNotReady);
    }
    parse::<F>(packet, tables, scratch)?;
    check_origin(packet, tables, scratch)?;
    track::<F>(
        packet,
        tables,
        scratch,
        Sets {
            sender: None,
            receiver: row.policy_set,
        },
    )?;
    if scratch.report {
        event::report_trace(
            packet,
            tables,
            scratch,
            ObservationPoint::ToEndpoint,
            row.id,
        );
    }
    Ok(())
}
