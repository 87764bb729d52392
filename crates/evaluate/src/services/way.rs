//! One connection: who takes it, and all that may become of it there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::{AffinityEntry, Be16, ServiceClient};
use axon_datapath::{
    Answer, Ask, Asker, Choice, Frontend, Why, frontend, keeps_client, select, still_valid,
};
use axon_model::Protocol;

use super::question::{Probe, Source};
use super::state::{State, declares};
use super::tables::NodeTables;
use crate::Problem;

/// Ports that clients are given (Linux's own range): all are tried where the
/// port decides.
const CLIENT_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Somebody answers.
    Answer {
        /// Who: `namespace/pod:port`, `outside/host:port`.
        who: String,
        /// Whether he sees the client's own address, and not a node's.
        keeps_client: bool,
    },
    /// The node tells how many backends of a service it has.
    Health(usize),
    /// It is refused at once.
    Refused,
    /// Nobody says anything.
    Dropped,
    /// Nobody has the address; whether that is said is the network's affair.
    Nobody,
}

impl Outcome {
    /// Who answers.
    pub(super) fn who(&self) -> Option<&str> {
        match self {
            Self::Answer { who, .. } => Some(who),
            Self::Health(_) | Self::Refused | Self::Dropped | Self::Nobody => None,
        }
    }
}

/// Who takes a connection.
pub(super) enum Arrival {
    /// A frontend of this node.
    Frontend(Taker),
    /// No frontend on the way: what becomes of it.
    Straight(Outcome),
}

/// A frontend of a node, and how it is asked.
#[derive(Clone)]
pub(super) struct Taker {
    pub(super) node: String,
    ask: Ask,
    frontend: Frontend,
}

/// A client's past at a frontend: the row that affinity has of him.
pub(super) type Past = Option<(ServiceClient, AffinityEntry)>;

/// What may become of a connection.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) outcome: Outcome,
    /// The backend that was chosen.
    pub(super) choice: Option<Choice>,
    /// What affinity remembers of it.
    pub(super) after: Past,
    /// How many of all throws of the dice lead here, and one that does.
    pub(super) throws: u64,
    throw: Throw,
}

/// A connection that is left open.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Open {
    /// Where it leads to.
    at: (IpAddr, u16, Protocol),
    who: String,
    /// Whether he sees the client's own address.
    keeps_client: bool,
    /// The choice that led there, and the node that made it.
    by: Option<(String, Choice)>,
}

impl Open {
    /// What was left open, if anybody answered.
    pub(super) fn new(
        probe: &Probe,
        outcome: &Outcome,
        by: Option<(&Taker, Choice)>,
    ) -> Option<Self> {
        let protocol = probe.protocol().ok()?;
        let at = by
            .as_ref()
            .map_or((probe.to.address, probe.to.port), |(_, choice)| {
                (choice.backend.addr.into(), choice.backend.port.get())
            });
        let Outcome::Answer { who, keeps_client } = outcome.clone() else {
            return None;
        };
        Some(Self {
            at: (at.0, at.1, protocol),
            who,
            keeps_client,
            by: by.map(|(taker, choice)| (taker.node.clone(), choice)),
        })
    }

    /// What comes of it while it goes on.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Answer {
            who: self.who.clone(),
            keeps_client: self.keeps_client,
        }
    }
}

/// Where chance and the client's port fall.
#[derive(Clone, Copy)]
struct Throw {
    random: u32,
    port: u16,
}

/// Who connects, and where he stands.
struct Client<'a> {
    node: Option<&'a str>,
    asker: Asker,
    source: IpAddr,
}

