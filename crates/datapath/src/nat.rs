//! Rewriting an address and port, and the way back.
//!
//! A translation is two entries: outbound, by what the endpoint sends, and
//! inbound, by what answers it. Whoever sweeps them looks at both, since
//! either side may be silent for long.

use axon_abi::{Be16, DropReason, NatKey, NatOwner, ObservationPoint};

use crate::checksum::{address, difference, half};
use crate::event;
use crate::family::{Family, same};
use crate::header::protocol;
use crate::packet::{Checksum, Packet};
use crate::parse::parse;
use crate::scratch::{Flow, Fragmentation, Kind, Scratch, Translated, Tuple};
use crate::tables::Tables;

/// Where a packet to the node's address turned out to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    /// To an endpoint; the packet is rewritten.
    Endpoint,
    /// To the node, on another port; the packet is rewritten.
    Node,
    /// To the node, as it is.
    Untouched,
    /// As it is, but it cannot be read.
    Unread,
    /// To the client of a service; the packet is as it was.
    Client,
}

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The source: the packet leaves.
    Source,
    /// The destination: the packet comes back.
    Destination,
}

/// Fills in the key of a translation from the packet's tuple.
#[inline(always)]
pub(crate) fn set_key(key: &mut NatKey, tuple: &Tuple, inbound: u8) {
    key.source = tuple.source;
    key.destination = tuple.destination;
    key.source_port = tuple.source_port;
    key.destination_port = tuple.destination_port;
    key.protocol = tuple.protocol;
    key.inbound = inbound;
    key.pad = [0; 2];
}

/// Reads a packet to the node's address, and translates it back if it answers
/// what was translated.
#[inline(never)]
pub(crate) fn back<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<Back, DropReason> {
    if parse::<F>(packet, tables, scratch).is_err() {
        return Ok(Back::Unread);
    }
    let Scratch {
        flow,
        nat_key,
        nat_entry,
        ..
    } = scratch;
    set_key(nat_key, flow.tracked(), 1);
    let Some(mut entry) = tables.nat(nat_key) else {
        return Ok(Back::Untouched);
    };
    let now_s = tables.now_s();
    if entry.seen_s != now_s {
        entry.seen_s = now_s;
    }
    *nat_entry = *entry;
    if nat_entry.node_own == NatOwner::SERVICE {
        return Ok(Back::Client);
    }
    let own = nat_entry.node_own == NatOwner::NODE;
    if own && nat_entry.port == nat_key.destination_port {
        return Ok(Back::Untouched);
    }
    event::report_received(packet, tables, scratch, ObservationPoint::FromNetwork);
    rewrite::<F>(packet, scratch, End::Destination).ok_or(DropReason::PacketWrite)?;
    scratch.translated = Translated::Back;
    Ok(if own { Back::Node } else { Back::Endpoint })
}

/// Puts the address and port of `scratch.nat_entry` into one end of the
/// packet, and of the packet it quotes.
#[inline(never)]
pub(crate) fn rewrite<F: Family>(
    packet: &mut impl Packet,
    scratch: &mut Scratch,
    end: End,
) -> Option<()> {
    let Scratch {
        flow,
        nat_entry: new,
        ..
    } = scratch;
    let at = match end {
        End::Source => F::SOURCE_AT,
        End::Destination => F::SOURCE_AT + F::ADDR_LEN,
    };
    let v6 = F::VERSION == 6;
    let change = difference(old_sum(flow, end, v6), address(&new.addr, v6));
    // An error may come from a router, which is no end of the flow.
    let is_end = is_end(flow, end);
    if is_end {
        F::store_address(packet, at, &new.addr)?;
        if !v6 {
            packet.fix_ip_checksum(24, change)?;
        }
    }
    if matches!(flow.kind, Kind::Error) {
        rewrite_quote::<F>(packet, scratch, end, (change, is_end))?;
    } else if !matches!(flow.fragmentation, Fragmentation::Later) {
        rewrite_transport::<F>(packet, scratch, end, change)?;
    }
    let Scratch {
        flow,
        nat_entry: new,
        ..
    } = scratch;
    let (tuple, error) = match flow.kind {
        Kind::Error => (&mut flow.about, true),
        Kind::Single | Kind::Session | Kind::Query | Kind::Answer => (&mut flow.tuple, false),
    };
    match end {
        End::Source => (tuple.source, tuple.source_port) = (new.addr, new.port),
        End::Destination => (tuple.destination, tuple.destination_port) = (new.addr, new.port),
    }
    if error && is_end {
        match end {
            End::Source => flow.tuple.source = new.addr,
            End::Destination => flow.tuple.destination = new.addr,
        }
    }
    Some(())
}

