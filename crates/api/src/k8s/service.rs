//! Services and their endpoint slices, as far as names and policy need them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{IntOrString, Metadata};
use crate::manifest::FieldError;
use crate::select::address;

/// Label of a slice: the service it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it shall be.
    pub spec: ServiceSpec,
}

/// What a service shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// The labels of its pods; empty if its endpoints are given otherwise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Its first address; `None` for a headless one, empty if not given.
    #[serde(rename = "clusterIP", skip_serializing_if = "String::is_empty")]
    pub cluster_ip: String,
    /// Its addresses.
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// `ClusterIP` (also if empty), `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Whether pods that are not ready have addresses too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub publish_not_ready_addresses: bool,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The port of the pods; absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    /// `TCP` (also if empty), `UDP`, `SCTP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}

/// A slice of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Its name; the label `kubernetes.io/service-name` names the service.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6`, `FQDN`.
    pub address_type: String,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Name of its node; empty if not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// What state it is in.
    pub conditions: EndpointConditions,
}

/// What state an endpoint of a slice is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Whether it may be sent to; absent: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

impl Service {
    /// The service as the model has it.
    pub fn to_model(&self) -> axon_model::Service {
        let external = self.spec.kind == "ExternalName";
        axon_model::Service {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
            // A service that is only a name elsewhere has no pods.
            selector: match external {
                true => BTreeMap::new(),
                false => self.spec.selector.clone(),
            },
        }
    }
}

impl EndpointSlice {
    /// The slice as the model has it: addresses that may be sent to. Names in
    /// their place are nobody here.
    ///
    /// # Errors
    /// A text that is no address.
    pub fn to_model(&self) -> Result<axon_model::EndpointSlice, FieldError> {
        let mut addresses = Vec::new();
        for (n, endpoint) in self.endpoints.iter().enumerate() {
            for (m, text) in endpoint.addresses.iter().enumerate() {
                if self.address_type == "FQDN" || endpoint.conditions.ready == Some(false) {
                    continue;
                }
                addresses.push(address(text, &format!("endpoints[{n}].addresses[{m}]"))?);
            }
        }
        let service = self.metadata.labels.get(SERVICE_NAME);
        Ok(axon_model::EndpointSlice {
            service: service.cloned().unwrap_or_default(),
            addresses,
        })
    }
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number; absent: every port.
    pub port: Option<u16>,
    /// `TCP` (also if empty), `UDP`, `SCTP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}
