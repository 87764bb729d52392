//! The case tables of the datapath, on the loaded programs.
//!
//! Each packet goes through `BPF_PROG_TEST_RUN`. What the kernel cannot be told
//! there (tags, the clock, routes) is left to the native run of the same
//! tables. Needs root, for devices in a network namespace of its own.

mod common;

use axon_abi::Hook;
use axon_testkit::cases::{Net, POD_A, POD_B, V4, V6};
use axon_testkit::{Action, Backend, Build, MemPacket, cases, run_case};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use common::kernel::{Kernel, with_kernel};

#[test]
fn the_kernel_decides_every_case_as_the_host_does() {
    with_kernel(|mut kernel| {
        let cases = cases::all();
        let wrong: Vec<String> = cases
            .iter()
            .filter(|case| !case.routes)
            .filter_map(|case| run_case(&mut kernel, case).err())
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Each CPU has copies of its own.
fn stay_on_one_cpu() {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this).expect("the thread's CPUs");
    let is_one = |cpu: &usize| all.is_set(*cpu) == Ok(true);
    let first = (0..CpuSet::count()).find(is_one).expect("a CPU");
    let mut one = CpuSet::new();
    one.set(first).expect("a number of a CPU");
    sched_setaffinity(this, &one).expect("one of the thread's CPUs");
}

#[test]
fn copies_of_endpoints_rows_last_as_long_as_their_version() {
    with_kernel(|mut kernel| {
        stay_on_one_cpu();
        for net in [V4, V6] {
            let mut world = Net::scene();
            kernel.set_world(&world);
            let packet = Build::udp(net.a, net.b, (4000, 53), 4).frame();
            let packet = MemPacket::new(POD_A, packet);
            let passes = |kernel: &mut Kernel| {
                let outcome = kernel.run(Hook::FromEndpoint, &packet);
                outcome.action == Action::Redirect
            };
            assert!(passes(&mut kernel));
            // Either end's row is asked for.
            for device in [POD_A, POD_B] {
                let open = world.clone();
                let mut row = world.endpoints[&device];
                row.policy_set = 0;
                world.endpoint(row);
                kernel.set_endpoints(&world);
                assert!(passes(&mut kernel), "copies are in use, of {device}");
                kernel.set_rows_version(|version| (version + 2) & !1);
                assert!(!passes(&mut kernel), "a change has begun, of {device}");
                kernel.set_rows_version(|version| version | 1);
                assert!(!passes(&mut kernel), "it is made, of {device}");
                world = open;
                kernel.set_endpoints(&world);
                assert!(!passes(&mut kernel), "nobody has told, of {device}");
                kernel.set_rows_version(|version| version + 2);
                assert!(passes(&mut kernel), "as before, of {device}");
            }
        }
    });
}
