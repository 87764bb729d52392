//! Who exists: the identities of a cluster, and who has which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::Identity;
use axon_control::labels::{LabelFilter, identity_labels};
use axon_model::{Label, Labels, NamePattern, Protocol, source};
use axon_policy::{
    IdentityInfo, PolicyConfig, cidr_label, cidr_labels, named_addresses, narrowest,
    other_node_labels, places, reserved_identities, whole,
};
use ipnet::IpNet;

use crate::{Cluster, Node, Pod, Problem, Settings};

/// First numbers of workloads, prefixes, names and nodes, and the last of
/// workloads. Only that they are of the right scope matters.
const WORKLOADS: u32 = 256;
const WORKLOADS_LAST: u32 = 65535;
const PREFIXES: u32 = 0x0100_0001;
const NAMES: u32 = 0x0180_0001;
const NODES: u32 = 0x0200_0001;

/// What policies name outside the cluster: each has identities of its own.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Prefixes.
    pub(crate) prefixes: BTreeSet<IpNet>,
    /// Patterns of names.
    pub(crate) names: BTreeSet<NamePattern>,
}

/// Everybody, by what they are known by.
#[derive(Debug, Default)]
pub(crate) struct People {
    /// What policy knows of each identity. Of the host it is what holds on every
    /// node.
    pub(crate) identities: BTreeMap<Identity, IdentityInfo>,
    /// By index in [`Cluster::pods`].
    pub(crate) pods: Vec<Identity>,
    /// By index in [`Cluster::nodes`], as other nodes see them.
    pub(crate) nodes: Vec<Identity>,
    /// By index in [`Cluster::specials`].
    pub(crate) specials: Vec<Identity>,
    prefixes: BTreeMap<IpNet, Identity>,
    /// The same prefixes.
    around: BTreeSet<IpNet>,
    /// Addresses that were given for names.
    names: BTreeMap<IpAddr, Identity>,
}

impl People {
    /// Prefixes that have identities.
    pub(crate) fn prefixes(&self) -> &BTreeSet<IpNet> {
        &self.around
    }

    /// The same, with the identities.
    pub(crate) fn by_prefix(&self) -> &BTreeMap<IpNet, Identity> {
        &self.prefixes
    }

    /// Addresses that were given for names.
    pub(crate) fn names(&self) -> &BTreeMap<IpAddr, Identity> {
        &self.names
    }

    /// Everybody in a cluster.
    ///
    /// # Errors
    /// What cannot be, by its path.
    pub(crate) fn new(
        cluster: &Cluster,
        (settings, config): (&Settings, &PolicyConfig),
        named: &Named,
    ) -> Result<Self, Problem> {
        let mut people = Self {
            identities: reserved_identities(config),
            ..Self::default()
        };
        let servers = cluster.external_apiservers.iter();
        let servers: BTreeSet<IpNet> = servers.copied().map(IpNet::from).collect();
        for (prefix, number) in named.prefixes.union(&servers).zip(PREFIXES..NAMES) {
            let mut info = IdentityInfo {
                prefix: Some(*prefix),
                ..IdentityInfo::labelled(cidr_labels(config, *prefix))
            };
            if servers.contains(prefix) {
                info.labels.insert(apiserver());
            }
            people.identities.insert(Identity(number), info);
            people.prefixes.insert(*prefix, Identity(number));
            people.around.insert(*prefix);
        }
        people.workloads(cluster, config, named)?;
        people.specials(cluster)?;
        people.other_nodes(cluster, settings, config);
        people.named(cluster, config, (named, &servers))?;
        Ok(people)
    }

