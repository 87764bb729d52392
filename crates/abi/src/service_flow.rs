//! Flows that services translate packet by packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Be16, IpKey};

/// A packet of a service's flow, as it comes: the key of
/// `axon_service_flow_v1`.
///
/// A flow is two entries: of what its client sends to the frontend (`reply` = 0)
/// and of what the backend answers (`reply` = 1). What one becomes is, turned
/// around, the key of the other.
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
pub struct ServiceFlowKey {
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
    /// 0: from the client to the frontend, 1: from the backend.
    pub reply: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<ServiceFlowKey>() == 40);

/// What such a packet becomes: the value of `axon_service_flow_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ServiceFlow {
    /// The source address put in.
    pub source: IpKey,
    /// The destination address put in.
    pub destination: IpKey,
    /// The source port put in.
    pub source_port: Be16,
    /// The destination port put in.
    pub destination_port: Be16,
    /// The backend's id.
    pub backend: u32,
    /// The port of a service that it is a backend of.
    pub service: u32,
    /// The frontend's generation when the backend was last found to be valid.
    pub generation: u32,
    /// The backend's generation when it was chosen.
    pub backend_generation: u32,
    /// Second (monotonic clock) of the last packet.
    pub seen_s: u32,
    /// [`ServiceFlowFlags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<ServiceFlow>() == 60);

/// Bits of [`ServiceFlow::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceFlowFlags;

impl ServiceFlowFlags {
    /// A packet of this direction was seen.
    pub const SEEN: u32 = 1 << 0;
    /// TCP: FIN or RST was seen in this direction.
    pub const ENDS: u32 = 1 << 1;
}

impl ServiceFlow {
    /// The key of the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn turned(&self, protocol: u8, reply: u8) -> ServiceFlowKey {
        ServiceFlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol,
            reply,
            pad: [0; 2],
        }
    }
}
