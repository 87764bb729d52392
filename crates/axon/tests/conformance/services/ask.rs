//! Clients: each connection from a source port of its own, all of a probe at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use axon_linux::netns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, bind, connect, setsockopt, sockopt};

use super::case::Health;
use super::echo::Said;
use crate::case::Protocol;
use crate::talk::{next_port, tcp_socket};

/// How long is waited where none is to come: so long is silence.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);
/// How long where one is to come: how busy the machine is is nobody's fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A datagram may be lost on a busy machine: it is sent again as often as this.
const AGAIN: Duration = Duration::from_millis(900);
/// So many at once.
const AT_ONCE: usize = 32;

/// How to ask.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) protocol: Protocol,
    pub(crate) from: Option<IpAddr>,
    pub(crate) source_port: Option<u16>,
    pub(crate) to: SocketAddr,
    /// How long to wait for an answer.
    pub(crate) wait: Duration,
}

/// What came of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// It was answered; the peer is as the client sees it.
    Answered { said: Said, peer: SocketAddr },
    /// An error, after so long.
    Refused(
        Duration,
        #[expect(dead_code, reason = "for people")] ErrorKind,
    ),
    /// Nothing.
    Silent,
}

/// A connection that is open.
pub(crate) enum Open {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// Opens so many connections from a namespace, and asks on each.
pub(crate) fn all(
    netns: &Path,
    order: &Order,
    count: usize,
) -> io::Result<Vec<(Told, Option<Open>)>> {
    let at_once = if order.source_port.is_some() {
        1
    } else {
        AT_ONCE
    };
    netns::within_path(netns, || {
        let mut told = Vec::new();
        while told.len() < count {
            let part = at_once.min(count - told.len());
            let of_part = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..part).map(|_| scope.spawn(|| one(order))).collect();
                let ends = threads.into_iter().map(|thread| {
                    let end = thread.join();
                    end.unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
                });
                ends.collect::<io::Result<Vec<_>>>()
            });
            told.extend(of_part?);
        }
        Ok(told)
    })?
}

fn one(order: &Order) -> io::Result<(Told, Option<Open>)> {
    let began = Instant::now();
    let mut open = match open(order) {
        Ok(open) => open,
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok((Told::Silent, None)),
        Err(error) if is_ours(&error) => return Err(error),
        Err(error) => return Ok((Told::Refused(began.elapsed(), error.kind()), None)),
    };
    let told = again(&mut open, order.wait);
    Ok((told, Some(open)))
}

/// Whether an error is none of the network's.
fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::InvalidInput
    )
}

/// Asks on a connection that is open, and waits so long for an answer.
pub(crate) fn again(open: &mut Open, wait: Duration) -> Told {
    let began = Instant::now();
    let asked = match open {
        Open::Tcp(stream) => {
            ask_stream(stream, wait).and_then(|said| Ok((said, stream.peer_addr()?)))
        }
        Open::Udp(socket) => {
            ask_datagram(socket, wait).and_then(|said| Ok((said, socket.peer_addr()?)))
        }
    };
    match asked {
        Ok((said, peer)) => Told::Answered { said, peer },
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Told::Silent
        }
        Err(error) => Told::Refused(began.elapsed(), error.kind()),
    }
}

fn ask_stream(stream: &mut TcpStream, wait: Duration) -> io::Result<Said> {
    stream.set_read_timeout(Some(wait))?;
    stream.write_all(b"?\n")?;
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while !line.ends_with(b"\n") && line.len() < 4096 {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    serde_json::from_slice(&line).map_err(io::Error::other)
}

fn ask_datagram(socket: &UdpSocket, wait: Duration) -> io::Result<Said> {
    let end = Instant::now() + wait;
    let mut buffer = [0; 4096];
    loop {
        socket.send(b"?")?;
        let left = end.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.min(AGAIN).max(Duration::from_millis(1))))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let line = buffer.get(..length).unwrap_or_default();
                return serde_json::from_slice(line).map_err(io::Error::other);
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => {}
        }
    }
}

fn open(order: &Order) -> io::Result<Open> {
    let any = match order.to {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let from = order.from.unwrap_or(any);
    loop {
        let port = order.source_port.unwrap_or_else(next_port);
        let from = SocketAddr::new(from, port);
        let made = match order.protocol {
            Protocol::Udp => UdpSocket::bind(from).and_then(|socket| {
                socket.connect(order.to)?;
                Ok(Open::Udp(socket))
            }),
            _ => stream(from, order).map(Open::Tcp),
        };
        match made {
            Err(error) if error.kind() == ErrorKind::AddrInUse && order.source_port.is_none() => {}
            other => return other,
        }
    }
}

fn stream(from: SocketAddr, order: &Order) -> io::Result<TcpStream> {
    let fd = tcp_socket(order.to)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    // Gone at once when it is closed, so that its port can be taken again.
    if order.source_port.is_some() {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&fd, sockopt::Linger, &linger)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(order.to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let wait = u16::try_from(order.wait.as_millis()).unwrap_or(u16::MAX);
    if poll(&mut polled, PollTimeout::from(wait))? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    let stream = TcpStream::from(fd);
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// What a node tells of its backends by HTTP.
pub(crate) fn health(netns: &Path, order: &Order, path: &str) -> io::Result<Option<Health>> {
    netns::within_path(netns, || {
        let Ok(Open::Tcp(mut stream)) = open(order) else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(order.wait))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.take(65_536).read_to_string(&mut text)?;
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
        let body = body.and_then(|body| serde_json::from_str::<serde_json::Value>(body).ok());
        let local_endpoints = body.and_then(|body| body["localEndpoints"].as_u64());
        Ok(code.map(|code| Health {
            code,
            local_endpoints,
        }))
    })?
}
