//! Who is behind a service's port, and who of them may be chosen here.

use std::net::IpAddr;

use axon_model::{Distribution, Pod, Protocol, Service, ServicePort, SliceEndpoint, TargetPort};

use super::{Cluster, ServicesConfig};

/// The label that tells a node's zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// The weight of who is given none.
const WEIGHT: u16 = 100;

/// An endpoint of a service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) addr: IpAddr,
    pub(super) port: u16,
    pub(super) is_ready: bool,
    pub(super) is_serving: bool,
    pub(super) is_terminating: bool,
    /// Whether policies for the node alone let it be chosen here.
    pub(super) is_local: bool,
    /// Whether it is on the node.
    pub(super) is_here: bool,
    pub(super) weight: u16,
    for_zones: Vec<String>,
    for_nodes: Vec<String>,
}

/// Everybody behind a service's port, each once, in the order of addresses and ports.
pub(super) fn all(
    cluster: &Cluster,
    (namespace, service): (&str, &Service),
    port: &ServicePort,
    node: &str,
) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let slices = cluster.slices.iter();
    let slices =
        slices.filter(|(key, slice)| key.namespace == namespace && slice.service == service.name);
    for (_, slice) in slices {
        let ports = slice.ports.iter().filter(|of_slice| {
            let is_named = of_slice.name.is_empty() || port.name.is_empty();
            of_slice.protocol == port.protocol && (is_named || of_slice.name == port.name)
        });
        for of_slice in ports {
            for endpoint in &slice.endpoints {
                let weight = slice.weight.unwrap_or(WEIGHT);
                for address in &endpoint.addresses {
                    let at = (address.addr, of_slice.port);
                    found.push(candidate(cluster, endpoint, (at, weight), node));
                }
            }
        }
    }
    if cluster.makes_slices {
        for (pod, endpoint) in selected(cluster, (namespace, service)) {
            let Some(number) = target(port, pod) else {
                continue;
            };
            for ip in &pod.ips {
                found.push(candidate(cluster, &endpoint, ((*ip, number), WEIGHT), node));
            }
        }
    }
    // Of two that tell of one endpoint, who says that it is ready is newer; of two that
    // say the same the first counts.
    found.sort_by_key(|c| (c.addr, c.port, !c.is_ready));
    found.dedup_by_key(|c| (c.addr, c.port));
    found
}

fn candidate(
    cluster: &Cluster,
    endpoint: &SliceEndpoint,
    ((addr, port), weight): ((IpAddr, u16), u16),
    node: &str,
) -> Candidate {
    let is_unplaced = endpoint.node.is_empty();
    // Then its pod knows.
    let has = |pod: &Pod| pod.node == node && pod.ips.contains(&addr);
    Candidate {
        addr,
        port,
        is_ready: endpoint.is_ready,
        is_serving: endpoint.is_serving,
        is_terminating: endpoint.is_terminating,
        // An endpoint of no node is near to all, as Cilium has it.
        is_local: is_unplaced || endpoint.node == node,
        is_here: endpoint.node == node
            || (is_unplaced && cluster.pods.values().any(|pod| has(pod))),
        weight,
        for_zones: endpoint.for_zones.clone(),
        for_nodes: endpoint.for_nodes.clone(),
    }
}

/// The pods that a service selects, each with what the EndpointSlice controller
/// would write of it; its addresses are the pod's.
pub fn selected<'a>(
    cluster: &'a Cluster,
    (namespace, service): (&'a str, &'a Service),
) -> impl Iterator<Item = (&'a Pod, SliceEndpoint)> {
    let wanted = &service.selector;
    let has = move |pod: &Pod| {
        let mut wanted = wanted.iter();
        wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
    };
    let pods = cluster.pods.values().map(|pod| &**pod);
    let pods = pods.filter(move |pod| {
        !wanted.is_empty() && pod.namespace == namespace && !pod.is_finished && has(pod)
    });
    pods.map(move |pod| (pod, endpoint_of(cluster, service, pod)))
}

/// The number of a pod's port that a service means.
pub fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => named(pod, name, port.protocol),
    }
}

fn named(pod: &Pod, name: &str, protocol: Protocol) -> Option<u16> {
    let mut ports = pod.ports.iter();
    let port = ports.find(|p| !p.is_init && p.name == name && p.protocol == protocol);
    port.map(|port| port.port)
}

/// What the EndpointSlice controller would write of a pod.
fn endpoint_of(cluster: &Cluster, service: &Service, pod: &Pod) -> SliceEndpoint {
    let zone = cluster
        .nodes
        .get(&pod.node)
        .and_then(|n| n.labels.get(ZONE));
    let distribution = service.spec.distribution;
    let for_zones = (distribution != Distribution::Even)
        .then_some(zone)
        .flatten();
    let for_nodes = (distribution == Distribution::Node).then_some(&pod.node);
    SliceEndpoint {
        addresses: Vec::new(),
        is_ready: service.spec.publish_not_ready || (pod.is_ready && !pod.is_terminating),
        is_serving: pod.is_ready,
        is_terminating: pod.is_terminating,
        node: pod.node.clone(),
        for_zones: for_zones.cloned().into_iter().collect(),
        for_nodes: for_nodes.cloned().into_iter().collect(),
    }
}

/// Who of them may be chosen on a node: those of the node alone, or those that
/// hints prefer; of these the ready ones, or else those that end and still
/// serve.
pub(super) fn eligible<'a>(
    all: &'a [Candidate],
    (cluster, node): (&Cluster, &str),
    service: &Service,
    (config, only_local): (&ServicesConfig, bool),
) -> Vec<&'a Candidate> {
    let near: Vec<&Candidate> = if only_local {
        all.iter().filter(|candidate| candidate.is_local).collect()
    } else if config.topology && service.spec.follows_hints && !service.spec.internal_local {
        hinted(all, cluster, node, service)
    } else {
        all.iter().collect()
    };
    let weighs = near.iter().any(|candidate| candidate.weight > 0);
    let taken = |candidate: &&&Candidate| !weighs || candidate.weight > 0;
    let near: Vec<&Candidate> = near.iter().filter(taken).copied().collect();
    let ready: Vec<&Candidate> = near.iter().filter(|c| c.is_ready).copied().collect();
    if !ready.is_empty() {
        return ready;
    }
    let ending = near
        .into_iter()
        .filter(|c| c.is_terminating && c.is_serving);
    ending.collect()
}

/// Who is meant for this node or its zone. Hints count if every ready endpoint
/// has one, and one of them is for here.
fn hinted<'a>(
    all: &'a [Candidate],
    cluster: &Cluster,
    node: &str,
    service: &Service,
) -> Vec<&'a Candidate> {
    let is_for_node = |c: &&Candidate| c.for_nodes.iter().any(|name| name == node);
    let zone = cluster.nodes.get(node).and_then(|n| n.labels.get(ZONE));
    let is_for_zone = |c: &&Candidate| {
        Some(c)
            .zip(zone)
            .is_some_and(|(c, z)| c.for_zones.contains(z))
    };
    let mut ready = all.iter().filter(|c| c.is_ready);
    let preferred: Vec<&Candidate> = if service.spec.distribution == Distribution::Node {
        all.iter().filter(is_for_node).collect()
    } else if ready.all(|c| !c.for_zones.is_empty()) {
        all.iter().filter(is_for_zone).collect()
    } else {
        Vec::new()
    };
    if preferred.iter().any(|c| c.is_ready) {
        preferred
    } else {
        all.iter().collect()
    }
}
