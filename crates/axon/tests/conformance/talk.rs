//! The clients of a place: all that is tried from there, at once, by one
//! thread inside the place's namespace.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axon_linux::netns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket,
};

use crate::case::Protocol;
use crate::raw;

/// How long an answer is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How often is tried, at most.
pub(crate) const TRIES: usize = 3;
/// Time between tries that nobody shall answer: their waiting overlaps.
const BETWEEN: Duration = Duration::from_millis(100);
/// Source ports, each of which is used again only after all others: connection
/// tracking must know nothing of it.
const SOURCE_PORTS: std::ops::Range<u16> = 20_000..60_000;

/// What to try.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) protocol: Protocol,
    /// The address to send from, where the place has several.
    pub(crate) from: Option<IpAddr>,
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) icmp_type: u8,
    /// An answer is expected: tries come one after the other.
    pub(crate) is_hopeful: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The data came back.
    Answered,
    /// Somebody said no: a reset, an ICMP error.
    Refused,
    /// Nothing came.
    #[default]
    Silent,
}

/// One try.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    /// What its data is.
    pub(crate) number: u32,
    /// Its source; of what has no ports with port 0.
    pub(crate) source: SocketAddr,
}

/// All tries of an order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    pub(crate) tries: Vec<Try>,
    /// What kept it from being tried.
    pub(crate) problem: Option<String>,
}

/// Carries out orders inside a namespace, all at once.
pub(crate) fn talk(netns: &Path, orders: &[Order]) -> io::Result<Vec<Told>> {
    netns::within_path(netns, || Talk::new(orders).run())
}

struct Talk<'o> {
    orders: &'o [Order],
    told: Vec<Told>,
    /// When the next try of an order is due; none if there is none.
    due: Vec<Option<Instant>>,
    open: Vec<Attempt>,
}

/// A try that may still be answered.
struct Attempt {
    order: usize,
    number: u32,
    end: Instant,
    socket: Socket,
}

enum Socket {
    Connecting(TcpStream),
    Connected(TcpStream),
    Datagram(UdpSocket),
    Raw(OwnedFd),
}

impl Attempt {
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Connecting(stream) | Socket::Connected(stream) => stream.as_fd(),
            Socket::Datagram(socket) => socket.as_fd(),
            Socket::Raw(fd) => fd.as_fd(),
        }
    }

    fn wanted(&self) -> PollFlags {
        match self.socket {
            Socket::Connecting(_) => PollFlags::POLLOUT,
            Socket::Connected(_) | Socket::Datagram(_) | Socket::Raw(_) => PollFlags::POLLIN,
        }
    }
}

impl<'o> Talk<'o> {
    fn new(orders: &'o [Order]) -> Self {
        let now = Instant::now();
        Self {
            orders,
            told: vec![Told::default(); orders.len()],
            due: vec![Some(now); orders.len()],
            open: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Told> {
        loop {
            self.begin();
            let now = Instant::now();
            let due = self.due.iter().flatten().min().copied();
            let ends = self.open.iter().map(|attempt| attempt.end).min();
            let Some(next) = due.into_iter().chain(ends).min() else {
                return self.told;
            };
            self.wait(next.saturating_duration_since(now));
            self.give_up();
        }
    }

    /// Begins the tries that are due.
    fn begin(&mut self) {
        let now = Instant::now();
        for number in 0..self.orders.len() {
            if self.due[number].is_none_or(|at| at > now) {
                continue;
            }
            let order = &self.orders[number];
            let told = &mut self.told[number];
            match start(order) {
                Ok((which, source, socket)) => {
                    told.tries.push(Try {
                        number: which,
                        source,
                    });
                    self.open.push(Attempt {
                        order: number,
                        number: which,
                        end: now + PATIENCE,
                        socket,
                    });
                }
                Err(error) => told.problem = Some(error.to_string()),
            }
            let between = if order.is_hopeful { PATIENCE } else { BETWEEN };
            let more = told.tries.len() < TRIES && told.problem.is_none();
            self.due[number] = more.then(|| now + between);
        }
    }

    /// Waits for answers, so long at most.
    fn wait(&mut self, time: Duration) {
        let mut fds: Vec<PollFd<'_>> = self
            .open
            .iter()
            .map(|attempt| PollFd::new(attempt.fd(), attempt.wanted()))
            .collect();
        // Rounded up: else it would spin through the last millisecond.
        let wait = u16::try_from(time.as_millis() + 1).unwrap_or(u16::MAX);
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, PollTimeout::from(wait));
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let attempts = std::mem::take(&mut self.open);
        for (attempt, is_ready) in attempts.into_iter().zip(ready) {
            if !is_ready {
                self.open.push(attempt);
                continue;
            }
            let order = attempt.order;
            match go_on(&self.orders[order], attempt) {
                Ok(Step::Answered) => {
                    self.told[order].outcome = Outcome::Answered;
                    self.due[order] = None;
                }
                Ok(Step::More(attempt)) => self.open.push(attempt),
                Err(_) if self.told[order].outcome == Outcome::Silent => {
                    self.told[order].outcome = Outcome::Refused;
                }
                Err(_) => {}
            }
        }
        let told = &self.told;
        // What was answered needs no more answers.
        self.open
            .retain(|attempt| told[attempt.order].outcome != Outcome::Answered);
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        self.open.retain(|attempt| attempt.end > now);
    }
}

enum Step {
    Answered,
    More(Attempt),
}

/// A number that no other try has, nor a message that is no try.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0x0010_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A source port that no other try has for a long time.
pub(crate) fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = SOURCE_PORTS.end - SOURCE_PORTS.start;
    SOURCE_PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % count
}

