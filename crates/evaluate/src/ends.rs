//! Who is told apart: workloads, nodes, and parts of the world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{Peer, Peers, PolicyObject};
use ipnet::IpNet;

use crate::{Cluster, End, Pod, World};

/// Keys of labels that a workload is called by, the best first.
pub(crate) const NAMES: [&str; 4] = ["app.kubernetes.io/name", "app", "k8s-app", "name"];

/// Addresses of the world, in case that prefixes of policies hold the first.
const WORLD: [&str; 8] = [
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "1.1.1.1",
    "2001:db8::1",
    "2001:db8:ffff::1",
    "2001:4860:4860::8888",
    "3fff::1",
];

/// Pods that are the same to policy.
#[derive(Debug)]
pub(crate) struct Workload {
    /// What it is called.
    pub(crate) name: String,
    /// One of its pods, and another one if there is one.
    pub(crate) pod: End,
    pub(crate) sibling: Option<End>,
    /// The node of the first.
    pub(crate) node: String,
    /// Who it is.
    pub(crate) identity: Identity,
}

/// The workloads of a cluster, by name.
pub(crate) fn workloads(world: &World) -> Vec<Workload> {
    let mut found: BTreeMap<Identity, Vec<&Pod>> = BTreeMap::new();
    for (pod, identity) in world.cluster.pods.iter().zip(&world.people.pods) {
        found.entry(*identity).or_default().push(pod);
    }
    let mut called: BTreeMap<String, usize> = BTreeMap::new();
    for first in found.values().filter_map(|pods| pods.first()) {
        *called.entry(name(first)).or_default() += 1;
    }
    let path = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
    let workload = |(identity, pods): (&Identity, &Vec<&Pod>)| {
        let first = pods.first()?;
        // Where two would be called the same, each is called by a pod.
        let own = Some(name(first)).filter(|name| called.get(name) == Some(&1));
        Some(Workload {
            name: own.unwrap_or_else(|| path(first)),
            pod: End::Pod(path(first)),
            sibling: pods.get(1).map(|pod| End::Pod(path(pod))),
            node: first.node.clone(),
            identity: *identity,
        })
    };
    let mut workloads: Vec<Workload> = found.iter().filter_map(workload).collect();
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    workloads
}

fn name(pod: &Pod) -> String {
    let called = NAMES.iter().find_map(|key| pod.labels.get(*key));
    format!("{}/{}", pod.namespace, called.unwrap_or(&pod.name))
}

/// Nodes that are the same to policy: what they are called, and their names.
pub(crate) fn nodes<'a>(
    cluster: &Cluster,
    mut policies: impl Iterator<Item = &'a PolicyObject>,
) -> Vec<(String, Vec<String>)> {
    let by_labels = policies.any(|policy| {
        let about = |rule: &axon_model::Rule| {
            matches!(rule.subject, axon_model::Subject::Nodes(_))
                || peers(rule).any(|peer| matches!(peer, Peer::Nodes(_)))
        };
        policy.rules.iter().any(about)
    });
    let mut groups: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for node in &cluster.nodes {
        let mut labels = node.labels.clone();
        labels.remove("kubernetes.io/hostname");
        labels.retain(|_, _| by_labels);
        let group = groups.entry((node.kube_apiserver, labels)).or_default();
        group.push(node.name.clone());
    }
    let alone = groups.len() == 1;
    let called = |names: &Vec<String>| match names.first() {
        Some(first) if !alone => format!("remote-node {first}"),
        Some(_) | None => "remote-node".to_owned(),
    };
    let groups = groups.into_values();
    groups.map(|names| (called(&names), names)).collect()
}

fn peers(rule: &axon_model::Rule) -> impl Iterator<Item = &Peer> {
    rule.entries.iter().flat_map(|entry| match &entry.peers {
        Peers::List(list) => list.as_slice(),
        Peers::Any => &[],
    })
}

/// Parts of the world that policies tell apart, with an address of each: what
/// their prefixes hold, without the narrower ones, and what none of them holds.
pub(crate) fn outside(cluster: &Cluster, prefixes: &BTreeSet<IpNet>) -> Vec<(String, End)> {
    let taken: BTreeSet<IpAddr> = cluster
        .pods
        .iter()
        .map(|pod| pod.ip)
        .chain(cluster.nodes.iter().map(|node| node.ip))
        .collect();
    let mut ends = Vec::new();
    let narrow: Vec<&IpNet> = prefixes.iter().filter(|p| p.prefix_len() > 0).collect();
    for v6 in [false, true] {
        let some = WORLD.iter().filter_map(|text| text.parse().ok());
        let free = |ip: &IpAddr| {
            ip.is_ipv6() == v6 && !taken.contains(ip) && !narrow.iter().any(|p| p.contains(ip))
        };
        let called = if v6 { "world-ipv6" } else { "world-ipv4" };
        let found = some.into_iter().find(free);
        ends.extend(found.map(|ip| (called.to_owned(), End::Ip(ip))));
    }
    for prefix in &narrow {
        let inner: Vec<&&IpNet> = narrow
            .iter()
            .filter(|other| other != &prefix && prefix.contains(**other))
            .collect();
        let beside = inner.iter().flat_map(|net| [before(net), after(net)]);
        let own = [Some(prefix.network()), Some(prefix.broadcast())].into_iter();
        let free = |ip: &IpAddr| {
            prefix.contains(ip) && !taken.contains(ip) && !inner.iter().any(|net| net.contains(ip))
        };
        let found = own.chain(beside).flatten().find(free);
        ends.extend(found.map(|ip| (prefix.to_string(), End::Ip(ip))));
    }
    ends
}

fn before(net: &IpNet) -> Option<IpAddr> {
    Some(match net.network() {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().checked_sub(1)?.into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().checked_sub(1)?.into()),
    })
}

fn after(net: &IpNet) -> Option<IpAddr> {
    Some(match net.broadcast() {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().checked_add(1)?.into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().checked_add(1)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use crate::{Cluster, End};

    #[test]
    fn prefixes_have_an_address_that_no_narrower_one_holds() {
        let all = [
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.128.0.0/9",
            "192.0.2.0/24",
            "0.0.0.0/0",
        ];
        let prefixes = all.map(|text| text.parse().expect("prefix")).into();
        let ends = super::outside(&Cluster::default(), &prefixes);
        let ip = |text: &str| End::Ip(text.parse().expect("address"));
        let expected = [
            ("world-ipv4", ip("198.51.100.1")),
            ("world-ipv6", ip("2001:db8::1")),
            ("10.0.0.0/9", ip("10.0.0.0")),
            ("10.128.0.0/9", ip("10.128.0.0")),
            ("192.0.2.0/24", ip("192.0.2.0")),
        ];
        assert_eq!(ends, expected.map(|(name, end)| (name.to_owned(), end)));
    }
}
