//! A hostile network: malformed and forged frames into a node's uplink, as many
//! as it takes.
//!
//! ```text
//!            ┌ for a pod ──────────> dropped, counted once, by its reason
//!  outside ──┤
//!            └ for nobody's pod ───> the node's own stack, not counted
//! ```
//!
//! Nothing comes to a pod, nothing stays in the maps, and the traffic of others,
//! by the same uplink too, does not notice. `AXON_STORM_FRAMES` as in `storm.rs`.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use axon_abi::{
    ConfigFlags, Direction, DropReason, Identity, IpKey, IpcacheFlags, IpcacheRow, RuntimeConfig,
};
use axon_linux::{Maps, netns};
use axon_model::Desired;
use axon_testkit::{Build, arp_request};
use common::forged::{
    Ends, Forged, counts, frames, malformed, options, received, since, storm, tracked, transfer,
};
use common::{Node, Pod, attached, desired, exec, reconciler, root};

/// From the network to a pod; `other` is another pod.
const V4: Ends = Ends {
    own: "198.51.100.9",
    victim: "10.7.0.2",
    other: "10.7.0.3",
};
const V6: Ends = Ends {
    own: "2001:db8:5::9",
    victim: "fd07::2",
    other: "fd07::3",
};
/// The node itself.
const NODE_V4: &str = "198.51.100.1";
const NODE_V6: &str = "2001:db8:5::1";

const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What becomes of frames.
struct Frames {
    /// Dropped, each for its reason.
    dropped: Vec<Forged>,
    /// Left to the node's stack; their reasons mean nothing.
    left: Vec<Forged>,
}

fn all() -> Frames {
    let (mut dropped, mut left) = (Vec::new(), Vec::new());
    for (ends, node, v6) in [(&V4, NODE_V4, false), (&V6, NODE_V6, true)] {
        malformed(&mut dropped, ends, v6);
        claims(&mut dropped, ends, node);
        let to_node = Ends {
            victim: node,
            ..*ends
        };
        malformed(&mut left, &to_node, v6);
    }
    options(&mut dropped, &V4, &V6);
    let to_node = [(&V4, NODE_V4), (&V6, NODE_V6)].map(|(ends, victim)| Ends { victim, ..*ends });
    options(&mut left, &to_node[0], &to_node[1]);
    neighbours(&mut dropped);
    link(&mut left);
    for forged in &mut dropped {
        // The network is told apart from a pod.
        if forged.reason == DropReason::FragmentNotFound {
            forged.reason = DropReason::FragmentNotFoundWorld;
        }
    }
    Frames { dropped, left }
}

/// Addresses that nobody out there has.
fn claims(list: &mut Vec<Forged>, ends: &Ends, node: &str) {
    for (name, from) in [
        ("as its victim", ends.victim),
        ("as another pod", ends.other),
        ("as the node", node),
    ] {
        for frame in [
            Build::udp(from, ends.victim, (1, 53), 8).frame(),
            Build::tcp(from, ends.victim, (1, 80), 2).frame(),
            Build::ping(from, ends.victim, 7).frame(),
        ] {
            list.push(Forged {
                name,
                frame,
                reason: DropReason::InvalidSourceIp,
            });
        }
    }
}

/// What is said on a link alone, to a pod that is on none with the network.
fn neighbours(list: &mut Vec<Forged>) {
    for (name, kind) in [
        ("a router advertisement", 134),
        ("a neighbour advertisement", 136),
        ("a redirect", 137),
    ] {
        let message = Build::icmp(V6.own, V6.victim, (kind, 0, 0), &[0; 24]).hops(255);
        list.push(Forged {
            name,
            frame: message.frame(),
            reason: DropReason::ForbiddenIcmpv6Message,
        });
    }
}

