//! `axon lab serve`: a server that tells what it sees, for demo and tests.

use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// The longest line that is echoed or read of a request.
const LINE_MAX: u64 = 8192;

/// What to serve: `http:80`, `tcp:7000-7009`, `udp:53`, `who:7000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    kind: Kind,
    first: u16,
    last: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Udp,
    /// TCP and UDP, and both say who answers.
    Who,
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, ports) = text
            .split_once(':')
            .with_context(|| format!("{text:?}: expected PROTOCOL:PORT or PROTOCOL:FIRST-LAST"))?;
        let kind = match kind {
            "http" => Kind::Http,
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "who" => Kind::Who,
            other => bail!("{other:?} is no protocol; expected http, tcp, udp or who"),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| {
            let port = text.parse::<u16>().ok().filter(|p| *p > 0);
            port.with_context(|| format!("{text:?} is no port; expected 1 to 65535"))
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            bail!("{ports}: the first port is greater than the last");
        }
        Ok(Self { kind, first, last })
    }
}

/// Serves until killed.
///
/// # Errors
/// A port is taken.
pub(crate) fn run(services: &[Service]) -> Result<()> {
    let mut threads = Vec::new();
    for service in services {
        for port in service.first..=service.last {
            let at = SocketAddr::new(IpAddr::from([0; 16]), port);
            let kind = service.kind;
            if matches!(kind, Kind::Udp | Kind::Who) {
                let socket = UdpSocket::bind(at).with_context(|| format!("UDP port {port}"))?;
                threads.push(std::thread::spawn(move || {
                    if let Err(error) = serve_udp(&socket, kind, port) {
                        eprintln!("udp {port}: {error:#}");
                    }
                }));
            }
            if kind != Kind::Udp {
                let listener = TcpListener::bind(at).with_context(|| format!("TCP port {port}"))?;
                threads.push(std::thread::spawn(move || serve_tcp(&listener, kind, port)));
            }
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
    bail!("nothing is served any more")
}

/// What goes before an echo of who says who he is.
fn who(kind: Kind) -> Vec<u8> {
    let name = (kind == Kind::Who).then(nix::unistd::gethostname);
    let name = name.and_then(Result::ok);
    name.map_or_else(Vec::new, |name| {
        format!("{} ", name.to_string_lossy()).into_bytes()
    })
}

/// Echoes datagrams, from the address that each was sent to: a host with
/// several would else choose one by itself.
fn serve_udp(socket: &UdpSocket, kind: Kind, port: u16) -> Result<()> {
    let who = who(kind);
    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    let fd = socket.as_raw_fd();
    let mut buffer = [0; 65536];
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let Some(peer) = got.address else { continue };
        let to = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        let length = got.bytes;
        // Who says who he is to each need not keep a book of all.
        if kind == Kind::Udp {
            println!("udp {port} from {}", plain(SocketAddr::V6(peer.into())));
        }
        let from: Vec<ControlMessage<'_>> = to.iter().map(ControlMessage::Ipv6PacketInfo).collect();
        let part = [IoSlice::new(&who), IoSlice::new(&buffer[..length])];
        // A peer that cannot be reached is its own problem.
        let _ = sendmsg(fd, &part, &from, MsgFlags::empty(), Some(&peer));
    }
}

fn serve_tcp(listener: &TcpListener, kind: Kind, port: u16) {
    for stream in listener.incoming().flatten() {
        let Ok(peer) = stream.peer_addr() else {
            continue;
        };
        let peer = plain(peer);
        if kind != Kind::Who {
            println!("tcp {port} from {peer}");
        }
        std::thread::spawn(move || {
            // How a connection ends is the client's business.
            let _ = match kind {
                Kind::Http => http(stream, peer),
                Kind::Tcp | Kind::Udp | Kind::Who => echo(stream, &who(kind)),
            };
        });
    }
}

fn echo(mut stream: TcpStream, who: &[u8]) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    stream.write_all(who)?;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn http(stream: TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream.take(LINE_MAX));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let request = request.trim_end();
    println!("http {request} from {peer}");
    let body = match request.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["POST", "/v1/request-landing"] => "Ship landed\n".to_owned(),
        ["PUT", "/v1/exhaust-port"] => "Panic: deathstar exploded\n".to_owned(),
        _ => {
            let host = nix::unistd::gethostname().unwrap_or_default();
            format!("{} saw {request} from {peer}\n", host.to_string_lossy())
        }
    };
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An IPv4 peer of a socket for both families as what it is.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::Service;

    #[test]
    fn services_are_read_strictly() {
        for text in ["http:80", "tcp:7000-7009", "udp:53", "who:1"] {
            assert!(text.parse::<Service>().is_ok(), "{text}");
        }
        for text in ["80", "http:", "http:0", "sctp:1", "tcp:9-1", "tcp:1-70000"] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
