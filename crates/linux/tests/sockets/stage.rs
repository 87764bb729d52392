//! A node and its pods, their backends, and a cgroup that this process is in.
//!
//! To verify the programs takes seconds, so tests that follow one another have one
//! node: each opens the datapath there, which finds the programs in force, and begins
//! with empty tables. The last one takes the node away.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axon_abi::{
    Backend, BackendFlags, Be16, FrontendKind, IpKey, LIST_BLOCK_SLOTS, ListBlock, ListKey,
    ListRef, ServiceEntry, ServiceKey,
};
use axon_linux::process::{self, Place};
use axon_linux::{Datapath, DatapathConfig, Maps, SocketMode, cgroup, netns};

use crate::common::{Node, open, root};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// How long an answer may take on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What tests take one after the other: this process is in one cgroup at a time.
static GROUND: Mutex<Option<Ground>> = Mutex::new(None);

/// Tests that have the ground, or wait for it.
static TAKERS: AtomicUsize = AtomicUsize::new(0);

/// Where somebody serves: the namespace, the protocol, the address.
static SERVING: Mutex<BTreeSet<(u64, u8, String)>> = Mutex::new(BTreeSet::new());

/// A node, with this process in its cgroup. The fields go in this order.
struct Ground {
    node: Node,
    group: Group,
}

/// A cgroup with this process in it, until dropped.
struct Group {
    path: PathBuf,
    before: PathBuf,
}

impl Group {
    fn enter() -> Self {
        let mount = cgroup::mount_point().expect("a cgroup2 file system");
        let path = mount.join(format!("axt-sockets-{}", std::process::id()));
        let before = mount.join(cgroup::current().expect("a cgroup"));
        cgroup::create(&path).expect("a cgroup");
        cgroup::enter(&path, std::process::id()).expect("entered");
        Self { path, before }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        cgroup::enter(&self.before, std::process::id()).expect("left");
        cgroup::kill(&self.path, PATIENCE).expect("nobody is in it");
        cgroup::remove(&self.path).expect("removed");
    }
}

/// Counts a test among the takers, until dropped.
struct Taker;

impl Taker {
    fn new() -> Self {
        TAKERS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        TAKERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A frontend and who is behind it.
pub(crate) struct Service<'a> {
    pub(crate) number: u32,
    pub(crate) at: &'a str,
    pub(crate) protocol: u8,
    pub(crate) kind: FrontendKind,
    pub(crate) flags: u32,
    /// Ids and addresses.
    pub(crate) backends: &'a [(u32, &'a str)],
    pub(crate) generation: u32,
}

impl<'a> Service<'a> {
    pub(crate) fn new(protocol: u8, at: &'a str, backends: &'a [(u32, &'a str)]) -> Self {
        Self {
            number: 1,
            at,
            protocol,
            kind: FrontendKind::ClusterIp,
            flags: 0,
            backends,
            generation: 1,
        }
    }
}

/// A network namespace with addresses on its loopback device.
pub(crate) struct Pod(File);

impl Pod {
    pub(crate) fn run<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        netns::within(self.0.as_fd(), run).expect("the pod's namespace")
    }

    /// Its path, through this process's descriptor.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        let (pid, fd) = (std::process::id(), self.0.as_raw_fd());
        PathBuf::from(format!("/proc/{pid}/fd/{fd}"))
    }
}

/// All of it. The fields go in this order.
pub(crate) struct Stage {
    datapath: Option<Datapath>,
    ground: MutexGuard<'static, Option<Ground>>,
    _taker: Taker,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.datapath = None;
        // Nobody follows, or nobody knows in what state it is.
        if TAKERS.load(Ordering::SeqCst) == 1 || std::thread::panicking() {
            *self.ground = None;
        }
    }
}

impl Stage {
    /// A node whose loopback device has these addresses; `None` without root.
    pub(crate) fn new(addresses: &[&str]) -> Option<Self> {
        root()?;
        let taker = Taker::new();
        let mut ground = GROUND.lock().unwrap_or_else(PoisonError::into_inner);
        ground.get_or_insert_with(|| Ground {
            group: Group::enter(),
            node: Node::new("sock"),
        });
        let mut stage = Self {
            datapath: None,
            ground,
            _taker: taker,
        };
        stage.run(|| give_addresses(addresses));
        stage.reopen(|_| {});
        stage.clear();
        Some(stage)
    }

    fn ground(&self) -> &Ground {
        self.ground.as_ref().expect("taken")
    }

    pub(crate) fn node(&self) -> &Node {
        &self.ground().node
    }

    /// The cgroup that this process is in.
    pub(crate) fn cgroup(&self) -> PathBuf {
        self.ground().group.path.clone()
    }

    /// Forgets what the test before has written, and its sockets.
    fn clear(&self) {
        macro_rules! empty {
            ($($map:ident),*) => {$(
                let rows = self.maps().$map.dump().expect("rows");
                let keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
                let kept = self.maps().$map.remove_all(&keys);
                assert!(kept.is_empty(), "{kept:?}");
            )*};
        }
        empty!(service, service_list, backend, socket);
        let uses = self.maps().pressure().expect("counts");
        let left: Vec<_> = uses.iter().filter(|one| one.entries > 0).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The configuration, with sockets.
    pub(crate) fn config(&self) -> DatapathConfig {
        DatapathConfig {
            sockets: SocketMode::At {
                cgroup: self.cgroup(),
                host_only: false,
                bind_protection: true,
            },
            ..self.node().config()
        }
    }

    /// Opens the datapath anew, with something changed.
    pub(crate) fn reopen(&mut self, change: impl FnOnce(&mut DatapathConfig)) {
        self.datapath = None;
        let mut config = self.config();
        change(&mut config);
        self.datapath = Some(open(self.node(), &config));
    }

    pub(crate) fn close(&mut self) {
        self.datapath = None;
    }

    pub(crate) fn datapath(&self) -> &Datapath {
        self.datapath.as_ref().expect("open")
    }

    /// Looks after what is in force, in the node's namespace.
    pub(crate) fn repair(&mut self) -> axon_linux::Repair {
        let datapath = self.datapath.as_mut().expect("open");
        let repair = || datapath.repair(&[], &[]).expect("repaired");
        let ground = self.ground.as_ref().expect("taken");
        ground.node.run(repair)
    }

    pub(crate) fn maps(&self) -> &Maps {
        self.datapath().maps()
    }

    /// Runs something in the node's own namespace.
    pub(crate) fn run<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        self.node().run(run)
    }

