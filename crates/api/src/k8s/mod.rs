//! Kubernetes' own objects, as far as networking and the lab need them.
//!
//! Fields that nobody here uses are ignored when read and absent when
//! written; a [`NetworkPolicy`](crate::manifest::Object::Policy) is the
//! exception: an unknown field in it is an error.

mod meta;
mod network_policy;
mod node;
mod pod;
mod service;

pub use meta::{LabelSelector, Metadata, SelectorOperator, SelectorRequirement};
pub use network_policy::{
    IpBlock, NetworkPolicyEgress, NetworkPolicyIngress, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
pub use node::{Namespace, Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{
    Condition, Container, ContainerPort, EnvVar, ExecAction, HttpGetAction, IntOrString, Pod,
    PodIp, PodSpec, PodStatus, Probe, RestartPolicy, TcpSocketAction,
};
pub use service::{Endpoint, EndpointPort, EndpointSlice, Service, ServicePort, ServiceSpec};
