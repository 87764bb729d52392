//! The way of a packet through the hooks of one node.

use std::net::IpAddr;

use axon_abi::{CtEntry, DropReason, EndpointRow, Hook, IpKey};
use axon_datapath::{Scratch, Verdict, from_endpoint, from_netdev, to_endpoint, to_netdev};
use axon_frame::MemPacket;

use crate::node::Node;
use crate::packet::{Packet, PacketError};
use crate::record::{Judgement, Recorder, Step};

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
}

/// Runs a packet through the hooks that it meets here, in their order.
pub(crate) fn run(node: &Node, packet: &Packet) -> Result<Vec<HookRun>, NotHere> {
    let mut way = Way {
        recorder: Recorder::new(node),
        packet: MemPacket::new(0, packet.frame()?),
        runs: Vec::new(),
    };
    let name = || node.name.clone();
    let uplink = node.uplinks.first().copied();
    let by_uplink = || uplink.ok_or_else(|| NotHere::NoUplink { node: name() });
    match (node.place(packet.source), node.place(packet.destination)) {
        (Place::Endpoint(sender), receiver) => {
            way.take(Hook::FromEndpoint, sender.ifindex, 0);
            let out = match (way.last(), receiver) {
                (Some(Ok(Verdict::RedirectNeigh { ifindex })), _) => Some(ifindex),
                // The stack routes it.
                (Some(Ok(Verdict::Pass)), Place::Elsewhere) => uplink,
                _ => None,
            };
            if let Some(ifindex) = out {
                way.take(Hook::ToNetdev, ifindex, sender.ifindex);
            }
        }
        (Place::Host, Place::Endpoint(receiver)) => {
            way.take(Hook::ToEndpoint, receiver.ifindex, 0);
        }
        (Place::Host, Place::Host) => return Err(NotHere::Itself { node: name() }),
        (Place::Host, Place::Elsewhere) => way.take(Hook::ToNetdev, by_uplink()?, 0),
        (Place::Elsewhere, Place::Endpoint(_) | Place::Host) => {
            let uplink = by_uplink()?;
            way.take(Hook::FromNetdev, uplink, uplink);
        }
        (Place::Elsewhere, Place::Elsewhere) => {
            return Err(NotHere::Elsewhere {
                source_addr: packet.source,
                destination: packet.destination,
                node: name(),
            });
        }
    }
    Ok(way.runs)
}

struct Way<'a> {
    recorder: Recorder<'a>,
    packet: MemPacket,
    runs: Vec<HookRun>,
}

impl Way<'_> {
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
