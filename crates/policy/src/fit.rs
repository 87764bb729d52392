//! How near an entry of a rule comes to a connection, and in words what is
//! lacking: for people who ask why.

use axon_abi::{Identity, Scope};
use axon_model::keys::{NAMESPACE, NAMESPACE_LABELS};
use axon_model::{
    Action, Entity, Labels, Operator, Peer, Peers, PortMatch, PortRule, Ports, Requirement,
    RuleEntry, Selector, source,
};

use crate::IdentityInfo;
use crate::l7::{Connection, has_port};
use crate::ports::{PortTerm, terms};
use crate::select::peer_selects;
use crate::selectors::peer_text;

/// What an entry and a connection have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// What the far side lacks to be meant, each in words after "the sender";
    /// nothing if it is meant.
    pub lacks: Vec<String>,
    /// The far side is of another kind than whoever is meant: a workload where
    /// addresses are, or the other way round. No label would mend that.
    pub other_kind: bool,
    /// The entry is about the connection's protocol.
    pub protocol: bool,
    /// The entry is about the connection's protocol and port.
    pub port: bool,
}

impl Fit {
    /// Whether the entry is about the connection.
    pub fn is_whole(&self) -> bool {
        self.lacks.is_empty() && self.port
    }

    /// How far the entry is from being about the connection; 0 if it is.
    pub fn distance(&self) -> usize {
        let port = match (self.protocol, self.port) {
            (_, true) => 0,
            (true, false) => 2,
            (false, false) => 3,
        };
        // Another sender is farther away than another port of the same.
        port + 2 * (self.lacks.len() + usize::from(self.other_kind))
    }
}

/// Compares an entry with a connection; its direction is not looked at.
pub fn fit(entry: &RuleEntry, connection: &Connection<'_>) -> Fit {
    let (id, info) = connection.remote;
    let (other_kind, lacks) = match &entry.peers {
        Peers::Any => (false, Vec::new()),
        Peers::List(peers) if peers.is_empty() => {
            (false, vec!["is nobody: the list is empty".to_owned()])
        }
        Peers::List(peers) => {
            let each = peers.iter().map(|peer| {
                let lacks = lacks(peer, entry.action, id, info);
                (!lacks.is_empty() && is_of_other_kind(peer, id, info), lacks)
            });
            let weight = |(other, lacks): &(bool, Vec<String>)| lacks.len() + usize::from(*other);
            each.min_by_key(weight).unwrap_or_default()
        }
    };
    let of_protocol = |term: &PortTerm| match term {
        PortTerm::Prefixes(l4) => l4
            .iter()
            .any(|l4| l4.protocol == 0 || l4.protocol == connection.protocol),
        PortTerm::Named(_, of) => of.0 == connection.protocol,
    };
    let terms = terms(&entry.ports);
    Fit {
        lacks,
        other_kind,
        protocol: terms.iter().any(of_protocol),
        port: terms.iter().any(|term| has_port(connection, term)),
    }
}

/// Whether a peer means workloads and the identity is none, or addresses outside
/// and it is one.
fn is_of_other_kind(peer: &Peer, id: Identity, info: &IdentityInfo) -> bool {
    match peer {
        Peer::Endpoints(_) => info.prefix.is_some(),
        Peer::Cidr { .. } | Peer::Name(_) => id.scope() == Scope::Cluster,
        Peer::Entity(_) | Peer::Nodes(_) | Peer::Group { .. } => false,
    }
}

/// What an identity lacks to be meant by a peer.
fn lacks(peer: &Peer, action: Action, id: Identity, info: &IdentityInfo) -> Vec<String> {
    if peer_selects(peer, action, id, info) {
        return Vec::new();
    }
    match peer {
        Peer::Endpoints(selector) => {
            let unmet = unmet(selector, &info.labels);
            if unmet.is_empty() {
                vec!["is no workload".to_owned()]
            } else {
                unmet
            }
        }
        Peer::Entity(Entity::None) => vec!["is nobody".to_owned()],
        Peer::Cidr { cidr, except } if info.is_within(cidr) => {
            let hole = except.iter().find(|hole| info.is_in_hole(&[**hole]));
            let hole = hole.map(ToString::to_string).unwrap_or_default();
            vec![format!("is in {hole}, which is excepted from {cidr}")]
        }
        Peer::Cidr { .. } | Peer::Group { .. } if id.scope() == Scope::Cluster => {
            vec![format!("is a workload, and not in {}", peer_words(peer))]
        }
        other => vec![format!("is not in {}", peer_words(other))],
    }
}

