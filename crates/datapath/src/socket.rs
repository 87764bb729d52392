//! The way of a socket: from a service's address to a backend's, and back.
//!
//! ```text
//!  connect ──┐                  ┌─> remember ─> the backend's address
//!  sendmsg ──┴─> as last time ──┤
//!                └─> select ────┴─> refused
//!  recvmsg, getpeername ─> what is remembered ─> the frontend's address
//!  bind ─> what is a service's is taken
//!  release ─> forgotten
//! ```
//!
//! What is not translated here goes its way as packets, which are balanced too.
//! The kernel asks nothing about what a connected socket sends: when its backend
//! has gone, the socket is ended from outside.

use axon_abi::{
    BackendFlags, BackendState, Be16, DropReason, FrontendKind, IpKey, ServiceClient, ServiceEntry,
    ServiceFlags, ServiceKey, SocketEntry, SocketKey,
};

use crate::header::protocol;
use crate::service::{
    Ask, Asker, Choice, Frontend, ServiceTables, Why, find_frontend, found, on_any_node, select_id,
};

/// A socket whose owner names an address, or is told one.
pub trait Socket {
    /// IP protocol number.
    fn protocol(&self) -> u32;
    /// Whether the address may be one of IPv6.
    fn is_v6(&self) -> bool;
    /// The address: where to, or where from.
    fn addr(&self) -> IpKey;
    /// Its port.
    fn port(&self) -> Be16;
    /// What the kernel tells it from all others by.
    fn cookie(&self) -> u64;
    /// The same of its network namespace; 0 is none.
    fn netns_cookie(&self) -> u64;
    /// Makes address and port others.
    fn redirect(&mut self, addr: &IpKey, port: Be16);
}

/// What sockets ask and write beside what every choice does.
pub trait SocketTables: ServiceTables {
    /// What is remembered of a socket.
    fn socket(&self, key: &SocketKey) -> Option<SocketEntry>;
    /// Remembers it; says whether there was room.
    fn socket_insert(&self, key: &SocketKey, entry: &SocketEntry) -> bool;
    /// Forgets it.
    fn socket_remove(&self, key: &SocketKey);
    /// Whether a network namespace is the node's own.
    fn is_host(&self, netns_cookie: u64) -> bool;
    /// Whether only the node's own sockets are translated
    /// (`bpf-lb-sock-hostns-only`).
    fn host_only(&self) -> bool;
}

/// Why a socket does not get what its owner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody listens there, as a closed port says.
    Closed,
    /// Its packets would be dropped.
    Dropped(DropReason),
    /// The port is a service's.
    InUse,
}

impl Refusal {
    /// What the owner is told, where the kernel lets us say it.
    pub const fn errno(self) -> i32 {
        const EADDRINUSE: i32 = 98;
        const ECONNREFUSED: i32 = 111;
        const EHOSTUNREACH: i32 = 113;
        match self {
            Self::Closed => ECONNREFUSED,
            Self::Dropped(_) => EHOSTUNREACH,
            Self::InUse => EADDRINUSE,
        }
    }

    /// Under what it is counted: what sends is.
    pub const fn reason(self) -> Option<DropReason> {
        match self {
            Self::Closed => Some(DropReason::ServiceBackendNotFound),
            Self::Dropped(reason) => Some(reason),
            Self::InUse => None,
        }
    }
}

/// Leads a connection to a service's address to a backend.
///
/// # Errors
/// [`Refusal`]: the connection fails at once.
#[inline(always)]
pub fn connect<S: Socket, T: SocketTables>(socket: &mut S, tables: &T) -> Result<(), Refusal> {
    let Some(mut ask) = asked(socket, tables) else {
        return Ok(());
    };
    let mut frontend = Frontend::default();
    let mut choice = Choice::default();
    if find(tables, &ask, &mut frontend) {
        pick(tables, &mut ask, &frontend, &mut choice)?;
        direct(socket, tables, &ask, &choice);
    }
    Ok(())
}

/// Leads a datagram to a service's address to a backend: to that of the datagrams
/// before, as long as it is the service's.
///
/// # Errors
/// [`Refusal`]: the datagram is not sent.
#[inline(always)]
pub fn send<S: Socket, T: SocketTables>(socket: &mut S, tables: &T) -> Result<(), Refusal> {
    let Some(mut ask) = asked(socket, tables) else {
        return Ok(());
    };
    let mut frontend = Frontend::default();
    let mut choice = Choice::default();
    if !find(tables, &ask, &mut frontend) {
        return Ok(());
    }
    // Affinity remembers by itself, and for how long it shall.
    let is_sticky = !frontend.entry.has(ServiceFlags::AFFINITY);
    let cookie = socket.cookie();
    let is_kept = is_sticky && earlier(tables, cookie, &ask, &frontend, &mut choice);
    if !is_kept {
        pick(tables, &mut ask, &frontend, &mut choice)?;
    }
    if is_sticky && choice.by != Why::Earlier {
        keep_choice(tables, cookie, &ask, &choice);
    }
    direct(socket, tables, &ask, &choice);
    Ok(())
}