/// What is not IP, or for nobody here.
fn link(list: &mut Vec<Forged>) {
    let octets = |address: &str| {
        let address: std::net::Ipv4Addr = address.parse().expect("an address");
        address.octets()
    };
    // As somebody who is not there: who is on the node's link may rule its neighbours.
    let mut reply = arp_request(octets("198.51.100.77"), octets(V4.victim));
    reply[21] = 2;
    let udp = Build::udp(V4.own, V4.victim, (1, 2), 8).frame();
    let mut unknown = udp.clone();
    unknown[12] = 0x88;
    let mut empty = udp.clone();
    empty.truncate(14);
    let mut tagged = udp;
    tagged.splice(12..12, [0x81, 0, 0, 99]);
    for (name, frame) in [
        ("an ARP reply", reply),
        ("an unknown EtherType", unknown),
        ("nothing behind the EtherType", empty),
        ("a VLAN that is none of ours", tagged),
        (
            "to an address of no pod",
            Build::udp(V4.own, "10.7.0.77", (1, 2), 8).frame(),
        ),
    ] {
        list.push(Forged {
            name,
            frame,
            reason: DropReason::InvalidPacket,
        });
    }
}

/// A node with an uplink, and who is at its other end.
fn connect(node: &Node, outside: &Node) {
    node.run(|| common::veth::add("up0", 0, "up1", 1500));
    let on = |node: &Node, commands: &[&str]| {
        for command in commands {
            let args: Vec<&str> = command.split(' ').collect();
            let output = node.exec("ip", &args);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "ip {command}: {error}");
        }
    };
    on(
        node,
        &[
            &format!("link set up1 netns {}", outside.netns),
            "link set up0 address 02:00:00:00:00:01",
            "link set up0 up",
            &format!("addr add {NODE_V4}/24 dev up0"),
            &format!("-6 addr add {NODE_V6}/64 dev up0 nodad"),
        ],
    );
    on(
        outside,
        &[
            "link set up1 up",
            &format!("addr add {}/24 dev up1", V4.own),
            &format!("-6 addr add {}/64 dev up1 nodad", V6.own),
            &format!("route add 10.7.0.0/24 via {NODE_V4}"),
            &format!("-6 route add fd07::/64 via {NODE_V6}"),
        ],
    );
    node.run(|| {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "1").expect(name);
        }
    });
}

/// Rows of a node that masquerades, with its own addresses.
fn rows(pods: &[Pod; 2]) -> Desired {
    let desired = desired(&[&pods[0], &pods[1]]);
    let [v4, v6] = [NODE_V4, NODE_V6].map(|addr| addr.parse::<IpAddr>().expect("an address"));
    let own = IpcacheRow {
        identity: Identity::HOST,
        flags: IpcacheFlags::LOCAL_HOST,
        ..IpcacheRow::default()
    };
    desired.ipcache.write(|txn| {
        for addr in [v4, v6] {
            txn.insert(IpKey::from(addr), own);
        }
    });
    desired.config.write(|txn| {
        if let (Some(config), IpAddr::V4(v4)) = (txn.get(&0).map(|config| **config), v4) {
            let flags = config.flags
                | ConfigFlags::EVENT_DROP
                | ConfigFlags::MASQUERADE_IPV4
                | ConfigFlags::MASQUERADE_IPV6;
            let row = RuntimeConfig {
                flags,
                node_ipv4: v4.octets(),
                node_ipv6: IpKey::from(v6),
                ..config
            };
            txn.insert(0, row);
        }
    });
    desired
}

/// What must have been counted of frames that are dropped.
fn expected(dropped: &[Forged], sent: &[u64]) -> BTreeMap<(u8, String), u64> {
    let mut counts = BTreeMap::new();
    for (one, n) in dropped.iter().zip(sent) {
        let key = (one.reason as u8, format!("{:?}", Direction::Ingress));
        *counts.entry(key).or_default() += n;
    }
    counts
}

/// Drops that were counted since.
fn drops(maps: &Maps, before: &BTreeMap<(u8, String), u64>) -> BTreeMap<(u8, String), u64> {
    let mut counted = since(before, &counts(maps));
    counted.retain(|(reason, _), _| *reason != 0);
    counted
}

/// IP packets that the node's stack has got, of both families.
fn in_stack(node: &Node) -> u64 {
    node.run(|| {
        let read = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            std::fs::read_to_string(path).expect("statistics")
        };
        let (v4, v6) = (read("snmp"), read("snmp6"));
        let v4 = v4.lines().filter(|line| line.starts_with("Ip: ")).nth(1);
        let v4 = v4.and_then(|line| line.split(' ').nth(3));
        let v6 = v6
            .lines()
            .find_map(|line| line.strip_prefix("Ip6InReceives"));
        let sum = [v4, v6].map(|text| text.and_then(|n| n.trim().parse::<u64>().ok()));
        sum.iter().map(|n| n.expect("a number")).sum()
    })
}

