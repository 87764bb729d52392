//! What is asked: a cluster in its states, and connections in each.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::Protocol;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Problem;

/// A question.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Question {
    /// What it is told by; decides nothing.
    #[serde(rename = "case")]
    _case: Value,
    /// Options of the agents, by their names.
    pub(super) config: Map<String, Value>,
    /// Hosts that are not of the cluster, and their addresses.
    pub(super) outside: BTreeMap<String, Vec<IpAddr>>,
    /// Processes that listen on nodes.
    pub(super) listeners: Vec<Listener>,
    /// The states, one after the other.
    pub(super) states: Vec<State>,
}

/// A process that listens on a node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) node: String,
    pub(super) protocol: String,
    pub(super) port: u16,
}

/// A state of the cluster.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct State {
    /// All its objects.
    pub(super) objects: Vec<Value>,
    /// Seconds that pass before anything is asked.
    pub(super) wait: f64,
    /// What is asked.
    pub(super) probes: Vec<Value>,
}

/// Connections from one client to one address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub(super) id: String,
    pub(super) from: Source,
    pub(super) to: To,
    protocol: String,
    /// How many; what may become of one is what may become of each.
    #[serde(default, rename = "count")]
    _count: u64,
    pub(super) same_source_port: Option<u16>,
    pub(super) connection: Option<Connection>,
    pub(super) compare_with: Option<String>,
    /// The path that is asked for; decides nothing.
    #[serde(default, rename = "http")]
    _http: Option<String>,
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// A pod, by namespace/name.
    Pod(String),
    /// A process of a node.
    Node(String),
    /// A host outside.
    Outside(String),
}

/// To whom.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct To {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// The node by which a host outside sends.
    pub(super) via: Option<String>,
}

/// A connection that outlasts a probe.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Connection {
    /// It is left open under this name.
    Open(String),
    /// What was left open is spoken on.
    Use(String),
}

impl Probe {
    /// A probe from its tree.
    ///
    /// # Errors
    /// What is wrong, by its path.
    pub(super) fn parse(tree: &Value) -> Result<Self, Problem> {
        Ok(serde_path_to_error::deserialize(tree)?)
    }

    pub(super) fn protocol(&self) -> Result<Protocol, Problem> {
        protocol(&self.protocol, "protocol")
    }
}

/// A protocol that has ports.
pub(super) fn protocol(text: &str, path: &str) -> Result<Protocol, Problem> {
    let known = text.parse().ok();
    known
        .filter(|protocol| Protocol::WITH_PORTS.contains(protocol))
        .ok_or_else(|| Problem::new(path, format!("{text:?}; expected TCP, UDP or SCTP")))
}
