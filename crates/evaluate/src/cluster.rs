//! A cluster as it is described.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::Labels;
use ipnet::IpNet;
use serde::Deserialize;

type Map = BTreeMap<String, String>;

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Its name; empty: `default`.
    pub name: String,
    /// Its namespaces. Pods may be in others, which have no labels.
    pub namespaces: Vec<Namespace>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its pods, and those of other clusters that it is told of.
    pub pods: Vec<Pod>,
    /// Endpoints that have a reserved identity.
    pub specials: Vec<Special>,
    /// Addresses outside that are the API server.
    pub external_apiservers: Vec<IpAddr>,
    /// Its services.
    pub services: Vec<Service>,
    /// Its CiliumCIDRGroups.
    pub cidr_groups: Vec<CidrGroup>,
    /// What name servers have answered.
    pub dns: Vec<DnsName>,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Map,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its labels.
    #[serde(default)]
    pub labels: Map,
    /// The API server runs there.
    #[serde(default)]
    pub kube_apiserver: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// The node that it runs on; empty: one that nobody names.
    #[serde(default)]
    pub node: String,
    /// Its service account.
    #[serde(default)]
    pub service_account: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Map,
    /// The ports that it declares.
    #[serde(default)]
    pub ports: Vec<PodPort>,
    /// The cluster that it is of, if that is another one.
    #[serde(default)]
    pub cluster: String,
    /// Labels of its identity beside those of Kubernetes: `source:key=value`.
    #[serde(default)]
    pub extra_labels: Vec<String>,
    /// The labels of its identity, where they are known: it is not asked then what
    /// they would be. Those of prefixes do not count.
    #[serde(skip)]
    pub identity: Option<Labels>,
}

/// A port that a pod declares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPort {
    /// Its name; empty if it has none.
    #[serde(default)]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "TCP".to_owned()
}

/// An endpoint that has a reserved identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Special {
    /// Its name.
    pub name: String,
    /// The identity: one of init, health, ingress, unmanaged.
    pub reserved: Vec<String>,
    /// Its address.
    pub ip: IpAddr,
    /// Its node.
    #[serde(default)]
    pub node: String,
}

/// A service: of the pods that its selector means, or of its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Map,
    /// The address at which it is asked for, if it is one.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods.
    pub selector: Map,
    /// Addresses, of one without selector.
    pub endpoints: Vec<IpAddr>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The pods' port.
    pub target_port: u16,
    /// Its protocol.
    pub protocol: String,
}

/// A CiliumCIDRGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CidrGroup {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Map,
    /// Its prefixes.
    pub cidrs: Vec<IpNet>,
}

/// The addresses that a name was answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsName {
    /// The name.
    pub name: String,
    /// The addresses.
    pub ips: Vec<IpAddr>,
}
