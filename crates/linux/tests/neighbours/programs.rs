//! Other programs on devices that ours are on.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use axon_abi::DropReason;
use axon_linux::{AttachMode, Features, Hanging, OtherProgram, Standing};
use nix::libc;

use crate::common::{self, root};
use crate::stage::{NODE, PATIENCE, Stage, has, must, reaches, silent, stage, stage_with};

/// A tc program that always says the same.
struct Other(OwnedFd);

/// What it may say, at a tcx hook.
const NEXT: i32 = -1;
const DROP: i32 = 2;
/// The hooks of a device.
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;

fn bpf(command: libc::c_long, attr: &mut [u32; 32]) -> OwnedFd {
    let len = size_of_val(attr);
    // SAFETY: `attr` is writable for `len` bytes, and what it points to lives on.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), len) };
    assert!(fd >= 0, "bpf {command}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }
}

impl Other {
    /// Puts it in front of what is on the device, or behind.
    fn attach(ifindex: u32, hook: u32, says: i32, front: bool) -> Self {
        // r0 = says; exit.
        let code: [u64; 2] = [0xb7 | u64::from(says as u32) << 32, 0x95];
        let halves = |address: u64| [address as u32, (address >> 32) as u32];
        let mut load = [0; 32];
        load[..2].copy_from_slice(&[3, 2]);
        load[2..4].copy_from_slice(&halves(code.as_ptr() as u64));
        load[4..6].copy_from_slice(&halves(c"GPL".as_ptr() as u64));
        // The name: four words on from the flags.
        load[12] = u32::from_ne_bytes(*b"othe");
        load[13] = u32::from_ne_bytes(*b"r\0\0\0");
        let program = bpf(5, &mut load);
        let place = if front { 1 << 3 } else { 1 << 4 };
        let mut link = [0; 32];
        link[..4].copy_from_slice(&[program.as_raw_fd() as u32, ifindex, hook, place]);
        Self(bpf(28, &mut link))
    }
}

#[test]
fn other_programs_on_a_device_have_their_say_and_ours_keeps_its_own() {
    let Some(()) = root() else { return };
    if !Features::probe().has(Features::TCX) {
        eprintln!("skipped: needs a kernel with tcx");
        return;
    }
    let mut stage = stage("tcx");
    let device = stage.pods[0].ifindex;
    let attach = |hook, says, front| {
        let other = stage.node.run(|| Other::attach(device, hook, says, front));
        assert!(other.0.as_raw_fd() >= 0);
        other
    };
    let [a, b] = &stage.pods;
    for hook in [INGRESS, EGRESS] {
        let around = [true, false].map(|front| attach(hook, NEXT, front));
        reaches(a, b, "10.7.0.2");
        reaches(a, &stage.node, NODE[0]);
        reaches(&stage.node, a, "fd07::1");
        drop(around);
        for front in [true, false] {
            let drops = attach(hook, DROP, front);
            silent(a, &stage.node, NODE[0]);
            drop(drops);
            reaches(a, &stage.node, NODE[0]);
        }
    }
    let behind = [INGRESS, EGRESS].map(|hook| attach(hook, NEXT, false));
    let front = [INGRESS, EGRESS].map(|hook| attach(hook, NEXT, true));
    stage.close();
    let [a, b] = &stage.pods;
    silent(b, a, "10.7.0.1");
    reaches(&stage.node, a, "10.7.0.1");
    drop((behind, front));
}

/// What the node is told of programs of others.
fn others(stage: &Stage) -> Vec<OtherProgram> {
    let stubs = stage.datapath.stubs();
    let until = Instant::now() + PATIENCE;
    let found = stage.node.run(|| axon_linux::others(&stubs, until));
    found.expect("known")
}

#[test]
fn other_programs_are_seen_ahead_of_ours_and_behind() {
    let Some(()) = root() else { return };
    if !Features::probe().has(Features::TCX) || !has("tc") {
        return;
    }
    let stage = stage("seen-tcx");
    assert!(others(&stage).is_empty(), "{:?}", others(&stage));
    let device = stage.pods[0].ifindex;
    let name = stage.pods[0].link.host_name.as_str();
    let attach = |hook, front| stage.node.run(|| Other::attach(device, hook, NEXT, front));
    let told = |seen: &[OtherProgram]| -> Vec<(Standing, bool)> {
        assert!(
            seen.iter().all(|p| p.device == name && p.id.is_some()),
            "{seen:?}"
        );
        assert!(seen.iter().all(|p| p.name == "other"), "{seen:?}");
        assert!(
            seen.iter()
                .all(|p| matches!(p.hanging, Hanging::Tcx { link: Some(_) }))
        );
        seen.iter().map(|p| (p.standing, p.ingress)).collect()
    };
    let front = attach(INGRESS, true);
    assert_eq!(told(&others(&stage)), [(Standing::Ahead, true)]);
    let behind = attach(EGRESS, false);
    let (ahead, after) = ((Standing::Ahead, true), (Standing::Behind, false));
    assert_eq!(told(&others(&stage)), [ahead, after]);
    drop((front, behind));
    assert!(others(&stage).is_empty(), "{:?}", others(&stage));
    // Filters come after tcx, whatever their priority.
    filter(&stage, name, "ingress", PASS, 1);
    let [seen] = &others(&stage)[..] else {
        panic!("{:?}", others(&stage))
    };
    assert_eq!((seen.standing, seen.ingress), (Standing::Behind, true));
    assert_eq!(seen.hanging, Hanging::Clsact { priority: 1 });
    let stubs = stage.datapath.stubs();
    let late = axon_linux::others(&stubs, Instant::now());
    assert!(late.is_err(), "{late:?}");
}

/// What a filter may say.
const UNSPEC: u32 = u32::MAX;
const PASS: u32 = 0;
const SHOT: u32 = 2;

/// Puts a filter on a device as others do, which always says the same.
fn filter(stage: &Stage, device: &str, side: &str, says: u32, priority: u16) {
    // There may be a qdisc already.
    stage
        .node
        .exec("tc", &["qdisc", "add", "dev", device, "clsact"]);
    let (code, priority) = (format!("1,6 0 0 {says},"), priority.to_string());
    let place = ["tc", "filter", "add", "dev", device, side];
    let what = [
        "pref", &priority, "protocol", "all", "bpf", "da", "bytecode", &code,
    ];
    must(&stage.node, &[&place[..], &what].concat());
}

/// The priority that the kernel gives a filter that asks for none.
const USUAL: u16 = 49152;

#[test]
fn a_filter_of_another_on_clsact_neither_bypasses_ours_nor_is_removed() {
    let Some(()) = root() else { return };
    if !has("tc") {
        return;
    }
    let mut stage = stage_with("clsact", |config| config.attach = AttachMode::Clsact);
    let device = stage.pods[0].link.host_name.clone();
    for (says, side) in [(UNSPEC, "ingress"), (PASS, "egress"), (PASS, "ingress")] {
        filter(
            &stage,
            &device,
            side,
            says,
            USUAL - u16::from(says == UNSPEC),
        );
        let [a, b] = &stage.pods;
        reaches(a, b, "10.7.0.2");
        reaches(b, a, "fd07::1");
        reaches(a, &stage.node, NODE[0]);
        reaches(&stage.node, a, "fd07::1");
    }
    let standing = |stage: &Stage| -> Vec<Standing> {
        others(stage).iter().map(|other| other.standing).collect()
    };
    assert_eq!(standing(&stage), [Standing::Behind; 3]);
    // Whoever drops behind ours drops what ours hands to the stack, no more.
    filter(&stage, &device, "ingress", SHOT, USUAL - 2);
    silent(&stage.pods[0], &stage.node, NODE[0]);
    reaches(&stage.pods[0], &stage.pods[1], "10.7.0.2");
    must(
        &stage.node,
        &[
            "tc",
            "filter",
            "del",
            "dev",
            &device,
            "ingress",
            "pref",
            &(USUAL - 2).to_string(),
        ],
    );

    // Filters that pass everything open nothing.
    stage.close();
    silent(&stage.pods[1], &stage.pods[0], "10.7.0.1");
    reaches(&stage.node, &stage.pods[0], "10.7.0.1");
    assert!(stage.drops(DropReason::PolicyDenied) > 0);

    // An agent that starts anew, repairs, and takes its own away, leaves them.
    let Stage {
        node,
        pods,
        datapath,
        ..
    } = stage;
    drop(datapath);
    let config = axon_linux::DatapathConfig {
        attach: AttachMode::Clsact,
        ..node.config()
    };
    let mut datapath = common::attached(&node, &config, &pods);
    let indexes = pods.each_ref().map(|pod| pod.ifindex);
    let repair = node
        .run(|| datapath.repair(&indexes, &[]))
        .expect("repaired");
    assert_eq!(repair.stubs, 0, "{repair:?}");
    silent(&pods[1], &pods[0], "10.7.0.1");
    let filters = || {
        let shown = |side| {
            node.exec("tc", &["filter", "show", "dev", &device, side])
                .stdout
        };
        let text = [shown("ingress"), shown("egress")].concat();
        let text = String::from_utf8(text).expect("UTF-8");
        let of = |what| text.lines().filter(|line| line.contains(what)).count();
        (of("bytecode"), of("axon_"))
    };
    assert_eq!(filters(), (3, 2));
    node.run(|| datapath.detach_endpoint(indexes[0]))
        .expect("detached");
    assert_eq!(filters(), (3, 0));
}

#[test]
fn a_filter_of_another_ahead_of_ours_on_clsact_is_seen() {
    let Some(()) = root() else { return };
    if !has("tc") {
        return;
    }
    let stage = stage_with("clsact-ahead", |config| config.attach = AttachMode::Clsact);
    let device = stage.pods[0].link.host_name.as_str();
    filter(&stage, device, "egress", UNSPEC, USUAL);
    // The same priority as ours: the kernel puts the newer one in front.
    filter(&stage, device, "egress", SHOT, 1);
    let seen = others(&stage);
    let told: Vec<_> = seen
        .iter()
        .map(|o| (o.standing, o.hanging, o.ingress))
        .collect();
    let at = |priority| Hanging::Clsact { priority };
    assert_eq!(
        told,
        [
            (Standing::Ahead, at(1), false),
            (Standing::Behind, at(u32::from(USUAL)), false)
        ]
    );
    silent(&stage.node, &stage.pods[0], "10.7.0.1");
}
