//! Devices, namespaces, control groups and processes of the running kernel.

mod common;

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use axon_linux::link::{self, LinkError};
use axon_linux::process::{self, Place};
use axon_linux::{cgroup, device, netns};
use common::{Node, Pod, exec, root};

#[test]
fn devices_of_an_endpoint_are_made_checked_and_deleted() {
    let Some(()) = root() else { return };
    let node = Node::new("link");
    let pod = Pod::create(&node, 1);
    let check = || {
        node.run(|| link::check(&pod.fd(), &pod.link))
            .expect("checked")
    };
    assert_eq!(check(), Vec::<String>::new());
    let shown = exec(&pod.path(), "ip", &["-6", "addr", "show", "dev", "eth0"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("fd07::1/128") && !shown.contains("tentative"),
        "{shown}"
    );
    assert!(
        !shown.contains("fe80"),
        "no device makes itself an address: {shown}"
    );
    let routes = node.run(link::endpoint_routes).expect("routes");
    assert_eq!(routes.len(), 2, "{routes:?}");

    for (spoil, problem) in [
        (
            &["route", "del", "default"][..],
            "eth0 has no route to 0.0.0.0/0",
        ),
        (
            &["link", "set", "eth0", "mtu", "1400"],
            "eth0 has MTU 1400, expected 1500",
        ),
        (
            &["addr", "del", "10.7.0.1/32", "dev", "eth0"],
            "eth0 does not have address 10.7.0.1",
        ),
    ] {
        assert!(exec(&pod.path(), "ip", spoil).status.success(), "{spoil:?}");
        assert!(check().contains(&problem.to_owned()), "{:?}", check());
    }
    let args = ["route", "del", "10.7.0.1/32"];
    assert!(node.exec("ip", &args).status.success());
    let missing = format!("{} has no route to 10.7.0.1/32", pod.link.host_name);
    assert!(check().contains(&missing), "{:?}", check());
    node.run(|| link::repair_host_side(&pod.link))
        .expect("repaired");
    assert!(!check().contains(&missing), "{:?}", check());

    let again = node
        .run(|| link::create(&pod.fd(), &pod.link))
        .expect("made anew");
    assert_ne!(again, pod.ifindex);
    assert_eq!(check(), Vec::<String>::new());
    node.run(|| link::delete(&pod.link.host_name))
        .expect("deleted");
    node.run(|| link::delete(&pod.link.host_name))
        .expect("absent is no error");
    assert_eq!(check().len(), 2, "neither device is there: {:?}", check());
}

#[test]
fn a_device_of_somebody_else_is_not_touched() {
    let Some(()) = root() else { return };
    let node = Node::new("foreign");
    let pod = Pod::create(&node, 1);
    node.run(|| link::delete(&pod.link.host_name))
        .expect("deleted");
    let args = [
        "link", "add", "eth0", "type", "veth", "peer", "name", "other",
    ];
    assert!(exec(&pod.path(), "ip", &args).status.success());
    let error = node
        .run(|| link::create(&pod.fd(), &pod.link))
        .expect_err("refused");
    assert!(
        matches!(&error, LinkError::Exists { device, .. } if device == "eth0"),
        "{error}"
    );
    let names = node.run(device::list).expect("devices");
    assert!(
        names.iter().all(|device| device.name != pod.link.host_name),
        "nothing is left behind"
    );
}

#[test]
fn an_endpoint_never_takes_the_device_of_another() {
    let Some(()) = root() else { return };
    let node = Node::new("collide");
    let first = Pod::create(&node, 1);
    let netns = netns::create_anonymous().expect("a namespace");
    let fd = link::Netns::Fd(netns.as_fd().try_clone_to_owned().expect("a descriptor"));
    // As if both containers' names had the same hash.
    let second = link::EndpointLink {
        host_mac: axon_model::Mac([2, 0, 0, 0, 1, 9]),
        container_mac: axon_model::Mac([2, 0, 0, 0, 2, 9]),
        ..first.link.clone()
    };
    let error = node
        .run(|| link::create(&fd, &second))
        .expect_err("refused");
    assert!(
        matches!(&error, LinkError::Exists { device, .. } if *device == first.link.host_name),
        "{error}"
    );
    for ifindex in [0, first.ifindex + 100] {
        node.run(|| link::delete_own(ifindex, &second.host_name, second.host_mac))
            .expect("nothing to delete");
    }
    let problems = node.run(|| link::check(&first.fd(), &first.link));
    assert_eq!(problems.expect("checked"), Vec::<String>::new());
    node.run(|| link::delete_own(0, &first.link.host_name, first.link.host_mac))
        .expect("deleted");
    let problems = node.run(|| link::check(&first.fd(), &first.link));
    assert!(!problems.expect("checked").is_empty());
}

#[test]
fn an_endpoints_device_is_found_under_another_name_and_with_another_address() {
    let Some(()) = root() else { return };
    let node = Node::new("renamed");
    let change: [&[&str]; 2] = [&["name", "theirs0"], &["address", "02:00:00:00:00:99"]];
    for (n, change) in (1..).zip(change) {
        let pod = Pod::create(&node, n);
        let name = pod.link.host_name.as_str();
        let device = ["link", "set", name];
        assert!(
            node.exec("ip", &[&device[..], &["down"]].concat())
                .status
                .success()
        );
        assert!(
            node.exec("ip", &[&device[..], change].concat())
                .status
                .success()
        );
        node.run(|| link::delete_own(pod.ifindex, name, pod.link.host_mac))
            .expect("deleted");
        let left = node.run(device::list).expect("devices");
        assert!(
            left.iter().all(|d| d.ifindex != pod.ifindex),
            "{change:?}: {left:?}"
        );
    }
}

#[test]
fn facts_about_devices_are_told_and_watched() {
    let Some(()) = root() else { return };
    let node = Node::new("facts");
    let mut watch = node.run(device::Watch::new).expect("a watch");
    assert!(!watch.wait(Duration::ZERO).expect("no change"));
    node.run(|| common::veth::add("up0", 0, "up1", 1450));
    for args in [
        &["link", "set", "up0", "up"][..],
        &["link", "set", "up1", "up"],
        &["addr", "add", "192.0.2.1/24", "dev", "up0"],
        &["addr", "add", "198.51.100.1/24", "dev", "up1"],
        &["route", "add", "default", "via", "192.0.2.254"],
    ] {
        assert!(node.exec("ip", args).status.success(), "{args:?}");
    }
    assert!(watch.wait(Duration::from_secs(30)).expect("a change"));
    let devices = node.run(device::list).expect("devices");
    let up = devices
        .iter()
        .find(|device| device.name == "up0")
        .expect("up0");
    assert_eq!((up.mtu, up.kind.as_str(), up.up), (1450, "veth", true));
    assert!(
        up.addresses
            .contains(&("192.0.2.1".parse().expect("an address"), 24))
    );
    assert!(devices.iter().any(|device| device.loopback && device.up));
    assert_eq!(
        node.run(device::with_default_route).expect("routes"),
        [up.ifindex]
    );
    let uplinks = |addresses: &[std::net::IpAddr]| {
        node.run(|| device::detect_uplinks(addresses))
            .expect("uplinks")
    };
    assert_eq!(uplinks(&[]), ["up0"]);
    let mut both = uplinks(&["198.51.100.1".parse().expect("an address")]);
    both.sort();
    assert_eq!(both, ["up0", "up1"]);
}

#[test]
fn the_calling_thread_never_moves() {
    let Some(()) = root() else { return };
    let before = netns::inode().expect("an inode");
    let other = netns::create_anonymous().expect("a namespace");
    let inside =
        netns::within(other.as_fd(), || netns::inode().expect("an inode")).expect("entered");
    assert_ne!(inside, before);
    assert_eq!(netns::inode().expect("an inode"), before);
    let name = format!("axt-linux-named-{}", std::process::id());
    let path = netns::create(&name).expect("a namespace");
    let error = netns::create(&name).expect_err("the name is taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_ne!(netns::inode_of(&path).expect("an inode"), before);
    assert!(netns::list().expect("names").contains(&name));
    netns::delete(&name).expect("deleted");
    netns::delete(&name).expect("absent is no error");
    assert!(!path.exists());
}

#[test]
fn a_child_lives_where_it_is_put() {
    let Some(()) = root() else { return };
    let ns = netns::create_anonymous().expect("a namespace");
    let dir = tempfile::tempdir().expect("a directory");
    if !std::path::Path::new("/etc/hosts").exists() {
        // A machine made for a test may have none to put another in place of.
        std::fs::write("/etc/hosts", "").expect("a file");
    }
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "192.0.2.7 only-here\n").expect("a file");
    let group = cgroup::mount_point()
        .expect("cgroup2")
        .join(cgroup::current().expect("a group"))
        .join(format!("axt-linux-{}", std::process::id()));
    cgroup::create(&group).expect("a group");
    use std::os::fd::AsRawFd;
    let place = Place {
        netns: Some(format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd()).into()),
        binds: vec![(hosts, "/etc/hosts".into())],
        cgroup: Some(group.clone()),
        session: true,
        ..Place::default()
    };
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "cat /etc/hosts; readlink /proc/self/ns/net; cat /proc/self/cgroup; echo ok; sleep 600 & sleep 600",
    ]);
    command.stdout(Stdio::piped());
    let mut child = process::spawn(command, &place).expect("a child");
    let mut output = child.stdout.take().expect("its output");
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("ok\n") && output.read(&mut byte).expect("output") > 0 {
        text.push(char::from(byte[0]));
    }
    assert!(text.contains("only-here"), "{text}");
    let inode = netns::within(ns.as_fd(), || netns::inode().expect("an inode")).expect("entered");
    assert!(text.contains(&format!("net:[{inode}]")), "{text}");
    assert!(text.contains("axt-linux-"), "{text}");
    assert!(
        !std::fs::read_to_string("/etc/hosts")
            .expect("hosts")
            .contains("only-here")
    );
    assert!(process::is_alive(child.id()));
    assert!(cgroup::remove(&group).is_err(), "processes live in it");
    cgroup::kill(&group, Duration::from_secs(30)).expect("killed");
    assert!(cgroup::processes(&group).expect("processes").is_empty());
    child.wait().expect("its end");
    assert!(!process::is_alive(child.id()));
    cgroup::remove(&group).expect("removed");
    cgroup::remove(&group).expect("absent is no error");

    let nowhere = Place {
        netns: Some("/nonexistent/net".into()),
        ..Place::default()
    };
    let error = process::spawn(Command::new("true"), &nowhere).expect_err("refused");
    assert!(error.to_string().contains("/nonexistent/net"), "{error}");
}
