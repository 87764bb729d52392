//! A state of the cluster: its objects, what each node holds for them, who has
//! which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::IpKey;
use axon_api::manifest::{self, FieldError, ManifestError, Object};
use axon_control::services::{Cluster, Numbers, Report, ServiceRows, ServicesConfig, resolve};
use axon_model::{ObjectKey, Pod, Protocol};
use serde_json::Value;

/// Hosts outside by name.
pub(super) type Outside = BTreeMap<String, Vec<IpAddr>>;
/// Ports of a node that processes listen at.
pub(super) type Listeners = BTreeMap<String, BTreeSet<(Protocol, u16)>>;

/// A state of the cluster, resolved on each of its nodes.
pub(super) struct State<'a> {
    pub(super) cluster: Cluster,
    pub(super) outside: &'a Outside,
    listeners: &'a Listeners,
    pub(super) rows: BTreeMap<String, ServiceRows>,
    /// Addresses of all nodes.
    pub(super) nodes: BTreeSet<IpKey>,
    pub(super) now_s: u32,
    reports: BTreeSet<Report>,
}

impl<'a> State<'a> {
    /// Reads the objects; of two of one name the later one counts.
    pub(super) fn new(
        objects: &[Value],
        (outside, listeners): (&'a Outside, &'a Listeners),
        now_s: u32,
    ) -> Self {
        let mut state = Self {
            cluster: Cluster {
                makes_slices: true,
                ..Cluster::default()
            },
            outside,
            listeners,
            rows: BTreeMap::new(),
            nodes: BTreeSet::new(),
            now_s,
            reports: BTreeSet::new(),
        };
        for object in objects {
            if let Err(error) = state.read(object) {
                state.reports.insert(Report {
                    object: named(object),
                    field: error.path,
                    reason: error.message,
                });
            }
        }
        let addresses = state.cluster.nodes.values();
        let addresses = addresses.flat_map(|node| &node.addresses);
        state.nodes = addresses.map(|address| address.addr.into()).collect();
        state
    }

    fn read(&mut self, object: &Value) -> Result<(), FieldError> {
        let wrong = |error: ManifestError| FieldError::new(error.path, error.message);
        let manifest = manifest::parse(object.to_string().as_bytes()).map_err(wrong)?;
        if let Some(refusal) = manifest.refused.into_iter().next() {
            return Err(wrong(refusal.error));
        }
        for document in manifest.documents {
            if let Some(object) = &document.object {
                self.add(document.key, object)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, key: ObjectKey, object: &Object) -> Result<(), FieldError> {
        let cluster = &mut self.cluster;
        match object {
            Object::Node(node) => {
                cluster.nodes.insert(key.name, node.to_model()?.into());
            }
            Object::Pod(pod) => {
                cluster.pods.insert(key, pod.to_model()?.into());
            }
            Object::Service(service) => {
                cluster.services.insert(key, service.to_model().into());
            }
            Object::EndpointSlice(slice) => {
                cluster.slices.insert(key, slice.to_model().into());
            }
            Object::CiliumLocalRedirectPolicy(policy) => {
                cluster.redirects.insert(key, policy.to_model()?.into());
            }
            Object::Namespace(_)
            | Object::Policy(_)
            | Object::CiliumCidrGroup(_)
            | Object::CiliumNode(_)
            | Object::CiliumIdentity(_)
            | Object::CiliumEndpoint(_) => {}
        }
        Ok(())
    }

    /// Resolves services on each node. What had a number in an earlier state has
    /// it in this.
    pub(super) fn resolve(
        &mut self,
        config: &ServicesConfig,
        numbers: &mut BTreeMap<String, Numbers>,
    ) {
        let names: Vec<String> = self.cluster.nodes.keys().cloned().collect();
        for node in names {
            let listeners = self.listeners.get(&node);
            self.cluster.listeners = listeners.cloned().unwrap_or_default();
            let numbers = numbers.entry(node.clone()).or_default();
            let rows = resolve(&self.cluster, &node, config, numbers);
            self.reports.extend(rows.reports.iter().cloned());
            self.rows.insert(node, rows);
        }
    }

    /// What is wrong, each field of an object once.
    pub(super) fn reports(&self) -> impl Iterator<Item = &Report> {
        let mut told = BTreeSet::new();
        let mut is_new =
            move |report: &Report| told.insert((report.object.clone(), report.field.clone()));
        self.reports.iter().filter(move |report| is_new(report))
    }

    /// The node that has the address.
    pub(super) fn node_at(&self, addr: IpAddr) -> Option<&str> {
        let mut nodes = self.cluster.nodes.values();
        let node = nodes.find(|node| node.addresses.iter().any(|has| has.addr == addr))?;
        Some(&node.name)
    }

    /// The host outside that has the address.
    pub(super) fn outside_at(&self, addr: IpAddr) -> Option<&str> {
        let mut hosts = self.outside.iter();
        let (name, _) = hosts.find(|(_, addresses)| addresses.contains(&addr))?;
        Some(name)
    }

    /// The pod that answers at the address: each does, at every port that is asked
    /// of it. Of those that share their node's, the one that declares the port.
    pub(super) fn pod_at(&self, addr: IpAddr, port: u16, protocol: Protocol) -> Option<&Pod> {
        let pods = self.cluster.pods.values().map(|pod| &**pod);
        let pods = pods.filter(|pod| !pod.is_finished && pod.ips.contains(&addr));
        let pods: Vec<&Pod> = pods.collect();
        let declares = pods.iter().find(|pod| declares(pod, port, protocol));
        declares.or(pods.first()).copied()
    }

    /// Whether a process of the node itself listens at the port.
    pub(super) fn listens(&self, node: &str, port: u16, protocol: Protocol) -> bool {
        let ports = self.listeners.get(node);
        ports.is_some_and(|ports| ports.contains(&(protocol, port)))
    }
}

/// Whether a pod says that it listens at a port.
pub(super) fn declares(pod: &Pod, port: u16, protocol: Protocol) -> bool {
    let mut ports = pod.ports.iter();
    ports.any(|has| (has.port, has.protocol) == (port, protocol))
}

/// What an object calls itself, however wrong the rest of it is.
fn named(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let key = ObjectKey::new(&text(&metadata["namespace"]), &text(&metadata["name"]));
    format!("{} {key}", text(&object["kind"]))
}
