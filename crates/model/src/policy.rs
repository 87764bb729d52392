//! Policy rules, whatever format they were written in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axon_abi::{Direction, PolicyEntryFlags};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{GroupRef, L7, NamePattern, Selector};

/// Kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `cilium.io` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Which object a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The object's kind.
    pub kind: PolicyKind,
    /// Its namespace; empty for a clusterwide one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Origin {
    /// `namespace/name`, or the name alone for a clusterwide policy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One policy object with its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyObject {
    /// Which object it is.
    pub origin: Origin,
    /// Its unique id; empty if not known.
    pub uid: String,
    /// It is evaluated and reported, and not enforced.
    #[serde(default)]
    pub staged: bool,
    /// Its rules (`specs` of a CiliumNetworkPolicy may be several).
    pub rules: Vec<Rule>,
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// Endpoints with these labels (namespace included).
    Endpoints(Selector),
    /// Nodes with these labels (host firewall).
    Nodes(Selector),
}

/// When a rule is asked: tiers in this order, and inside Admin and Baseline
/// lower priorities first. The number is the priority.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Tier {
    /// Before all others. The first entry that matches decides.
    Admin(u16),
    /// Cilium's policies and NetworkPolicy. Their order does not matter: a deny
    /// is above every allow, and where one of them has a default deny the tier
    /// decides on everything.
    #[default]
    Normal,
    /// What no tier above has decided. The first entry that matches decides.
    Baseline(u16),
}

/// One rule: whom it selects and what it says of their traffic.
///
/// Of several rules of one tier and priority, in Admin and Baseline, that of the
/// policy whose name comes first is asked first, then the first of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Whom the rule is about.
    pub subject: Subject,
    /// When it is asked.
    #[serde(default)]
    pub tier: Tier,
    /// Ingress that no rule allows is denied to the subject. Only a rule of the
    /// Normal tier says so.
    pub default_deny_ingress: bool,
    /// The same of egress.
    pub default_deny_egress: bool,
    /// What is allowed and denied.
    pub entries: Vec<RuleEntry>,
    /// Free text of the author.
    pub description: String,
    /// Labels of the rule itself (`source:key=value`); they decide nothing.
    #[serde(default)]
    pub labels: Vec<String>,
    /// What is told with each verdict of the rule; empty is nothing.
    #[serde(default)]
    pub log: String,
}

/// What is done with what an entry matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// What matches may pass: in the Normal tier unless something of the tier
    /// denies it.
    Allow,
    /// What matches is dropped.
    Deny,
    /// The next tier is asked, whatever the rest of this one says. The Normal
    /// tier has no such entry: there it says nothing.
    Pass,
}

/// Whether the far side must have proved who it is (mutual authentication), in
/// the words of Cilium's `authentication.mode`. Of several that are said of the
/// same, the last in this order counts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// That is not said: what broader entries say holds.
    #[default]
    Unsaid,
    /// It need not.
    Disabled,
    /// It must.
    Required,
    /// No proof is good enough.
    #[serde(rename = "test-always-fail")]
    AlwaysFail,
}

impl Auth {
    /// The mode of these words.
    pub fn of_mode(mode: &str) -> Option<Self> {
        let modes = [Self::Disabled, Self::Required, Self::AlwaysFail];
        modes.into_iter().find(|known| known.mode() == mode)
    }

    /// The words of the mode; none where none is said.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Unsaid => "",
            Self::Disabled => "disabled",
            Self::Required => "required",
            Self::AlwaysFail => "test-always-fail",
        }
    }

    /// Whether anything must be proved.
    pub fn demands(self) -> bool {
        matches!(self, Self::Required | Self::AlwaysFail)
    }

    /// What is demanded by an entry of the kernel with these
    /// [`axon_abi::PolicyEntryFlags`].
    pub fn of_flags(flags: u16) -> Self {
        if flags & PolicyEntryFlags::AUTH == 0 {
            Self::Unsaid
        } else if flags & PolicyEntryFlags::AUTH_FAIL == 0 {
            Self::Required
        } else {
            Self::AlwaysFail
        }
    }
}

/// One entry of a rule: peers and ports, both must match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleEntry {
    /// Seen from the subject.
    #[serde(with = "direction_name")]
    pub direction: Direction,
    /// What is done with what matches.
    pub action: Action,
    /// The far side.
    pub peers: Peers,
    /// Protocols and ports of the receiving side.
    pub ports: Ports,
    /// What must be said there; `None`: anything. A denying entry has none.
    #[serde(default)]
    pub l7: Option<Arc<L7>>,
    /// What the far side must have proved. Only an allowing entry of the Normal
    /// tier says so.
    #[serde(default)]
    pub auth: Auth,
}

/// The far side of an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peers {
    /// Whoever it is.
    Any,
    /// Any of these; an empty list matches nobody.
    List(Vec<Peer>),
}

/// One kind of far side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Endpoints whose identity has these labels.
    Endpoints(Selector),
    /// A part of the world with a name.
    Entity(Entity),
    /// Addresses outside the cluster.
    Cidr {
        /// The addresses.
        cidr: IpNet,
        /// Those of them that are not meant.
        except: Vec<IpNet>,
    },
    /// Other nodes with these labels.
    Nodes(Selector),
    /// Addresses outside the cluster that name servers have given for names like
    /// this one.
    Name(NamePattern),
    /// Members of groups; a group that does not exist has none.
    Group {
        /// The groups.
        of: GroupRef,
        /// Addresses of them that are not meant.
        except: Vec<IpNet>,
    },
}

