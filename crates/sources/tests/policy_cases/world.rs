//! A case's cluster as identities, and what the rows of its policy sets say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::{Direction, Identity};
use axon_api::manifest::{self, ManifestError, Object};
use axon_control::labels::{LabelFilter, identity_labels};
use axon_model::{GroupKey, GroupRef, Label, Labels, Namespace, Pod, PodPort, Protocol, Subject};
use axon_policy::{
    Connection, Enforcement, Group, IdentityInfo, Lookup, Numbers, Packet, PolicyConfig, Request,
    Verdict, cidr_labels, groups_in_use, narrowest, policy_groups, policy_prefixes,
    reserved_identities, resolve,
};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

/// First number of a pod's, of a prefix's and of a node's identity.
const POD: u32 = 1000;
const PREFIX: u32 = 0x0100_0001;
const NODE: u32 = 0x0200_0001;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Setting {
    enforcement: String,
    allow_localhost: String,
    #[serde(rename = "policyCIDRMatchMode")]
    cidr_match_mode: Vec<String>,
}

impl Setting {
    /// The same, with prefixes that select whoever has their addresses.
    pub(crate) fn literal(&self) -> Self {
        Self {
            cidr_match_mode: vec!["nodes".to_owned(), "pods".to_owned()],
            ..self.clone()
        }
    }

    fn selects(&self, whom: &str) -> bool {
        self.cidr_match_mode.iter().any(|mode| mode == whom)
    }
}

/// One end of a connection; one of these is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct End {
    pod: Option<String>,
    ip: Option<String>,
    node: Option<String>,
    special: Option<String>,
}

