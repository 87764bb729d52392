//! `axon lab connect`: a client that tells what it gets, for demo and tests.

use std::fmt;
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvmsg, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::http;

/// How to talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// One HTTP request.
    Http,
    /// A connection on which every line comes back.
    Tcp,
    /// A datagram that comes back.
    Udp,
    /// An echo request that is answered.
    Icmp,
}

const EXIT: &str = "\
Exit status:
  0  every time it was answered
  1  refused at least once (a reset, an ICMP error)
  2  no answer at least once, or the arguments are wrong
";

/// Arguments of `axon lab connect`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT)]
pub struct ConnectArgs {
    /// How to talk.
    #[arg(value_enum)]
    how: How,
    /// Host name or address, with `:PORT` (but for icmp) and, for http, a path.
    target: String,
    /// Only over IPv4.
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Only over IPv6.
    #[arg(short = '6')]
    v6: bool,
    /// HTTP method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// Milliseconds to wait for each answer.
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// So many times; 0 is without end.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Milliseconds between two times.
    #[arg(long, default_value_t = 100)]
    interval_ms: u64,
    /// Over one connection, for tcp.
    #[arg(long)]
    hold: bool,
}

/// What came of it; also the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was answered.
    Answered,
    /// Somebody said no (a reset, an ICMP error).
    Refused,
    /// Nothing came.
    Silent,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Silent => "no answer",
        })
    }
}

/// Talks; exit status 0 if everything was answered, 1 if something was
/// refused, 2 if something got no answer.
pub(crate) fn run(args: &ConnectArgs) -> Result<ExitCode> {
    let (host, path) = match args.target.split_once('/') {
        Some((host, path)) if args.how == How::Http => (host, format!("/{path}")),
        _ => (args.target.as_str(), "/".to_owned()),
    };
    let to = resolve(args, host)?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let (mut good, mut refused, mut silent) = (0_u64, 0_u64, 0_u64);
    let mut held = if args.hold {
        Some(open(to, timeout)?)
    } else {
        None
    };
    let mut turn = 0;
    while args.count == 0 || turn < args.count {
        if turn > 0 {
            std::thread::sleep(Duration::from_millis(args.interval_ms));
        }
        turn += 1;
        let tried = match (&mut held, args.how) {
            (Some(stream), _) => echo(stream, turn),
            (None, How::Http) => fetch(args, to, host, &path, timeout),
            (None, How::Tcp) => open(to, timeout).and_then(|mut s| echo(&mut s, turn)),
            (None, How::Udp) => datagram(to, timeout, turn),
            (None, How::Icmp) => ping(to.ip(), timeout, turn),
        };
        let outcome = judge(tried)?;
        match outcome {
            Outcome::Answered => good += 1,
            Outcome::Refused => refused += 1,
            Outcome::Silent => silent += 1,
        }
        if args.how != How::Http || outcome != Outcome::Answered {
            println!("{to}: {outcome}");
        }
        if args.hold && outcome != Outcome::Answered {
            break;
        }
    }
    if turn > 1 {
        println!("{good} answered, {refused} refused, {silent} without an answer");
    }
    Ok(ExitCode::from(match (silent, refused) {
        (0, 0) => 0,
        (0, _) => 1,
        _ => 2,
    }))
}

/// Errors that tell of the network are outcomes; others are errors.
fn judge(tried: Result<()>) -> Result<Outcome> {
    let Err(error) = tried else {
        return Ok(Outcome::Answered);
    };
    let kind = error
        .chain()
        .find_map(|e| e.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    match kind {
        Some(ErrorKind::TimedOut | ErrorKind::WouldBlock) => Ok(Outcome::Silent),
        Some(
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::UnexpectedEof,
        ) => Ok(Outcome::Refused),
        _ => Err(error),
    }
}

fn resolve(args: &ConnectArgs, host: &str) -> Result<SocketAddr> {
    let port_by_hand = match args.how {
        How::Icmp => Some(0),
        How::Http if !has_port(host) => Some(80),
        How::Http | How::Tcp | How::Udp => None,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = match port_by_hand {
        Some(port) => (bare, port).to_socket_addrs(),
        None => host.to_socket_addrs(),
    }
    .with_context(|| format!("looking {host} up"))?
    .collect();
    found
        .into_iter()
        .find(|a| (!args.v4 || a.is_ipv4()) && (!args.v6 || a.is_ipv6()))
        .with_context(|| format!("{host} has no address of that family"))
}

fn has_port(host: &str) -> bool {
    match host.rsplit_once(']') {
        Some((_, rest)) => rest.starts_with(':'),
        None => host.matches(':').count() == 1,
    }
}

fn open(to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream, turn: u64) -> Result<()> {
    let sent = format!("hello {turn:020}\n");
    stream.write_all(sent.as_bytes())?;
    let mut got = vec![0; sent.len()];
    stream.read_exact(&mut got)?;
    if got != sent.as_bytes() {
        bail!(
            "something else came back: {:?}",
            String::from_utf8_lossy(&got)
        );
    }
    Ok(())
}

fn fetch(
    args: &ConnectArgs,
    to: SocketAddr,
    host: &str,
    path: &str,
    timeout: Duration,
) -> Result<()> {
    let answer = http::request(open(to, timeout)?, &args.method, host, path)?;
    std::io::stdout().write_all(&answer.body)?;
    if answer.status >= 400 {
        bail!("status {}", answer.status);
    }
    Ok(())
}

fn datagram(to: SocketAddr, timeout: Duration, turn: u64) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(to)?;
    let sent = format!("hello {turn}");
    socket.send(sent.as_bytes())?;
    let mut got = [0; 64];
    let length = socket.recv(&mut got)?;
    if &got[..length] != sent.as_bytes() {
        bail!("something else came back");
    }
    Ok(())
}

/// An echo request over a raw socket (as root in a pod, no setting is needed).
fn ping(to: IpAddr, timeout: Duration, turn: u64) -> Result<()> {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let wait = TimeVal::new(0, 50_000);
    setsockopt(&fd, sockopt::ReceiveTimeout, &wait)?;
    let id = std::process::id().to_be_bytes();
    let turn = turn.to_be_bytes();
    let mut packet = vec![request, 0, 0, 0, id[2], id[3], turn[6], turn[7]];
    packet.extend(b"axon lab");
    if to.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    let address = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(fd.as_raw_fd(), &packet, &address, MsgFlags::empty()).map_err(std::io::Error::from)?;
    let end = Instant::now() + timeout;
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, MsgFlags::empty());
        let length = match got {
            Ok(message) => message.bytes,
            Err(nix::errno::Errno::EAGAIN) => continue,
            Err(error) => return Err(std::io::Error::from(error).into()),
        };
        // IPv4 hands over its header too.
        let skip = if to.is_ipv4() {
            usize::from(buffer[0] & 15) * 4
        } else {
            0
        };
        let Some(icmp) = buffer.get(skip..length) else {
            continue;
        };
        if icmp.first() == Some(&reply) && icmp.get(4..) == packet.get(4..) {
            return Ok(());
        }
    }
    Err(std::io::Error::from(ErrorKind::TimedOut).into())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{checksum, has_port};

    #[test]
    fn a_packet_with_its_checksum_sums_to_zero() {
        let mut packet = *b"\x08\0\0\0\x12\x34\0\x01axon lab.";
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn ports_are_told_from_addresses() {
        for (host, expected) in [
            ("web", false),
            ("web:80", true),
            ("fd00::1", false),
            ("[fd00::1]", false),
            ("[fd00::1]:80", true),
        ] {
            assert_eq!(has_port(host), expected, "{host}");
        }
    }
}
