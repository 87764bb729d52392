//! A cluster as manifests describe it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use axon_api::manifest::Object;
use axon_model::{Labels, Origin, PolicyObject, Subject};
use axon_policy::unmet;

use crate::{CidrGroup, Cluster, Namespace, Node, Pod, PodPort, Problem, Service, Settings, World};

/// Nodes of pods whose own is not described. No node can have such a name.
const SOME_NODE: &str = "(a node)";
const OTHER_NODE: &str = "(another node)";

/// A cluster and its policies.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// Who is there.
    pub cluster: Cluster,
    /// What is in force.
    pub policies: BTreeMap<Origin, PolicyObject>,
    /// Addresses that pods have beside the one in `cluster`.
    pub(crate) further: BTreeMap<IpAddr, (String, String)>,
    /// How its agents are configured, where one of them has said so.
    pub(crate) told: Option<Settings>,
}

impl Described {
    /// What manifests say, the last of two of one name. Pods without an address
    /// get one that nobody has, and pods without a described node one together.
    ///
    /// # Errors
    /// What is wrong with an object, by its kind and name.
    pub fn of(objects: impl IntoIterator<Item = Object>) -> Result<Self, Problem> {
        let mut read = Read::default();
        for object in objects {
            read.add(object)?;
        }
        Ok(read.finish())
    }

    /// The same cluster after these policies and CIDR groups have been applied:
    /// they come in the place of those of the same name or, if `prune` says so, of
    /// all.
    #[must_use]
    pub fn with(&self, proposed: &Self, prune: bool) -> Self {
        let mut after = self.clone();
        if prune {
            after.policies.clear();
        }
        after.policies.extend(proposed.policies.clone());
        let named: BTreeSet<&str> = proposed
            .cluster
            .cidr_groups
            .iter()
            .map(|g| g.name.as_str())
            .collect();
        let groups = &mut after.cluster.cidr_groups;
        groups.retain(|group| !named.contains(group.name.as_str()));
        groups.extend(proposed.cluster.cidr_groups.iter().cloned());
        after
    }

    /// The settings that an agent has told; of manifests those that everything
    /// described can be in force with: nodes have a firewall if a policy is about
    /// nodes.
    pub fn settings(&self) -> Settings {
        if let Some(told) = &self.told {
            return told.clone();
        }
        let mut rules = self.policies.values().flat_map(|policy| &policy.rules);
        Settings {
            host_firewall: rules.any(|rule| matches!(rule.subject, Subject::Nodes(_))),
            node_selector_labels: true,
            ..Settings::default()
        }
    }

    /// Policies that agents with these settings refuse, and why.
    ///
    /// # Errors
    /// A setting that is none.
    pub fn refused(&self, settings: &Settings) -> Result<Vec<(Origin, String)>, Problem> {
        let config = World::config(&self.cluster, settings)?;
        let judged = self.policies.values();
        Ok(judged
            .filter_map(|p| Some((p.origin.clone(), unmet(&config, p)?.to_string())))
            .collect())
    }

    /// The cluster with its policies in force.
    ///
    /// # Errors
    /// What cannot be, by its path.
    pub fn world(&self, settings: &Settings) -> Result<World, Problem> {
        let policies = self.policies.values().cloned().collect();
        World::new(self.cluster.clone(), settings, policies)
    }
}

/// What has been read.
#[derive(Default)]
pub(crate) struct Read {
    namespaces: BTreeMap<String, Namespace>,
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<(String, String), (Pod, Vec<IpAddr>)>,
    services: BTreeMap<(String, String), Service>,
    slices: BTreeMap<(String, String), (String, Vec<IpAddr>)>,
    groups: BTreeMap<String, CidrGroup>,
    policies: BTreeMap<Origin, PolicyObject>,
}

impl Read {
    fn add(&mut self, object: Object) -> Result<(), Problem> {
        let wrong = |kind: &str, name: &str, error: axon_api::manifest::FieldError| {
            Problem::new(format!("{kind} {name}: {}", error.path), error.message)
        };
        match object {
            Object::Namespace(namespace) => self.namespace(namespace.to_model()),
            Object::Node(node) => {
                let name = &node.metadata.name;
                self.node(node.to_model().map_err(|e| wrong("Node", name, e))?);
            }
            Object::Pod(pod) => {
                let name = &pod.metadata.name;
                self.pod(pod.to_model().map_err(|e| wrong("Pod", name, e))?, None);
            }
            Object::Service(service) => self.service(service.to_model()),
            Object::EndpointSlice(slice) => {
                let key = (
                    slice.metadata.namespace.clone(),
                    slice.metadata.name.clone(),
                );
                self.slice(key, slice.to_model());
            }
            Object::CiliumCidrGroup(group) => {
                let name = &group.metadata.name;
                let group = group.to_model();
                self.group(group.map_err(|e| wrong("CiliumCIDRGroup", name, e))?);
            }
            Object::Policy(policy) => {
                self.policies.insert(policy.origin.clone(), policy);
            }
            Object::CiliumNode(_)
            | Object::CiliumIdentity(_)
            | Object::CiliumEndpoint(_)
            | Object::CiliumLocalRedirectPolicy(_) => {}
        }
        Ok(())
    }

    pub(crate) fn namespace(&mut self, namespace: axon_model::Namespace) {
        let axon_model::Namespace { name, labels, .. } = namespace;
        let namespace = Namespace {
            name: name.clone(),
            labels,
        };
        self.namespaces.insert(name, namespace);
    }

