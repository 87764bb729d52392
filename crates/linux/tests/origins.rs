//! Forged source addresses, from a device that is neither an uplink nor an
//! endpoint's: the kernel forwards them, the programs do not deliver them.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use axon_abi::{DropReason, Identity, IpKey, IpcacheFlags, IpcacheRow};
use axon_linux::{netns, read_metrics};
use common::{Node, Pod, desired, open, reconciler, root};

/// The node's own addresses.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
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
        ],
    );
}

fn sender(from: &Node, source: &str) -> UdpSocket {
    let source: IpAddr = source.parse().expect("an address");
    from.run(|| UdpSocket::bind((source, 0)).expect("a socket"))
}

#[test]
fn nobody_is_taken_for_the_node_by_its_address() {
    let Some(()) = root() else { return };
    let (node, stranger) = (Node::new("origin"), Node::new("stranger"));
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    connect(&node, &stranger);
    let mut datapath = open(&node, &node.config());
    for pod in [&a, &b] {
        node.run(|| datapath.attach_endpoint(pod.ifindex))
            .expect("attached");
    }
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
    });
    let report = reconciler(&node, datapath.maps()).sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let refused = || -> u64 {
        let metrics = read_metrics(datapath.maps()).expect("metrics");
        let rows = metrics.iter();
        rows.filter(|row| row.reason == DropReason::InvalidSourceIp as u8)
            .map(|row| row.packets)
            .sum()
    };
    for (pod, own, forged) in [
        ("10.7.0.1", "198.51.100.9", ["192.0.2.1", "10.7.0.2"]),
        ("fd07::1", "2001:db8:5::9", ["2001:db8::1", "fd07::2"]),
    ] {
        let pod: IpAddr = pod.parse().expect("an address");
        let receiver = netns::within(a.netns.as_fd(), || UdpSocket::bind((pod, 0)))
            .expect("entered")
            .expect("a socket");
        let wait = Some(Duration::from_secs(30));
        receiver.set_read_timeout(wait).expect("a timeout");
        let to: SocketAddr = receiver.local_addr().expect("its address");
        let mut buffer = [0; 16];
        let mut arrive = |from: &UdpSocket| {
            from.send_to(LAST, to).expect("sent");
            let (len, source) = receiver.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], LAST, "{source}");
            source.ip()
        };
        let honest = sender(&stranger, own);
        assert_eq!(arrive(&honest), own.parse::<IpAddr>().expect("an address"));
        let before = refused();
        for source in forged {
            let forger = sender(&stranger, source);
            for _ in 0..3 {
                forger.send_to(b"forged", to).expect("sent");
            }
        }
        // What was forged would have come before this.
        arrive(&honest);
        assert_eq!(refused() - before, 6, "{pod}");
        let own = if pod.is_ipv4() { NODE[0] } else { NODE[1] };
        let own = sender(&node, own);
        assert!(NODE.contains(&arrive(&own).to_string().as_str()));
    }
}
