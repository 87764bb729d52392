//! Forged source addresses, from a device that is neither an uplink nor an
//! endpoint's: the kernel forwards them. As an endpoint nothing is delivered;
//! whoever has the node's address is of the world, and whoever has one of the
//! cluster is unknown, unless that is where its routes lead.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use axon_abi::{
    DropReason, Identity, IdentityRow, IpKey, IpcacheFlags, IpcacheRow, PolicyEntry, PolicyKey,
    PolicySetFlags, Scope, class,
};
use axon_linux::{netns, read_metrics};
use axon_model::PolicyRows;
use common::{Node, Pod, attached, desired, reconciler, root};

/// The node's own addresses.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// An endpoint of another node.
const REMOTE: [&str; 2] = ["10.8.0.5", "fd08::5"];
/// What ends a series of datagrams.
const LAST: &[u8] = b"last";

fn ip(node: &Node, commands: &[&str]) {
    for command in commands {
        let args: Vec<&str> = command.split(' ').collect();
        let output = node.exec("ip", &args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {command}: {error}");
    }
}

fn switch(node: &Node, switches: &[(&str, &str)]) {
    node.run(|| {
        for (name, value) in switches {
            std::fs::write(format!("/proc/sys/net/{name}"), value).expect(name);
        }
    });
}

/// A node that forwards, and a stranger behind a device of it who has the
/// node's and an endpoint's addresses too.
fn connect(node: &Node, stranger: &Node) {
    node.run(|| common::veth::add("st0", 0, "st1", 1500));
    ip(
        node,
        &[
            &format!("link set st1 netns {}", stranger.netns),
            "link set lo up",
            "link set st0 up",
            "addr add 192.0.2.1/32 dev lo",
            "-6 addr add 2001:db8::1/128 dev lo nodad",
            "addr add 198.51.100.1/24 dev st0",
            "-6 addr add 2001:db8:5::1/64 dev st0 nodad",
        ],
    );
    // As lenient as a kernel can be told to be.
    switch(
        node,
        &[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/st0/rp_filter", "0"),
            ("ipv4/conf/st0/accept_local", "1"),
        ],
    );
    ip(
        stranger,
        &[
            "link set st1 up",
            "addr add 198.51.100.9/24 dev st1",
            "-6 addr add 2001:db8:5::9/64 dev st1 nodad",
            "route add default via 198.51.100.1",
            "-6 route add default via 2001:db8:5::1",
            "addr add 192.0.2.1/32 dev st1",
            "-6 addr add 2001:db8::1/128 dev st1 nodad",
            "addr add 10.7.0.2/32 dev st1",
            "-6 addr add fd07::2/128 dev st1 nodad",
            "addr add 10.8.0.5/32 dev st1",
            "-6 addr add fd08::5/128 dev st1 nodad",
        ],
    );
}

fn sender(from: &Node, source: &str) -> UdpSocket {
    let source: IpAddr = source.parse().expect("an address");
    from.run(|| UdpSocket::bind((source, 0)).expect("a socket"))
}

/// How many datagrams are forged at once.
const FLOOD: u64 = 3;

fn flood(forger: &UdpSocket, to: SocketAddr) {
    for _ in 0..FLOOD {
        forger.send_to(b"forged", to).expect("sent");
    }
}

/// An endpoint that takes datagrams.
struct Receiver {
    socket: UdpSocket,
    addr: SocketAddr,
}

impl Receiver {
    fn new(pod: &Pod, addr: &str) -> Self {
        let addr: IpAddr = addr.parse().expect("an address");
        let socket = netns::within(pod.netns.as_fd(), || UdpSocket::bind((addr, 0)))
            .expect("entered")
            .expect("a socket");
        let wait = Some(Duration::from_secs(30));
        socket.set_read_timeout(wait).expect("a timeout");
        let addr = socket.local_addr().expect("its address");
        Self { socket, addr }
    }

    /// What is sent comes, and nothing that was forged before; says from whom.
    fn hears(&self, from: &UdpSocket) -> IpAddr {
        from.send_to(LAST, self.addr).expect("sent");
        let mut buffer = [0; 16];
        let (len, source) = self.socket.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..len], LAST, "{source}");
        source.ip()
    }
}

