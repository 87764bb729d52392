//! A case as its file has it: a world, policies, and what is expected of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use crate::common::axon;
use crate::matrices::Matrices;

/// What a case may need and a lab has not, with the reason.
const LACKS: [(&str, &str); 6] = [
    ("http-proxy", "needs the proxy for HTTP and TLS"),
    ("dns-proxy", "needs the proxy for DNS"),
    ("kafka-proxy", "needs the proxy for Kafka"),
    ("custom-envoy-listener", "needs a proxy of its own"),
    ("clustermesh", "needs a second cluster"),
    ("special-endpoints", "needs endpoints without labels"),
];
/// What a case may need and an agent has if it knows this option.
const OPTIONAL: [(&str, &str, &str); 1] = [(
    "host-firewall",
    "enable-host-firewall",
    "needs the host firewall",
)];

/// A file of the collection.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) unsure: bool,
    #[serde(default)]
    pub(crate) config: Config,
    #[serde(default)]
    live: Live,
    expect_reject: Option<Value>,
    #[serde(flatten)]
    one: State,
    #[serde(default)]
    steps: Vec<State>,
}

#[derive(Debug, Default, Deserialize)]
struct Live {
    possible: bool,
    #[serde(default)]
    needs: Vec<String>,
}

/// The agents' options.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) enforcement: Option<String>,
    pub(crate) allow_localhost: Option<String>,
    pub(crate) host_firewall: Option<bool>,
    pub(crate) node_selector_labels: Option<bool>,
    #[serde(rename = "policyCIDRMatchMode")]
    pub(crate) cidr_match_mode: Vec<String>,
    pub(crate) policy_default_local_cluster: Option<bool>,
    #[serde(rename = "extendedIPProtocols")]
    pub(crate) extended_ip_protocols: Option<bool>,
}

/// A state to reach, and what holds in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) cluster: Cluster,
    pub(crate) policies: Vec<Value>,
    probes: Vec<Probe>,
    expect: Option<Matrices>,
    expect_ipblock_covers_pods: Option<Matrices>,
}

/// The world of a case.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) namespaces: Vec<Named>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) external_apiservers: Vec<String>,
    pub(crate) services: Vec<Service>,
    pub(crate) cidr_groups: Vec<CidrGroup>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ip: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) kube_apiserver: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: String,
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) service_account: Option<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) ports: Vec<Port>,
    /// Labels of other sources: `source:key=value`.
    #[serde(default)]
    pub(crate) extra_labels: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) target_port: Option<u16>,
    pub(crate) protocol: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<String>,
    #[serde(default)]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) endpoints: Vec<String>,
    #[serde(default)]
    pub(crate) ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct CidrGroup {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cidrs: Vec<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum End {
    /// `namespace/name`.
    Pod(String),
    /// An address of the world.
    Ip(String),
    /// The network of a node itself.
    Node(String),
    /// An endpoint without labels.
    Special(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Pod(name) | Self::Ip(name) | Self::Node(name) | Self::Special(name)) = self;
        f.write_str(name)
    }
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    Allow,
    Deny,
    Redirect,
}

/// One connection and what is expected of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Probe {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) protocol: Protocol,
    #[serde(default)]
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) icmp_type: u8,
    pub(crate) expect: Word,
    #[serde(default)]
    pub(crate) egress: Option<Word>,
    #[serde(default)]
    pub(crate) ingress: Option<Word>,
    /// The mode of the authentication for want of which it is denied.
    #[serde(default)]
    pub(crate) auth: Option<String>,
}

/// How both ends talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    #[serde(rename = "ICMPv6")]
    IcmpV6,
}

impl Probe {
    /// Whether it goes over IPv6.
    pub(crate) fn is_v6(&self) -> bool {
        let is = |end: &End| matches!(end, End::Ip(ip) if ip.contains(':'));
        self.protocol == Protocol::IcmpV6 || is(&self.from) || is(&self.to)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, .. } = self;
        match self.protocol {
            Protocol::Tcp => write!(f, "{from} -> {to} TCP {}", self.port),
            Protocol::Udp => write!(f, "{from} -> {to} UDP {}", self.port),
            Protocol::Sctp => write!(f, "{from} -> {to} SCTP {}", self.port),
            Protocol::Icmp => write!(f, "{from} -> {to} ICMP type {}", self.icmp_type),
            Protocol::IcmpV6 => write!(f, "{from} -> {to} ICMPv6 type {}", self.icmp_type),
        }
    }
}

