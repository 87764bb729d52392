//! A hostile pod: malformed and forged frames, as many as its device takes.
//!
//! Every one is dropped with its reason and counted once, none comes through,
//! nothing stays in the maps, and the traffic of others does not notice.
//! `AXON_STORM_FRAMES` sets how many are sent; the usual storm is short.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use axon_abi::{Direction, DropReason};
use axon_linux::{Maps, netns, read_metrics};
use axon_testkit::{Build, arp_request, neighbour_solicitation};
use common::{Node, Pod, attached, desired, exec, reconciler, root};
use nix::sys::socket::{MsgFlags, send};

/// Frames of the usual storm.
const FRAMES: u64 = 200_000;
const TRANSFER_LEN: usize = 32 * 1024 * 1024;

/// A frame that must not come through, and why.
struct Forged {
    name: &'static str,
    frame: Vec<u8>,
    reason: DropReason,
}

/// Addresses of the hostile pod, its victim and somebody who is neither.
struct Ends {
    own: &'static str,
    victim: &'static str,
    other: &'static str,
}

const V4: Ends = Ends {
    own: "10.7.0.1",
    victim: "10.7.0.2",
    other: "10.7.0.9",
};
const V6: Ends = Ends {
    own: "fd07::1",
    victim: "fd07::2",
    other: "fd07::9",
};

/// A packet that would be allowed, spoilt.
fn spoilt(packet: &Build, spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = packet.frame();
    spoil(&mut frame);
    frame
}

fn forged() -> Vec<Forged> {
    let mut list = Vec::new();
    for (ends, v6) in [(&V4, false), (&V6, true)] {
        malformed(&mut list, ends, v6);
        claims(&mut list, ends, v6);
    }
    options(&mut list);
    link(&mut list);
    list
}

/// Lengths and headers that contradict each other.
fn malformed(list: &mut Vec<Forged>, ends: &Ends, v6: bool) {
    let tcp = Build::tcp(ends.own, ends.victim, (40000, 80), 2);
    let udp = Build::udp(ends.own, ends.victim, (40000, 80), 64);
    let (l4, len) = if v6 { (54, 18) } else { (34, 16) };
    let mut add = |name, frame, reason| {
        list.push(Forged {
            name,
            frame,
            reason,
        });
    };
    let invalid = DropReason::InvalidPacket;
    let header = DropReason::CtInvalidHeader;
    add(
        "longer than it is",
        spoilt(&tcp, |f| f[len + 1] += 9),
        invalid,
    );
    add("another version", spoilt(&tcp, |f| f[14] ^= 0x30), invalid);
    add(
        "cut in the TCP header",
        spoilt(&tcp, |f| f.truncate(l4 + 10)),
        invalid,
    );
    add(
        "TCP options beyond the end",
        spoilt(&tcp, |f| f[l4 + 12] = 0xf0),
        header,
    );
    add(
        "a TCP header too small",
        spoilt(&tcp, |f| f[l4 + 12] = 0x40),
        header,
    );
    add("no TCP flags", spoilt(&tcp, |f| f[l4 + 13] = 0), header);
    add("all TCP flags", spoilt(&tcp, |f| f[l4 + 13] = 0x3f), header);
    add(
        "a UDP length beyond the end",
        spoilt(&udp, |f| f[l4 + 4] = 0xff),
        header,
    );
    add(
        "a UDP length too small",
        spoilt(&udp, |f| f[l4 + 4..l4 + 6].copy_from_slice(&[0, 7])),
        header,
    );
    let mut unknown = udp.clone();
    unknown.protocol = 99;
    add(
        "an unknown protocol",
        unknown.frame(),
        DropReason::CtUnknownL4Protocol,
    );
    add(
        "a fragment of nothing",
        udp.clone().part(77, 32, 64).frame(),
        DropReason::FragmentNotFound,
    );
    add(
        "a fragment over the transport header",
        udp.clone().part(78, 8, 64).frame(),
        invalid,
    );
}

/// Addresses that are not the pod's, or nobody's.
fn claims(list: &mut Vec<Forged>, ends: &Ends, v6: bool) {
    let spoofed = DropReason::InvalidSourceIp;
    let nowhere = DropReason::UnknownL3Target;
    let (loopback, group) = if v6 {
        ("::1", "ff02::fb")
    } else {
        ("127.0.0.1", "224.0.0.251")
    };
    for (name, from, to, reason) in [
        ("as its victim", ends.victim, ends.victim, spoofed),
        ("as another", ends.other, ends.victim, spoofed),
        ("as loopback", loopback, ends.victim, spoofed),
        ("to a group", ends.own, group, nowhere),
        ("to loopback", ends.own, loopback, nowhere),
    ] {
        let frame = Build::udp(from, to, (1, 53), 8).frame();
        list.push(Forged {
            name,
            frame,
            reason,
        });
    }
}