#[test]
fn nobody_is_taken_for_the_node_by_its_address() {
    let Some(()) = root() else { return };
    let (node, stranger) = (Node::new("origin"), Node::new("stranger"));
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    connect(&node, &stranger);
    let datapath = attached(&node, &node.config(), [&a, &b]);
    let desired = desired(&[&a, &b]);
    desired.ipcache.write(|txn| {
        for addr in NODE {
            let addr: IpAddr = addr.parse().expect("an address");
            let row = IpcacheRow {
                identity: Identity::HOST,
                flags: IpcacheFlags::LOCAL_HOST,
                ..IpcacheRow::default()
            };
            txn.insert(IpKey::from(addr), row);
        }
        for addr in REMOTE {
            let addr: IpAddr = addr.parse().expect("an address");
            let row = IpcacheRow {
                identity: Identity(2000),
                flags: IpcacheFlags::WORKLOAD,
                ..IpcacheRow::default()
            };
            txn.insert(IpKey::from(addr), row);
        }
    });
    desired
        .identities
        .write(|txn| txn.insert(Identity(2000), IdentityRow::default()));
    let mut reconciler = reconciler(&node, datapath.maps());
    let report = reconciler.sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let counted = |reason: DropReason| -> u64 {
        let metrics = read_metrics(datapath.maps()).expect("metrics");
        let rows = metrics.iter().filter(|row| row.reason == reason as u8);
        rows.map(|row| row.packets).sum()
    };
    for (pod, own, other) in [
        ("10.7.0.1", "198.51.100.9", "10.7.0.2"),
        ("fd07::1", "2001:db8:5::9", "fd07::2"),
    ] {
        let to = Receiver::new(&a, pod);
        let honest = sender(&stranger, own);
        assert_eq!(
            to.hears(&honest),
            own.parse::<IpAddr>().expect("an address")
        );
        let before = counted(DropReason::InvalidSourceIp);
        flood(&sender(&stranger, other), to.addr);
        // What was forged would have come before this.
        to.hears(&honest);
        assert_eq!(
            counted(DropReason::InvalidSourceIp) - before,
            FLOOD,
            "{pod}"
        );
        // The world may come, so whoever has the node's address may.
        let node_addr = if to.addr.is_ipv4() { NODE[0] } else { NODE[1] };
        to.hears(&sender(&stranger, node_addr));
    }
    desired
        .policy_sets
        .write(|txn| txn.insert(2, only_cluster()));
    desired
        .endpoints
        .write(|txn| txn.insert(a.ifindex, a.row(1000, 2)));
    let report = reconciler.sync(1, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    for (pod, node_addr) in [("10.7.0.1", NODE[0]), ("fd07::1", NODE[1])] {
        let to = Receiver::new(&a, pod);
        let before = counted(DropReason::PolicyDenied);
        flood(&sender(&stranger, node_addr), to.addr);
        // The node itself may always come.
        to.hears(&sender(&node, node_addr));
        assert_eq!(counted(DropReason::PolicyDenied) - before, FLOOD, "{pod}");
    }
    for (pod, node_addr, remote, via) in [
        ("10.7.0.1", NODE[0], REMOTE[0], "198.51.100.9"),
        ("fd07::1", NODE[1], REMOTE[1], "2001:db8:5::9"),
    ] {
        let to = Receiver::new(&a, pod);
        let before = counted(DropReason::PolicyDenied);
        flood(&sender(&stranger, remote), to.addr);
        to.hears(&sender(&node, node_addr));
        assert_eq!(counted(DropReason::PolicyDenied) - before, FLOOD, "{pod}");
        ip(&node, &[&format!("route add {remote} via {via}")]);
        to.hears(&sender(&stranger, remote));
    }
}

/// The node, and who is of the cluster.
fn only_cluster() -> PolicyRows {
    let mut rows = PolicyRows::default();
    rows.set.flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
    rows.set.ingress_prefixes = 1;
    let key = PolicyKey {
        set: 2,
        class: class::default_of(Scope::Cluster),
        ..PolicyKey::default()
    };
    let allow = PolicyEntry {
        precedence: 1,
        ..PolicyEntry::default()
    };
    rows.entries.insert(key, allow);
    rows
}
