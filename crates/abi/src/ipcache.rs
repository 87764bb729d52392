//! The ipcache: address to identity, for every address that is not an
//! endpoint of this node, and for those too.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Identity, IpKey};

/// Who an address is: the value of `axon_ipcache_v1` (host addresses, a hash)
/// and of `axon_ipcache_cidr_v1` (prefixes, asked on a miss of the hash).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct IpcacheRow {
    /// The address's security identity.
    pub identity: Identity,
    /// [`IpcacheFlags`].
    pub flags: u32,
    /// The node that serves the address; unspecified where that is this node
    /// or none.
    pub node: IpKey,
}

const _: () = assert!(size_of::<IpcacheRow>() == 24);

/// Bits of [`IpcacheRow::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcacheFlags;

impl IpcacheFlags {
    /// The address belongs to this node's own network namespace.
    pub const LOCAL_HOST: u32 = 1 << 0;
    /// The address belongs to a workload (as opposed to a node or the world).
    pub const WORKLOAD: u32 = 1 << 1;
}