/// Options and extension headers.
fn options(list: &mut Vec<Forged>) {
    let invalid = DropReason::InvalidPacket;
    let tcp = Build::tcp(V4.own, V4.victim, (40000, 80), 2);
    list.push(Forged {
        name: "IPv4 options beyond the end",
        frame: spoilt(&tcp, |f| f[14] = 0x4f),
        reason: invalid,
    });
    list.push(Forged {
        name: "an IPv4 header too small",
        frame: spoilt(&tcp, |f| f[14] = 0x44),
        reason: invalid,
    });
    let reason = DropReason::InvalidIpv6ExtensionHeader;
    for (name, extensions) in [
        ("seven extension headers", vec![(60, vec![0; 7]); 7]),
        ("routing header 0", vec![(43, vec![0; 7])]),
        (
            "an extension beyond the end",
            vec![(60, vec![200, 0, 0, 0, 0, 0, 0])],
        ),
        (
            "hop-by-hop in second place",
            vec![(60, vec![0; 7]), (0, vec![0; 7])],
        ),
    ] {
        let mut packet = Build::tcp(V6.own, V6.victim, (40000, 80), 2);
        packet.extensions = extensions;
        list.push(Forged {
            name,
            frame: packet.frame(),
            reason,
        });
    }
}

/// What would rule a link that others are on.
fn link(list: &mut Vec<Forged>) {
    let forbidden = DropReason::ForbiddenIcmpv6Message;
    let advertisement = |kind| Build::icmp(V6.own, V6.victim, (kind, 0, 0), &[0; 24]).hops(255);
    let [own, victim, other] = [V4.own, V4.victim, V4.other].map(octets);
    let mut reply = arp_request(own, victim);
    reply[21] = 2;
    let mut unknown = Build::udp(V4.own, V4.victim, (1, 2), 8).frame();
    unknown[12] = 0x88;
    for (name, frame, reason) in [
        ("an ARP reply", reply, DropReason::UnknownL3Target),
        (
            "an ARP request for another",
            arp_request(own, victim),
            DropReason::UnknownL3Target,
        ),
        (
            "an ARP request as another",
            arp_request(other, [169, 254, 1, 1]),
            DropReason::InvalidSourceIp,
        ),
        (
            "a neighbour solicitation for another",
            neighbour_solicitation(V6.own, V6.victim),
            forbidden,
        ),
        (
            "a router advertisement",
            advertisement(134).frame(),
            forbidden,
        ),
        (
            "a neighbour advertisement",
            advertisement(136).frame(),
            forbidden,
        ),
        ("a redirect", advertisement(137).frame(), forbidden),
        (
            "an unknown EtherType",
            unknown,
            DropReason::UnsupportedL3Protocol,
        ),
    ] {
        list.push(Forged {
            name,
            frame,
            reason,
        });
    }
}

fn octets(address: &str) -> [u8; 4] {
    let address: std::net::Ipv4Addr = address.parse().expect("an address");
    address.octets()
}

/// A socket that sends frames as they are out of a pod's device.
fn raw(pod: &Pod) -> OwnedFd {
    let device = pod.link.container_name.as_str();
    netns::within(pod.netns.as_fd(), || common::raw::sender(device)).expect("entered")
}

/// Sends every frame in turn until so many are out; says how many of each.
fn storm(socket: &OwnedFd, forged: &[Forged], frames: u64) -> Vec<u64> {
    let mut sent = vec![0; forged.len()];
    for n in 0..frames {
        let which = (n % forged.len() as u64) as usize;
        send(socket.as_raw_fd(), &forged[which].frame, MsgFlags::empty())
            .unwrap_or_else(|error| panic!("{}: {error}", forged[which].name));
        sent[which] += 1;
    }
    sent
}

/// Packets by reason and direction.
fn counts(maps: &Maps) -> BTreeMap<(u8, String), u64> {
    let rows = read_metrics(maps).expect("metrics");
    rows.iter()
        .map(|row| ((row.reason, format!("{:?}", row.direction)), row.packets))
        .collect()
}

/// What was counted between two looks.
fn since(
    before: &BTreeMap<(u8, String), u64>,
    after: &BTreeMap<(u8, String), u64>,
) -> BTreeMap<(u8, String), u64> {
    after
        .iter()
        .map(|(key, n)| (key.clone(), n - before.get(key).copied().unwrap_or(0)))
        .filter(|(_, n)| *n != 0)
        .collect()
}

/// What must have been counted.
fn expected(forged: &[Forged], sent: &[u64]) -> BTreeMap<(u8, String), u64> {
    let mut counts = BTreeMap::new();
    for (one, n) in forged.iter().zip(sent) {
        let key = (one.reason as u8, format!("{:?}", Direction::Egress));
        *counts.entry(key).or_default() += n;
    }
    counts
}

