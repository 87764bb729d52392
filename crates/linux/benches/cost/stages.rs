//! The datapath's own stages: a packet of each kind, and the rows it meets.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use axon_abi::{ConfigFlags, Hook, Identity};
use axon_testkit::cases::{Net, POD_A, POD_B, UPLINK, V4, V6};
use axon_testkit::{Build, Rule, World};
use aya::programs::SchedClassifier;
use aya::{TestRun, TestRunOptions};

use crate::kernel::{Kernel, program};

pub(crate) const SYN: u8 = 2;
const ACK: u8 = 16;
/// What is reported of packets that pass.
const EVENTS: u32 = ConfigFlags::EVENT_VERDICT | ConfigFlags::EVENT_TRACE;
/// Runs on one packet: it loses a hop in each.
const REPEAT: u32 = 200;

/// What runs a stage's program so many times; the time of one run.
type Run = Box<dyn FnMut() -> Duration>;

/// One figure.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    run: Run,
    least: Option<Duration>,
}

impl Stage {
    pub(crate) fn new(name: &'static str, run: Run) -> Self {
        Self {
            name,
            run,
            least: None,
        }
    }

    pub(crate) fn sample(&mut self) {
        let took = (self.run)();
        self.least = Some(self.least.map_or(took, |least| least.min(took)));
    }

    pub(crate) fn least_ns(&self) -> u32 {
        self.least.map_or(0, |least| {
            u32::try_from(least.as_nanos()).unwrap_or(u32::MAX)
        })
    }
}

/// Devices with the numbers that the packets name, in a namespace of this
/// thread's own; one core, ahead of other work.
pub(crate) fn prepare_thread() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
    for index in [UPLINK, POD_A, POD_B] {
        crate::veth::add(&format!("d{index}"), index, &format!("p{index}"), 1500);
    }
}

/// Runs a program on a packet that a device sees.
pub(crate) fn run(
    program: &SchedClassifier,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
) -> (u32, Duration) {
    // `struct __sk_buff`: the device at 40.
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })
        .expect("the program runs");
    (result.return_value, result.duration)
}

/// Both ends closed but for one peer and port, as policy usually is.
fn world() -> World {
    let mut world = Net::scene();
    let rule = |egress| Rule {
        egress,
        protocol: 6,
        port: 5201,
        prefix: 16,
        precedence: 10,
        ..Rule::default()
    };
    world.rule(1, Some(Identity(301)), rule(true));
    world.rule(2, Some(Identity(300)), rule(false));
    world.config.mtu = 1500;
    world
}

pub(crate) fn segment(from: &str, to: &str, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut build = Build::tcp(from, to, ports, flags).hops(255);
    build.body.resize(build.body.len() + 64, 0);
    build.frame()
}

/// A stage over packets of one flow that is known.
fn known(
    name: &'static str,
    kernel: &Rc<RefCell<Kernel>>,
    hook: Hook,
    ifindex: u32,
    frame: Vec<u8>,
) -> Stage {
    let kernel = Rc::clone(kernel);
    let run = move || {
        let mut kernel = kernel.borrow_mut();
        let (_, took) = run(program(&mut kernel.ebpf, hook), ifindex, &frame, REPEAT);
        took
    };
    Stage::new(name, Box::new(run))
}

/// The same while nothing is reported but drops. No agent can be told so: it
/// shows what reports cost a flow that is established.
fn silent(name: &'static str, kernel: &Rc<RefCell<Kernel>>, frame: Vec<u8>) -> Stage {
    let kernel = Rc::clone(kernel);
    let all = world().config.flags;
    let run = move || {
        let mut kernel = kernel.borrow_mut();
        kernel.set_flags(all & !EVENTS);
        let from_pod = program(&mut kernel.ebpf, Hook::FromEndpoint);
        let (_, took) = run(from_pod, POD_A, &frame, REPEAT);
        kernel.set_flags(all);
        took
    };
    Stage::new(name, Box::new(run))
}

/// A stage over packets of which each opens a flow. Its least is that of a
/// single run: with the clock's own price, which no repetition divides.
fn opening(
    name: &'static str,
    kernel: &Rc<RefCell<Kernel>>,
    net: Net,
    (first, flags): (u16, u32),
) -> Stage {
    let kernel = Rc::clone(kernel);
    let mut port = first;
    let run = move || {
        let mut kernel = kernel.borrow_mut();
        kernel.set_flags(flags);
        let mut least = Duration::MAX;
        for _ in 0..8 {
            port = if port == first + 30_000 {
                first
            } else {
                port + 1
            };
            let frame = segment(net.a, net.b, (port, 5201), SYN);
            let (_, took) = run(
                program(&mut kernel.ebpf, Hook::FromEndpoint),
                POD_A,
                &frame,
                1,
            );
            least = least.min(took);
        }
        kernel.events();
        kernel.set_flags(world().config.flags);
        least
    };
    Stage::new(name, Box::new(run))
}

/// Every stage of the datapath.
pub(crate) fn all() -> Vec<Stage> {
    let mut kernel = Kernel::load();
    kernel.set_world(&world());
    let open = |kernel: &mut Kernel, net: Net, hook, ifindex, (from, to): (&str, &str)| {
        let frame = segment(from, to, (4000, 5201), SYN);
        let (action, _) = run(program(&mut kernel.ebpf, hook), ifindex, &frame, 1);
        assert_ne!(action, 2, "v{}: the flow opens", net.version);
    };
    let kernel = Rc::new(RefCell::new(kernel));
    let mut stages = Vec::new();
    for (net, names) in [
        (
            V4,
            [
                "hit_v4",
                "reply_v4",
                "from_net_v4",
                "to_pod_v4",
                "forged_v4",
            ],
        ),
        (
            V6,
            [
                "hit_v6",
                "reply_v6",
                "from_net_v6",
                "to_pod_v6",
                "forged_v6",
            ],
        ),
    ] {
        let from_pod = (Hook::FromEndpoint, POD_A);
        open(
            &mut kernel.borrow_mut(),
            net,
            from_pod.0,
            from_pod.1,
            (net.a, net.b),
        );
        let mut add = |name, (hook, ifindex), (from, to), ports| {
            let frame = segment(from, to, ports, ACK);
            stages.push(known(name, &kernel, hook, ifindex, frame));
        };
        add(names[0], from_pod, (net.a, net.b), (4000, 5201));
        add(
            names[1],
            (Hook::FromEndpoint, POD_B),
            (net.b, net.a),
            (5201, 4000),
        );
        add(
            names[2],
            (Hook::FromNetdev, UPLINK),
            (net.remote, net.a),
            (4000, 5201),
        );
        add(
            names[3],
            (Hook::ToEndpoint, POD_A),
            (net.node, net.a),
            (4000, 5201),
        );
        add(names[4], from_pod, (net.remote, net.b), (4000, 5201));
    }
    let all = world().config.flags;
    stages.push(opening("open_v4", &kernel, V4, (1024, all)));
    stages.push(opening("open_v6", &kernel, V6, (1024, all)));
    stages.push(opening(
        "open_v4_silent",
        &kernel,
        V4,
        (32_000, all & !EVENTS),
    ));
    let known = segment(V4.a, V4.b, (4000, 5201), ACK);
    stages.push(silent("hit_v4_silent", &kernel, known));
    stages
}
