//! The way of a packet through the hooks of one node.

use std::net::IpAddr;

use axon_abi::{Be16, ConfigFlags, CtEntry, DropReason, EndpointRow, Hook, IpKey, ServiceKey};
use axon_datapath::{
    Scratch, ServiceTables as _, Verdict, from_endpoint, from_netdev, to_endpoint, to_netdev,
};
use axon_frame::MemPacket;

use crate::node::Node;
use crate::packet::{Packet, PacketError};
use crate::record::{Judgement, Recorder, Step};
use crate::serve::Quiet;
use crate::socket::{self, SocketRun};

/// Why the node has nothing to say of a packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    /// Neither end is here.
    #[error("neither {source_addr} nor {destination} is of node {node}")]
    Elsewhere {
        /// The sender's address.
        source_addr: IpAddr,
        /// The receiver's.
        destination: IpAddr,
        /// The node.
        node: String,
    },
    /// Both are the node itself.
    #[error("node {node} is held to no policy towards itself")]
    Itself {
        /// The node.
        node: String,
    },
    /// The state has no device that the network is behind.
    #[error("node {node} has no uplink: nothing reaches it from the network")]
    NoUplink {
        /// The node.
        node: String,
    },
    /// There is no such packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// One hook that the packet has met.
pub(crate) struct HookRun {
    pub(crate) hook: Hook,
    pub(crate) device: u32,
    pub(crate) steps: Vec<Step>,
    pub(crate) judgements: Vec<Judgement>,
    /// The entry of its flow, if it was known before.
    pub(crate) flow: Option<CtEntry>,
    pub(crate) decided: Result<Verdict, DropReason>,
}

/// Where an end is, as this node sees it.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Endpoint(&'a EndpointRow),
    Host,
    Elsewhere,
}

impl Node {
    pub(crate) fn place(&self, addr: IpAddr) -> Place<'_> {
        match self.addresses.get(&IpKey::from(addr)) {
            Some(row) => Place::Endpoint(row),
            None if self.is_own(addr) => Place::Host,
            None => Place::Elsewhere,
        }
    }

    /// Whether packets are led to backends here.
    pub(crate) fn serves(&self) -> bool {
        self.config.flags & ConfigFlags::SERVICES != 0
    }

    /// Whether an address, or a port of it, is a service's to the network.
    fn is_frontend(&self, packet: &Packet) -> bool {
        let tables = Quiet {
            node: self,
            random: 0,
        };
        let whole = ServiceKey {
            addr: packet.destination.into(),
            ..ServiceKey::default()
        };
        let exact = ServiceKey {
            port: Be16::new(packet.transport.port()),
            protocol: packet.protocol(),
            ..whole
        };
        self.serves()
            && [whole, exact]
                .iter()
                .any(|key| tables.service(key).is_some())
    }
}

/// The way of a packet.
pub(crate) struct Walk {
    /// What its socket was told, if that was asked and is a service's.
    pub(crate) socket: Option<SocketRun>,
    /// The hooks that it met.
    pub(crate) hooks: Vec<HookRun>,
    /// The packet as it goes on: with a backend's address where it had a service's.
    pub(crate) packet: Packet,
}

impl Walk {
    /// Where it goes in the end.
    pub(crate) fn led(&self) -> (IpKey, u16) {
        (self.packet.destination.into(), self.packet.transport.port())
    }

    /// Why it goes no further, if it does not.
    pub(crate) fn denied(&self) -> Option<DropReason> {
        let refused = self.socket.as_ref().and_then(SocketRun::refused);
        refused.or_else(|| {
            self.hooks.iter().find_map(|run| match run.decided {
                Err(reason) => Some(reason),
                Ok(Verdict::Reflect { dropped }) => dropped,
                Ok(_) => None,
            })
        })
    }
}

