//! A cluster as an agent sees it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_api::cluster::ClusterView;
use axon_model::{Endpoint, Labels, Pod, source};

use crate::described::Read;
use crate::{Described, Settings};

/// Namespace and name.
type Key = (String, String);

impl Described {
    /// What an agent knows, with its settings; and what of it is left out, in
    /// sentences. The endpoints of its node, plain processes too, are whom the
    /// agent takes them for; so are the workloads of others where a source tells
    /// of their identities.
    pub fn seen(view: ClusterView) -> (Self, Vec<String>) {
        let settings = settings(&view);
        let mut known = known(&view);
        let mut read = Read::default();
        view.namespaces.into_iter().for_each(|n| read.namespace(n));
        view.nodes.into_iter().for_each(|node| read.node(node));
        view.services.into_iter().for_each(|s| read.service(s));
        for (key, slice) in view.endpoint_slices {
            read.slice((key.namespace, key.name), slice);
        }
        view.cidr_groups.into_iter().for_each(|g| read.group(g));
        read.policies(view.policies);
        for mut pod in view.pods {
            let key = (pod.namespace.clone(), pod.name.clone());
            let known = known.remove(&key).unwrap_or_default();
            // It may have given its addresses to another by now.
            if pod.is_finished {
                continue;
            }
            if pod.ips.is_empty() {
                pod.ips = known.addresses;
            }
            read.pod(pod, known.labels);
        }
        let processes = view.endpoints.iter().filter(|e| e.pod_name.is_empty());
        for process in processes {
            let key = (process.namespace.clone(), process_name(process));
            let known = known.remove(&key).unwrap_or_default();
            let pod = Pod {
                namespace: key.0,
                name: key.1,
                node: view.node.clone(),
                labels: own_labels(process),
                ips: known.addresses,
                ..Pod::default()
            };
            read.pod(pod, known.labels);
        }
        let mut described = read.finish();
        described
            .cluster
            .name
            .clone_from(&view.reading.cluster_name);
        described.told = Some(settings);
        let notes = match known.len() {
            0 => Vec::new(),
            count => vec![format!(
                "{count} workloads are left out: the agent knows their addresses, not their pods"
            )],
        };
        (described, notes)
    }
}

/// How the agent is configured.
fn settings(view: &ClusterView) -> Settings {
    let by_address = [
        (view.options.cidr_selects_nodes, "nodes"),
        (view.reading.cidr_selects_pods, "pods"),
    ];
    let modes = by_address.into_iter().filter(|(on, _)| *on);
    Settings {
        enforcement: view.reading.enforcement.clone(),
        allow_localhost: match view.reading.allow_localhost {
            true => "always",
            false => "policy",
        }
        .to_owned(),
        host_firewall: view.options.host_firewall,
        node_selector_labels: view.options.node_selector_labels,
        cidr_match_mode: modes.map(|(_, mode)| mode.to_owned()).collect(),
        l7_proxy: view.reading.proxy,
        extended_ip_protocols: view.options.extended_ip_protocols,
        ..Settings::default()
    }
}

/// What is known of a workload beside its pod.
#[derive(Default)]
struct Known {
    /// The labels of its identity.
    labels: Option<Labels>,
    addresses: Vec<IpAddr>,
}

/// What the agent's endpoints and the cluster's say of workloads; of its own the
/// agent knows best.
fn known(view: &ClusterView) -> BTreeMap<Key, Known> {
    let mut known = BTreeMap::new();
    let numbered = view.identities.iter().map(|i| (i.id, &i.labels));
    let numbered: BTreeMap<u32, &Labels> = numbered.collect();
    for endpoint in &view.cilium_endpoints {
        let labels = numbered.get(&endpoint.identity);
        let key = (endpoint.namespace.clone(), endpoint.name.clone());
        let it = Known {
            labels: labels.map(|labels| (*labels).clone()),
            addresses: endpoint.ips.clone(),
        };
        known.insert(key, it);
    }
    for endpoint in &view.endpoints {
        let name = match endpoint.pod_name.as_str() {
            "" => process_name(endpoint),
            pod => pod.to_owned(),
        };
        let v4 = endpoint.ipv4.map(IpAddr::V4);
        let addresses = v4.into_iter().chain(endpoint.ipv6.map(IpAddr::V6));
        let labels = Some(&endpoint.labels).filter(|labels| !labels.is_empty());
        let it = Known {
            labels: labels.cloned(),
            addresses: addresses.collect(),
        };
        known.insert((endpoint.namespace.clone(), name), it);
    }
    known
}

/// What a plain process is called: several may have one name, and that of a pod.
fn process_name(endpoint: &Endpoint) -> String {
    format!("{} (endpoint {})", endpoint.process_name, endpoint.id)
}

/// Labels by which a workload is called, whatever their source.
fn own_labels(endpoint: &Endpoint) -> BTreeMap<String, String> {
    let labels = endpoint.own_labels.iter();
    let labels = labels.filter(|(of, ..)| !source::is_of_agents(of));
    labels
        .map(|(_, k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}
