//! Where an allowed packet goes.

use axon_abi::{CtFlags, DropReason, EndpointRow, Identity, ObservationPoint};

use crate::event;
use crate::family::Family;
use crate::header::ETHERNET_LEN;
use crate::icmp_error;
use crate::packet::Packet;
use crate::scratch::{Flow, Scratch, Translated, Way};
use crate::tables::{Route, RouteQuery, Tables};

/// Into an endpoint of this node, past the node's stack.
#[inline(always)]
pub(crate) fn to_local<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
) -> Result<(), DropReason> {
    if scratch.flow.hop_limit <= 1 {
        icmp_error::time_exceeded::<F>(scratch);
        return Ok(());
    }
    F::hop(
        packet,
        Some((&row.mac, &row.node_mac)),
        scratch.from_outside,
    )
    .ok_or(DropReason::PacketWrite)?;
    if scratch.report {
        event::report_trace(
            packet,
            tables,
            scratch,
            ObservationPoint::ToEndpoint,
            row.id,
        );
    }
    scratch.leaves_by = row.ifindex;
    scratch.way = Way::Peer;
    Ok(())
}

/// To anywhere but an endpoint of this node, or back to the stack that an
/// answer belongs to.
#[inline(never)]
pub(crate) fn elsewhere<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if scratch.destination_identity == Identity::HOST {
        to_stack(packet, tables, scratch, ObservationPoint::ToHost);
        return Ok(());
    }
    if scratch.flow_flags & CtFlags::BY_STACK != 0 {
        to_stack(packet, tables, scratch, ObservationPoint::ToStack);
        return Ok(());
    }
    if scratch.flow.hop_limit <= 1 {
        icmp_error::time_exceeded::<F>(scratch);
        return Ok(());
    }
    let mtu = tables.config().mtu;
    if mtu != 0 && segment_len(packet, &scratch.flow) > mtu {
        too_big::<F>(packet, tables, scratch, mtu);
        return Ok(());
    }
    let Scratch { flow, next_hop, .. } = scratch;
    let query = RouteQuery {
        ifindex: packet.ifindex(),
        source: &flow.tuple.source,
        destination: &flow.tuple.destination,
        ipv6: F::VERSION == 6,
    };
    match tables.route(&query, next_hop) {
        // Behind a device that is not the network's are others, with rules of their own in the
        // stack (a firewall, address translation), which have to see both directions.
        // What a service answers from an address of the node the stack would not take from here.
        Route::Via { ifindex } if !is_returned(scratch) && !tables.uplink(ifindex) => {
            to_stack(packet, tables, scratch, ObservationPoint::ToStack);
            Ok(())
        }
        Route::Via { ifindex } => {
            if is_returned(scratch) {
                packet.set_served();
            }
            F::hop(packet, None, false).ok_or(DropReason::PacketWrite)?;
            if scratch.report {
                event::report_trace(packet, tables, scratch, ObservationPoint::ToNetwork, 0);
            }
            scratch.leaves_by = ifindex;
            scratch.way = Way::Neigh;
            Ok(())
        }
        Route::Stack => {
            to_stack(packet, tables, scratch, ObservationPoint::ToStack);
            Ok(())
        }
        Route::TooBig { mtu } => {
            too_big::<F>(packet, tables, scratch, mtu);
            Ok(())
        }
        Route::Unreachable => Err(DropReason::FibLookupFailed),
    }
}

/// Whether a service has given the packet its frontend's address.
#[inline(always)]
fn is_returned(scratch: &Scratch) -> bool {
    matches!(scratch.translated, Translated::Served) && !scratch.forward
}

fn to_stack(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    point: ObservationPoint,
) {
    if scratch.report {
        event::report_trace(packet, tables, scratch, point, 0);
    }
    scratch.way = Way::Pass;
}

/// What does not fit is answered, or cut by the stack where that is allowed.
#[inline(always)]
fn too_big<F: Family>(packet: &impl Packet, tables: &impl Tables, scratch: &mut Scratch, mtu: u32) {
    if scratch.flow.dont_fragment {
        icmp_error::too_big::<F>(scratch, mtu);
    } else {
        to_stack(packet, tables, scratch, ObservationPoint::ToStack);
    }
}

/// Bytes of the IP packets that go out on the wire: of an aggregate, those of
/// one segment.
#[inline(always)]
fn segment_len(packet: &impl Packet, flow: &Flow) -> u32 {
    match packet.gso_size() {
        0 => flow.ip_len,
        payload => flow.l4_at - ETHERNET_LEN as u32 + flow.l4_len + payload,
    }
}
