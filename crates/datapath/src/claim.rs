//! Who stands for the client of a new flow of a service, towards the backend.
//!
//! | Backend | The client is known as |
//! |---|---|
//! | the client itself | [`Family::HAIRPIN`], its own port |
//! | of this node, or asked from inside | itself |
//! | elsewhere, asked from the network | the node, a port of it: answers have to come back here |
//!
//! Towards one backend no two flows ever have the same ends: where a client's own
//! port is taken (it speaks to the backend by another frontend, or without one) it
//! gets another.

use axon_abi::{BackendFlags, Be16, CtFlags, DropReason};

use crate::family::{Family, same};
use crate::header::protocol;
use crate::scratch::{Scratch, Tuple};
use crate::serve::{hold_port, is_lendable, leads_alike, set_claim, set_partner};
use crate::service::Asker;
use crate::tables::Tables;

/// Ports that are tried before a flow is given up.
const TRIES: u32 = 32;

/// Makes the entries of a flow to the backend in `scratch.service_flow`.
#[inline(never)]
pub(crate) fn claim<F: Family>(
    tables: &impl Tables,
    scratch: &mut Scratch,
    backend_flags: u32,
) -> Result<(), DropReason> {
    set_source::<F>(tables, scratch, backend_flags);
    if find_port::<F>(tables, scratch) {
        take::<F>(tables, scratch)
    } else if scratch.before.protocol == protocol::SCTP {
        Err(DropReason::UnsupportedNatProtocol)
    } else {
        Err(DropReason::NoNatMapping)
    }
}

/// Tries ports until one is free; false if none is found, or the flow may have no
/// other.
///
/// All that it depends on is in memory: the kernel walks each try once then.
#[inline(never)]
fn find_port<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    if !set_first_port(tables, scratch) {
        return false;
    }
    let mut n = 0;
    while n < TRIES {
        if is_free::<F>(tables, scratch) {
            return true;
        }
        if !set_port(tables, scratch) {
            return false;
        }
        n += 1;
    }
    false
}

/// Gives the flow, and what is known of its answers, the port that its client has, if
/// that may be.
#[inline(never)]
fn set_first_port(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    let Scratch {
        before,
        service_flow: new,
        ..
    } = scratch;
    // Its checksum cannot be corrected by difference.
    let is_fixed = before.protocol == protocol::SCTP;
    if is_fixed && before.destination_port != new.destination_port {
        return false;
    }
    let wanted = before.source_port.get();
    new.source_port = before.source_port;
    set_partner(scratch);
    set_claim(scratch);
    let config = tables.config();
    let is_kept = wanted >= config.nat_port_min && wanted <= config.nat_port_max;
    is_kept || !scratch.lends || set_port(tables, scratch)
}

/// The same with a port by chance.
#[inline(never)]
fn set_port(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    if scratch.before.protocol == protocol::SCTP {
        return false;
    }
    let config = tables.config();
    let (first, last) = (
        u32::from(config.nat_port_min),
        u32::from(config.nat_port_max),
    );
    // None, if there are none.
    let range = (last + 1).saturating_sub(first);
    let Some(n) = tables.random().checked_rem(range) else {
        return false;
    };
    let port = Be16::new((first + n) as u16);
    scratch.service_flow.source_port = port;
    scratch.service_partner.destination_port = port;
    scratch.nat_key.destination_port = port;
    true
}

/// Fills in the source address; `scratch.lends` says whether it is the node's, on
/// loan.
///
/// Where backends answer clients themselves (DSR) it would be the client's too.
#[inline(never)]
fn set_source<F: Family>(tables: &impl Tables, scratch: &mut Scratch, backend_flags: u32) {
    let Scratch {
        ask,
        before,
        service_flow: flow,
        lends,
        ..
    } = scratch;
    let is_inside = matches!(ask.asker, Asker::Pod | Asker::Node);
    *lends = false;
    if is_inside && same(&flow.destination, &before.source) {
        flow.source = F::HAIRPIN;
        return;
    }
    flow.source = before.source;
    if !is_inside && backend_flags & BackendFlags::LOCAL == 0 {
        flow.source = F::node(tables.config());
        *lends = true;
    }
}

/// Whether answers to the source that the flow would have are nobody else's.
///
/// It only looks: the kernel walks this once for every try.
#[inline(never)]
fn is_free<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    let is_free = if scratch.lends {
        is_lendable(tables, scratch)
    } else {
        !is_direct::<F>(tables, scratch)
    };
    let Scratch {
        service_partner,
        service_back,
        ..
    } = scratch;
    is_free
        && match tables.service_flow(service_partner) {
            Some(found) => leads_alike(&found, service_back),
            None => true,
        }
}

/// Makes the entries of a flow whose ends are free; whoever was faster keeps them,
/// and the client's next packet finds others.
#[inline(never)]
fn take<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> Result<(), DropReason> {
    let is_held = hold_port::<F>(tables, scratch);
    let Scratch {
        service_key,
        service_flow,
        service_partner,
        service_back,
        ..
    } = scratch;
    // Let go before it is written.
    let known = tables
        .service_flow(service_partner)
        .map(|found| leads_alike(&found, service_back));
    let is_ours = is_held
        && match known {
            Some(true) => tables.service_flow_insert(service_partner, service_back),
            Some(false) => false,
            None => tables.service_flow_create(service_partner, service_back),
        };
    if is_ours && tables.service_flow_insert(service_key, service_flow) {
        Ok(())
    } else {
        Err(DropReason::NoNatMapping)
    }
}

/// Whether the same ends already speak to each other without a service.
#[inline(never)]
fn is_direct<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    let Scratch {
        flow,
        before,
        service_flow: new,
        ..
    } = scratch;
    flow.tuple = Tuple {
        source: new.source,
        destination: new.destination,
        source_port: new.source_port,
        destination_port: new.destination_port,
        ..*before
    };
    let _ = F::key(scratch);
    scratch.flow.tuple = scratch.before;
    F::entry(tables, scratch).is_some_and(|entry| {
        entry.flags & CtFlags::SERVICE == 0 && tables.now_s() < entry.expires_s
    })
}
