//! No device that has stubs is ever without: what agents that died have left,
//! what the kernel refuses, what others take away. Needs root.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use axon_abi::{Hook, MAPS};

use super::clsact;
use super::stubs::{ENDPOINT_HOOKS, UPLINK_HOOKS};
use super::upgrade_tests::Root;
use super::{Datapath, DatapathError};
use crate::sys::{Link, ProgramKind, TcxHook, load_program};

/// A root whose namespace has two devices; none, with a message, where the
/// test cannot run.
fn root(name: &str) -> Option<(Root, [u32; 2])> {
    let root = Root::new(name)?;
    if !crate::sys::has_tcx() {
        eprintln!("skipped: needs a kernel with tcx");
        return None;
    }
    let devices = root.run(|| {
        let add = ["link", "add", "a0", "type", "veth", "peer", "name", "b0"];
        let added = Command::new("ip").args(add).status().expect("ip runs");
        assert!(added.success());
        ["a0", "b0"].map(|name| nix::net::if_::if_nametoindex(name).expect("a device"))
    });
    Some((root, devices))
}

/// The devices with live links, by what is pinned.
fn linked(root: &Root, device: u32) -> Vec<Hook> {
    let live = |hook: &Hook| {
        let pin = root.pin(&format!("links/{device}-{}", hook.program()));
        Link::open(&pin).is_ok_and(|link| link.info().expect("told").ifindex == device)
    };
    Hook::ALL.into_iter().filter(live).collect()
}

fn filters(root: &Root) -> Vec<(u32, Hook)> {
    root.run(clsact::find).expect("filters")
}

/// No program: the kernel does not take it for a stub.
fn nothing() -> File {
    File::open("/dev/null").expect("opened")
}

fn attached(root: &Root, device: u32) -> Datapath {
    let mut datapath = root.open();
    root.run(|| datapath.attach_endpoint(device))
        .expect("attached");
    assert_eq!(linked(root, device), ENDPOINT_HOOKS);
    datapath
}

#[test]
fn a_filter_that_was_left_beside_its_link_goes() {
    let Some((root, [device, other])) = root("doubled") else {
        return;
    };
    let mut first = attached(&root, device);
    root.run(|| first.attach_endpoint_at_once(other))
        .expect("attached");
    // As if the agent had died after the link was pinned.
    root.run(|| {
        for hook in ENDPOINT_HOOKS {
            let stub = first.programs.stub_fd(hook).expect("loaded");
            clsact::attach(device, hook, stub).expect("a filter");
        }
    });
    assert_eq!(filters(&root).len(), 4);
    drop(first);
    let second = root.open();
    assert_eq!(second.adoption().links, 4);
    let left: Vec<u32> = filters(&root)
        .into_iter()
        .map(|(device, _)| device)
        .collect();
    assert_eq!(left, [other; 2], "where there is no link the filter stays");
    assert_eq!(linked(&root, device), ENDPOINT_HOOKS);
}

#[test]
fn a_device_that_went_has_no_filters_left() {
    let Some((root, [device, other])) = root("went") else {
        return;
    };
    let mut datapath = root.open();
    root.run(|| datapath.attach_endpoint_at_once(device))
        .expect("attached");
    let [from, to] = ENDPOINT_HOOKS;
    let detach = |device, hook| root.run(|| clsact::detach(device, hook));
    detach(device, from).expect("there was one");
    detach(device, from).expect("another is left");
    detach(device, to).expect("the last one");
    detach(other, to).expect("never had any");
    let no_device = i32::MAX.unsigned_abs();
    detach(no_device, to).expect("no device");
}

#[test]
fn a_stub_that_cannot_be_renewed_stays() {
    let Some((root, [device, other])) = root("renew") else {
        return;
    };
    let mut datapath = attached(&root, device);
    root.run(|| datapath.attach_endpoint_at_once(other))
        .expect("attached");
    let (nothing, [from, _]) = (nothing(), ENDPOINT_HOOKS);
    let refused = root.run(|| datapath.stubs.attach(device, from, nothing.as_fd()));
    let error = refused.expect_err("refused");
    assert!(matches!(error, DatapathError::Attach { .. }), "{error}");
    let refused = root.run(|| datapath.stubs.relink(|_| Ok(nothing.as_fd())));
    refused.expect_err("refused");
    assert_eq!(linked(&root, device), ENDPOINT_HOOKS);
    assert_eq!(filters(&root).len(), 2);
    assert_eq!(datapath.attached().len(), 2);
}

