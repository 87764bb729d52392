//! Masquerading: endpoints that speak to the world do so from the node's
//! address.
//!
//! The node's own flows from the same ports are entered too, so that no two
//! flows towards one peer ever share a port; only where an endpoint was first
//! does the node's flow take another.

use axon_abi::{
    Be16, CtFlags, DropReason, IpKey, LpmKey, NatEntry, NatOwner, ObservationPoint, Scope,
    TraceReason,
};

use crate::event;
use crate::family::{Family, same};
use crate::header::protocol;
use crate::identity::who;
use crate::nat::{End, rewrite, set_key};
use crate::packet::Packet;
use crate::scratch::{Kind, Scratch, Way};
use crate::tables::Tables;

/// Ports that are tried before a flow is given up.
const TRIES: u32 = 32;

/// Translates a parsed packet that leaves: of an endpoint, or (`own`) of the
/// node itself. What is not translated stays what it is.
#[inline(never)]
pub(crate) fn masquerade<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    own: bool,
) -> Result<(), DropReason> {
    let config = tables.config();
    let tuple = scratch.flow.tracked();
    // An error about somebody else's packet stays what it is.
    let turned = matches!(scratch.flow.kind, Kind::Error)
        && !same(&scratch.flow.about.source, &scratch.flow.tuple.source);
    let port = tuple.source_port.get();
    let free = own && (port < config.nat_port_min || port > config.nat_port_max);
    if turned || free {
        return Ok(());
    }
    set_key(&mut scratch.nat_key, tuple, 0);
    if !known(tables, scratch) {
        match scratch.flow.kind {
            Kind::Session | Kind::Query => {}
            Kind::Answer | Kind::Error | Kind::Single => return Ok(()),
        }
        if !own && !leaves::<F>(tables, scratch) {
            return Ok(());
        }
        if scratch.flow.tuple.protocol == protocol::SCTP {
            // Its checksum cannot be corrected by difference.
            return if own {
                Ok(())
            } else {
                Err(DropReason::UnsupportedNatProtocol)
            };
        }
        allocate::<F>(tables, scratch, own)?;
        scratch.report = !own && config.flags & axon_abi::ConfigFlags::EVENT_TRACE != 0;
        scratch.seen = Some(TraceReason::New);
    }
    if own && scratch.nat_entry.port == scratch.nat_key.source_port {
        return Ok(());
    }
    scratch.source_before_nat = scratch.flow.tuple.source;
    rewrite::<F>(packet, scratch, End::Source).ok_or(DropReason::PacketWrite)?;
    if scratch.report {
        event::report_trace(packet, tables, scratch, ObservationPoint::ToNetwork, 0);
    }
    scratch.way = Way::Pass;
    Ok(())
}

/// Finds the flow's translation; once a second it is marked as in use, both
/// ways.
#[inline(always)]
fn known(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    let Scratch {
        nat_key, nat_entry, ..
    } = scratch;
    let Some(mut entry) = tables.nat(nat_key) else {
        return false;
    };
    let now_s = tables.now_s();
    *nat_entry = *entry;
    if entry.seen_s == now_s {
        return true;
    }
    entry.seen_s = now_s;
    // Let go before the other way is looked up.
    drop(entry);
    restore(tables, scratch, now_s)
}

/// Puts back the way back of a translation, should it have been evicted; false
/// if its port has gone to another flow since.
#[inline(never)]
fn restore(tables: &impl Tables, scratch: &mut Scratch, now_s: u32) -> bool {
    let Scratch {
        nat_key,
        nat_back,
        nat_entry,
        ..
    } = scratch;
    nat_back.source = nat_key.destination;
    nat_back.destination = nat_entry.addr;
    nat_back.source_port = nat_key.destination_port;
    nat_back.destination_port = nat_entry.port;
    nat_back.protocol = nat_key.protocol;
    nat_back.inbound = 1;
    nat_back.pad = [0; 2];
    let entry = NatEntry {
        addr: nat_key.source,
        port: nat_key.source_port,
        node_own: nat_entry.node_own,
        seen_s: now_s,
    };
    claim(tables, scratch, &entry)
}

/// Makes `scratch.nat_back` this flow's, unless it is another's.
#[inline(always)]
fn claim(tables: &impl Tables, scratch: &Scratch, entry: &NatEntry) -> bool {
    if let Some(found) = tables.nat(&scratch.nat_back) {
        return same(&found.addr, &entry.addr) && found.port == entry.port;
    }
    tables.nat_create(&scratch.nat_back, entry)
}

