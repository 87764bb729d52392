//! Services as they are asked for: where they listen, who is behind them, how
//! one of these is chosen.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ObjectKey, Protocol, Selector};

/// Something that an object's author got wrong: it is left out, the rest of the
/// object is in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// The field, from the object's root.
    pub field: String,
    /// What it is, and what was expected.
    pub reason: String,
}

impl Fault {
    /// A fault of a field.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// An address, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Written {
    /// The field.
    pub field: String,
    /// The address.
    pub addr: IpAddr,
}

/// Of what type a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// An address inside the cluster.
    #[default]
    ClusterIp,
    /// That, and a port of each node.
    NodePort,
    /// That, and addresses from a load balancer.
    LoadBalancer,
    /// A name elsewhere: nothing for us to do.
    ExternalName,
}

/// Which kinds of frontends a service shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// Its cluster addresses.
    pub cluster_ip: bool,
    /// Its node ports.
    pub node_port: bool,
    /// Its load balancer's addresses.
    pub load_balancer: bool,
}

impl Default for Exposed {
    fn default() -> Self {
        Self {
            cluster_ip: true,
            node_port: true,
            load_balancer: true,
        }
    }
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// By chance.
    #[default]
    Random,
    /// By the flow's place in a table that is alike on all nodes.
    Maglev,
}

/// How answers come back to a client outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarding {
    /// By way of the node that took the packet.
    #[default]
    Snat,
    /// From the backend's node.
    Dsr,
}

/// Which endpoints are preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    /// None.
    #[default]
    Even,
    /// Those of the zone.
    Zone,
    /// Those of the node.
    Node,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its place in the list, which names its field.
    pub index: usize,
    /// Its name; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// The pods' port.
    pub target: TargetPort,
    /// The port of each node; 0 for none.
    pub node_port: u16,
}

/// The port of a pod that a service means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// This one.
    Number(u16),
    /// The one that the pod calls so.
    Name(String),
}

/// What a service asks for, beyond its name and who is behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// When it was made, in a form that sorts; empty if not known.
    pub created: String,
    /// Its type.
    pub kind: ServiceKind,
    /// Whether it has no address of its own.
    pub is_headless: bool,
    /// Its addresses inside the cluster.
    pub cluster_ips: Vec<Written>,
    /// Addresses that a load balancer leads to the nodes as they are.
    pub load_balancer_ips: Vec<Written>,
    /// Addresses that somebody else leads to the nodes.
    pub external_ips: Vec<Written>,
    /// Whether it has IPv4.
    pub has_v4: bool,
    /// Whether it has IPv6.
    pub has_v6: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether the network finds backends of the node that it came to alone.
    pub external_local: bool,
    /// Whether pods find backends of their own node alone.
    pub internal_local: bool,
    /// Seconds for which a client finds the same backend; none: it need not.
    pub affinity_timeout_s: Option<u32>,
    /// Whom its load balancer's addresses know.
    pub source_ranges: Vec<IpNet>,
    /// Whether ranges are written, right or wrong.
    pub has_source_ranges: bool,
    /// Whether the ranges name who is kept out.
    pub source_deny: bool,
    /// Where nodes tell how many backends they have; 0 for nowhere.
    pub health_check_node_port: u16,
    /// Whether pods that are not ready count as ready.
    pub publish_not_ready: bool,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// Whether the hints of slices are to be followed.
    pub follows_hints: bool,
    /// How a backend is chosen, where the service may say so.
    pub algorithm: Option<Algorithm>,
    /// How answers come back, where the service may say so.
    pub forwarding: Option<Forwarding>,
    /// Which frontends it shall have.
    pub exposed: Exposed,
    /// On which nodes it is exposed; none: on all.
    pub nodes: Option<Selector>,
    /// Whose affair it is; empty: ours.
    pub proxy_name: String,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// Its addresses, of the slice's family.
    pub addresses: Vec<Written>,
    /// Whether it may be sent to.
    pub is_ready: bool,
    /// Whether it answers, ending or not.
    pub is_serving: bool,
    /// Whether it is ending.
    pub is_terminating: bool,
    /// Its node; empty if not known.
    pub node: String,
    /// Zones that it is meant for.
    pub for_zones: Vec<String>,
    /// Nodes that it is meant for.
    pub for_nodes: Vec<String>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// A CiliumLocalRedirectPolicy: what is asked of an address or a service, pods
/// of the same node answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRedirect {
    /// Its namespace, in which its pods are.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was made, in a form that sorts; empty if not known.
    pub created: String,
    /// What is redirected.
    pub frontend: RedirectFrontend,
    /// The pods that answer.
    pub selector: Selector,
    /// Their ports.
    pub ports: Vec<RedirectPort>,
    /// Whether these pods themselves are not redirected.
    pub skips_own: bool,
}

/// What is redirected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedirectFrontend {
    /// An address with these ports.
    Address(IpAddr, Vec<RedirectPort>),
    /// The cluster addresses of a service; these of its ports, or all if there
    /// is none.
    Service(ObjectKey, Vec<RedirectPort>),
}

/// A port of a redirection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}
