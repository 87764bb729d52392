//! The answer to a connection that nobody takes: its first packet becomes its own
//! reset (RFC 9293 section 3.10.7.1).
//!
//! An ICMP error would say the same, were it heard. Linux drops one that comes while
//! a call holds the socket (`LockDroppedIcmps`), and where both ends and all between
//! are of one machine it comes within the call that sends the packet: the client would
//! be refused a second late, at its next try. A reset waits for the end of the call.

use axon_abi::{Be16, Be32, DropReason};

use crate::checksum;
use crate::family::Family;
use crate::header::{ETHERNET_LEN, TcpHead, protocol, tcp_flag};
use crate::icmp_error::{sum, turn};
use crate::packet::{Checksum, Packet};
use crate::scratch::{Flow, Fragmentation};

/// Bytes of a TCP header without options.
const HEAD_LEN: u32 = size_of::<TcpHead>() as u32;
/// Where its checksum is.
const CHECKSUM_AT: u32 = 16;

/// Whether a packet that is refused is to be reset: one that opens a connection, and
/// has neither data nor anything between its headers.
#[inline(always)]
pub(crate) fn is_due<F: Family>(flow: &Flow, reason: DropReason) -> bool {
    let flags = flow.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN);
    matches!(reason, DropReason::ServiceBackendNotFound)
        && flow.tuple.protocol == protocol::TCP
        && flags == tcp_flag::SYN
        && matches!(flow.fragmentation, Fragmentation::Whole)
        && flow.l4_at == F::L4_AT
        && flow.ip_len == F::L4_AT - ETHERNET_LEN as u32 + flow.l4_len
}

/// Makes such a packet, whose TCP header has `l4_len` bytes, its own reset. Its
/// checksum follows by difference: it may be one that a device is still to complete.
#[inline(never)]
pub(crate) fn write<F: Family>(packet: &mut impl Packet, l4_len: u32) -> Option<()> {
    let before = sum(packet, F::L4_AT, l4_len)?;
    let mut head: TcpHead = packet.load(F::L4_AT)?;
    turn(packet, F::L4_AT + HEAD_LEN - ETHERNET_LEN as u32, 0)?;
    F::turn(packet, HEAD_LEN as u16)?;
    (head.source, head.destination) = (head.destination, head.source);
    head.acknowledgement = Be32::new(head.sequence.get().wrapping_add(1));
    head.sequence = Be32::new(0);
    head.offset = (HEAD_LEN as u8 / 4) << 4;
    head.flags = tcp_flag::RST | tcp_flag::ACK;
    head.window = Be16::ZERO;
    head.urgent = Be16::ZERO;
    packet.store(F::L4_AT, &head)?;
    let after = sum(packet, F::L4_AT, HEAD_LEN)?;
    fix::<F>(packet, checksum::difference(before, after), false)?;
    let len = |bytes: u32| checksum::half((bytes as u16).to_be_bytes());
    fix::<F>(
        packet,
        checksum::difference(len(l4_len), len(HEAD_LEN)),
        true,
    )
}

#[inline(always)]
fn fix<F: Family>(packet: &mut impl Packet, difference: u32, pseudo: bool) -> Option<()> {
    let how = Checksum {
        pseudo,
        zero_is_none: false,
        // Which says that addresses in the packet have changed as much.
        ipv6: false,
    };
    packet.fix_l4_checksum(F::L4_AT + CHECKSUM_AT, difference, how)
}
