//! Nodes, namespaces and pods as they are asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What an address of a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeAddressKind {
    /// The address other nodes use.
    InternalIP,
    /// An address reachable from outside.
    ExternalIP,
    /// The address of the node's own end of the pod network.
    CiliumInternalIP,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeAddress {
    /// What it is for.
    pub kind: NodeAddressKind,
    /// The address.
    pub addr: IpAddr,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its labels, without a source.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
    /// The prefixes its pods' addresses are taken from.
    pub pod_cidrs: Vec<IpNet>,
}

impl Node {
    /// The node's first internal address of a family.
    pub fn internal_ip(&self, v6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .filter(|a| a.kind == NodeAddressKind::InternalIP)
            .map(|a| a.addr)
            .find(|a| a.is_ipv6() == v6)
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Policy of its endpoints is only audited.
    #[serde(default)]
    pub audit: bool,
}

/// A named or numbered port that a pod declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPort {
    /// Where it is written, as `spec.containers[0].ports[0]`.
    #[serde(default)]
    pub field: String,
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol (`TCP`, `UDP`, `SCTP`).
    pub protocol: crate::Protocol,
    /// The port of the node that leads to it; 0 for none.
    #[serde(default)]
    pub host_port: u16,
    /// The address of the node at which it does; none: at each.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// Whether its container has ended before the pod's others begin.
    #[serde(default)]
    pub is_init: bool,
}

/// A pod, as far as networking needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id; empty if not known.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its service account; `default` if none is named.
    pub service_account: String,
    /// The node it is placed on; empty if it is not placed yet.
    pub node: String,
    /// Whether it lives in the node's own network namespace.
    pub host_network: bool,
    /// The ports its containers declare.
    pub ports: Vec<PodPort>,
    /// Its addresses, if its status tells them.
    pub ips: Vec<IpAddr>,
    /// Whether it is ready to be sent to.
    #[serde(default)]
    pub is_ready: bool,
    /// Whether it is being taken away.
    #[serde(default)]
    pub is_terminating: bool,
    /// Whether its containers have ended for good.
    #[serde(default)]
    pub is_finished: bool,
}
