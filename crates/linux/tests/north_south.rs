//! Services asked from outside, with real traffic: node ports with a backend on
//! this node, elsewhere, and the node itself, over TCP and UDP of both families.
//!
//! ```text
//!  client ── up1 │ up0 ── node ── pod
//!  backend ┘
//! ```
//!
//! The backend elsewhere is beyond the uplink, as is the client; what either sees
//! of the other tells which addresses were put in.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axon_abi::{
    Backend, BackendFlags, Be16, ConfigFlags, FrontendKind, Identity, IpKey, IpcacheFlags,
    IpcacheRow, ListBlock, ListKey, ListRef, RuntimeConfig, ServiceEntry, ServiceKey,
};
use axon_linux::{Datapath, Maps, Sweeper, monotonic_s, netns};
use axon_model::Desired;
use common::{Node, Pod, attached, desired, exec, reconciler, root};

/// A namespace to ask from, the client's address, and what is asked.
type Place = (PathBuf, IpAddr, [(IpAddr, u16); 2]);

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Ports of the node, by where their backends are.
const HERE: u16 = 30080;
const THERE: u16 = 30081;
const NODE: u16 = 30082;
const NOBODY: u16 = 30083;
/// The backends' port.
const BACKEND: u16 = 8080;

/// Addresses of one family.
struct Ends {
    node: &'static str,
    client: &'static str,
    elsewhere: &'static str,
    vip: &'static str,
    pod: &'static str,
}

const V4: Ends = Ends {
    node: "198.51.100.1",
    client: "198.51.100.9",
    elsewhere: "198.51.100.20",
    vip: "203.0.113.80",
    pod: "10.7.0.2",
};
const V6: Ends = Ends {
    node: "2001:db8:5::1",
    client: "2001:db8:5::9",
    elsewhere: "2001:db8:5::20",
    vip: "2001:db8:80::80",
    pod: "fd07::2",
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ips(node: &Node, commands: &[String]) {
    for command in commands {
        let args: Vec<&str> = command.split(' ').collect();
        let output = node.exec("ip", &args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {command}: {error}");
    }
}

/// A node with an uplink, and who is at its other end.
fn connect(node: &Node, outside: &Node) {
    node.run(|| common::veth::add("up0", 0, "up1", 1500));
    ips(
        node,
        &[
            format!("link set up1 netns {}", outside.netns),
            "link set lo up".to_owned(),
            "link set up0 up".to_owned(),
            format!("addr add {}/24 dev up0", V4.node),
            format!("-6 addr add {}/64 dev up0 nodad", V6.node),
        ],
    );
    ips(
        outside,
        &[
            "link set lo up".to_owned(),
            "link set up1 up".to_owned(),
            format!("addr add {}/24 dev up1", V4.client),
            format!("addr add {}/24 dev up1", V4.elsewhere),
            format!("-6 addr add {}/64 dev up1 nodad", V6.client),
            // Nobody's own choice of a source.
            format!(
                "-6 addr add {}/64 dev up1 nodad preferred_lft 0",
                V6.elsewhere
            ),
            format!("route add {} via {}", V4.vip, V4.node),
            format!("-6 route add {} via {}", V6.vip, V6.node),
        ],
    );
    node.run(|| {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "1").expect(name);
        }
    });
}

/// Rows of a node with services.
fn rows(pod: &Pod) -> Desired {
    let desired = desired(&[pod]);
    let own = IpcacheRow {
        identity: Identity::HOST,
        flags: IpcacheFlags::LOCAL_HOST,
        ..IpcacheRow::default()
    };
    desired.ipcache.write(|txn| {
        for addr in [V4.node, V6.node] {
            txn.insert(IpKey::from(ip(addr)), own);
        }
    });
    desired.config.write(|txn| {
        if let (Some(config), IpAddr::V4(v4)) = (txn.get(&0).map(|config| **config), ip(V4.node)) {
            let flags = config.flags
                | ConfigFlags::EVENT_DROP
                | ConfigFlags::EVENT_TRACE
                | ConfigFlags::MASQUERADE_IPV4
                | ConfigFlags::MASQUERADE_IPV6
                | ConfigFlags::SERVICES;
            let row = RuntimeConfig {
                flags,
                node_ipv4: v4.octets(),
                node_ipv6: IpKey::from(ip(V6.node)),
                ..config
            };
            txn.insert(0, row);
        }
    });
    desired
}