#[test]
fn a_device_that_is_still_there_is_not_forgotten() {
    let Some((root, [device, other])) = root("forget") else {
        return;
    };
    let mut datapath = attached(&root, device);
    root.run(|| datapath.forget_endpoint(device)).expect("kept");
    assert_eq!(linked(&root, device), ENDPOINT_HOOKS);
    assert_eq!(datapath.attached(), [device]);
    root.run(|| Command::new("ip").args(["link", "del", "a0"]).status())
        .expect("ip runs");
    root.run(|| datapath.forget_endpoint(device))
        .expect("forgotten");
    assert!(datapath.attached().is_empty());
    assert!(!root.pin(&format!("links/{device}-from_endpoint")).exists());
    let nobody = root.run(|| datapath.repair(&[device], &[other]));
    assert!(nobody.expect("repaired").is_nothing());
}

#[test]
fn devices_that_go_before_they_are_settled_keep_no_other_waiting() {
    let Some((root, [first, second])) = root("gone") else {
        return;
    };
    let mut datapath = root.open();
    let add = ["link", "add", "c0", "type", "veth", "peer", "name", "d0"];
    let last = root.run(|| {
        Command::new("ip").args(add).status().expect("ip runs");
        nix::net::if_::if_nametoindex("c0").expect("a device")
    });
    for device in [first, second, last] {
        root.run(|| datapath.attach_endpoint_at_once(device))
            .expect("attached");
    }
    root.run(|| Command::new("ip").args(["link", "del", "a0"]).status())
        .expect("ip runs");
    while root.run(|| datapath.settle()).expect("settled") {}
    assert_eq!(linked(&root, last), ENDPOINT_HOOKS);
    assert_eq!(datapath.attached(), [last]);
}

#[test]
fn a_device_that_gets_an_index_before_it_is_settled_stays_as_it_is() {
    let Some((root, [first, _])) = root("heir") else {
        return;
    };
    let mut datapath = root.open();
    root.run(|| datapath.attach_endpoint_at_once(first))
        .expect("attached");
    let index = first.to_string();
    for args in [
        &["link", "del", "a0"][..],
        &[
            "link", "add", "e0", "index", &index, "type", "veth", "peer", "name", "f0",
        ],
    ] {
        let done = root.run(|| Command::new("ip").args(args).status());
        assert!(done.expect("ip runs").success(), "{args:?}");
    }
    while root.run(|| datapath.settle()).expect("settled") {}
    assert_eq!((linked(&root, first), filters(&root)), (vec![], vec![]));
    assert!(datapath.attached().is_empty());
}

#[test]
fn stubs_are_put_where_they_never_came() {
    let Some((root, [endpoint, uplink])) = root("missing") else {
        return;
    };
    let mut datapath = root.open();
    let repair = root
        .run(|| datapath.repair(&[endpoint], &[uplink]))
        .expect("repaired");
    assert_eq!((repair.stubs, repair.pins), (4, 0));
    assert_eq!(linked(&root, endpoint), ENDPOINT_HOOKS);
    assert_eq!(linked(&root, uplink), UPLINK_HOOKS);
    let again = root
        .run(|| datapath.repair(&[endpoint], &[uplink]))
        .expect("whole");
    assert!(again.is_nothing(), "{again:?}");
}

#[test]
fn links_without_a_place_for_their_pins_become_filters_until_there_is_one() {
    let Some((root, [endpoint, uplink])) = root("place") else {
        return;
    };
    let mut datapath = attached(&root, endpoint);
    let repair = |datapath: &mut Datapath| root.run(|| datapath.repair(&[endpoint], &[uplink]));
    repair(&mut datapath).expect("the uplink's stubs");
    crate::mount::unmount_tree(&root.path()).expect("unmounted");
    // Somebody else's directory, with a file that has a pin's name.
    let theirs = root.pin(&format!("links/{endpoint}-from_endpoint"));
    std::fs::create_dir_all(theirs.parent().expect("links")).expect("made");
    std::fs::write(&theirs, "").expect("written");
    for _ in 0..2 {
        repair(&mut datapath).expect_err("no place");
        let mut both = vec![];
        both.extend(UPLINK_HOOKS.map(|hook| (uplink, hook)));
        both.extend(ENDPOINT_HOOKS.map(|hook| (endpoint, hook)));
        both.sort_unstable();
        let mut hung = filters(&root);
        hung.sort_unstable();
        assert_eq!(hung, both);
        assert!(theirs.exists(), "it is not ours");
        assert!(!root.run(|| datapath.settle()).expect("nothing to settle"));
    }
    // A device that comes now, and a stub that goes now.
    root.run(|| clsact::detach(uplink, Hook::FromNetdev))
        .expect("taken away");
    repair(&mut datapath).expect_err("no place");
    assert_eq!(filters(&root).len(), 4);

    std::fs::remove_dir_all(theirs.parent().expect("links")).expect("removed");
    let done = repair(&mut datapath).expect("repaired");
    assert!(done.mounted, "{done:?}");
    while root.run(|| datapath.settle()).expect("settled") {}
    assert_eq!(filters(&root), []);
    assert_eq!(linked(&root, endpoint), ENDPOINT_HOOKS);
    assert_eq!(linked(&root, uplink), UPLINK_HOOKS);
    assert!(repair(&mut datapath).expect("whole").is_nothing());
}

