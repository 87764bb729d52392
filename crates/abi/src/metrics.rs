//! Counters of what became of packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The way of a packet as an endpoint sees it, with Cilium's numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Not told.
    #[default]
    Unknown = 0,
    /// Towards the endpoint.
    Ingress = 1,
    /// From the endpoint.
    Egress = 2,
}

impl Direction {
    /// The direction with this number; [`Direction::Unknown`] for others.
    pub const fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Ingress,
            2 => Self::Egress,
            _ => Self::Unknown,
        }
    }
}

/// Packets and bytes of one reason and direction: the value, per CPU, of
/// `axon_metrics_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct MetricsRow {
    /// Packets.
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

/// Entries of `axon_metrics_v1`.
pub const METRICS_ENTRIES: u32 = 256 * 4;

/// The index in `axon_metrics_v1` of a reason (0 is "forwarded", else the
/// number of a [`crate::DropReason`]) in a direction.
#[inline(always)]
pub const fn metrics_index(reason: u8, direction: Direction) -> u32 {
    (reason as u32) << 2 | direction as u32
}
