//! The controller: observed tables in, desired tables out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{Desired, Labels, Observed};
use axon_policy::{Numbers, SelectorUse};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::identity::{CidrIdentities, LabelIdentities};
use crate::views::{EndpointStatus, IpEntry, PolicySetUse, RuleView, StepReport};

/// What must survive a restart. Written to disk before the rows of the step
/// that changed it go to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Persisted {
    /// Numbers of policy sets and rules.
    pub numbers: Numbers,
    /// Identities that this node has numbered.
    pub identities: LabelIdentities,
    /// Identities of prefixes.
    pub cidr_identities: CidrIdentities,
    /// The last epoch of identities.
    pub epoch: u32,
}

/// What is pinned from an earlier life and not described by [`Persisted`]:
/// numbers that must not be given another meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The greatest policy set number in the pinned maps.
    pub last_set: u32,
    /// The epoch in the pinned configuration.
    pub epoch: u32,
}

/// Derives desired rows from observed ones.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    persisted: Persisted,
}

impl Controller {
    /// A controller that knows what its predecessor persisted.
    pub fn new(config: Config, persisted: Persisted) -> Self {
        Self { config, persisted }
    }

    /// Says what the pinned maps hold. Call it before the first step.
    pub fn adopt(&mut self, adopted: Adopted) {
        self.persisted
            .numbers
            .sets
            .reserve_through(adopted.last_set);
        self.persisted.epoch = self.persisted.epoch.max(adopted.epoch);
    }

    /// Names addresses of this node that its Node object does not tell (of
    /// its devices): they are the host too.
    pub fn set_local_addresses(&mut self, addresses: Vec<IpAddr>) {
        let _ = addresses;
    }

    /// Says how many bytes of an IP packet the underlay carries now.
    pub fn set_mtu(&mut self, mtu: u32) {
        self.config.mtu = mtu;
    }

    /// Looks at what has changed and brings the desired tables up to date.
    pub fn step(&mut self, now_ms: u64, observed: &Observed, desired: &Desired) -> StepReport {
        let _ = (now_ms, observed, desired, &self.config);
        StepReport::default()
    }

    /// What must survive a restart.
    pub fn persisted(&self) -> &Persisted {
        &self.persisted
    }

    /// What has been decided for each endpoint.
    pub fn endpoints(&self) -> &BTreeMap<u16, EndpointStatus> {
        const NONE: &BTreeMap<u16, EndpointStatus> = &BTreeMap::new();
        NONE
    }

    /// Every known identity with its labels.
    pub fn identities(&self) -> Vec<(Identity, Labels)> {
        Vec::new()
    }

    /// The labels of an identity.
    pub fn labels_of(&self, id: Identity) -> Option<Labels> {
        let _ = id;
        None
    }

    /// Who every known address and prefix is.
    pub fn ips(&self) -> Vec<IpEntry> {
        Vec::new()
    }

    /// The policy sets that the kernel shall hold.
    pub fn policy_sets(&self) -> Vec<PolicySetUse> {
        Vec::new()
    }

    /// The selectors in use and whom they select.
    pub fn selectors(&self) -> Vec<SelectorUse> {
        Vec::new()
    }

    /// The rule behind a number in a policy entry or event.
    pub fn rule(&self, number: u32) -> Option<RuleView> {
        let _ = number;
        None
    }
}
