//! Which frontend a packet is for, and every backend that it may be led to.

use std::collections::BTreeMap;

use axon_abi::{Be16, DropReason, IpKey, ServiceClient, ServiceFlags, ServiceFlowKey};
use axon_datapath::{Answer, Ask, Asker, Choice, Frontend, Why, frontend, protocol, select_of};

use crate::node::Node;
use crate::packet::{Packet, Transport};
use crate::run::Place;
use crate::serve::Quiet;
use crate::socket;

/// Ports that clients are given (Linux's own range): all are tried where the port
/// decides.
const CLIENT_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A frontend that is asked for.
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) frontend: Frontend,
    /// Whether a socket asks, before there is a packet.
    pub(crate) by_socket: bool,
    /// Whether the flow is known, and has its backend.
    pub(crate) is_known: bool,
}

/// A backend that may be chosen, and where chance and the client's port fall
/// for that.
pub(crate) struct Pick {
    pub(crate) choice: Choice,
    pub(crate) chance: u32,
    pub(crate) port: Option<u16>,
    /// How many of all throws lead here.
    pub(crate) throws: u64,
}

impl Pick {
    /// Where it leads to.
    pub(crate) fn at(&self) -> (IpKey, u16) {
        let backend = &self.choice.backend;
        (backend.addr, backend.port.get())
    }
}

/// Why nobody is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// The address is services', the port is none's.
    Closed,
    /// Nobody is behind the frontend.
    Refused,
    /// It is dropped.
    Dropped(DropReason),
}

/// Finds the frontend that a packet is for; `is_new` if its socket is yet to be
/// asked.
pub(crate) fn asked(node: &Node, packet: &Packet, is_new: bool) -> Option<Asked> {
    if is_new && let Some(cookie) = socket::namespace(node, packet) {
        let asker = match node.place(packet.source) {
            Place::Host => Asker::Node,
            Place::Endpoint(_) | Place::Elsewhere => Asker::Pod,
        };
        let ask = Ask {
            client: ServiceClient::namespace(cookie),
            source: IpKey::UNSPECIFIED,
            source_port: Be16::ZERO,
            ..ask(packet, asker)
        };
        let found = frontend(&quiet(node, 0), &ask)?;
        let passes_by = ServiceFlags::SKIP_OWN | ServiceFlags::SKIP_AWAY;
        if asker == Asker::Node || found.entry.flags & passes_by == 0 {
            return Some(Asked {
                ask,
                frontend: found,
                by_socket: true,
                is_known: false,
            });
        }
    }
    by_packet(node, packet, is_new)
}

fn by_packet(node: &Node, packet: &Packet, is_new: bool) -> Option<Asked> {
    let is_served = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&packet.protocol());
    let asker = match node.place(packet.source) {
        Place::Endpoint(_) => Asker::Pod,
        Place::Elsewhere => Asker::Network,
        // What the node itself sends is led by its socket, or not at all.
        Place::Host => return None,
    };
    let is_endpoint = matches!(node.place(packet.destination), Place::Endpoint(_));
    if !node.serves() || !is_served || is_endpoint {
        return None;
    }
    let ask = ask(packet, asker);
    let key = ServiceFlowKey {
        source: ask.source,
        destination: ask.addr,
        source_port: ask.source_port,
        destination_port: ask.port,
        protocol: ask.protocol,
        reply: 0,
        pad: [0; 2],
    };
    Some(Asked {
        frontend: frontend(&quiet(node, 0), &ask)?,
        ask,
        by_socket: false,
        is_known: !is_new && node.services.flows.contains_key(&key),
    })
}

fn ask(packet: &Packet, asker: Asker) -> Ask {
    let source_port = match packet.transport {
        Transport::Tcp { ports, .. } | Transport::Udp { ports } | Transport::Sctp { ports } => {
            ports[0]
        }
        Transport::Icmp { .. } => 0,
    };
    Ask {
        addr: packet.destination.into(),
        client: packet.source.into(),
        source: packet.source.into(),
        port: Be16::new(packet.transport.port()),
        source_port: Be16::new(source_port),
        protocol: packet.protocol(),
        asker,
    }
}

fn quiet(node: &Node, random: u32) -> Quiet<'_> {
    Quiet { node, random }
}

/// Every backend that may be chosen, in the order of their ids: what chance
/// decides is thrown in every way that it can fall; so is the port of a client
/// that `is_new`.
pub(crate) fn picks(node: &Node, asked: &Asked, is_new: bool) -> Result<Vec<Pick>, Nobody> {
    let list = &asked.frontend.list;
    let by_port = list.maglev != 0 && asked.ask.asker == Asker::Network;
    let throws: Vec<(u32, Option<u16>)> = if by_port && is_new {
        let used = node.used_ports(asked.ask.source.into());
        let ports = CLIENT_PORTS.filter(|port| !used.contains(port));
        ports.map(|port| (0, Some(port))).collect()
    } else if by_port {
        vec![(0, None)]
    } else {
        (0..list.slots.max(1))
            .map(|chance| (chance, None))
            .collect()
    };
    let mut picks: BTreeMap<u32, Pick> = BTreeMap::new();
    for (chance, port) in throws {
        let mut ask = asked.ask;
        if let Some(port) = port {
            ask.source_port = Be16::new(port);
        }
        let choice = match select_of(&quiet(node, chance), &ask, &asked.frontend) {
            Ok(Answer::Backend(choice)) => choice,
            Ok(Answer::Closed) => return Err(Nobody::Closed),
            Ok(Answer::Refused | Answer::Elsewhere) => return Err(Nobody::Refused),
            Err(reason) => return Err(Nobody::Dropped(reason)),
        };
        let pick = picks.entry(choice.id).or_insert(Pick {
            choice,
            chance,
            port,
            throws: 0,
        });
        pick.throws += 1;
        if choice.by == Why::Affinity {
            // Wherever the dice fall.
            break;
        }
    }
    Ok(picks.into_values().collect())
}
