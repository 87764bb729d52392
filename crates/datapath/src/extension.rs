//! IPv6 extension headers (RFC 8200 section 4).

use axon_abi::DropReason;

use crate::family::place;
use crate::header::ETHERNET_LEN;
use crate::packet::Packet;
use crate::scratch::{Flow, Fragmentation};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// Headers that a packet may have before its transport header.
const HEADERS_MAX: u32 = 6;

/// Whether a next-header value announces an extension header.
#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

/// Bytes of an extension header other than the fragment header.
#[inline(always)]
const fn len(kind: u8, said: u8) -> u32 {
    match kind {
        AUTHENTICATION => (said as u32 + 2) * 4,
        _ => (said as u32 + 1) * 8,
    }
}

/// Whether a header is too short for what it is: the fixed part of an
/// authentication header has twelve bytes (RFC 4302 section 2.2).
#[inline(always)]
const fn is_stunted(kind: u8, said: u8) -> bool {
    kind == AUTHENTICATION && said == 0
}

/// Walks the extension headers from `flow.l4_at` on: where the transport
/// header starts, and which one it is.
#[inline(never)]
pub(crate) fn parse(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason> {
    let mut n = 0;
    while n < HEADERS_MAX {
        let kind = flow.tuple.protocol;
        if !is_extension(kind) {
            return Ok(());
        }
        step(packet, flow, kind)?;
        if matches!(flow.fragmentation, Fragmentation::Later) {
            return Ok(());
        }
        n += 1;
    }
    if is_extension(flow.tuple.protocol) {
        return Err(DropReason::InvalidIpv6ExtensionHeader);
    }
    Ok(())
}

#[inline(always)]
fn step(packet: &impl Packet, flow: &mut Flow, kind: u8) -> Result<(), DropReason> {
    let invalid = DropReason::InvalidIpv6ExtensionHeader;
    let at = flow.l4_at;
    let end = flow.ip_len + ETHERNET_LEN as u32;
    let [next, said, a, b, id @ ..]: [u8; 8] = packet.load(at).ok_or(invalid)?;
    // Hop-by-hop options come first or not at all, also where a fragment's first part
    // is elsewhere; routing header 0 is dead (RFC 5095).
    if next == HOP_BY_HOP || kind == ROUTING && a == 0 || is_stunted(kind, said) {
        return Err(invalid);
    }
    let len = if kind == FRAGMENT { 8 } else { len(kind, said) };
    if at + len > end {
        return Err(invalid);
    }
    flow.tuple.protocol = next;
    flow.l4_at = at + len;
    if kind == FRAGMENT {
        if !matches!(flow.fragmentation, Fragmentation::Whole) || flow.fragment_id != 0 {
            return Err(invalid);
        }
        let word = u16::from_be_bytes([a, b]);
        flow.fragment_id = u32::from_be_bytes(id);
        if word & 0xfff9 != 0 {
            flow.fragmentation = place(word >> 3, end - flow.l4_at)?;
        }
    }
    Ok(())
}

/// As [`parse`], for the packet that an ICMP error quotes: only the place of
/// the transport header, `None` if the quote does not hold its start.
#[inline(never)]
pub(crate) fn skip(packet: &impl Packet, from: u32, next: &mut u8) -> Option<u32> {
    let mut at = from;
    let mut n = 0;
    while n < HEADERS_MAX {
        let kind = *next;
        if !is_extension(kind) {
            return Some(at);
        }
        let [following, said, a, b, ..]: [u8; 8] = packet.load(at)?;
        let later = kind == FRAGMENT && u16::from_be_bytes([a, b]) & 0xfff8 != 0;
        if later || is_stunted(kind, said) {
            return None;
        }
        *next = following;
        at += if kind == FRAGMENT { 8 } else { len(kind, said) };
        n += 1;
    }
    (!is_extension(*next)).then_some(at)
}
