//! What a step sees: observed tables at one revision, and what has changed in
//! each since the last step.

use std::collections::BTreeSet;

use axon_model::{
    CidrGroup, CiliumEndpoint, Endpoint, EndpointSlice, IdentityRecord, LocalRedirect, NameAnswer,
    NameKey, Namespace, Node, ObjectKey, Observed, Origin, Pod, PolicyObject, Service,
};
use axon_statedb::{Changes, Snapshot, Table};

use crate::config::IdentityMode;

/// One table, and the keys that may have changed.
pub(crate) struct Seen<K, V> {
    pub(crate) rows: Snapshot<K, V>,
    /// `None`: compare everything.
    changed: Option<Vec<K>>,
}

impl<K: Ord + Clone, V: PartialEq> Seen<K, V> {
    fn take(table: &Table<K, V>, cursor: &mut Option<u64>) -> Self {
        let (rows, changes) = table.changes(cursor.unwrap_or(0));
        let changed = match changes {
            Changes::Keys(keys) if cursor.is_some() => Some(keys),
            Changes::Keys(_) | Changes::All => None,
        };
        *cursor = Some(rows.revision());
        Self { rows, changed }
    }

    /// Whether anything may have changed.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.as_ref().is_none_or(|keys| !keys.is_empty())
    }

    /// Whether a row may have changed whose key is such.
    pub(crate) fn is_changed_where(&self, is: impl Fn(&K) -> bool) -> bool {
        self.changed.as_ref().is_none_or(|keys| keys.iter().any(is))
    }

    /// The keys that may have changed: those in the table, and those that the
    /// caller knows from before.
    pub(crate) fn keys<'a>(&self, known: impl Iterator<Item = &'a K>) -> BTreeSet<K>
    where
        K: 'a,
    {
        match &self.changed {
            Some(keys) => keys.iter().cloned().collect(),
            None => {
                let present = self.rows.iter().map(|(key, _)| key.clone());
                present.chain(known.cloned()).collect()
            }
        }
    }
}

/// Revisions seen last.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    namespaces: Option<u64>,
    nodes: Option<u64>,
    pods: Option<u64>,
    policies: Option<u64>,
    cidr_groups: Option<u64>,
    services: Option<u64>,
    endpoint_slices: Option<u64>,
    cilium_endpoints: Option<u64>,
    identities: Option<u64>,
    names: Option<u64>,
    endpoints: Option<u64>,
}

/// Every observed table that policy follows from.
pub(crate) struct View {
    pub(crate) namespaces: Seen<String, Namespace>,
    pub(crate) nodes: Seen<String, Node>,
    pub(crate) pods: Seen<ObjectKey, Pod>,
    pub(crate) policies: Seen<Origin, PolicyObject>,
    pub(crate) cidr_groups: Seen<String, CidrGroup>,
    pub(crate) services: Seen<ObjectKey, Service>,
    pub(crate) endpoint_slices: Seen<ObjectKey, EndpointSlice>,
    pub(crate) cilium_endpoints: Seen<ObjectKey, CiliumEndpoint>,
    pub(crate) identities: Seen<u32, IdentityRecord>,
    pub(crate) names: Seen<NameKey, NameAnswer>,
    pub(crate) endpoints: Seen<u16, Endpoint>,
    mode: IdentityMode,
}

impl View {
    pub(crate) fn take(observed: &Observed, cursors: &mut Cursors, mode: IdentityMode) -> Self {
        Self {
            namespaces: Seen::take(&observed.namespaces, &mut cursors.namespaces),
            nodes: Seen::take(&observed.nodes, &mut cursors.nodes),
            pods: Seen::take(&observed.pods, &mut cursors.pods),
            policies: Seen::take(&observed.policies, &mut cursors.policies),
            cidr_groups: Seen::take(&observed.cidr_groups, &mut cursors.cidr_groups),
            services: Seen::take(&observed.services, &mut cursors.services),
            endpoint_slices: Seen::take(&observed.endpoint_slices, &mut cursors.endpoint_slices),
            cilium_endpoints: Seen::take(&observed.cilium_endpoints, &mut cursors.cilium_endpoints),
            identities: Seen::take(&observed.identities, &mut cursors.identities),
            names: Seen::take(&observed.names, &mut cursors.names),
            endpoints: Seen::take(&observed.endpoints, &mut cursors.endpoints),
            mode,
        }
    }

