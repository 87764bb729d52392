//! The datapath on the running kernel: adoption, layouts, switching, cleaning.

mod common;

use std::process::{Command, Stdio};
use std::time::Instant;

use axon_abi::{CtEntry, CtKey4, DropReason, MAPS};
use axon_linux::process::{self, Place};
use axon_linux::{AttachMode, Datapath, DatapathError, Features, Maps};
use common::{Node, Pod, attached, desired, exec, open, reconciler, root};

#[test]
fn a_second_open_adopts_everything() {
    let Some(()) = root() else { return };
    let node = Node::new("adopt");
    let pod = Pod::create(&node, 1);
    let config = node.config();
    let mut first = open(&node, &config);
    assert_eq!(first.adoption().created.len(), MAPS.len());
    node.run(|| first.attach_endpoint(pod.ifindex))
        .expect("attached");
    let generation = first.adoption().generation;
    let programs = first.adoption().programs.clone();
    let flow = CtKey4 {
        low: [10, 7, 0, 1],
        protocol: 6,
        ..CtKey4::default()
    };
    first
        .maps()
        .ct4
        .insert(
            &flow,
            &CtEntry {
                expires_s: 7,
                ..CtEntry::default()
            },
        )
        .expect("a flow");
    drop(first);

    let second = open(&node, &config);
    let adoption = second.adoption();
    assert_eq!(adoption.adopted.len(), MAPS.len(), "{adoption:?}");
    assert!(
        adoption.recreated.is_empty() && adoption.created.is_empty(),
        "{adoption:?}"
    );
    assert_eq!((adoption.links, adoption.stale_links), (2, 0));
    assert!(adoption.resumed, "{adoption:?}");
    assert_eq!(adoption.generation, generation);
    assert_eq!(adoption.programs, programs);
    assert_eq!(
        adoption.previous.as_ref().map(|owner| owner.pid),
        Some(std::process::id())
    );
    assert_eq!(second.attached(), [pod.ifindex]);
    assert!(second.maps().ct4.get(&flow).expect("a look-up").is_some());
}

#[test]
fn a_live_owner_is_not_displaced() {
    let Some(()) = root() else { return };
    let node = Node::new("held");
    let held = open(&node, &node.config());
    let error = node
        .run(|| Datapath::open(&node.config()))
        .expect_err("refused");
    let DatapathError::Held { owner, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (owner.node.as_str(), owner.pid),
        ("node-1", std::process::id())
    );
    let error = node
        .run(|| axon_linux::cleanup(&node.bpf_root(), false))
        .expect_err("refused");
    assert!(matches!(error, DatapathError::Held { .. }), "{error}");
    drop(held);
}

#[test]
fn a_map_that_differs_is_told_and_its_entries_are_carried_over() {
    let Some(()) = root() else { return };
    let node = Node::new("layout");
    let mut config = node.config();
    let first = open(&node, &config);
    let flow = |n: u8| CtKey4 {
        low: [10, 7, 0, n],
        protocol: 17,
        ..CtKey4::default()
    };
    for n in 1..=9 {
        first
            .maps()
            .ct4
            .insert(
                &flow(n),
                &CtEntry {
                    packets: [9, 9],
                    ..CtEntry::default()
                },
            )
            .expect("a flow");
    }
    drop(first);
    config.map_sizes.insert("axon_ct4_v1".to_owned(), 2048);
    let second = open(&node, &config);
    let [row] = second.adoption().recreated.as_slice() else {
        panic!("{:?}", second.adoption())
    };
    assert_eq!(
        (row.map, row.field, row.found, row.expected),
        ("axon_ct4_v1", "max entries", 1024, 2048)
    );
    assert_eq!(row.carried, 9);
    assert_eq!(second.maps().ct4.capacity(), 2048);
    drop(second);
    let third = open(&node, &config);
    assert!(
        third.adoption().recreated.is_empty(),
        "{:?}",
        third.adoption()
    );
    assert_eq!(third.maps().ct4.count().expect("a count"), 9);
}

#[test]
fn sizes_of_maps_that_have_none_are_refused() {
    let Some(()) = root() else { return };
    let node = Node::new("sizes");
    for map in ["axon_config_v1", "axon_unheard_of"] {
        let mut config = node.config();
        config.map_sizes.insert(map.to_owned(), 8);
        let error = node.run(|| Datapath::open(&config)).expect_err("refused");
        assert!(
            matches!(&error, DatapathError::NotSizable { map: named } if named == map),
            "{error}"
        );
    }
    let mut config = node.config();
    config.devices = vec!["nosuch0".to_owned()];
    let error = node.run(|| Datapath::open(&config)).expect_err("refused");
    assert!(
        matches!(&error, DatapathError::NoDevice { device } if device == "nosuch0"),
        "{error}"
    );
}