impl State<'_> {
    /// Who takes a connection: the client's own node, the node to whose address it
    /// goes, or nobody on the way.
    ///
    /// # Errors
    /// A client or a node that is not there.
    pub(super) fn arrive(&self, probe: &Probe) -> Result<Arrival, Problem> {
        let protocol = probe.protocol()?;
        let Some(client) = self.client(probe)? else {
            // It has no address of this family.
            return Ok(Arrival::Straight(Outcome::Nobody));
        };
        let ask = Ask {
            asker: client.asker,
            addr: probe.to.address.into(),
            port: Be16::new(probe.to.port),
            protocol: protocol.0,
            client: client.source.into(),
            source: client.source.into(),
            source_port: Be16::default(),
        };
        let here = client.node.and_then(|node| self.taker(node, ask));
        // What its own node leaves alone comes to the other from the network.
        let there = || {
            let node = self.node_at(probe.to.address)?;
            let ask = Ask {
                asker: Asker::Network,
                ..ask
            };
            (Some(node) != client.node).then(|| self.taker(node, ask))?
        };
        Ok(match here.or_else(there) {
            Some(taker) => Arrival::Frontend(taker),
            None => Arrival::Straight(self.straight(&client, probe, protocol)),
        })
    }

    fn client<'p>(&'p self, probe: &'p Probe) -> Result<Option<Client<'p>>, Problem> {
        let v6 = probe.to.address.is_ipv6();
        let of_family = |ips: &[IpAddr]| ips.iter().copied().find(|ip| ip.is_ipv6() == v6);
        let absent = |what: &str, name: &str| {
            Problem::new(format!("from.{what}"), format!("there is no {name:?}"))
        };
        let (node, asker, source) = match &probe.from {
            Source::Pod(name) => {
                let mut pods = self.cluster.pods.iter();
                let (_, pod) = pods
                    .find(|(key, _)| key.to_string() == *name)
                    .ok_or_else(|| absent("pod", name))?;
                let asker = match pod.host_network {
                    true => Asker::Node,
                    false => Asker::Pod,
                };
                (Some(pod.node.as_str()), asker, of_family(&pod.ips))
            }
            Source::Node(name) => {
                let node = self.cluster.nodes.get(name);
                let node = node.ok_or_else(|| absent("node", name))?;
                (Some(name.as_str()), Asker::Node, node.internal_ip(v6))
            }
            Source::Outside(name) => {
                let host = self.outside.get(name);
                let host = host.ok_or_else(|| absent("outside", name))?;
                let via = probe.to.via.as_deref();
                let node = via.or_else(|| self.node_at(probe.to.address));
                (node, Asker::Network, of_family(host))
            }
        };
        Ok(source.map(|source| Client {
            node,
            asker,
            source,
        }))
    }

    fn taker(&self, node: &str, ask: Ask) -> Option<Taker> {
        let frontend = frontend(&self.tables(node, 0, None)?, &ask)?;
        Some(Taker {
            node: node.to_owned(),
            ask,
            frontend,
        })
    }

    fn tables(&self, node: &str, random: u32, past: Past) -> Option<NodeTables<'_>> {
        Some(NodeTables {
            rows: self.rows.get(node)?,
            nodes: &self.nodes,
            random,
            now_s: self.now_s,
            affinity: RefCell::new(past.into_iter().collect()),
        })
    }

    /// What becomes of a connection that no service takes.
    fn straight(&self, client: &Client<'_>, probe: &Probe, protocol: Protocol) -> Outcome {
        let (addr, port) = (probe.to.address, probe.to.port);
        let is_home = client.asker == Asker::Node && addr.is_loopback();
        let node = if is_home {
            client.node
        } else {
            self.node_at(addr)
        };
        if let Some(node) = node {
            return self.at_node(client, node, (addr, port, protocol));
        }
        // A host outside has a way to what is in the cluster by a node alone.
        if let Some(pod) = self.pod_at(addr, port, protocol)
            && client.node.is_some()
        {
            return Outcome::Answer {
                who: format!("{}/{}:{port}", pod.namespace, pod.name),
                keeps_client: client.asker != Asker::Node,
            };
        }
        match self.outside_at(addr) {
            // What leaves the cluster has the node's address.
            Some(host) => Outcome::Answer {
                who: format!("outside/{host}:{port}"),
                keeps_client: client.asker == Asker::Network,
            },
            None => Outcome::Nobody,
        }
    }

    /// What becomes of a connection to a node itself.
    fn at_node(
        &self,
        client: &Client<'_>,
        node: &str,
        (addr, port, protocol): (IpAddr, u16, Protocol),
    ) -> Outcome {
        let rows = self.rows.get(node);
        let health = rows.and_then(|rows| rows.health.get(&port));
        if let Some(check) = health.filter(|_| protocol == Protocol::TCP) {
            return Outcome::Health(check.here);
        }
        let pod = self.pod_at(addr, port, protocol);
        let pod = pod.filter(|pod| declares(pod, port, protocol));
        let who = match pod {
            Some(pod) => format!("{}/{}:{port}", pod.namespace, pod.name),
            None if self.listens(node, port, protocol) => format!("node/{node}:{port}"),
            None => return Outcome::Refused,
        };
        Outcome::Answer {
            who,
            keeps_client: client.asker != Asker::Node,
        }
    }

    /// All that may become of a new connection of a client without a past, each
    /// once: `port` is the client's, if it is known.
    pub(super) fn ways(&self, taker: &Taker, port: Option<u16>) -> Vec<Way> {
        let list = &taker.frontend.list;
        let by_port = list.maglev != 0 && taker.ask.asker == Asker::Network;
        let throws: Vec<Throw> = match port {
            Some(port) if by_port => vec![Throw { random: 0, port }],
            _ if by_port => CLIENT_PORTS.map(|port| Throw { random: 0, port }).collect(),
            _ => {
                let slots = 0..list.slots.max(1);
                slots.map(|random| Throw { random, port: 0 }).collect()
            }
        };
        let mut ways: BTreeMap<Option<u32>, Way> = BTreeMap::new();
        for throw in throws {
            let way = self.connect(taker, throw, None);
            let id = way.choice.map(|choice| choice.id);
            ways.entry(id).or_insert(Way { throws: 0, ..way }).throws += 1;
        }
        ways.into_values().collect()
    }

    /// What may become of a new connection of a client with this past, of all that
    /// may become of others.
    pub(super) fn again(&self, taker: &Taker, ways: &[Way], past: Past) -> Vec<Way> {
        let mut found = Vec::new();
        for way in ways {
            let again = self.connect(taker, way.throw, past);
            let is_bound = again
                .choice
                .is_some_and(|choice| choice.by == Why::Affinity);
            found.push(again);
            if is_bound {
                // Wherever the dice fall.
                break;
            }
        }
        found
    }

    fn connect(&self, taker: &Taker, throw: Throw, past: Past) -> Way {
        let ask = Ask {
            source_port: Be16::new(throw.port),
            ..taker.ask
        };
        let mut way = Way {
            outcome: Outcome::Nobody,
            choice: None,
            after: None,
            throws: 1,
            throw,
        };
        let Some(tables) = self.tables(&taker.node, throw.random, past) else {
            return way;
        };
        way.outcome = match select(&tables, &ask) {
            Ok(Answer::Elsewhere) => Outcome::Nobody,
            Ok(Answer::Closed | Answer::Refused) => Outcome::Refused,
            Err(_) => Outcome::Dropped,
            Ok(Answer::Backend(choice)) => {
                way.choice = Some(choice);
                self.behind(taker, &choice)
            }
        };
        way.after = tables.affinity.into_inner().into_iter().next();
        way
    }

    /// What the backend says that was chosen.
    fn behind(&self, taker: &Taker, choice: &Choice) -> Outcome {
        let (addr, port) = (IpAddr::from(choice.backend.addr), choice.backend.port.get());
        let protocol = Protocol(choice.backend.protocol);
        let (who, is_inside) = match self.who(addr, port, protocol) {
            Some(who) => who,
            None if self.node_at(addr).is_some() => return Outcome::Refused,
            None => return Outcome::Dropped,
        };
        let keeps_client = match taker.ask.asker {
            Asker::Pod => true,
            Asker::Node => false,
            Asker::Network => keeps_client(&taker.ask, &taker.frontend, choice),
        };
        Outcome::Answer {
            who,
            keeps_client: keeps_client && is_inside,
        }
    }

    /// Who answers at an address, and whether he is of the cluster.
    fn who(&self, addr: IpAddr, port: u16, protocol: Protocol) -> Option<(String, bool)> {
        if let Some(pod) = self.pod_at(addr, port, protocol) {
            return Some((format!("{}/{}:{port}", pod.namespace, pod.name), true));
        }
        let host = self.outside_at(addr)?;
        Some((format!("outside/{host}:{port}"), false))
    }

    /// Whether what was left open in an earlier state goes on: he who answered
    /// still does, and, for what is no TCP, his service still means him.
    pub(super) fn holds(&self, open: &Open) -> bool {
        let Open { at, who, by, .. } = open;
        let now = self.who(at.0, at.1, at.2);
        if now.is_none_or(|(now, _)| now != *who) {
            return false;
        }
        let Some((node, choice)) = by.as_ref().filter(|_| at.2 != Protocol::TCP) else {
            return true;
        };
        let tables = self.tables(node, 0, None);
        tables.is_some_and(|tables| still_valid(&tables, choice))
    }
}
