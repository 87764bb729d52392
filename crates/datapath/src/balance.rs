//! From a packet that is for a frontend to a backend.
//!
//! ```text
//!  frontend? ── the address alone ──> answered: an echo, or that nobody listens
//!      └─ known flow, its backend still one? ── no ──> chosen ─> claimed
//! ```
//!
//! The packet stays as it is: what it is to become is in `scratch.service_flow`.

use axon_abi::{DropReason, FrontendKind, ServiceFlow, ServiceFlowFlags, ServiceFlowKey};

use crate::claim::claim;
use crate::family::{Family, same};
use crate::header::{protocol, tcp_flag};
use crate::icmp_error;
use crate::identity::who;
use crate::packet::Packet;
use crate::ping;
use crate::scratch::{Kind, Scratch, Translated};
use crate::serve::{recall, seen};
use crate::service::{Asker, ServiceTables, find_frontend, readmitted, select_id};
use crate::tables::Tables;

/// Finds out whether a parsed packet is for a frontend, and which backend it is
/// to go to: `scratch.translated` says what becomes of it.
#[inline(never)]
pub(crate) fn balance<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    asker: Asker,
) -> Result<(), DropReason> {
    if !find(tables, scratch, asker) {
        return Ok(());
    }
    let source = &scratch.flow.tuple.source;
    if matches!(asker, Asker::Network) && F::is_martian(source) {
        return Err(DropReason::InvalidSourceIp);
    }
    if scratch.frontend.entry.kind() == Some(FrontendKind::Address) {
        return close::<F>(packet, tables, scratch);
    }
    match scratch.flow.kind {
        Kind::Session => lead::<F>(tables, scratch),
        Kind::Error => {
            if !recall::<F>(tables, scratch, 0) {
                // About a flow that nobody knows, it is of use to nobody.
                return Err(DropReason::ServiceBackendNotFound);
            }
            scratch.opens = false;
            scratch.translated = Translated::Served;
            Ok(())
        }
        Kind::Single | Kind::Query | Kind::Answer => Err(DropReason::ServiceBackendNotFound),
    }
}

/// Looks for the frontend of the packet's destination.
#[inline(never)]
fn find(tables: &impl Tables, scratch: &mut Scratch, asker: Asker) -> bool {
    let Scratch {
        flow,
        ask,
        frontend,
        ..
    } = scratch;
    let tuple = flow.tracked();
    // One after the other: as a whole it would be made on the stack first.
    ask.addr = tuple.destination;
    ask.client = tuple.source;
    ask.source = tuple.source;
    ask.port = tuple.destination_port;
    ask.source_port = tuple.source_port;
    ask.protocol = tuple.protocol;
    ask.asker = asker;
    find_frontend(tables.services(), ask, frontend)
}

/// Leads a packet of a flow to its backend, or chooses one.
#[inline(always)]
fn lead<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> Result<(), DropReason> {
    scratch.opens = !is_known::<F>(tables, scratch)?;
    if scratch.opens {
        let Some(backend_flags) = choose::<F>(tables, scratch)? else {
            refuse::<F>(scratch);
            return Ok(());
        };
        claim::<F>(tables, scratch, backend_flags)?;
    }
    scratch.translated = Translated::Served;
    Ok(())
}

/// Whether the packet's flow is known and may go on to its backend.
#[inline(never)]
fn is_known<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> Result<bool, DropReason> {
    if !recall::<F>(tables, scratch, 0) || reopens(tables, scratch) {
        return Ok(false);
    }
    let generation = scratch.frontend.entry.generation;
    if scratch.service_flow.generation == generation {
        return Ok(true);
    }
    readmitted(tables.services(), &scratch.ask, &scratch.frontend)?;
    let flow = &scratch.service_flow;
    let backend = tables.services().backend(flow.backend);
    let is_valid = backend.is_some_and(|backend| {
        backend.service == flow.service && backend.generation == flow.backend_generation
    });
    if is_valid && let Some(mut entry) = tables.service_flow(&scratch.service_key) {
        entry.generation = generation;
    }
    Ok(is_valid)
}

