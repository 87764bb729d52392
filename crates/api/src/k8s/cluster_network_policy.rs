//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).
//!
//! Each of its rules is a rule of the model, so that what decided is told by the
//! rule and not by the policy alone: those of ingress first, in their order.

use axon_abi::Direction;
use axon_model::{
    Action, Auth, Entity, NamePattern, Peer, Peers, PortMatch, PortRule, Ports, Protocol,
    Requirement, Rule, RuleEntry, Selector, Subject, Tier,
};
use serde::{Deserialize, Serialize};

use super::network_policy::{namespace_requirements, pod_requirements};
use super::{LabelSelector, Metadata};
use crate::cilium::not_supported;
use crate::manifest::FieldError;
use crate::select::{is_port_name, prefix};

/// Rules of a direction, peers and protocols of a rule, prefixes of a peer.
const ITEMS_MAX: usize = 25;
/// The greatest priority; the least is 0.
const PRIORITY_MAX: u16 = 1000;
/// Letters of a rule's name, and of a prefix.
const NAME_CHARS_MAX: usize = 100;
const CIDR_CHARS_MAX: usize = 43;

/// A policy of the cluster's administrators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicy {
    /// `policy.networking.k8s.io/v1alpha2`.
    pub api_version: String,
    /// `ClusterNetworkPolicy`.
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub metadata: Metadata,
    /// What it says.
    pub spec: ClusterNetworkPolicySpec,
    /// What is told of it; not used.
    #[serde(default, skip_serializing)]
    pub status: serde_json::Value,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNetworkPolicySpec {
    /// Before or after all other policies.
    pub tier: PolicyTier,
    /// When inside the tier: lower ones first.
    pub priority: i64,
    /// The pods it is about.
    pub subject: PodPeer,
    /// What becomes of what they receive.
    #[serde(default)]
    pub ingress: Vec<ClusterIngressRule>,
    /// What becomes of what they send.
    #[serde(default)]
    pub egress: Vec<ClusterEgressRule>,
}

/// A tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyTier {
    /// Before all other policies.
    Admin,
    /// After all other policies.
    Baseline,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleAction {
    /// What matches may pass.
    Accept,
    /// What matches is dropped.
    Deny,
    /// The next tier decides on what matches.
    Pass,
}

/// Pods, by one of the two ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodPeer {
    /// All pods of these namespaces.
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    pub pods: Option<NamespacedPod>,
}

/// Pods of namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPod {
    /// The namespaces; empty: every one.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// The pods; empty: every one.
    pub pod_selector: LabelSelector,
}

/// What becomes of what pods receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIngressRule {
    /// Free text.
    #[serde(default)]
    pub name: String,
    /// What is done with what matches.
    pub action: RuleAction,
    /// From whom.
    pub from: Vec<PodPeer>,
    /// On which ports; absent: every one.
    pub protocols: Option<Vec<ProtocolField>>,
}

/// What becomes of what pods send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterEgressRule {
    /// Free text.
    #[serde(default)]
    pub name: String,
    /// What is done with what matches.
    pub action: RuleAction,
    /// To whom.
    pub to: Vec<EgressPeer>,
    /// To which ports; absent: every one.
    pub protocols: Option<Vec<ProtocolField>>,
}

/// A far side, by one of these ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EgressPeer {
    /// All pods of these namespaces.
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    pub pods: Option<NamespacedPod>,
    /// These nodes.
    pub nodes: Option<LabelSelector>,
    /// Prefixes.
    pub networks: Option<Vec<String>>,
    /// Names.
    pub domain_names: Option<Vec<String>>,
}

/// A protocol, or a port's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProtocolField {
    /// TCP.
    pub tcp: Option<DestinationPort>,
    /// UDP.
    pub udp: Option<DestinationPort>,
    /// SCTP.
    pub sctp: Option<DestinationPort>,
    /// The port that pods declare under this name.
    pub destination_named_port: Option<String>,
}

/// What is asked of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DestinationPort {
    /// The receiver's port.
    pub destination_port: Option<PortField>,
}

/// A port, or a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortField {
    /// The port.
    pub number: Option<i64>,
    /// From a port to a later one.
    pub range: Option<PortRangeField>,
}