/// Whether an endpoint's packet leaves the cluster, and is no answer to what
/// reached the endpoint under its own address.
#[inline(never)]
fn leaves<F: Family>(tables: &impl Tables, scratch: &mut Scratch) -> bool {
    scratch.lpm = LpmKey::host(scratch.flow.tuple.destination);
    if tables.no_masquerade(&scratch.lpm) {
        return false;
    }
    let Scratch { flow, lpm, .. } = scratch;
    let receiver = who(tables, &flow.tuple.destination, lpm).identity;
    scratch.destination_identity = receiver;
    let outside = match receiver.scope() {
        Scope::World | Scope::Unknown => true,
        Scope::Host
        | Scope::Unmanaged
        | Scope::Health
        | Scope::Init
        | Scope::RemoteNode
        | Scope::KubeApiserver
        | Scope::Ingress
        | Scope::Cluster => false,
    };
    if !outside {
        return false;
    }
    let low = F::key(scratch);
    match F::entry(tables, scratch) {
        Some(entry) => (entry.flags & CtFlags::OPENED_BY_LOW != 0) == low,
        None => true,
    }
}

/// Finds a port of the node for a new flow: its own if that is free, else some
/// at random. The node's own flow at last keeps its own port, unless a flow
/// that lives has it.
#[inline(never)]
fn allocate<F: Family>(
    tables: &impl Tables,
    scratch: &mut Scratch,
    own: bool,
) -> Result<(), DropReason> {
    let config = tables.config();
    let (first, last) = (
        u32::from(config.nat_port_min),
        u32::from(config.nat_port_max),
    );
    let range = last.wrapping_sub(first).wrapping_add(1) & 0x1_ffff;
    if range == 0 || last < first {
        return Err(DropReason::NoNatMapping);
    }
    let now_s = tables.now_s();
    let node: IpKey = F::node(config);
    let Scratch { flow, nat_back, .. } = scratch;
    let wanted = u32::from(flow.tuple.source_port.get());
    nat_back.source = flow.tuple.destination;
    nat_back.destination = node;
    nat_back.source_port = flow.tuple.destination_port;
    nat_back.protocol = flow.tuple.protocol;
    nat_back.inbound = 1;
    nat_back.pad = [0; 2];
    // A node may have no address of the family, or none yet.
    if F::unroutable(&nat_back.destination) {
        return Err(DropReason::NoNatMapping);
    }
    let mut entry = NatEntry {
        addr: flow.tuple.source,
        port: flow.tuple.source_port,
        node_own: if own {
            NatOwner::NODE
        } else {
            NatOwner::ENDPOINT
        },
        seen_s: now_s,
    };
    let mut n = 0;
    while n < TRIES {
        let kept = n == 0 && wanted >= first && wanted <= last;
        let port = if kept {
            wanted
        } else {
            first + tables.random() % range
        };
        scratch.nat_back.destination_port = Be16::new(port as u16);
        if claim(tables, scratch, &entry) {
            entry.addr = node;
            entry.port = Be16::new(port as u16);
            scratch.nat_entry = entry;
            return if tables.nat_insert(&scratch.nat_key, &entry) {
                Ok(())
            } else {
                Err(DropReason::NoNatMapping)
            };
        }
        n += 1;
    }
    if own && keeps(tables, scratch, now_s) {
        scratch.nat_entry = NatEntry {
            addr: node,
            port: Be16::new(wanted as u16),
            ..entry
        };
        return Ok(());
    }
    Err(DropReason::NoNatMapping)
}

/// Whether the node's own flow may keep its port: nobody has it, and only the
/// map has no room to say so; or the flow that has it has been silent for as
/// long as any of its kind may be.
#[inline(never)]
fn keeps(tables: &impl Tables, scratch: &mut Scratch, now_s: u32) -> bool {
    let timeouts = &tables.config().timeouts;
    let Scratch {
        flow,
        nat_key,
        nat_back,
        nat_entry,
        ..
    } = scratch;
    nat_back.destination_port = flow.tuple.source_port;
    let silence_s = if nat_back.protocol == protocol::TCP {
        timeouts.tcp_established_s
    } else {
        timeouts.two_way_s
    };
    let is_silent = |seen_s: u32| now_s.wrapping_sub(seen_s) as i32 > silence_s as i32;
    match tables.nat(nat_back) {
        Some(holder) => *nat_entry = *holder,
        None => return true,
    }
    // Either way may be silent for long; what the flow sends is in another entry.
    let own_key = *nat_key;
    nat_key.source = nat_entry.addr;
    nat_key.source_port = nat_entry.port;
    let sent_s = tables.nat(nat_key).map(|sent| sent.seen_s);
    *nat_key = own_key;
    if !is_silent(nat_entry.seen_s) || !sent_s.is_none_or(is_silent) {
        return false;
    }
    let entry = NatEntry {
        addr: nat_key.source,
        port: nat_key.source_port,
        node_own: NatOwner::NODE,
        seen_s: now_s,
    };
    tables.nat_insert(nat_back, &entry)
}