#[test]
fn a_storm_from_the_network_is_counted_or_left_to_the_stack() {
    let Some(()) = root() else { return };
    let (node, outside) = (Node::new("stormup"), Node::new("stormout"));
    connect(&node, &outside);
    let pods = [2, 3].map(|n| Pod::create(&node, n));
    let mut config = node.config();
    config.devices = vec!["up0".to_owned()];
    let datapath = attached(&node, &config, &pods);
    let maps = datapath.maps();
    let report = reconciler(&node, maps).sync(0, &rows(&pods));
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let mut frames = all();
    // Or the stack would not look at what is not for its device.
    for forged in frames.dropped.iter_mut().chain(&mut frames.left) {
        forged.frame[..6].copy_from_slice(&UPLINK_MAC);
    }
    let socket = outside.run(|| common::raw::sender("up1"));
    alone(&node, maps, &socket, &frames, &pods);
    let beyond = netns::path(&outside.netns);
    among_others(maps, &socket, &frames, &pods, &beyond);
}

/// What is sent drops what it says it shall, and nothing else. Kernels at the ends
/// of links ask for neighbours and groups when they like: what one look has too
/// much the next has not.
fn drops_exactly(maps: &Maps, name: &str, send: impl Fn() -> BTreeMap<(u8, String), u64>) {
    let mut looks = Vec::new();
    for _ in 0..5 {
        let before = counts(maps);
        let shall = send();
        let counted = drops(maps, &before);
        if counted == shall {
            return;
        }
        looks.push((counted, shall));
    }
    panic!("{name}: {looks:?}");
}

/// One of each kind: its own reason or none, and no pod gets anything.
fn alone(node: &Node, maps: &Maps, socket: &OwnedFd, frames: &Frames, pods: &[Pod; 2]) {
    for one in &frames.dropped {
        let got = pods.each_ref().map(received);
        let list = std::slice::from_ref(one);
        drops_exactly(maps, one.name, || expected(list, &storm(socket, list, 1)));
        assert_eq!(pods.each_ref().map(received), got, "{}", one.name);
    }
    for one in &frames.left {
        let got = pods.each_ref().map(received);
        let stack = in_stack(node);
        drops_exactly(maps, one.name, || {
            storm(socket, std::slice::from_ref(one), 1);
            BTreeMap::new()
        });
        assert_eq!(pods.each_ref().map(received), got, "{}", one.name);
        let is_ip = matches!(one.frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if is_ip && one.frame.len() > 14 {
            assert!(in_stack(node) > stack, "{} is not passed on", one.name);
        }
    }
    assert_eq!(tracked(maps), [0; 4], "something stayed");
}

/// All kinds at full speed, while others talk, by the same uplink too.
fn among_others(
    maps: &Maps,
    socket: &OwnedFd,
    all: &Frames,
    [victim, peer]: &[Pod; 2],
    outside: &Path,
) {
    let before = counts(maps);
    let sent = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let half = frames() / 2;
            let sent = storm(socket, &all.dropped, half);
            storm(socket, &all.left, half);
            sent
        });
        let ping = |from: PathBuf, to: &'static str| {
            scope.spawn(move || {
                let count = ["-c", "100", "-i", "0.01", "-W", "10", "-q", to];
                let output = exec(&from, "ping", &count);
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
        };
        let pings = [
            ping(peer.path(), V4.victim),
            ping(outside.to_owned(), V4.victim),
            ping(outside.to_owned(), V6.victim),
        ];
        transfer(&peer.path(), &victim.path(), V4.victim);
        transfer(outside, &victim.path(), V4.victim);
        transfer(outside, &victim.path(), V6.victim);
        for pings in pings {
            let text = pings.join().expect("ping");
            assert!(text.contains("100 received"), "{text}");
        }
        run.join().expect("the storm")
    });
    assert_eq!(drops(maps, &before), expected(&all.dropped, &sent));
    let [ct4, ct6, rest @ ..] = tracked(maps);
    assert!(
        ct4 <= 4 && ct6 <= 2,
        "{ct4} and {ct6} flows are not others'"
    );
    assert_eq!(rest, [0; 2], "something stayed");
}
