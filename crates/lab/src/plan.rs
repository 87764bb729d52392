//! From objects to what shall run where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use crate::container::{Container, RestartPolicy, containers, restart_policy};
use crate::manifest::{Id, Object, text};
use crate::services;

/// The ConfigMap with the options of the agents.
pub(crate) const AGENTS: &str = "cilium-config";
/// The ConfigMap with those of the lab itself.
pub(crate) const OWN: &str = "axon-lab";

/// Its option with the addresses of the world outside.
const OUTSIDE: &str = "outside-addresses";
/// Its option of whether the status of pods is as their manifests have it, and not
/// as their processes are.
const POD_STATUS: &str = "pod-status";
/// All its options.
const OPTIONS: [&str; 5] = [
    OUTSIDE,
    POD_STATUS,
    services::CIDRS,
    services::POOL,
    services::CONFLICTS,
];

/// A node to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodePlan {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses on the underlay.
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses that it has beside those: of type ExternalIP.
    pub(crate) external: Vec<IpAddr>,
    /// Where its pods' addresses are taken from.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Its manifest, with addresses and prefixes filled in.
    pub(crate) value: Value,
}

/// A pod to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodPlan {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its node.
    pub(crate) node: String,
    /// Its manifest, placed.
    pub(crate) value: Value,
    /// Processes that must end well, one after the other, before the others.
    pub(crate) init: Vec<Container>,
    /// Its processes.
    pub(crate) containers: Vec<Container>,
    /// When an ended process is started again.
    pub(crate) restart: RestartPolicy,
    /// It lives in the node's own network namespace.
    pub(crate) host_network: bool,
    /// Addresses that it asks for: those of its manifest's status.
    pub(crate) ips: Vec<IpAddr>,
    /// Whether these are all that it shall have: `podIPs` lists every address of a pod,
    /// `podIP` is but the first.
    pub(crate) ips_only: bool,
}

impl PodPlan {
    /// `namespace/name`.
    pub(crate) fn key(&self) -> PodKey {
        PodKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Whether only labels and annotations differ, so that the processes may
    /// stay.
    pub(crate) fn runs_like(&self, other: &Self) -> bool {
        self.node == other.node
            && self.ips == other.ips
            && self.ips_only == other.ips_only
            && self.value.get("spec") == other.value.get("spec")
    }
}

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodKey {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that shall be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Nodes, in the order of their names.
    pub(crate) nodes: Vec<NodePlan>,
    /// Pods.
    pub(crate) pods: BTreeMap<PodKey, PodPlan>,
    /// Objects that go to the agents as they are, namespaces included.
    pub(crate) others: BTreeMap<Id, Value>,
    /// Addresses that the world outside has beside its own.
    pub(crate) outside: BTreeSet<IpAddr>,
}

impl Plan {
    /// The data of a ConfigMap of kube-system.
    pub(crate) fn config_map(&self, name: &str) -> Option<&serde_json::Map<String, Value>> {
        let id = Id {
            kind: "ConfigMap".into(),
            namespace: "kube-system".into(),
            name: name.into(),
        };
        self.others.get(&id)?["data"].as_object()
    }

    /// Whether the status of pods is as their manifests have it.
    pub(crate) fn imposes_pod_status(&self) -> bool {
        let options = self.config_map(OWN);
        options.is_some_and(|options| options.get(POD_STATUS) == Some(&"as-written".into()))
    }

    /// An option of the agents, if the ConfigMap `cilium-config` has it.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.config_map(AGENTS)?.get(name)?.as_str()
    }
}

