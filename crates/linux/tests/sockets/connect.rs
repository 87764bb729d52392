//! Connections.

use axon_abi::{Direction, DropReason, FrontendKind, ServiceFlags};
use axon_linux::{Features, SocketMode, read_metrics};

use crate::stage::{Service, Stage, TCP, serve, talk};

const BACKENDS: [(u32, &str); 2] = [(1, "10.1.0.1:8080"), (2, "10.1.0.2:8080")];
const BACKENDS6: [(u32, &str); 2] = [(11, "[fd00:1::1]:8080"), (12, "[fd00:1::2]:8080")];
const ADDRESSES: [&str; 4] = [
    "10.1.0.1/32",
    "10.1.0.2/32",
    "fd00:1::1/128",
    "fd00:1::2/128",
];

fn serve_all() {
    for (_, at) in BACKENDS.into_iter().chain(BACKENDS6) {
        serve(TCP, at);
    }
}

#[test]
fn it_goes_to_a_backend_and_the_peer_is_the_service() {
    let Some(stage) = Stage::new(&ADDRESSES) else {
        return;
    };
    assert_eq!(stage.datapath().socket_problem(), None);
    assert_eq!(stage.datapath().socket_programs(), 11);
    let pod = stage.pod(&ADDRESSES);
    stage.put(&Service::new(TCP, "10.96.0.1:80", &BACKENDS));
    stage.put(&Service {
        number: 2,
        ..Service::new(TCP, "[fd00:96::1]:80", &BACKENDS6)
    });
    let all = |where_: &str| {
        serve_all();
        for to in ["10.96.0.1:80", "[fd00:96::1]:80", "[::ffff:10.96.0.1]:80"] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..20 {
                let (stream, backend) = talk(to).unwrap_or_else(|e| panic!("{where_} {to}: {e}"));
                let peer = stream.peer_addr().expect("a peer").to_string();
                assert_eq!(peer, to, "{where_}");
                seen.insert(backend);
            }
            assert_eq!(seen.len(), 2, "{where_} {to}: {seen:?}");
        }
    };
    stage.run(|| all("the node"));
    pod.run(|| all("a pod"));
    assert_eq!(stage.remembered(), 0, "closed sockets are forgotten");
}

#[test]
fn a_pod_reaches_itself_by_its_service() {
    let Some(stage) = Stage::new(&[]) else {
        return;
    };
    let pod = stage.pod(&ADDRESSES[..1]);
    stage.put(&Service::new(TCP, "10.96.0.1:80", &BACKENDS[..1]));
    pod.run(|| {
        serve(TCP, BACKENDS[0].1);
        let (stream, backend) = talk("10.96.0.1:80").expect("an answer");
        assert_eq!(backend, BACKENDS[0].1);
        let own = stream.local_addr().expect("an address").ip().to_string();
        assert_eq!(own, "10.1.0.1");
    });
}

#[test]
fn what_nobody_answers_is_refused_at_once_and_counted() {
    let Some(stage) = Stage::new(&ADDRESSES) else {
        return;
    };
    stage.put(&Service::new(TCP, "10.96.0.1:80", &[]));
    stage.put(&Service {
        flags: ServiceFlags::DROP_INSIDE,
        ..Service::new(TCP, "10.96.0.2:80", &[])
    });
    let mut whole = crate::stage::key("10.96.0.1:0", TCP);
    whole.protocol = 0;
    let entry = axon_abi::ServiceEntry {
        flags: FrontendKind::Address as u32,
        ..axon_abi::ServiceEntry::default()
    };
    stage
        .maps()
        .service
        .insert(&whole, &entry)
        .expect("an address");
    let counted = || {
        let rows = read_metrics(stage.maps()).expect("metrics");
        let reason = DropReason::ServiceBackendNotFound as u8;
        let mut rows = rows.into_iter();
        let row = rows.find(|row| row.reason == reason && row.direction == Direction::Egress);
        row.map_or(0, |row| row.packets)
    };
    let has_errno = Features::probe().has(Features::SET_RETVAL);
    let before = counted();
    for (n, (to, errno)) in [
        ("10.96.0.1:80", "ECONNREFUSED"),
        ("10.96.0.1:81", "ECONNREFUSED"),
        ("10.96.0.2:80", "EHOSTUNREACH"),
        ("[::ffff:10.96.0.1]:80", "ECONNREFUSED"),
    ]
    .into_iter()
    .enumerate()
    {
        let error = stage.run(|| talk(to)).expect_err("nobody");
        let number = nix::errno::Errno::from_raw(error.raw_os_error().expect("a number"));
        let expected = if has_errno { errno } else { "EPERM" };
        assert_eq!(format!("{number:?}"), expected, "{to}");
        assert_eq!(counted(), before + n as u64 + 1, "{to}");
    }
}

#[test]
fn only_the_nodes_own_sockets_are_led_where_that_is_configured() {
    let Some(mut stage) = Stage::new(&ADDRESSES) else {
        return;
    };
    let pod = stage.pod(&ADDRESSES);
    let cgroup = stage.cgroup();
    stage.reopen(|config| {
        config.sockets = SocketMode::At {
            cgroup,
            host_only: true,
            bind_protection: true,
        };
    });
    stage.put(&Service::new(TCP, "10.96.0.1:80", &BACKENDS));
    stage.run(|| {
        serve_all();
        talk("10.96.0.1:80").expect("the node is led");
    });
    pod.run(|| {
        serve_all();
        let error = talk("10.96.0.1:80").expect_err("a pod is not");
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable);
    });
}
