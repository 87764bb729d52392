//! Desired tables: what the kernel shall hold. `linux` makes it so.

use std::net::IpAddr;

use axon_abi::{
    Backend, ClassKey, ClassRow, EndpointRow, Identity, IdentityRow, IpKey, IpcacheRow, ListBlock,
    ListKey, LpmKey, MaglevBlock, MaglevKey, PolicyEntry, PolicyKey, PolicySetRow, RuntimeConfig,
    ServiceClient, ServiceEntry, ServiceKey, SourceRangeKey,
};
use axon_statedb::Table;
use ipnet::IpNet;

/// Rows by key. A clone shares all of them, and of two versions of one map only
/// the difference is looked at, however many rows there are.
pub type Rows<K, V> = imbl::OrdMap<K, V>;

/// How one version of [`Rows`] differs from another.
pub use imbl::ordmap::DiffItem as RowDiff;

/// The rows of one policy set version, written before an endpoint points to
/// it and removed after the last one has left it.
///
/// What a version says of a class never changes. Which identities it tells
/// apart does: rows of classes, and the entries of classes that nobody else is
/// in, come and go with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyRows {
    /// The set's own row.
    pub set: PolicySetRow,
    /// Identities that the set tells apart from the rest of their scope.
    pub classes: Rows<ClassKey, ClassRow>,
    /// Its entries.
    pub entries: Rows<PolicyKey, PolicyEntry>,
}

/// A route to another node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The node's internal address of the prefix's family.
    pub via: IpAddr,
}

/// The rows of services. Cloning shares the tables.
///
/// Order of writes: backends, lists, tables; ranges and who passes by; frontends.
/// What nobody leads to any more goes a while after that.
#[derive(Clone, Debug, Default)]
pub struct DesiredServices {
    /// Frontends.
    pub frontends: Table<ServiceKey, ServiceEntry>,
    /// Lists, in blocks.
    pub lists: Table<ListKey, ListBlock>,
    /// Maglev tables, in blocks.
    pub maglev: Table<MaglevKey, MaglevBlock>,
    /// Backends by id.
    pub backends: Table<u32, Backend>,
    /// Source ranges.
    pub ranges: Table<SourceRangeKey, ()>,
    /// Who passes by a redirection.
    pub skips: Table<ServiceClient, ()>,
}

/// Every desired table. Cloning shares the tables.
///
/// Order of writes, so that at no instant more is allowed than before or
/// after: policy sets, addresses; who has gone; endpoints; who has come. An
/// identity becomes known when every set that an endpoint has tells its class,
/// or allows it without that nothing that it shall not, and is nobody's any more
/// before one does not.
/// The configuration comes after all of them: a new epoch has verdicts made
/// again, from rows that must be there by then.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Known identities.
    pub identities: Table<Identity, IdentityRow>,
    /// Policy set versions by number.
    pub policy_sets: Table<u32, PolicyRows>,
    /// Host addresses.
    pub ipcache: Table<IpKey, IpcacheRow>,
    /// Prefixes.
    pub ipcache_cidrs: Table<LpmKey, IpcacheRow>,
    /// Endpoints by the index of their host-side device; each is also found by
    /// its addresses.
    pub endpoints: Table<u32, EndpointRow>,
    /// Destinations towards which pods keep their address.
    pub nomasq: Table<LpmKey, u32>,
    /// Routes to other nodes' pods.
    pub routes: Table<IpNet, Route>,
    /// Services.
    pub services: DesiredServices,
    /// The programs' configuration (one row, key 0).
    pub config: Table<u32, RuntimeConfig>,
}
