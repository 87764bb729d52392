//! Programs that come, go and are exchanged while sockets are at work.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axon_linux::process::{self, Place, Signal};
use axon_linux::{Datapath, SocketMode, netns};

use crate::common::Node;
use crate::stage::{Service, Stage, TCP, UDP, ask, datagrams, serve, talk};

const WEB: &str = "10.96.0.1:80";
const DNS: &str = "10.96.0.1:53";
const ADDRESSES: [&str; 1] = ["10.1.0.1/32"];

fn stage() -> Option<Stage> {
    let stage = Stage::new(&ADDRESSES)?;
    stage.put(&Service::new(TCP, WEB, &[(1, "10.1.0.1:8080")]));
    stage.put(&Service {
        number: 2,
        ..Service::new(UDP, DNS, &[(2, "10.1.0.1:5353")])
    });
    stage.run(|| {
        serve(TCP, "10.1.0.1:8080");
        serve(UDP, "10.1.0.1:5353");
    });
    Some(stage)
}

/// Connects and asks in the node's namespace until `work` is done; says how often.
/// Not once may it fail.
fn under_traffic(node: &str, work: impl FnOnce()) -> u32 {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            netns::within_path(&netns::path(node), || {
                let socket = datagrams(DNS);
                while !stop.load(Ordering::Relaxed) {
                    let (stream, _) = talk(WEB).expect("a connection");
                    assert_eq!(stream.peer_addr().expect("a peer").to_string(), WEB);
                    assert_eq!(ask(&socket, DNS).expect("an answer").1, DNS);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
            .expect("the node's namespace");
        });
        work();
        let enough = rounds.load(Ordering::Relaxed) + 3;
        while rounds.load(Ordering::Relaxed) < enough && !traffic.is_finished() {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        traffic.join().expect("not one fails");
    });
    rounds.into_inner()
}

#[test]
fn programs_are_exchanged_without_a_failing_call() {
    let Some(mut stage) = stage() else {
        return;
    };
    let node = stage.node().netns.clone();
    let rounds = under_traffic(&node, || {
        // Into the other generation, and back.
        for _ in 0..5 {
            stage.reopen(|config| config.reload = true);
            assert_eq!(stage.datapath().socket_programs(), 11);
        }
    });
    assert!(rounds > 5);
    stage.reopen(|_| {});
    assert!(
        stage.datapath().adoption().resumed,
        "the same are left alone"
    );
    assert_eq!(
        stage.datapath().other_socket_programs().expect("a list"),
        []
    );
}

/// What a child of the next test does: it opens the datapath, says so, and stays.
#[test]
fn loader() {
    let Some(place) = std::env::var_os("AXT_SOCKETS_LOADER") else {
        return;
    };
    let group = std::env::var_os("AXT_SOCKETS_GROUP").expect("a cgroup");
    let config = axon_linux::DatapathConfig {
        bpf_root: PathBuf::from(place),
        node: "node-1".to_owned(),
        map_sizes: axon_abi::MAPS
            .iter()
            .filter(|spec| spec.sizable)
            .map(|spec| (spec.name.to_owned(), 1024))
            .collect(),
        reload: true,
        sockets: SocketMode::At {
            cgroup: PathBuf::from(group),
            host_only: false,
            bind_protection: true,
        },
        ..axon_linux::DatapathConfig::default()
    };
    let datapath = Datapath::open(&config).expect("open");
    assert_eq!(datapath.socket_problem(), None);
    eprintln!("loaded");
    loop {
        std::thread::park();
    }
}

