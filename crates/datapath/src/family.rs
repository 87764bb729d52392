//! IPv4 and IPv6 as two of a kind, so that everything above is written once.

use axon_abi::{Be16, ConfigFlags, DropReason, EndpointRow, IpKey, RuntimeConfig};
use zerocopy::IntoBytes;

use crate::arp::GATEWAY_IPV4;
use crate::header::{ETHERNET_LEN, Ethernet, Frame4, Frame6, Ipv4, Ipv6, protocol};
use crate::icmp::Message;
use crate::icmp_error::Error;
use crate::packet::Packet;
use crate::scratch::{Flow, Fragmentation, Kind, Scratch, Tuple};
use crate::tables::Tables;
use crate::{checksum, extension, icmp, icmp_error};

/// IPv4: more fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// IPv4: routers may not cut the packet.
const DONT_FRAGMENT: u16 = 0x4000;
/// IPv4: the fragment's place in the datagram, in eight bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// IPv6: where the length of the payload is; the protocol and the hops left follow.
const V6_LEN_AT: u32 = 18;

/// The address that an endpoint's own packets have when they reach it through a
/// service: with its own it would not answer to the network. Cilium's default.
pub const HAIRPIN_IPV4: IpKey = IpKey::from_v4([169, 254, 42, 1]);
/// The same for IPv6: of no link, since endpoints have a route to no other of the
/// kind, and of nobody (RFC 4193).
pub const HAIRPIN_IPV6: IpKey = IpKey([
    0xfd, 0x61, 0x78, 0x6f, 0x6e, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0x2a, 0x01,
]);

/// A version of IP.
pub trait Family {
    /// The version's number.
    const VERSION: u8;
    /// Where the transport header is if nothing stands between.
    const L4_AT: u32;
    /// Where the source address is; the destination follows it.
    const SOURCE_AT: u32;
    /// Bytes of an address.
    const ADDR_LEN: u32;
    /// Bytes of an IP and ICMP header.
    const ERROR_LEN: u32;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The configuration's flag for masquerading it.
    const MASQUERADE: u32;
    /// The configuration's flag for carrying it.
    const CARRIED: u32;
    /// Where the hops left are, behind the Ethernet header.
    const HOPS_AT: u32;
    /// ICMP types of an echo and of its reply.
    const ECHO: [u8; 2];
    /// From whom an endpoint hears what it has sent itself through a service.
    const HAIRPIN: IpKey;