/// Packets that a pod's device has received.
fn received(pod: &Pod) -> u64 {
    netns::within(pod.netns.as_fd(), || {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("statistics");
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("eth0:"));
        let fields = line.and_then(|line| line.split_whitespace().nth(1));
        fields.and_then(|n| n.parse().ok()).expect("a number")
    })
    .expect("entered")
}

/// Nothing that the pod's kernel says by itself shall be counted with the rest.
fn silence(pod: &Pod) {
    let off = Path::new("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    netns::within(pod.netns.as_fd(), || std::fs::write(off, "1"))
        .expect("entered")
        .expect("IPv6 off");
}

/// Sends a lot between two pods while somebody storms.
fn transfer(from: &Pod, to: &Pod, address: &str) -> usize {
    let listener = netns::within(to.netns.as_fd(), || TcpListener::bind((address, 0)))
        .expect("entered")
        .expect("a listener");
    let target: SocketAddr = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("data");
        bytes.len()
    });
    let mut stream = netns::within(from.netns.as_fd(), || {
        TcpStream::connect_timeout(&target, Duration::from_secs(30))
    })
    .expect("entered")
    .expect("a connection");
    stream.write_all(&vec![7; TRANSFER_LEN]).expect("sent");
    drop(stream);
    server.join().expect("the server")
}

#[test]
fn a_storm_of_forged_frames_is_counted_and_nothing_more() {
    let Some(()) = root() else { return };
    let frames = std::env::var("AXON_STORM_FRAMES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(FRAMES);
    let node = Node::new("storm");
    let pods = [1, 2, 3].map(|n| Pod::create(&node, n));
    let [hostile, victim, peer] = &pods;
    for pod in &pods {
        silence(pod);
    }
    let datapath = attached(&node, &node.config(), &pods);
    let desired = desired(&[hostile, victim, peer]);
    desired.config.write(|txn| {
        if let Some(config) = txn.get(&0).map(|config| **config) {
            let flags = config.flags | axon_abi::ConfigFlags::EVENT_DROP;
            txn.insert(0, axon_abi::RuntimeConfig { flags, ..config });
        }
    });
    let report = reconciler(&node, datapath.maps()).sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let forged = forged();
    let socket = raw(hostile);
    alone(datapath.maps(), &socket, &forged, &pods);
    among_others(datapath.maps(), &socket, &forged, &pods, frames);
}

/// One of each kind: its own reason, and nobody gets anything.
fn alone(maps: &Maps, socket: &OwnedFd, forged: &[Forged], pods: &[Pod; 3]) {
    let got = pods.each_ref().map(received);
    for one in forged {
        let before = counts(maps);
        let one = std::slice::from_ref(one);
        let sent = storm(socket, one, 1);
        let counted = since(&before, &counts(maps));
        assert_eq!(counted, expected(one, &sent), "{}", one[0].name);
    }
    assert_eq!(pods.each_ref().map(received), got, "something came through");
    assert_eq!(tracked(maps), [0; 4], "something stayed");
}

/// Rows that packets make.
fn tracked(maps: &Maps) -> [u32; 4] {
    [
        maps.ct4.count(),
        maps.ct6.count(),
        maps.nat.count(),
        maps.fragment.count(),
    ]
    .map(|count| count.expect("a count"))
}

/// All kinds at full speed, while others talk.
fn among_others(
    maps: &Maps,
    socket: &OwnedFd,
    forged: &[Forged],
    [hostile, victim, peer]: &[Pod; 3],
    frames: u64,
) {
    let got = received(hostile);
    let before = counts(maps);
    let sent = std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(socket, forged, frames));
        let pings = scope.spawn(|| {
            let count = ["-c", "100", "-i", "0.01", "-W", "10", "-q", V4.victim];
            exec(&peer.path(), "ping", &count)
        });
        let bytes = transfer(peer, victim, V4.victim);
        assert_eq!(bytes, TRANSFER_LEN, "a transfer of others");
        let pings = pings.join().expect("ping");
        let text = String::from_utf8_lossy(&pings.stdout);
        assert!(text.contains("100 received"), "{text}");
        storm.join().expect("the storm")
    });
    let mut counted = since(&before, &counts(maps));
    counted.retain(|(reason, _), _| *reason != 0);
    assert_eq!(counted, expected(forged, &sent));
    assert_eq!(received(hostile), got, "something came back");
    let [ct4, rest @ ..] = tracked(maps);
    assert!(
        ct4 <= 2,
        "{ct4} flows; the others have one and their echoes"
    );
    assert_eq!(rest, [0; 3], "something stayed");
}
