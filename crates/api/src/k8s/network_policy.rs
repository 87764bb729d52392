//! NetworkPolicy (`networking.k8s.io/v1`).

use axon_abi::Direction;
use axon_model::{
    Action, Auth, Peer, Peers, PortMatch, PortRule, Ports, Requirement, Rule, RuleEntry, Selector,
    Subject, Tier, source,
};
use serde::{Deserialize, Serialize};

use super::{IntOrString, LabelSelector, Metadata, is_label_key};
use crate::manifest::FieldError;
use crate::select::{NAMESPACE, NAMESPACE_LABELS, is_port_name, prefix, requirements, transport};

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicy {
    /// `networking.k8s.io/v1`.
    pub api_version: String,
    /// `NetworkPolicy`.
    pub kind: String,
    /// Its namespace and name.
    pub metadata: Metadata,
    /// What it says.
    pub spec: NetworkPolicySpec,
    /// What is told of it; not used.
    #[serde(skip_serializing)]
    pub status: serde_json::Value,
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicySpec {
    /// The pods it is about, in its own namespace.
    pub pod_selector: LabelSelector,
    /// What they may receive.
    pub ingress: Vec<NetworkPolicyIngress>,
    /// What they may send.
    pub egress: Vec<NetworkPolicyEgress>,
    /// `Ingress`, `Egress`; empty: ingress, and egress if it has a rule.
    pub policy_types: Vec<PolicyType>,
}

/// A direction that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyType {
    /// What pods receive.
    Ingress,
    /// What pods send.
    Egress,
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
    /// TCP if empty.
    pub protocol: String,
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
    /// The policy as rules (one), of the namespace it lives in.
    ///
    /// # Errors
    /// What Kubernetes would refuse, by its path.
    pub fn to_model(&self, metadata: &Metadata) -> Result<Vec<Rule>, FieldError> {
        let namespace = metadata.namespace.as_str();
        let ingress = self.policy_types.is_empty() || self.is_about(PolicyType::Ingress);
        let egress = match self.policy_types.is_empty() {
            true => !self.egress.is_empty(),
            false => self.is_about(PolicyType::Egress),
        };
        let mut subject = pod_requirements(&self.pod_selector, "spec.podSelector")?;
        subject.push(Requirement::equals(source::K8S, NAMESPACE, namespace));
        let mut entries = Vec::new();
        for (n, rule) in self.ingress.iter().enumerate() {
            let path = format!("spec.ingress[{n}]");
            let peers = peers(&rule.from, &format!("{path}.from"), namespace)?;
            let ports = ports(&rule.ports, &path)?;
            if ingress {
                entries.push(entry(Direction::Ingress, peers, ports));
            }
        }
        for (n, rule) in self.egress.iter().enumerate() {
            let path = format!("spec.egress[{n}]");
            let peers = peers(&rule.to, &format!("{path}.to"), namespace)?;
            let ports = ports(&rule.ports, &path)?;
            if egress {
                entries.push(entry(Direction::Egress, peers, ports));
            }
        }
        Ok(vec![Rule {
            subject: Subject::Endpoints(Selector::new(subject)),
            tier: Tier::Normal,
            default_deny_ingress: ingress,
            default_deny_egress: egress,
            entries,
            description: String::new(),
            labels: Vec::new(),
            log: String::new(),
        }])
    }

    fn is_about(&self, direction: PolicyType) -> bool {
        self.policy_types.contains(&direction)
    }
}

fn entry(direction: Direction, peers: Peers, ports: Ports) -> RuleEntry {
    RuleEntry {
        direction,
        action: Action::Allow,
        peers,
        ports,
        l7: None,
        auth: Auth::Unsaid,
    }
}

/// A label's key as Kubernetes has it.
fn plain_key(key: &str) -> Result<(String, String), String> {
    if is_label_key(key) {
        return Ok((source::K8S.to_owned(), key.to_owned()));
    }
    Err(format!(
        "{key:?} is no label key; expected name or prefix/name"
    ))
}

pub(super) fn pod_requirements(
    selector: &LabelSelector,
    path: &str,
) -> Result<Vec<Requirement>, FieldError> {
    requirements(selector, path, plain_key)
}