#[test]
fn sockets_do_not_notice_that_the_agent_is_killed() {
    let Some(mut stage) = stage() else {
        return;
    };
    stage.close();
    let (node, root, group) = (
        stage.node().netns.clone(),
        stage.node().bpf_root(),
        stage.cgroup(),
    );
    let rounds = under_traffic(&node, || {
        for _ in 0..3 {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command
                .args(["--exact", "exchange::loader", "--nocapture"])
                .env("AXT_SOCKETS_LOADER", &root)
                .env("AXT_SOCKETS_GROUP", &group)
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let place = Place {
                netns: Some(netns::path(&node)),
                ..Place::default()
            };
            let mut child = process::spawn(command, &place).expect("a loader");
            let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
            let is_loaded = lines.any(|line| line.is_ok_and(|line| line == "loaded"));
            assert!(is_loaded, "the loader has given up");
            process::signal(child.id(), Signal::Kill).expect("killed");
            child.wait().expect("it ends");
        }
    });
    assert!(rounds > 3);
    stage.reopen(|_| {});
    assert!(stage.datapath().adoption().resumed);
    assert_eq!(stage.datapath().socket_programs(), 11);
}

#[test]
fn what_is_switched_off_or_cleaned_up_is_gone() {
    let Some(mut stage) = stage() else {
        return;
    };
    stage.reopen(|config| config.sockets = SocketMode::Off);
    assert_eq!(stage.datapath().socket_programs(), 0);
    let fails = |stage: &Stage| {
        stage
            .run(|| talk(WEB))
            .expect_err("nobody leads there")
            .kind()
    };
    assert_eq!(fails(&stage), std::io::ErrorKind::NetworkUnreachable);
    stage.reopen(|_| {});
    stage.run(|| talk(WEB)).expect("a connection");
    stage.close();
    stage
        .run(|| talk(WEB))
        .expect("stopping is not uninstalling");
    let root = stage.node().bpf_root();
    let report = stage
        .run(|| axon_linux::cleanup(&root, true))
        .expect("clean");
    assert_eq!(report.links, 11);
    assert_eq!(fails(&stage), std::io::ErrorKind::NetworkUnreachable);
}

#[test]
fn a_program_that_somebody_takes_away_is_put_back() {
    let Some(mut stage) = stage() else {
        return;
    };
    let pins = stage.node().bpf_root().join("sockets");
    for pin in std::fs::read_dir(&pins).expect("pins") {
        std::fs::remove_file(pin.expect("a pin").path()).expect("removed");
    }
    stage.run(|| talk(WEB)).expect("the agent holds them");
    assert_eq!((stage.repair().pins, stage.repair().pins), (11, 0));
    stage.close();
    stage.run(|| talk(WEB)).expect("they are pinned");
}

#[test]
fn programs_move_with_the_cgroup_and_tolerate_others() {
    let Some(mut stage) = stage() else {
        return;
    };
    // Another node's, of which sockets in the group below see the programs too.
    let other = Node::new("sock-others-2");
    let below = stage.cgroup().join("below");
    axon_linux::cgroup::create(&below).expect("a cgroup");
    let mut config = stage.config();
    config.bpf_root = other.bpf_root();
    config.sockets = SocketMode::At {
        cgroup: below.clone(),
        host_only: false,
        bind_protection: true,
    };
    let second = crate::common::open(&other, &config);
    let others = second.other_socket_programs().expect("a list");
    assert_eq!(others.len(), 11, "{others:?}");
    assert!(
        others.iter().any(|other| other.name == "sock4_connect"),
        "{others:?}"
    );
    drop(second);
    // The first one moves there.
    stage.reopen(|config| {
        config.sockets = SocketMode::At {
            cgroup: below.clone(),
            host_only: false,
            bind_protection: true,
        };
    });
    assert_eq!(stage.datapath().socket_programs(), 11);
    let error = stage
        .run(|| talk(WEB))
        .expect_err("not in its group any more");
    assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable);
    stage.reopen(|_| {});
    stage.run(|| talk(WEB)).expect("back");
    drop(other);
    stage.reopen(|config| {
        config.sockets = SocketMode::At {
            cgroup: below.join("nowhere"),
            host_only: false,
            bind_protection: true,
        };
    });
    let problem = stage.datapath().socket_problem().expect("it is told");
    assert!(problem.contains("nowhere"), "{problem}");
    axon_linux::cgroup::remove(&below).expect("removed");
}
