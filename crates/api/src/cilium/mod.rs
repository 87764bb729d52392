//! Cilium's objects (`cilium.io/v2`): policies, nodes, identities, endpoints.
//!
//! A policy is applied whole or not at all: what is not enforced by this
//! version is refused by the path of the field.

mod cidr_group;
#[cfg(feature = "schema")]
mod crd;
mod endpoint;
mod http;
mod icmp;
mod kafka;
mod l7;
mod local_redirect;
mod peers;
mod policy;
mod ports;
mod rule;

pub use cidr_group::{CidrGroupSpec, CiliumCidrGroup};
#[cfg(feature = "schema")]
pub use crd::{crds, crds_yaml};
pub use endpoint::{
    Addressing, CiliumEndpoint, CiliumEndpointStatus, CiliumIdentity, CiliumNode,
    CiliumNodeAddress, CiliumNodeSpec, EndpointIdentity, EndpointNetworking, NodeIpam,
};
pub use http::{HeaderMatch, HttpRequest};
pub use kafka::{KafkaRequest, api_key as kafka_api_key};
pub use l7::{EnvoyConfigField, L7Field, ListenerField, NameField, SecretField, TlsField};
pub use local_redirect::{
    AddressMatcher, CiliumLocalRedirectPolicy, LocalRedirectSpec, PortInfo, RedirectBackendSpec,
    RedirectFrontendSpec, ServiceMatcher,
};
pub use policy::{
    Authentication, CidrRule, CiliumNetworkPolicy, DefaultDeny, EgressRule, IcmpField, IcmpRule,
    IngressRule, PolicyRule, PortProtocol, ServiceName, ServiceRule, ServiceSelector, ToPorts,
};
pub(crate) use rule::not_supported;
