//! Namespaces and nodes.

use axon_model as model;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AUDIT, Metadata};
use crate::manifest::FieldError;
use crate::select::{address, prefix};

/// The label by which every namespace can be selected.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: Metadata,
}

impl Namespace {
    /// As the model has it, with the label of its name that the API server
    /// gives to every namespace.
    pub fn to_model(&self) -> model::Namespace {
        let mut labels = self.metadata.labels.clone();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), self.metadata.name.clone());
        model::Namespace {
            name: self.metadata.name.clone(),
            labels,
            // What is neither was refused when it was read.
            audit: self.metadata.is_annotated(AUDIT).unwrap_or(false),
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
        if self.spec.pod_cidrs.is_empty() && !self.spec.pod_cidr.is_empty() {
            return Ok(vec![prefix(&self.spec.pod_cidr, "spec.podCIDR")?]);
        }
        self.spec
            .pod_cidrs
            .iter()
            .enumerate()
            .map(|(n, text)| prefix(text, &format!("spec.podCIDRs[{n}]")))
            .collect()
    }

    /// As the model has it.
    ///
    /// # Errors
    /// A prefix or an address that is none, by its path.
    pub fn to_model(&self) -> Result<model::Node, FieldError> {
        Ok(model::Node {
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
            addresses: addresses(
                self.status
                    .addresses
                    .iter()
                    .map(|a| (a.kind.as_str(), a.address.as_str())),
                "status.addresses",
                "address",
            )?,
            pod_cidrs: self.pod_cidrs()?,
        })
    }
}

/// The addresses of a node's list of which the model knows the use; others
/// (names among them) are passed over.
///
/// # Errors
/// A text that is no address, by its path.
pub(crate) fn addresses<'a>(
    list: impl Iterator<Item = (&'a str, &'a str)>,
    path: &str,
    field: &str,
) -> Result<Vec<model::NodeAddress>, FieldError> {
    let mut found = Vec::new();
    for (n, (kind, text)) in list.enumerate() {
        let kind = match kind {
            "InternalIP" => model::NodeAddressKind::InternalIP,
            "ExternalIP" => model::NodeAddressKind::ExternalIP,
            "CiliumInternalIP" => model::NodeAddressKind::CiliumInternalIP,
            _ => continue,
        };
        let addr = address(text, &format!("{path}[{n}].{field}"))?;
        found.push(model::NodeAddress { kind, addr });
    }
    Ok(found)
}