/// Whether the packet opens a new connection where an old one has ended.
#[inline(never)]
fn reopens(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    let flow = &scratch.flow;
    let is_syn = flow.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
    if flow.tuple.protocol != protocol::TCP || !is_syn {
        return false;
    }
    let entry = &scratch.service_flow;
    if entry.flags & ServiceFlowFlags::ENDS != 0 {
        return true;
    }
    scratch.service_partner = entry.turned(protocol::TCP, 1);
    tables
        .service_flow(&scratch.service_partner)
        .is_some_and(|back| back.flags & ServiceFlowFlags::ENDS != 0)
}

/// Chooses a backend for a new flow, and gives back its flags; `None` if it is to
/// be refused.
#[inline(never)]
fn choose<F: Family>(
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<Option<u32>, DropReason> {
    if is_forged::<F>(tables, scratch) {
        return Err(DropReason::InvalidSourceIp);
    }
    if scratch.from_outside {
        let Scratch { before, lpm, .. } = scratch;
        scratch.source_identity = who(tables, &before.source, lpm).identity;
    }
    select(tables, scratch)?;
    let id = scratch.service_flow.backend;
    if id == NOBODY {
        return Ok(None);
    }
    let backend = tables.services().backend(id);
    let backend = backend.ok_or(DropReason::ServiceBackendNotFound)?;
    if backend.addr.is_v4() != (F::VERSION == 4) {
        return Err(DropReason::Nat4664NotEnabled);
    }
    let Scratch {
        flow,
        before,
        frontend,
        service_key: key,
        service_flow: new,
        ..
    } = scratch;
    *key = ServiceFlowKey {
        source: before.source,
        destination: before.destination,
        source_port: before.source_port,
        destination_port: before.destination_port,
        protocol: before.protocol,
        reply: 0,
        pad: [0; 2],
    };
    *new = ServiceFlow {
        source: before.source,
        destination: backend.addr,
        source_port: before.source_port,
        destination_port: backend.port,
        backend: id,
        service: backend.service,
        generation: frontend.entry.generation,
        backend_generation: backend.generation,
        seen_s: tables.now_s(),
        flags: seen(flow),
    };
    Ok(Some(backend.flags))
}

/// No backend's id.
const NOBODY: u32 = 0;

/// Chooses the backend of `scratch.service_flow`; [`NOBODY`] if there is none.
#[inline(never)]
fn select(tables: &impl Tables, scratch: &mut Scratch) -> Result<(), DropReason> {
    let Scratch {
        ask,
        frontend,
        service_flow,
        ..
    } = scratch;
    let chosen = select_id(tables.services(), ask, frontend)?;
    service_flow.backend = chosen.map_or(NOBODY, |(id, _)| id);
    Ok(())
}

/// Whether the network says that it is this node or an endpoint of it.
#[inline(always)]
fn is_forged<F: Family>(tables: &impl Tables, scratch: &Scratch) -> bool {
    let source = &scratch.flow.tuple.source;
    scratch.from_outside
        && (tables.address(source).is_some() || same(source, &F::node(tables.config())))
}

/// At an address whose port, if it says one, is no service's.
#[inline(never)]
fn close<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if is_forged::<F>(tables, scratch) {
        return Err(DropReason::InvalidSourceIp);
    }
    let [echo, _] = F::ECHO;
    match scratch.flow.kind {
        Kind::Query if scratch.flow.icmp_type == echo => {
            ping::answer::<F>(packet, scratch).ok_or(DropReason::PacketWrite)?;
            scratch.reflect(None);
            scratch.translated = Translated::Answered;
            Ok(())
        }
        Kind::Session => {
            refuse::<F>(scratch);
            Ok(())
        }
        Kind::Single | Kind::Query | Kind::Answer | Kind::Error => {
            Err(DropReason::ServiceBackendNotFound)
        }
    }
}

/// Has the sender told that nobody is there.
#[inline(always)]
fn refuse<F: Family>(scratch: &mut Scratch) {
    icmp_error::port_unreachable::<F>(scratch);
    scratch.translated = Translated::Answered;
}
