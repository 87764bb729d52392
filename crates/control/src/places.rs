//! Where the addresses of workloads are, among the prefixes that policy names:
//! what prefixes select workloads by, where they do.
//!
//! Workloads of the same labels that are in other prefixes are somebody else,
//! with a number of their own: a label for each prefix tells them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{Endpoint, Labels, ObjectKey};
use axon_policy::{cidr_label, narrowest};
use ipnet::IpNet;

/// The prefixes that policy names, and who is in them.
#[derive(Debug, Default)]
pub(crate) struct Places {
    named: BTreeSet<IpNet>,
    is_changed: bool,
    /// The addresses of this node's pods: their status may not tell them yet.
    local: BTreeMap<ObjectKey, Vec<IpAddr>>,
    /// The identities that CiliumEndpoints' addresses have for their place.
    claimed: BTreeMap<ObjectKey, Identity>,
}

impl Places {
    /// Says which prefixes policy names.
    pub(crate) fn set_named(&mut self, named: BTreeSet<IpNet>) {
        self.is_changed |= self.named != named;
        self.named = named;
    }

    /// Whether workloads may have come to other places since this was asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Says which endpoints this node has; hands back whom that may concern.
    pub(crate) fn set_local<'a>(
        &mut self,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> BTreeSet<ObjectKey> {
        let pods = endpoints.filter(|endpoint| !endpoint.pod_name.is_empty());
        let local: BTreeMap<ObjectKey, Vec<IpAddr>> = pods
            .map(|endpoint| {
                let key = ObjectKey::new(&endpoint.namespace, &endpoint.pod_name);
                (key, addresses(endpoint).collect())
            })
            .collect();
        let differs = |key: &&ObjectKey| self.local.get(*key) != local.get(*key);
        let either = self.local.keys().chain(local.keys());
        let changed = either.filter(differs).cloned().collect();
        self.local = local;
        changed
    }

    /// The addresses of a pod of this node, if it has an endpoint.
    pub(crate) fn local(&self, key: &ObjectKey) -> Option<&[IpAddr]> {
        self.local.get(key).map(Vec::as_slice)
    }

    /// The labels of a workload, and one for the narrowest prefix that each of
    /// its addresses is in.
    pub(crate) fn labels(&self, base: &Labels, addresses: &[IpAddr]) -> Labels {
        let mut labels = base.clone();
        for prefix in addresses.iter().filter_map(|a| narrowest(&self.named, *a)) {
            labels.insert(cidr_label(prefix));
        }
        labels
    }

    /// Says which identity a CiliumEndpoint's addresses have for their place.
    pub(crate) fn claim(&mut self, key: &ObjectKey, identity: Option<Identity>) {
        match identity {
            Some(identity) => self.claimed.insert(key.clone(), identity),
            None => self.claimed.remove(key),
        };
    }

    /// The identities that CiliumEndpoints' addresses have for their place.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = Identity> {
        self.claimed.values().copied()
    }
}

/// The addresses of an endpoint.
pub(crate) fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = endpoint.ipv4.map(IpAddr::V4);
    v4.into_iter().chain(endpoint.ipv6.map(IpAddr::V6))
}