    /// Workloads of the same labels are the same.
    fn workloads(
        &mut self,
        cluster: &Cluster,
        config: &PolicyConfig,
        named: &Named,
    ) -> Result<(), Problem> {
        let mut numbers: BTreeMap<Labels, Identity> = BTreeMap::new();
        let filter = LabelFilter::default();
        for (n, pod) in cluster.pods.iter().enumerate() {
            let path = format!("cluster.pods[{n}]");
            let mut labels = pod_labels(cluster, config, pod, &filter, &path)?;
            let place = narrowest(&named.prefixes, pod.ip);
            if let Some(place) = place.filter(|_| config.cidr_selects_pods) {
                labels.insert(cidr_label(place));
            }
            let next = WORKLOADS + u32::try_from(numbers.len()).unwrap_or(WORKLOADS_LAST);
            let id = *numbers.entry(labels.clone()).or_insert(Identity(next));
            if id.0 > WORKLOADS_LAST {
                return Err(Problem::new(path, "has labels for which no number is left"));
            }
            let info = self.identities.entry(id).or_insert_with(|| IdentityInfo {
                addresses: match config.cidr_selects_pods {
                    true => places(config, &labels),
                    false => BTreeSet::new(),
                },
                ..IdentityInfo::labelled(labels)
            });
            for (m, port) in pod.ports.iter().enumerate() {
                let path = format!("{path}.ports[{m}].protocol");
                let protocol: Protocol =
                    port.protocol
                        .parse()
                        .map_err(|error: axon_model::ProtocolError| {
                            Problem::new(path, error.to_string())
                        })?;
                let name = (port.name.to_ascii_lowercase(), protocol);
                info.named_ports.entry(name).or_default().insert(port.port);
            }
            self.pods.push(id);
        }
        Ok(())
    }

