//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy as they are written.
//!
//! A list that is absent differs from an empty one: absent peers with ports
//! are everyone, an empty list of peers is nobody.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::l7::{L7Field, ListenerField, NameField, TlsField};
use crate::k8s::{IntOrString, LabelSelector, Metadata};

/// A policy of either kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumNetworkPolicy {
    /// `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumNetworkPolicy` or `CiliumClusterwideNetworkPolicy`.
    pub kind: String,
    /// Its namespace and name.
    #[serde(default)]
    pub metadata: Metadata,
    /// Its rule.
    pub spec: Option<PolicyRule>,
    /// Its further rules.
    pub specs: Option<Vec<PolicyRule>>,
    /// What is told of it; not used.
    #[serde(default, skip_serializing)]
    pub status: Value,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// The endpoints it is about; of a namespaced policy, in its namespace.
    pub endpoint_selector: Option<LabelSelector>,
    /// The nodes it is about.
    pub node_selector: Option<LabelSelector>,
    /// What may be received.
    pub ingress: Option<Vec<IngressRule>>,
    /// What may not be received, whatever allows it.
    pub ingress_deny: Option<Vec<IngressRule>>,
    /// What may be sent.
    pub egress: Option<Vec<EgressRule>>,
    /// What may not be sent, whatever allows it.
    pub egress_deny: Option<Vec<EgressRule>>,
    /// Whether what no rule allows is denied; absent: where there are rules.
    #[serde(default)]
    pub enable_default_deny: DefaultDeny,
    /// Labels of the rule itself; they decide nothing.
    #[serde(default)]
    pub labels: Value,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// What is logged with its verdicts; it decides nothing.
    #[serde(default)]
    pub log: Value,
}

/// Whether what no rule allows is denied, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DefaultDeny {
    /// Of what is received.
    pub ingress: Option<bool>,
    /// Of what is sent.
    pub egress: Option<bool>,
}

/// What may, or may not, be received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressRule {
    /// From endpoints with these labels.
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// From addresses outside the cluster.
    #[serde(rename = "fromCIDR")]
    pub from_cidr: Option<Vec<String>>,
    /// From addresses outside the cluster, with exceptions.
    #[serde(rename = "fromCIDRSet")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// From parts of the world by name.
    pub from_entities: Option<Vec<String>>,
    /// From groups of a cloud.
    pub from_groups: Option<Vec<Value>>,
    /// From nodes with these labels.
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// No longer part of the language.
    pub from_requires: Option<Vec<Value>>,
    /// On these ports.
    pub to_ports: Option<Vec<ToPorts>>,
    /// With these ICMP types.
    pub icmps: Option<Vec<IcmpRule>>,
    /// How the peer must have proved who it is.
    pub authentication: Option<Authentication>,
}

/// What may, or may not, be sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// To endpoints with these labels.
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// To addresses outside the cluster.
    #[serde(rename = "toCIDR")]
    pub to_cidr: Option<Vec<String>>,
    /// To addresses outside the cluster, with exceptions.
    #[serde(rename = "toCIDRSet")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// To parts of the world by name.
    pub to_entities: Option<Vec<String>>,
    /// To services.
    pub to_services: Option<Vec<ServiceRule>>,
    /// To groups of a cloud.
    pub to_groups: Option<Vec<Value>>,
    /// To nodes with these labels.
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// To names.
    #[serde(rename = "toFQDNs")]
    pub to_fqdns: Option<Vec<NameField>>,
    /// No longer part of the language.
    pub to_requires: Option<Vec<Value>>,
    /// To these ports.
    pub to_ports: Option<Vec<ToPorts>>,
    /// With these ICMP types.
    pub icmps: Option<Vec<IcmpRule>>,
    /// How the peer must have proved who it is.
    pub authentication: Option<Authentication>,
}

/// Addresses, with exceptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CidrRule {
    /// The prefix.
    pub cidr: Option<String>,
    /// A CiliumCIDRGroup in its place.
    pub cidr_group_ref: Option<String>,
    /// CiliumCIDRGroups in its place.
    pub cidr_group_selector: Option<LabelSelector>,
    /// Prefixes that are not meant.
    #[serde(default)]
    pub except: Vec<String>,
}

/// Services: by name, by labels, or both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRule {
    /// By name.
    pub k8s_service: Option<ServiceName>,
    /// By labels.
    pub k8s_service_selector: Option<ServiceSelector>,
}

/// A service by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceName {
    /// Its name.
    pub service_name: String,
    /// Its namespace; empty: any.
    pub namespace: String,
}

/// Services by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceSelector {
    /// Their labels.
    pub selector: LabelSelector,
    /// Their namespace; empty: any.
    #[serde(default)]
    pub namespace: String,
}

/// Ports, and what must be said on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToPorts {
    /// The ports.
    #[serde(default)]
    pub ports: Vec<PortProtocol>,
    /// TLS to the client.
    #[serde(rename = "terminatingTLS")]
    pub terminating_tls: Option<TlsField>,
    /// TLS to the server.
    #[serde(rename = "originatingTLS")]
    pub originating_tls: Option<TlsField>,
    /// Names of the TLS server.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// A listener of the proxy.
    pub listener: Option<ListenerField>,
    /// What must be said.
    pub rules: Option<L7Field>,
}

/// A port and its protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortProtocol {
    /// Number or name.
    #[serde(default)]
    pub port: String,
    /// Last port of a range; 0: no range.
    #[serde(default)]
    pub end_port: i64,
    /// Empty stands for `ANY`.
    #[serde(default)]
    pub protocol: String,
}

/// ICMP types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IcmpRule {
    /// The types.
    #[serde(default)]
    pub fields: Vec<IcmpField>,
}

/// An ICMP type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IcmpField {
    /// `IPv4` (also if empty) or `IPv6`.
    #[serde(default)]
    pub family: String,
    /// The type, by number or name.
    #[serde(rename = "type")]
    pub icmp_type: IntOrString,
}

/// How a peer must have proved who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    /// `disabled`, `required`, `test-always-fail`.
    pub mode: String,
}
