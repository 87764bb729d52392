//! The cluster of a case as the manifests of a lab.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use crate::case::{Cluster, Config, End, Node, Pod, Probe, Service};

/// Objects that make the cluster of a case, with its policies.
pub(crate) fn manifests(
    cluster: &Cluster,
    config: &Config,
    policies: &[Value],
    probes: &[Probe],
) -> Vec<Value> {
    let mut objects = vec![
        config_map("cilium-config", &options(cluster, config)),
        config_map("axon-lab", &outside(probes)),
    ];
    for namespace in &cluster.namespaces {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": namespace.labels},
        }));
    }
    for (number, node) in (1..).zip(&cluster.nodes) {
        objects.push(self::node(cluster, number, node));
    }
    let own = cluster
        .pods
        .iter()
        .filter(|pod| pod.extra_labels.is_empty());
    objects.extend(own.map(pod));
    for service in &cluster.services {
        objects.extend(self::service(cluster, service));
    }
    objects.extend(apiserver(cluster));
    for group in &cluster.cidr_groups {
        objects.push(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
            "metadata": {"name": group.name, "labels": group.labels},
            "spec": {"externalCIDRs": group.cidrs},
        }));
    }
    objects.extend(policies.iter().cloned());
    objects
}

fn config_map(name: &str, data: &Map<String, Value>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "kube-system"},
        "data": data,
    })
}

/// The agents' options under their own names; what is not said is theirs.
fn options(cluster: &Cluster, config: &Config) -> Map<String, Value> {
    let mut data = Map::new();
    let mut set = |name: &str, value: String| data.insert(name.to_owned(), value.into());
    set("cluster-name", cluster.name.clone());
    if let Some(mode) = &config.enforcement {
        set("enable-policy", mode.clone());
    }
    if let Some(mode) = &config.allow_localhost {
        set("allow-localhost", mode.clone());
    }
    if !config.cidr_match_mode.is_empty() {
        set("policy-cidr-match-mode", config.cidr_match_mode.join(","));
    }
    if config.host_firewall == Some(true) {
        // Cases know of no port that policy does not close.
        for name in [
            "host-firewall-failsafe-ingress",
            "host-firewall-failsafe-egress",
        ] {
            set(name, String::new());
        }
    }
    for (name, value, default) in [
        ("enable-host-firewall", config.host_firewall, false),
        (
            "enable-node-selector-labels",
            config.node_selector_labels,
            false,
        ),
        (
            "policy-default-local-cluster",
            config.policy_default_local_cluster,
            true,
        ),
        (
            "enable-extended-ip-protocols",
            config.extended_ip_protocols,
            false,
        ),
    ] {
        if let Some(value) = value.filter(|value| *value != default) {
            set(name, value.to_string());
        }
    }
    data
}

/// The addresses of the world that anyone talks with.
fn outside(probes: &[Probe]) -> Map<String, Value> {
    let ends = probes.iter().flat_map(|probe| [&probe.from, &probe.to]);
    let ips: BTreeSet<&str> = ends
        .filter_map(|end| match end {
            End::Ip(ip) => Some(ip.as_str()),
            End::Pod(_) | End::Node(_) | End::Special(_) => None,
        })
        .collect();
    let ips: Vec<&str> = ips.into_iter().collect();
    [("outside-addresses".to_owned(), ips.join(" ").into())]
        .into_iter()
        .collect()
}

/// The prefix of a node's pods: that of their addresses.
fn pod_cidr(cluster: &Cluster, number: u8, node: &Node) -> String {
    let mut pods = cluster.pods.iter().filter(|pod| pod.node == node.name);
    let usual = Ipv4Addr::new(10, 244, number, 0);
    let first = pods.next().map_or(usual, |pod| address(&pod.ip));
    let [a, b, c, _] = first.octets();
    format!("{}/24", Ipv4Addr::new(a, b, c, 0))
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn node(cluster: &Cluster, number: u8, node: &Node) -> Value {
    let v6 = format!("fd00:10:244:{number:x}::/64");
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": node.labels},
        "spec": {"podCIDRs": [pod_cidr(cluster, number, node), v6]},
        "status": {"addresses": [{"type": "InternalIP", "address": node.ip}]},
    })
}

fn pod(pod: &Pod) -> Value {
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|port| {
            json!({"name": port.name, "containerPort": port.port, "protocol": port.protocol})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
        "spec": {
            "nodeName": pod.node,
            "serviceAccountName": pod.service_account.as_deref().unwrap_or("default"),
            // Its sockets are those of the test, made in its namespace.
            "containers": [{"name": "pause", "command": ["sleep", "infinity"], "ports": ports}],
        },
        "status": {"podIP": pod.ip},
    })
}

/// A Service, and the EndpointSlice that a controller would write for it.
fn service(cluster: &Cluster, service: &Service) -> [Value; 2] {
    let selected = cluster.pods.iter().filter(|pod| {
        let selector = &service.selector;
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        pod.namespace == service.namespace && !selector.is_empty() && selector.iter().all(has)
    });
    let ips: Vec<&String> = selected
        .map(|pod| &pod.ip)
        .chain(&service.endpoints)
        .collect();
    let ports = |target: bool| -> Vec<Value> {
        let ports = service.ports.iter();
        ports
            .map(
                |port| match (target, port.target_port.unwrap_or(port.port)) {
                    (true, number) => json!({"port": number, "protocol": port.protocol}),
                    (false, number) => json!({
                        "port": port.port, "targetPort": number, "protocol": port.protocol,
                    }),
                },
            )
            .collect()
    };
    let (name, namespace) = (&service.name, &service.namespace);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": service.labels},
        "spec": {"clusterIP": service.cluster_ip, "ports": ports(false)},
    });
    if !service.selector.is_empty() {
        object["spec"]["selector"] = json!(service.selector);
    }
    [object, slice((namespace, name), &ips, &ports(true))]
}

fn slice((namespace, service): (&str, &str), ips: &[&String], ports: &[Value]) -> Value {
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// `default/kubernetes`, behind which the API servers are.
fn apiserver(cluster: &Cluster) -> Vec<Value> {
    let nodes = cluster.nodes.iter().filter(|node| node.kube_apiserver);
    let ips: Vec<&String> = nodes
        .map(|node| &node.ip)
        .chain(&cluster.external_apiservers)
        .collect();
    if ips.is_empty() {
        return Vec::new();
    }
    let ports = |port: u16| vec![json!({"name": "https", "port": port, "protocol": "TCP"})];
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports(443)},
    });
    vec![
        service,
        slice(("default", "kubernetes"), &ips, &ports(6443)),
    ]
}

/// The address of a family that a list of texts has.
pub(crate) fn of_family<'a>(mut ips: impl Iterator<Item = &'a str>, v6: bool) -> Option<IpAddr> {
    ips.find_map(|text| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() == v6))
}