/// From a port to a later one, both included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRangeField {
    /// The first.
    pub start: i64,
    /// The last.
    pub end: i64,
}

impl ClusterNetworkPolicySpec {
    /// The policy as rules of the model.
    ///
    /// # Errors
    /// What Kubernetes would refuse, and what is not enforced yet, by its path.
    pub fn to_model(&self) -> Result<Vec<Rule>, FieldError> {
        let priority = u16::try_from(self.priority)
            .ok()
            .filter(|priority| *priority <= PRIORITY_MAX);
        let Some(priority) = priority else {
            let message = format!("{}; expected 0 to {PRIORITY_MAX}", self.priority);
            return Err(FieldError::new("spec.priority", message));
        };
        let tier = match self.tier {
            PolicyTier::Admin => Tier::Admin(priority),
            PolicyTier::Baseline => Tier::Baseline(priority),
        };
        let subject = Subject::Endpoints(self.subject.selector("spec.subject")?);
        let rule = |name: &str, entry| Rule {
            subject: subject.clone(),
            tier,
            default_deny_ingress: false,
            default_deny_egress: false,
            entries: vec![entry],
            description: name.to_owned(),
            labels: Vec::new(),
            log: String::new(),
        };
        check_items(self.ingress.len(), 0, "spec.ingress")?;
        check_items(self.egress.len(), 0, "spec.egress")?;
        let mut rules = Vec::new();
        for (n, item) in self.ingress.iter().enumerate() {
            rules.push(rule(
                &item.name,
                ingress(item, &format!("spec.ingress[{n}]"))?,
            ));
        }
        for (n, item) in self.egress.iter().enumerate() {
            rules.push(rule(
                &item.name,
                egress(item, &format!("spec.egress[{n}]"))?,
            ));
        }
        Ok(rules)
    }
}

fn ingress(item: &ClusterIngressRule, path: &str) -> Result<RuleEntry, FieldError> {
    check_name(&item.name, path)?;
    check_items(item.from.len(), 1, &format!("{path}.from"))?;
    let peers = item.from.iter().enumerate();
    let peer = |(n, peer): (usize, &PodPeer)| peer.selector(&format!("{path}.from[{n}]"));
    let peers = peers
        .map(peer)
        .map(|selector| selector.map(Peer::Endpoints));
    Ok(RuleEntry {
        direction: Direction::Ingress,
        action: item.action.to_model(),
        peers: Peers::List(peers.collect::<Result<_, _>>()?),
        ports: ports(item.protocols.as_deref(), path)?,
        l7: None,
        auth: Auth::Unsaid,
    })
}

fn egress(item: &ClusterEgressRule, path: &str) -> Result<RuleEntry, FieldError> {
    check_name(&item.name, path)?;
    check_items(item.to.len(), 1, &format!("{path}.to"))?;
    let ports = ports(item.protocols.as_deref(), path)?;
    let protocols = item.protocols.iter().flatten();
    let named = protocols
        .enumerate()
        .find(|(_, p)| p.destination_named_port.is_some());
    let mut peers = Vec::new();
    for (n, peer) in item.to.iter().enumerate() {
        peers.extend(peer.peers(item.action, &format!("{path}.to[{n}]"))?);
        if let (Some((m, _)), false) = (named, peer.is_pods()) {
            return Err(FieldError::new(
                format!("{path}.protocols[{m}].destinationNamedPort"),
                format!("stands beside to[{n}], which declares no ports; expected pods only"),
            ));
        }
    }
    Ok(RuleEntry {
        direction: Direction::Egress,
        action: item.action.to_model(),
        peers: Peers::List(peers),
        ports,
        l7: None,
        auth: Auth::Unsaid,
    })
}

impl RuleAction {
    fn to_model(self) -> Action {
        match self {
            Self::Accept => Action::Allow,
            Self::Deny => Action::Deny,
            Self::Pass => Action::Pass,
        }
    }
}

impl PodPeer {
    fn selector(&self, path: &str) -> Result<Selector, FieldError> {
        exactly_one(
            &[
                ("namespaces", self.namespaces.is_some()),
                ("pods", self.pods.is_some()),
            ],
            path,
        )?;
        pods(self.namespaces.as_ref(), self.pods.as_ref(), path)
    }
}

