//! Observed tables: what the sources say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_statedb::Table;
use serde::{Deserialize, Serialize};

use crate::{
    CidrGroup, Endpoint, EndpointSlice, Labels, LocalRedirect, Namespace, Node, Origin, Pod,
    PolicyObject, Service,
};

/// Namespace and name of an object; the namespace is empty for cluster-scoped
/// kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A CiliumEndpoint: a workload of any node, as the cluster tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CiliumEndpoint {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its identity's number.
    pub identity: u32,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Internal address of its node.
    pub node_ip: Option<IpAddr>,
}

/// A CiliumIdentity: the labels that a number stands for, cluster-wide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// The number.
    pub id: u32,
    /// The labels.
    pub labels: Labels,
}

/// A name, and who asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NameKey {
    /// The endpoint of this node that asked; 0: whoever it was.
    pub endpoint: u16,
    /// The name; case and a final dot do not count.
    pub name: String,
}

/// What name servers have answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameAnswer {
    /// The addresses, each with when it is forgotten, in the milliseconds that
    /// [`Observed`]'s reader counts.
    pub addresses: BTreeMap<IpAddr, u64>,
}

/// Every observed table. Cloning shares the tables.
///
/// Sources write the tables of the cluster; CNI ADD and DEL write `endpoints`,
/// and who hears name servers writes `names`.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Namespaces by name.
    pub namespaces: Table<String, Namespace>,
    /// Nodes by name.
    pub nodes: Table<String, Node>,
    /// Pods.
    pub pods: Table<ObjectKey, Pod>,
    /// Policies, converted to rules.
    pub policies: Table<Origin, PolicyObject>,
    /// CiliumCIDRGroups by name.
    pub cidr_groups: Table<String, CidrGroup>,
    /// Services.
    pub services: Table<ObjectKey, Service>,
    /// Endpoints of services.
    pub endpoint_slices: Table<ObjectKey, EndpointSlice>,
    /// Redirections to pods of the same node.
    pub local_redirects: Table<ObjectKey, LocalRedirect>,
    /// Workloads of every node, where a source tells of them.
    pub cilium_endpoints: Table<ObjectKey, CiliumEndpoint>,
    /// Identities numbered by the cluster, where a source tells of them.
    pub identities: Table<u32, IdentityRecord>,
    /// Addresses that this node's endpoints were given for names.
    pub names: Table<NameKey, NameAnswer>,
    /// Endpoints of this node by number.
    pub endpoints: Table<u16, Endpoint>,
}
