//! Services and their endpoint slices.
//!
//! What is wrong with one field of an object that is well formed is told as a
//! fault of it, and the rest of the object is in force.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{IntOrString, Metadata};

/// Label of a slice: the service it belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it shall be.
    pub spec: ServiceSpec,
    /// What it was given.
    #[serde(skip_serializing_if = "is_default")]
    pub status: ServiceStatus,
}

/// What a service was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// By its load balancer.
    pub load_balancer: LoadBalancerStatus,
}

/// What a load balancer gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Its addresses.
    pub ingress: Vec<LoadBalancerIngress>,
}

/// An address of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// The address; empty if it has a name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// `VIP` (also if empty): packets come with this address; `Proxy`: they do not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip_mode: String,
}

/// For how long a client finds the same backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionAffinityConfig {
    /// Told apart by its address.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIpConfig,
}

/// For how long a client's address finds the same backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds; absent: three hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
    /// `IPv4`, `IPv6`: those of its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
    /// Addresses that somebody else leads to the nodes.
    #[serde(rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    /// `Cluster` (also if empty) or `Local`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub external_traffic_policy: String,
    /// `Cluster` (also if empty) or `Local`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub internal_traffic_policy: String,
    /// `None` (also if empty) or `ClientIP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_affinity: String,
    /// For how long.
    #[serde(skip_serializing_if = "is_default")]
    pub session_affinity_config: SessionAffinityConfig,
    /// Prefixes of whom the load balancer's addresses let in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Where nodes tell how many backends they have; absent: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<i64>,
    /// `PreferClose`, `PreferSameZone`, `PreferSameNode`; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub traffic_distribution: String,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub port: i64,
    /// The port of each node; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<i64>,
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
    /// Whom it is meant for.
    #[serde(skip_serializing_if = "is_default")]
    pub hints: EndpointHints,
}

/// Whom an endpoint is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Clients of these zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<EndpointHint>,
    /// Clients of these nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<EndpointHint>,
}

/// A zone or a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHint {
    /// Its name.
    pub name: String,
}

/// What state an endpoint of a slice is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Whether it may be sent to; absent: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it answers; absent: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Whether it is ending; absent: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
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
            spec: super::service_spec::read(self),
        }
    }
}

impl EndpointSlice {
    /// The slice as the model has it: addresses that may be sent to. Names in
    /// their place are nobody here.
    pub fn to_model(&self) -> axon_model::EndpointSlice {
        let ready = self.endpoints.iter();
        let ready = ready.filter(|endpoint| endpoint.conditions.ready != Some(false));
        let texts = ready.flat_map(|endpoint| &endpoint.addresses);
        let service = self.metadata.labels.get(SERVICE_NAME);
        let mut slice = axon_model::EndpointSlice {
            service: service.cloned().unwrap_or_default(),
            addresses: texts.filter_map(|text| text.parse().ok()).collect(),
            ..axon_model::EndpointSlice::default()
        };
        super::slice_spec::read(self, &mut slice);
        slice
    }
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number; absent: every port.
    pub port: Option<i64>,
    /// `TCP` (also if empty), `UDP`, `SCTP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}
