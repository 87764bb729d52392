//! Policies, identities and groups change at random while packets ask: each is told
//! what the state before the change says, or the one after, and never passes where
//! both refuse it. Needs root.
//!
//! ```text
//!  edits ── Engine ── desired rows ── KernelReconciler ── pinned maps
//!    │                                                        │
//!    └───── resolve, the slow twin: what each state says ─ ≟ ─ programs (BPF_PROG_TEST_RUN)
//! ```

mod common;
#[path = "../../policy/tests/worlds/mod.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axon_abi::{Direction, DropReason, EventKind, Hook, Identity, IdentityRow, IpcacheFlags};
use axon_linux::{KernelReconciler, ReconcilerConfig};
use axon_model::{Desired, GroupKey, PolicyObject};
use axon_policy::{
    Engine, Group, IdentityInfo, Lookup, Numbers, Packet, PolicyConfig, Resolution, Verdict, World,
    reserved_identities, resolve,
};
use axon_testkit::cases::{Net, POD_A, POD_B, UPLINK, V4, V6};
use axon_testkit::{Build, MemPacket, Outcome};
use common::kernel::{EVENTS_BYTES, Kernel, make_devices};
use common::{Node, complete, root};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The endpoint that sends, and the one that is sent to.
const A: Identity = Identity(256);
const B: Identity = Identity(257);
/// Nobody whom a row names.
const STRANGER: Identity = Identity(0xff00_0000);
/// Changes, and questions of which one after the other is asked meanwhile.
const EDITS: usize = 1500;
const QUESTIONS: usize = 192;
/// Between two changes, by the reconciler's clock: what waits two seconds to be taken
/// away goes within the test, and long after every packet that has met it.
const STEP_MS: u64 = 20;
/// Packets after which the flows that they have opened are forgotten.
const FLOWS: u16 = 400;
const SYN: u8 = 2;

#[derive(Clone, Debug)]
enum Edit {
    Identity(Identity, IdentityInfo),
    NoIdentity(Identity),
    Policy(PolicyObject),
    NoPolicy(u8),
    Group(GroupKey, Group),
    NoGroup(GroupKey),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => worlds::identity().prop_map(|(id, info)| Edit::Identity(id, info)),
        // Not the endpoints' own.
        1 => (258..264_u32).prop_map(|id| Edit::NoIdentity(Identity(id))),
        5 => worlds::policy().prop_map(Edit::Policy),
        1 => (0..4_u8).prop_map(Edit::NoPolicy),
        1 => (worlds::group_key(), worlds::group()).prop_map(|(key, group)| Edit::Group(key, group)),
        1 => worlds::group_key().prop_map(Edit::NoGroup),
    ]
}

/// Makes an edit; hands back whether somebody comes or goes by it.
fn apply(edit: &Edit, world: &mut World, engine: &mut Engine) -> bool {
    match edit {
        Edit::Identity(id, info) => {
            engine.upsert_identity(*id, info.clone());
            return world.identities.insert(*id, info.clone()).is_none();
        }
        Edit::NoIdentity(id) => {
            engine.remove_identity(*id);
            return world.identities.remove(id).is_some();
        }
        Edit::Policy(policy) => {
            world.policies.insert(policy.origin.clone(), policy.clone());
            engine.upsert_policy(policy.clone());
        }
        Edit::NoPolicy(n) => {
            world.policies.remove(&worlds::origin(*n));
            engine.remove_policy(&worlds::origin(*n));
        }
        Edit::Group(key, group) => {
            world.groups.insert(key.clone(), group.clone());
            engine.upsert_group(key, group.clone());
        }
        Edit::NoGroup(key) => {
            world.groups.remove(key);
            engine.remove_group(key);
        }
    }
    false
}

/// One endpoint's part of a conversation with somebody who is none of this node: two
/// endpoints are asked one after the other, and may be so on both sides of a change.
#[derive(Clone, Copy, Debug)]
struct Question {
    far: Identity,
    direction: Direction,
    tcp: bool,
    port: u16,
    net: Net,
}

fn question(everybody: Vec<Identity>) -> impl Strategy<Value = Question> {
    let ports = worlds::PORTS.into_iter().chain([79, 1024]);
    let ports: Vec<u16> = ports.filter(|port| *port != 0).collect();
    (
        prop::sample::select(everybody),
        prop::sample::select(vec![Direction::Egress, Direction::Ingress]),
        any::<bool>(),
        prop::sample::select(ports),
        prop::sample::select(vec![V4, V6]),
    )
        .prop_map(|(far, direction, tcp, port, net)| Question {
            far,
            direction,
            tcp,
            port,
            net,
        })
}