/// The parts of the world that policy can name, in Cilium's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    /// Everyone.
    All,
    /// Outside the cluster.
    World,
    /// Outside the cluster, IPv4.
    #[serde(rename = "world-ipv4")]
    WorldIpv4,
    /// Outside the cluster, IPv6.
    #[serde(rename = "world-ipv6")]
    WorldIpv6,
    /// Everything inside the cluster: endpoints, nodes, unmanaged, health, init.
    Cluster,
    /// The node itself.
    Host,
    /// Other nodes.
    RemoteNode,
    /// The API server.
    KubeApiserver,
    /// Endpoints whose labels are not known yet.
    Init,
    /// Health endpoints.
    Health,
    /// Cluster addresses that nobody answers for.
    Unmanaged,
    /// The ingress proxy.
    Ingress,
    /// Nobody.
    None,
}

/// A text that names no entity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown entity {text:?}; expected one of all, world, world-ipv4, world-ipv6, cluster, host, \
     remote-node, kube-apiserver, init, health, unmanaged, ingress, none"
)]
pub struct EntityError {
    text: String,
}

impl FromStr for Entity {
    type Err = EntityError;

    fn from_str(text: &str) -> Result<Self, EntityError> {
        Ok(match text {
            "all" => Self::All,
            "world" => Self::World,
            "world-ipv4" => Self::WorldIpv4,
            "world-ipv6" => Self::WorldIpv6,
            "cluster" => Self::Cluster,
            "host" => Self::Host,
            "remote-node" => Self::RemoteNode,
            "kube-apiserver" => Self::KubeApiserver,
            "init" => Self::Init,
            "health" => Self::Health,
            "unmanaged" => Self::Unmanaged,
            "ingress" => Self::Ingress,
            "none" => Self::None,
            _ => {
                return Err(EntityError {
                    text: text.to_owned(),
                });
            }
        })
    }
}

/// The protocols and ports of an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ports {
    /// Every protocol and port.
    Any,
    /// Any of these; an empty list matches nothing.
    List(Vec<PortRule>),
}

/// An IP protocol number; 0 stands for any.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Protocol(pub u8);

impl Protocol {
    /// Any protocol.
    pub const ANY: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// VRRP.
    pub const VRRP: Self = Self(112);
    /// IGMP.
    pub const IGMP: Self = Self(2);

    /// The protocols that have ports.
    pub const WITH_PORTS: [Self; 3] = [Self::TCP, Self::UDP, Self::SCTP];

    const NAMES: [(&'static str, Self); 13] = [
        ("ANY", Self::ANY),
        ("ICMP", Self::ICMP),
        ("TCP", Self::TCP),
        ("UDP", Self::UDP),
        ("ICMPv6", Self::ICMPV6),
        ("SCTP", Self::SCTP),
        ("VRRP", Self::VRRP),
        ("IGMP", Self::IGMP),
        ("IPIP", Self(4)),
        ("IPV6", Self(41)),
        ("GRE", Self(47)),
        ("ESP", Self(50)),
        ("AH", Self(51)),
    ];

    /// The protocol of a name, in whichever case.
    pub fn named(text: &str) -> Option<Self> {
        let mut names = Self::NAMES.iter();
        let known = names.find(|(name, _)| name.eq_ignore_ascii_case(text));
        known.map(|(_, protocol)| *protocol)
    }

    /// Names of protocols, in which a list of expected ones is written.
    pub fn names(meant: impl Fn(Self) -> bool) -> String {
        let names = Self::NAMES.iter().filter(|(_, protocol)| meant(*protocol));
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// Whether it has neither ports nor the types of ICMP
    /// (`enable-extended-ip-protocols`).
    pub fn is_extended(self) -> bool {
        !Self::WITH_PORTS.contains(&self) && ![Self::ANY, Self::ICMP, Self::ICMPV6].contains(&self)
    }
}

/// A text that names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol {text:?}; expected one of {}", Protocol::names(|_| true))]
pub struct ProtocolError {
    text: String,
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match (Self::named(text), text.parse()) {
            (Some(protocol), _) => Ok(protocol),
            (None, Ok(number)) => Ok(Self(number)),
            (None, Err(_)) => Err(ProtocolError {
                text: text.to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for Protocol {
    type Error = ProtocolError;

    fn try_from(text: String) -> Result<Self, ProtocolError> {
        text.parse()
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.to_string()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A protocol and what is asked of its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRule {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: PortMatch,
}

/// What is asked of a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortMatch {
    /// Any port.
    Any,
    /// From the first to the last, both included; ICMP: the type, twice.
    Range(u16, u16),
    /// The port that the receiving pod declares under this name.
    Named(String),
}

mod direction_name {
    use axon_abi::Direction;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(d: &Direction, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(match d {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
            Direction::Unknown => "unknown",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Direction, D::Error> {
        match String::deserialize(d)?.as_str() {
            "ingress" => Ok(Direction::Ingress),
            "egress" => Ok(Direction::Egress),
            other => Err(serde::de::Error::custom(format!(
                "unknown direction {other:?}; expected ingress or egress"
            ))),
        }
    }
}
