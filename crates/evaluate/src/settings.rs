//! How the agents of the cluster are configured.

use axon_policy::{Enforcement, PolicyConfig};
use serde::Deserialize;

use crate::Problem;

/// Settings of the agents, in the words of policy cases; what is absent is as by
/// default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// `enable-policy`: default, always, never.
    pub enforcement: String,
    /// `allow-localhost`: always, policy.
    pub allow_localhost: String,
    /// `enable-host-firewall`, with no port of the node kept open
    /// (`host-firewall-failsafe-ingress` and `-egress` empty).
    pub host_firewall: bool,
    /// `enable-node-selector-labels`.
    pub node_selector_labels: bool,
    /// `policy-cidr-match-mode`: nodes, pods.
    #[serde(rename = "policyCIDRMatchMode")]
    pub cidr_match_mode: Vec<String>,
    /// `policy-default-local-cluster`.
    pub policy_default_local_cluster: bool,
    /// `enable-l7-proxy`.
    pub l7_proxy: bool,
    /// `enable-extended-ip-protocols`.
    #[serde(rename = "extendedIPProtocols")]
    pub extended_ip_protocols: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enforcement: "default".to_owned(),
            allow_localhost: "always".to_owned(),
            host_firewall: false,
            node_selector_labels: false,
            cidr_match_mode: Vec::new(),
            policy_default_local_cluster: true,
            l7_proxy: true,
            extended_ip_protocols: false,
        }
    }
}

impl Settings {
    /// How policy is read with these settings, in a cluster of this name.
    ///
    /// # Errors
    /// A word that is none of those expected, by its path.
    pub fn policy(&self, cluster_name: &str) -> Result<PolicyConfig, Problem> {
        let wrong = |field: &str, found: &str, expected: &str| {
            let message = format!("{found:?}; expected {expected}");
            Problem::new(format!("config.{field}"), message)
        };
        let enforcement = match self.enforcement.as_str() {
            "default" => Enforcement::Default,
            "always" => Enforcement::Always,
            "never" => Enforcement::Never,
            other => return Err(wrong("enforcement", other, "default, always or never")),
        };
        let allow_localhost = match self.allow_localhost.as_str() {
            "always" => true,
            "policy" => false,
            other => return Err(wrong("allowLocalhost", other, "always or policy")),
        };
        let known = |mode: &&String| ["nodes", "pods"].contains(&mode.as_str());
        if let Some(other) = self.cidr_match_mode.iter().find(|mode| !known(mode)) {
            return Err(wrong("policyCIDRMatchMode", other, "nodes or pods"));
        }
        Ok(PolicyConfig {
            enforcement,
            cluster_name: cluster_name.to_owned(),
            allow_localhost,
            cidr_selects_pods: self.cidrs_select("pods"),
            node_labels: self.node_selector_labels,
            extended_protocols: self.extended_ip_protocols,
            proxy: self.l7_proxy,
            ..PolicyConfig::default()
        })
    }

    /// Whether prefixes select `nodes`, or `pods`.
    pub(crate) fn cidrs_select(&self, whom: &str) -> bool {
        self.cidr_match_mode.iter().any(|mode| mode == whom)
    }
}
