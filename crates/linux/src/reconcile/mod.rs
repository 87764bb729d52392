//! Desired tables into kernel state, in an order that never allows too much.
//!
//! ```text
//!  what policy says         policy sets
//!  who an address is        ipcache, nomasq, routes
//!  who is nobody any more   ipcache, identities: taken away
//!  whose policy is asked    endpoints: put, and taken away
//!  who is somebody now      identities: put
//!  what nobody needs        routes, nomasq, policy sets (after a grace): taken away
//!  verdicts anew            config, with a new epoch
//! ```
//!
//! Whoever is known is in his class in every set that an endpoint has: who goes
//! is nobody before an endpoint gets a set that may not tell him apart, and who
//! comes is nobody while one has such a set that would allow him too much. Nobody
//! is denied by every set with entries.
//!
//! An endpoint's row is not written before the policy set that it names is
//! whole in the kernel; a set is not removed while an endpoint names it. Rows that
//! come late, after failures, are followed by an epoch of their own.
//!
//! A row of the node itself that finds no room is put in another's place: without
//! it the node would be open.
//!
//! While a row of the ipcache is missing, for want of room or whatever reason,
//! the configuration says so: the programs then take an address without a row
//! of its own for nobody known, instead of for the next wider prefix.
//!
//! Services have an order of their own ([`services`]).

mod endpoints;
mod follow;
mod newcomers;
mod node;
mod policy;
mod rows;
mod services;

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::{EndpointRow, IpKey, LpmKey};
use axon_model::Desired;

use crate::maps::{MapError, Maps};
use crate::routes::RouteTarget;
use endpoints::EndpointTarget;
use follow::Follower;
use newcomers::Doubts;
use policy::PolicySetTarget;
use rows::{ConfigTarget, IdentityTarget, MapTarget};
use services::{Services, Stores};

/// How the reconciler works.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilerConfig {
    /// How long failed rows wait.
    pub backoff: axon_statedb::Backoff,
    /// How long a policy set stays after the last endpoint has left it.
    pub policy_set_grace_ms: u64,
    /// How long lists, Maglev tables and backends stay after the last frontend
    /// has left them.
    pub service_grace_ms: u64,
    /// Table of the kernel's routes (254 is main).
    pub route_table: u32,
}

impl Default for ReconcilerConfig {
    fn default() -> Self {
        Self {
            backoff: axon_statedb::Backoff::default(),
            policy_set_grace_ms: 2000,
            service_grace_ms: 2000,
            route_table: 254,
        }
    }
}

/// Why the kernel does not hold a row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("policy set {set} is not in the kernel yet")]
    NoPolicySet { set: u32 },
    #[error("policy set {set} is still used by the endpoint at device {ifindex}")]
    PolicySetInUse { set: u32, ifindex: u32 },
    #[error("entries that another class left are still under class {class} of policy set {set}")]
    ClassLeft { set: u32, class: u32 },
    #[error("{0} would allow the identity too much: it does not tell it apart")]
    Withheld(endpoints::InForce),
    #[error("it is not known what policy sets in force say: {0}")]
    Unready(String),
    #[error("policy set {set} lacks the row of identity {identity}, whom it would allow too much")]
    Misleading { set: u32, identity: u32 },
    #[error("policy set {set} holds a row of set {other}")]
    ForeignRow { set: u32, other: u32 },
}

/// What a pass did to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableReport {
    /// Rows put in place.
    pub updated: usize,
    /// Rows taken away.
    pub deleted: usize,
    /// Rows that the kernel does not take, each with its words; the first
    /// [`FAILING_SHOWN`] of them.
    pub failing: Vec<(String, String)>,
    /// How many rows the kernel does not take.
    pub failing_rows: usize,
}

impl TableReport {
    /// Counts a row that the kernel does not take.
    fn fail(&mut self, row: String, error: String) {
        self.failing_rows += 1;
        if self.failing.len() < FAILING_SHOWN {
            self.failing.push((row, error));
        }
    }
}

/// Rows that a [`TableReport`] names.
pub const FAILING_SHOWN: usize = 16;

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReconcileReport {
    /// By table: `identities`, `policy-sets`, `ipcache`, `ipcache-cidrs`,
    /// `nomasq`, `config`, `routes`, `endpoints`; `services`, `service-lists`,
    /// `maglev-tables`, `backends`, `source-ranges`, `service-skips`.
    pub tables: BTreeMap<&'static str, TableReport>,
    /// When the next pass is due, for a retry or a removal that waits.
    pub due_ms: Option<u64>,
    /// Whether rows of the ipcache are missing, so that addresses without a
    /// row of their own are unknown to policy
    /// ([`axon_abi::ConfigFlags::IPCACHE_PARTIAL`]).
    pub ipcache_partial: bool,
    /// How often a backend was replaced or went, since the first pass: whoever
    /// speaks to it speaks to nobody.
    pub backends_gone: u64,
}

