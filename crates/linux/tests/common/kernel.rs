//! The loaded programs and their maps, filled from a world of the tests.
#![allow(dead_code, reason = "each test file uses its part")]

use axon_abi::{
    CtEntry, CtKey4, CtKey6, Direction, EventRecord, Hook, IpKey, LpmKey, MAPS, METRICS_ENTRIES,
    MetricsRow, RuntimeConfig,
};
use std::path::Path;

use axon_linux::Features;
use axon_testkit::{Action, Backend, MemPacket, Outcome, World};
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

/// Size of the ring of events.
pub(crate) const EVENTS_BYTES: u32 = 1 << 16;

/// Programs and maps of their own, not pinned.
pub(crate) struct Kernel {
    pub(crate) ebpf: Ebpf,
}

impl Kernel {
    pub(crate) fn load() -> Self {
        Self::load_sized(4096)
    }

    /// With room for so many rows of policy.
    pub(crate) fn load_sized(policy: u32) -> Self {
        let constants = Features::probe().constants();
        let mut loader = EbpfLoader::new();
        for map in MAPS
            .iter()
            .filter(|map| map.sizable && map.name != "axon_events_v1")
        {
            loader.map_max_entries(map.name, 4096);
        }
        loader.map_max_entries("axon_policy_v1", policy);
        loader.map_max_entries("axon_events_v1", EVENTS_BYTES);
        Self::load_by(loader, &constants)
    }

    /// Onto the maps that are pinned in a directory; the ring of events has
    /// [`EVENTS_BYTES`].
    pub(crate) fn load_onto(maps: &Path) -> Self {
        let paths: Vec<_> = MAPS
            .iter()
            .map(|map| (map.name, maps.join(map.name)))
            .collect();
        let constants = Features::probe().constants();
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        loader.map_max_entries("axon_events_v1", EVENTS_BYTES);
        Self::load_by(loader, &constants)
    }

