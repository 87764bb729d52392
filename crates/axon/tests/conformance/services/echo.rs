//! Servers that say who they are, on every port that anyone will try.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use axon_linux::netns;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use serde::{Deserialize, Serialize};

use crate::case::Protocol;

/// How soon a thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// `namespace/pod:port`, `outside/host:port`.
    pub(crate) backend: String,
    /// Who asked, as it sees it.
    pub(crate) peer: SocketAddr,
}

/// Who a server is: by the address that it is asked at, then by the port, then by
/// what everybody else is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) by_address: BTreeMap<IpAddr, String>,
    pub(crate) by_port: BTreeMap<(Protocol, u16), String>,
    pub(crate) other: String,
}

impl Names {
    fn of(&self, at: SocketAddr, protocol: Protocol) -> String {
        let by_address = self.by_address.get(&at.ip().to_canonical());
        let by_port = || self.by_port.get(&(protocol, at.port()));
        let name = by_address.or_else(by_port).unwrap_or(&self.other);
        format!("{name}:{}", at.port())
    }
}

/// Servers that run until dropped.
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    names: Arc<Mutex<Names>>,
    thread: Option<JoinHandle<()>>,
    /// The ports that are served.
    pub(crate) ports: BTreeSet<(Protocol, u16)>,
}

impl Servers {
    /// Starts them in a namespace. All ports are served when this returns, but
    /// those that somebody else has.
    pub(crate) fn start(
        netns: PathBuf,
        names: Names,
        ports: BTreeSet<(Protocol, u16)>,
    ) -> io::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let names = Arc::new(Mutex::new(names));
        let (tell, told) = mpsc::channel();
        let (its_stop, its_names, its_ports) =
            (Arc::clone(&stop), Arc::clone(&names), ports.clone());
        let thread = std::thread::spawn(move || {
            let run = || {
                let (listeners, sockets) = open(&its_ports)?;
                let _ = tell.send(Ok(()));
                let (stop, names) = (&*its_stop, &*its_names);
                std::thread::scope(|scope| {
                    for listener in &listeners {
                        scope.spawn(move || tcp(listener, names, stop));
                    }
                    for (port, socket) in &sockets {
                        scope.spawn(move || udp(socket, *port, names, stop));
                    }
                });
                Ok::<_, io::Error>(())
            };
            let ran = netns::within_path(&netns, run).and_then(|ran| ran);
            if let Err(error) = ran {
                let _ = tell.send(Err(error));
            }
        });
        told.recv().map_err(io::Error::other)??;
        Ok(Self {
            stop,
            names,
            thread: Some(thread),
            ports,
        })
    }

    /// Lets them be others.
    pub(crate) fn rename(&self, names: Names) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
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

type Sockets = (Vec<TcpListener>, Vec<(u16, UdpSocket)>);

/// Sockets at all of these ports that are free.
fn open(ports: &BTreeSet<(Protocol, u16)>) -> io::Result<Sockets> {
    let (mut listeners, mut sockets) = Sockets::default();
    let is_taken = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
    for (protocol, port) in ports {
        let at = SocketAddr::new(IpAddr::from([0; 16]), *port);
        if *protocol == Protocol::Tcp {
            match TcpListener::bind(at) {
                Err(error) if is_taken(&error) => continue,
                other => listeners.push(other?),
            }
        } else {
            let socket = match UdpSocket::bind(at) {
                Err(error) if is_taken(&error) => continue,
                other => other?,
            };
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            socket.set_read_timeout(Some(LOOK))?;
            sockets.push((*port, socket));
        }
    }
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok((listeners, sockets))
}

fn said(names: &Mutex<Names>, at: SocketAddr, protocol: Protocol, peer: SocketAddr) -> Vec<u8> {
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    let said = Said {
        backend: names.of(at, protocol),
        peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
    };
    let mut line = serde_json::to_vec(&said).unwrap_or_default();
    line.push(b'\n');
    line
}

fn tcp(listener: &TcpListener, names: &Mutex<Names>, stop: &AtomicBool) {
    let mut streams: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut is_idle = true;
        while let Ok((stream, _)) = listener.accept() {
            is_idle = false;
            if stream.set_nonblocking(true).is_ok() {
                streams.push(stream);
            }
        }
        streams.retain_mut(|stream| {
            let mut question = [0; 64];
            match stream.read(&mut question) {
                Ok(0) => false,
                Ok(_) => {
                    is_idle = false;
                    answer(stream, names).is_ok()
                }
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
        if is_idle {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn answer(stream: &mut TcpStream, names: &Mutex<Names>) -> io::Result<()> {
    let line = said(
        names,
        stream.local_addr()?,
        Protocol::Tcp,
        stream.peer_addr()?,
    );
    stream.write_all(&line)
}

fn udp(socket: &UdpSocket, port: u16, names: &Mutex<Names>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // Nothing came, or whoever it was is gone.
        let _ = datagram(socket, port, names);
    }
}

fn datagram(socket: &UdpSocket, port: u16, names: &Mutex<Names>) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let mut buffer = [0; 256];
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let to = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
        _ => None,
    });
    let (Some(to), Some(peer)) = (to, got.address) else {
        return Ok(());
    };
    let at = SocketAddr::new(IpAddr::from(to.ipi6_addr.s6_addr), port);
    let line = said(names, at, Protocol::Udp, SocketAddr::V6(peer.into()));
    let from = [ControlMessage::Ipv6PacketInfo(&to)];
    sendmsg(
        fd,
        &[IoSlice::new(&line)],
        &from,
        MsgFlags::empty(),
        Some(&peer),
    )?;
    Ok(())
}
