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

use axon_abi::{ConfigFlags, Direction, DropReason, EventKind, Hook, Identity, IpcacheFlags};
use axon_model::{PortMatch, PortRule, Protocol};
use axon_policy::{
    Enforcement, Engine, Failsafe, Lookup, Numbers, Packet, PolicyConfig, PolicySet, Resolution,
    Verdict, reserved_identities, resolve,
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
/// The node's number among the endpoints.
const HOST_ID: u16 = 9;
const SYN: u8 = 2;
/// Worlds, and packets in each.
const WORLDS: usize = 600;
const PACKETS: usize = 60;

/// What is configured.
#[derive(Clone, Debug)]
struct Setting {
    policy: PolicyConfig,
    /// The families that pods have.
    carried: Vec<Net>,
    /// Policy is enforced on the node itself.
    firewall: bool,
    /// Rows of the ipcache are missing.
    partial: bool,
}

impl Setting {
    /// Who an address is that has no row.
    fn stranger(&self, net: &Net) -> Identity {
        match self.partial {
            true => Identity::UNKNOWN,
            false => self.policy.world_of(net.version == 6),
        }
    }

    /// What of it shall have been met, by name.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let policy = &self.policy;
        let families = self.carried.iter().map(|net| net.version);
        let alone = self.carried.len() == 1;
        [
            (families.clone().eq([4]), "IPv4 alone"),
            (families.eq([6]), "IPv6 alone"),
            (alone && self.firewall, "one family, and both of the node's"),
            (policy.enforcement == Enforcement::Always, "always"),
            (policy.allow_localhost, "the node reaches its endpoints"),
            (self.partial, "rows are missing"),
            (self.firewall, "the node is held"),
        ]
        .into_iter()
        .filter_map(|(is_so, name)| is_so.then_some(name))
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    let enforcement = prop::sample::select(vec![
        Enforcement::Default,
        Enforcement::Default,
        Enforcement::Default,
        Enforcement::Default,
        Enforcement::Always,
        Enforcement::Never,
    ]);
    let carried = prop::sample::select(vec![vec![V4, V6], vec![V4, V6], vec![V4], vec![V6]]);
    let port = (
        prop::sample::select(worlds::PORTS.to_vec()),
        prop::sample::select(vec![Protocol::TCP, Protocol::UDP]),
    );
    let port = port.prop_map(|(port, protocol)| PortRule {
        protocol,
        port: PortMatch::Range(port, port),
    });
    let ports = prop::collection::vec(port, 0..3);
    let failsafe =
        (ports.clone(), ports).prop_map(|(ingress, egress)| Failsafe { ingress, egress });
    (
        enforcement,
        carried,
        failsafe,
        any::<[bool; 2]>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(enforcement, carried, failsafe, [allow_localhost, firewall], partial)| {
                // The node's own traffic is of either family.
                let has =
                    |version| firewall || carried.iter().any(|net: &Net| net.version == version);
                let policy = PolicyConfig {
                    enforcement,
                    ipv4: has(4),
                    ipv6: has(6),
                    allow_localhost,
                    failsafe,
                    ..PolicyConfig::default()
                };
                Setting {
                    policy,
                    carried,
                    firewall,
                    partial,
                }
            },
        )
}

/// Who sends a packet to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// An endpoint to anybody.
    FromEndpoint,
    /// Anybody beyond the uplink to an endpoint.
    ToEndpoint,
    /// Anybody beyond the uplink to the node.
    ToNode,
    /// The node to anybody beyond the uplink.
    FromNode,
    /// The node to an endpoint.
    Inside,
}

const WAYS: [Way; 5] = [
    Way::FromEndpoint,
    Way::ToEndpoint,
    Way::ToNode,
    Way::FromNode,
    Way::Inside,
];

impl Way {
    /// Where it is met: a hook, a device.
    fn hook(self) -> (Hook, u32) {
        match self {
            Self::FromEndpoint => (Hook::FromEndpoint, POD_A),
            Self::ToEndpoint | Self::ToNode => (Hook::FromNetdev, UPLINK),
            Self::FromNode => (Hook::ToNetdev, UPLINK),
            Self::Inside => (Hook::ToEndpoint, POD_B),
        }
    }

    /// The ends; `far` is who is there beside the node and its endpoints.
    fn ends(self, far: Identity) -> (Identity, Identity) {
        match self {
            Self::FromEndpoint if far == A => (A, B),
            Self::FromEndpoint => (A, far),
            Self::ToEndpoint => (far, B),
            Self::ToNode => (far, Identity::HOST),
            Self::FromNode => (Identity::HOST, far),
            Self::Inside => (Identity::HOST, B),
        }
    }

    fn is_beyond_the_uplink(self) -> bool {
        matches!(self, Self::ToEndpoint | Self::ToNode | Self::FromNode)
    }
}

/// Nobody whom a row names.
const STRANGER: Identity = Identity(0xff00_0000);

