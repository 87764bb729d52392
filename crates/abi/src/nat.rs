//! Source NAT of what leaves the cluster (masquerading).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Be16, IpKey};

/// A translated flow, seen from one side: the key of `axon_nat_v1`.
///
/// Outbound (`inbound` = 0) the key is the packet's tuple before translation;
/// inbound (`inbound` = 1) it is the tuple of the answering packet before the
/// translation back. ICMP queries have the identifier in `destination_port`
/// inbound and in `source_port` outbound, and the answering side's port of
/// [`crate::CtKey4`] in the other.
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
pub struct NatKey {
    /// Source address.
    pub source: IpKey,
    /// Destination address.
    pub destination: IpKey,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 outbound, 1 inbound.
    pub inbound: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<NatKey>() == 40);

/// Whose flow is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatOwner;

impl NatOwner {
    /// An endpoint's.
    pub const ENDPOINT: u16 = 0;
    /// The node's own: nothing is changed, unless an endpoint had the port first.
    pub const NODE: u16 = 1;
    /// A service's client's, on its way to a backend of another node: there is
    /// the inbound entry only, which keeps the port from others; what becomes of
    /// packets is told by [`crate::ServiceFlow`].
    pub const SERVICE: u16 = 2;
}

/// What the flow's address and port become: the value of `axon_nat_v1`.
///
/// Outbound it is the new source, inbound the new destination. A flow of the
/// node itself is entered with its own address and port, so that no pod's
/// translation ever takes a port that the node uses towards the same peer.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct NatEntry {
    /// The address put in.
    pub addr: IpKey,
    /// Second (monotonic clock) of the last packet.
    #[cfg(feature = "next-layout")]
    pub seen_s: u32,
    /// The port put in.
    pub port: Be16,
    /// Whose flow it is: a [`NatOwner`].
    pub node_own: u16,
    /// Second (monotonic clock) of the last packet.
    #[cfg(not(feature = "next-layout"))]
    pub seen_s: u32,
}

const _: () = assert!(size_of::<NatEntry>() == 24);
