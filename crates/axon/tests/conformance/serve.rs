//! The servers of a place: on every port that anyone will try, over every
//! protocol, by one thread inside the place's namespace.
//!
//! What they see is kept, by the number that each try carries: a packet that
//! policy denies must not be among it.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use axon_linux::netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};

use crate::case::Protocol;
use crate::raw;

/// How soon a thread sees that it is to end, in milliseconds.
const LOOK: u16 = 50;

/// The ports of each protocol that are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) tcp: BTreeSet<u16>,
    pub(crate) udp: BTreeSet<u16>,
    pub(crate) sctp: BTreeSet<u16>,
}

/// What servers have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Numbers of tries whose data came.
    pub(crate) numbers: BTreeSet<u32>,
    /// Peers whose TCP connections were accepted.
    pub(crate) peers: BTreeSet<SocketAddr>,
}

/// Servers that run until dropped.
pub(crate) struct Servers {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts them in a namespace. Everything is served when this returns.
    pub(crate) fn start(netns: PathBuf, ports: Ports) -> io::Result<Self> {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (tell, told) = mpsc::channel();
        let (its_seen, its_stop) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let run = || match Sockets::open(&ports) {
                Ok(mut sockets) => {
                    let _ = tell.send(Ok(()));
                    while !its_stop.load(Ordering::Relaxed) {
                        sockets.turn(&its_seen);
                    }
                }
                Err(error) => drop(tell.send(Err(error))),
            };
            if let Err(error) = netns::within_path(&netns, run) {
                let _ = tell.send(Err(error));
            }
        });
        told.recv().map_err(io::Error::other)??;
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// Looks at what they have seen.
    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets what they have seen.
    pub(crate) fn forget(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Sockets {
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    streams: Vec<TcpStream>,
    raw: Vec<(Protocol, OwnedFd)>,
    sctp_ports: BTreeSet<u16>,
}

impl Sockets {
    fn open(ports: &Ports) -> io::Result<Self> {
        let at = |port| SocketAddr::new(IpAddr::from([0; 16]), port);
        let mut sockets = Self {
            listeners: Vec::new(),
            datagrams: Vec::new(),
            streams: Vec::new(),
            raw: Vec::new(),
            sctp_ports: ports.sctp.clone(),
        };
        for port in &ports.tcp {
            let listener = TcpListener::bind(at(*port))?;
            listener.set_nonblocking(true)?;
            sockets.listeners.push(listener);
        }
        for port in &ports.udp {
            let socket = UdpSocket::bind(at(*port))?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            sockets.datagrams.push(socket);
        }
        for protocol in [Protocol::Icmp, Protocol::IcmpV6, Protocol::Sctp] {
            let unwanted = protocol == Protocol::Sctp && ports.sctp.is_empty();
            if !unwanted {
                sockets
                    .raw
                    .push((protocol, raw::open(protocol, None, None)?));
            }
        }
        Ok(sockets)
    }

    /// Waits a little for something to come, and answers it.
    fn turn(&mut self, seen: &Mutex<Seen>) {
        let fds = self.listeners.iter().map(AsFd::as_fd);
        let fds = fds.chain(self.datagrams.iter().map(AsFd::as_fd));
        let fds = fds.chain(self.raw.iter().map(|(_, fd)| fd.as_fd()));
        let fds = fds.chain(self.streams.iter().map(AsFd::as_fd));
        let ready = ready(fds, LOOK);
        let mut ready = ready.into_iter();
        let mut is_ready = || ready.next().unwrap_or(false);
        let mut news = Seen::default();
        let mut accepted = Vec::new();
        for listener in &self.listeners {
            if is_ready() {
                accept(listener, &mut accepted, &mut news);
            }
        }
        for socket in &self.datagrams {
            if is_ready() {
                while let Ok(()) = echo_datagram(socket, &mut news) {}
            }
        }
        for (protocol, fd) in &self.raw {
            if is_ready() {
                let mut buffer = [0; 2048];
                while let Ok(packet) = raw::take(fd, &mut buffer) {
                    notice(*protocol, packet, &self.sctp_ports, &mut news);
                }
            }
        }
        self.streams
            .retain_mut(|stream| !is_ready() || echo(stream, &mut news));
        self.streams.append(&mut accepted);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.numbers.append(&mut news.numbers);
        seen.peers.append(&mut news.peers);
    }
}

/// Waits until one of these can be read or so many milliseconds are over, and
/// says of each whether it can.
fn ready<'f>(fds: impl Iterator<Item = BorrowedFd<'f>>, wait_ms: u16) -> Vec<bool> {
    let mut polled: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // An interrupted wait is a short one.
    let _ = poll(&mut polled, PollTimeout::from(wait_ms));
    let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    polled.iter().map(is_ready).collect()
}

fn accept(listener: &TcpListener, accepted: &mut Vec<TcpStream>, news: &mut Seen) {
    while let Ok((stream, peer)) = listener.accept() {
        news.peers.insert(plain(peer));
        if stream.set_nonblocking(true).is_ok() {
            accepted.push(stream);
        }
    }
}

/// Sends back what came; whether more may come.
fn echo(stream: &mut TcpStream, news: &mut Seen) -> bool {
    let mut buffer = [0; 256];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            let part = buffer.get(..length).unwrap_or_default();
            news.numbers.extend(number(part));
            stream.write_all(part).is_ok()
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Sends a datagram back, from the address that it was sent to: the world
/// outside has several.
fn echo_datagram(socket: &UdpSocket, news: &mut Seen) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let mut buffer = [0; 256];
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let to = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
        _ => None,
    });
    let (length, peer) = (got.bytes, got.address);
    let part = buffer.get(..length).unwrap_or_default();
    news.numbers.extend(number(part));
    let from: Vec<ControlMessage<'_>> = to.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    // A peer that cannot be reached is its own problem.
    let _ = sendmsg(
        fd,
        &[IoSlice::new(part)],
        &from,
        MsgFlags::empty(),
        peer.as_ref(),
    );
    Ok(())
}

/// Looks at a packet of a raw socket; an INIT for a port that is served is
/// answered, as kernels answer requests of ICMP.
fn notice(protocol: Protocol, packet: &[u8], ports: &BTreeSet<u16>, news: &mut Seen) {
    let v4 = raw::unwrap_v4(packet);
    match (protocol, v4) {
        (Protocol::IcmpV6, _) => news.numbers.extend(raw::icmp_number(packet).map(|n| n.1)),
        (Protocol::Icmp, Some((_, _, message))) => {
            news.numbers.extend(raw::icmp_number(message).map(|n| n.1));
        }
        (Protocol::Sctp, Some((from, to, segment))) if raw::is_sctp(packet) => {
            let init = raw::read_sctp(segment);
            let init = init.filter(|i| !i.is_ack && ports.contains(&i.destination));
            let Some(init) = init else { return };
            news.numbers.insert(init.wanted);
            let back = (init.destination, init.source);
            let ack = raw::sctp(back, init.wanted, init.wanted, true);
            // Who cannot be reached does not get it.
            let _ =
                raw::open(Protocol::Sctp, Some(to), Some(from)).and_then(|fd| raw::post(&fd, &ack));
        }
        _ => {}
    }
}

/// The number of a try, which its data is.
fn number(data: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(..4)?.try_into().ok()?))
}

/// An IPv4 peer of a socket for both families as what it is.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
