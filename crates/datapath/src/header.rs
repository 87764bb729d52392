//! Headers as they stand on the wire.

use axon_abi::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// EtherTypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A VLAN tag of a provider (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP flags, low byte.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1 << 0;
    /// Synchronize: the connection opens.
    pub const SYN: u8 = 1 << 1;
    /// The connection is reset.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement counts.
    pub const ACK: u8 = 1 << 4;
}

/// An Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// EtherType.
    pub ethertype: Be16,
}

/// An IPv4 header without options (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv4 {
    /// Version, and header length in words.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Bytes of the packet; 0 if it is an aggregate too large to say.
    pub total_len: Be16,
    /// Identification of the datagram.
    pub id: Be16,
    /// Flags, and fragment offset in eight bytes.
    pub fragment: Be16,
    /// Hops left.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: Be16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// The fixed IPv6 header (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_flow: Be32,
    /// Bytes after this header; 0 if it is an aggregate too large to say.
    pub payload_len: Be16,
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// An Ethernet and an IPv4 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(crate) struct Frame4 {
    pub(crate) ethernet: Ethernet,
    pub(crate) ip: Ipv4,
}

/// An Ethernet and an IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(crate) struct Frame6 {
    pub(crate) ethernet: Ethernet,
    pub(crate) ip: Ipv6,
}

/// A TCP header without options (RFC 9293).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TcpHead {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgement number.
    pub acknowledgement: Be32,
    /// Header length in words, in the high half.
    pub offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// A UDP header (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct UdpHead {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Bytes of header and payload.
    pub len: Be16,
    /// Checksum.
    pub checksum: Be16,
}

/// The start of an SCTP packet (RFC 9260).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(crate) struct SctpHead {
    pub(crate) source: Be16,
    pub(crate) destination: Be16,
    pub(crate) tag: Be32,
    pub(crate) checksum: Be32,
}

/// The start of an ICMP message, either version.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(crate) struct IcmpHead {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) checksum: [u8; 2],
    /// Of queries: the identifier.
    pub(crate) id: Be16,
    pub(crate) rest: Be16,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ArpPacket {
    /// The Ethernet header.
    pub ethernet: Ethernet,
    /// Hardware type: 1.
    pub hardware: Be16,
    /// Protocol type: IPv4.
    pub protocol: Be16,
    /// 6 and 4.
    pub lengths: [u8; 2],
    /// 1 request, 2 reply.
    pub operation: Be16,
    /// The sender's MAC address.
    pub sender_mac: [u8; 6],
    /// The sender's address.
    pub sender: [u8; 4],
    /// The target's MAC address.
    pub target_mac: [u8; 6],
    /// The target's address.
    pub target: [u8; 4],
}

/// A neighbour solicitation or advertisement with one link-layer address
/// option (RFC 4861 section 4.3), behind its IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct NeighbourMessage {
    /// 135 or 136.
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Checksum, as it stands on the wire.
    pub checksum: [u8; 2],
    /// Of advertisements: router, solicited, override.
    pub flags: [u8; 4],
    /// The address in question.
    pub target: [u8; 16],
    /// 1 source, 2 target.
    pub option: u8,
    /// 1: eight bytes.
    pub option_len: u8,
    /// The link-layer address.
    pub mac: [u8; 6],
}

const _: () = assert!(
    size_of::<Frame4>() == 34
        && size_of::<Frame6>() == 54
        && size_of::<TcpHead>() == 20
        && size_of::<ArpPacket>() == 42
        && size_of::<NeighbourMessage>() == 32
);