/// Namespaces by their labels, as pods' identities carry them. What has no
/// namespace (a node, the world) is never meant.
pub(super) fn namespace_requirements(
    selector: &LabelSelector,
    path: &str,
) -> Result<Vec<Requirement>, FieldError> {
    let key = |key: &str| {
        let (source, key) = plain_key(key)?;
        Ok((source, format!("{NAMESPACE_LABELS}{key}")))
    };
    let mut list = requirements(selector, path, key)?;
    list.push(Requirement::exists(source::K8S, NAMESPACE));
    Ok(list)
}

fn peers(list: &[NetworkPolicyPeer], path: &str, namespace: &str) -> Result<Peers, FieldError> {
    if list.is_empty() {
        return Ok(Peers::Any);
    }
    let peers = list.iter().enumerate();
    peers
        .map(|(n, peer)| self::peer(peer, &format!("{path}[{n}]"), namespace))
        .collect::<Result<_, _>>()
        .map(Peers::List)
}

fn peer(peer: &NetworkPolicyPeer, path: &str, namespace: &str) -> Result<Peer, FieldError> {
    let pods = |selector| pod_requirements(selector, &format!("{path}.podSelector"));
    let namespaces =
        |selector| namespace_requirements(selector, &format!("{path}.namespaceSelector"));
    let list = match (&peer.pod_selector, &peer.namespace_selector, &peer.ip_block) {
        (None, None, Some(block)) => return ip_block(block, &format!("{path}.ipBlock")),
        (Some(selector), None, None) => {
            let mut list = pods(selector)?;
            list.push(Requirement::equals(source::K8S, NAMESPACE, namespace));
            list
        }
        (None, Some(selector), None) => namespaces(selector)?,
        (Some(selector), Some(ns_selector), None) => {
            let mut list = pods(selector)?;
            list.extend(namespaces(ns_selector)?);
            list
        }
        (None, None, None) => {
            return Err(FieldError::new(
                path,
                "names no peer; expected podSelector, namespaceSelector or ipBlock",
            ));
        }
        (_, _, Some(_)) => {
            return Err(FieldError::new(
                format!("{path}.ipBlock"),
                "stands beside another peer; expected it alone",
            ));
        }
    };
    Ok(Peer::Endpoints(Selector::new(list)))
}

fn ip_block(block: &IpBlock, path: &str) -> Result<Peer, FieldError> {
    let cidr = prefix(&block.cidr, &format!("{path}.cidr"))?;
    let mut except = Vec::new();
    for (n, text) in block.except.iter().enumerate() {
        let path = format!("{path}.except[{n}]");
        let inner = prefix(text, &path)?;
        if !cidr.contains(&inner) || cidr == inner {
            return Err(FieldError::new(
                path,
                format!("{text:?} is no smaller part of {:?}", block.cidr),
            ));
        }
        except.push(inner);
    }
    Ok(Peer::Cidr { cidr, except })
}

fn ports(list: &[NetworkPolicyPort], path: &str) -> Result<Ports, FieldError> {
    if list.is_empty() {
        return Ok(Ports::Any);
    }
    let rules = list.iter().enumerate();
    rules
        .map(|(n, rule)| port(rule, &format!("{path}.ports[{n}]")))
        .collect::<Result<_, _>>()
        .map(Ports::List)
}

fn port(rule: &NetworkPolicyPort, path: &str) -> Result<PortRule, FieldError> {
    let protocol = transport(&rule.protocol, &format!("{path}.protocol"))?;
    let at = |field: &str, message: String| FieldError::new(format!("{path}.{field}"), message);
    let number = |field: &str, value: i64| match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(at(field, format!("{value}; expected 1 to 65535"))),
    };
    let port = match (&rule.port, rule.end_port) {
        (None, None) => PortMatch::Any,
        (Some(IntOrString::Int(first)), last) => {
            let first = number("port", *first)?;
            let last = match last {
                None => first,
                Some(last) => number("endPort", last)?,
            };
            if last < first {
                return Err(at(
                    "endPort",
                    format!("{last}; expected at least the port, {first}"),
                ));
            }
            PortMatch::Range(first, last)
        }
        (Some(IntOrString::String(name)), None) if is_port_name(name) => {
            PortMatch::Named(name.to_ascii_lowercase())
        }
        (Some(IntOrString::String(name)), None) => {
            return Err(at("port", format!("{name:?} is no name of a port")));
        }
        (None | Some(IntOrString::String(_)), Some(last)) => {
            return Err(at(
                "endPort",
                format!("{last} without a port number to start from"),
            ));
        }
    };
    Ok(PortRule { protocol, port })
}