/// One packet, and what it means to policy.
#[derive(Debug)]
struct Shot {
    way: Way,
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
        (STRANGER, 4) => "203.0.113.77".to_owned(),
        (STRANGER, _) => "2001:db8:77::1".to_owned(),
        (Identity(n), 4) => format!("10.{}.{}.{}", 64 + (n >> 24), n >> 8 & 0xff, n & 0xff),
        (Identity(n), _) => format!("fd00:0:0:9::{:x}:{:x}", n >> 16, n & 0xffff),
    }
}

/// A random state of rules, identities and groups.
fn state(setting: &Setting) -> impl Strategy<Value = axon_policy::World> + use<> {
    let Setting {
        policy, firewall, ..
    } = setting.clone();
    (
        prop::collection::vec(worlds::identity(), 1..8),
        prop::collection::vec(worlds::policy(), 1..4),
        prop::collection::btree_map(worlds::group_key(), worlds::group(), 0..4),
        prop::collection::vec(worlds::label(), 0..4),
    )
        .prop_map(move |(identities, policies, groups, node)| {
            let mut world = axon_policy::World {
                identities: reserved_identities(&policy),
                node: node.into_iter().collect(),
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
            world.subjects.extend(firewall.then_some(Identity::HOST));
            world
        })
}

/// The same by way of the engine, which is told one thing after the other.
fn engine(config: &PolicyConfig, state: &axon_policy::World) -> Engine {
    let mut engine = Engine::new(config.clone());
    engine.set_subjects(state.subjects.clone());
    engine.set_node(state.node.clone());
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

fn set_of(resolution: &Resolution, subject: Identity) -> &PolicySet {
    &resolution.sets[&resolution.subjects[&subject]]
}

/// The scene with these rows in its tables.
fn scene(setting: &Setting, state: &axon_policy::World, resolution: &Resolution) -> World {
    let mut world = Net::scene();
    world.sets.clear();
    for (net, flag) in [(V4, ConfigFlags::IPV4), (V6, ConfigFlags::IPV6)] {
        if setting.carried.iter().all(|own| own.version != net.version) {
            world.config.flags &= !flag;
        }
    }
    if setting.partial {
        world.config.flags |= ConfigFlags::IPCACHE_PARTIAL;
    }
    for (device, identity) in [(POD_A, A), (POD_B, B)] {
        let mut row = world.endpoints[&device];
        (row.identity, row.policy_set) = (identity, set_of(resolution, identity).number);
        world.endpoint(row);
    }
    if setting.firewall {
        let number = set_of(resolution, Identity::HOST).number;
        world.host_firewall(HOST_ID, number);
    }
    for (number, set) in &resolution.sets {
        world.sets.insert(*number, set.rows.set);
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

/// A packet of the `n`th flow.
fn shot(
    setting: &Setting,
    state: &axon_policy::World,
    n: u16,
) -> impl Strategy<Value = Shot> + use<> {
    let strangers = [STRANGER; 2];
    let everyone: Vec<Identity> = state.identities.keys().copied().chain(strangers).collect();
    let ports = worlds::PORTS
        .into_iter()
        .chain([79, 1024])
        .filter(|port| *port != 0);
    let ports: Vec<u16> = ports.collect();
    let setting = setting.clone();
    (
        prop::sample::select(everyone),
        prop::sample::select(ports),
        prop::sample::select(vec![1_u8, 6, 17]),
        prop::sample::select(WAYS.to_vec()),
        any::<bool>(),
    )
        .prop_map(move |(far, port, protocol, way, v6)| {
            // The node's own traffic is of either family where it is held.
            let own = matches!(way, Way::ToNode | Way::FromNode) && setting.firewall;
            let nets = if own {
                vec![V4, V6]
            } else {
                setting.carried.clone()
            };
            let net = nets[usize::from(v6) % nets.len()];
            // Nobody beyond the uplink has an address of ours.
            let ours = [A, B, Identity::HOST].contains(&far) && way.is_beyond_the_uplink();
            let far = if ours { STRANGER } else { far };
            shoot(&setting, way, way.ends(far), (net, protocol, port, n))
        })
}

fn shoot(
    setting: &Setting,
    way: Way,
    (from, to): (Identity, Identity),
    (net, protocol, port, n): (Net, u8, u16, u16),
) -> Shot {
    let ends = (&*address(from, &net), &*address(to, &net));
    let sport = 20_000 + n;
    let build = match protocol {
        6 => Build::tcp(ends.0, ends.1, (sport, port), SYN),
        17 => Build::udp(ends.0, ends.1, (sport, port), 4),
        _ => {
            let echo = if net.version == 6 { 128 } else { 8 };
            Build::icmp(ends.0, ends.1, (echo, 0, u32::from(sport) << 16), &[0; 8])
        }
    };
    let (protocol, port) = match (protocol, net.version) {
        (1, 4) => (1, 8),
        (1, _) => (58, 128),
        other => (other.0, port),
    };
    let asked = [
        (from, Direction::Egress, to),
        (to, Direction::Ingress, from),
    ];
    let is_asked = |id: Identity| {
        let own = [A, B].contains(&id);
        own || id == Identity::HOST && setting.firewall
    };
    let asked = asked.into_iter().filter(|(own, ..)| is_asked(*own));
    let asked = asked.map(|(own, direction, remote)| {
        let remote = match remote {
            STRANGER => setting.stranger(&net),
            remote => remote,
        };
        let packet = Packet {
            direction,
            remote,
            protocol,
            port,
        };
        (own, packet)
    });
    let (_, device) = way.hook();
    let mut packet = MemPacket::new(device, build.frame());
    packet.ingress_ifindex = 0;
    Shot {
        way,
        packet,
        asked: asked.collect(),
    }
}

/// What the slow twin of the look-up says over the rows of a set.
fn twin(set: &PolicySet, packet: Packet) -> Option<u8> {
    let lookup = Lookup::new(&set.rows);
    let verdict = match packet.remote {
        Identity::UNKNOWN => lookup.of_unknown(packet.direction, packet.protocol, packet.port),
        _ => lookup.verdict(packet),
    };
    match verdict {
        Verdict::Allowed { .. } | Verdict::AllowedByDefault => None,
        Verdict::DeniedByDefault => Some(DropReason::PolicyDenied as u8),
        // Nobody is there to read what is said.
        Verdict::Denied { .. } | Verdict::Redirected { .. } => Some(DropReason::PolicyDeny as u8),
        Verdict::Unproved { .. } => Some(DropReason::AuthRequired as u8),
    }
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

/// Names of settings, and of ports.
const SPECIAL: usize = 8;
const NEVER_DENIED: &str = "never denied to the node";

/// How often packets passed and did not, by what was special about them.
#[derive(Default, Debug)]
struct Met {
    verdicts: BTreeMap<Option<u8>, usize>,
    by_name: BTreeMap<String, [usize; 2]>,
}

impl Met {
    fn note(&mut self, setting: &Setting, shot: &Shot, refused: Option<u8>) {
        *self.verdicts.entry(refused).or_default() += 1;
        let asked = !shot.asked.is_empty();
        let way = asked.then(|| format!("{:?}", shot.way));
        let failsafe = &setting.policy.failsafe;
        let names = setting.names().filter(|_| asked).map(str::to_owned);
        let held = shot.asked.iter().find(|(own, _)| *own == Identity::HOST);
        let safe = held.is_some_and(|(_, packet)| {
            let ports = match packet.direction {
                Direction::Egress => &failsafe.egress,
                Direction::Ingress | Direction::Unknown => &failsafe.ingress,
            };
            let port = PortMatch::Range(packet.port, packet.port);
            let protocol = Protocol(packet.protocol);
            ports.contains(&PortRule { protocol, port })
        });
        let safe = safe.then(|| NEVER_DENIED.to_owned());
        for name in names.chain(way).chain(safe) {
            self.by_name.entry(name).or_default()[usize::from(refused.is_some())] += 1;
        }
    }

    /// Whether whatever is special was so for packets that pass and for others; of
    /// what is never denied to the node the other end alone may deny it.
    fn is_much(&self) -> bool {
        let often = |(name, [passed, refused]): (&String, &[usize; 2])| {
            *passed > 50 && (*refused > 50 || name == NEVER_DENIED)
        };
        self.by_name.len() == WAYS.len() + SPECIAL
            && self.by_name.iter().all(often)
            && self.verdicts.len() == 4
            && self.verdicts.values().all(|n| *n > 100)
    }
}

#[test]
fn the_kernel_the_simulator_and_the_slow_twin_agree() {
    with_kernel(|mut kernel: Kernel| {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut met = Met::default();
        for _ in 0..WORLDS {
            let setting = setting()
                .new_tree(&mut runner)
                .expect("a setting")
                .current();
            let state = state(&setting).new_tree(&mut runner);
            let state = state.expect("a world").current();
            let mut numbers = Numbers::default();
            let mut engine = engine(&setting.policy, &state);
            let world = scene(&setting, &state, engine.resolution(&mut numbers));
            let slow = resolve(&setting.policy, &state, &mut numbers);
            let mut native = Native::default();
            native.set_world(&world);
            kernel.set_world(&world);
            for n in 0..PACKETS {
                let shot = shot(&setting, &state, n as u16).new_tree(&mut runner);
                let shot = shot.expect("a packet").current();
                let mut asked = shot.asked.iter();
                let expected = asked.find_map(|(own, packet)| twin(set_of(&slow, *own), *packet));
                let (hook, _) = shot.way.hook();
                let simulated = refusal(&native.run(hook, &shot.packet));
                let happened = refusal(&kernel.fire(hook, &shot.packet));
                assert_eq!(
                    (simulated, happened),
                    (expected, expected),
                    "natively, in the kernel; {shot:?} under {setting:?} in {state:#?}",
                );
                met.note(&setting, &shot, expected);
            }
        }
        println!("{} packets in {WORLDS} worlds: {met:#?}", WORLDS * PACKETS);
        assert!(met.is_much(), "{met:#?}");
    });
}