impl ReconcileReport {
    /// Takes in what was done to other tables.
    pub fn join(&mut self, other: Self) {
        self.tables.extend(other.tables);
        self.due_ms = self.due_ms.into_iter().chain(other.due_ms).min();
        self.ipcache_partial |= other.ipcache_partial;
        // One of the two counts them.
        self.backends_gone += other.backends_gone;
    }

    /// Rows that the kernel does not take, over all tables.
    pub fn failing_rows(&self) -> usize {
        self.tables.values().map(|table| table.failing_rows).sum()
    }
}

/// Whether a pass looks at changes or at everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// Carries out what has changed since the last pass, and retries what is due.
    #[default]
    Changes,
    /// Compares everything with the kernel and repairs the difference.
    Everything,
}

/// Follows every desired table into the kernel.
pub struct KernelReconciler {
    maps: Maps,
    backoff: axon_statedb::Backoff,
    identities: Follower<IdentityTarget>,
    policy_sets: Follower<PolicySetTarget>,
    ipcache: Follower<MapTarget<IpKey, axon_abi::IpcacheRow>>,
    ipcache_cidrs: Follower<MapTarget<LpmKey, axon_abi::IpcacheRow>>,
    nomasq: Follower<MapTarget<LpmKey, u32>>,
    config: Follower<ConfigTarget>,
    routes: Follower<RouteTarget>,
    endpoints: Follower<EndpointTarget>,
    services: Services,
}

impl std::fmt::Debug for KernelReconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelReconciler").finish_non_exhaustive()
    }
}

fn ip_name(key: &IpKey) -> String {
    IpAddr::from(*key).to_string()
}

fn prefix_name(key: &LpmKey) -> String {
    let bits = if key.addr.is_v4() {
        key.prefix_bits.saturating_sub(96)
    } else {
        key.prefix_bits
    };
    format!("{}/{bits}", IpAddr::from(key.addr))
}

impl KernelReconciler {
    /// A reconciler that has seen nothing yet: its first pass compares all.
    /// Routes are those of the calling thread's network namespace.
    pub fn new(maps: Maps, config: ReconcilerConfig) -> Self {
        let backoff = config.backoff;
        Self {
            identities: Follower::new(IdentityTarget::new(maps.identity.clone()), backoff, |key| {
                key.0.to_string()
            }),
            policy_sets: Follower::new(
                PolicySetTarget::new(&maps, config.policy_set_grace_ms),
                backoff,
                u32::to_string,
            )
            .with_grace(config.policy_set_grace_ms),
            ipcache: Follower::new(MapTarget::new(maps.ipcache.clone()), backoff, ip_name),
            ipcache_cidrs: Follower::new(
                MapTarget::new(maps.ipcache_cidr.clone()),
                backoff,
                prefix_name,
            ),
            nomasq: Follower::new(MapTarget::new(maps.nomasq.clone()), backoff, prefix_name),
            config: Follower::new(
                ConfigTarget::new(maps.config.clone()),
                backoff,
                u32::to_string,
            ),
            routes: Follower::new(
                RouteTarget::new(config.route_table),
                backoff,
                ipnet::IpNet::to_string,
            ),
            endpoints: Follower::new(EndpointTarget::new(&maps), backoff, |ifindex| {
                format!("device {ifindex}")
            }),
            services: Services::new(Stores::of(&maps), backoff, config.service_grace_ms),
            maps,
            backoff,
        }
    }

    /// Carries out what has changed since the last pass, and retries what is
    /// due.
    pub fn sync(&mut self, now_ms: u64, desired: &Desired) -> ReconcileReport {
        self.pass(Pass::Changes, now_ms, desired)
    }

    /// Compares everything with the kernel and repairs the difference.
    pub fn full(&mut self, now_ms: u64, desired: &Desired) -> ReconcileReport {
        self.pass(Pass::Everything, now_ms, desired)
    }

    fn pass(&mut self, pass: Pass, now_ms: u64, desired: &Desired) -> ReconcileReport {
        let mut report = self.without_services(pass, now_ms, desired);
        report.join(self.services(pass, now_ms, desired));
        report
    }

