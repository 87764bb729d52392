//! Connection tracking: one entry per flow, for both directions.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Be16, Identity, IpKey};

/// An IPv4 flow, the same key for both of its directions: the lesser of
/// (address, port), compared as bytes, comes first. Key of `axon_ct4_v1`.
///
/// ICMP queries have the query's identifier as the asking side's port; the
/// answering side's is 0 of an echo, so that two hosts pinging each other are
/// two flows, and the query's type of any other, so that a verdict on one type
/// is none on another.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct CtKey4 {
    /// The lesser side's address, network order.
    pub low: [u8; 4],
    /// The greater side's address, network order.
    pub high: [u8; 4],
    /// The lesser side's port.
    pub low_port: Be16,
    /// The greater side's port.
    pub high_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<CtKey4>() == 16);

/// An IPv6 flow; as [`CtKey4`]. Key of `axon_ct6_v1`.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct CtKey6 {
    /// The lesser side's address, network order.
    pub low: [u8; 16],
    /// The greater side's address, network order.
    pub high: [u8; 16],
    /// The lesser side's port.
    pub low_port: Be16,
    /// The greater side's port.
    pub high_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<CtKey6>() == 40);

/// What is known of a flow: the value of `axon_ct4_v1` and `axon_ct6_v1`.
///
/// "Forward" is the direction of the packet that made the entry; index 0 of
/// the pairs is forward, 1 is reply.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct CtEntry {
    /// Packets seen, forward and reply.
    pub packets: [u64; 2],
    /// Bytes seen from the Ethernet header on, forward and reply.
    pub bytes: [u64; 2],
    /// Identity of the side that opened the flow.
    pub source_identity: Identity,
    /// Identity of the other side.
    pub destination_identity: Identity,
    /// Policy set version of the source endpoint under which egress was
    /// decided; 0 if the source is no endpoint of this node.
    pub egress_set: u32,
    /// Policy set version of the destination endpoint under which ingress was
    /// decided; 0 if the destination is no endpoint of this node.
    pub ingress_set: u32,
    /// [`crate::RuntimeConfig::epoch`] when the verdict was made.
    pub epoch: u32,
    /// Second (monotonic clock) in which the entry was made.
    #[cfg(feature = "next-layout")]
    pub created_s: u32,
    /// Second (monotonic clock) from which on the entry is void.
    pub expires_s: u32,
    /// Second (monotonic clock) in which the entry was made.
    #[cfg(not(feature = "next-layout"))]
    pub created_s: u32,
    /// Second of the last trace event, forward and reply.
    pub reported_s: [u32; 2],
    /// Number of the endpoint whose quota the entry counts against.
    pub owner: u16,
    /// TCP flags seen, forward and reply (low byte of the flags word).
    pub tcp_flags: [u8; 2],
    /// [`CtState`] as a number.
    pub state: u8,
    /// [`CtFlags`].
    pub flags: u8,
    /// [`crate::DropReason`] of a flow that policy has turned against, else 0.
    pub denied: u8,
    /// [`crate::MatchType`] of the last verdict.
    pub match_type: u8,
    /// Number of the rule that decided last; see [`crate::PolicyEntry::rule`].
    pub rule: u32,
}

const _: () = assert!(size_of::<CtEntry>() == 80);

/// Bits of [`CtEntry::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtFlags;

impl CtFlags {
    /// The lesser side of the key opened the flow.
    pub const OPENED_BY_LOW: u8 = 1 << 0;
    /// A packet of the reply direction was seen.
    pub const REPLIED: u8 = 1 << 1;
    /// A FIN was seen forward.
    pub const FIN_FORWARD: u8 = 1 << 2;
    /// A FIN was seen in reply.
    pub const FIN_REPLY: u8 = 1 << 3;
    /// Of a denied flow: the policy of the side it was opened to refused it,
    /// not that of the side that opened it.
    pub const DENIED_INGRESS: u8 = 1 << 4;
    /// The address of the side that opened the flow does not say who it is:
    /// [`CtEntry::source_identity`] does, for as long as the flow lasts.
    pub const BORROWED: u8 = 1 << 5;
    /// The flow reaches its endpoint from another device through the node's
    /// stack, which has to see the answers too: it may have translated the
    /// addresses (a mapped port, kube-proxy), and its firewall wants both
    /// directions.
    pub const BY_STACK: u8 = 1 << 6;
    /// A service has led the flow to its receiver: the answers have to be
    /// translated back, see [`crate::ServiceFlow`].
    pub const SERVICE: u8 = 1 << 7;
}

/// Where a flow stands; each state has its own timeout, see
/// [`crate::Timeouts`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtState {
    /// TCP: a SYN was seen, the handshake is not complete.
    Opening = 0,
    /// TCP: data may flow.
    Established = 1,
    /// TCP: one or both sides have sent FIN, or one sent RST.
    Closing = 2,
    /// Other protocols: packets of one direction only.
    OneWay = 3,
    /// Other protocols: packets of both directions.
    TwoWay = 4,
}

impl CtState {
    /// The state with this number, or `None`.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::Opening,
            1 => Self::Established,
            2 => Self::Closing,
            3 => Self::OneWay,
            4 => Self::TwoWay,
            _ => return None,
        })
    }
}

/// A fragmented datagram: the key of `axon_fragment_v1`.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FragmentKey {
    /// Source address.
    pub source: IpKey,
    /// Destination address.
    pub destination: IpKey,
    /// The datagram's identification, native order.
    pub id: u32,
    /// IP protocol number of the datagram.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// Number of the endpoint at whose device the fragment is, 0 for the
    /// node's uplinks: nobody speaks for the first fragments of another.
    pub endpoint: u16,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// What the first fragment said that the later ones do not: the value of
/// `axon_fragment_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentPorts {
    /// Source port (of ICMP: the query's identifier, or 0).
    pub source: Be16,
    /// Destination port (of ICMP: the query's identifier, or 0).
    pub destination: Be16,
    /// ICMP type of the first fragment, else 0.
    pub icmp_type: u8,
    /// ICMP code of the first fragment, else 0.
    pub icmp_code: u8,
    /// Zero.
    pub pad: u16,
    /// Second (monotonic clock) in which the first fragment came.
    pub seen_s: u32,
}

const _: () = assert!(size_of::<FragmentPorts>() == 12);
