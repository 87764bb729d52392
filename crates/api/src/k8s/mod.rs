//! Kubernetes' own objects, as far as networking and the lab need them.
//!
//! Fields that nobody here uses are ignored when read and absent when
//! written; in a [`NetworkPolicy`] or [`ClusterNetworkPolicy`] an unknown field is an error.

mod cluster_network_policy;
mod meta;
mod network_policy;
mod node;
mod pod;
mod service;
mod service_spec;
mod slice_spec;

pub use cluster_network_policy::{
    ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicy, ClusterNetworkPolicySpec,
    DestinationPort, EgressPeer, NamespacedPod, PodPeer, PolicyTier, PortField, PortRangeField,
    ProtocolField, RuleAction,
};
pub(crate) use meta::{AUDIT, STAGED};
pub use meta::{
    LabelSelector, Metadata, SelectorOperator, SelectorRequirement, check_label, check_namespace,
};
pub(crate) use meta::{check_label_value, check_name, is_label_key};
pub use network_policy::{
    IpBlock, NetworkPolicy, NetworkPolicyEgress, NetworkPolicyIngress, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec, PolicyType,
};
pub(crate) use node::addresses as node_addresses;
pub use node::{Namespace, Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{
    Condition, Container, ContainerPort, EnvVar, ExecAction, HttpGetAction, IntOrString, Pod,
    PodIp, PodSpec, PodStatus, Probe, RestartPolicy, TcpSocketAction,
};
pub(crate) use service::SERVICE_NAME;
pub use service::{
    ClientIpConfig, Endpoint, EndpointConditions, EndpointHint, EndpointHints, EndpointPort,
    EndpointSlice, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
    ServiceStatus, SessionAffinityConfig,
};
