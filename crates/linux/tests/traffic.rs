//! Real traffic over the loaded programs, and what they tell of it.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use axon_abi::{ConfigFlags, DropReason, EventKind, EventRecord};
use axon_linux::{EventReader, Lost, netns, read_metrics};
use common::{Node, Pod, attached, desired, exec, reconciler, root};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

const TRANSFER_LEN: usize = 64 * 1024 * 1024;

/// Sends a lot from one endpoint to another; says how much came.
fn transfer(from: &Pod, to: &Pod, addr: IpAddr) -> usize {
    let listener = netns::within(to.netns.as_fd(), || TcpListener::bind((addr, 0)))
        .expect("entered")
        .expect("a listener");
    let target: SocketAddr = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut buffer = vec![0; 1024 * 1024];
        let mut received = 0;
        loop {
            match stream.read(&mut buffer).expect("data") {
                0 => return received,
                n => received += n,
            }
        }
    });
    let mut stream = netns::within(from.netns.as_fd(), || {
        TcpStream::connect_timeout(&target, Duration::from_secs(30))
    })
    .expect("entered")
    .expect("a connection");
    let chunk = vec![7; 4 * 1024 * 1024];
    for _ in 0..TRANSFER_LEN / chunk.len() {
        stream.write_all(&chunk).expect("sent");
    }
    drop(stream);
    server.join().expect("the server")
}

#[test]
fn aggregates_beyond_64_kib_pass() {
    let Some(()) = root() else { return };
    let node = Node::new("big");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let datapath = attached(&node, &node.config(), [&a, &b]);
    reconciler(&node, datapath.maps()).sync(0, &desired(&[&a, &b]));
    for addr in ["10.7.0.2", "fd07::2"] {
        let received = transfer(&a, &b, addr.parse().expect("an address"));
        assert_eq!(received, TRANSFER_LEN, "{addr}");
    }
    let metrics = read_metrics(datapath.maps()).expect("metrics");
    // The pods' kernels report their multicast groups whenever they like.
    let expected = [0, DropReason::ForbiddenIcmpv6Message as u8];
    let lost = metrics.iter().any(|row| !expected.contains(&row.reason));
    assert!(!lost, "{metrics:?}");
    let bytes: u64 = metrics.iter().map(|row| row.bytes).sum();
    assert!(bytes >= 2 * TRANSFER_LEN as u64, "{metrics:?}");
}

/// What tells once of each time that events are announced.
fn announcements(events: &EventReader) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll
        .add(events, EpollEvent::new(flags, 0))
        .expect("watched");
    epoll
}

/// Whether an announcement comes in so many milliseconds.
fn told(epoll: &Epoll, timeout_ms: u16) -> bool {
    let mut events = [EpollEvent::empty()];
    epoll.wait(&mut events, timeout_ms).expect("waited") > 0
}

#[test]
fn drops_are_told_as_events() {
    let Some(()) = root() else { return };
    let node = Node::new("events");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let datapath = attached(&node, &node.config(), [&a, &b]);
    let desired = desired(&[&a, &b]);
    desired.config.write(|txn| {
        if let Some(config) = txn.get(&0).map(|config| **config) {
            let flags = config.flags | ConfigFlags::EVENT_DROP | ConfigFlags::EVENT_VERDICT;
            txn.insert(0, axon_abi::RuntimeConfig { flags, ..config });
        }
    });
    let mut closed = axon_model::PolicyRows::default();
    closed.set.flags = axon_abi::PolicySetFlags::DEFAULT_DENY_INGRESS;
    desired.policy_sets.write(|txn| txn.insert(2, closed));
    desired
        .endpoints
        .write(|txn| txn.insert(b.ifindex, b.row(1000, 2)));
    let report = reconciler(&node, datapath.maps()).sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");

    let mut events = datapath.events().expect("a reader");
    while events.next_batch(100, |_| {}) > 0 {}
    let announced = announcements(&events);
    let ping = exec(&a.path(), "ping", &["-c", "1", "-W", "1", "10.7.0.2"]);
    assert!(!ping.status.success(), "policy denies it");
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut seen: Vec<EventRecord> = Vec::new();
    let dropped = |event: &EventRecord| event.kind == EventKind::Drop as u8;
    while !seen.iter().any(dropped) && Instant::now() < deadline {
        // Whatever comes after all was read is announced, the first as the last.
        assert!(told(&announced, 30_000), "{seen:?}");
        events.next_batch(100, |event| seen.push(*event));
    }
    let drop = seen.iter().find(|event| dropped(event)).expect("the drop");
    assert_eq!(
        drop.reason,
        axon_abi::DropReason::PolicyDenied as u8,
        "{drop:?}"
    );
    assert_eq!(IpAddr::from(drop.source), IpAddr::from([10, 7, 0, 1]));
    assert_eq!(Lost::default().delta(datapath.maps()).expect("a count"), 0);
}
