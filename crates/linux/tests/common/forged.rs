//! Frames that must not come through, sent as many as a device takes, and what
//! is looked at meanwhile.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use axon_abi::DropReason;
use axon_linux::{Maps, netns, read_metrics};
use axon_testkit::Build;
use nix::sys::socket::{MsgFlags, send};

use super::Pod;

/// Frames of the usual storm.
const FRAMES: u64 = 200_000;
const TRANSFER_LEN: usize = 32 * 1024 * 1024;

/// How many frames a storm has: `AXON_STORM_FRAMES`, or few.
pub(crate) fn frames() -> u64 {
    let wanted = std::env::var("AXON_STORM_FRAMES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(FRAMES)
}

/// A frame that must not come through, and why.
pub(crate) struct Forged {
    pub(crate) name: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) reason: DropReason,
}

/// Addresses of the hostile pod, its victim and somebody who is neither.
pub(crate) struct Ends {
    pub(crate) own: &'static str,
    pub(crate) victim: &'static str,
    pub(crate) other: &'static str,
}

/// A packet that would be allowed, spoilt.
pub(crate) fn spoilt(packet: &Build, spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = packet.frame();
    spoil(&mut frame);
    frame
}

/// Lengths and headers that contradict each other.
pub(crate) fn malformed(list: &mut Vec<Forged>, ends: &Ends, v6: bool) {
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

/// Options and extension headers.
pub(crate) fn options(list: &mut Vec<Forged>, v4: &Ends, v6: &Ends) {
    let invalid = DropReason::InvalidPacket;
    let tcp = Build::tcp(v4.own, v4.victim, (40000, 80), 2);
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
        let mut packet = Build::tcp(v6.own, v6.victim, (40000, 80), 2);
        packet.extensions = extensions;
        list.push(Forged {
            name,
            frame: packet.frame(),
            reason,
        });
    }
}

/// Sends every frame in turn until so many are out; says how many of each.
pub(crate) fn storm(socket: &OwnedFd, forged: &[Forged], frames: u64) -> Vec<u64> {
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
pub(crate) fn counts(maps: &Maps) -> BTreeMap<(u8, String), u64> {
    let rows = read_metrics(maps).expect("metrics");
    rows.iter()
        .map(|row| ((row.reason, format!("{:?}", row.direction)), row.packets))
        .collect()
}

/// What was counted between two looks.
pub(crate) fn since(
    before: &BTreeMap<(u8, String), u64>,
    after: &BTreeMap<(u8, String), u64>,
) -> BTreeMap<(u8, String), u64> {
    after
        .iter()
        .map(|(key, n)| (key.clone(), n - before.get(key).copied().unwrap_or(0)))
        .filter(|(_, n)| *n != 0)
        .collect()
}

/// Packets that a pod's device has received.
pub(crate) fn received(pod: &Pod) -> u64 {
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

/// Rows that packets make.
pub(crate) fn tracked(maps: &Maps) -> [u32; 4] {
    [
        maps.ct4.count(),
        maps.ct6.count(),
        maps.nat.count(),
        maps.fragment.count(),
    ]
    .map(|count| count.expect("a count"))
}

/// Sends a lot from one namespace to another while somebody storms; all of it
/// must arrive.
pub(crate) fn transfer(from: &Path, to: &Path, address: &str) {
    let listener = netns::within_path(to, || TcpListener::bind((address, 0)))
        .expect("entered")
        .expect("a listener");
    let target: SocketAddr = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("data");
        bytes.len()
    });
    let mut stream = netns::within_path(from, || {
        TcpStream::connect_timeout(&target, Duration::from_secs(30))
    })
    .expect("entered")
    .expect("a connection");
    stream.write_all(&vec![7; TRANSFER_LEN]).expect("sent");
    drop(stream);
    assert_eq!(server.join().expect("the server"), TRANSFER_LEN);
}
