//! The case tables of the datapath, on the loaded programs.
//!
//! Each packet goes through `BPF_PROG_TEST_RUN`. What the kernel cannot be told
//! there (tags, the clock, routes) is left to the native run of the same
//! tables. Needs root, for devices in a network namespace of its own.

mod common;

use axon_abi::{Direction, EventRecord, Hook, IpKey, LpmKey, MAPS, METRICS_ENTRIES, MetricsRow};
use axon_testkit::{Action, Backend, MemPacket, Outcome, World, cases, run_case};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf, lpm_trie};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions};
use zerocopy::{FromBytes, Immutable, IntoBytes};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/axon_bpf.o"));

/// Bytes as they lie in maps.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: `IntoBytes` proves that `T` has no padding and `FromBytes` that any bytes are a `T`.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Pod for Raw<T> {}

trait Bytes: FromBytes + IntoBytes + Immutable + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Bytes for T {}

struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    fn load() -> Self {
        let mut loader = EbpfLoader::new();
        for map in MAPS
            .iter()
            .filter(|map| map.sizable && map.name != "axon_events_v1")
        {
            loader.map_max_entries(map.name, 4096);
        }
        loader.map_max_entries("axon_events_v1", 1 << 16);
        let mut ebpf = loader.load(OBJECT).expect("the maps are made");
        for hook in Hook::ALL {
            program(&mut ebpf, hook)
                .load()
                .expect("the verifier accepts the program");
        }
        Self { ebpf }
    }

    fn fill<K: Bytes, V: Bytes>(&mut self, name: &str, rows: impl IntoIterator<Item = (K, V)>) {
        let map = self.ebpf.map_mut(name).expect("the map exists");
        let mut map: HashMap<&mut MapData, Raw<K>, Raw<V>> = map.try_into().expect("a hash");
        let stale: Vec<_> = map.keys().collect::<Result<_, _>>().expect("keys");
        for key in stale {
            map.remove(&key).expect("removed");
        }
        for (key, value) in rows {
            map.insert(Raw(key), Raw(value), 0).expect("inserted");
        }
    }

    fn fill_trie<V: Bytes>(&mut self, name: &str, rows: impl IntoIterator<Item = (LpmKey, V)>) {
        let map = self.ebpf.map_mut(name).expect("the map exists");
        let mut map: lpm_trie::LpmTrie<&mut MapData, Raw<IpKey>, Raw<V>> =
            map.try_into().expect("a trie");
        let stale: Vec<_> = map.keys().collect::<Result<_, _>>().expect("keys");
        for key in stale {
            map.remove(&key).expect("removed");
        }
        for (prefix, value) in rows {
            let key = lpm_trie::Key::new(prefix.prefix_bits, Raw(prefix.addr));
            map.insert(&key, Raw(value), 0).expect("inserted");
        }
    }

    /// Packets by index of `axon_metrics_v1`.
    fn counts(&mut self) -> Vec<u64> {
        let map = self
            .ebpf
            .map_mut("axon_metrics_v1")
            .expect("the map exists");
        let map: PerCpuArray<&mut MapData, Raw<MetricsRow>> = map.try_into().expect("per CPU");
        (0..METRICS_ENTRIES)
            .map(|index| {
                let rows = map.get(&index, 0).expect("a row");
                rows.iter().map(|row| row.0.packets).sum()
            })
            .collect()
    }

    fn events(&mut self) -> Vec<EventRecord> {
        let map = self.ebpf.map_mut("axon_events_v1").expect("the map exists");
        let mut ring: RingBuf<&mut MapData> = map.try_into().expect("a ring");
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.push(EventRecord::read_from_bytes(&item).expect("an event"));
        }
        events
    }
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    let program = ebpf
        .program_mut(hook.program())
        .expect("the program exists");
    program.try_into().expect("a classifier")
}

impl Backend for Kernel {
    fn set_world(&mut self, world: &World) {
        let map = self.ebpf.map_mut("axon_config_v1").expect("the map exists");
        let mut config: Array<&mut MapData, Raw<_>> = map.try_into().expect("an array");
        config.set(0, Raw(world.config), 0).expect("written");
        let map = self
            .ebpf
            .map_mut("axon_ct_count_v1")
            .expect("the map exists");
        let mut counts: Array<&mut MapData, u32> = map.try_into().expect("an array");
        for owner in 0..16 {
            counts.set(owner, 0, 0).expect("written");
        }
        let map = self
            .ebpf
            .map_mut("axon_icmp_limit_v1")
            .expect("the map exists");
        let mut times: Array<&mut MapData, u64> = map.try_into().expect("an array");
        let spoken_for = world.icmp_times.borrow();
        for owner in 0..16_u16 {
            let time = spoken_for.get(&owner).copied().unwrap_or(0);
            times.set(u32::from(owner), time, 0).expect("written");
        }
        self.fill(
            "axon_uplink_v1",
            world.uplinks.iter().map(|ifindex| (*ifindex, 1_u32)),
        );
        self.fill("axon_endpoint_v1", world.endpoints.clone());
        self.fill("axon_address_v1", world.addresses.clone());
        self.fill("axon_ipcache_v1", world.ipcache.clone());
        self.fill_trie("axon_ipcache_cidr_v1", world.cidrs.clone());
        self.fill(
            "axon_identity_v1",
            world.identities.iter().map(|identity| (*identity, 0u32)),
        );
        self.fill("axon_policy_set_v1", world.sets.clone());
        self.fill("axon_class_v1", world.classes.clone());
        self.fill("axon_policy_v1", world.policy.clone());
        self.fill("axon_ct4_v1", world.ct4.borrow().clone());
        self.fill("axon_ct6_v1", world.ct6.borrow().clone());
        self.fill("axon_nat_v1", world.nat.borrow().clone());
        self.fill("axon_fragment_v1", world.fragments.borrow().clone());
        self.fill_trie(
            "axon_nomasq_v1",
            world.nomasq.iter().map(|prefix| (*prefix, 1u32)),
        );
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

#[test]
fn the_kernel_decides_every_case_as_the_host_does() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let run = || {
        make_devices();
        let mut kernel = Kernel::load();
        let cases = cases::all();
        let wrong: Vec<String> = cases
            .iter()
            .filter(|case| !case.routes)
            .filter_map(|case| run_case(&mut kernel, case).err())
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    };
    std::thread::spawn(run)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