/// Writes frontends of a service's port, all with the same backend, if any.
fn serve(maps: &Maps, service: u32, at: &[(&str, u16)], backend: Option<(&str, u16, bool)>) {
    for protocol in [TCP, UDP] {
        let service = service * 2 + u32::from(protocol == UDP);
        let mut list = ListRef::default();
        if let Some((addr, port, is_local)) = backend {
            let local = if is_local { BackendFlags::LOCAL } else { 0 };
            let row = Backend {
                addr: IpKey::from(ip(addr)),
                port: Be16::new(port),
                protocol,
                service,
                flags: BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL | local,
                generation: 1,
                ..Backend::default()
            };
            maps.backend.insert(&service, &row).expect("a backend");
            let mut block = ListBlock::default();
            block.backends[0] = service;
            let key = ListKey {
                list: service,
                block: 0,
            };
            maps.service_list.insert(&key, &block).expect("a list");
            list = ListRef {
                list: service,
                slots: 1,
                maglev: 0,
            };
        }
        for (addr, port) in at {
            let key = ServiceKey {
                addr: IpKey::from(ip(addr)),
                port: Be16::new(*port),
                protocol,
                pad: 0,
            };
            let entry = ServiceEntry {
                service,
                flags: FrontendKind::NodePort as u32,
                internal: list,
                external: list,
                generation: 1,
                ..ServiceEntry::default()
            };
            maps.service.insert(&key, &entry).expect("a frontend");
        }
    }
}

fn services(maps: &Maps) {
    for (ends, first) in [(&V4, 1), (&V6, 11)] {
        let pod = Some((ends.pod, BACKEND, true));
        serve(maps, first, &[(ends.node, HERE), (ends.vip, 80)], pod);
        let elsewhere = Some((ends.elsewhere, BACKEND, false));
        serve(
            maps,
            first + 1,
            &[(ends.node, THERE), (ends.vip, 81)],
            elsewhere,
        );
        let node = Some((ends.node, BACKEND, true));
        serve(maps, first + 2, &[(ends.node, NODE), (ends.vip, 82)], node);
        serve(maps, first + 3, &[(ends.node, NOBODY)], None);
        let whole = ServiceKey {
            addr: IpKey::from(ip(ends.vip)),
            ..ServiceKey::default()
        };
        let entry = ServiceEntry {
            flags: FrontendKind::Address as u32,
            ..ServiceEntry::default()
        };
        maps.service.insert(&whole, &entry).expect("an address");
    }
}

/// The scene of a test.
struct Scene {
    datapath: Datapath,
    pod: Pod,
    outside: Node,
    node: Node,
}

impl Scene {
    fn new(name: &str) -> Self {
        let (node, outside) = (Node::new(name), Node::new(&format!("{name}out")));
        connect(&node, &outside);
        let pod = Pod::create(&node, 2);
        let mut config = node.config();
        config.devices = vec!["up0".to_owned()];
        let datapath = attached(&node, &config, [&pod]);
        let report = reconciler(&node, datapath.maps()).sync(0, &rows(&pod));
        assert_eq!(report.failing_rows(), 0, "{report:?}");
        services(datapath.maps());
        Self {
            datapath,
            pod,
            outside,
            node,
        }
    }

    fn beyond(&self) -> PathBuf {
        netns::path(&self.outside.netns)
    }

    /// Where servers are: their namespace and the addresses that they listen at, by
    /// port of the node, and of the balancer's address.
    fn places(&self, ends: &Ends) -> [Place; 3] {
        let (node, vip) = (ip(ends.node), ip(ends.vip));
        [
            (self.pod.path(), ip(ends.pod), [(node, HERE), (vip, 80)]),
            (
                self.beyond(),
                ip(ends.elsewhere),
                [(node, THERE), (vip, 81)],
            ),
            (
                netns::path(&self.node.netns),
                node,
                [(node, NODE), (vip, 82)],
            ),
        ]
    }
}

fn within<R: Send>(path: &Path, run: impl FnOnce() -> R + Send) -> R {
    netns::within_path(path, run).expect("entered")
}

/// A socket at an address that another of this test has just left: a child of another test's
/// thread holds that one too from its fork to its exec.
fn bound<S>(bind: impl Fn() -> std::io::Result<S>) -> S {
    for _ in 0..500 {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other.expect("a socket"),
        }
    }
    panic!("the address stays in use")
}

/// Connects by way of a frontend, says something, and hears it said back; what the
/// server sees its client as.
fn over_tcp(client: (&Path, IpAddr), server: (&Path, IpAddr), target: SocketAddr) -> SocketAddr {
    let at = SocketAddr::new(server.1, BACKEND);
    let listener = within(server.0, || bound(|| TcpListener::bind(at)));
    let echo = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("a client");
        let mut buffer = Vec::new();
        stream.read_to_end(&mut buffer).expect("what it says");
        stream.write_all(&buffer).expect("said back");
        peer
    });
    let mut stream = within(client.0, || {
        TcpStream::connect_timeout(&target, Duration::from_secs(20))
    })
    .unwrap_or_else(|error| panic!("{target}: {error}"));
    assert_eq!(stream.peer_addr().expect("the other end"), target);
    // More than a segment, each way.
    let said = vec![7; 300_000];
    stream.write_all(&said).expect("said");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("said all");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("an answer");
    assert_eq!(heard.len(), said.len(), "{target}");
    echo.join().expect("the server")
}

