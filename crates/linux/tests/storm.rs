//! A hostile pod: malformed and forged frames, as many as its device takes.
//!
//! Every one is dropped with its reason and counted once, none comes through,
//! nothing stays in the maps, and the traffic of others does not notice.
//! `AXON_STORM_FRAMES` sets how many are sent; the usual storm is short.

mod common;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use axon_abi::{Direction, DropReason};
use axon_linux::{Maps, netns};
use axon_testkit::{Build, arp_request, neighbour_solicitation};
use common::forged::{
    Ends, Forged, counts, frames, malformed, options, received, since, storm, tracked, transfer,
};
use common::{Node, Pod, attached, desired, exec, reconciler, root};

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

fn forged() -> Vec<Forged> {
    let mut list = Vec::new();
    for (ends, v6) in [(&V4, false), (&V6, true)] {
        malformed(&mut list, ends, v6);
        claims(&mut list, ends, v6);
    }
    options(&mut list, &V4, &V6);
    link(&mut list);
    list
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

/// What must have been counted.
fn expected(forged: &[Forged], sent: &[u64]) -> BTreeMap<(u8, String), u64> {
    let mut counts = BTreeMap::new();
    for (one, n) in forged.iter().zip(sent) {
        let key = (one.reason as u8, format!("{:?}", Direction::Egress));
        *counts.entry(key).or_default() += n;
    }
    counts
}

/// Nothing that the pod's kernel says by itself shall be counted with the rest.
fn silence(pod: &Pod) {
    let off = Path::new("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    netns::within(pod.netns.as_fd(), || std::fs::write(off, "1"))
        .expect("entered")
        .expect("IPv6 off");
}

#[test]
fn a_storm_of_forged_frames_is_counted_and_nothing_more() {
    let Some(()) = root() else { return };
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
    among_others(datapath.maps(), &socket, &forged, &pods, frames());
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
        transfer(&peer.path(), &victim.path(), V4.victim);
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