    /// Tables that have not told everything yet and whose absences would mean
    /// something, by name.
    pub(crate) fn incomplete(&self) -> Vec<&'static str> {
        let crd = self.mode == IdentityMode::Crd;
        [
            ("namespaces", self.namespaces.rows.is_complete()),
            ("nodes", self.nodes.rows.is_complete()),
            ("pods", self.pods.rows.is_complete()),
            ("policies", self.policies.rows.is_complete()),
            ("CiliumCIDRGroups", self.cidr_groups.rows.is_complete()),
            ("services", self.services.rows.is_complete()),
            ("EndpointSlices", self.endpoint_slices.rows.is_complete()),
            ("DNS names", self.names.rows.is_complete()),
            ("endpoints", self.endpoints.rows.is_complete()),
            (
                "CiliumEndpoints",
                !crd || self.cilium_endpoints.rows.is_complete(),
            ),
            (
                "CiliumIdentities",
                !crd || self.identities.rows.is_complete(),
            ),
        ]
        .into_iter()
        .filter(|(_, complete)| !complete)
        .map(|(name, _)| name)
        .collect()
    }

    /// What an endpoint's identity and policy follow from, if it is not all
    /// there yet.
    pub(crate) fn endpoints_wait_for(&self) -> Option<&'static str> {
        self.host_waits_for(true)
    }

    /// The same for the policy of the node itself, which needs no policies if its
    /// rules are known without them.
    pub(crate) fn host_waits_for(&self, policies: bool) -> Option<&'static str> {
        let needed = [
            "namespaces",
            "pods",
            "policies",
            "CiliumCIDRGroups",
            "services",
            "EndpointSlices",
            "CiliumIdentities",
        ];
        let mut missing = self.incomplete().into_iter();
        missing.find(|name| needed.contains(name) && (policies || *name != "policies"))
    }

    /// Whether what groups follow from may have changed.
    pub(crate) fn groups_are_changed(&self) -> bool {
        self.cidr_groups.is_changed()
            || self.services.is_changed()
            || self.endpoint_slices.is_changed()
    }

    /// Whether policies and all that they refer to are known.
    pub(crate) fn policies_are_complete(&self) -> bool {
        self.policies.rows.is_complete()
            && self.cidr_groups.rows.is_complete()
            && self.services.rows.is_complete()
            && self.endpoint_slices.rows.is_complete()
    }

    /// Whether any row may have changed.
    pub(crate) fn is_changed(&self) -> bool {
        self.namespaces.is_changed()
            || self.nodes.is_changed()
            || self.pods.is_changed()
            || self.policies.is_changed()
            || self.groups_are_changed()
            || self.cilium_endpoints.is_changed()
            || self.identities.is_changed()
            || self.names.is_changed()
            || self.endpoints.is_changed()
    }
}

/// Revisions that the services' step has seen last.
#[derive(Debug, Default)]
pub(crate) struct ServicesCursors {
    services: Option<u64>,
    endpoint_slices: Option<u64>,
    local_redirects: Option<u64>,
    pods: Option<u64>,
    nodes: Option<u64>,
}

/// Every observed table that services follow from.
pub(crate) struct ServicesView {
    pub(crate) services: Seen<ObjectKey, Service>,
    pub(crate) endpoint_slices: Seen<ObjectKey, EndpointSlice>,
    pub(crate) local_redirects: Seen<ObjectKey, LocalRedirect>,
    pub(crate) pods: Seen<ObjectKey, Pod>,
    pub(crate) nodes: Seen<String, Node>,
}

impl ServicesView {
    pub(crate) fn take(observed: &Observed, cursors: &mut ServicesCursors) -> Self {
        Self {
            services: Seen::take(&observed.services, &mut cursors.services),
            endpoint_slices: Seen::take(&observed.endpoint_slices, &mut cursors.endpoint_slices),
            local_redirects: Seen::take(&observed.local_redirects, &mut cursors.local_redirects),
            pods: Seen::take(&observed.pods, &mut cursors.pods),
            nodes: Seen::take(&observed.nodes, &mut cursors.nodes),
        }
    }

    /// Whether all that services follow from is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.services.rows.is_complete()
            && self.endpoint_slices.rows.is_complete()
            && self.local_redirects.rows.is_complete()
            && self.pods.rows.is_complete()
            && self.nodes.rows.is_complete()
    }
}