/// The same with datagrams of `len` bytes; a client that is connected hears nobody
/// but whom it has asked.
fn over_udp(
    client: (&Path, IpAddr),
    server: (&Path, IpAddr),
    target: SocketAddr,
    len: usize,
) -> SocketAddr {
    let at = SocketAddr::new(server.1, BACKEND);
    let patience = Some(Duration::from_secs(20));
    let listener = within(server.0, || bound(|| UdpSocket::bind(at)));
    listener.set_read_timeout(patience).expect("patience");
    let socket = within(client.0, || UdpSocket::bind((client.1, 0))).expect("a socket");
    socket.set_read_timeout(patience).expect("patience");
    socket.connect(target).expect("connected");
    socket.send(&vec![7; len]).expect("asked");
    let mut buffer = vec![0; 65_536];
    let (n, peer) = listener.recv_from(&mut buffer).expect("what it asks");
    assert_eq!(n, len, "{target}");
    listener.send_to(&buffer[..n], peer).expect("answered");
    let n = socket.recv(&mut buffer).expect("an answer");
    assert_eq!(n, len, "{target}");
    peer
}

#[test]
fn node_ports_lead_to_backends_here_elsewhere_and_to_the_node() {
    let Some(()) = root() else { return };
    let scene = Scene::new("ports");
    let beyond = scene.beyond();
    for ends in [&V4, &V6] {
        let client = ip(ends.client);
        for (n, (path, addr, targets)) in scene.places(ends).into_iter().enumerate() {
            for (to, port) in targets {
                let target = SocketAddr::new(to, port);
                let seen = [
                    over_tcp((&beyond, client), (&path, addr), target),
                    over_udp((&beyond, client), (&path, addr), target, 9),
                    // In fragments, each way.
                    over_udp((&beyond, client), (&path, addr), target, 4000),
                ];
                for peer in seen {
                    let known_as = if n == 1 { ip(ends.node) } else { client };
                    assert_eq!(peer.ip(), known_as, "{target}");
                }
            }
        }
    }
    let _ = &scene.datapath;
}

#[test]
fn whoever_asks_for_nobody_is_told() {
    let Some(()) = root() else { return };
    let scene = Scene::new("refused");
    let beyond = scene.beyond();
    for ends in [&V4, &V6] {
        for (to, port) in [(ends.node, NOBODY), (ends.vip, 99)] {
            let target = SocketAddr::new(ip(to), port);
            let error = within(&beyond, || {
                TcpStream::connect_timeout(&target, Duration::from_secs(20))
            })
            .expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{target}");
            let socket = within(&beyond, || UdpSocket::bind((ip(ends.client), 0)));
            let socket = socket.expect("a socket");
            socket.connect(target).expect("connected");
            let patience = Some(Duration::from_secs(20));
            socket.set_read_timeout(patience).expect("patience");
            socket.send(b"?").expect("asked");
            let error = socket.recv(&mut [0; 16]).expect_err("nobody answers");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{target}");
        }
        for size in ["56", "4000"] {
            let ping = exec(
                &beyond,
                "ping",
                &["-c", "1", "-W", "20", "-s", size, ends.vip],
            );
            assert!(ping.status.success(), "{} answers: {ping:?}", ends.vip);
        }
    }
}

#[test]
fn flows_that_are_over_are_swept_with_their_ports() {
    let Some(()) = root() else { return };
    let scene = Scene::new("swept");
    let beyond = scene.beyond();
    let maps = scene.datapath.maps();
    for ends in [&V4, &V6] {
        let [_, (path, addr, [(to, port), _]), _] = scene.places(ends);
        let target = SocketAddr::new(to, port);
        over_tcp((&beyond, ip(ends.client)), (&path, addr), target);
    }
    let entries = |maps: &Maps| {
        let counts = [maps.service_flow.count(), maps.nat.count()];
        counts.map(|count| count.expect("a count"))
    };
    let [flows, ports] = entries(maps);
    assert_eq!(flows, 4, "two directions of two flows");
    assert!(ports >= 2, "{ports}");
    let mut sweeper = Sweeper::new(maps.clone());
    sweeper.pass(monotonic_s()).expect("a pass");
    assert_eq!(entries(maps)[0], 4, "they were used just now");
    // As if so much time had passed: both ends have said that it is over.
    let later = monotonic_s() + 60;
    sweeper.pass(later).expect("a pass");
    assert_eq!(entries(maps)[0], 0);
    sweeper.pass(later).expect("a pass");
    let lent = ports_lent(maps);
    assert_eq!(lent, 0, "ports outlive their flows");
}

/// Ports of the node that clients of services have.
fn ports_lent(maps: &Maps) -> usize {
    let mut lent = 0;
    maps.nat
        .for_each(|_, entry| {
            lent += usize::from(entry.node_own == axon_abi::NatOwner::SERVICE);
        })
        .expect("a look");
    lent
}