    fn load_by<'a>(mut loader: EbpfLoader<'a>, constants: &'a [(&'static str, u32)]) -> Self {
        let other = std::env::var_os("AXON_COST_OBJECT").map(std::fs::read);
        let other = other.map(|bytes| bytes.expect("the object can be read"));
        let object = other.as_deref().unwrap_or(OBJECT);
        for (name, value) in constants {
            loader.override_global(name, value, false);
        }
        let mut ebpf = loader.load(object).expect("the maps are made");
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
    pub(crate) fn counts(&mut self) -> Vec<u64> {
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

    pub(crate) fn events(&mut self) -> Vec<EventRecord> {
        let map = self.ebpf.map_mut("axon_events_v1").expect("the map exists");
        let mut ring: RingBuf<&mut MapData> = map.try_into().expect("a ring");
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.push(EventRecord::read_from_bytes(&item).expect("an event"));
        }
        events
    }

    /// Changes what is reported.
    pub(crate) fn set_flags(&mut self, flags: u32) {
        let map = self.ebpf.map_mut("axon_config_v1").expect("the map exists");
        let mut config: Array<&mut MapData, Raw<RuntimeConfig>> = map.try_into().expect("an array");
        let mut value = config.get(&0, 0).expect("a value");
        value.0.flags = flags;
        config.set(0, value, 0).expect("written");
    }

    /// Changes the version of the tables of endpoints.
    pub(crate) fn set_rows_version(&mut self, next: impl FnOnce(u32) -> u32) {
        let map = self.ebpf.map_mut("axon_rows_version_v1");
        let map = map.expect("the map exists");
        let mut version: Array<&mut MapData, u32> = map.try_into().expect("an array");
        let now = version.get(&0, 0).expect("a value");
        version.set(0, next(now), 0).expect("written");
    }

    /// Writes the endpoints of a world, and tells nobody.
    pub(crate) fn set_endpoints(&mut self, world: &World) {
        self.fill("axon_endpoint_v1", world.endpoints.clone());
        self.fill("axon_address_v1", world.addresses.clone());
    }

    /// Forgets all flows, and whose they are.
    pub(crate) fn forget_flows(&mut self) {
        self.fill::<CtKey4, CtEntry>(axon_abi::CT4, []);
        self.fill::<CtKey6, CtEntry>(axon_abi::CT6, []);
        self.forget_owners();
    }

    fn forget_owners(&mut self) {
        let map = self
            .ebpf
            .map_mut("axon_ct_count_v1")
            .expect("the map exists");
        let mut counts: Array<&mut MapData, u32> = map.try_into().expect("an array");
        for owner in 0..16 {
            counts.set(owner, 0, 0).expect("written");
        }
    }

    /// Writes the services of a world.
    fn set_services(&mut self, world: &World) {
        let rows = &world.services;
        self.fill("axon_service_v1", rows.services.clone());
        self.fill("axon_service_list_v1", rows.lists.clone());
        self.fill("axon_maglev_v1", rows.maglev.clone());
        self.fill("axon_backend_v1", rows.backends.clone());
        self.fill("axon_service_affinity_v1", rows.affinity.borrow().clone());
        let skips = rows.skips.iter().map(|client| (*client, 1_u32));
        self.fill("axon_service_skip_v1", skips);
        let map = self.ebpf.map_mut("axon_source_range_v1");
        let map = map.expect("the map exists");
        let mut map: lpm_trie::LpmTrie<&mut MapData, [u8; 20], u32> =
            map.try_into().expect("a trie");
        let stale: Vec<_> = map.keys().collect::<Result<_, _>>().expect("keys");
        for key in stale {
            map.remove(&key).expect("removed");
        }
        for range in &rows.ranges {
            let mut data = [0; 20];
            data.copy_from_slice(&range.as_bytes()[4..]);
            let key = lpm_trie::Key::new(range.prefix_bits, data);
            map.insert(&key, 1, 0).expect("inserted");
        }
    }

    /// Starts over with the rows of a world.
    pub(crate) fn set_world(&mut self, world: &World) {
        let map = self.ebpf.map_mut("axon_config_v1").expect("the map exists");
        let mut config: Array<&mut MapData, Raw<_>> = map.try_into().expect("an array");
        config.set(0, Raw(world.config), 0).expect("written");
        self.forget_owners();
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
        self.set_endpoints(world);
        self.set_rows_version(|version| (version + 2) | 1);
        self.fill("axon_ipcache_v1", world.ipcache.clone());
        self.fill_trie("axon_ipcache_cidr_v1", world.cidrs.clone());
        self.fill(
            "axon_identity_v1",
            world.identities.iter().map(|identity| (*identity, 0u32)),
        );
        self.fill("axon_policy_set_v1", world.sets.clone());
        self.fill("axon_class_v1", world.classes.clone());
        self.fill("axon_policy_v1", world.policy.clone());
        self.fill(axon_abi::CT4, world.ct4.borrow().clone());
        self.fill(axon_abi::CT6, world.ct6.borrow().clone());
        self.fill(axon_abi::NAT, world.nat.borrow().clone());
        self.set_services(world);
        self.fill(axon_abi::SERVICE_FLOW, world.service_flows.borrow().clone());
        self.fill("axon_fragment_v1", world.fragments.borrow().clone());
        self.fill_trie(
            "axon_nomasq_v1",
            world.nomasq.iter().map(|prefix| (*prefix, 1u32)),
        );
    }
}

/// The program of a hook.
pub(crate) fn program(ebpf: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    let program = ebpf
        .program_mut(hook.program())
        .expect("the program exists");
    program.try_into().expect("a classifier")
}

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
        packet.vlan.is_none() && packet.bytes.len() >= least
    }

    fn wait_s(&mut self, _seconds: u64) -> bool {
        false
    }

    fn run(&mut self, hook: Hook, packet: &MemPacket) -> Outcome {
        let before = self.counts();
        let outcome = self.fire(hook, packet);
        let after = self.counts();
        let index = (0..before.len()).find(|index| before[*index] != after[*index]);
        Outcome {
            counted: index.map(|index| (index >> 2) as u8),
            direction: index.map(|index| Direction::from_u8((index & 3) as u8)),
            ..outcome
        }
    }
}

impl Kernel {
    /// Runs a packet, and does not look at the counters, which takes far longer
    /// than the packet.
    pub(crate) fn fire(&mut self, hook: Hook, packet: &MemPacket) -> Outcome {
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
        let action = match result.return_value as i32 {
            -1 => Action::Next,
            2 => Action::Drop,
            7 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        Outcome {
            action,
            counted: None,
            direction: None,
            bytes: out,
            decided: None,
            events: self.events(),
        }
    }
}

/// Devices with the numbers that the cases use, in a namespace of this thread's
/// own.
pub(crate) fn make_devices() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
    for index in [10, 11, 12, 13, 77] {
        super::veth::add(&format!("d{index}"), index, &format!("p{index}"), 1500);
    }
}

/// Runs a test with programs of its own, as root.
pub(crate) fn with_kernel(test: impl FnOnce(Kernel) + Send + 'static) {
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