/// The requirements of a selector that labels do not meet.
fn unmet(selector: &Selector, labels: &Labels) -> Vec<String> {
    let alone = |requirement: &Requirement| Selector::new(vec![requirement.clone()]);
    let requirements = selector.requirements().iter();
    requirements
        .filter(|requirement| !alone(requirement).matches(labels))
        .map(|requirement| {
            let has: Vec<&str> = labels
                .iter()
                .filter(|(s, k, _)| {
                    *k == requirement.key
                        && (requirement.source == source::ANY || *s == requirement.source)
                })
                .map(|(_, _, value)| value)
                .collect();
            let key = key_words(&requirement.source, &requirement.key);
            let wanted = requirement_words(requirement);
            match (&requirement.operator, has.first()) {
                (Operator::In(_) | Operator::Exists, None) => format!("lacks {wanted}"),
                (Operator::In(_) | Operator::Exists, Some(value)) => {
                    format!("lacks {wanted} (it has {key}={value})")
                }
                (Operator::NotIn(_) | Operator::DoesNotExist, value) => {
                    format!("has {key}={}", value.copied().unwrap_or(""))
                }
            }
        })
        .collect()
}

/// A label's key without what goes without saying.
fn key_words(of: &str, key: &str) -> String {
    let key = match key.strip_prefix(NAMESPACE_LABELS) {
        Some(label) => return format!("namespace label {label}"),
        None if key == NAMESPACE => "namespace",
        None => key,
    };
    match of {
        source::ANY | source::K8S => key.to_owned(),
        of => format!("{of}:{key}"),
    }
}

fn requirement_words(requirement: &Requirement) -> String {
    let key = key_words(&requirement.source, &requirement.key);
    let list = |values: &std::collections::BTreeSet<String>| {
        values
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
        Operator::In(values) => format!("{key} in ({})", list(values)),
        Operator::NotIn(values) => format!("{key} not in ({})", list(values)),
        Operator::Exists => key,
        Operator::DoesNotExist => format!("no {key}"),
    }
}

fn peer_words(peer: &Peer) -> String {
    match peer {
        Peer::Endpoints(selector) if selector.is_wildcard() => "every workload".to_owned(),
        Peer::Endpoints(selector) => {
            let words: Vec<String> = selector
                .requirements()
                .iter()
                .map(requirement_words)
                .collect();
            words.join(", ")
        }
        other => peer_text(other),
    }
}

/// The far side of an entry, in words.
pub fn peers_words(peers: &Peers) -> String {
    match peers {
        Peers::Any => "everyone".to_owned(),
        Peers::List(list) if list.is_empty() => "nobody".to_owned(),
        Peers::List(list) => {
            let words: Vec<String> = list.iter().map(peer_words).collect();
            words.join("; ")
        }
    }
}

