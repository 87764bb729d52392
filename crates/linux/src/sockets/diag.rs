//! Sockets of a network namespace, listed and ended by the kernel's socket
//! diagnostics.

use std::io;
use std::net::IpAddr;

use axon_abi::IpKey;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::libc;

use crate::netlink::split;

/// Dumps come in pieces of at most 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;

pub(super) const TCP: u8 = libc::IPPROTO_TCP as u8;
pub(super) const UDP: u8 = libc::IPPROTO_UDP as u8;

/// A socket that is connected.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    family: u8,
    protocol: u8,
    id: SocketId,
}

impl Connected {
    /// What programs tell the socket from all others by.
    pub(super) fn cookie(&self) -> u64 {
        let half = |at: usize| {
            let bytes = self
                .id
                .cookie
                .get(at..)
                .and_then(|rest| rest.first_chunk::<4>());
            u64::from(bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
        };
        half(0) | half(4) << 32
    }

    /// Whom it is connected to.
    pub(super) fn peer(&self) -> (IpKey, u16) {
        let addr = match self.id.destination_address {
            IpAddr::V4(v4) => IpKey::from_v4(v4.octets()),
            IpAddr::V6(v6) => IpKey::from_v6(v6.octets()),
        };
        (addr, self.id.destination_port)
    }
}

/// A connection to the diagnostics of the namespace in which it was opened.
pub(super) struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// Every connected socket of a protocol, of both families.
    pub(super) fn connected(&mut self, protocol: u8) -> io::Result<Vec<Connected>> {
        let mut found = Vec::new();
        for (family, id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            let request = SockDiagMessage::InetRequest(InetRequest {
                family,
                protocol,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::ESTABLISHED | StateFlags::SYN_SENT | StateFlags::CLOSE_WAIT,
                socket_id: id,
            });
            self.dump(request, |answer| {
                if let SockDiagMessage::InetResponse(response) = answer {
                    found.push(Connected {
                        family: response.header.family,
                        protocol,
                        id: response.header.socket_id,
                    });
                }
            })?;
        }
        Ok(found)
    }

    /// Ends a socket: whoever waits for what it receives is told `ECONNABORTED`, one
    /// of datagrams is connected to nobody, and the peer of a TCP connection is told. Says whether it was still there.
    pub(super) fn destroy(&mut self, socket: &Connected) -> io::Result<bool> {
        let request = SockDiagMessage::InetRequest(InetRequest {
            family: socket.family,
            protocol: socket.protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: socket.id.clone(),
        });
        let sequence = self.send(SockDiagDestroy::new(request), NLM_F_ACK)?;
        loop {
            for answer in self.receive::<SockDiagMessage>()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                if let NetlinkPayload::Error(result) = answer.payload {
                    return match result.raw_code().saturating_neg() {
                        0 => Ok(true),
                        // It was closed meanwhile.
                        libc::ENOENT | libc::ESTALE => Ok(false),
                        _ => Err(result.to_io()),
                    };
                }
            }
        }
    }

    fn dump(
        &mut self,
        request: SockDiagMessage,
        mut each: impl FnMut(SockDiagMessage),
    ) -> io::Result<()> {
        let sequence = self.send(request, NLM_F_DUMP)?;
        loop {
            for answer in self.receive::<SockDiagMessage>()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sends a message; gives back its sequence number.
    fn send<M>(&mut self, message: M, flags: u16) -> io::Result<u32>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(Default::default(), message.into());
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    /// The messages of one datagram. What cannot be parsed is newer than we are,
    /// and passed over.
    fn receive<M: NetlinkDeserializable>(&mut self) -> io::Result<Vec<NetlinkMessage<M>>> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        Ok(split(&self.buffer)
            .filter_map(|message| NetlinkMessage::deserialize(message).ok())
            .collect())
    }
}

/// Whether the kernel ends sockets if asked: it knows how to look for one that
/// cannot be.
pub(crate) fn can_destroy() -> bool {
    let nobody = Connected {
        family: AF_INET,
        protocol: UDP,
        id: SocketId::new_v4(),
    };
    let ask = || {
        let mut diag = Diag::open()?;
        diag.connected(nobody.protocol)?;
        diag.destroy(&nobody)
    };
    ask().is_ok()
}
