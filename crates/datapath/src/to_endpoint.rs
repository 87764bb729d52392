//! Egress of an endpoint's host-side device: what the node's stack sends to
//! the endpoint. What comes from other endpoints and from the network goes
//! past it.

use axon_abi::{CtFlags, Direction, DropReason, EndpointRow, Identity, ObservationPoint};

use crate::conntrack::{Sets, track};
use crate::event;
use crate::family::{Family, V4, V6};
use crate::header::{Ethernet, ethertype};
use crate::identity::{who, world};
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::Scratch;
use crate::serve;
use crate::tables::{LOOPBACK, Route, RouteQuery, Tables};
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
        .own_endpoint(packet.ifindex())
        .ok_or(DropReason::EndpointNotReady)?;
    scratch.endpoint = row.id;
    scratch.destination_identity = row.identity;
    scratch.device = packet.ifindex();
    if packet.vlan().is_some() {
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

/// What an address says of who sent a packet depends on the device that the
/// node got it by: the kernel forwards forged ones all the same (IPv6), or only
/// refuses its own (IPv4). The node's own packets came by no device.
///
/// | By | With the address of | Is taken for |
/// |---|---|---|
/// | another endpoint | anybody: the node's address translation gave it that | that endpoint |
/// | an uplink, another | an endpoint, which it makes nobody's | nobody: dropped |
/// | an uplink | anybody | him; who has the node's, for the node (kube-proxy) |
/// | another | the node: masqueraded, as the containers of other engines are | the world |
/// | another | the cluster, but the way there is by another device | unknown |
/// | another | anybody else | him |
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
    scratch.flow_flags = CtFlags::BY_STACK;
    check_stranger(tables, scratch, came_by)
}

#[inline(never)]
fn check_stranger(
    tables: &impl Tables,
    scratch: &mut Scratch,
    came_by: u32,
) -> Result<(), DropReason> {
    let Scratch { flow, lpm, .. } = scratch;
    let source = &flow.tuple.source;
    let sender = who(tables, source, lpm);
    if let Some(endpoint) = tables.endpoint(came_by) {
        let own = sender.endpoint.is_some_and(|row| row.ifindex == came_by);
        // Nobody is kept from reaching itself.
        scratch.borrowed = !own && came_by != scratch.device;
        scratch.borrower = endpoint.identity;
        return Ok(());
    }
    if sender.endpoint.is_some() {
        scratch.source_identity = sender.identity;
        return Err(DropReason::InvalidSourceIp);
    }
    if tables.uplink(came_by) {
        return Ok(());
    }
    if sender.host {
        scratch.borrowed = true;
        scratch.borrower = world(tables.config().flags, source);
    } else if !sender.identity.is_world() {
        scratch.borrowed = !returns(tables, scratch, came_by);
        scratch.borrower = Identity::UNKNOWN;
    }
    Ok(())
}

/// Whether what is sent to the packet's source goes by the device that brought
/// the packet.
#[inline(never)]
fn returns(tables: &impl Tables, scratch: &mut Scratch, came_by: u32) -> bool {
    let Scratch { flow, next_hop, .. } = scratch;
    let query = RouteQuery {
        ifindex: came_by,
        source: &flow.tuple.destination,
        destination: &flow.tuple.source,
        ipv6: flow.version == 6,
    };
    tables.route(&query, next_hop) == (Route::Via { ifindex: came_by })
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
    let from = if packet.ingress_ifindex() <= LOOPBACK {
        ObservationPoint::FromHost
    } else {
        ObservationPoint::FromStack
    };
    event::report_received(packet, tables, scratch, from);
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
    if serve::is_answer(tables, scratch) {
        serve::answer::<F>(packet, tables, scratch)?;
    }
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
