//! The cluster's brain: writes what API server and operator would tell the
//! agents, into the directory that they watch.
//!
//! Numbers of identities are never used for other labels while the lab is up,
//! so that no agent ever mistakes one for another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use axon_control::labels::{LabelFilter, identity_labels, process_labels, security_labels};
use axon_model::{Labels, Namespace, ObjectKey, Pod};
use serde_json::{Value, json};

use crate::dns::Book;
use crate::manifest::Id;
use crate::names::names;
use crate::paths::{Lab, write_whole};
use crate::plan::{NodePlan, PodKey};
use crate::state::{Cluster, PodState, Process, log, timestamp};
use crate::tables;

/// Writes manifests, and only those that differ from what it wrote before.
#[derive(Debug)]
pub(crate) struct Brain {
    manifests: PathBuf,
    scratch: PathBuf,
    names: PathBuf,
    filter: LabelFilter,
    written: BTreeMap<String, String>,
}

/// File names and their content.
pub(crate) type Files = BTreeMap<String, String>;

/// The file of names; not a manifest.
const NAMES: &str = "names.json";

impl Brain {
    /// The brain of a lab.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self {
            manifests: lab.manifests(),
            scratch: lab.scratch(),
            names: lab.names(),
            filter: LabelFilter::default(),
            written: BTreeMap::new(),
        }
    }

    /// What the directory shall hold.
    ///
    /// # Errors
    /// There are more label sets than numbers.
    pub(crate) fn think(&self, cluster: &mut Cluster) -> Result<Files> {
        let mut files = Files::new();
        let mut numbers = BTreeMap::new();
        let mut pods = Vec::new();
        let mut add = |id: &Id, value: &Value| -> Result<()> {
            files.insert(id.file_name(), serde_norway::to_string(value)?);
            Ok(())
        };
        for (id, value) in &cluster.plan.others {
            add(id, value)?;
        }
        for node in &cluster.plan.nodes {
            add(&id("Node", "", &node.name), &node.value)?;
            add(&id("CiliumNode", "", &node.name), &cilium_node(node))?;
        }
        let keys: Vec<PodKey> = cluster.pods.keys().cloned().collect();
        for key in keys {
            let Some(pod) = cluster.pods.get(&key) else {
                continue;
            };
            let labels = self.labels(pod, cluster);
            let host = host_ip(cluster, pod);
            let number = if pod.plan.host_network {
                None
            } else {
                Some(cluster.identities.allocate(&labels)?.0)
            };
            let Some(pod) = cluster.pods.get(&key) else {
                continue;
            };
            let object = pod_object(pod, host, cluster.plan.imposes_pod_status());
            let of_pod = id("Pod", &key.namespace, &key.name);
            add(&of_pod, &object)?;
            pods.push((of_pod, object));
            let Some(number) = number else { continue };
            numbers.insert(key.clone(), number);
            let (id, identity) = identity_object(number, &labels);
            add(&id, &identity)?;
            if !pod.ips.is_empty() {
                let (id, endpoint) = endpoint_object(&Known::pod(pod, host), number, &labels);
                add(&id, &endpoint)?;
            }
        }
        cluster.numbers = numbers;
        for (id, object) in self.processes(cluster)? {
            add(&id, &object)?;
        }
        let (slices, book) = services(cluster, &pods);
        for (id, object) in &slices {
            add(id, object)?;
        }
        files.insert(NAMES.into(), serde_json::to_string(&book)?);
        cluster.book = book;
        Ok(files)
    }

    /// The labels that make a pod's identity.
    fn labels(&self, pod: &PodState, cluster: &Cluster) -> Labels {
        let metadata = &pod.plan.value["metadata"];
        let namespace_id = id("Namespace", "", &pod.plan.namespace);
        let namespace = Namespace {
            name: pod.plan.namespace.clone(),
            labels: cluster
                .plan
                .others
                .get(&namespace_id)
                .map(|n| texts(&n["metadata"]["labels"]))
                .unwrap_or_default(),
            audit: false,
        };
        let account = &pod.plan.value["spec"]["serviceAccountName"];
        let pod = Pod {
            namespace: pod.plan.namespace.clone(),
            name: pod.plan.name.clone(),
            labels: texts(&metadata["labels"]),
            service_account: account.as_str().unwrap_or("default").to_owned(),
            ..Pod::default()
        };
        let cluster_name = cluster.plan.option("cluster-name").unwrap_or("default");
        identity_labels(&pod, &namespace, cluster_name, &self.filter)
    }

    /// The objects of the nodes' plain processes, which nobody else numbers.
    fn processes(&self, cluster: &mut Cluster) -> Result<Vec<(Id, Value)>> {
        let mut objects = Vec::new();
        let cluster_name = cluster.plan.option("cluster-name").unwrap_or("default");
        for (node, processes) in &cluster.processes {
            let host = cluster.nodes.get(node);
            let host = host.and_then(|node| node.addresses.first().copied());
            for process in processes {
                let (own, namespace) = (&process.labels, &process.namespace);
                let labels = process_labels(own, namespace, cluster_name, &self.filter);
                let number = cluster.identities.allocate(&labels)?.0;
                objects.push(identity_object(number, &labels));
                objects.push(endpoint_object(
                    &Known::process(process, host),
                    number,
                    &labels,
                ));
            }
        }
        Ok(objects)
    }

    /// Makes the directory hold just that.
    ///
    /// # Errors
    /// A file cannot be written; the others are.
    pub(crate) fn write(&mut self, files: Files) -> Result<()> {
        let mut outcome = Ok(());
        // Identities first: an agent that sees an endpoint shall know its number.
        let order = |name: &str| !name.starts_with("ciliumidentity_");
        let mut fresh: Vec<_> = files
            .iter()
            .filter(|(name, content)| self.written.get(*name) != Some(*content))
            .collect();
        fresh.sort_by_key(|(name, _)| order(name));
        for (name, content) in fresh {
            let path = self.path(name);
            if let Err(error) = write_whole(&self.scratch, &path, content.as_bytes()) {
                outcome = Err(error);
            }
        }
        for name in self
            .written
            .keys()
            .filter(|name| !files.contains_key(*name))
        {
            let path = self.path(name);
            if let Err(error) = std::fs::remove_file(&path) {
                log(&format!("{} cannot be removed: {error}", path.display()));
            }
        }
        self.written = files;
        outcome.context("a manifest is stale")
    }

    fn path(&self, name: &str) -> PathBuf {
        if name == NAMES {
            self.names.clone()
        } else {
            self.manifests.join(name)
        }
    }
}

