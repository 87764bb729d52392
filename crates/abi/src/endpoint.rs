//! Endpoints: what the datapath must know of a workload of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Identity, IpKey};

/// An endpoint of this node: the value of `axon_endpoint_v1` (by the index of
/// its host-side device) and of `axon_address_v1` (by each of its addresses).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct EndpointRow {
    /// The host-side device through which the endpoint is reached.
    pub ifindex: u32,
    /// Its security identity.
    pub identity: Identity,
    /// The policy set version in force; see [`crate::PolicySetRow`].
    pub policy_set: u32,
    /// The endpoint's number on this node (1 to 65535).
    pub id: u16,
    /// [`EndpointFlags`].
    pub flags: u16,
    /// Its IPv4 address in network order; zero if it has none.
    pub ipv4: [u8; 4],
    /// Its IPv6 address in network order; unspecified if it has none.
    pub ipv6: IpKey,
    /// MAC address of the device inside the endpoint.
    pub mac: [u8; 6],
    /// MAC address of the host-side device: the endpoint's gateway.
    pub node_mac: [u8; 6],
}

const _: () = assert!(size_of::<EndpointRow>() == 48);

/// The device under which `axon_endpoint_v1` has the row of the node itself,
/// without addresses: the loopback, whose index is the same in every network
/// namespace.
pub const HOST_DEVICE: u32 = 1;

/// Bits of [`EndpointRow::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFlags;

impl EndpointFlags {
    /// The endpoint may send from any source address.
    pub const NO_SOURCE_CHECK: u16 = 1 << 0;
    /// Policy is evaluated and reported, but nothing is dropped by it.
    pub const AUDIT: u16 = 1 << 1;
}