    /// Reads the IP header: addresses, length, fragmentation, protocol, and
    /// where the transport header starts.
    fn parse(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason>;

    /// The destination address alone, if there is a header.
    fn destination(packet: &impl Packet) -> Option<IpKey>;

    /// The source address alone, if there is a header.
    fn source(packet: &impl Packet) -> Option<IpKey>;

    /// This node's own address of the family.
    fn node(config: &RuntimeConfig) -> IpKey;

    /// Whether an address is an endpoint's of the family; an endpoint without
    /// one has the unspecified.
    fn is_own(row: &EndpointRow, addr: &IpKey) -> bool;

    /// Whether nothing may be sent there from an endpoint: multicast,
    /// broadcast, loopback, the link.
    fn unroutable(destination: &IpKey) -> bool;

    /// Whether an address is one of the link alone, which no router forwards.
    fn on_link(addr: &IpKey) -> bool;

    /// Whether nothing that says it is from there may be forwarded, as it is no
    /// host's beyond the link: unspecified, loopback, multicast, broadcast
    /// (RFC 1812 section 5.3.7), of the link (RFC 4291 section 2.5.6), or stands
    /// for the receiver ([`Family::HAIRPIN`]).
    fn is_martian(source: &IpKey) -> bool;

    /// Writes an ICMP error in front of the first `quote` bytes of the IP
    /// packet, for which there is room of [`Family::ERROR_LEN`] bytes.
    fn write_error(packet: &mut impl Packet, error: &Error<'_>, quote: u32) -> Option<()>;

    /// Turns the IP header around, for a whole packet of `len` bytes that is new.
    fn turn(packet: &mut impl Packet, len: u16) -> Option<()>;

    /// What an ICMP message of this type and code is.
    fn icmp(kind: u8, code: u8) -> Message;

    /// Reads the packet that an ICMP error quotes at `at`: its addresses,
    /// turned, its protocol, and where its transport header starts.
    fn quoted(packet: &impl Packet, at: u32, tuple: &mut Tuple) -> Option<u32>;

    /// Overwrites an address of the packet; checksums are the caller's affair.
    fn store_address(packet: &mut impl Packet, at: u32, addr: &IpKey) -> Option<()>;

    /// One hop less, and new MAC addresses (destination, source) if given.
    fn hop(
        packet: &mut impl Packet,
        macs: Option<(&[u8; 6], &[u8; 6])>,
        outside: bool,
    ) -> Option<()>;

    /// Fills in the key of the tracked flow; whether its source is the lesser
    /// side.
    fn key(scratch: &mut Scratch) -> bool;

    /// The entry under the key that [`Family::key`] filled in.
    fn entry<'a, T: Tables>(tables: &'a T, scratch: &Scratch) -> Option<T::Ct<'a>>;

    /// Writes `scratch.entry` under that key; false if there is no room.
    fn insert(tables: &impl Tables, scratch: &Scratch) -> bool;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

impl Family for V4 {
    const VERSION: u8 = 4;
    const L4_AT: u32 = 34;
    const SOURCE_AT: u32 = 26;
    const ADDR_LEN: u32 = 4;
    const ERROR_LEN: u32 = 28;
    const ICMP: u8 = protocol::ICMP;
    const MASQUERADE: u32 = ConfigFlags::MASQUERADE_IPV4;
    const CARRIED: u32 = ConfigFlags::IPV4;
    const HOPS_AT: u32 = 8;
    const ECHO: [u8; 2] = [8, 0];
    const HAIRPIN: IpKey = HAIRPIN_IPV4;

    #[inline(always)]
    fn parse(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason> {
        let room = packet.len().wrapping_sub(ETHERNET_LEN as u32);
        let ip: &Ipv4 = packet.view(ETHERNET_LEN).ok_or(DropReason::InvalidPacket)?;
        let header_len = u32::from(ip.version_ihl & 0xf) * 4;
        let said = u32::from(ip.total_len.get());
        // Only an aggregate may be too large for its length field.
        let len = if said == 0 && packet.gso_size() != 0 {
            room
        } else {
            said
        };
        if ip.version_ihl >> 4 != 4 || header_len < 20 || len < header_len || len > room {
            return Err(DropReason::InvalidPacket);
        }
        begin(flow, Self::VERSION, len, ip.ttl);
        flow.tuple.source = IpKey::from_v4(ip.source);
        flow.tuple.destination = IpKey::from_v4(ip.destination);
        flow.tuple.protocol = ip.protocol;
        flow.l4_at = ETHERNET_LEN as u32 + header_len;
        let fragment = ip.fragment.get();
        flow.dont_fragment = fragment & DONT_FRAGMENT != 0;
        if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
            flow.fragment_id = u32::from(ip.id.get());
            flow.fragmentation = place(fragment & FRAGMENT_OFFSET, len - header_len)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn destination(packet: &impl Packet) -> Option<IpKey> {
        packet
            .view::<Ipv4>(ETHERNET_LEN)
            .map(|ip| IpKey::from_v4(ip.destination))
    }

    #[inline(always)]
    fn source(packet: &impl Packet) -> Option<IpKey> {
        packet
            .view::<Ipv4>(ETHERNET_LEN)
            .map(|ip| IpKey::from_v4(ip.source))
    }

    #[inline(always)]
    fn node(config: &RuntimeConfig) -> IpKey {
        IpKey::from_v4(config.node_ipv4)
    }

    #[inline(always)]
    fn is_own(row: &EndpointRow, addr: &IpKey) -> bool {
        // What was parsed as IPv4 differs in these bytes only.
        let [.., a, b, c, d] = addr.0;
        u32::from_ne_bytes(row.ipv4) == u32::from_ne_bytes([a, b, c, d])
    }

    #[inline(always)]
    fn unroutable(destination: &IpKey) -> bool {
        let [.., a, b, c, d] = destination.0;
        let addr = u32::from_be_bytes([a, b, c, d]);
        let first = addr >> 24;
        first == 0 || first == 127 || first >= 224 || addr == u32::from_be_bytes(GATEWAY_IPV4)
    }

    #[inline(always)]
    fn on_link(_addr: &IpKey) -> bool {
        // 169.254.0.0/16 is routed in many a cloud.
        false
    }

    #[inline(always)]
    fn is_martian(source: &IpKey) -> bool {
        let [.., a, b, c, d] = source.0;
        // 240.0.0.0/4 is in use, for nodes and pods of clouds too; Linux forwards it.
        matches!(a, 0 | 127 | 224..=239)
            || u32::from_ne_bytes([a, b, c, d]) == u32::MAX
            || same(source, &Self::HAIRPIN)
    }

    #[inline(always)]
    fn write_error(packet: &mut impl Packet, error: &Error<'_>, quote: u32) -> Option<()> {
        icmp_error::write_v4(packet, error, quote)
    }

    #[inline(always)]
    fn turn(packet: &mut impl Packet, len: u16) -> Option<()> {
        let ip: &mut Ipv4 = packet.edit(ETHERNET_LEN)?;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        ip.tos = 0;
        ip.total_len = Be16::new(20 + len);
        ip.id = Be16::ZERO;
        ip.fragment = Be16::new(DONT_FRAGMENT);
        ip.ttl = icmp_error::HOPS;
        ip.checksum = Be16::ZERO;
        let mut sum = 0;
        let (words, _) = ip.as_bytes().as_chunks::<4>();
        for word in words {
            sum = checksum::add(sum, checksum::word(*word));
        }
        // With its checksum the header sums up to nothing, as before.
        ip.checksum = Be16::from_bytes(checksum::fold(sum).to_ne_bytes());
        Some(())
    }

    #[inline(always)]
    fn icmp(kind: u8, code: u8) -> Message {
        icmp::classify_v4(kind, code)
    }

    #[inline(always)]
    fn quoted(packet: &impl Packet, at: u32, tuple: &mut Tuple) -> Option<u32> {
        let ip: Ipv4 = packet.load(at)?;
        let header_len = u32::from(ip.version_ihl & 0xf) * 4;
        if ip.version_ihl >> 4 != 4 || header_len < 20 || ip.fragment.get() & FRAGMENT_OFFSET != 0 {
            return None;
        }
        tuple.source = IpKey::from_v4(ip.destination);
        tuple.destination = IpKey::from_v4(ip.source);
        tuple.protocol = ip.protocol;
        Some(at + header_len)
    }

    #[inline(always)]
    fn store_address(packet: &mut impl Packet, at: u32, addr: &IpKey) -> Option<()> {
        let [.., a, b, c, d] = addr.0;
        packet.store(at, &[a, b, c, d])
    }

    #[inline(always)]
    fn hop(
        packet: &mut impl Packet,
        macs: Option<(&[u8; 6], &[u8; 6])>,
        _outside: bool,
    ) -> Option<()> {
        let frame: &mut Frame4 = packet.edit(0)?;
        set_macs(&mut frame.ethernet, macs);
        frame.ip.ttl = frame.ip.ttl.wrapping_sub(1);
        // The time to live is the high byte of its word (RFC 1624).
        let (sum, carry) = frame.ip.checksum.get().overflowing_add(0x0100);
        frame.ip.checksum = Be16::new(sum.wrapping_add(u16::from(carry)));
        Some(())
    }

    #[inline(always)]
    fn key(scratch: &mut Scratch) -> bool {
        let Scratch { flow, ct4: key, .. } = scratch;
        let tuple = flow.tracked();
        let source = side4(&tuple.source, tuple.source_port);
        let destination = side4(&tuple.destination, tuple.destination_port);
        let low = order4(source) <= order4(destination);
        let (first, second) = if low {
            (source, destination)
        } else {
            (destination, source)
        };
        // In whole words, as it is read: what is written in pieces has to be waited for.
        let addresses = first & 0xffff_ffff | second << 32;
        let ports = first >> 32 | second >> 32 << 16 | u64::from(tuple.protocol) << 32;
        let words = [addresses.to_le_bytes(), ports.to_le_bytes()];
        *key = zerocopy::transmute!(words);
        low
    }

    #[inline(always)]
    fn entry<'a, T: Tables>(tables: &'a T, scratch: &Scratch) -> Option<T::Ct<'a>> {
        tables.ct4(&scratch.ct4)
    }

    #[inline(always)]
    fn insert(tables: &impl Tables, scratch: &Scratch) -> bool {
        tables.ct4_insert(&scratch.ct4, &scratch.entry)
    }
}

impl Family for V6 {
    const VERSION: u8 = 6;
    const L4_AT: u32 = 54;
    const SOURCE_AT: u32 = 22;
    const ADDR_LEN: u32 = 16;
    const ERROR_LEN: u32 = 48;
    const ICMP: u8 = protocol::ICMPV6;
    const MASQUERADE: u32 = ConfigFlags::MASQUERADE_IPV6;
    const CARRIED: u32 = ConfigFlags::IPV6;
    const HOPS_AT: u32 = 7;
    const ECHO: [u8; 2] = [128, 129];
    const HAIRPIN: IpKey = HAIRPIN_IPV6;

    #[inline(always)]
    fn parse(packet: &impl Packet, flow: &mut Flow) -> Result<(), DropReason> {
        let room = packet.len().wrapping_sub(ETHERNET_LEN as u32);
        let ip: &Ipv6 = packet.view(ETHERNET_LEN).ok_or(DropReason::InvalidPacket)?;
        let said = u32::from(ip.payload_len.get());
        let len = if said == 0 && packet.gso_size() != 0 {
            room
        } else {
            said + 40
        };
        if ip.version_class_flow.get() >> 28 != 6 || len < 40 || len > room {
            return Err(DropReason::InvalidPacket);
        }
        begin(flow, Self::VERSION, len, ip.hop_limit);
        flow.tuple.source = IpKey(ip.source);
        flow.tuple.destination = IpKey(ip.destination);
        // The drop's event names it too.
        flow.tuple.protocol = ip.next_header;
        if is_mapped(&flow.tuple.source) || is_mapped(&flow.tuple.destination) {
            return Err(DropReason::InvalidPacket);
        }
        flow.l4_at = Self::L4_AT;
        flow.dont_fragment = true;
        if extension::is_extension(ip.next_header) {
            extension::parse(packet, flow)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn destination(packet: &impl Packet) -> Option<IpKey> {
        packet
            .view::<Ipv6>(ETHERNET_LEN)
            .map(|ip| IpKey(ip.destination))
    }

    #[inline(always)]
    fn source(packet: &impl Packet) -> Option<IpKey> {
        packet.view::<Ipv6>(ETHERNET_LEN).map(|ip| IpKey(ip.source))
    }

    #[inline(always)]
    fn node(config: &RuntimeConfig) -> IpKey {
        config.node_ipv6
    }

    #[inline(always)]
    fn is_own(row: &EndpointRow, addr: &IpKey) -> bool {
        same(&row.ipv6, addr)
    }

    #[inline(always)]
    fn unroutable(destination: &IpKey) -> bool {
        let [a, b, ..] = destination.0;
        // ff00::/8, fe80::/10, ::/16 (unspecified, loopback, IPv4-mapped; translators are in
        // 64:ff9b::/32, RFC 6052 and RFC 8215).
        a == 0xff || a == 0xfe && b & 0xc0 == 0x80 || a == 0 && b == 0
    }

    #[inline(always)]
    fn on_link(addr: &IpKey) -> bool {
        let [a, b, ..] = addr.0;
        a == 0xfe && b & 0xc0 == 0x80
    }

    #[inline(always)]
    fn is_martian(source: &IpKey) -> bool {
        // Whoever may not be sent anything sends nothing.
        Self::unroutable(source) || same(source, &Self::HAIRPIN)
    }

    #[inline(always)]
    fn write_error(packet: &mut impl Packet, error: &Error<'_>, quote: u32) -> Option<()> {
        icmp_error::write_v6(packet, error, quote)
    }

    #[inline(always)]
    fn turn(packet: &mut impl Packet, len: u16) -> Option<()> {
        let frame: &mut Frame6 = packet.edit(0)?;
        let ip = &mut frame.ip;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        let next_header = ip.next_header;
        let [a, b] = Be16::new(len).to_bytes();
        packet.store_uncovered(V6_LEN_AT, &[a, b, next_header, icmp_error::HOPS])
    }

    #[inline(always)]
    fn icmp(kind: u8, _code: u8) -> Message {
        icmp::classify_v6(kind)
    }

    #[inline(always)]
    fn quoted(packet: &impl Packet, at: u32, tuple: &mut Tuple) -> Option<u32> {
        let ip: Ipv6 = packet.load(at)?;
        if ip.version_class_flow.get() >> 28 != 6 {
            return None;
        }
        tuple.source = IpKey(ip.destination);
        tuple.destination = IpKey(ip.source);
        tuple.protocol = ip.next_header;
        extension::skip(packet, at + 40, &mut tuple.protocol)
    }

    #[inline(always)]
    fn store_address(packet: &mut impl Packet, at: u32, addr: &IpKey) -> Option<()> {
        packet.store(at, addr)
    }

    #[inline(always)]
    fn hop(
        packet: &mut impl Packet,
        macs: Option<(&[u8; 6], &[u8; 6])>,
        outside: bool,
    ) -> Option<()> {
        let frame: &mut Frame6 = packet.edit(0)?;
        set_macs(&mut frame.ethernet, macs);
        let hops = frame.ip.hop_limit.wrapping_sub(1);
        if outside {
            // A network card may have summed up the packet, and no checksum
            // in it makes up for the change.
            return packet.store_uncovered(21, &hops);
        }
        frame.ip.hop_limit = hops;
        Some(())
    }

    #[inline(always)]
    fn key(scratch: &mut Scratch) -> bool {
        let Scratch { flow, ct6: key, .. } = scratch;
        let tuple = flow.tracked();
        let (source, destination) = (order6(&tuple.source), order6(&tuple.destination));
        let (sport, dport) = (tuple.source_port, tuple.destination_port);
        let low = source < destination || source == destination && sport.get() <= dport.get();
        let sides = (&tuple.source, &tuple.destination);
        let sides = if low { sides } else { (sides.1, sides.0) };
        let ports = if low { (sport, dport) } else { (dport, sport) };
        (key.low, key.high) = (sides.0.0, sides.1.0);
        let ports = u64::from(u16::from_le_bytes(ports.0.to_bytes()))
            | u64::from(u16::from_le_bytes(ports.1.to_bytes())) << 16;
        let rest = (ports | u64::from(tuple.protocol) << 32).to_le_bytes();
        let [a, b, c, d, protocol, pad @ ..] = rest;
        key.low_port = Be16::from_bytes([a, b]);
        key.high_port = Be16::from_bytes([c, d]);
        key.protocol = protocol;
        key.pad = pad;
        low
    }

    #[inline(always)]
    fn entry<'a, T: Tables>(tables: &'a T, scratch: &Scratch) -> Option<T::Ct<'a>> {
        tables.ct6(&scratch.ct6)
    }

    #[inline(always)]
    fn insert(tables: &impl Tables, scratch: &Scratch) -> bool {
        tables.ct6_insert(&scratch.ct6, &scratch.entry)
    }
}

/// Sets what every packet has, and forgets the transport header of the last.
#[inline(always)]
fn begin(flow: &mut Flow, version: u8, len: u32, hops: u8) {
    flow.version = version;
    flow.ip_len = len;
    flow.hop_limit = hops;
    flow.tuple.source_port = Be16::ZERO;
    flow.tuple.destination_port = Be16::ZERO;
    flow.tuple.pad = [0; 3];
    flow.kind = Kind::Single;
    flow.fragmentation = Fragmentation::Whole;
    flow.fragment_id = 0;
    flow.l4_len = 0;
    flow.tcp_flags = 0;
    flow.icmp_type = 0;
    flow.icmp_code = 0;
    flow.policy_type = 0;
    flow.icmp = false;
}

/// What part of its datagram a fragment is, by its offset in eight bytes.
#[inline(always)]
pub(crate) fn place(offset: u16, len: u32) -> Result<Fragmentation, DropReason> {
    if offset == 0 {
        return Ok(Fragmentation::First);
    }
    // RFC 1858: a second fragment that overlaps the transport header; and a
    // datagram larger than any can be.
    if offset == 1 || u32::from(offset) * 8 + len > 0xffff {
        return Err(DropReason::InvalidPacket);
    }
    Ok(Fragmentation::Later)
}

#[inline(always)]
fn set_macs(ethernet: &mut Ethernet, macs: Option<(&[u8; 6], &[u8; 6])>) {
    if let Some((destination, source)) = macs {
        ethernet.destination = *destination;
        ethernet.source = *source;
    }
}

/// An IPv4 address and port in one word, as they lie in memory.
#[inline(always)]
fn side4(addr: &IpKey, port: Be16) -> u64 {
    let [.., a, b, c, d] = addr.0;
    u64::from(u32::from_le_bytes([a, b, c, d]))
        | u64::from(u16::from_le_bytes(port.to_bytes())) << 32
}

/// The same as a number that sorts as its bytes do.
#[inline(always)]
fn order4(side: u64) -> u64 {
    side.swap_bytes()
}

#[inline(always)]
fn order6(addr: &IpKey) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    (high, u64::from_be_bytes([i, j, k, l, m, n, o, p]))
}

/// Whether this is the key of an IPv4 address. In an IPv6 header it would pass
/// for that IPv4 address and its identity.
#[inline(always)]
fn is_mapped(addr: &IpKey) -> bool {
    let (high, low) = order6(addr);
    high == 0 && low >> 32 == 0xffff
}

/// Whether two addresses are the same: two comparisons, no call.
#[inline(always)]
pub(crate) fn same(a: &IpKey, b: &IpKey) -> bool {
    order6(a) == order6(b)
}

/// Whether an address stands for the endpoint that sends to it.
#[inline(always)]
pub(crate) fn is_hairpin(addr: &IpKey) -> bool {
    same(addr, &HAIRPIN_IPV4) || same(addr, &HAIRPIN_IPV6)
}

/// [`Family::is_martian`] of a packet of either version.
#[inline(always)]
pub(crate) fn is_martian(source: &IpKey) -> bool {
    if source.is_v4() {
        V4::is_martian(source)
    } else {
        V6::is_martian(source)
    }
}
