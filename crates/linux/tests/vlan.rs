//! Frames with tags, to a node that is held to policy itself: a tag that tells a
//! priority alone hides nothing, and a VLAN is held at its own device.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use axon_abi::{
    ConfigFlags, DropReason, EndpointRow, HOST_DEVICE, Identity, IpKey, IpcacheFlags, IpcacheRow,
    PolicySetFlags,
};
use axon_linux::{Maps, read_metrics};
use axon_model::{Desired, PolicyRows};
use common::{Node, desired, open, reconciler, root};
use nix::sys::socket::{MsgFlags, send};

const PORT: u16 = 9000;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
/// The VLAN that has a device.
const ID: u16 = 5;
/// A priority, and no VLAN.
const PRIORITY: u16 = 5 << 13;

fn ip(node: &Node, command: &str) -> bool {
    let args: Vec<&str> = command.split(' ').collect();
    node.exec("ip", &args).status.success()
}

fn checksum(header: &[u8]) -> [u8; 2] {
    let words = header.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).expect("16 bits")).to_be_bytes()
}

/// A datagram to the node behind tags, each a type and what it says.
fn frame(network: u8, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (ethertype, tag) in tags {
        frame.extend(ethertype.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend([0x08, 0x00]);
    let payload = b"heard?";
    let mut header = vec![0x45, 0, 0, 34, 0, 1, 0x40, 0, 64, 17, 0, 0];
    header.extend([198, 51, network, 9, 198, 51, network, 1]);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    frame.extend(header);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    // Without a checksum.
    frame.extend([0, 14, 0, 0]);
    frame.extend(payload);
    // As short as a frame may be.
    frame.resize(60 + 4 * tags.len(), 0);
    frame
}

fn counted(maps: &Maps, reason: DropReason) -> u64 {
    let metrics = read_metrics(maps).expect("metrics");
    let rows = metrics.iter().filter(|row| row.reason == reason as u8);
    rows.map(|row| row.packets).sum()
}

/// A node's server and who calls it by frames.
struct Ends {
    server: UdpSocket,
    client: OwnedFd,
}

impl Ends {
    fn send(&self, network: u8, tags: &[(u16, u16)]) {
        let frame = frame(network, tags);
        send(self.client.as_raw_fd(), &frame, MsgFlags::empty()).expect("sent");
    }

    fn is_heard(&self, network: u8, tags: &[(u16, u16)]) {
        self.send(network, tags);
        let heard = self.server.recv(&mut [0; 64]);
        heard.unwrap_or_else(|error| panic!("{tags:x?} is not heard: {error}"));
    }

    /// It is dropped for this reason, and heard by nobody.
    fn is_dropped(&self, maps: &Maps, network: u8, tags: &[(u16, u16)], reason: DropReason) {
        let before = counted(maps, reason);
        self.send(network, tags);
        let end = Instant::now() + Duration::from_secs(30);
        while counted(maps, reason) == before {
            assert!(Instant::now() < end, "{tags:x?} is not dropped: {reason:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.server.set_nonblocking(true).expect("does not wait");
        let heard = self.server.recv(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(heard, Err(ErrorKind::WouldBlock), "{tags:x?}");
        self.server.set_nonblocking(false).expect("waits");
    }
}

/// Rows of a node that nobody may call.
fn closed() -> Desired {
    let desired = desired(&[]);
    let mut set = PolicyRows::default();
    set.set.flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
    desired.policy_sets.write(|txn| txn.insert(3, set));
    let host = EndpointRow {
        ifindex: HOST_DEVICE,
        identity: Identity::HOST,
        policy_set: 3,
        id: 77,
        ..EndpointRow::default()
    };
    desired.endpoints.write(|txn| txn.insert(HOST_DEVICE, host));
    let own = IpcacheRow {
        identity: Identity::HOST,
        flags: IpcacheFlags::LOCAL_HOST,
        ..IpcacheRow::default()
    };
    desired.ipcache.write(|txn| {
        for network in [100, 101] {
            txn.insert(IpKey::from(IpAddr::from([198, 51, network, 1])), own);
        }
    });
    desired
}

fn switch_on(desired: &Desired) {
    desired.config.write(|txn| {
        if let Some(config) = txn.get(&0).map(|config| **config) {
            let flags = config.flags | ConfigFlags::HOST_FIREWALL;
            txn.insert(0, axon_abi::RuntimeConfig { flags, ..config });
        }
    });
}

#[test]
fn no_tag_hides_what_is_for_the_node() {
    let Some(()) = root() else { return };
    let (node, stranger) = (Node::new("vlan"), Node::new("tagger"));
    node.run(|| common::veth::add("st0", 0, "st1", 1500));
    for command in [
        &format!("link set st1 netns {}", stranger.netns),
        "link set st0 address 02:00:00:00:00:01",
        "link set st0 up",
        "addr add 198.51.100.1/24 dev st0",
    ] {
        assert!(ip(&node, command), "ip {command}");
    }
    assert!(ip(&stranger, "link set st1 up"));
    let mut config = node.config();
    config.devices = vec!["st0".to_owned()];
    let mut datapath = open(&node, &config);
    let maps = datapath.maps().clone();
    let server = node.run(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("a socket"));
    let wait = Some(Duration::from_secs(30));
    server.set_read_timeout(wait).expect("a timeout");
    let client = stranger.run(|| common::raw::sender("st1"));
    let ends = Ends { server, client };

    let desired = closed();
    let mut reconciler = reconciler(&node, &maps);
    let report = reconciler.sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let alone: &[(u16, u16)] = &[(VLAN, PRIORITY)];
    let hidden: [&[(u16, u16)]; 3] = [
        &[(VLAN, PRIORITY), (VLAN, 0)],
        &[(VLAN, 0), (VLAN, PRIORITY)],
        &[(SERVICE_VLAN, PRIORITY), (VLAN, 0)],
    ];
    // The kernel takes all of these tags away.
    for tags in [&[][..], alone].into_iter().chain(hidden) {
        ends.is_heard(100, tags);
    }
    switch_on(&desired);
    reconciler.sync(1, &desired);
    for tags in [&[][..], alone] {
        ends.is_dropped(&maps, 100, tags, DropReason::PolicyDenied);
    }
    for tags in hidden {
        ends.is_dropped(&maps, 100, tags, DropReason::VlanFiltered);
    }

    let vlan = format!("link add link st0 name st0.5 type vlan id {ID}");
    if !ip(&node, &vlan) {
        println!("skipped in part: this kernel makes no VLAN devices");
        return;
    }
    assert!(ip(&node, "link set st0.5 up"));
    assert!(ip(&node, "addr add 198.51.101.1/24 dev st0.5"));
    let tagged: &[(u16, u16)] = &[(VLAN, ID)];
    // It is no uplink.
    ends.is_heard(101, tagged);
    let uplinks = ["st0", "st0.5"].map(str::to_owned);
    node.run(|| datapath.set_uplinks(&uplinks))
        .expect("attached");
    for tags in [tagged, &[(VLAN, PRIORITY | ID)]] {
        ends.is_dropped(&maps, 101, tags, DropReason::PolicyDenied);
    }
}