    pub(crate) fn node(&mut self, node: axon_model::Node) {
        let ip = node.internal_ip(false).or_else(|| node.internal_ip(true));
        let node = Node {
            name: node.name,
            ip: ip.unwrap_or(Ipv6Addr::UNSPECIFIED.into()),
            labels: node.labels,
            kube_apiserver: false,
        };
        self.nodes.insert(node.name.clone(), node);
    }

    /// A pod, and the labels of its identity if they are known.
    pub(crate) fn pod(&mut self, pod: axon_model::Pod, identity: Option<Labels>) {
        // It has no endpoint: it is the node.
        if pod.host_network {
            return;
        }
        let ports = pod.ports.into_iter().map(|port| PodPort {
            name: port.name,
            port: port.port,
            protocol: port.protocol.to_string(),
        });
        let key = (pod.namespace.clone(), pod.name.clone());
        let read = Pod {
            namespace: pod.namespace,
            name: pod.name,
            ip: Ipv6Addr::UNSPECIFIED.into(),
            node: pod.node,
            service_account: pod.service_account,
            labels: pod.labels,
            ports: ports.collect(),
            cluster: String::new(),
            extra_labels: Vec::new(),
            identity,
        };
        self.pods.insert(key, (read, pod.ips));
    }

    pub(crate) fn service(&mut self, service: axon_model::Service) {
        let key = (service.namespace.clone(), service.name.clone());
        let service = Service {
            namespace: service.namespace,
            name: service.name,
            labels: service.labels,
            selector: service.selector,
            ..Service::default()
        };
        self.services.insert(key, service);
    }

    pub(crate) fn slice(&mut self, key: (String, String), slice: axon_model::EndpointSlice) {
        self.slices.insert(key, (slice.service, slice.addresses));
    }

    pub(crate) fn group(&mut self, group: axon_model::CidrGroup) {
        let group = CidrGroup {
            name: group.name,
            labels: group.labels,
            cidrs: group.cidrs,
        };
        self.groups.insert(group.name.clone(), group);
    }

    pub(crate) fn policies(&mut self, policies: Vec<PolicyObject>) {
        let named = policies.into_iter();
        self.policies
            .extend(named.map(|policy| (policy.origin.clone(), policy)));
    }

    pub(crate) fn finish(mut self) -> Described {
        let mut addresses = Addresses::default();
        for node in self.nodes.values_mut() {
            node.ip = addresses.take(Some(node.ip));
        }
        let homeless = |nodes: &BTreeMap<String, Node>, pod: &Pod| !nodes.contains_key(&pod.node);
        let some = self
            .pods
            .values()
            .any(|(pod, _)| homeless(&self.nodes, pod));
        for (pod, _) in self.pods.values_mut() {
            if homeless(&self.nodes, pod) {
                SOME_NODE.clone_into(&mut pod.node);
            }
        }
        let other = self.nodes.len() < 2;
        for name in some
            .then_some(SOME_NODE)
            .into_iter()
            .chain(other.then_some(OTHER_NODE))
        {
            let node = Node {
                name: name.to_owned(),
                ip: addresses.take(None),
                labels: BTreeMap::new(),
                kube_apiserver: false,
            };
            self.nodes.insert(name.to_owned(), node);
        }
        let mut further = BTreeMap::new();
        for (key, (pod, ips)) in &mut self.pods {
            pod.ip = addresses.take(ips.first().copied());
            further.extend(ips.iter().skip(1).map(|ip| (*ip, key.clone())));
        }
        let mut external = BTreeSet::new();
        for ((namespace, _), (service, ips)) in self.slices {
            if (namespace.as_str(), service.as_str()) == ("default", "kubernetes") {
                external.extend(ips.iter().copied());
            }
            if let Some(service) = self.services.get_mut(&(namespace, service)) {
                service.endpoints.extend(ips);
            }
        }
        for node in self.nodes.values_mut() {
            node.kube_apiserver = external.remove(&node.ip);
        }
        let pods: Vec<Pod> = self.pods.into_values().map(|(pod, _)| pod).collect();
        external.retain(|ip| pods.iter().all(|pod| pod.ip != *ip));
        Described {
            cluster: Cluster {
                namespaces: self.namespaces.into_values().collect(),
                nodes: self.nodes.into_values().collect(),
                pods,
                external_apiservers: external.into_iter().collect(),
                services: self.services.into_values().collect(),
                cidr_groups: self.groups.into_values().collect(),
                ..Cluster::default()
            },
            policies: self.policies,
            further,
            told: None,
        }
    }
}

/// Addresses that are taken.
#[derive(Default)]
struct Addresses {
    taken: BTreeSet<IpAddr>,
    made: u32,
}

impl Addresses {
    /// This address if it can be had, otherwise one of those that lead nowhere
    /// (RFC 6666).
    fn take(&mut self, wanted: Option<IpAddr>) -> IpAddr {
        let wanted = wanted.filter(|ip| !ip.is_unspecified());
        if let Some(ip) = wanted.filter(|ip| self.taken.insert(*ip)) {
            return ip;
        }
        loop {
            self.made += 1;
            let ip = Ipv6Addr::from_bits((0x100_u128 << 112) | u128::from(self.made));
            if self.taken.insert(ip.into()) {
                return ip.into();
            }
        }
    }
}
