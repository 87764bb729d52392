//! Pods.

use std::fmt;
use std::net::IpAddr;

use axon_model as model;
use serde::{Deserialize, Serialize};

use super::Metadata;
use crate::manifest::FieldError;
use crate::select::{address, transport};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it shall be.
    pub spec: PodSpec,
    /// What it is.
    pub status: PodStatus,
}

/// What a pod shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is placed on; empty if it is not placed yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Its service account; empty stands for `default`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Whether it lives in the node's own network namespace.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// When its containers are started again.
    pub restart_policy: RestartPolicy,
    /// Containers run one after another before the others; those with
    /// `restartPolicy: Always` go on running beside them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Seconds between asking it to end and ending it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u64>,
}

/// When a pod's containers are started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Its program and first arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its further arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Where it runs; empty is left to the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The ports it declares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// How to ask whether it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Of an init container: `Always` makes it run beside the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
}

/// A variable of a container's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// A port that a container declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub container_port: u16,
    /// `TCP` (also if empty), `UDP`, `SCTP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// The port of the node that leads to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The address of the node at which it does; empty: at each.
    #[serde(default, rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// How to ask whether a container is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// By an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// By a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// By a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// Seconds before the first try.
    pub initial_delay_seconds: u32,
    /// Seconds between tries; 0 stands for 10.
    pub period_seconds: u32,
    /// Seconds that a try may take; 0 stands for 1.
    pub timeout_seconds: u32,
    /// Successes in a row that count; 0 stands for 1.
    pub success_threshold: u32,
    /// Failures in a row that count; 0 stands for 3.
    pub failure_threshold: u32,
}

/// Asks by an HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGetAction {
    /// The path; empty stands for `/`.
    #[serde(default)]
    pub path: String,
    /// The port, by number or name.
    pub port: IntOrString,
    /// `HTTP` (also if empty) or `HTTPS`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheme: String,
}

/// Asks by a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSocketAction {
    /// The port, by number or name.
    pub port: IntOrString,
}

/// Asks by a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecAction {
    /// The program and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
}

/// A number, or a name for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a number or a name")]
pub enum IntOrString {
    /// The number.
    Int(i64),
    /// The name.
    String(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::String(name) => f.write_str(name),
        }
    }
}

/// What a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`; empty if not told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// The address of its node.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
    /// Its first address; empty if it has none.
    #[serde(rename = "podIP", skip_serializing_if = "String::is_empty")]
    pub pod_ip: String,
    /// Its addresses.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// What holds of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// An address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// Something that holds of an object, or does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `Ready`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// Why, in a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Pod {
    /// As the model has it.
    ///
    /// # Errors
    /// An address or a protocol that is none, by its path.
    pub fn to_model(&self) -> Result<model::Pod, FieldError> {
        let mut ports = Vec::new();
        let init = self.spec.init_containers.iter();
        let init = init.enumerate().map(|(n, c)| ("initContainers", n, c));
        let main = self.spec.containers.iter();
        let main = main.enumerate().map(|(n, c)| ("containers", n, c));
        for (list, n, container) in init.chain(main) {
            for (m, port) in container.ports.iter().enumerate() {
                let own = format!("spec.{list}[{n}].ports[{m}]");
                let at = |field: &str| format!("{own}.{field}");
                let host_ip = match port.host_ip.as_str() {
                    "" => None,
                    text => Some(address(text, &at("hostIP"))?),
                };
                let protocol = transport(&port.protocol, &at("protocol"))?;
                let runs_on = container.restart_policy == Some(RestartPolicy::Always);
                ports.push(model::PodPort {
                    field: own,
                    name: port.name.to_ascii_lowercase(),
                    port: port.container_port,
                    protocol,
                    host_port: port.host_port.unwrap_or(0),
                    host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
                    is_init: list == "initContainers" && !runs_on,
                });
            }
        }
        Ok(model::Pod {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            uid: self.metadata.uid.clone(),
            labels: self.metadata.labels.clone(),
            annotations: self.metadata.annotations.clone(),
            service_account: match self.spec.service_account_name.as_str() {
                "" => "default".to_owned(),
                name => name.to_owned(),
            },
            node: self.spec.node_name.clone(),
            host_network: self.spec.host_network,
            ports,
            ips: self.ips()?,
            is_ready: self
                .status
                .conditions
                .iter()
                .any(|condition| condition.kind == "Ready" && condition.status == "True"),
            is_terminating: !self.metadata.deletion_timestamp.is_empty(),
            is_finished: matches!(self.status.phase.as_str(), "Succeeded" | "Failed"),
        })
    }

    /// Its addresses: `podIPs`, or else `podIP`.
    fn ips(&self) -> Result<Vec<IpAddr>, FieldError> {
        if self.status.pod_ips.is_empty() && !self.status.pod_ip.is_empty() {
            return Ok(vec![address(&self.status.pod_ip, "status.podIP")?]);
        }
        self.status
            .pod_ips
            .iter()
            .enumerate()
            .map(|(n, ip)| address(&ip.ip, &format!("status.podIPs[{n}].ip")))
            .collect()
    }
}
