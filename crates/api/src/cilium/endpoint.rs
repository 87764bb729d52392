//! CiliumNode, CiliumIdentity, CiliumEndpoint: what the cluster tells of its
//! workloads; read by agents, written by the cluster's brain.

use std::collections::BTreeMap;

use axon_model as model;
use serde::{Deserialize, Serialize};

use crate::k8s::{Metadata, is_label_key, node_addresses};
use crate::manifest::FieldError;
use crate::select::{address, prefix};

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
        let list = self.spec.addresses.iter();
        let list = list.map(|a| (a.kind.as_str(), a.ip.as_str()));
        let pod_cidrs = self.spec.ipam.pod_cidrs.iter().enumerate();
        Ok(model::Node {
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
            addresses: node_addresses(list, "spec.addresses", "ip")?,
            pod_cidrs: pod_cidrs
                .map(|(n, text)| prefix(text, &format!("spec.ipam.podCIDRs[{n}]")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The object of a node.
    pub fn from_model(node: &model::Node) -> Self {
        Self {
            metadata: Metadata {
                labels: node.labels.clone(),
                ..Metadata::named("", &node.name)
            },
            spec: CiliumNodeSpec {
                addresses: node
                    .addresses
                    .iter()
                    .map(|a| CiliumNodeAddress {
                        kind: format!("{:?}", a.kind),
                        ip: a.addr.to_string(),
                    })
                    .collect(),
                ipam: NodeIpam {
                    pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
                },
            },
        }
    }
}

impl CiliumIdentity {
    /// As the model has it.
    ///
    /// # Errors
    /// A name that is no number, a key without a source or of one that workloads cannot
    /// have.
    pub fn to_model(&self) -> Result<model::IdentityRecord, FieldError> {
        let id = self.metadata.name.parse().map_err(|_| {
            FieldError::new(
                "metadata.name",
                format!("{:?}; expected the identity's number", self.metadata.name),
            )
        })?;
        let label = |(name, value): (&String, &String)| match name.split_once(':') {
            Some((source, _)) if model::source::is_of_agents(source) => Err(FieldError::new(
                format!("security-labels.{name}"),
                format!("{name:?}; expected no label of source {source}, which no workload has"),
            )),
            Some((source, key)) if !source.is_empty() && !key.is_empty() => {
                Ok(model::Label::new(source, key, value))
            }
            _ => Err(FieldError::new(
                format!("security-labels.{name}"),
                format!("{name:?}; expected source:key"),
            )),
        };
        Ok(model::IdentityRecord {
            id,
            labels: self
                .security_labels
                .iter()
                .map(label)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The object of a record. Kubernetes labels are the object's own too, as
    /// Cilium has it.
    pub fn from_model(record: &model::IdentityRecord) -> Self {
        let k8s = record
            .labels
            .iter()
            .filter(|(source, key, _)| *source == model::source::K8S && is_label_key(key))
            .map(|(_, key, value)| (key.to_owned(), value.to_owned()));
        Self {
            metadata: Metadata {
                labels: k8s.collect(),
                ..Metadata::named("", &record.id.to_string())
            },
            security_labels: record
                .labels
                .iter()
                .map(|(source, key, value)| (format!("{source}:{key}"), value.to_owned()))
                .collect(),
        }
    }
}

impl CiliumEndpoint {
    /// As the model has it; nothing while identity or addresses are missing.
    ///
    /// # Errors
    /// An address that is none, by its path.
    pub fn to_model(&self) -> Result<Option<model::CiliumEndpoint>, FieldError> {
        let Some(networking) = &self.status.networking else {
            return Ok(None);
        };
        let mut ips = Vec::new();
        for (n, pair) in networking.addressing.iter().enumerate() {
            for (field, text) in [("ipv4", &pair.ipv4), ("ipv6", &pair.ipv6)] {
                if !text.is_empty() {
                    let path = format!("status.networking.addressing[{n}].{field}");
                    ips.push(address(text, &path)?);
                }
            }
        }
        let node_ip = match networking.node.as_str() {
            "" => None,
            text => Some(address(text, "status.networking.node")?),
        };
        let identity = match &self.status.identity {
            Some(identity) if !ips.is_empty() => identity.id,
            _ => return Ok(None),
        };
        Ok(Some(model::CiliumEndpoint {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            identity,
            ips,
            node_ip,
        }))
    }
}