/// Runs a packet through the hooks that it meets here, in their order; one that is
/// new through its socket before. `chance` chooses among backends.
pub(crate) fn run(
    node: &Node,
    packet: &Packet,
    is_new: bool,
    chance: u32,
) -> Result<Walk, NotHere> {
    let recorder = Recorder::new(node, chance);
    let socket = is_new.then(|| socket::ask(&recorder, packet)).flatten();
    // What was looked up for nothing is no part of the way.
    recorder.take_steps();
    let mut packet = packet.clone();
    match socket.as_ref().map(|run| run.led) {
        Some(Err(_)) => {
            return Ok(Walk {
                socket,
                hooks: Vec::new(),
                packet,
            });
        }
        Some(Ok(to)) => packet.readdress(to),
        None => {}
    }
    let mut way = Way {
        recorder,
        packet: MemPacket::new(0, packet.frame()?),
        at: packet.clone(),
        runs: Vec::new(),
    };
    match (node.place(packet.source), node.place(packet.destination)) {
        // A backend that is the node itself.
        (Place::Host, Place::Host) if socket.is_some() => {}
        places => way.walk(node, &packet, places)?,
    }
    Ok(Walk {
        socket,
        hooks: way.runs,
        packet: way.at,
    })
}

struct Way<'a> {
    recorder: Recorder<'a>,
    packet: MemPacket,
    /// What it is now.
    at: Packet,
    runs: Vec<HookRun>,
}

impl Way<'_> {
    fn walk(
        &mut self,
        node: &Node,
        packet: &Packet,
        places: (Place<'_>, Place<'_>),
    ) -> Result<(), NotHere> {
        let name = || node.name.clone();
        let uplink = node.uplinks.first().copied();
        let by_uplink = || uplink.ok_or_else(|| NotHere::NoUplink { node: name() });
        match places {
            (Place::Endpoint(sender), _) => {
                self.take(Hook::FromEndpoint, sender.ifindex, 0);
                let out = match (self.last(), node.place(self.at.destination)) {
                    (Some(Ok(Verdict::RedirectNeigh { ifindex })), _) => Some(ifindex),
                    // The stack routes it.
                    (Some(Ok(Verdict::Pass)), Place::Elsewhere) => uplink,
                    _ => None,
                };
                if let Some(ifindex) = out {
                    self.take(Hook::ToNetdev, ifindex, sender.ifindex);
                }
            }
            (Place::Host, Place::Endpoint(receiver)) => {
                self.take(Hook::ToEndpoint, receiver.ifindex, 0);
            }
            (Place::Host, Place::Host) => return Err(NotHere::Itself { node: name() }),
            (Place::Host, Place::Elsewhere) => self.take(Hook::ToNetdev, by_uplink()?, 0),
            (Place::Elsewhere, Place::Elsewhere) if !node.is_frontend(packet) => {
                return Err(NotHere::Elsewhere {
                    source_addr: packet.source,
                    destination: packet.destination,
                    node: name(),
                });
            }
            (Place::Elsewhere, _) => {
                let uplink = by_uplink()?;
                self.take(Hook::FromNetdev, uplink, uplink);
            }
        }
        Ok(())
    }

    fn last(&self) -> Option<Result<Verdict, DropReason>> {
        self.runs.last().map(|run| run.decided)
    }

    /// Has the packet meet a hook of a device; `came_by` is the device that the
    /// node got it by.
    fn take(&mut self, hook: Hook, device: u32, came_by: u32) {
        self.packet.ifindex = device;
        self.packet.ingress_ifindex = came_by;
        let (packet, tables) = (&mut self.packet, &self.recorder);
        let mut scratch = Scratch::poisoned();
        let decided = match hook {
            Hook::FromEndpoint => from_endpoint(packet, tables, &mut scratch),
            Hook::ToEndpoint => to_endpoint(packet, tables, &mut scratch),
            Hook::FromNetdev => from_netdev(packet, tables, &mut scratch),
            Hook::ToNetdev => to_netdev(packet, tables, &mut scratch),
        };
        // What has become its own answer goes nowhere; what leaves may be masqueraded.
        let goes_on = !matches!(decided, Ok(Verdict::Reflect { .. })) && hook != Hook::ToNetdev;
        if goes_on {
            self.at.reread(&self.packet.bytes);
        }
        let is_first = self.runs.is_empty();
        self.runs.push(HookRun {
            hook,
            device,
            steps: self.recorder.take_steps(),
            judgements: self.recorder.take_judgements(),
            // What later hooks find, the first has made.
            flow: self.recorder.take_flow().filter(|_| is_first),
            decided,
        });
    }
}
