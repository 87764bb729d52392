//! A port of the node at which anybody may ask, and nobody may stay.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who waits to be let in. The kernel keeps nobody beyond.
const BACKLOG: u32 = 128;

/// Listens at an address; at an unspecified one of either family, at all of both, as Go
/// does.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return one(address);
    }
    match both(address.port()) {
        // The node has no IPv6.
        Err(error) if is_absent(&error) => {
            let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            one(any)
        }
        other => other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL];
    let code = error.raw_os_error().map(Errno::from_raw);
    code.is_some_and(|code| absent.contains(&code))
}

fn both(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    bound(socket, SocketAddr::from(([0_u16; 8], port)))
}

fn one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    bound(socket, address)
}

fn bound(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // Connections of an agent before are no reason to wait.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A port, and how many may be inside all of them.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) turns: Arc<Semaphore>,
    /// Dropped when the port is free.
    pub(super) _closed: oneshot::Sender<()>,
}

impl Listener for Door {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        let (stream, from) = Listener::accept(&mut self.listener).await;
        // Not before somebody is there: doors that nobody knocks at take no turns.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let visit = Visit {
            stream,
            until: Box::pin(tokio::time::sleep(PATIENCE)),
            _turn: turn,
        };
        (visit, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that says what it wants soon, or ends.
pub(super) struct Visit {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// What is written is short: the kernel has room for it at once.
impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
