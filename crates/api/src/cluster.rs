//! What an agent knows of the cluster, with the policies that it has in force:
//! `GET /v1/cluster`. It is what `axon policy diff` compares with.

use axon_model::{
    CidrGroup, CiliumEndpoint, Endpoint, EndpointSlice, IdentityRecord, Namespace, Node, ObjectKey,
    Pod, PolicyObject, Service,
};
use serde::{Deserialize, Serialize};

use crate::state::PolicyReading;

/// A cluster as one of its agents sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterView {
    /// The agent's node.
    pub node: String,
    /// How it reads policy.
    pub reading: PolicyReading,
    /// What it is configured with beyond that.
    pub options: ClusterOptions,
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Pods, without annotations and unique ids.
    pub pods: Vec<Pod>,
    /// Services.
    pub services: Vec<Service>,
    /// Endpoints of services.
    pub endpoint_slices: Vec<(ObjectKey, EndpointSlice)>,
    /// CiliumCIDRGroups.
    pub cidr_groups: Vec<CidrGroup>,
    /// Workloads of every node, where a source tells of them.
    pub cilium_endpoints: Vec<CiliumEndpoint>,
    /// The labels of their identities.
    pub identities: Vec<IdentityRecord>,
    /// Endpoints of the node, plain processes too, with the labels that they are
    /// known by.
    pub endpoints: Vec<Endpoint>,
    /// The policies in force, and those that are staged.
    pub policies: Vec<PolicyObject>,
}

/// Options that say whom policy means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterOptions {
    /// `enable-host-firewall`.
    pub host_firewall: bool,
    /// `enable-node-selector-labels`.
    pub node_selector_labels: bool,
    /// `enable-extended-ip-protocols`.
    pub extended_ip_protocols: bool,
    /// `policy-cidr-match-mode` has `nodes`.
    pub cidr_selects_nodes: bool,
}