impl Case {
    /// What a case is about: its name without its number.
    pub(crate) fn group(&self) -> &str {
        let stem = self.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let group = stem.trim_end_matches('-');
        // `k8s-peers-2` and the like are parts of one group.
        match group.match_indices('-').nth(1) {
            Some((at, _)) => &group[..at],
            None => group,
        }
    }

    /// Why it cannot be played.
    pub(crate) fn skipped(&self) -> Option<String> {
        let lack = |need: &String| {
            let never = LACKS.iter().find(|(name, _)| name == need);
            let of_option = OPTIONAL.iter().find(|(name, ..)| name == need);
            let lacking = of_option.filter(|(_, option, _)| !agents_know(option));
            never.map(|l| l.1).or_else(|| lacking.map(|l| l.2))
        };
        let reasons: Vec<&str> = self.live.needs.iter().filter_map(lack).collect();
        match (reasons.is_empty(), self.live.possible) {
            (true, true) => None,
            (true, false) => Some("says itself that it is not live".to_owned()),
            (false, _) => Some(reasons.join(", ")),
        }
    }

    /// Whether it is about what is refused, without any packet.
    pub(crate) fn is_about_refusal(&self) -> bool {
        self.expect_reject.is_some()
    }

    /// Whether nodes themselves are held to policy in it.
    pub(crate) fn is_about_nodes(&self) -> bool {
        self.config.host_firewall == Some(true)
    }

    /// The states to reach, one after the other.
    pub(crate) fn states(&self) -> &[State] {
        if self.steps.is_empty() {
            std::slice::from_ref(&self.one)
        } else {
            &self.steps
        }
    }

    /// Whether it expects something else where prefixes select nodes and pods.
    pub(crate) fn has_literal_reading(&self) -> bool {
        let mut states = self.states().iter();
        states.any(|state| state.expect_ipblock_covers_pods.is_some())
    }
}

impl State {
    /// The probes, and those that the matrices stand for.
    pub(crate) fn probes(&self, literal: bool) -> Vec<Probe> {
        let other = self.expect_ipblock_covers_pods.as_ref();
        let matrices = other.filter(|_| literal).or(self.expect.as_ref());
        let mut probes = self.probes.clone();
        if let Some(matrices) = matrices {
            matrices.expand(&mut probes);
        }
        probes
    }
}

/// Whether agents have an option of that name.
pub(crate) fn agents_know(option: &str) -> bool {
    static HELP: OnceLock<String> = OnceLock::new();
    let help = HELP.get_or_init(|| {
        let told = Command::new(axon()).args(["agent", "--help"]).output();
        String::from_utf8_lossy(&told.expect("axon runs").stdout).into_owned()
    });
    help.contains(&format!("--{option}"))
}

/// Every case below a directory, in the order of their names.
pub(crate) fn read(dir: &Path) -> Vec<Case> {
    let cases = trees(dir).into_iter().map(|(file, tree)| {
        serde_json::from_value::<Case>(tree)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    });
    let mut cases: Vec<Case> = cases.collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// What every file below a directory holds.
pub(crate) fn trees(dir: &Path) -> Vec<(PathBuf, Value)> {
    let mut files = Vec::new();
    collect(dir, &mut files);
    assert!(!files.is_empty(), "{} holds no case", dir.display());
    let trees = files.into_iter().map(|file| {
        let failed = |error: &dyn fmt::Display| -> ! { panic!("{}: {error}", file.display()) };
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| failed(&e));
        // By way of JSON's data: YAML of its own has tags for alternatives.
        let tree = serde_norway::from_str(&text).unwrap_or_else(|e| failed(&e));
        (file, tree)
    });
    trees.collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
}

#[cfg(test)]
#[path = "case_tests.rs"]
mod tests;
