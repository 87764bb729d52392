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
use crate::serve::{hold_port, leads_alike, set_partner};
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
    let is_lent = set_source::<F>(tables, scratch, backend_flags);
    let config = tables.config();
    let (first, last) = (
        u32::from(config.nat_port_min),
        u32::from(config.nat_port_max),
    );
    // None, if there are none.
    let range = (last + 1).saturating_sub(first);
    let wanted = u32::from(scratch.before.source_port.get());
    // Its checksum cannot be corrected by difference.
    let is_fixed = scratch.before.protocol == protocol::SCTP;
    if is_fixed && scratch.before.destination_port != scratch.service_flow.destination_port {
        return Err(DropReason::UnsupportedNatProtocol);
    }
    let mut n = 0;
    while n < TRIES {
        let is_kept = n == 0 && (!is_lent || wanted >= first && wanted <= last);
        let port = if is_kept {
            wanted
        } else if is_fixed {
            return Err(DropReason::UnsupportedNatProtocol);
        } else {
            let Some(n) = tables.random().checked_rem(range) else {
                break;
            };
            first + n
        };
        scratch.service_flow.source_port = Be16::new(port as u16);
        if take::<F>(tables, scratch, is_lent) {
            let is_written =
                tables.service_flow_insert(&scratch.service_key, &scratch.service_flow);
            return if is_written {
                Ok(())
            } else {
                Err(DropReason::NoNatMapping)
            };
        }
        n += 1;
    }
    Err(DropReason::NoNatMapping)
}

/// Fills in the source address; whether it is the node's, on loan.
///
/// Where backends answer clients themselves (DSR) it would be the client's too.
#[inline(never)]
fn set_source<F: Family>(tables: &impl Tables, scratch: &mut Scratch, backend_flags: u32) -> bool {
    let Scratch {
        ask,
        before,
        service_flow: flow,
        ..
    } = scratch;
    let is_inside = matches!(ask.asker, Asker::Pod | Asker::Node);
    if is_inside && same(&flow.destination, &before.source) {
        flow.source = F::HAIRPIN;
        return false;
    }
    flow.source = before.source;
    if is_inside || backend_flags & BackendFlags::LOCAL != 0 {
        return false;
    }
    flow.source = F::node(tables.config());
    true
}

/// Makes the entry of the answers with the source that the flow would have; false
/// if they are another flow's.
#[inline(never)]
fn take<F: Family>(tables: &impl Tables, scratch: &mut Scratch, is_lent: bool) -> bool {
    set_partner(scratch);
    let Scratch {
        service_partner,
        service_back,
        ..
    } = scratch;
    let known = tables
        .service_flow(service_partner)
        .map(|found| leads_alike(&found, service_back));
    if known == Some(false) {
        return false;
    }
    let is_free = if is_lent {
        hold_port::<F>(tables, scratch)
    } else {
        !is_direct::<F>(tables, scratch)
    };
    if !is_free {
        return false;
    }
    let Scratch {
        service_partner,
        service_back,
        ..
    } = scratch;
    if known.is_some() {
        tables.service_flow_insert(service_partner, service_back)
    } else {
        tables.service_flow_create(service_partner, service_back)
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