fn address(id: Identity, net: &Net) -> String {
    match (id, net.version) {
        (STRANGER, 4) => "203.0.113.77".to_owned(),
        (STRANGER, _) => "2001:db8:77::1".to_owned(),
        (_, 4) => format!(
            "10.{}.{}.{}",
            64 + (id.0 >> 24),
            id.0 >> 8 & 0xff,
            id.0 & 0xff
        ),
        _ => format!("fd00:0:0:9::{:x}:{:x}", id.0 >> 16, id.0 & 0xffff),
    }
}

impl Question {
    fn subject(&self) -> Identity {
        match self.direction {
            Direction::Egress => A,
            Direction::Ingress | Direction::Unknown => B,
        }
    }

    /// The packet that asks it, of a flow of its own.
    fn shoot(&self, sport: u16) -> (Hook, MemPacket) {
        let far = address(self.far, &self.net);
        let (hook, device, from, to) = match self.direction {
            Direction::Egress => (Hook::FromEndpoint, POD_A, self.net.a, &*far),
            Direction::Ingress | Direction::Unknown => {
                (Hook::FromNetdev, UPLINK, &*far, self.net.b)
            }
        };
        let build = if self.tcp {
            Build::tcp(from, to, (sport, self.port), SYN)
        } else {
            Build::udp(from, to, (sport, self.port), 4)
        };
        let mut packet = MemPacket::new(device, build.frame());
        packet.ingress_ifindex = 0;
        (hook, packet)
    }

    /// What a state says to it, by the slow twins: why it is refused, if it is.
    fn answer(&self, config: &PolicyConfig, world: &World, said: &Resolution) -> Option<u8> {
        let remote = match world.identities.contains_key(&self.far) {
            true => self.far,
            false => config.world_of(self.net.version == 6),
        };
        let lookup = Lookup::new(&said.sets[&said.subjects[&self.subject()]].rows);
        let verdict = lookup.verdict(Packet {
            direction: self.direction,
            remote,
            protocol: if self.tcp { 6 } else { 17 },
            port: self.port,
        });
        match verdict {
            Verdict::Allowed { .. } | Verdict::AllowedByDefault => None,
            Verdict::DeniedByDefault => Some(DropReason::PolicyDenied as u8),
            Verdict::Denied { .. } | Verdict::Redirected { .. } => {
                Some(DropReason::PolicyDeny as u8)
            }
            Verdict::Unproved { .. } => Some(DropReason::AuthRequired as u8),
        }
    }
}

/// Why policy did not let a packet pass, if it did not; no other reason is due.
fn refusal(question: &Question, outcome: &Outcome) -> Option<u8> {
    let drops = outcome.events.iter();
    let mut drops = drops.filter(|event| event.kind == EventKind::Drop as u8);
    let reason = drops.next()?.reason;
    let known = DropReason::from_u8(reason);
    // The test run has no routes: that is what comes after policy.
    let of_route = known == Some(DropReason::FibLookupFailed);
    assert!(
        of_route || known.is_some_and(DropReason::is_policy),
        "dropped for {known:?}: {question:?}"
    );
    (!of_route).then_some(reason)
}

/// A packet's answer, and the last state that was whole before it and the last that
/// had begun after it.
#[derive(Debug)]
struct Heard {
    question: usize,
    states: (usize, usize),
    refused: Option<u8>,
}

/// Asks until it is told to stop.
fn ask(
    kernel: &mut Kernel,
    questions: &[Question],
    (begun, whole, stop): (&AtomicUsize, &AtomicUsize, &AtomicBool),
) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut sport = 0;
    for index in (0..questions.len()).cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        sport += 1;
        if sport == FLOWS {
            sport = 1;
            kernel.forget_flows();
        }
        let question = &questions[index];
        let (hook, packet) = question.shoot(20_000 + sport);
        let first = whole.load(Ordering::SeqCst);
        let outcome = kernel.fire(hook, &packet);
        let last = begun.load(Ordering::SeqCst);
        heard.push(Heard {
            question: index,
            states: (first, last),
            refused: refusal(question, &outcome),
        });
    }
    heard
}

/// Brings the rows of a state into the tables.
fn want(desired: &Desired, world: &World, said: &Resolution) {
    let mut scene = Net::scene();
    let number = |id: Identity| said.sets[&said.subjects[&id]].number;
    for (device, id) in [(POD_A, A), (POD_B, B)] {
        let mut row = scene.endpoints[&device];
        (row.identity, row.policy_set) = (id, number(id));
        scene.endpoint(row);
    }
    scene.ipcache.clear();
    let others = world.identities.keys();
    for id in others.filter(|id| ![A, B, Identity::HOST].contains(*id)) {
        for net in [V4, V6] {
            scene.known(&address(*id, &net), *id, IpcacheFlags::WORKLOAD);
        }
    }
    let known = world.identities.keys();
    let sets = said.sets.values();
    let rows = sets.map(|set| (set.number, set.rows.clone()));
    desired.policy_sets.replace(rows);
    desired
        .identities
        .replace(known.map(|id| (*id, IdentityRow::default())));
    desired.ipcache.replace(scene.ipcache);
    let own = [POD_A, POD_B].map(|device| (device, scene.endpoints[&device]));
    desired.endpoints.replace(own);
    desired.config.replace([(0, scene.config)]);
}