/// Plans a cluster. Pods without a node stay where `placed` has them, or go
/// where the fewest are.
///
/// # Errors
/// Names the object and the field that does not do.
pub(crate) fn plan(
    objects: &BTreeMap<Id, Object>,
    placed: &BTreeMap<PodKey, String>,
) -> Result<Plan> {
    let nodes = nodes(objects)?;
    let mut plan = Plan {
        nodes,
        ..Plan::default()
    };
    let mut templates = Vec::new();
    for object in objects.values() {
        match object.id.kind.as_str() {
            "Node" => {}
            "Pod" => templates.push(object.clone()),
            "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => {
                let mut pods =
                    replicas(object, &plan.nodes).with_context(|| object.id.to_string())?;
                templates.append(&mut pods);
            }
            _ => {
                plan.others.insert(object.id.clone(), object.value.clone());
            }
        }
    }
    for object in templates {
        let pod = pod(&object, &plan, placed).with_context(|| object.id.to_string())?;
        if plan.pods.insert(pod.key(), pod).is_some() {
            bail!(
                "{} is there twice, by hand and by its controller",
                object.id
            );
        }
    }
    namespaces(&mut plan);
    plan.outside = outside(&plan)?;
    Ok(plan)
}

/// The addresses that the ConfigMap `axon-lab` gives to the world outside.
fn outside(plan: &Plan) -> Result<BTreeSet<IpAddr>> {
    let Some(options) = plan.config_map(OWN) else {
        return Ok(BTreeSet::new());
    };
    if let Some(other) = options.keys().find(|key| !OPTIONS.contains(&key.as_str())) {
        let expected = OPTIONS.join(", ");
        bail!("ConfigMap kube-system/{OWN}: data.{other}: expected {expected}");
    }
    if let Some(other) = options
        .get(POD_STATUS)
        .filter(|word| **word != "as-written")
    {
        bail!("ConfigMap kube-system/{OWN}: data.{POD_STATUS}: {other}; expected as-written");
    }
    let text = options.get(OUTSIDE).and_then(Value::as_str);
    let words = text.unwrap_or_default().split([' ', ',', '\n']);
    words
        .filter(|word| !word.is_empty())
        .map(|word| {
            let failed = || format!("ConfigMap kube-system/{OWN}: data.{OUTSIDE}: {word:?}");
            let ip: IpAddr = word.parse().with_context(failed)?;
            let taken = |node: &NodePlan| {
                node.addresses.contains(&ip) || node.pod_cidrs.iter().any(|net| net.contains(&ip))
            };
            match plan.nodes.iter().find(|node| taken(node)) {
                Some(node) => bail!(
                    "{} is an address of node {} or its pods",
                    failed(),
                    node.name
                ),
                None => Ok(ip),
            }
        })
        .collect()
}

/// Makes the namespaces that objects live in and nobody wrote down.
fn namespaces(plan: &mut Plan) {
    let pods = plan.pods.keys().map(|key| key.namespace.clone());
    let others = plan.others.keys().map(|id| id.namespace.clone());
    let used: Vec<String> = pods.chain(others).filter(|n| !n.is_empty()).collect();
    for name in used
        .into_iter()
        .chain(["default".into(), "kube-system".into()])
    {
        let id = Id {
            kind: "Namespace".into(),
            namespace: String::new(),
            name: name.clone(),
        };
        let value = plan.others.entry(id).or_insert_with(
            || json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        );
        // The API server puts this label on every namespace, and policies select by it.
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert("kubernetes.io/metadata.name".into(), name.into());
            }
        }
    }
}

fn nodes(objects: &BTreeMap<Id, Object>) -> Result<Vec<NodePlan>> {
    let mut given: Vec<Object> = objects
        .values()
        .filter(|o| o.id.kind == "Node")
        .cloned()
        .collect();
    if given.is_empty() {
        let id = Id {
            kind: "Node".into(),
            namespace: String::new(),
            name: "node-1".into(),
        };
        let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
        given.push(Object { id, value });
    }
    let mut nodes: Vec<NodePlan> = Vec::new();
    for (n, object) in given.iter().enumerate() {
        let number = u8::try_from(n + 1)
            .ok()
            .filter(|n| *n < 250)
            .context("a lab has room for 249 nodes")?;
        let node = node(object, number).with_context(|| object.id.to_string())?;
        if let Some(twin) = nodes
            .iter()
            .find(|other| other.addresses.iter().any(|a| node.addresses.contains(a)))
        {
            bail!(
                "nodes {} and {} have an address in common",
                twin.name,
                node.name
            );
        }
        nodes.push(node);
    }
    Ok(nodes)
}