/// Tells the owner of a socket the address that it spoke to, where a backend has
/// answered or is asked for.
#[inline(always)]
pub fn reverse<S: Socket, T: SocketTables>(socket: &mut S, tables: &T) {
    let Some(protocol) = balanced(socket.protocol()) else {
        return;
    };
    let key = SocketKey::answer(socket.cookie(), socket.addr(), socket.port(), protocol);
    if let Some(known) = tables.socket(&key) {
        socket.redirect(&known.addr, known.port);
    }
}

/// Whether a socket may have the address and port that it was just bound to: one
/// that would take a service's traffic for itself, or never see any, may not.
///
/// # Errors
/// [`Refusal::InUse`].
#[inline(always)]
pub fn bind<S: Socket, T: SocketTables>(socket: &S, tables: &T) -> Result<(), Refusal> {
    let Some(protocol) = balanced(socket.protocol()) else {
        return Ok(());
    };
    // In a pod's namespace ports are the pod's.
    if !tables.is_host(socket.netns_cookie()) {
        return Ok(());
    }
    let addr = socket.addr();
    let mut key = ServiceKey {
        addr,
        port: socket.port(),
        protocol,
        pad: 0,
    };
    let mut taken = is_taken(tables, &key);
    if !taken && on_any_node(tables, Asker::Node, &addr) {
        key.addr = unspecified(addr.is_v4());
        taken = is_taken(tables, &key);
    }
    if !taken && addr == IpKey::UNSPECIFIED {
        // It may hear IPv4 too.
        key.addr = unspecified(true);
        taken = is_taken(tables, &key);
    }
    if taken { Err(Refusal::InUse) } else { Ok(()) }
}

/// Forgets a socket that is closed. Its address and port are those that it is
/// connected to.
#[inline(always)]
pub fn release<S: Socket, T: SocketTables>(socket: &S, tables: &T) {
    let Some(protocol) = balanced(socket.protocol()) else {
        return;
    };
    let (cookie, port) = (socket.cookie(), socket.port());
    if port.get() != 0 {
        tables.socket_remove(&SocketKey::answer(cookie, socket.addr(), port, protocol));
    }
    if protocol != protocol::UDP {
        return;
    }
    let first = SocketKey::first_choice(cookie, protocol);
    let Some(known) = tables.socket(&first) else {
        return;
    };
    if let Some(backend) = tables.backend(known.backend) {
        let key = SocketKey::answer(cookie, backend.addr, backend.port, protocol);
        tables.socket_remove(&key);
    }
    tables.socket_remove(&first);
}

/// The protocols that are balanced by sockets. Those of SCTP are not asked about
/// by the kernel.
#[inline(always)]
const fn balanced(number: u32) -> Option<u8> {
    const TCP: u32 = protocol::TCP as u32;
    const UDP: u32 = protocol::UDP as u32;
    match number {
        TCP => Some(protocol::TCP),
        UDP => Some(protocol::UDP),
        _ => None,
    }
}

/// What a socket asks; `None` if it is not to be translated.
#[inline(always)]
fn asked<S: Socket, T: SocketTables>(socket: &S, tables: &T) -> Option<Ask> {
    let protocol = balanced(socket.protocol())?;
    let netns = socket.netns_cookie();
    let is_host = tables.is_host(netns);
    if tables.host_only() && !is_host {
        return None;
    }
    Some(Ask {
        asker: if is_host { Asker::Node } else { Asker::Pod },
        addr: socket.addr(),
        port: socket.port(),
        protocol,
        client: ServiceClient::namespace(netns),
        // What it will send from is not known yet, and nobody inside is asked for it.
        source: IpKey::UNSPECIFIED,
        source_port: Be16::ZERO,
    })
}

/// The frontend, if its connections are led by sockets.
// Out of line, as what follows: a program has little stack, and these need it one after the other.
#[inline(never)]
fn find<T: SocketTables>(tables: &T, ask: &Ask, found: &mut Frontend) -> bool {
    if !find_frontend(tables, ask, found) {
        return false;
    }
    // Pods that pass by a redirection are told by their addresses, which packets have.
    let passes_by = ServiceFlags::SKIP_OWN | ServiceFlags::SKIP_AWAY;
    ask.asker != Asker::Pod || found.entry.flags & passes_by == 0
}

/// Chooses a backend for who asks.
#[inline(never)]
fn pick<T: SocketTables>(
    tables: &T,
    ask: &mut Ask,
    frontend: &Frontend,
    choice: &mut Choice,
) -> Result<(), Refusal> {
    // Node and pods choose alike; that it is neither of the network spares the program its code.
    ask.asker = Asker::Pod;
    if frontend.entry.kind() == Some(FrontendKind::Address) {
        return Err(Refusal::Closed);
    }
    let chosen = select_id(tables, ask, frontend).map_err(Refusal::Dropped)?;
    let (id, by) = chosen.ok_or(Refusal::Closed)?;
    let backend = found(tables, id).map_err(Refusal::Dropped)?;
    choice.take(backend, id, frontend, by);
    Ok(())
}