/// The sum of the address at an end of the tracked flow.
#[inline(never)]
fn old_sum(flow: &Flow, end: End, v6: bool) -> u32 {
    let tuple = flow.tracked();
    match end {
        End::Source => address(&tuple.source, v6),
        End::Destination => address(&tuple.destination, v6),
    }
}

/// Whether the packet itself has an end of the tracked flow there.
#[inline(never)]
fn is_end(flow: &Flow, end: End) -> bool {
    let (own, tracked) = (&flow.tuple, flow.tracked());
    match end {
        End::Source => same(&own.source, &tracked.source),
        End::Destination => same(&own.destination, &tracked.destination),
    }
}

/// Where the port of an end, or the identifier of a query, stands behind the
/// start of the transport header.
#[inline(always)]
fn port_at(is_icmp: bool, second: bool) -> u32 {
    match (is_icmp, second) {
        (true, _) => 4,
        (false, false) => 0,
        (false, true) => 2,
    }
}

#[inline(never)]
fn rewrite_transport<F: Family>(
    packet: &mut impl Packet,
    scratch: &Scratch,
    end: End,
    change: u32,
) -> Option<()> {
    let Scratch {
        flow,
        nat_entry: new,
        ..
    } = scratch;
    // The checksum of SCTP covers no address, and cannot be corrected by difference.
    if flow.tuple.protocol == protocol::SCTP {
        let old = match end {
            End::Source => flow.tuple.source_port,
            End::Destination => flow.tuple.destination_port,
        };
        return (old == new.port).then_some(());
    }
    let (sum_at, zero_is_none) = match flow.tuple.protocol {
        protocol::TCP => (16, false),
        protocol::UDP => (6, true),
        _ => (2, false),
    };
    let icmp = flow.tuple.protocol == F::ICMP;
    let mut how = Checksum {
        pseudo: true,
        zero_is_none,
        ipv6: F::VERSION == 6,
    };
    let sum_at = flow.l4_at + sum_at;
    // Of the ICMPs, only that of IPv6 covers the addresses.
    if !icmp || F::VERSION == 6 {
        packet.fix_l4_checksum(sum_at, change, how)?;
    }
    how.pseudo = false;
    let second = matches!(end, End::Destination);
    let place = (flow.l4_at + port_at(icmp, second), sum_at);
    move_port(packet, place, (&flow.tuple, end), new.port, how)
}

/// The quoted packet went the other way: its other end is rewritten.
#[inline(never)]
fn rewrite_quote<F: Family>(
    packet: &mut impl Packet,
    scratch: &Scratch,
    end: End,
    (change, is_end): (u32, bool),
) -> Option<()> {
    let Scratch {
        flow,
        nat_entry: new,
        ..
    } = scratch;
    let sum_at = flow.l4_at + 2;
    let mut how = Checksum {
        pseudo: true,
        zero_is_none: false,
        ipv6: F::VERSION == 6,
    };
    if F::VERSION == 6 && is_end {
        packet.fix_l4_checksum(sum_at, change, how)?;
    }
    how.pseudo = false;
    let second = matches!(end, End::Source);
    let addr_at = flow.about_at + F::SOURCE_AT - 14 + if second { F::ADDR_LEN } else { 0 };
    F::store_address(packet, addr_at, &new.addr)?;
    if F::VERSION == 6 {
        packet.fix_l4_checksum(sum_at, change, how)?;
    } else {
        // The quoted header's own checksum makes up for its address.
        packet.fix_ip_checksum(flow.about_at + 10, change)?;
    }
    let port_at = port_at(flow.about.protocol == F::ICMP, second);
    let place = (flow.about_l4_at + port_at, sum_at);
    move_port(packet, place, (&flow.about, end), new.port, how)
}

/// Puts a port in place of that of one end of a tuple, which stands at `at`
/// and is covered by the checksum at `sum_at`.
#[inline(always)]
fn move_port(
    packet: &mut impl Packet,
    (at, sum_at): (u32, u32),
    (tuple, end): (&Tuple, End),
    new: Be16,
    how: Checksum,
) -> Option<()> {
    let old = match end {
        End::Source => tuple.source_port,
        End::Destination => tuple.destination_port,
    };
    if old == new {
        return Some(());
    }
    packet.store(at, &new)?;
    let change = difference(half(old.to_bytes()), half(new.to_bytes()));
    packet.fix_l4_checksum(sum_at, change, how)
}