/// Pods of namespaces, chosen or all.
fn pods(
    namespaces: Option<&LabelSelector>,
    pods: Option<&NamespacedPod>,
    path: &str,
) -> Result<Selector, FieldError> {
    let mut list: Vec<Requirement> = Vec::new();
    if let Some(selector) = namespaces {
        list = namespace_requirements(selector, &format!("{path}.namespaces"))?;
    }
    if let Some(pods) = pods {
        let path = format!("{path}.pods");
        let of = namespace_requirements(
            &pods.namespace_selector,
            &format!("{path}.namespaceSelector"),
        )?;
        list.extend(of);
        list.extend(pod_requirements(
            &pods.pod_selector,
            &format!("{path}.podSelector"),
        )?);
    }
    Ok(Selector::new(list))
}

impl EgressPeer {
    fn is_pods(&self) -> bool {
        self.namespaces.is_some() || self.pods.is_some()
    }

    fn peers(&self, action: RuleAction, path: &str) -> Result<Vec<Peer>, FieldError> {
        exactly_one(
            &[
                ("namespaces", self.namespaces.is_some()),
                ("pods", self.pods.is_some()),
                ("nodes", self.nodes.is_some()),
                ("networks", self.networks.is_some()),
                ("domainNames", self.domain_names.is_some()),
            ],
            path,
        )?;
        if let Some(nodes) = &self.nodes {
            return nodes_peers(nodes, &format!("{path}.nodes"));
        }
        if let Some(networks) = &self.networks {
            return network_peers(networks, &format!("{path}.networks"));
        }
        if let Some(names) = &self.domain_names {
            return name_peers(names, action, &format!("{path}.domainNames"));
        }
        let selector = pods(self.namespaces.as_ref(), self.pods.as_ref(), path)?;
        Ok(vec![Peer::Endpoints(selector)])
    }
}

/// All nodes are told by what they are; some need labels.
fn nodes_peers(nodes: &LabelSelector, path: &str) -> Result<Vec<Peer>, FieldError> {
    pod_requirements(nodes, path)?;
    if *nodes != LabelSelector::default() {
        return Err(not_supported(path));
    }
    Ok([Entity::Host, Entity::RemoteNode].map(Peer::Entity).into())
}

fn network_peers(networks: &[String], path: &str) -> Result<Vec<Peer>, FieldError> {
    check_items(networks.len(), 1, path)?;
    let mut peers = Vec::new();
    for (n, text) in networks.iter().enumerate() {
        let path = format!("{path}[{n}]");
        if text.len() > CIDR_CHARS_MAX {
            let message = format!(
                "has {} letters; expected at most {CIDR_CHARS_MAX}",
                text.len()
            );
            return Err(FieldError::new(path, message));
        }
        if networks.iter().take(n).any(|before| before == text) {
            return Err(FieldError::new(path, format!("{text:?} is there twice")));
        }
        let cidr = prefix(text, &path)?;
        let except = Vec::new();
        peers.push(Peer::Cidr { cidr, except });
    }
    Ok(peers)
}

/// Which addresses will be given for a name is not known before somebody asks:
/// names can be allowed only.
fn name_peers(names: &[String], action: RuleAction, path: &str) -> Result<Vec<Peer>, FieldError> {
    check_items(names.len(), 1, path)?;
    if action != RuleAction::Accept {
        let message = format!("stands in a rule that says {action:?}; expected Accept");
        return Err(FieldError::new(path, message));
    }
    let mut peers = Vec::new();
    for (n, text) in names.iter().enumerate() {
        // Here `*` stands for one label or more, as `**` does in Cilium's patterns.
        let (any, rest) = match text.strip_prefix("*.") {
            Some(rest) => ("**.", rest),
            None => ("", text.as_str()),
        };
        let good = is_domain_name(rest).then(|| NamePattern::new(&format!("{any}{rest}")).ok());
        let Some(pattern) = good.flatten() else {
            return Err(FieldError::new(
                format!("{path}[{n}]"),
                format!("{text:?} is no domain name; expected one as example.com or *.example.com"),
            ));
        };
        peers.push(Peer::Name(pattern));
    }
    Ok(peers)
}

