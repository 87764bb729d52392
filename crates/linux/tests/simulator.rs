//! What is simulated is what the kernel does: random worlds, policies and
//! packets, of which three say whether policy lets them pass. Needs root.
//!
//! ```text
//!  rules × identities ─┬─ Engine ── rows ─┬─ the loaded programs (BPF_PROG_TEST_RUN)
//!                      │                  └─ the same code, natively
//!                      └─ resolve, the slow twin ── rows ── the look-up's slow twin
//! ```

mod common;
#[path = "../../policy/tests/worlds/mod.rs"]
mod worlds;

use std::collections::BTreeMap;

use axon_abi::{Direction, DropReason, EventKind, Hook, Identity, IpcacheFlags};
use axon_policy::{
    Engine, Lookup, Numbers, Packet, PolicyConfig, PolicySet, Verdict, reserved_identities, resolve,
};
use axon_testkit::cases::{Net, POD_A, POD_B, UPLINK, V4, V6};
use axon_testkit::{Backend, Build, MemPacket, Native, Outcome, World};
use common::kernel::{Kernel, with_kernel};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The endpoint that sends, and the one that is sent to.
const A: Identity = Identity(256);
const B: Identity = Identity(257);
const SYN: u8 = 2;
/// Worlds, and packets in each.
const WORLDS: usize = 330;
const PACKETS: usize = 80;

/// One packet, and what it means to policy.
#[derive(Debug)]
struct Shot {
    hook: Hook,
    packet: MemPacket,
    /// Who is asked about what.
    asked: Vec<(Identity, Packet)>,
}

/// The address that somebody has in the scene.
fn address(id: Identity, net: &Net) -> String {
    match (id, net.version) {
        (A, _) => net.a.to_owned(),
        (B, _) => net.b.to_owned(),
        (Identity::HOST, _) => net.node.to_owned(),
        (Identity(n), 4) => format!("10.{}.{}.{}", 64 + (n >> 24), n >> 8 & 0xff, n & 0xff),
        (Identity(n), _) => format!("fd00:0:0:9::{:x}:{:x}", n >> 16, n & 0xffff),
    }
}

/// A random state of rules, identities and groups.
fn state() -> impl Strategy<Value = axon_policy::World> {
    (
        prop::collection::vec(worlds::identity(), 1..8),
        prop::collection::vec(worlds::policy(), 1..4),
        prop::collection::btree_map(worlds::group_key(), worlds::group(), 0..4),
    )
        .prop_map(|(identities, policies, groups)| {
            let mut world = axon_policy::World {
                identities: reserved_identities(&PolicyConfig::default()),
                ..axon_policy::World::default()
            };
            world.identities.extend(identities);
            for subject in [A, B] {
                world.identities.entry(subject).or_default();
            }
            let policies = policies.into_iter();
            world.policies = policies.map(|p| (p.origin.clone(), p)).collect();
            world.groups = groups;
            world.subjects = [A, B].into();
            world
        })
}

/// The same by way of the engine, which is told one thing after the other.
fn engine(config: &PolicyConfig, state: &axon_policy::World) -> Engine {
    let mut engine = Engine::new(config.clone());
    engine.set_subjects(state.subjects.clone());
    for (key, group) in &state.groups {
        engine.upsert_group(key, group.clone());
    }
    for policy in state.policies.values() {
        engine.upsert_policy(policy.clone());
    }
    for (id, info) in &state.identities {
        engine.upsert_identity(*id, info.clone());
    }
    engine
}

/// The scene with these rows in its tables.
fn scene(state: &axon_policy::World, sets: [&PolicySet; 2]) -> World {
    let mut world = Net::scene();
    world.sets.clear();
    for ((device, identity), set) in [(POD_A, A), (POD_B, B)].into_iter().zip(sets) {
        let mut row = world.endpoints[&device];
        (row.identity, row.policy_set) = (identity, set.number);
        world.endpoint(row);
        world.sets.insert(set.number, set.rows.set);
        let classes = set.rows.classes.iter();
        world
            .classes
            .extend(classes.map(|(key, row)| (*key, row.class)));
        let entries = set.rows.entries.iter();
        world
            .policy
            .extend(entries.map(|(key, entry)| (*key, *entry)));
    }
    for id in state
        .identities
        .keys()
        .filter(|id| ![A, B, Identity::HOST].contains(*id))
    {
        for net in [V4, V6] {
            world.known(&address(*id, &net), *id, IpcacheFlags::WORKLOAD);
        }
        world.identities.insert(*id);
    }
    world
}