/// The protocols and ports of an entry, in words.
pub fn ports_words(ports: &Ports) -> String {
    let rule = |rule: &PortRule| match &rule.port {
        PortMatch::Any => format!("any port of {}", rule.protocol),
        PortMatch::Range(first, last) if first == last => format!("{first}/{}", rule.protocol),
        PortMatch::Range(first, last) => format!("{first}-{last}/{}", rule.protocol),
        PortMatch::Named(name) => format!("{name}/{}", rule.protocol),
    };
    match ports {
        Ports::Any => "every port".to_owned(),
        Ports::List(list) if list.is_empty() => "no port".to_owned(),
        Ports::List(list) => {
            let words: Vec<String> = list.iter().map(rule).collect();
            words.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::{Direction, Identity};
    use axon_model::{
        Action, Auth, Entity, Label, Peer, Peers, PortMatch, PortRule, Ports, Protocol,
        Requirement, RuleEntry, Selector,
    };

    use super::{fit, peers_words, ports_words};
    use crate::{Connection, IdentityInfo, PolicyConfig, cidr_labels};

    fn entry(peers: Vec<Peer>, ports: Ports) -> RuleEntry {
        RuleEntry {
            direction: Direction::Ingress,
            action: Action::Allow,
            peers: Peers::List(peers),
            ports,
            l7: None,
            auth: Auth::Unsaid,
        }
    }

    fn port(protocol: Protocol, port: u16) -> Ports {
        let port = PortMatch::Range(port, port);
        Ports::List(vec![PortRule { protocol, port }])
    }

    fn labelled(texts: &[&str]) -> IdentityInfo {
        let labels = texts.iter().map(|t| t.parse::<Label>().expect("label"));
        IdentityInfo::labelled(labels.collect())
    }

    #[test]
    fn what_is_lacking_is_said_and_weighed() {
        let empire = Selector::new(vec![Requirement::equals("any", "org", "empire")]);
        let cidr = |cidr: &str, except: &[&str]| Peer::Cidr {
            cidr: cidr.parse().expect("prefix"),
            except: except.iter().map(|e| e.parse().expect("prefix")).collect(),
        };
        let rebel = (
            Identity(300),
            labelled(&["k8s:org=alliance", "k8s:class=x"]),
        );
        let config = PolicyConfig::default();
        let prefix = "198.51.100.0/24".parse().expect("prefix");
        let outside = IdentityInfo {
            labels: cidr_labels(&config, prefix),
            prefix: Some(prefix),
            ..IdentityInfo::default()
        };
        let outside = (Identity(0x0100_0001), outside);
        let tcp = Protocol::TCP;
        let org = || Peer::Endpoints(empire.clone());
        for (name, (id, info), entry, lacks, distance) in [
            (
                "another label",
                &rebel,
                entry(vec![org()], port(tcp, 80)),
                "lacks org=empire (it has org=alliance)",
                2,
            ),
            (
                "another port",
                &rebel,
                entry(vec![Peer::Entity(Entity::All)], port(tcp, 443)),
                "",
                2,
            ),
            (
                "another protocol",
                &rebel,
                entry(vec![Peer::Entity(Entity::Cluster)], port(Protocol::UDP, 80)),
                "",
                3,
            ),
            (
                "the nearest of several",
                &rebel,
                entry(
                    vec![cidr("10.0.0.0/8", &[]), Peer::Entity(Entity::All)],
                    port(tcp, 80),
                ),
                "",
                0,
            ),
            (
                "a prefix",
                &rebel,
                entry(vec![cidr("10.0.0.0/8", &[])], Ports::Any),
                "is a workload, and not in cidr 10.0.0.0/8",
                4,
            ),
            (
                "a hole",
                &outside,
                entry(
                    vec![cidr("198.51.0.0/16", &["198.51.100.0/24"])],
                    Ports::Any,
                ),
                "is in 198.51.100.0/24, which is excepted from 198.51.0.0/16",
                2,
            ),
            (
                "no workload",
                &outside,
                entry(vec![Peer::Endpoints(Selector::default())], Ports::Any),
                "is no workload",
                4,
            ),
            (
                "nobody",
                &rebel,
                entry(vec![], Ports::Any),
                "is nobody: the list is empty",
                2,
            ),
        ] {
            let connection = Connection {
                direction: Direction::Ingress,
                remote: (*id, info),
                server_name: None,
                receiver: &IdentityInfo::default(),
                protocol: 6,
                port: 80,
            };
            let fit = fit(&entry, &connection);
            assert_eq!(fit.lacks.join("; "), lacks, "{name}");
            assert_eq!(fit.distance(), distance, "{name}");
            assert_eq!(fit.is_whole(), distance == 0, "{name}");
        }
    }

    #[test]
    fn entries_in_words() {
        let selector = Selector::new(vec![
            Requirement::equals("k8s", "io.kubernetes.pod.namespace", "shop"),
            Requirement::equals("any", "app", "web"),
        ]);
        let peers = Peers::List(vec![Peer::Endpoints(selector), Peer::Entity(Entity::World)]);
        assert_eq!(peers_words(&peers), "app=web, namespace=shop; entity world");
        assert_eq!(ports_words(&port(Protocol::TCP, 80)), "80/TCP");
        assert_eq!(ports_words(&Ports::Any), "every port");
    }
}