impl End {
    pub(crate) fn pod(name: &str) -> Self {
        Self {
            pod: Some(name.to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn far(ip: Option<&str>, node: Option<&str>) -> Self {
        Self {
            ip: ip.map(str::to_owned),
            node: node.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// Who an end is.
#[derive(Clone, Copy)]
struct Who<'a> {
    identity: Identity,
    /// Its node, of what lives on one.
    node: Option<&'a str>,
    /// It is the node itself.
    host: bool,
}

pub(crate) struct World {
    cluster: Value,
    config: PolicyConfig,
    world: axon_policy::World,
    allow_localhost: bool,
    pods: BTreeMap<String, (Identity, String)>,
    prefixes: BTreeMap<IpNet, Identity>,
    /// Identities of nodes' addresses, where prefixes select nodes.
    nodes: BTreeMap<String, Identity>,
    /// By node, whose host is another for each, and identity.
    sets: BTreeMap<String, BTreeMap<Identity, Lookup>>,
}

fn items<'a>(cluster: &'a Value, field: &str) -> &'a [Value] {
    cluster[field].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let map = value.as_object().into_iter().flatten();
    map.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect()
}

impl World {
    pub(crate) fn new(
        cluster: &Value,
        setting: &Setting,
        policies: &[Value],
    ) -> Result<Self, ManifestError> {
        let config = PolicyConfig {
            enforcement: match setting.enforcement.as_str() {
                "always" => Enforcement::Always,
                "never" => Enforcement::Never,
                _ => Enforcement::Default,
            },
            cluster_name: text(cluster, "name").to_owned(),
            cidr_selects_pods: setting.selects("pods"),
            proxy: true,
            ..PolicyConfig::default()
        };
        let mut world = axon_policy::World {
            identities: reserved_identities(&config),
            ..axon_policy::World::default()
        };
        for policy in policies {
            let yaml = serde_norway::to_string(policy).expect("yaml");
            let manifest = manifest::parse(yaml.as_bytes())?;
            if let Some(refusal) = manifest.refused.into_iter().next() {
                return Err(refusal.error);
            }
            for document in manifest.documents {
                let Some(Object::Policy(policy)) = document.object else {
                    panic!("no policy: {yaml}");
                };
                world.policies.insert(policy.origin.clone(), policy);
            }
        }
        let refs = world.policies.values().flat_map(policy_groups).collect();
        world.groups = groups(cluster, &refs);
        let by_policies = world.policies.values().flat_map(policy_prefixes);
        let by_groups = world.groups.values().flat_map(Group::prefixes).copied();
        let all: BTreeSet<IpNet> = by_policies.chain(by_groups).collect();
        let mut prefixes = BTreeMap::new();
        for (prefix, number) in all.iter().copied().zip(PREFIX..) {
            let info = IdentityInfo {
                prefix: Some(prefix),
                ..IdentityInfo::labelled(cidr_labels(&config, prefix))
            };
            world.identities.insert(Identity(number), info);
            prefixes.insert(prefix, Identity(number));
        }
        let mut pods = BTreeMap::new();
        for (pod, number) in items(cluster, "pods").iter().zip(POD..) {
            let name = format!("{}/{}", text(pod, "namespace"), text(pod, "name"));
            let mut info = pod_identity(cluster, pod);
            if config.cidr_selects_pods {
                // As the agent tells workloads apart.
                let place = narrowest(&all, text(pod, "ip").parse().expect("ip"));
                info.addresses.extend(place);
                for whole in config.everywhere() {
                    if !place.is_some_and(|place| whole.contains(&place)) {
                        info.addresses.insert(whole);
                    }
                }
            }
            pods.insert(name, (Identity(number), text(pod, "node").to_owned()));
            world.identities.insert(Identity(number), info);
            world.subjects.insert(Identity(number));
        }
        world.subjects.insert(Identity::INIT);
        let mut nodes = BTreeMap::new();
        if setting.selects("nodes") {
            for (node, number) in items(cluster, "nodes").iter().zip(NODE..) {
                let info = IdentityInfo {
                    addresses: [address(node)].into(),
                    ..world.identities[&remote_node(node)].clone()
                };
                world.identities.insert(Identity(number), info);
                nodes.insert(text(node, "name").to_owned(), Identity(number));
            }
        }
        let mut sets = BTreeMap::new();
        for node in items(cluster, "nodes") {
            let mut world = world.clone();
            let host = world.identities.get_mut(&Identity::HOST).expect("the host");
            if setting.selects("nodes") {
                host.addresses = [address(node)].into();
            }
            let resolution = resolve(&config, &world, &mut Numbers::default());
            let set = |(id, number): (&Identity, &u32)| {
                let rows = &resolution.sets.get(number)?.rows;
                Some((*id, Lookup::new(rows)))
            };
            let of_node = resolution.subjects.iter().filter_map(set).collect();
            sets.insert(text(node, "name").to_owned(), of_node);
        }
        Ok(Self {
            cluster: cluster.clone(),
            allow_localhost: setting.allow_localhost != "policy",
            config: PolicyConfig {
                allow_localhost: setting.allow_localhost != "policy",
                ..config
            },
            world,
            pods,
            prefixes,
            nodes,
            sets,
        })
    }

    /// Whether the proxies of both ends let pass what is said.
    pub(crate) fn passes(
        &self,
        (from, to): (&End, &End),
        protocol: Protocol,
        port: u16,
        request: &Request,
    ) -> bool {
        let (source, destination) = (self.who(from, to), self.who(to, from));
        let identities = &self.world.identities;
        let info = |who: Who<'_>| identities.get(&who.identity).expect("an identity");
        let ends = [
            (Direction::Egress, source, destination),
            (Direction::Ingress, destination, source),
        ];
        ends.into_iter().all(|(direction, subject, remote)| {
            let labels = &info(subject).labels;
            let rules = self
                .world
                .policies
                .values()
                .flat_map(|policy| &policy.rules);
            let about = rules.filter(|rule| match &rule.subject {
                Subject::Endpoints(selector) => selector.matches(labels),
                Subject::Nodes(_) => false,
            });
            let connection = Connection {
                direction,
                remote: (remote.identity, info(remote)),
                receiver: info(destination),
                protocol: protocol.0,
                port,
            };
            let entries = about.flat_map(|rule| &rule.entries);
            axon_policy::passes(&self.config, entries, &connection, request)
        })
    }

    /// What the source's set says of the connection, and the destination's.
    pub(crate) fn verdicts(
        &self,
        from: &End,
        to: &End,
        protocol: Protocol,
        port: u16,
    ) -> (&'static str, &'static str) {
        let (source, destination) = (self.who(from, to), self.who(to, from));
        let verdict = |subject: Who<'_>, remote: Who<'_>, direction| {
            let packet = Packet {
                direction,
                remote: remote.identity,
                protocol: protocol.0,
                port,
            };
            let sets = subject.node.and_then(|node| self.sets.get(node));
            let set = sets.and_then(|sets| sets.get(&subject.identity));
            set.map(|set| set.verdict(packet))
        };
        let egress = verdict(source, destination, Direction::Egress);
        let ingress = verdict(destination, source, Direction::Ingress);
        // The node itself reaches its pods unless a rule denies it.
        let local = self.allow_localhost && source.host && source.node == destination.node;
        let ingress = match ingress {
            Some(Verdict::DeniedByDefault) if local => None,
            verdict => verdict,
        };
        (word(egress), word(ingress))
    }

    /// Who an end is, as the other sees it.
    fn who(&self, end: &End, other: &End) -> Who<'_> {
        let far = |identity| Who {
            identity,
            node: None,
            host: false,
        };
        if let Some(name) = &end.pod {
            let (identity, node) = &self.pods[name];
            return Who {
                node: Some(node),
                ..far(*identity)
            };
        }
        if let Some(name) = &end.special {
            let special = self.named("specials", name);
            let reserved = special["reserved"][0].as_str().expect("reserved");
            return Who {
                node: special["node"].as_str(),
                ..far(reserved_number(reserved))
            };
        }
        if let Some(name) = &end.node {
            let node = self.named("nodes", name);
            let local = match (&other.pod, &other.special) {
                (Some(pod), _) => self.pods[pod].1 == *name,
                (_, Some(special)) => text(self.named("specials", special), "node") == name,
                _ => false,
            };
            let identity = match (local, self.nodes.get(name)) {
                (true, _) => Identity::HOST,
                (false, Some(identity)) => *identity,
                (false, None) => remote_node(node),
            };
            return Who {
                identity,
                node: node["name"].as_str(),
                host: local,
            };
        }
        let ip: IpAddr = end.ip.as_deref().expect("an end").parse().expect("ip");
        let servers = items(&self.cluster, "externalApiservers");
        if servers.iter().any(|s| s.as_str() == end.ip.as_deref()) {
            return far(Identity::KUBE_APISERVER);
        }
        let around = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| prefix.contains(&ip));
        let narrowest = around.max_by_key(|(prefix, _)| prefix.prefix_len());
        let world = match ip {
            IpAddr::V4(_) => Identity::WORLD_IPV4,
            IpAddr::V6(_) => Identity::WORLD_IPV6,
        };
        far(narrowest.map_or(world, |(_, identity)| *identity))
    }

    fn named(&self, list: &str, name: &str) -> &Value {
        let found = items(&self.cluster, list)
            .iter()
            .find(|i| text(i, "name") == name);
        found.unwrap_or_else(|| panic!("no {name} in {list}"))
    }
}

fn word(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Redirected { .. }) => "redirect",
        Some(Verdict::Denied { .. } | Verdict::DeniedByDefault) => "deny",
        Some(Verdict::Allowed { .. } | Verdict::AllowedByDefault) | None => "allow",
    }
}

