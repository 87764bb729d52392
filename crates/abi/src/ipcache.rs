//! The ipcache: address to identity, for every address that is not an
//! endpoint of this node, and for those too.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Identity, IpKey, Scope};

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

impl IpcacheRow {
    /// Whether the address is a node's: this one's or another's.
    #[inline(always)]
    pub const fn is_node(&self) -> bool {
        let scope = self.identity.scope();
        self.flags & IpcacheFlags::WORKLOAD == 0
            && matches!(
                scope,
                Scope::Host | Scope::RemoteNode | Scope::KubeApiserver
            )
    }
}

/// Bits of [`IpcacheRow::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcacheFlags;

impl IpcacheFlags {
    /// The address belongs to this node's own network namespace.
    pub const LOCAL_HOST: u32 = 1 << 0;
    /// The address belongs to a workload (as opposed to a node or the world).
    pub const WORKLOAD: u32 = 1 << 1;
}

#[cfg(test)]
mod tests {
    use super::{IpcacheFlags, IpcacheRow};
    use crate::Identity;

    #[test]
    fn nodes_are_told_from_everybody_else() {
        let labelled = Identity(Identity::REMOTE_NODE_MIN.0 + 1);
        for (identity, flags, expected) in [
            (Identity::HOST, IpcacheFlags::LOCAL_HOST, true),
            (Identity::REMOTE_NODE, 0, true),
            (Identity::KUBE_APISERVER, 0, true),
            (labelled, 0, true),
            (Identity::REMOTE_NODE, IpcacheFlags::WORKLOAD, false),
            (Identity::WORLD, 0, false),
            (Identity::HEALTH, 0, false),
            (Identity::CLUSTER_MIN, IpcacheFlags::WORKLOAD, false),
            (Identity::LOCAL_MIN, 0, false),
        ] {
            let row = IpcacheRow {
                identity,
                flags,
                ..IpcacheRow::default()
            };
            assert_eq!(row.is_node(), expected, "{identity:?} {flags}");
        }
    }
}
