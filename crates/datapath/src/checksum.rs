//! The Internet checksum (RFC 1071), by difference (RFC 1624) and in full.

use axon_abi::IpKey;

/// Adds two one's complement sums.
#[inline(always)]
pub(crate) const fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u32
}

/// Folds a sum to 16 bits and complements it: what stands in a header.
#[inline(always)]
pub(crate) const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of four bytes as they stand on the wire (two 16-bit words, in the
/// machine's own order: the sum comes out in the same order, RFC 1071 2 B).
#[inline(always)]
pub(crate) const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// The sum of a 16-bit number on the wire.
#[inline(always)]
pub(crate) const fn half(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes) as u32
}

/// The sum of an address; an IPv4 one counts its four bytes only.
#[inline(always)]
pub(crate) fn address(addr: &IpKey, ipv6: bool) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
    let last = word([m, n, o, p]);
    if !ipv6 {
        return last;
    }
    let first = add(word([a, b, c, d]), word([e, f, g, h]));
    add(first, add(word([i, j, k, l]), last))
}

/// The difference that replacing a part of sum `from` by one of sum `to` makes.
#[inline(always)]
pub(crate) const fn difference(from: u32, to: u32) -> u32 {
    add(!from, to)
}
