//! A socket that is to be connected, or to send its first datagram.

use std::net::{IpAddr, SocketAddr};

use axon_abi::{Be16, DropReason, IpKey};
use axon_api::state::Sockets;
use axon_datapath::{Refusal, Socket, connect, protocol, send};

use crate::node::Node;
use crate::packet::Packet;
use crate::record::{Recorder, Step};
use crate::run::Place;
use crate::serve::{HOST_COOKIE, POD_COOKIE};

/// What becomes of a socket's address.
pub(crate) struct SocketRun {
    /// The program that is asked.
    pub(crate) program: &'static str,
    pub(crate) steps: Vec<Step>,
    /// Where it really goes, or why it goes nowhere.
    pub(crate) led: Result<SocketAddr, Refusal>,
}

impl SocketRun {
    /// Why nothing is sent.
    pub(crate) fn refused(&self) -> Option<DropReason> {
        self.led.err().and_then(Refusal::reason)
    }
}

struct Named {
    protocol: u8,
    v6: bool,
    addr: IpKey,
    port: Be16,
    netns: u64,
}

impl Socket for Named {
    fn protocol(&self) -> u32 {
        self.protocol.into()
    }
    fn is_v6(&self) -> bool {
        self.v6
    }
    fn addr(&self) -> IpKey {
        self.addr
    }
    fn port(&self) -> Be16 {
        self.port
    }
    fn cookie(&self) -> u64 {
        1
    }
    fn netns_cookie(&self) -> u64 {
        self.netns
    }
    fn redirect(&mut self, addr: &IpKey, port: Be16) {
        (self.addr, self.port) = (*addr, port);
    }
}

/// The cookie of the network namespace in which a packet's socket would be led to
/// a backend; none if it would not.
pub(crate) fn namespace(node: &Node, packet: &Packet) -> Option<u64> {
    let (sockets, protocol) = (node.services.sockets, packet.protocol());
    if sockets == Sockets::Off || ![protocol::TCP, protocol::UDP].contains(&protocol) {
        return None;
    }
    match node.place(packet.source) {
        Place::Host => Some(HOST_COOKIE),
        Place::Endpoint(_) if sockets == Sockets::All => Some(POD_COOKIE),
        Place::Endpoint(_) | Place::Elsewhere => None,
    }
}

/// Has the packet's socket ask for its address; nothing if that stays what it is.
pub(crate) fn ask(recorder: &Recorder<'_>, packet: &Packet) -> Option<SocketRun> {
    let netns = namespace(recorder.node, packet)?;
    let mut socket = Named {
        protocol: packet.protocol(),
        v6: packet.is_v6(),
        addr: packet.destination.into(),
        port: Be16::new(packet.transport.port()),
        netns,
    };
    let before = (socket.addr, socket.port);
    let (program, asked) = match socket.protocol {
        protocol::UDP => ("sendmsg", send(&mut socket, recorder)),
        _ => ("connect", connect(&mut socket, recorder)),
    };
    let steps = recorder.take_steps();
    let after = (socket.addr, socket.port);
    let led = asked.map(|()| SocketAddr::new(IpAddr::from(after.0), after.1.get()));
    (led.is_err() || before != after).then_some(SocketRun {
        program,
        steps,
        led,
    })
}