/// What was met, so that the test is known to have tested something.
#[derive(Default, Debug)]
struct Met {
    packets: usize,
    /// Asked while a change was made that changes the answer, and answered as before or
    /// as after.
    as_before: usize,
    as_after: usize,
    /// Refused although it passes before and after, while somebody came or went.
    held_back: usize,
}

#[test]
fn while_policy_changes_each_verdict_is_the_old_one_or_the_new_one() {
    let Some(()) = root() else { return };
    // In a namespace of its own, which threads from here on share.
    let run = || {
        make_devices();
        edits_under_fire();
    };
    let done = std::thread::spawn(run).join();
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn edits_under_fire() {
    let node = Node::new("edits");
    let mut config = node.config();
    let events = "axon_events_v1".to_owned();
    config.map_sizes.insert(events, EVENTS_BYTES);
    let maps = common::maps_alone(&node, &config);
    let mut kernel = Kernel::load_onto(&node.bpf_root());
    let mut reconciler = KernelReconciler::new(maps, ReconcilerConfig::default());
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);

    let config = PolicyConfig::default();
    let mut world = World {
        identities: reserved_identities(&config),
        subjects: [A, B].into(),
        ..World::default()
    };
    for id in [A, B] {
        world.identities.entry(id).or_default();
    }
    let mut engine = Engine::new(config.clone());
    engine.set_subjects(world.subjects.clone());
    for (id, info) in &world.identities {
        engine.upsert_identity(*id, info.clone());
    }
    let drawn = |runner: &mut TestRunner| {
        let edit = edit().new_tree(runner).expect("an edit");
        edit.current()
    };
    let edits: Vec<Edit> = (0..EDITS).map(|_| drawn(&mut runner)).collect();
    let met_by_edits = edits.iter().filter_map(|edit| match edit {
        Edit::Identity(id, _) => Some(*id),
        _ => None,
    });
    let everybody: BTreeSet<Identity> = met_by_edits
        .chain([Identity::REMOTE_NODE, STRANGER])
        .filter(|id| ![A, B, Identity::HOST].contains(id))
        .collect();
    let everybody = Vec::from_iter(everybody);
    let questions: Vec<Question> = (0..QUESTIONS)
        .map(|_| question(everybody.clone()).new_tree(&mut runner))
        .map(|tree| tree.expect("a question").current())
        .collect();

    let desired = Desired::default();
    let (mut numbers, mut slow) = (Numbers::default(), Numbers::default());
    // What each state says to each question, and whether somebody came or went on the way
    // to it.
    let mut said: Vec<(Vec<Option<u8>>, bool)> = Vec::new();
    let mut tell = |world: &World, moved: bool| {
        let twin = resolve(&config, world, &mut slow);
        let answers = questions.iter();
        let answers = answers.map(|question| question.answer(&config, world, &twin));
        said.push((answers.collect(), moved));
    };
    tell(&world, false);
    want(&desired, &world, engine.resolution(&mut numbers));
    complete(&desired);
    let report = reconciler.full(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");

    let (begun, whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    let heard = std::thread::scope(|scope| {
        let asker = scope.spawn(|| ask(&mut kernel, &questions, (&begun, &whole, &stop)));
        for (n, edit) in edits.iter().enumerate() {
            let moved = apply(edit, &mut world, &mut engine);
            tell(&world, moved);
            want(&desired, &world, engine.resolution(&mut numbers));
            begun.store(n + 1, Ordering::SeqCst);
            let report = reconciler.sync((n as u64 + 1) * STEP_MS, &desired);
            whole.store(n + 1, Ordering::SeqCst);
            assert_eq!(report.failing_rows(), 0, "{report:?}");
            if asker.is_finished() {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        asker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });

    let mut met = Met::default();
    for one in &heard {
        let (first, last) = one.states;
        let states = &said[first..=last];
        let answers: Vec<Option<u8>> = states.iter().map(|(said, _)| said[one.question]).collect();
        met.packets += 1;
        if answers.contains(&one.refused) {
            let differ = answers.iter().any(|answer| *answer != one.refused);
            met.as_before += usize::from(differ && answers[0] == one.refused);
            met.as_after += usize::from(differ && answers[0] != one.refused);
            continue;
        }
        let moved = states.iter().skip(1).any(|(_, moved)| *moved);
        assert!(
            one.refused.is_some() && moved,
            "{one:?} of {:?}: {answers:?} would be right; by {:?}",
            questions[one.question],
            &edits[first..last],
        );
        met.held_back += 1;
    }
    println!("{met:?}");
    // Both are met a hundred times and more where nobody else wants the processors.
    let enough = met.packets > QUESTIONS && met.as_before > 0 && met.as_after > 0;
    assert!(enough, "{met:?}");
}
