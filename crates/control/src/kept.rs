//! The rows that hold the node itself to its policy: what is kept of the
//! kernel's over a reboot, which takes everything that is pinned away.

use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::{
    ConfigFlags, EndpointRow, HOST_DEVICE, Identity, IdentityRow, IpKey, IpcacheRow, LpmKey,
};
use axon_model::{Desired, PolicyRows};
use axon_policy::PolicySet;
use axon_statedb::Snapshot;

use crate::config::Config;
use crate::controller::Controller;
use crate::follow::host_claim;
use crate::persisted::Persisted;
use crate::runtime::{DeviceAddresses, runtime_config};
use crate::views::WaitReason;

/// The rows that the node's policy follows from, and the numbers in them.
#[derive(Clone)]
pub struct HostRows {
    /// What the numbers stand for.
    pub persisted: Persisted,
    /// The node's own row.
    pub endpoint: EndpointRow,
    /// The set that it names.
    pub set: Arc<PolicyRows>,
    /// Known identities.
    pub identities: Snapshot<Identity, IdentityRow>,
    /// Host addresses.
    pub ipcache: Snapshot<IpKey, IpcacheRow>,
    /// Prefixes.
    pub ipcache_cidrs: Snapshot<LpmKey, IpcacheRow>,
}

impl std::fmt::Debug for HostRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (set, addresses) = (self.endpoint.policy_set, self.ipcache.len());
        write!(f, "HostRows {{ set: {set}, addresses: {addresses}, .. }}")
    }
}

impl Controller {
    /// The rows that are to hold the node itself after a reboot too, once all is
    /// known that they follow from. What is on trial is not among them: a node that
    /// is started anew takes it back.
    pub fn host_rows(&self, desired: &Desired) -> Option<HostRows> {
        let waits = matches!(self.host.waiting, Some(WaitReason::Sources { .. }));
        let is_decided = self.host.policy_set != 0 && !waits;
        if !self.config.host_firewall || !is_decided || self.host_policy_is_on_trial() {
            return None;
        }
        let tables = (
            desired.identities.snapshot(),
            desired.ipcache.snapshot(),
            desired.ipcache_cidrs.snapshot(),
        );
        let (identities, ipcache, ipcache_cidrs) = tables;
        if !(identities.is_complete() && ipcache.is_complete() && ipcache_cidrs.is_complete()) {
            return None;
        }
        let endpoint = desired.endpoints.get(&HOST_DEVICE)?;
        Some(HostRows {
            persisted: self.persisted.clone(),
            set: desired.policy_sets.get(&endpoint.policy_set)?,
            endpoint: *endpoint,
            identities,
            ipcache,
            ipcache_cidrs,
        })
    }
}

impl HostRows {
    /// The rows of a node of whose policy nothing is known but that there was one:
    /// nobody gets in or out but by what no policy closes.
    pub fn lockdown(config: &Config, mut persisted: Persisted) -> Self {
        let set = PolicySet::lockdown_of_host(&config.policy(), &mut persisted.numbers);
        let nobody = Desired::default();
        Self {
            endpoint: EndpointRow {
                ifindex: HOST_DEVICE,
                identity: Identity::HOST,
                policy_set: set.number,
                id: config.host_id,
                ..EndpointRow::default()
            },
            set: Arc::new(set.rows.clone()),
            identities: nobody.identities.snapshot(),
            ipcache: nobody.ipcache.snapshot(),
            ipcache_cidrs: nobody.ipcache_cidrs.snapshot(),
            persisted,
        }
    }

    /// The tables that put these rows in force on a node with these options now,
    /// whose devices have `addresses`. Those of last time are the node's too: its
    /// devices may be about to get them.
    ///
    /// Nothing is masqueraded before it is known towards whom.
    pub fn desired(&self, config: &Config, addresses: &[IpAddr]) -> Desired {
        let desired = Desired::default();
        let set = self.endpoint.policy_set;
        desired.policy_sets.replace([(set, (*self.set).clone())]);
        let identities = self.identities.iter();
        let identities = identities.map(|(id, row)| (*id, **row));
        desired.identities.replace(identities);
        let own = host_claim().row();
        let known = self.ipcache.iter().map(|(addr, row)| (*addr, **row));
        let own = addresses.iter().map(|addr| (IpKey::from(*addr), own));
        desired.ipcache.replace(known.chain(own));
        let prefixes = self.ipcache_cidrs.iter();
        let prefixes = prefixes.map(|(prefix, row)| (*prefix, **row));
        desired.ipcache_cidrs.replace(prefixes);
        desired.endpoints.replace([(HOST_DEVICE, self.endpoint)]);
        let known = DeviceAddresses::default();
        let mut row = runtime_config(config, None, &known, self.persisted.epoch);
        row.flags &= !(ConfigFlags::MASQUERADE_IPV4 | ConfigFlags::MASQUERADE_IPV6);
        desired.config.replace([(0, row)]);
        desired
    }
}