fn node(object: &Object, number: u8) -> Result<NodePlan> {
    crate::paths::check_name("node", &object.id.name, 63)?;
    let mut addresses = addresses_of(object, "InternalIP")?;
    let external = addresses_of(object, "ExternalIP")?;
    if !addresses.iter().any(IpAddr::is_ipv4) {
        addresses.push(Ipv4Addr::new(172, 30, 0, number).into());
    }
    if !addresses.iter().any(IpAddr::is_ipv6) {
        addresses.push(Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, number.into()).into());
    }
    let mut pod_cidrs = pod_cidrs(object)?;
    if pod_cidrs.is_empty() {
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, number.into(), 0, 0, 0, 0);
        pod_cidrs.push(Ipv4Net::new(Ipv4Addr::new(10, 244, number, 0), 24)?.into());
        pod_cidrs.push(Ipv6Net::new(v6, 64)?.into());
    }
    let mut value = object.value.clone();
    let listed = |kind: &str, ips: &[IpAddr]| -> Vec<Value> {
        let ips = ips.iter();
        ips.map(|ip| json!({"type": kind, "address": ip.to_string()}))
            .collect()
    };
    let listed = [
        listed("InternalIP", &addresses),
        listed("ExternalIP", &external),
    ]
    .concat();
    value["apiVersion"] = "v1".into();
    value["spec"]["podCIDR"] = pod_cidrs[0].to_string().into();
    value["spec"]["podCIDRs"] = pod_cidrs.iter().map(ToString::to_string).collect();
    value["status"]["addresses"] = listed.into();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(
                "kubernetes.io/hostname".into(),
                object.id.name.clone().into(),
            );
        }
    }
    Ok(NodePlan {
        name: object.id.name.clone(),
        addresses,
        external,
        pod_cidrs,
        value,
    })
}

/// Addresses of a type that a Node lists.
fn addresses_of(object: &Object, kind: &str) -> Result<Vec<IpAddr>> {
    let list = object
        .at(&["status", "addresses"])
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|item| item["type"] == kind)
        .map(|item| {
            let text = text(item, "/address").unwrap_or_default();
            text.parse()
                .with_context(|| format!("status.addresses: {text:?} is no address"))
        })
        .collect()
}

fn pod_cidrs(object: &Object) -> Result<Vec<IpNet>> {
    let many = object.at(&["spec", "podCIDRs"]).and_then(Value::as_array);
    let one = object.at(&["spec", "podCIDR"]);
    many.map_or_else(
        || one.into_iter().collect(),
        |many| many.iter().collect::<Vec<_>>(),
    )
    .into_iter()
    .map(|item| {
        let text = item.as_str().unwrap_or_default();
        text.parse()
            .with_context(|| format!("spec.podCIDRs: {item} is no prefix"))
    })
    .collect()
}

