//! From the documents of all files to the observed tables.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use axon_api::cilium::CiliumNode;
use axon_api::manifest::{Document, FieldError, Object};
use axon_model::{
    CidrGroup, CiliumEndpoint, EndpointSlice, IdentityRecord, LocalRedirect, Namespace, Node,
    ObjectKey, Observed, Origin, Pod, PolicyObject, Service,
};

use crate::Conflict;

/// The rows that the documents make, and what they disagree on.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    namespaces: BTreeMap<String, Namespace>,
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<ObjectKey, Pod>,
    policies: BTreeMap<Origin, PolicyObject>,
    cidr_groups: BTreeMap<String, CidrGroup>,
    services: BTreeMap<ObjectKey, Service>,
    endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    local_redirects: BTreeMap<ObjectKey, LocalRedirect>,
    cilium_endpoints: BTreeMap<ObjectKey, CiliumEndpoint>,
    identities: BTreeMap<u32, IdentityRecord>,
    /// Objects in force.
    pub(crate) objects: usize,
    /// Documents of kinds that nobody here uses.
    pub(crate) ignored: usize,
    /// Objects that several documents define.
    pub(crate) conflicts: Vec<Conflict>,
}

impl Merged {
    /// Merges documents, given in the order of their files' paths: of several
    /// that define the same object the first is in force.
    pub(crate) fn new<'a>(documents: impl Iterator<Item = (&'a Path, &'a Document)>) -> Self {
        let mut merged = Self::default();
        let mut seen: BTreeMap<(&str, &ObjectKey), &Path> = BTreeMap::new();
        let mut cilium_nodes = Vec::new();
        for (path, document) in documents {
            let Some(object) = &document.object else {
                merged.ignored += 1;
                continue;
            };
            match seen.entry((&document.kind, &document.key)) {
                Entry::Occupied(winner) => {
                    merged.conflicts.push(Conflict {
                        kind: document.kind.clone(),
                        object: document.key.to_string(),
                        winner: winner.get().to_path_buf(),
                        loser: path.to_owned(),
                    });
                    continue;
                }
                Entry::Vacant(entry) => entry.insert(path),
            };
            merged.objects += 1;
            if let Object::CiliumNode(node) = object {
                cilium_nodes.push(node);
            } else if let Err(error) = merged.add(object, &document.key) {
                // Parsing has converted it once already.
                tracing::error!(path = %path.display(), %error, "object not taken");
            }
        }
        for node in cilium_nodes {
            merged.add_cilium_node(node);
        }
        merged
    }

    fn add(&mut self, object: &Object, key: &ObjectKey) -> Result<(), FieldError> {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces
                    .insert(key.name.clone(), namespace.to_model());
            }
            Object::Node(node) => {
                self.nodes.insert(key.name.clone(), node.to_model()?);
            }
            Object::Pod(pod) => {
                self.pods.insert(key.clone(), pod.to_model()?);
            }
            Object::Policy(policy) => {
                self.policies.insert(policy.origin.clone(), policy.clone());
            }
            Object::CiliumCidrGroup(group) => {
                self.cidr_groups.insert(key.name.clone(), group.to_model()?);
            }
            Object::Service(service) => {
                self.services.insert(key.clone(), service.to_model());
            }
            Object::EndpointSlice(slice) => {
                self.endpoint_slices.insert(key.clone(), slice.to_model());
            }
            Object::CiliumLocalRedirectPolicy(policy) => {
                self.local_redirects.insert(key.clone(), policy.to_model()?);
            }
            Object::CiliumIdentity(identity) => {
                let record = identity.to_model()?;
                self.identities.insert(record.id, record);
            }
            Object::CiliumEndpoint(endpoint) => {
                if let Some(endpoint) = endpoint.to_model()? {
                    self.cilium_endpoints.insert(key.clone(), endpoint);
                }
            }
            Object::CiliumNode(_) => {}
        }
        Ok(())
    }

    /// A CiliumNode says more of a Node of its name: further addresses, and
    /// the prefixes if the Node has none. Alone it stands for the Node.
    fn add_cilium_node(&mut self, node: &CiliumNode) {
        let Ok(more) = node.to_model() else {
            return;
        };
        match self.nodes.entry(more.name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(more);
            }
            Entry::Occupied(mut entry) => {
                let node = entry.get_mut();
                for address in more.addresses {
                    if !node.addresses.contains(&address) {
                        node.addresses.push(address);
                    }
                }
                if node.pod_cidrs.is_empty() {
                    node.pod_cidrs = more.pod_cidrs;
                }
            }
        }
    }

    /// Makes the tables hold these rows: one write each, and only differences
    /// count. Who refers comes after what it refers to.
    pub(crate) fn write(self, observed: &Observed) {
        observed.namespaces.replace(self.namespaces);
        observed.nodes.replace(self.nodes);
        observed.identities.replace(self.identities);
        observed.pods.replace(self.pods);
        observed.cilium_endpoints.replace(self.cilium_endpoints);
        observed.cidr_groups.replace(self.cidr_groups);
        observed.services.replace(self.services);
        observed.endpoint_slices.replace(self.endpoint_slices);
        observed.local_redirects.replace(self.local_redirects);
        observed.policies.replace(self.policies);
    }
}

/// Says of every table that is written here that its source has told all.
pub(crate) fn mark_complete(observed: &Observed) {
    observed.namespaces.mark_complete();
    observed.nodes.mark_complete();
    observed.identities.mark_complete();
    observed.pods.mark_complete();
    observed.cilium_endpoints.mark_complete();
    observed.cidr_groups.mark_complete();
    observed.services.mark_complete();
    observed.endpoint_slices.mark_complete();
    observed.local_redirects.mark_complete();
    observed.policies.mark_complete();
}
