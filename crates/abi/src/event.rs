//! Events: what the programs tell user space through the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Be16, Identity, IpKey};

/// Bytes of an [`EventRecord`].
pub const EVENT_LEN: usize = 128;

/// One event of the ring buffer `axon_events_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct EventRecord {
    /// When, in nanoseconds of the monotonic clock (coarse).
    pub time_ns: u64,
    /// [`EventKind`].
    pub kind: u8,
    /// Drop: the [`crate::DropReason`]. Trace: the [`TraceReason`]. Verdict:
    /// the reason if denied, else 0.
    pub reason: u8,
    /// [`ObservationPoint`] of a trace; 0 else.
    pub point: u8,
    /// [`crate::Direction`] as the reporting endpoint sees it.
    pub direction: u8,
    /// IP version, 4 or 6; 0 if the packet is neither.
    pub ip_version: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags, low byte of the flags word.
    pub tcp_flags: u8,
    /// [`MatchType`] of a verdict.
    pub match_type: u8,
    /// [`EventFlags`].
    pub flags: u16,
    /// Number of the endpoint that reports; 0 for the node.
    pub endpoint: u16,
    /// Device the packet was seen on.
    pub ifindex: u32,
    /// Bytes from the Ethernet header on.
    pub len: u32,
    /// Identity of the sender.
    pub source_identity: Identity,
    /// Identity of the receiver.
    pub destination_identity: Identity,
    /// The policy set version that decided; 0 if none.
    pub policy_set: u32,
    /// The rule that decided; 0 if none (default deny or default allow).
    pub rule: u32,
    /// Source port; of ICMP the type in the high byte and the code in the low.
    pub source_port: Be16,
    /// Destination port; of ICMP queries the identifier.
    pub destination_port: Be16,
    /// EtherType of the packet.
    pub ethertype: Be16,
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Zero.
    pub pad: u16,
    /// Source address.
    pub source: IpKey,
    /// Destination address.
    pub destination: IpKey,
    /// Source address before translation, if it was translated.
    pub source_before_nat: IpKey,
    /// Zero.
    pub reserved: [u8; 16],
}

const _: () = assert!(size_of::<EventRecord>() == EVENT_LEN);

impl EventRecord {
    /// The kind of a record that tells of no packet, and that is for the sweep
    /// of conntrack alone: `endpoint` has opened another [`FLOWS_PER_NOTICE`]
    /// flows, and owns `len` by now. No number of Cilium's monitor: it sends
    /// such signals on a channel of their own.
    pub const FLOWS_OPENED: u8 = 200;
}

/// Kinds of events, with the numbers of Cilium's monitor messages.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A packet was dropped.
    Drop = 1,
    /// A packet passed an observation point.
    Trace = 4,
    /// Policy decided on a new flow, or anew on an old one.
    PolicyVerdict = 5,
}

/// Flows of an endpoint between two notices ([`EventRecord::FLOWS_OPENED`]).
pub const FLOWS_PER_NOTICE: u32 = 1024;

impl EventKind {
    /// The kind with this number, or `None`.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Drop,
            4 => Self::Trace,
            5 => Self::PolicyVerdict,
            _ => return None,
        })
    }
}

/// Bits of [`EventRecord::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFlags;

impl EventFlags {
    /// The packet is of the reply direction of its flow.
    pub const REPLY: u16 = 1 << 0;
    /// Whether the packet is a reply is known ([`EventFlags::REPLY`] counts).
    pub const REPLY_KNOWN: u16 = 1 << 1;
    /// Policy would have dropped the packet, but only audits.
    pub const AUDIT: u16 = 1 << 2;
    /// The packet is a fragment other than the first.
    pub const FRAGMENT: u16 = 1 << 3;
    /// Of a verdict for want of authentication: none would have been good enough.
    pub const AUTH_FAIL: u16 = 1 << 4;
}

/// Observation points of traces, with Cilium's numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObservationPoint {
    /// Delivered to an endpoint.
    ToEndpoint = 0,
    /// Handed to the proxy.
    ToProxy = 1,
    /// Handed to the node.
    ToHost = 2,
    /// Handed to the kernel's stack for routing.
    ToStack = 3,
    /// Sent through a tunnel.
    ToOverlay = 4,
    /// Sent by an endpoint.
    FromEndpoint = 5,
    /// Came from the proxy.
    FromProxy = 6,
    /// Came from the node.
    FromHost = 7,
    /// Came from the kernel's stack.
    FromStack = 8,
    /// Came through a tunnel.
    FromOverlay = 9,
    /// Came from the network.
    FromNetwork = 10,
    /// Sent to the network.
    ToNetwork = 11,
}

impl ObservationPoint {
    /// The point with this number, or `None`.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::ToEndpoint,
            1 => Self::ToProxy,
            2 => Self::ToHost,
            3 => Self::ToStack,
            4 => Self::ToOverlay,
            5 => Self::FromEndpoint,
            6 => Self::FromProxy,
            7 => Self::FromHost,
            8 => Self::FromStack,
            9 => Self::FromOverlay,
            10 => Self::FromNetwork,
            11 => Self::ToNetwork,
            _ => return None,
        })
    }
}

/// Why a packet is traced: what conntrack said of it, with the numbers of
/// Cilium's monitor messages.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TraceReason {
    /// It opened a flow.
    New = 0,
    /// It continues a flow in its forward direction.
    Established = 1,
    /// It answers.
    Reply = 2,
    /// It is an ICMP error about a flow.
    Related = 3,
    /// Nothing yet: the packet was only received.
    Unknown = 5,
}

impl TraceReason {
    /// The reason with this number, or `None`.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::New,
            1 => Self::Established,
            2 => Self::Reply,
            3 => Self::Related,
            5 => Self::Unknown,
            _ => return None,
        })
    }
}

/// Which parts of a policy entry matched, with Hubble's numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchType {
    /// No entry matched.
    None = 0,
    /// The remote's class, any protocol and port.
    L3Only = 1,
    /// The remote's class, protocol and port.
    L3L4 = 2,
    /// Any remote, protocol and port.
    L4Only = 3,
    /// Any remote, any protocol, any port.
    All = 4,
    /// The remote's class and protocol, any port.
    L3Proto = 5,
    /// Any remote, the protocol, any port.
    ProtoOnly = 6,
}

impl MatchType {
    /// The type with this number, or `None`.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::None,
            1 => Self::L3Only,
            2 => Self::L3L4,
            3 => Self::L4Only,
            4 => Self::All,
            5 => Self::L3Proto,
            6 => Self::ProtoOnly,
            _ => return None,
        })
    }
}