    pub(crate) fn pod(&self, addresses: &[&str]) -> Pod {
        let pod = Pod(netns::create_anonymous().expect("a namespace"));
        pod.run(|| give_addresses(addresses));
        pod
    }

    /// Writes a service's rows, as a reconciler does.
    pub(crate) fn put(&self, service: &Service<'_>) {
        let maps = self.maps();
        for (id, addr) in service.backends {
            let addr: SocketAddr = addr.parse().expect("an address");
            let backend = Backend {
                addr: IpKey::from(addr.ip()),
                port: Be16::new(addr.port()),
                protocol: service.protocol,
                service: service.number,
                flags: BackendFlags::IN_INTERNAL,
                ..Backend::default()
            };
            maps.backend.insert(id, &backend).expect("a backend");
        }
        let list = service.number * 1000 + service.generation;
        for (n, ids) in service
            .backends
            .chunks(LIST_BLOCK_SLOTS as usize)
            .enumerate()
        {
            let mut block = ListBlock::default();
            for (slot, (id, _)) in block.backends.iter_mut().zip(ids) {
                *slot = *id;
            }
            let block_number = u32::try_from(n).expect("few");
            let key = ListKey {
                list,
                block: block_number,
            };
            maps.service_list.insert(&key, &block).expect("a list");
        }
        let slots = u32::try_from(service.backends.len()).expect("few");
        let entry = ServiceEntry {
            service: service.number,
            flags: service.kind as u32 | service.flags,
            internal: ListRef {
                list: if slots == 0 { 0 } else { list },
                slots,
                maglev: 0,
            },
            generation: service.generation,
            ..ServiceEntry::default()
        };
        let key = key(service.at, service.protocol);
        maps.service.insert(&key, &entry).expect("a frontend");
    }

    /// Says of a backend that it is gone, as a reconciler does before its row goes.
    pub(crate) fn mark(&self, id: u32) {
        let maps = self.maps();
        let backend = maps.backend.get(&id).expect("a look").expect("a backend");
        let marked = Backend {
            flags: 0,
            generation: backend.generation + 1,
            ..backend
        };
        maps.backend.insert(&id, &marked).expect("marked");
    }

    /// Rows of sockets.
    pub(crate) fn remembered(&self) -> u32 {
        self.maps().socket.count().expect("a count")
    }
}

pub(crate) fn key(at: &str, protocol: u8) -> ServiceKey {
    let at: SocketAddr = at.parse().expect("an address");
    ServiceKey {
        addr: IpKey::from(at.ip()),
        port: Be16::new(at.port()),
        protocol,
        pad: 0,
    }
}

fn give_addresses(addresses: &[&str]) {
    for address in addresses {
        let mut command = Command::new("ip");
        command.args(["addr", "replace", address, "dev", "lo"]);
        if address.contains(':') {
            command.arg("nodad");
        }
        let child = process::spawn(command, &Place::default()).expect("ip");
        let output = child.wait_with_output().expect("ip ends");
        assert!(output.status.success(), "{address}: {output:?}");
    }
}

/// Answers whoever connects, or sends a datagram, by the backend's address. In the
/// calling thread's namespace, and as long as this process lives: where a test before
/// has had one, it is there.
pub(crate) fn serve(protocol: u8, at: &str) {
    let name = at.to_owned();
    // Its number is not given again: the server holds the namespace.
    let place = (netns::inode().expect("a namespace"), protocol, name.clone());
    let mut serving = SERVING.lock().unwrap_or_else(PoisonError::into_inner);
    if !serving.insert(place) {
        return;
    }
    if protocol == TCP {
        let listener = TcpListener::bind(at).expect("a listener");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let name = name.clone();
                std::thread::spawn(move || {
                    let _ = stream.write_all(format!("{name}\n").as_bytes());
                    // Until the client goes.
                    let _ = stream.read(&mut [0]);
                });
            }
        });
        return;
    }
    let socket = UdpSocket::bind(at).expect("a socket");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

/// Connects and reads who it is.
pub(crate) fn talk(to: &str) -> std::io::Result<(TcpStream, String)> {
    let to: SocketAddr = to.parse().expect("an address");
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        answer.push(byte[0]);
    }
    Ok((stream, String::from_utf8_lossy(&answer).into_owned()))
}

/// A socket for datagrams of an address's family.
pub(crate) fn datagrams(to: &str) -> UdpSocket {
    let to: SocketAddr = to.parse().expect("an address");
    let any: IpAddr = if to.is_ipv4() {
        "0.0.0.0".parse().expect("an address")
    } else {
        "::".parse().expect("an address")
    };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Asks by a datagram; says who has answered, and from where that came.
pub(crate) fn ask(socket: &UdpSocket, to: &str) -> std::io::Result<(String, String)> {
    socket.send_to(b"who?", to)?;
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
    Ok((answer, from.to_string()))
}
