//! Who an address is.

use axon_abi::{ConfigFlags, EndpointRow, Identity, IpKey, IpcacheFlags, LpmKey};

use crate::tables::Tables;

/// Who an address is.
#[derive(Clone, Copy)]
pub(crate) struct Who<'a> {
    /// Its security identity.
    pub(crate) identity: Identity,
    /// The endpoint of this node that has the address.
    pub(crate) endpoint: Option<&'a EndpointRow>,
    /// Whether it is an address of this node itself.
    pub(crate) host: bool,
}

/// Asks who an address is: an endpoint of this node, a single address, a
/// prefix, or else the world. `lpm` is room for a key.
///
/// While rows are missing a wider prefix, or the world, may be allowed what
/// the missing one is not: then whoever has no row of its own is unknown.
#[inline(never)]
pub(crate) fn who<'a>(tables: &'a impl Tables, addr: &IpKey, lpm: &mut LpmKey) -> Who<'a> {
    if let Some(row) = tables.address(addr) {
        return Who {
            identity: row.identity,
            endpoint: Some(row),
            host: false,
        };
    }
    let mut row = tables.ipcache(addr);
    if row.is_none() {
        if tables.config().flags & ConfigFlags::IPCACHE_PARTIAL != 0 {
            return Who {
                identity: Identity::UNKNOWN,
                endpoint: None,
                host: false,
            };
        }
        *lpm = LpmKey::host(*addr);
        row = tables.ipcache_cidr(lpm);
    }
    match row {
        Some(row) => Who {
            identity: row.identity,
            endpoint: None,
            host: row.flags & IpcacheFlags::LOCAL_HOST != 0,
        },
        None => Who {
            identity: world(tables.config().flags, addr),
            endpoint: None,
            host: false,
        },
    }
}

/// Who the other end of an endpoint's flow is: its address says, or who has
/// borrowed it.
#[inline(always)]
pub(crate) fn peer<'a>(
    tables: &'a impl Tables,
    addr: &IpKey,
    lpm: &mut LpmKey,
    borrower: Option<Identity>,
) -> Who<'a> {
    match borrower {
        Some(identity) => Who {
            identity,
            endpoint: None,
            host: false,
        },
        None => who(tables, addr, lpm),
    }
}

/// The world's identity: one on a single-stack node, two on a dual-stack one and
/// on one that is held to policy itself: its own traffic is of either family.
pub(crate) fn world(flags: u32, addr: &IpKey) -> Identity {
    let dual = ConfigFlags::IPV4 | ConfigFlags::IPV6;
    let both = flags & dual == dual || flags & ConfigFlags::HOST_FIREWALL != 0;
    match (both, addr.is_v4()) {
        (false, _) => Identity::WORLD,
        (true, true) => Identity::WORLD_IPV4,
        (true, false) => Identity::WORLD_IPV6,
    }
}