/// Pings from one endpoint to the other while the datapath is opened again
/// and again; not one packet may be lost, nor a tail call missed.
fn switch_under_ping(name: &str, attach: AttachMode) {
    let node = Node::new(name);
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let mut config = node.config();
    config.attach = attach;
    config.reload = true;
    let mut datapath = attached(&node, &config, [&a, &b]);
    let desired = desired(&[&a, &b]);
    let report = reconciler(&node, datapath.maps()).sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    // A report may have come between the stubs and the rows.
    let missed_before = missed(datapath.maps());
    // Long enough for several switches, however slow the machine.
    let started = Instant::now();
    drop(datapath);
    datapath = open(&node, &config);
    let interval = (started.elapsed().as_secs_f64() * 4.0 / 800.0).max(0.002);
    let interval = format!("{interval:.4}");
    for target in ["10.7.0.2", "fd07::2"] {
        let mut ping = Command::new("ping");
        ping.args(["-i", &interval, "-c", "800", "-W", "5", "-q", target])
            .stdout(Stdio::piped());
        let place = Place {
            netns: Some(a.path()),
            ..Place::default()
        };
        let mut ping = process::spawn(ping, &place).expect("ping");
        let mut switches = 0;
        while ping.try_wait().expect("ping").is_none() {
            drop(datapath);
            datapath = open(&node, &config);
            switches += 1;
            assert_eq!(datapath.attached(), [a.ifindex, b.ifindex]);
        }
        let output = ping.wait_with_output().expect("ping");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains(" 0% packet loss"),
            "after {switches} switches: {text}"
        );
        assert!(switches > 1);
    }
    let metrics = axon_linux::read_metrics(datapath.maps());
    assert_eq!(missed(datapath.maps()), missed_before, "{metrics:?}");
}

/// Packets dropped. The pods' kernels report their multicast groups whenever
/// they like; that this is refused does not count.
fn missed(maps: &Maps) -> u64 {
    let reports = DropReason::ForbiddenIcmpv6Message as u8;
    axon_linux::read_metrics(maps)
        .expect("metrics")
        .iter()
        .filter(|row| row.reason != 0 && row.reason != reports)
        .map(|row| row.packets)
        .sum()
}

#[test]
fn generations_are_switched_without_loss() {
    let Some(()) = root() else { return };
    if !Features::probe().has(Features::TCX) {
        eprintln!("skipped: needs a kernel with tcx");
        return;
    }
    switch_under_ping("switch", AttachMode::Tcx);
}

#[test]
fn generations_are_switched_without_loss_where_there_is_no_tcx() {
    let Some(()) = root() else { return };
    switch_under_ping("clsact", AttachMode::Clsact);
}

/// Whether a device of a node has a clsact qdisc.
fn has_clsact(node: &Node, device: &str) -> bool {
    let shown = node.exec("tc", &["qdisc", "show", "dev", device]);
    assert!(shown.status.success(), "{shown:?}");
    String::from_utf8_lossy(&shown.stdout).contains("qdisc clsact")
}

#[test]
fn filters_are_adopted_and_the_last_takes_its_qdisc_along() {
    let Some(()) = root() else { return };
    let node = Node::new("filters");
    node.run(|| common::veth::add("up0", 0, "up1", 1500));
    let pod = Pod::create(&node, 1);
    let mut config = node.config();
    config.attach = AttachMode::Clsact;
    config.devices = vec!["up0".to_owned()];
    let mut first = open(&node, &config);
    node.run(|| first.attach_endpoint(pod.ifindex))
        .expect("attached");
    let uplinks = first.uplinks();
    drop(first);

    let mut second = open(&node, &config);
    assert_eq!(second.adoption().links, 4);
    assert_eq!(second.attached(), [pod.ifindex]);
    assert_eq!(second.uplinks(), uplinks);
    assert!(has_clsact(&node, "up0") && has_clsact(&node, &pod.link.host_name));
    node.run(|| second.detach_endpoint(pod.ifindex))
        .expect("detached");
    assert!(!has_clsact(&node, &pod.link.host_name));
    node.run(|| second.attach_endpoint(pod.ifindex))
        .expect("attached again");
    drop(second);

    let root = node.bpf_root();
    let report = node
        .run(|| axon_linux::cleanup(&root, false))
        .expect("cleaned");
    // Four, not eight: attaching anew replaced what was there.
    assert_eq!(report.links, 4, "{report:?}");
    assert!(!has_clsact(&node, "up0") && !has_clsact(&node, &pod.link.host_name));
}