/// What follows for services from pods as they are: slices of endpoints, and all
/// names.
fn services(cluster: &Cluster, pods: &[(Id, Value)]) -> (BTreeMap<Id, Value>, Book) {
    let plan = &cluster.plan;
    let services = plan.others.keys().filter(|id| id.kind == "Service");
    let with: BTreeSet<&str> = services.map(|id| id.namespace.as_str()).collect();
    let pods = pods.iter().filter(|(id, _)| with.contains(&*id.namespace));
    let pods = pods.map(|(id, value)| (id, value));
    let nodes: Vec<(Id, &Value)> = plan
        .nodes
        .iter()
        .map(|node| (id("Node", "", &node.name), &node.value))
        .collect();
    let nodes = nodes.iter().map(|(id, value)| (id, *value));
    let mut tables = tables::tables(plan.others.iter().chain(nodes).chain(pods));
    // The EndpointSlice controller names the endpoints of pods that ask for it.
    let hostname_of = |pod: &ObjectKey, service: &str| {
        let key = PodKey {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        };
        let spec = &cluster.pods.get(&key)?.plan.value["spec"];
        let is_of = spec["subdomain"] == service;
        spec["hostname"]
            .as_str()
            .filter(|_| is_of)
            .map(str::to_owned)
    };
    let mut slices = tables::slices(&tables, hostname_of);
    // What somebody wrote is his.
    slices.retain(|id, _| !plan.others.contains_key(id));
    tables.slices.extend(tables::tables(slices.iter()).slices);
    let written = plan
        .others
        .iter()
        .filter(|(id, _)| id.kind == "EndpointSlice");
    let book = names(cluster, &tables, written.chain(&slices));
    (slices, book)
}

