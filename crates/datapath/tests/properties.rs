//! What holds for every packet and every set of rules.

use std::collections::HashMap;

use axon_abi::{
    Direction, DropReason, EndpointRow, Hook, Identity, IpKey, PolicySetFlags, PolicySetRow, Scope,
};
use axon_datapath::{Question, Scratch, evaluate};
use axon_testkit::cases::{Net, POD_A, UPLINK, V4, V6};
use axon_testkit::{Backend, Build, MemPacket, Native, Rule, World, check};
use proptest::prelude::*;

fn hook() -> impl Strategy<Value = (Hook, u32)> {
    prop::sample::select(vec![
        (Hook::FromEndpoint, POD_A),
        (Hook::ToEndpoint, POD_A),
        (Hook::FromNetdev, UPLINK),
        (Hook::ToNetdev, UPLINK),
    ])
}

fn net() -> impl Strategy<Value = Net> {
    prop::sample::select(vec![V4, V6])
}

/// Makes the answer to a packet between two addresses.
type Answer = fn(&str, &str, (u16, u16)) -> Build;

/// A packet that makes sense, of every shape there is.
fn packet() -> impl Strategy<Value = Build> {
    let ends = |net: Net| {
        let addrs = vec![net.a, net.b, net.node, net.remote, net.world];
        (
            prop::sample::select(addrs.clone()),
            prop::sample::select(addrs),
        )
    };
    let shape = (
        0..6u8,
        any::<u16>(),
        any::<u16>(),
        any::<u8>(),
        0..300usize,
        any::<bool>(),
    );
    (net().prop_flat_map(ends), shape).prop_map(|((from, to), shape)| {
        let (kind, a, b, flags, len, options) = shape;
        let built = match kind {
            0 => Build::tcp(from, to, (a, b), flags),
            1 => Build::udp(from, to, (a, b), len),
            2 => Build::ping(from, to, a),
            3 => Build::pong(from, to, a),
            4 => Build::unreachable(from, to, &Build::udp(to, from, (a, b), len).frame()),
            _ => Build::udp(from, to, (a, b), 64).part(b, 0, 24),
        };
        let built = built.hops(flags % 70);
        if options {
            built.options(&[1, 1, 1, 1])
        } else {
            built
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_panics_on_any_bytes(
        (hook, ifindex) in hook(),
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0..4u8,
    ) {
        let ethertype = [[8, 0], [0x86, 0xdd], [8, 6], [0, 0]][usize::from(kind)];
        if let Some(field) = bytes.get_mut(12..14) {
            field.copy_from_slice(&ethertype);
        }
        let mut native = Native { world: Net::scene() };
        let _ = native.run(hook, &MemPacket::new(ifindex, bytes));
    }

    #[test]
    fn nothing_panics_on_mutated_packets(
        (hook, ifindex) in hook(),
        packet in packet(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = packet.frame();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut native = Native { world: Net::scene() };
        let _ = native.run(hook, &MemPacket::new(ifindex, bytes));
    }

    #[test]
    fn what_comes_out_has_right_checksums((hook, ifindex) in hook(), packet in packet()) {
        let frame = packet.frame();
        prop_assert_eq!(check(&frame), Ok(()));
        let mut native = Native { world: Net::scene() };
        let outcome = native.run(hook, &MemPacket::new(ifindex, frame));
        prop_assert_eq!(check(&outcome.bytes), Ok(()), "{:?}", outcome.decided);
    }

    #[test]
    fn masquerading_comes_back(net in net(), ports in any::<(u16, u16)>(), kind in 0..3u8) {
        let (out, back): (Build, Answer) = match kind {
            0 => (Build::tcp(net.a, net.world, ports, 16),
                |from, to, (a, b)| Build::tcp(from, to, (b, a), 16)),
            1 => (Build::udp(net.a, net.world, ports, 9),
                |from, to, (a, b)| Build::udp(from, to, (b, a), 9)),
            _ => (Build::ping(net.a, net.world, ports.0),
                |from, to, (a, _)| Build::pong(from, to, a)),
        };
        let mut native = Native { world: Net::scene() };
        let sent = native.run(Hook::ToNetdev, &MemPacket::new(UPLINK, out.frame())).bytes;
        let header = if net.version == 4 { 34 } else { 54 };
        let at = if kind == 2 { header + 4 } else { header };
        let port = u16::from_be_bytes([sent[at], sent[at + 1]]);
        prop_assert!(port >= 32768);
        let answer = back(net.world, net.node, (port, ports.1)).frame();
        let received = native.run(Hook::FromNetdev, &MemPacket::new(UPLINK, answer)).bytes;
        let plain = back(net.world, net.a, ports).hops(63).frame();
        prop_assert_eq!(&received[12..], &plain[12..]);
    }
}

/// The look-up as the rules are written: every entry is looked at.
fn slow(
    world: &World,
    rules: &[(Option<Identity>, Rule)],
    question: &Question,
) -> Result<(), DropReason> {
    let known = match question.remote.scope() {
        Scope::Unknown => false,
        Scope::Cluster => world.identities.contains(&question.remote),
        _ => true,
    };
    let best = rules
        .iter()
        .filter(|(remote, rule)| {
            let mask = (0xffff_0000u32 >> rule.prefix) as u16;
            rule.egress == question.egress
                && (rule.protocol == question.protocol || rule.protocol == 0 && rule.prefix == 0)
                && rule.port == question.port & mask
                && remote.is_none_or(|remote| known && remote == question.remote)
                && (known || rule.deny)
        })
        .max_by_key(|(_, rule)| rule.precedence);
    match best {
        Some((_, rule)) if rule.deny && rule.default => Err(DropReason::PolicyDenied),
        Some((_, rule)) if rule.deny && rule.auth => Err(DropReason::AuthRequired),
        Some((_, rule)) if rule.deny => Err(DropReason::PolicyDeny),
        Some(_) => Ok(()),
        None => Err(DropReason::PolicyDenied),
    }
}

fn rule() -> impl Strategy<Value = (Option<Identity>, Rule)> {
    let remote = prop::option::of((298..303u32).prop_map(Identity));
    let shape = (
        any::<bool>(),
        prop::sample::select(vec![0u8, 6, 17]),
        any::<u16>(),
        0..=16u8,
    );
    let flags = any::<(bool, bool, bool)>();
    (remote, shape, flags).prop_map(|(remote, shape, (deny, default, auth))| {
        let (egress, protocol, port, prefix) = shape;
        let prefix = if protocol == 0 { 0 } else { prefix };
        let port = port & 0xff & (0xffff_0000u32 >> prefix) as u16;
        (
            remote,
            Rule {
                egress,
                protocol,
                port,
                prefix,
                precedence: 0,
                failsafe: false,
                deny,
                default,
                auth,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn seconds_are_exact(s in 0..500_000_000u64, ns in prop::sample::select(vec![0, 1, 999_999_999])) {
        let ns = s * 1_000_000_000 + ns;
        prop_assert_eq!(u64::from(axon_datapath::seconds(ns)), s);
    }

    #[test]
    fn policy_agrees_with_its_slow_twin(
        mut rules in prop::collection::vec(rule(), 0..12),
        remote in 297..304u32,
        port in 0..256u16,
        protocol in prop::sample::select(vec![6u8, 17]),
        egress in any::<bool>(),
    ) {
        let mut world = World::default();
        for identity in [299, 300, 301] {
            world.identities.insert(Identity(identity));
        }
        let closed = PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;
        world.sets.insert(1, PolicySetRow { flags: closed, ..PolicySetRow::default() });
        let mut entries = HashMap::new();
        for (n, (remote, rule)) in rules.iter_mut().enumerate() {
            rule.precedence = n as u32 + 1;
            world.rule(1, *remote, *rule);
            entries.insert((*remote, rule.egress, rule.protocol, rule.port, rule.prefix), (*remote, *rule));
        }
        let kept: Vec<_> = entries.into_values().collect();
        let question = Question { set: 1, remote: Identity(remote), port, protocol, egress };
        let mut scratch = Scratch::poisoned();
        scratch.question = question;
        prop_assert_eq!(evaluate(&world, &mut scratch), slow(&world, &kept, &question));
    }
}

/// What conntrack is to remember of a UDP flow between two endpoints.
#[derive(Default)]
struct Model {
    opened_by_a: bool,
    replied: bool,
    expires_s: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn conntrack_agrees_with_its_model(
        steps in prop::collection::vec((any::<bool>(), prop::sample::select(vec![0u64, 1, 29, 31, 61])), 1..12),
    ) {
        // Only the first endpoint may open; the second may reply while it is remembered.
        let mut world = Net::scene();
        let flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
        world.sets.insert(1, PolicySetRow { flags, ..PolicySetRow::default() });
        let mut native = Native { world };
        let mut model = Model::default();
        let mut now_s = 0;
        for (from_a, wait_s) in steps {
            now_s += wait_s;
            native.wait_s(wait_s);
            let known = model.opened_by_a && now_s < model.expires_s;
            let (ifindex, packet) = if from_a {
                (POD_A, Build::udp(V4.a, V4.b, (4000, 53), 1))
            } else {
                (axon_testkit::cases::POD_B, Build::udp(V4.b, V4.a, (53, 4000), 1))
            };
            let outcome = native.run(Hook::FromEndpoint, &MemPacket::new(ifindex, packet.frame()));
            let allowed = outcome.decided.is_some_and(|decided| decided.is_ok());
            prop_assert_eq!(allowed, from_a || known);
            if !allowed {
                continue;
            }
            model.replied = known && (model.replied || !from_a);
            model.opened_by_a = true;
            model.expires_s = now_s + if model.replied { 60 } else { 30 };
        }
    }
}

#[test]
fn a_policy_that_turns_against_a_flow_cuts_it_both_ways() {
    let mut native = Native {
        world: Net::scene(),
    };
    let out = MemPacket::new(POD_A, Build::tcp(V4.a, V4.b, (4000, 80), 2).frame());
    let back = MemPacket::new(
        axon_testkit::cases::POD_B,
        Build::tcp(V4.b, V4.a, (80, 4000), 18).frame(),
    );
    let run = |native: &mut Native, packet: &MemPacket| {
        native
            .run(Hook::FromEndpoint, packet)
            .decided
            .map(|decided| decided.map(|_| ()))
    };
    assert_eq!(run(&mut native, &out), Some(Ok(())));
    assert_eq!(run(&mut native, &back), Some(Ok(())));
    let denied = Some(Err(DropReason::PolicyDenied));
    set_policy(&mut native.world, 7, PolicySetFlags::DEFAULT_DENY_INGRESS);
    assert_eq!(
        run(&mut native, &back),
        denied,
        "the reply first: it must not open the flow"
    );
    assert_eq!(run(&mut native, &out), denied);
    let told = native.world.events.borrow().last().copied();
    assert_eq!(
        told.map(|event| (event.policy_set, event.direction)),
        Some((7, Direction::Ingress as u8)),
        "a denial that is remembered names the policy that made it"
    );
    set_policy(&mut native.world, 8, 0);
    assert_eq!(run(&mut native, &back), Some(Ok(())));
    native.world.config.epoch += 1;
    assert_eq!(run(&mut native, &out), Some(Ok(())));
}

/// Gives the second endpoint another set version.
fn set_policy(world: &mut World, set: u32, flags: u32) {
    world.sets.insert(
        set,
        PolicySetRow {
            flags,
            ..PolicySetRow::default()
        },
    );
    let b = IpKey::from_v4([10, 0, 0, 12]);
    let row: EndpointRow = EndpointRow {
        policy_set: set,
        ..world.addresses[&b]
    };
    world.endpoint(row);
}