    fn specials(&mut self, cluster: &Cluster) -> Result<(), Problem> {
        for (n, special) in cluster.specials.iter().enumerate() {
            let known = |name: &String| match name.as_str() {
                "init" => Some(Identity::INIT),
                "health" => Some(Identity::HEALTH),
                "ingress" => Some(Identity::INGRESS),
                "unmanaged" => Some(Identity::UNMANAGED),
                _ => None,
            };
            match special.reserved.iter().map(known).collect::<Vec<_>>()[..] {
                [Some(identity)] => self.specials.push(identity),
                _ => {
                    return Err(Problem::new(
                        format!("cluster.specials[{n}].reserved"),
                        format!(
                            "{:?}; expected one of init, health, ingress, unmanaged",
                            special.reserved
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Nodes as other nodes see them: one identity, unless something tells them
    /// apart.
    fn other_nodes(&mut self, cluster: &Cluster, settings: &Settings, config: &PolicyConfig) {
        for (node, number) in cluster.nodes.iter().zip(NODES..) {
            let reserved = match node.kube_apiserver {
                true => Identity::KUBE_APISERVER,
                false => Identity::REMOTE_NODE,
            };
            let by_address = settings.cidrs_select("nodes");
            if !by_address && !config.node_labels {
                self.nodes.push(reserved);
                continue;
            }
            let mut info = IdentityInfo::default();
            if config.node_labels {
                info.labels = other_node_labels(config, &node.labels);
            }
            let of_scope = self.identities.get(&reserved).map(|info| &info.labels);
            for (source, key, value) in of_scope.into_iter().flat_map(Labels::iter) {
                info.labels.insert(Label::new(source, key, value));
            }
            if by_address {
                info.labels.insert(cidr_label(node.ip.into()));
                info.addresses.insert(node.ip.into());
            }
            self.identities.insert(Identity(number), info);
            self.nodes.push(Identity(number));
        }
    }

    /// Addresses given for names that policies ask for: an identity for each set
    /// of patterns, apart by the prefix that policies name around them.
    fn named(
        &mut self,
        cluster: &Cluster,
        config: &PolicyConfig,
        (named, servers): (&Named, &BTreeSet<IpNet>),
    ) -> Result<(), Problem> {
        let mut asked: BTreeMap<IpAddr, BTreeSet<NamePattern>> = BTreeMap::new();
        for (n, answer) in cluster.dns.iter().enumerate() {
            let name = NamePattern::new(&answer.name).map_err(|error| {
                Problem::new(format!("cluster.dns[{n}].name"), error.to_string())
            })?;
            let meant = |pattern: &&NamePattern| pattern.matches(&name.to_string());
            let patterns: BTreeSet<_> = named.names.iter().filter(meant).cloned().collect();
            for ip in answer.ips.iter().filter(|_| !patterns.is_empty()) {
                asked
                    .entry(*ip)
                    .or_default()
                    .extend(patterns.iter().cloned());
            }
        }
        let mut numbers: BTreeMap<(IpNet, BTreeSet<NamePattern>), Identity> = BTreeMap::new();
        for (ip, patterns) in asked {
            let place = narrowest(&self.around, ip).unwrap_or_else(|| whole(ip.is_ipv6()));
            let next = NAMES + u32::try_from(numbers.len()).unwrap_or_default();
            let key = (place, patterns.clone());
            let id = *numbers.entry(key).or_insert(Identity(next));
            let mut info = named_addresses(config, place, patterns);
            if servers.contains(&place) {
                info.labels.insert(apiserver());
            }
            self.identities.insert(id, info);
            self.names.insert(ip, id);
        }
        Ok(())
    }

    /// Who an address outside the cluster is.
    pub(crate) fn outside(&self, config: &PolicyConfig, ip: IpAddr) -> Identity {
        let named = || self.names.get(&ip).copied();
        let around = || self.prefixes.get(&narrowest(&self.around, ip)?).copied();
        named()
            .or_else(around)
            .unwrap_or_else(|| config.world_of(ip.is_ipv6()))
    }

    /// What a node knows of itself.
    pub(crate) fn host(&self, settings: &Settings, node: &Node) -> IdentityInfo {
        let known = self.identities.get(&Identity::HOST);
        let mut info = known.cloned().unwrap_or_default();
        if node.kube_apiserver {
            info.labels.insert(apiserver());
        }
        if settings.cidrs_select("nodes") {
            info.addresses.insert(node.ip.into());
        }
        info
    }
}

/// What an API server is known by that is not another node.
fn apiserver() -> Label {
    let name = Identity::KUBE_APISERVER.reserved_name().unwrap_or_default();
    Label::new(source::RESERVED, name, "")
}

fn pod_labels(
    cluster: &Cluster,
    config: &PolicyConfig,
    pod: &Pod,
    filter: &LabelFilter,
    path: &str,
) -> Result<Labels, Problem> {
    if let Some(known) = &pod.identity {
        // Prefixes have labels by what policies name, which may change.
        let lasting = known.iter().filter(|(of, ..)| *of != source::CIDR);
        return Ok(lasting.map(|(s, k, v)| Label::new(s, k, v)).collect());
    }
    let namespaces = cluster.namespaces.iter();
    let known = namespaces.filter(|namespace| namespace.name == pod.namespace);
    let namespace = axon_model::Namespace {
        name: pod.namespace.clone(),
        labels: known.flat_map(|known| known.labels.clone()).collect(),
        audit: false,
    };
    let workload = axon_model::Pod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        service_account: pod.service_account.clone(),
        ..axon_model::Pod::default()
    };
    let name = match pod.cluster.as_str() {
        "" => &config.cluster_name,
        other => other,
    };
    let mut labels = identity_labels(&workload, &namespace, name, filter);
    for (n, text) in pod.extra_labels.iter().enumerate() {
        let label: Label = text.parse().map_err(|error: axon_model::LabelError| {
            Problem::new(format!("{path}.extraLabels[{n}]"), error.to_string())
        })?;
        if source::is_of_agents(&label.source) {
            let message = format!(
                "{text:?}; expected no label of source {}, which no workload has",
                label.source
            );
            return Err(Problem::new(format!("{path}.extraLabels[{n}]"), message));
        }
        labels.insert(label);
    }
    Ok(labels)
}
