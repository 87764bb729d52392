//! Synchronous routing netlink: requests in batches, dumps whole.

mod message;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub(crate) use message::*;

use crate::link::LinkError;

/// Dumps come in pieces of at most 32 KiB.
const RECEIVE_LEN: usize = 64 * 1024;

/// A dump that changes under our hands is asked for again, so often.
const DUMP_ATTEMPTS: usize = 5;

/// In the place of an error number: every one.
const ANY_ERROR: i32 = 0;

/// A request of a batch.
#[derive(Debug)]
pub(crate) struct Request {
    /// What it is for, as an error names it.
    pub(crate) what: String,
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
    /// Answers that are as good as success.
    pub(crate) tolerated: Vec<i32>,
}

impl Request {
    pub(crate) fn new(what: impl Into<String>, message: RouteNetlinkMessage, flags: u16) -> Self {
        Self {
            what: what.into(),
            message,
            flags,
            tolerated: Vec::new(),
        }
    }

    pub(crate) fn tolerate(mut self, errno: i32) -> Self {
        self.tolerated.push(errno);
        self
    }

    /// Whatever the answer is, it is as good as success.
    pub(crate) fn optional(self) -> Self {
        self.tolerate(ANY_ERROR)
    }
}

/// A socket in the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> LinkError + use<> {
    let what = what.to_owned();
    |source| LinkError::Netlink { what, source }
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, LinkError> {
        let connect = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Says in words what the kernel dislikes; older kernels have no words.
            let _ = socket.set_ext_ack(true);
            Ok(socket)
        };
        let socket = connect().map_err(failed("opening a netlink socket"))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// Sends requests together and waits for every answer. All are tried; the
    /// first failure is told.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let mut waiting = Vec::with_capacity(requests.len());
        for request in requests {
            let flags = request.flags | NLM_F_ACK;
            self.encode(request.message, flags, &mut bytes);
            waiting.push(Some((request.what, request.tolerated)));
        }
        self.socket
            .send(&bytes, 0)
            .map_err(failed("sending netlink requests"))?;
        let mut error = None;
        while waiting.iter().any(Option::is_some) {
            for answer in self.receive()? {
                let index = answer.header.sequence_number.wrapping_sub(first) as usize;
                let NetlinkPayload::Error(result) = answer.payload else {
                    continue;
                };
                let Some((what, tolerated)) = waiting.get_mut(index).and_then(Option::take) else {
                    continue;
                };
                let refused = result.code.is_some()
                    && !tolerated.contains(&ANY_ERROR)
                    && !tolerated.contains(&-result.raw_code());
                if refused && error.is_none() {
                    error = Some(failed(&what)(result.to_io()));
                }
            }
        }
        error.map_or(Ok(()), Err)
    }

    /// Sends one request.
    pub(crate) fn request(&mut self, request: Request) -> Result<(), LinkError> {
        self.batch(vec![request])
    }

    /// Everything that a dump request answers.
    pub(crate) fn dump(
        &mut self,
        what: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(answers) = self.dump_once(what, message.clone())? {
                return Ok(answers);
            }
        }
        Err(failed(what)(io::Error::other(
            "the kernel's tables change faster than they are read",
        )))
    }

    /// `None` if the dump was interrupted by a change.
    fn dump_once(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, LinkError> {
        let mut bytes = Vec::new();
        let sequence = self.encode(message, NLM_F_DUMP, &mut bytes);
        self.socket.send(&bytes, 0).map_err(failed(what))?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => {
                        return Ok((!interrupted).then_some(answers));
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(failed(what)(error.to_io()));
                    }
                    _ => {}
                }
            }
        }
    }

    /// The one object that a get request names; `None` if there is none.
    pub(crate) fn get(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, LinkError> {
        let mut bytes = Vec::new();
        let sequence = self.encode(message, 0, &mut bytes);
        self.socket.send(&bytes, 0).map_err(failed(what))?;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => return Ok(Some(message)),
                    NetlinkPayload::Error(error)
                        if error.raw_code() == -nix::libc::ENODEV
                            || error.raw_code() == -nix::libc::ENOENT =>
                    {
                        return Ok(None);
                    }
                    NetlinkPayload::Error(error) => return Err(failed(what)(error.to_io())),
                    _ => {}
                }
            }
        }
    }

    /// Appends a message; gives back its sequence number.
    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16, bytes: &mut Vec<u8>) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
        self.sequence
    }

    /// The messages of one datagram. What cannot be parsed is newer than we
    /// are, and passed over.
    fn receive(&mut self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, LinkError> {
        self.buffer.clear();
        self.socket
            .recv(&mut self.buffer, 0)
            .map_err(failed("receiving netlink answers"))?;
        Ok(split(&self.buffer)
            .filter_map(|m| NetlinkMessage::deserialize(m).ok())
            .collect())
    }

    /// Brings the loopback device up.
    pub(crate) fn set_up_loopback(&mut self) -> Result<(), LinkError> {
        self.request(Request::new("setting lo up", set_up(LOOPBACK_IFINDEX), 0))
    }
}

/// The messages of a datagram, by the length in each header.
pub(crate) fn split(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let len = u32::from_ne_bytes(*head) as usize;
        let message = rest.get(..len).filter(|_| len >= 16)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}
