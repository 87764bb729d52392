//! The node itself, where its own traffic is held to policy (the host
//! firewall).
//!
//! | Traffic | Held at | What is asked |
//! |---|---|---|
//! | network → node | `from_netdev`, before the stack translates addresses | ingress of the node |
//! | node → network | `to_netdev`, before we do | egress of the node |
//! | endpoint → node | `from_endpoint` | egress of the endpoint, then ingress of the node |
//! | node → endpoint | `to_endpoint` | egress of the node, then ingress of the endpoint |
//! | what the node only forwards | — | — |
//!
//! The node's row is that of [`HOST_DEVICE`]; without one nothing is held. A
//! flow's entry keeps no number of the node's set, but 0 as for anybody who is no
//! endpoint: whoever changes the node's policy begins a new epoch.

use axon_abi::{
    ConfigFlags, DropReason, EndpointRow, HOST_DEVICE, Identity, IpcacheFlags, ObservationPoint,
};

use crate::conntrack::{Sets, track};
use crate::event;
use crate::family::{Family, same};
use crate::header::protocol;
use crate::icmp::{Message, REDIRECT_V6};
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::{Kind, Scratch, Translated};
use crate::tables::{LOOPBACK, Tables};

const _: () = assert!(HOST_DEVICE == LOOPBACK);

/// Whether the node has a firewall: all that it costs where it has none.
#[inline(always)]
pub(crate) fn is_held(tables: &impl Tables) -> bool {
    tables.config().flags & ConfigFlags::HOST_FIREWALL != 0
}

/// The row of the node itself, if it has a firewall.
#[inline(always)]
pub(crate) fn row<T: Tables>(tables: &T) -> Option<&EndpointRow> {
    if is_held(tables) {
        tables.endpoint(HOST_DEVICE)
    } else {
        None
    }
}

/// Holds a packet from the network to the node's policy, if it is for the node;
/// `scratch.of_host` says whether it was.
#[inline(never)]
pub(crate) fn receive<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let Some(row) = tables.endpoint(HOST_DEVICE) else {
        return Ok(());
    };
    if let Some(addr) = F::destination(packet) {
        scratch.lpm.addr = addr;
    } else {
        return Ok(());
    }
    find::<F>(tables, scratch);
    if !scratch.of_host {
        return Ok(());
    }
    scratch.destination_identity = Identity::HOST;
    hold::<F>(packet, tables, scratch, row.id)?;
    if scratch.report {
        event::report_trace(packet, tables, scratch, ObservationPoint::ToHost, 0);
    }
    Ok(())
}

/// Holds a packet that leaves by an uplink to the node's policy, if it is the
/// node's; `scratch.of_host` says whether it is.
///
/// What another device has brought, and the node's stack has given the node's
/// address, is known from then on, so that its answers pass, but nothing is
/// asked: others have sent it.
#[inline(never)]
pub(crate) fn send<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let Some(row) = tables.endpoint(HOST_DEVICE) else {
        return Ok(());
    };
    if scratch.endpoint != 0 {
        return Ok(());
    }
    if let Some(addr) = F::source(packet) {
        scratch.lpm.addr = addr;
    } else {
        return Ok(());
    }
    find::<F>(tables, scratch);
    if !scratch.of_host {
        return Ok(());
    }
    scratch.source_identity = Identity::HOST;
    scratch.borrowed = packet.ingress_ifindex() > LOOPBACK;
    scratch.borrower = Identity::HOST;
    hold::<F>(packet, tables, scratch, row.id)?;
    if scratch.report {
        event::report_trace(packet, tables, scratch, ObservationPoint::ToNetwork, 0);
        scratch.report = false;
    }
    // What is done to it from here on is done to what leaves the node.
    scratch.endpoint = 0;
    Ok(())
}

/// Whether the address in `scratch.lpm` is the node's: the one that it is known
/// by, another of its devices', or one of the link, which nobody else is sent by
/// way of us. A device may have any address, also one that is not routed.
#[inline(never)]
fn find<F: Family>(tables: &impl Tables, scratch: &mut Scratch) {
    let addr = &scratch.lpm.addr;
    let known = if F::unroutable(addr) {
        F::on_link(addr)
    } else {
        same(addr, &F::node(tables.config()))
    };
    scratch.of_host = known || {
        let row = tables.ipcache(addr);
        row.is_some_and(|row| row.flags & IpcacheFlags::LOCAL_HOST != 0)
    };
}

/// Reads the packet and holds it to conntrack and to the node's policy.
#[inline(never)]
fn hold<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    id: u16,
) -> Result<(), DropReason> {
    match parse::<F>(packet, tables, scratch) {
        Ok(()) => {}
        // What rules the link: neighbours, routers, groups (RFC 4890 section 4.4.1).
        Err(DropReason::ForbiddenIcmpv6Message) if scratch.flow.icmp_type != REDIRECT_V6 => {
            return Ok(());
        }
        // What turns the node's own ways aside, or nobody knows, is asked about.
        Err(
            DropReason::ForbiddenIcmpv6Message
            | DropReason::UnknownIcmpv4Type
            | DropReason::UnknownIcmpv4Code,
        ) => {}
        // Without ports there are no flows: the protocol is asked about, each time.
        Err(DropReason::CtUnknownL4Protocol) => {}
        Err(DropReason::FragmentNotFound | DropReason::FragmentNotFoundWorld)
            if !has_ports::<F>(scratch.flow.tuple.protocol) => {}
        Err(reason) => {
            scratch.endpoint = id;
            return Err(reason);
        }
    }
    scratch.endpoint = id;
    if scratch.from_outside && matches!(scratch.translated, Translated::Not) {
        event::report_received(packet, tables, scratch, ObservationPoint::FromNetwork);
    }
    if is_error::<F>(scratch) {
        return Ok(());
    }
    let sets = Sets {
        sender: Some(0),
        receiver: 0,
    };
    track::<F>(packet, tables, scratch, sets)
}

/// Whether packets of a protocol tell their ports, or what stands for them.
#[inline(always)]
fn has_ports<F: Family>(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP) || number == F::ICMP
}

/// Whether the packet reports what became of another: too large, unreachable.
/// The stack holds it against its own connections, and without it some of them
/// would hang.
#[inline(always)]
fn is_error<F: Family>(scratch: &Scratch) -> bool {
    let flow = &scratch.flow;
    match flow.kind {
        Kind::Error => true,
        Kind::Single => {
            flow.icmp && matches!(F::icmp(flow.icmp_type, flow.icmp_code), Message::Error)
        }
        Kind::Session | Kind::Query | Kind::Answer => false,
    }
}