/// The groups that policies refer to, from manifests of the case's objects.
fn groups(cluster: &Value, refs: &BTreeSet<GroupRef>) -> BTreeMap<GroupKey, Group> {
    let mut manifests = Vec::new();
    for group in items(cluster, "cidrGroups") {
        manifests.push(json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumCIDRGroup",
            "metadata": {"name": group["name"], "labels": group["labels"]},
            "spec": {"externalCIDRs": group["cidrs"]},
        }));
    }
    for service in items(cluster, "services") {
        let (name, namespace) = (&service["name"], &service["namespace"]);
        manifests.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "labels": service["labels"]},
            "spec": {"selector": service["selector"], "clusterIP": service["clusterIP"]},
        }));
        manifests.push(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": items(service, "endpoints")}],
        }));
    }
    let (mut cidr_groups, mut services, mut slices) = (Vec::new(), Vec::new(), Vec::new());
    for tree in manifests {
        let parsed = manifest::parse(tree.to_string().as_bytes()).expect("manifest");
        for document in parsed.documents {
            match document.object {
                Some(Object::CiliumCidrGroup(o)) => cidr_groups.push(o.to_model().expect("group")),
                Some(Object::Service(o)) => services.push(o.to_model()),
                Some(Object::EndpointSlice(o)) => {
                    slices.push((document.key, o.to_model().expect("slice")));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let slices = slices.iter().map(|(key, slice)| (key, slice));
    groups_in_use(refs, cidr_groups.iter(), services.iter(), slices)
}

fn remote_node(node: &Value) -> Identity {
    match node["kubeApiserver"] == true {
        true => Identity::KUBE_APISERVER,
        false => Identity::REMOTE_NODE,
    }
}

fn address(node: &Value) -> IpNet {
    let address: IpAddr = text(node, "ip").parse().expect("ip");
    address.into()
}

fn reserved_number(name: &str) -> Identity {
    match name {
        "unmanaged" => Identity::UNMANAGED,
        "health" => Identity::HEALTH,
        "init" => Identity::INIT,
        "ingress" => Identity::INGRESS,
        other => panic!("reserved:{other}"),
    }
}

fn pod_identity(cluster: &Value, value: &Value) -> IdentityInfo {
    let port = |port: &Value| PodPort {
        name: text(port, "name").to_owned(),
        port: port["port"]
            .as_u64()
            .and_then(|p| p.try_into().ok())
            .expect("port"),
        protocol: text(port, "protocol").parse().expect("protocol"),
    };
    let ports = value["ports"].as_array().into_iter().flatten().map(port);
    let pod = Pod {
        namespace: text(value, "namespace").to_owned(),
        name: text(value, "name").to_owned(),
        labels: strings(&value["labels"]),
        service_account: text(value, "serviceAccount").to_owned(),
        ports: ports.collect(),
        ..Pod::default()
    };
    let known = items(cluster, "namespaces").iter();
    let labels = known.filter(|n| text(n, "name") == pod.namespace);
    let namespace = Namespace {
        name: pod.namespace.clone(),
        labels: labels.flat_map(|n| strings(&n["labels"])).collect(),
    };
    let name = match value["cluster"].as_str() {
        Some(other) => other,
        None => text(cluster, "name"),
    };
    let mut labels = identity_labels(&pod, &namespace, name, &LabelFilter::default());
    let extra = match &value["extraLabels"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::Object(_) => panic!("extraLabels: {value}"),
        _ => Vec::new(),
    };
    for label in extra {
        labels.insert(label.parse::<Label>().expect("label"));
    }
    let labels: Labels = labels;
    let mut info = IdentityInfo::labelled(labels);
    for port in pod.ports {
        let name = (port.name, port.protocol);
        info.named_ports.entry(name).or_default().insert(port.port);
    }
    info
}