#[test]
fn a_link_that_is_made_while_there_is_no_place_does_not_hide_that_it_comes_back() {
    let Some((root, [device, _])) = root("moment") else {
        return;
    };
    let mut datapath = root.open();
    crate::mount::unmount_tree(&root.path()).expect("unmounted");
    // As a new endpoint's stubs are settled in the moment before a repair.
    root.run(|| datapath.attach_endpoint(device))
        .expect("as filters");
    assert_eq!(filters(&root).len(), 2);
    let repair = |datapath: &mut Datapath| root.run(|| datapath.repair(&[device], &[]));
    let done = repair(&mut datapath).expect("repaired");
    assert!(done.mounted, "{done:?}");
    while root.run(|| datapath.settle()).expect("settled") {}
    assert_eq!(linked(&root, device), ENDPOINT_HOOKS);
    assert!(repair(&mut datapath).expect("whole").is_nothing());
    // Where only the links have no place, that is told, and mended when there is one.
    let links = root.pin("links");
    std::fs::remove_dir_all(&links).expect("removed");
    root.run(|| datapath.detach_endpoint(device)).expect("off");
    root.run(|| datapath.attach_endpoint(device))
        .expect("as filters");
    assert!(repair(&mut datapath).is_err());
}

#[test]
fn it_is_seen_without_asking_of_devices_that_something_was_taken_away() {
    let Some((root, [endpoint, uplink])) = root("whole") else {
        return;
    };
    let mut datapath = attached(&root, endpoint);
    let whole = |datapath: &Datapath| root.run(|| datapath.is_whole());
    let repair = |datapath: &mut Datapath| {
        root.run(|| datapath.repair(&[endpoint], &[uplink]))
            .expect("repaired")
    };
    repair(&mut datapath);
    assert!(whole(&datapath));
    let link = root.pin(&format!("links/{uplink}-from_netdev"));
    let map = root.pin(MAPS[0].name);
    for gone in [&link, &map] {
        std::fs::remove_file(gone).expect("removed");
        assert!(!whole(&datapath), "{}", gone.display());
        repair(&mut datapath);
        assert!(whole(&datapath));
    }
    crate::mount::unmount_tree(&root.path()).expect("unmounted");
    assert!(!whole(&datapath), "no place");
    repair(&mut datapath);
    while root.run(|| datapath.settle()).expect("settled") {}
    assert!(whole(&datapath));
    let stub = Link::open(&root.pin(&format!("links/{endpoint}-from_endpoint")));
    stub.expect("pinned").detach().expect("taken off");
    assert!(!whole(&datapath), "a stub that sees nothing");
    assert_eq!(repair(&mut datapath).stubs, 1);
    assert!(whole(&datapath));
    root.run(|| Command::new("ip").args(["link", "del", "a0"]).status())
        .expect("ip runs");
    assert!(!whole(&datapath), "a device that is gone");
}

/// A program that lets everything through; the kernel takes none twice.
fn passes() -> OwnedFd {
    // r0 = -1; exit
    let code = [
        0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0,
    ];
    load_program(ProgramKind::CLASSIFIER, &code, c"GPL", &mut vec![0; 4096]).expect("loaded")
}

#[test]
fn a_device_that_takes_no_link_keeps_no_other_from_its_own() {
    let Some((root, [full, free])) = root("refused") else {
        return;
    };
    let mut datapath = root.open();
    for device in [full, free] {
        root.run(|| datapath.attach_endpoint_at_once(device))
            .expect("attached");
    }
    // As many as the kernel lets hang on a hook.
    let programs: Vec<OwnedFd> = (0..64).map(|_| passes()).collect();
    let theirs: Vec<Link> = root.run(|| {
        let hang = |p: &OwnedFd| Link::create(p.as_fd(), full, TcxHook::Ingress).ok();
        programs.iter().map_while(hang).collect()
    });
    let settle = |datapath: &mut Datapath| root.run(|| datapath.settle());
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(settle(&mut datapath).is_err());
    }
    assert_eq!(refused, 1);
    assert!(!settle(&mut datapath).expect("nothing is left to do"));
    assert_eq!(linked(&root, full), [Hook::ToEndpoint]);
    assert_eq!(linked(&root, free), ENDPOINT_HOOKS);
    assert_eq!(filters(&root), [(full, Hook::FromEndpoint)]);
    // There is room again, and an endpoint comes.
    drop(theirs);
    root.run(|| datapath.attach_endpoint_at_once(free))
        .expect("attached");
    while settle(&mut datapath).expect("settled") {}
    assert_eq!(linked(&root, full), ENDPOINT_HOOKS);
    assert_eq!(filters(&root), []);
}