/// A packet between an endpoint and somebody; of the `n`th flow.
fn shot(state: &axon_policy::World, n: u16) -> impl Strategy<Value = Shot> + use<> {
    let everyone: Vec<Identity> = state.identities.keys().copied().collect();
    let ports = worlds::PORTS
        .into_iter()
        .chain([79, 1024])
        .filter(|port| *port != 0);
    let ports: Vec<u16> = ports.collect();
    let protocols = vec![1_u8, 6, 17];
    (
        prop::sample::select(everyone),
        prop::sample::select(ports),
        prop::sample::select(protocols),
        any::<[bool; 2]>(),
    )
        .prop_map(move |(remote, port, protocol, [inward, v6])| {
            let net = if v6 { V6 } else { V4 };
            let inward = inward && ![A, B, Identity::HOST].contains(&remote);
            let remote = if remote == A { B } else { remote };
            let (from, to) = if inward { (remote, B) } else { (A, remote) };
            let ends = (&*address(from, &net), &*address(to, &net));
            let sport = 20_000 + n;
            let build = match protocol {
                6 => Build::tcp(ends.0, ends.1, (sport, port), SYN),
                17 => Build::udp(ends.0, ends.1, (sport, port), 4),
                _ => {
                    let echo = if v6 { 128 } else { 8 };
                    Build::icmp(ends.0, ends.1, (echo, 0, u32::from(sport) << 16), &[0; 8])
                }
            };
            let (protocol, port) = match (protocol, v6) {
                (1, false) => (1, 8),
                (1, true) => (58, 128),
                other => (other.0, port),
            };
            let about = |direction, remote| Packet {
                direction,
                remote,
                protocol,
                port,
            };
            let mut asked = Vec::new();
            if !inward {
                asked.push((A, about(Direction::Egress, to)));
            }
            if to == B {
                asked.push((B, about(Direction::Ingress, from)));
            }
            let (hook, device) = if inward {
                (Hook::FromNetdev, UPLINK)
            } else {
                (Hook::FromEndpoint, POD_A)
            };
            Shot {
                hook,
                packet: MemPacket::new(device, build.frame()),
                asked,
            }
        })
}

/// Why policy did not let the packet pass, if it did not. What happens to it
/// beyond policy is not asked here: the test run has no routes.
fn refusal(outcome: &Outcome) -> Option<u8> {
    let drops = outcome
        .events
        .iter()
        .filter(|event| event.kind == EventKind::Drop as u8);
    let mut by_policy = drops.map(|event| event.reason);
    by_policy.find(|reason| DropReason::from_u8(*reason).is_some_and(DropReason::is_policy))
}

#[test]
fn the_kernel_the_simulator_and_the_slow_twin_agree() {
    with_kernel(|mut kernel: Kernel| {
        let config = PolicyConfig::default();
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut verdicts: BTreeMap<Option<u8>, usize> = BTreeMap::new();
        for _ in 0..WORLDS {
            let state = state().new_tree(&mut runner).expect("a world").current();
            let mut numbers = Numbers::default();
            let fast = engine(&config, &state).resolution(&mut numbers).clone();
            let slow = resolve(&config, &state, &mut numbers);
            let set =
                |of: &axon_policy::Resolution, subject| of.sets[&of.subjects[&subject]].clone();
            let world = scene(&state, [&*set(&fast, A), &*set(&fast, B)]);
            let mut native = Native::default();
            native.set_world(&world);
            kernel.set_world(&world);
            let twin = |(subject, packet): &(Identity, Packet)| {
                match Lookup::new(&set(&slow, *subject).rows).verdict(*packet) {
                    Verdict::Allowed { .. } | Verdict::AllowedByDefault => None,
                    Verdict::DeniedByDefault => Some(DropReason::PolicyDenied as u8),
                    // Nobody is there to read what is said.
                    Verdict::Denied { .. } | Verdict::Redirected { .. } => {
                        Some(DropReason::PolicyDeny as u8)
                    }
                    Verdict::Unproved { .. } => Some(DropReason::AuthRequired as u8),
                }
            };
            for n in 0..PACKETS {
                let shot = shot(&state, n as u16).new_tree(&mut runner);
                let shot = shot.expect("a packet").current();
                let expected = shot.asked.iter().find_map(twin);
                let simulated = refusal(&native.run(shot.hook, &shot.packet));
                let happened = refusal(&kernel.fire(shot.hook, &shot.packet));
                assert_eq!(
                    (simulated, happened),
                    (expected, expected),
                    "natively, in the kernel; {:?} in {state:#?}",
                    shot.asked
                );
                *verdicts.entry(expected).or_default() += 1;
            }
        }
        println!(
            "{} packets in {WORLDS} worlds: {verdicts:?}",
            WORLDS * PACKETS
        );
        assert!(
            verdicts.len() == 4 && verdicts.values().all(|n| *n > 100),
            "{verdicts:?}"
        );
    });
}