fn id(kind: &str, namespace: &str, name: &str) -> Id {
    Id {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let map = map.as_object().into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

/// The first address of a pod's node.
fn host_ip(cluster: &Cluster, pod: &PodState) -> Option<IpAddr> {
    let node = cluster.nodes.get(&pod.plan.node)?;
    node.addresses.first().copied()
}

fn cilium_node(node: &NodePlan) -> Value {
    let addresses = node
        .addresses
        .iter()
        .map(|a| json!({"type": "InternalIP", "ip": a.to_string()}));
    let pod_cidrs = node.pod_cidrs.iter().map(ToString::to_string);
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode",
        "metadata": {"name": node.name, "labels": node.value["metadata"]["labels"]},
        "spec": {
            "addresses": addresses.collect::<Vec<_>>(),
            "ipam": {"podCIDRs": pod_cidrs.collect::<Vec<_>>()},
        },
    })
}

/// A pod as it is; or, where that is imposed, as its manifest has it but for its
/// addresses.
fn pod_object(pod: &PodState, host: Option<IpAddr>, is_imposed: bool) -> Value {
    let mut value = pod.plan.value.clone();
    value["metadata"]["uid"] = pod.uid.clone().into();
    let written = value["status"].take();
    let ready = if pod.serves() { "True" } else { "False" };
    value["status"] = json!({
        "phase": pod.phase(),
        "conditions": [{"type": "Ready", "status": ready}],
    });
    if is_imposed {
        for key in ["phase", "conditions"] {
            if !written[key].is_null() {
                value["status"][key] = written[key].clone();
            }
        }
    } else if let Some(since) = pod.stop.since() {
        value["metadata"]["deletionTimestamp"] = timestamp(since).into();
    }
    if let Some(host) = host {
        value["status"]["hostIP"] = host.to_string().into();
    }
    if let Some(first) = pod.ips.first() {
        let all = pod.ips.iter().map(|ip| json!({"ip": ip.to_string()}));
        value["status"]["podIP"] = first.to_string().into();
        value["status"]["podIPs"] = all.collect();
    }
    value
}

fn identity_object(number: u32, labels: &Labels) -> (Id, Value) {
    let k8s: BTreeMap<&str, &str> = labels
        .iter()
        .filter(|(source, ..)| *source == axon_model::source::K8S)
        .map(|(_, key, value)| (key, value))
        .collect();
    let object = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
        "metadata": {"name": number.to_string(), "labels": k8s},
        "security-labels": security_labels(labels),
    });
    (id("CiliumIdentity", "", &number.to_string()), object)
}

/// An endpoint that the other nodes shall know.
struct Known<'a> {
    namespace: &'a str,
    name: &'a str,
    ips: &'a [IpAddr],
    /// Its number on its node.
    number: Option<u16>,
    /// The address of its node.
    host: Option<IpAddr>,
}

impl<'a> Known<'a> {
    fn pod(pod: &'a PodState, host: Option<IpAddr>) -> Self {
        Self {
            namespace: &pod.plan.namespace,
            name: &pod.plan.name,
            ips: &pod.ips,
            number: pod.endpoint,
            host,
        }
    }

    fn process(process: &'a Process, host: Option<IpAddr>) -> Self {
        Self {
            namespace: match process.namespace.as_str() {
                // Objects of this kind are in one.
                "" => "default",
                namespace => namespace,
            },
            name: &process.name,
            ips: &process.ips,
            number: Some(process.endpoint),
            host,
        }
    }
}

fn endpoint_object(endpoint: &Known<'_>, identity: u32, labels: &Labels) -> (Id, Value) {
    let of = |v6: bool| endpoint.ips.iter().find(|ip| ip.is_ipv6() == v6);
    let mut addressing = json!({});
    for (key, ip) in [("ipv4", of(false)), ("ipv6", of(true))] {
        if let Some(ip) = ip {
            addressing[key] = ip.to_string().into();
        }
    }
    let labels: Vec<String> = labels
        .iter()
        .map(|(s, k, v)| axon_model::Label::new(s, k, v).to_string())
        .collect();
    let mut value = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {"namespace": endpoint.namespace, "name": endpoint.name},
        "status": {
            "identity": {"id": identity, "labels": labels},
            "networking": {"addressing": [addressing]},
            "state": "ready",
        },
    });
    if let Some(host) = endpoint.host {
        value["status"]["networking"]["node"] = host.to_string().into();
    }
    if let Some(number) = endpoint.number {
        value["status"]["id"] = number.into();
    }
    let id = id("CiliumEndpoint", endpoint.namespace, endpoint.name);
    (id, value)
}

#[cfg(test)]
#[path = "brain_tests.rs"]
mod tests;