/// Two labels or more, of letters, digits and inner `-` and `_`.
fn is_domain_name(text: &str) -> bool {
    let label = |label: &str| {
        let end = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        end(label.bytes().next())
            && end(label.bytes().next_back())
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    text.contains('.') && text.split('.').all(label)
}

fn ports(protocols: Option<&[ProtocolField]>, path: &str) -> Result<Ports, FieldError> {
    let Some(protocols) = protocols else {
        return Ok(Ports::Any);
    };
    check_items(protocols.len(), 1, &format!("{path}.protocols"))?;
    let rules = protocols.iter().enumerate();
    rules
        .map(|(n, field)| port_rule(field, &format!("{path}.protocols[{n}]")))
        .collect::<Result<_, _>>()
        .map(Ports::List)
}

fn port_rule(field: &ProtocolField, path: &str) -> Result<PortRule, FieldError> {
    exactly_one(
        &[
            ("tcp", field.tcp.is_some()),
            ("udp", field.udp.is_some()),
            ("sctp", field.sctp.is_some()),
            (
                "destinationNamedPort",
                field.destination_named_port.is_some(),
            ),
        ],
        path,
    )?;
    if let Some(name) = &field.destination_named_port {
        if !is_port_name(name) {
            let path = format!("{path}.destinationNamedPort");
            return Err(FieldError::new(
                path,
                format!("{name:?} is no name of a port"),
            ));
        }
        return Ok(PortRule {
            protocol: Protocol::ANY,
            port: PortMatch::Named(name.to_ascii_lowercase()),
        });
    }
    let each = [
        (&field.tcp, "tcp", Protocol::TCP),
        (&field.udp, "udp", Protocol::UDP),
        (&field.sctp, "sctp", Protocol::SCTP),
    ];
    let given = each
        .into_iter()
        .find_map(|(field, name, protocol)| field.as_ref().map(|field| (field, name, protocol)));
    let Some((field, name, protocol)) = given else {
        return Err(FieldError::new(path, "names no protocol"));
    };
    let path = format!("{path}.{name}.destinationPort");
    let Some(port) = &field.destination_port else {
        return Err(FieldError::new(path, "is missing"));
    };
    let port = port_match(port, &path)?;
    Ok(PortRule { protocol, port })
}

fn port_match(port: &PortField, path: &str) -> Result<PortMatch, FieldError> {
    let number = |value: i64, field: &str| match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(FieldError::new(
            format!("{path}.{field}"),
            format!("{value}; expected 1 to 65535"),
        )),
    };
    match (port.number, &port.range) {
        (Some(port), None) => {
            let port = number(port, "number")?;
            Ok(PortMatch::Range(port, port))
        }
        (None, Some(range)) => {
            let first = number(range.start, "range.start")?;
            let last = number(range.end, "range.end")?;
            if last <= first {
                let message = format!("{last}; expected more than the start, {first}");
                return Err(FieldError::new(format!("{path}.range.end"), message));
            }
            Ok(PortMatch::Range(first, last))
        }
        (None, None) => Err(FieldError::new(path, "is empty; expected number or range")),
        (Some(_), Some(_)) => Err(FieldError::new(
            format!("{path}.range"),
            "stands beside number; expected one of them",
        )),
    }
}

fn check_name(name: &str, path: &str) -> Result<(), FieldError> {
    let letters = name.chars().count();
    if letters <= NAME_CHARS_MAX {
        return Ok(());
    }
    let message = format!("has {letters} letters; expected at most {NAME_CHARS_MAX}");
    Err(FieldError::new(format!("{path}.name"), message))
}

fn check_items(count: usize, least: usize, path: &str) -> Result<(), FieldError> {
    if (least..=ITEMS_MAX).contains(&count) {
        return Ok(());
    }
    let message = format!("has {count} items; expected {least} to {ITEMS_MAX}");
    Err(FieldError::new(path, message))
}

fn exactly_one(fields: &[(&str, bool)], path: &str) -> Result<(), FieldError> {
    let mut given = fields
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name);
    match (given.next(), given.next()) {
        (Some(_), None) => Ok(()),
        (None, _) => {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let message = format!("is empty; expected one of {}", names.join(", "));
            Err(FieldError::new(path, message))
        }
        (Some(first), Some(second)) => Err(FieldError::new(
            format!("{path}.{second}"),
            format!("stands beside {first}; expected one of them"),
        )),
    }
}
