//! Reads a packet once; what is found lies in [`Flow`].

use axon_abi::DropReason;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::family::Family;
use crate::header::{ETHERNET_LEN, IcmpHead, SctpHead, TcpHead, UdpHead, protocol, tcp_flag};
use crate::packet::Packet;
use crate::scratch::{Flow, Fragmentation, Kind, Scratch};
use crate::tables::Tables;
use crate::{fragment, icmp};

/// Reads an IP packet into `scratch.flow`.
///
/// Out of line: the verifier walks what follows a call once, and what follows
/// a branch once per branch.
#[inline(never)]
pub fn parse<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    F::parse(packet, &mut scratch.flow)?;
    match scratch.flow.fragmentation {
        Fragmentation::Whole => transport::<F>(packet, &mut scratch.flow),
        Fragmentation::First => {
            transport::<F>(packet, &mut scratch.flow)?;
            fragment::remember(tables, scratch);
            Ok(())
        }
        Fragmentation::Later => fragment::recall::<F>(tables, scratch),
    }
}

/// Reads the transport header.
#[inline(always)]
fn transport<F: Family>(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason> {
    match flow.tuple.protocol {
        protocol::TCP => tcp::<F>(packet, flow),
        protocol::UDP => udp::<F>(packet, flow),
        protocol::SCTP => {
            let head: SctpHead = head::<F, _>(packet, flow)?;
            flow.kind = Kind::Session;
            flow.tuple.source_port = head.source;
            flow.tuple.destination_port = head.destination;
            flow.l4_len = size_of::<SctpHead>() as u32;
            Ok(())
        }
        other if other == F::ICMP => {
            let head: IcmpHead = head::<F, _>(packet, flow)?;
            icmp::parse::<F>(packet, flow, head)
        }
        _ => Err(DropReason::CtUnknownL4Protocol),
    }
}

#[inline(always)]
fn tcp<F: Family>(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason> {
    let head: TcpHead = head::<F, _>(packet, flow)?;
    let len = u32::from(head.offset >> 4) * 4;
    let flags = head.flags & 0x3f;
    let opposed = tcp_flag::SYN | tcp_flag::FIN;
    let broken = flags & opposed == opposed
        || flags & (tcp_flag::SYN | tcp_flag::RST) == tcp_flag::SYN | tcp_flag::RST
        || flags == 0;
    if len < 20 || !fits(flow, len) || broken {
        return Err(DropReason::CtInvalidHeader);
    }
    flow.kind = Kind::Session;
    flow.tuple.source_port = head.source;
    flow.tuple.destination_port = head.destination;
    flow.l4_len = len;
    flow.tcp_flags = head.flags;
    Ok(())
}

#[inline(always)]
fn udp<F: Family>(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason> {
    let head: UdpHead = head::<F, _>(packet, flow)?;
    let whole = matches!(flow.fragmentation, Fragmentation::Whole) && packet.gso_size() == 0;
    let len = u32::from(head.len.get());
    if whole && (len < 8 || !fits(flow, len)) {
        return Err(DropReason::CtInvalidHeader);
    }
    flow.kind = Kind::Session;
    flow.tuple.source_port = head.source;
    flow.tuple.destination_port = head.destination;
    flow.l4_len = 8;
    Ok(())
}

/// Whether the IP packet holds `len` bytes from the transport header on.
#[inline(always)]
fn fits(flow: &Flow, len: u32) -> bool {
    flow.l4_at + len <= flow.ip_len + ETHERNET_LEN as u32
}

/// The transport header. It is nearly always at the same place, where the
/// kernel lets us look without a call.
#[inline(always)]
fn head<F: Family, H>(packet: &impl Packet, flow: &Flow) -> Result<H, DropReason>
where
    H: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    if !fits(flow, size_of::<H>() as u32) {
        return Err(DropReason::CtInvalidHeader);
    }
    let head = if flow.l4_at == F::L4_AT {
        packet.view::<H>(F::L4_AT as usize).copied()
    } else {
        packet.load(flow.l4_at)
    };
    head.ok_or(DropReason::CtInvalidHeader)
}