/// Filters of ours on a device.
fn filters(node: &Node, device: &str) -> usize {
    ["ingress", "egress"]
        .iter()
        .map(|side| {
            let shown = node.exec("tc", &["filter", "show", "dev", device, side]);
            assert!(shown.status.success(), "{shown:?}");
            String::from_utf8_lossy(&shown.stdout)
                .matches("axon_")
                .count()
        })
        .sum()
}

/// A new device has filters at once; they become links one by one, also if
/// another agent comes meanwhile, and no packet is lost.
#[test]
fn stubs_of_new_devices_settle_without_loss() {
    let Some(()) = root() else { return };
    if !Features::probe().has(Features::TCX) {
        eprintln!("skipped: needs a kernel with tcx");
        return;
    }
    let node = Node::new("settle");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let config = node.config();
    let mut datapath = open(&node, &config);
    for pod in [&a, &b] {
        for _again in 0..2 {
            node.run(|| datapath.attach_endpoint_at_once(pod.ifindex))
                .expect("attached");
        }
        assert_eq!(filters(&node, &pod.link.host_name), 2);
    }
    let report = reconciler(&node, datapath.maps()).sync(0, &desired(&[&a, &b]));
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let missed_before = missed(datapath.maps());
    let mut ping = Command::new("ping");
    ping.args(["-i", "0.002", "-c", "800", "-W", "5", "-q", "10.7.0.2"])
        .stdout(Stdio::piped());
    let place = Place {
        netns: Some(a.path()),
        ..Place::default()
    };
    let ping = process::spawn(ping, &place).expect("ping");
    let mut settled = 0;
    while node.run(|| datapath.settle()).expect("settled") {
        settled += 1;
        drop(datapath);
        datapath = open(&node, &config);
        assert_eq!(datapath.adoption().links, 4);
        // As an agent that comes back does.
        node.run(|| datapath.attach_endpoint_at_once(a.ifindex))
            .expect("attached again");
    }
    assert_eq!(settled, 4);
    for pod in [&a, &b] {
        assert_eq!(filters(&node, &pod.link.host_name), 0);
    }
    let output = ping.wait_with_output().expect("ping");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" 0% packet loss"), "{text}");
    assert_eq!(missed(datapath.maps()), missed_before);

    // A device that goes takes its stubs along; the pins are ours to remove.
    node.run(|| axon_linux::link::delete(&a.link.host_name))
        .expect("deleted");
    datapath.forget_endpoint(a.ifindex).expect("forgotten");
    assert_eq!(datapath.attached(), [b.ifindex]);
    drop(datapath);
    let datapath = open(&node, &config);
    assert_eq!(datapath.adoption().stale_links, 0);
    assert_eq!(datapath.adoption().links, 2);
}

#[test]
fn stopping_leaves_enforcement_and_cleaning_removes_it() {
    let Some(()) = root() else { return };
    let node = Node::new("clean");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let datapath = attached(&node, &node.config(), [&a, &b]);
    reconciler(&node, datapath.maps()).sync(0, &desired(&[&a, &b]));
    drop(datapath);
    let ping = exec(
        &a.path(),
        "ping",
        &["-c", "2", "-i", "0.1", "-W", "5", "10.7.0.2"],
    );
    assert!(
        ping.status.success(),
        "{}",
        String::from_utf8_lossy(&ping.stdout)
    );
    let maps = Maps::open_readonly(&node.bpf_root()).expect("the maps of a dead agent");
    assert_eq!(maps.endpoint.count().expect("a count"), 2);
    assert!(
        maps.endpoint.remove(&a.ifindex).is_err(),
        "for reading only"
    );

    let root = node.bpf_root();
    let report = node
        .run(|| axon_linux::cleanup(&root, true))
        .expect("cleaned");
    assert_eq!(
        (report.links, report.maps, report.devices),
        (4, MAPS.len(), 2),
        "{report:?}"
    );
    assert!(report.unmounted && !root.exists());
    let again = node
        .run(|| axon_linux::cleanup(&root, true))
        .expect("cleaned");
    assert_eq!(again, axon_linux::CleanupReport::default());
}

#[test]
fn links_of_devices_that_are_gone_are_forgotten() {
    let Some(()) = root() else { return };
    let node = Node::new("stale");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let mut datapath = attached(&node, &node.config(), [&a, &b]);
    node.run(|| axon_linux::link::delete(&a.link.host_name))
        .expect("deleted");
    node.run(|| datapath.detach_endpoint(a.ifindex))
        .expect("a device that is gone is no error");
    node.run(|| axon_linux::link::delete(&b.link.host_name))
        .expect("deleted");
    drop(datapath);
    let datapath = open(&node, &node.config());
    assert_eq!(
        (datapath.adoption().links, datapath.adoption().stale_links),
        // Filters go with their device; pins of links stay.
        (
            0,
            if datapath.features().has(Features::TCX) {
                2
            } else {
                0
            }
        )
    );
}