fn start(order: &Order) -> io::Result<(u32, SocketAddr, Socket)> {
    let number = next_number();
    let any = match order.to {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let from = order.from.unwrap_or(any);
    let to = SocketAddr::new(order.to, order.port);
    match order.protocol {
        Protocol::Tcp => {
            let stream = with_port(|port| tcp(SocketAddr::new(from, port), to))?;
            Ok((number, stream.local_addr()?, Socket::Connecting(stream)))
        }
        Protocol::Udp => {
            let socket = with_port(|port| UdpSocket::bind(SocketAddr::new(from, port)))?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            socket.send(&number.to_be_bytes())?;
            Ok((number, socket.local_addr()?, Socket::Datagram(socket)))
        }
        Protocol::Sctp | Protocol::Icmp | Protocol::IcmpV6 => {
            let fd = raw::open(order.protocol, order.from, Some(order.to))?;
            let (port, packet) = if order.protocol == Protocol::Sctp {
                let port = next_port();
                (port, raw::sctp((port, order.port), 0, number, false))
            } else {
                (0, raw::icmp(order.icmp_type, number, order.to.is_ipv6()))
            };
            let source = SocketAddr::new(raw::local(&fd)?, port);
            raw::post(&fd, &packet)?;
            Ok((number, source, Socket::Raw(fd)))
        }
    }
}

/// Makes a socket with the next source port that is free.
fn with_port<S>(make: impl Fn(u16) -> io::Result<S>) -> io::Result<S> {
    loop {
        match make(next_port()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
}

/// A socket that waits for nobody.
pub(crate) fn tcp_socket(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Stream, flags, SockProtocol::Tcp)?)
}

/// Begins a connection without waiting for it.
fn tcp(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let fd = tcp_socket(to)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
        Err(error) => Err(error.into()),
    }
}

/// Takes what came; an error is somebody's no.
fn go_on(order: &Order, mut attempt: Attempt) -> io::Result<Step> {
    let sent = attempt.number.to_be_bytes();
    let mut got = [0; 4];
    let is_back = match &mut attempt.socket {
        Socket::Connecting(stream) => {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            stream.write_all(&sent)?;
            let stream = stream.try_clone()?;
            attempt.socket = Socket::Connected(stream);
            return Ok(Step::More(attempt));
        }
        Socket::Connected(stream) => {
            // Four bytes travel together.
            stream.read_exact(&mut got).map(|()| got == sent)
        }
        Socket::Datagram(socket) => socket
            .recv(&mut got)
            .map(|length| length == 4 && got == sent),
        Socket::Raw(fd) => answers(order, attempt.number, fd),
    };
    match is_back {
        Ok(true) => Ok(Step::Answered),
        Ok(false) => Ok(Step::More(attempt)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Step::More(attempt)),
        Err(error) => Err(error),
    }
}

/// Whether the next packet of a raw socket answers a try.
fn answers(order: &Order, number: u32, fd: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 2048];
    let packet = raw::take(fd, &mut buffer)?;
    let found = match order.protocol {
        Protocol::Sctp => raw::unwrap_v4(packet)
            .and_then(|(_, _, segment)| raw::read_sctp(segment))
            .is_some_and(|init| init.is_ack && init.tag == number),
        Protocol::IcmpV6 => is_reply(order, number, packet),
        Protocol::Icmp | Protocol::Tcp | Protocol::Udp => {
            raw::unwrap_v4(packet).is_some_and(|(_, _, message)| is_reply(order, number, message))
        }
    };
    Ok(found)
}

fn is_reply(order: &Order, number: u32, message: &[u8]) -> bool {
    let reply = raw::icmp_reply(order.protocol, order.icmp_type);
    let found = raw::icmp_number(message);
    found.is_some_and(|(kind, which)| Some(kind) == reply && which == number)
}