/// The pods of a controller's template, named `name-1` and so on.
fn replicas(object: &Object, nodes: &[NodePlan]) -> Result<Vec<Object>> {
    let template = object
        .at(&["spec", "template"])
        .context("spec.template is missing")?;
    let daemon = object.id.kind == "DaemonSet";
    let count = if daemon {
        nodes.len()
    } else {
        let count = object
            .at(&["spec", "replicas"])
            .map_or(Some(1), Value::as_u64);
        usize::try_from(count.context("spec.replicas is no number")?)?
    };
    let mut pods = Vec::new();
    // A DaemonSet has a pod on each node, the others have theirs anywhere.
    let homes = nodes.iter().map(|node| daemon.then_some(&node.name));
    for (n, home) in homes.chain(std::iter::repeat(None)).take(count).enumerate() {
        let name = format!("{}-{}", object.id.name, n + 1);
        let mut value = template.clone();
        value["apiVersion"] = "v1".into();
        value["kind"] = "Pod".into();
        value["metadata"]["name"] = name.clone().into();
        value["metadata"]["namespace"] = object.id.namespace.clone().into();
        if let Some(home) = home {
            value["spec"]["nodeName"] = home.clone().into();
        }
        if object.id.kind == "StatefulSet" {
            value["spec"]["hostname"] = value["metadata"]["name"].clone();
            value["spec"]["subdomain"] = object.value["spec"]["serviceName"].clone();
        }
        let id = Id {
            kind: "Pod".into(),
            namespace: object.id.namespace.clone(),
            name,
        };
        pods.push(Object { id, value });
    }
    Ok(pods)
}

fn pod(object: &Object, plan: &Plan, placed: &BTreeMap<PodKey, String>) -> Result<PodPlan> {
    let spec = object.at(&["spec"]).context("spec is missing")?;
    let containers = self::containers(spec, "containers")?;
    if containers.is_empty() {
        bail!("spec.containers is empty");
    }
    let key = PodKey {
        namespace: object.id.namespace.clone(),
        name: object.id.name.clone(),
    };
    crate::paths::check_name("pod", &key.name, 63)?;
    let exists = |name: &str| plan.nodes.iter().any(|node| node.name == name);
    let node = match text(spec, "/nodeName") {
        Some(node) if exists(&node) => node,
        Some(node) => bail!("spec.nodeName: there is no Node {node}"),
        None => match placed.get(&key) {
            Some(node) if exists(node) => node.clone(),
            _ => emptiest(plan),
        },
    };
    let mut value = object.value.clone();
    value["apiVersion"] = "v1".into();
    value["spec"]["nodeName"] = node.clone().into();
    Ok(PodPlan {
        node,
        init: self::containers(spec, "initContainers")?,
        containers,
        restart: restart_policy(spec)?,
        host_network: spec["hostNetwork"] == true,
        ips: pod_ips(object)?,
        ips_only: lists_ips(object),
        namespace: key.namespace,
        name: key.name,
        value,
    })
}

/// The addresses of a pod's status: as a Node's, they say what it shall have.
fn pod_ips(object: &Object) -> Result<Vec<IpAddr>> {
    let many = object.at(&["status", "podIPs"]).and_then(Value::as_array);
    let many = many
        .into_iter()
        .flatten()
        .map(|item| ("podIPs", &item["ip"]));
    let one = object.at(&["status", "podIP"]).map(|ip| ("podIP", ip));
    let mut ips: Vec<IpAddr> = Vec::new();
    for (field, ip) in one.into_iter().chain(many) {
        let parsed = ip.as_str().and_then(|text| text.parse().ok());
        let ip = parsed.with_context(|| format!("status.{field}: {ip} is no address"))?;
        if ips
            .iter()
            .any(|other| *other != ip && other.is_ipv4() == IpAddr::is_ipv4(&ip))
        {
            bail!("status.{field}: {ip} is the second address of its family");
        }
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

/// Whether a pod's status lists its addresses.
fn lists_ips(object: &Object) -> bool {
    let list = object.at(&["status", "podIPs"]).and_then(Value::as_array);
    list.is_some_and(|ips| !ips.is_empty())
}

/// The node with the fewest pods so far.
fn emptiest(plan: &Plan) -> String {
    let pods_of = |name: &str| plan.pods.values().filter(|p| p.node == name).count();
    plan.nodes
        .iter()
        .min_by_key(|node| pods_of(&node.name))
        .map(|node| node.name.clone())
        .unwrap_or_default()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