    /// The rows of services alone, which follow from no others: whoever has others
    /// wait for something does not have these wait, and the other way round.
    pub fn services(&mut self, pass: Pass, now_ms: u64, desired: &Desired) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        self.services
            .pass(pass, now_ms, &desired.services, &mut report);
        report
    }

    /// All rows but those of services.
    pub fn without_services(
        &mut self,
        pass: Pass,
        now_ms: u64,
        desired: &Desired,
    ) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        let r = &mut report;
        let (known, wanted) = (
            desired.identities.snapshot(),
            desired.policy_sets.snapshot(),
        );
        let sets = self.policy_sets.target_mut();
        let mut surplus = sets.begin(now_ms, known, &wanted).err();
        let sets_late = self
            .policy_sets
            .put(pass, now_ms, &desired.policy_sets, "policy-sets", r);
        match self.policy_sets.target().misleading(&wanted) {
            Ok(sets) => self.endpoints.target_mut().set_misleading(sets),
            Err(error) => surplus = surplus.or(Some(error)),
        }
        if sets_late {
            // What endpoints have waited for is there.
            self.endpoints.hasten();
        }
        // A row that comes late may change verdicts that the present epoch calls made.
        let late = [
            sets_late,
            self.identities
                .put(pass, now_ms, &desired.identities, "identities", r),
            self.ipcache
                .put(pass, now_ms, &desired.ipcache, "ipcache", r),
            self.have_node_known(now_ms, desired),
            self.ipcache_cidrs
                .put(pass, now_ms, &desired.ipcache_cidrs, "ipcache-cidrs", r),
            self.nomasq.put(pass, now_ms, &desired.nomasq, "nomasq", r),
            self.routes.put(pass, now_ms, &desired.routes, "routes", r),
            self.ipcache_cidrs.take(now_ms, "ipcache-cidrs", r),
            self.ipcache.take(now_ms, "ipcache", r),
            self.identities.take(now_ms, "identities", r),
            self.endpoints
                .put(pass, now_ms, &desired.endpoints, "endpoints", r),
            self.have_node_held(now_ms, desired),
            self.endpoints.take(now_ms, "endpoints", r),
            self.have_known(now_ms, desired, surplus.as_ref(), r),
            self.routes.take(now_ms, "routes", r),
            self.nomasq.take(now_ms, "nomasq", r),
            self.policy_sets.take(now_ms, "policy-sets", r),
        ];
        match self.policy_sets.target_mut().end() {
            Ok(due) => r.due_ms = r.due_ms.into_iter().chain(due).min(),
            Err(error) => surplus = surplus.or(Some(error)),
        }
        self.tell_surplus(now_ms, surplus, r);
        if self.policy_sets.target_mut().has_made_room() && self.policy_sets.lacks_rows() {
            self.policy_sets.hasten();
            r.due_ms = Some(now_ms);
        }
        r.ipcache_partial = self.ipcache.lacks_rows() || self.ipcache_cidrs.lacks_rows();
        let news = self.config.target_mut().set_partial(r.ipcache_partial);
        if news || late.contains(&true) {
            self.config.target_mut().next_epoch();
        }
        self.config.put(pass, now_ms, &desired.config, "config", r);
        self.config.take(now_ms, "config", r);
        report
    }

    /// Has those who have come be known, except whom a set in force would allow
    /// too much then ([`Doubts`]), and nobody while it is not known what is in
    /// force.
    fn have_known(
        &mut self,
        now_ms: u64,
        desired: &Desired,
        surplus: Option<&RowError>,
        report: &mut ReconcileReport,
    ) -> bool {
        let unread = self.policy_sets.unread().or(self.endpoints.unread());
        let surplus = surplus.map(RowError::to_string);
        let unready = surplus.or_else(|| unread.map(str::to_owned));
        let time = (now_ms, self.backoff);
        let wanted = desired.identities.snapshot();
        let (endpoints, sets) = (desired.endpoints.snapshot(), desired.policy_sets.snapshot());
        let in_force = if self.identities.target().awaits_any() {
            self.endpoints.target().in_force(&endpoints)
        } else {
            Vec::new()
        };
        let mut doubts = Doubts::new(in_force, self.policy_sets.target(), &sets);
        let may_come = |id| match &unready {
            Some(why) => Err(RowError::Unready(why.clone())),
            None => doubts.ask(id),
        };
        let identities = self.identities.target_mut();
        identities.arrive(time, may_come, &wanted, report)
    }

    /// Tells that rows which nobody needs cannot be taken away.
    fn tell_surplus(&self, now_ms: u64, error: Option<RowError>, report: &mut ReconcileReport) {
        let Some(error) = error else {
            return;
        };
        let table = report.tables.entry("policy-sets").or_default();
        table.fail("surplus rows".to_owned(), error.to_string());
        let retry_ms = now_ms + self.backoff.max_ms;
        report.due_ms = report.due_ms.into_iter().chain([retry_ms]).min();
    }

    /// Whether the kernel holds exactly this row for an endpoint, by the index
    /// of its host-side device: its policy is enforced.
    pub fn endpoint_enforced(&self, ifindex: u32, row: &EndpointRow) -> bool {
        endpoints::is_enforced(&self.maps, ifindex, row).unwrap_or(false)
    }
}
