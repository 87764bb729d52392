//! The case tables of the datapath, on the loaded programs.
//!
//! Each packet goes through `BPF_PROG_TEST_RUN`. What the kernel cannot be told
//! there (tags, the clock, routes) is left to the native run of the same
//! tables. Needs root, for devices in a network namespace of its own.

mod common;

use axon_abi::{Direction, Hook};
use axon_testkit::cases::{Net, POD_A, POD_B, V4, V6};
use axon_testkit::{Action, Backend, Build, MemPacket, Outcome, World, cases, run_case};
use aya::{TestRun, TestRunOptions};

use common::kernel::{Kernel, program};

impl Backend for Kernel {
    fn set_world(&mut self, world: &World) {
        Kernel::set_world(self, world);
    }

    fn can_run(&self, packet: &MemPacket) -> bool {
        // The test run refuses IP packets without a whole header.
        let least = match packet.bytes.get(12..14) {
            Some([0x08, 0x00]) => 34,
            Some([0x86, 0xdd]) => 54,
            _ => 14,
        };
        !packet.vlan && packet.bytes.len() >= least
    }

    fn wait_s(&mut self, _seconds: u64) -> bool {
        false
    }

    fn run(&mut self, hook: Hook, packet: &MemPacket) -> Outcome {
        let before = self.counts();
        self.events();
        // `struct __sk_buff`: the device it came by at 36, the device at 40, the segment size at
        // 176.
        let mut context = [0u8; 192];
        context[36..40].copy_from_slice(&packet.ingress_ifindex.to_ne_bytes());
        context[40..44].copy_from_slice(&packet.ifindex.to_ne_bytes());
        context[176..180].copy_from_slice(&packet.gso_size.to_ne_bytes());
        let mut out = vec![0u8; 4096];
        let result = program(&mut self.ebpf, hook)
            .test_run(TestRunOptions {
                data_in: Some(&packet.bytes),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("{hook:?} does not run: {error:?}: {packet:?}"));
        out.truncate(result.data_size_out as usize);
        let after = self.counts();
        let index = (0..before.len()).find(|index| before[*index] != after[*index]);
        let counted = index.map(|index| (index >> 2) as u8);
        let direction = index.map(|index| Direction::from_u8((index & 3) as u8));
        let action = match result.return_value as i32 {
            -1 => Action::Next,
            2 => Action::Drop,
            7 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        let events = self.events();
        Outcome {
            action,
            counted,
            direction,
            bytes: out,
            decided: None,
            events,
        }
    }
}

/// Devices with the numbers that the cases use, in a namespace of this thread's
/// own.
fn make_devices() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
    for index in [10, 11, 12, 13, 77] {
        common::veth::add(&format!("d{index}"), index, &format!("p{index}"), 1500);
    }
}

/// Runs a test with programs of its own, as root.
fn with_kernel(test: impl FnOnce(Kernel) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let run = || {
        make_devices();
        test(Kernel::load());
    };
    std::thread::spawn(run)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

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

#[test]
fn copies_of_endpoints_rows_last_as_long_as_their_version() {
    with_kernel(|mut kernel| {
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
