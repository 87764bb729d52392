//! The flows of services: what is remembered of them, and their answers.
//!
//! ```text
//!  client ─> frontend     ══ entry ══>   (client, or who stands for it) ─> backend
//!  frontend ─> client     <══ entry ══   backend ─> (client, or who stands for it)
//! ```
//!
//! What is sent and what answers have an entry each, which names both ends that a
//! packet gets; either puts back the other, should that have been evicted.

use axon_abi::{
    CtFlags, DropReason, NatEntry, NatKey, NatOwner, ServiceFlow, ServiceFlowFlags, ServiceFlowKey,
};

use crate::family::{Family, same};
use crate::header::tcp_flag;
use crate::packet::Packet;
use crate::scratch::{Flow, Kind, Scratch, Tuple};
use crate::tables::Tables;
use crate::translate::translate;

/// Whether the packet, whose flow is known, answers by way of a service.
#[inline(always)]
pub(crate) fn is_answer(tables: &impl Tables, scratch: &Scratch) -> bool {
    tables.can_serve() && scratch.flow_flags & CtFlags::SERVICE != 0 && !scratch.forward
}

/// Gives what a backend answers the address of the frontend.
#[inline(never)]
pub(crate) fn answer<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if !recall::<F>(tables, scratch, 1) {
        // The client knows nobody by the backend's address.
        return Err(DropReason::NoNatMapping);
    }
    translate::<F>(packet, scratch).ok_or(DropReason::PacketWrite)
}

/// The same for what the node itself answers, of which conntrack knows nothing;
/// false if it is no answer of a backend.
#[inline(never)]
pub(crate) fn answer_of_node<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<bool, DropReason> {
    if !matches!(scratch.flow.kind, Kind::Session | Kind::Error) || !recall::<F>(tables, scratch, 1)
    {
        return Ok(false);
    }
    translate::<F>(packet, scratch).ok_or(DropReason::PacketWrite)?;
    Ok(true)
}

fn set_key(key: &mut ServiceFlowKey, tuple: &Tuple, reply: u8) {
    key.source = tuple.source;
    key.destination = tuple.destination;
    key.source_port = tuple.source_port;
    key.destination_port = tuple.destination_port;
    key.protocol = tuple.protocol;
    key.reply = reply;
    key.pad = [0; 2];
}

/// Finds the entry of the packet's flow and direction, and marks it as in use;
/// false if there is none that may be used. Once a second the other direction's
/// is looked after too.
#[inline(never)]
pub(crate) fn recall<F: Family>(tables: &impl Tables, scratch: &mut Scratch, reply: u8) -> bool {
    let Scratch {
        flow,
        before,
        service_key,
        service_flow,
        ..
    } = scratch;
    *before = *flow.tracked();
    set_key(service_key, before, reply);
    let Some(mut entry) = tables.service_flow(service_key) else {
        return false;
    };
    let now_s = tables.now_s();
    let flags = entry.flags | seen(flow);
    if flags != entry.flags {
        entry.flags = flags;
    }
    *service_flow = *entry;
    if entry.seen_s == now_s {
        return true;
    }
    entry.seen_s = now_s;
    service_flow.seen_s = now_s;
    // Let go before the other direction is looked up.
    drop(entry);
    look_after::<F>(tables, scratch)
}

/// What a packet says of its direction.
#[inline(always)]
pub(crate) fn seen(flow: &Flow) -> u32 {
    let ends = flow.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0;
    ServiceFlowFlags::SEEN | if ends { ServiceFlowFlags::ENDS } else { 0 }
}

/// Fills in the other direction of `service_key` and `service_flow`.
#[inline(never)]
pub(crate) fn set_partner(scratch: &mut Scratch) {
    let Scratch {
        service_key: key,
        service_flow: flow,
        service_partner: partner,
        service_back: back,
        ..
    } = scratch;
    *partner = flow.turned(key.protocol, key.reply ^ 1);
    *back = ServiceFlow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        flags: 0,
        ..*flow
    };
}

/// Whether two entries lead to the same ends.
#[inline(always)]
pub(crate) fn leads_alike(a: &ServiceFlow, b: &ServiceFlow) -> bool {
    // Not one after the other: the kernel walks what follows each way out of that.
    same(&a.source, &b.source)
        & same(&a.destination, &b.destination)
        & (a.source_port == b.source_port)
        & (a.destination_port == b.destination_port)
}

/// Puts back the other direction's entry, and the claim to a port of the node;
/// false if either has gone to another flow since.
#[inline(never)]
fn look_after<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    set_partner(scratch);
    let Scratch {
        service_partner,
        service_back,
        ..
    } = scratch;
    let is_ours = match tables.service_flow(service_partner) {
        Some(found) => leads_alike(&found, service_back),
        None => tables.service_flow_create(service_partner, service_back),
    };
    is_ours && hold_port::<F>(tables, scratch)
}

/// Marks the port of the node as in use that a flow has, if it has one; false if
/// it is another's.
#[inline(never)]
pub(crate) fn hold_port<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    set_claim(scratch);
    let node = F::node(tables.config());
    let Scratch {
        nat_key, nat_entry, ..
    } = scratch;
    // Who is known by the node's address and is not the node has a port of it.
    if !same(&nat_key.destination, &node) || same(&nat_entry.addr, &node) {
        return true;
    }
    nat_entry.seen_s = tables.now_s();
    if let Some(mut found) = tables.nat(nat_key) {
        let is_ours = claims_alike(&found, nat_entry);
        if is_ours {
            found.seen_s = nat_entry.seen_s;
        }
        return is_ours;
    }
    tables.nat_create(nat_key, nat_entry)
}

/// Whether the port of the node in `nat_key` is nobody else's towards the backend.
#[inline(always)]
pub(crate) fn is_lendable(tables: &impl Tables, scratch: &Scratch) -> bool {
    let Scratch {
        nat_key, nat_entry, ..
    } = scratch;
    match tables.nat(nat_key) {
        Some(found) => claims_alike(&found, nat_entry),
        None => true,
    }
}

/// Whether a claim to a port is the same flow's.
#[inline(always)]
fn claims_alike(found: &NatEntry, own: &NatEntry) -> bool {
    // Not one after the other: the kernel walks what follows each way out of that.
    (found.node_own == NatOwner::SERVICE) & same(&found.addr, &own.addr) & (found.port == own.port)
}

/// The claim to the port by which the flow's client is known to the backend:
/// `nat_key` and `nat_entry`.
#[inline(always)]
pub(crate) fn set_claim(scratch: &mut Scratch) {
    let Scratch {
        service_key: key,
        service_flow: flow,
        service_partner: partner,
        service_back: back,
        nat_key,
        nat_entry,
        ..
    } = scratch;
    // Of the entries of both directions, the backend's.
    let (key, flow) = if key.reply == 1 {
        (key, flow)
    } else {
        (partner, back)
    };
    *nat_key = NatKey {
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        inbound: 1,
        pad: [0; 2],
    };
    *nat_entry = NatEntry {
        addr: flow.destination,
        port: flow.destination_port,
        node_own: NatOwner::SERVICE,
        seen_s: 0,
    };
}