/// Leads a socket to a backend, and remembers by whose answers the frontend is
/// found.
///
/// Where that fails, packets are translated instead: an owner who is told addresses
/// that he does not know is worse off. So are those of a family that is answered in
/// the other.
#[inline(always)]
fn direct<S: Socket, T: SocketTables>(socket: &mut S, tables: &T, ask: &Ask, choice: &Choice) {
    let addr = &choice.backend.addr;
    let reaches = ask.addr.is_v4() == addr.is_v4() && (socket.is_v6() || addr.is_v4());
    if reaches && remember(tables, socket.cookie(), ask, choice) {
        socket.redirect(addr, choice.backend.port);
    }
}

/// What begins at a whole word: the kernel lets no program write a word to its stack elsewhere.
#[repr(align(8))]
struct Aligned<T>(T);

#[inline(always)]
fn entry(ask: &Ask, choice: &Choice) -> Aligned<SocketEntry> {
    Aligned(SocketEntry {
        addr: ask.addr,
        port: ask.port,
        backend_generation: choice.backend.generation as u16,
        service: choice.service,
        backend: choice.id,
        generation: choice.generation,
    })
}

/// Remembers a socket's frontend under its backend; says whether there was room.
#[inline(never)]
fn remember<T: SocketTables>(tables: &T, cookie: u64, ask: &Ask, choice: &Choice) -> bool {
    let backend = &choice.backend;
    let key = SocketKey::answer(cookie, backend.addr, backend.port, ask.protocol);
    let entry = entry(ask, choice);
    if let Some(known) = tables.socket(&key)
        && known == entry.0
    {
        return true;
    }
    tables.socket_insert(&key, &entry.0)
}

/// The row of a socket's choice for a frontend, and what is there: the first
/// one's if that is the frontend or there is none yet, else one of its own.
#[inline(always)]
fn place<T: SocketTables>(tables: &T, cookie: u64, ask: &Ask) -> (SocketKey, Option<SocketEntry>) {
    let first = SocketKey::first_choice(cookie, ask.protocol);
    match tables.socket(&first) {
        Some(known) if (known.addr, known.port) != (ask.addr, ask.port) => {
            let own = SocketKey::choice(cookie, ask.addr, ask.port, ask.protocol);
            let known = tables.socket(&own);
            (own, known)
        }
        known => (first, known),
    }
}

/// Keeps what was chosen for a socket's datagrams. Without room the next may go
/// elsewhere, which datagrams may.
#[inline(never)]
fn keep_choice<T: SocketTables>(tables: &T, cookie: u64, ask: &Ask, choice: &Choice) {
    let (key, _) = place(tables, cookie, ask);
    let _ = tables.socket_insert(&key, &entry(ask, choice).0);
}

/// Takes the backend of the datagrams before, if it may have this one too; says so.
#[inline(never)]
fn earlier<T: SocketTables>(
    tables: &T,
    cookie: u64,
    ask: &Ask,
    frontend: &Frontend,
    choice: &mut Choice,
) -> bool {
    let Some(known) = place(tables, cookie, ask).1 else {
        return false;
    };
    let Some(now) = tables.backend(known.backend) else {
        return false;
    };
    let is_his = known.means(now)
        && (now.service == frontend.entry.service || frontend.is_external)
        && now.addr.is_v4() == ask.addr.is_v4();
    let listed = if frontend.is_external {
        BackendFlags::IN_EXTERNAL
    } else {
        BackendFlags::IN_INTERNAL
    };
    let is_as_before = known.generation == frontend.entry.generation;
    // One that takes nothing new may end what it has begun; one that is active and not asked by
    // this frontend any more has been replaced.
    let still = is_as_before || now.flags & listed != 0 || now.state != BackendState::Active as u8;
    if !is_his || !still {
        return false;
    }
    let by = if is_as_before {
        Why::Earlier
    } else {
        Why::Kept
    };
    choice.take(now, known.backend, frontend, by);
    true
}

/// The address under which a port of whichever node stands.
#[inline(always)]
const fn unspecified(is_v4: bool) -> IpKey {
    if is_v4 {
        IpKey::from_v4([0; 4])
    } else {
        IpKey::UNSPECIFIED
    }
}

/// Whether traffic to an address and port of the node is a service's.
#[inline(always)]
fn is_taken<T: SocketTables>(tables: &T, key: &ServiceKey) -> bool {
    let kind = tables.service(key).and_then(ServiceEntry::kind);
    matches!(
        kind,
        Some(FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp)
    )
}
