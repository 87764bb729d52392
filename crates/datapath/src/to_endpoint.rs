//! Egress of an endpoint's host-side device: what the node's stack sends to
//! the endpoint. What comes from other endpoints and from the network goes
//! past it.

use axon_abi::{Direction, DropReason, EndpointRow, ObservationPoint};

use crate::conntrack::{Sets, track};
use crate::event;
use crate::family::{Family, V4, V6};
use crate::header::{Ethernet, ethertype};
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
