//! Who has to be asked again when something else changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_model::{EndpointSlice, LocalRedirect, Node, ObjectKey, Pod, RedirectFrontend, Service};

/// Several values for a key.
#[derive(Debug)]
pub(super) struct Multi<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Multi<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord> Multi<K, V> {
    /// Has a value be there, or not.
    pub(super) fn set(&mut self, key: K, value: V, is_there: bool) {
        if is_there {
            self.0.entry(key).or_default().insert(value);
        } else if let Some(values) = self.0.get_mut(&key) {
            values.remove(&value);
            if values.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    pub(super) fn get(&self, key: &K) -> impl Iterator<Item = &V> {
        self.0.get(key).into_iter().flatten()
    }

    /// The least of them.
    pub(super) fn first(&self, key: &K) -> Option<&V> {
        self.0.get(key)?.first()
    }

    pub(super) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}

/// A label of a namespace's pods.
pub(super) type LabelAt = (String, String, String);

/// Objects by what they have to do with others.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Slices by their service.
    pub(super) slices_of: Multi<ObjectKey, ObjectKey>,
    /// Slices by the addresses of endpoints without a node.
    pub(super) unplaced: Multi<IpAddr, ObjectKey>,
    pub(super) pods_labelled: Multi<LabelAt, ObjectKey>,
    pub(super) pods_at: Multi<IpAddr, ObjectKey>,
    /// Pods of this node by namespace.
    pub(super) pods_here: Multi<String, ObjectKey>,
    /// Services by the first label that they ask for.
    pub(super) selecting: Multi<LabelAt, ObjectKey>,
    /// Services by the addresses that are written in them.
    pub(super) claiming: Multi<IpAddr, ObjectKey>,
    pub(super) nodes_at: Multi<IpAddr, String>,
    /// Redirections by the service that they are for.
    pub(super) redirects_of: Multi<ObjectKey, ObjectKey>,
    pub(super) redirects_in: Multi<String, ObjectKey>,
}

/// Every address that is written in a service.
pub(super) fn written(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = &service.spec;
    let all = spec.cluster_ips.iter().chain(&spec.load_balancer_ips);
    all.chain(&spec.external_ips).map(|ip| ip.addr)
}

/// The labels of a namespace's pods that a service asks for.
pub(super) fn asked_for(key: &ObjectKey, service: &Service) -> impl Iterator<Item = LabelAt> {
    let namespace = key.namespace.clone();
    let labels = service.selector.iter();
    labels.map(move |(k, v)| (namespace.clone(), k.clone(), v.clone()))
}

impl Index {
    pub(super) fn service(&mut self, key: &ObjectKey, service: &Service, is_there: bool) {
        if let Some(label) = asked_for(key, service).next() {
            self.selecting.set(label, key.clone(), is_there);
        }
        for addr in written(service) {
            self.claiming.set(addr, key.clone(), is_there);
        }
    }

    pub(super) fn slice(&mut self, key: &ObjectKey, slice: &EndpointSlice, is_there: bool) {
        let service = ObjectKey::new(&key.namespace, &slice.service);
        self.slices_of.set(service, key.clone(), is_there);
        let unplaced = slice.endpoints.iter().filter(|e| e.node.is_empty());
        for address in unplaced.flat_map(|endpoint| &endpoint.addresses) {
            self.unplaced.set(address.addr, key.clone(), is_there);
        }
    }

    pub(super) fn pod(&mut self, (key, pod): (&ObjectKey, &Pod), node: &str, is_there: bool) {
        for (label, value) in &pod.labels {
            let label = (key.namespace.clone(), label.clone(), value.clone());
            self.pods_labelled.set(label, key.clone(), is_there);
        }
        for ip in &pod.ips {
            self.pods_at.set(*ip, key.clone(), is_there);
        }
        if pod.node == node {
            let namespace = key.namespace.clone();
            self.pods_here.set(namespace, key.clone(), is_there);
        }
    }

    pub(super) fn node(&mut self, name: &str, node: &Node, is_there: bool) {
        for address in &node.addresses {
            self.nodes_at.set(address.addr, name.to_owned(), is_there);
        }
    }

    pub(super) fn redirect(&mut self, key: &ObjectKey, redirect: &LocalRedirect, is_there: bool) {
        if let RedirectFrontend::Service(service, _) = &redirect.frontend {
            self.redirects_of
                .set(service.clone(), key.clone(), is_there);
        }
        let namespace = redirect.namespace.clone();
        self.redirects_in.set(namespace, key.clone(), is_there);
    }
}
