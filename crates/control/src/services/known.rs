//! What is known of the cluster, and who has to be asked again when some of it
//! changes.
//!
//! An object is asked as the slow way asks it, in a cluster of what it has to do
//! with alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use axon_model::{
    Distribution, EndpointSlice, LocalRedirect, Node, ObjectKey, Pod, Protocol, RedirectFrontend,
    Service,
};

use super::asked::{Asked, Kind, Object, Rank};
use super::endpoints::ZONE;
use super::frontends::{Asking, Place};
use super::index::{Index, asked_for, written};
use super::near::selects;
use super::{Cluster, Numbers, ServicesConfig};

#[derive(Debug)]
pub(super) struct Known {
    pub(super) node: String,
    config: ServicesConfig,
    cluster: Cluster,
    index: Index,
    /// Who has to be asked again.
    pub(super) dirty: BTreeSet<Object>,
}

impl Known {
    pub(super) fn new(node: &str, config: ServicesConfig, makes_slices: bool) -> Self {
        Self {
            node: node.to_owned(),
            config,
            cluster: Cluster {
                makes_slices,
                ..Cluster::default()
            },
            index: Index::default(),
            dirty: BTreeSet::new(),
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn ask(&mut self, kind: Kind, key: &ObjectKey) {
        self.dirty.insert(Object::new(kind, key));
    }

    fn ask_all(&mut self, kind: Kind, keys: &[ObjectKey]) {
        for key in keys {
            self.ask(kind, key);
        }
    }

    /// Services of which something is true.
    fn services(&self, is: impl Fn(&Service) -> bool) -> Vec<ObjectKey> {
        let all = self.cluster.services.iter();
        let those = all.filter(|(_, service)| is(service));
        those.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn service(&mut self, key: &ObjectKey, new: Option<Arc<Service>>) {
        let old = self.cluster.services.get(key).cloned();
        if old == new {
            return;
        }
        if let Some(old) = &old {
            self.index.service(key, old, false);
        }
        if let Some(new) = &new {
            self.index.service(key, new, true);
        }
        self.ask(Kind::Service, key);
        let redirects: Vec<_> = self.index.redirects_of.get(key).cloned().collect();
        self.ask_all(Kind::Redirect, &redirects);
        if old.is_some() != new.is_some() {
            let slices: Vec<_> = self.index.slices_of.get(key).cloned().collect();
            self.ask_all(Kind::Slice, &slices);
        }
        set(&mut self.cluster.services, key, new);
    }

    pub(super) fn slice(&mut self, key: &ObjectKey, new: Option<Arc<EndpointSlice>>) {
        let old = self.cluster.slices.get(key).cloned();
        if old == new {
            return;
        }
        for (slice, is_there) in [(&old, false), (&new, true)] {
            if let Some(slice) = slice {
                self.index.slice(key, slice, is_there);
                self.ask(
                    Kind::Service,
                    &ObjectKey::new(&key.namespace, &slice.service),
                );
            }
        }
        self.ask(Kind::Slice, key);
        set(&mut self.cluster.slices, key, new);
    }

    pub(super) fn pod(&mut self, key: &ObjectKey, new: Option<Arc<Pod>>) {
        let old = self.cluster.pods.get(key).cloned();
        if old == new {
            return;
        }
        if let Some(old) = &old {
            self.index.pod((key, old), &self.node, false);
        }
        if let Some(new) = &new {
            self.index.pod((key, new), &self.node, true);
        }
        set(&mut self.cluster.pods, key, new);
        let new = self.cluster.pods.get(key).cloned();
        for pod in [old, new].into_iter().flatten() {
            self.ask_around(key, &pod);
        }
        self.ask(Kind::Pod, key);
    }

    /// Asks whom a pod has to do with.
    fn ask_around(&mut self, key: &ObjectKey, pod: &Pod) {
        let mut services = self.selecting(key, pod);
        for ip in &pod.ips {
            for slice in self.index.unplaced.get(ip) {
                if let Some(known) = self.cluster.slices.get(slice) {
                    services.push(ObjectKey::new(&slice.namespace, &known.service));
                }
            }
            // An unplaced pod is where another with its address is.
            for other in self.index.pods_at.get(ip) {
                if let Some(pod) = self.cluster.pods.get(other) {
                    services.extend(self.selecting(other, pod));
                }
            }
        }
        self.ask_all(Kind::Service, &services);
        if pod.node == self.node {
            let all = self.index.redirects_in.get(&key.namespace);
            let those = all.filter(|key| {
                let redirect = self.cluster.redirects.get(key);
                redirect.is_some_and(|redirect| selects(redirect, pod))
            });
            let those: Vec<_> = those.cloned().collect();
            self.ask_all(Kind::Redirect, &those);
        }
    }

    /// The services that ask for a pod, or for some of its labels.
    fn selecting(&self, key: &ObjectKey, pod: &Pod) -> Vec<ObjectKey> {
        if !self.cluster.makes_slices {
            return Vec::new();
        }
        let labels = pod.labels.iter();
        let labels = labels.map(|(k, v)| (key.namespace.clone(), k.clone(), v.clone()));
        let mut found = Vec::new();
        for label in labels {
            let all = self.index.selecting.get(&label);
            found.extend(all.filter(|key| self.selects(key, pod)).cloned());
        }
        found
    }

    fn selects(&self, service: &ObjectKey, pod: &Pod) -> bool {
        let service = self.cluster.services.get(service);
        service.is_some_and(|service| {
            let mut wanted = service.selector.iter();
            wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
        })
    }

    pub(super) fn node(&mut self, name: &str, new: Option<Arc<Node>>) {
        let old = self.cluster.nodes.get(name).cloned();
        if old == new {
            return;
        }
        let mut services = Vec::new();
        for (node, is_there) in [(&old, false), (&new, true)] {
            if let Some(node) = node {
                self.index.node(name, node, is_there);
                let addresses = node.addresses.iter();
                let claiming = addresses.flat_map(|a| self.index.claiming.get(&a.addr));
                services.extend(claiming.cloned());
            }
        }
        let zone = |node: &Option<Arc<Node>>| node.as_ref()?.labels.get(ZONE).cloned();
        if zone(&old) != zone(&new) {
            let of_zones = |s: &Service| s.spec.distribution != Distribution::Even;
            services.extend(self.services(of_zones));
        }
        if name == self.node {
            let asks = |s: &Service| {
                let spec = &s.spec;
                let has_node_port = spec.ports.iter().any(|port| port.node_port != 0);
                let is_near = spec.nodes.is_some() || spec.follows_hints;
                is_near || has_node_port || !spec.external_ips.is_empty()
            };
            services.extend(self.services(asks));
            let pods = self.cluster.pods.iter();
            let pods = pods.filter(|(_, pod)| pod.node == name);
            let pods: Vec<_> = pods.map(|(key, _)| key.clone()).collect();
            self.ask_all(Kind::Pod, &pods);
        }
        self.ask_all(Kind::Service, &services);
        match new {
            Some(new) => self.cluster.nodes.insert(name.to_owned(), new),
            None => self.cluster.nodes.remove(name),
        };
    }

    pub(super) fn redirect(&mut self, key: &ObjectKey, new: Option<Arc<LocalRedirect>>) {
        let old = self.cluster.redirects.get(key).cloned();
        if old == new {
            return;
        }
        if let Some(old) = &old {
            self.index.redirect(key, old, false);
        }
        if let Some(new) = &new {
            self.index.redirect(key, new, true);
        }
        self.ask(Kind::Redirect, key);
        set(&mut self.cluster.redirects, key, new);
    }

    pub(super) fn listeners(&mut self, new: BTreeSet<(Protocol, u16)>) {
        let old = std::mem::replace(&mut self.cluster.listeners, new);
        let news: BTreeSet<_> = old.symmetric_difference(&self.cluster.listeners).collect();
        if news.is_empty() {
            return;
        }
        let has = |s: &Service| {
            let mut ports = s.spec.ports.iter();
            ports.any(|port| news.contains(&(port.protocol, port.node_port)))
        };
        let services = self.services(has);
        self.ask_all(Kind::Service, &services);
    }

    /// What an object asks for, and when it has its turn; none if it is not there.
    pub(super) fn asked(&self, object: &Object, numbers: &mut Numbers) -> Option<(Rank, Asked)> {
        let key = &object.key;
        let all = &self.cluster;
        let created = match object.kind {
            Kind::Service => all.services.get(key)?.spec.created.clone(),
            Kind::Redirect => all.redirects.get(key)?.created.clone(),
            Kind::Slice => all.slices.get(key).map(|_| String::new())?,
            Kind::Pod => all.pods.get(key).map(|_| String::new())?,
        };
        let small;
        let cluster = match object.kind {
            Kind::Service | Kind::Redirect => {
                small = self.around(object);
                &small
            }
            // They look at nothing of which there may be much.
            Kind::Slice | Kind::Pod => all,
        };
        let place = Place {
            cluster,
            node: &self.node,
            config: &self.config,
        };
        let rank = Rank {
            created,
            object: object.clone(),
        };
        Some((rank, Asking::new(place, numbers).object(object)))
    }

    /// The cluster as far as an object has to do with it.
    fn around(&self, object: &Object) -> Cluster {
        let mut small = Cluster {
            makes_slices: self.cluster.makes_slices,
            ..Cluster::default()
        };
        self.add_node(&mut small, &self.node);
        let (key, all) = (&object.key, &self.cluster);
        match object.kind {
            Kind::Service => self.around_service(&mut small, key),
            Kind::Slice | Kind::Pod => {}
            Kind::Redirect => {
                add(&mut small.redirects, &all.redirects, key);
                let Some(redirect) = all.redirects.get(key) else {
                    return small;
                };
                if let RedirectFrontend::Service(service, _) = &redirect.frontend {
                    add(&mut small.services, &all.services, service);
                }
                for pod in self.index.pods_here.get(&redirect.namespace) {
                    add(&mut small.pods, &all.pods, pod);
                }
            }
        }
        small
    }

    fn around_service(&self, small: &mut Cluster, key: &ObjectKey) {
        let all = &self.cluster;
        let Some(service) = all.services.get(key) else {
            return;
        };
        add(&mut small.services, &all.services, key);
        for addr in written(service) {
            for node in self.index.nodes_at.get(&addr) {
                self.add_node(small, node);
            }
        }
        let ports = service.spec.ports.iter();
        let ports = ports.map(|port| (port.protocol, port.node_port));
        small.listeners = ports.filter(|at| all.listeners.contains(at)).collect();
        let mut unplaced = Vec::new();
        for slice in self.index.slices_of.get(key) {
            add(&mut small.slices, &all.slices, slice);
            let endpoints = all.slices.get(slice).map(|slice| slice.endpoints.iter());
            let nowhere = endpoints
                .into_iter()
                .flatten()
                .filter(|e| e.node.is_empty());
            unplaced.extend(nowhere.flat_map(|e| &e.addresses).map(|a| a.addr));
        }
        if all.makes_slices {
            // Of all labels, the one that fewest have.
            let labels = asked_for(key, service);
            let rarest = labels.min_by_key(|label| self.index.pods_labelled.count(label));
            let pods = rarest.iter().flat_map(|l| self.index.pods_labelled.get(l));
            for pod in pods {
                let Some(known) = all.pods.get(pod) else {
                    continue;
                };
                add(&mut small.pods, &all.pods, pod);
                self.add_node(small, &known.node);
                if known.node.is_empty() {
                    unplaced.extend(&known.ips);
                }
            }
        }
        for ip in unplaced {
            for pod in self.index.pods_at.get(&ip) {
                add(&mut small.pods, &all.pods, pod);
            }
        }
    }

    fn add_node(&self, small: &mut Cluster, name: &str) {
        if let Some(node) = self.cluster.nodes.get(name) {
            small.nodes.insert(name.to_owned(), Arc::clone(node));
        }
    }
}

type Objects<T> = std::collections::BTreeMap<ObjectKey, Arc<T>>;

fn set<T>(objects: &mut Objects<T>, key: &ObjectKey, new: Option<Arc<T>>) {
    match new {
        Some(new) => objects.insert(key.clone(), new),
        None => objects.remove(key),
    };
}

fn add<T>(small: &mut Objects<T>, all: &Objects<T>, key: &ObjectKey) {
    if let Some(object) = all.get(key) {
        small.insert(key.clone(), Arc::clone(object));
    }
}
