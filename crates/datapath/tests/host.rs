//! The node itself under policy: what is told of it, and a policy that changes.

use axon_abi::{
    Direction, DropReason, EventFlags, EventKind, EventRecord, FLOWS_PER_NOTICE, Hook, Identity,
    PolicySetFlags,
};
use axon_testkit::cases::{Net, POD_B, UPLINK, V4, V6};
use axon_testkit::{Action, Backend, Build, MemPacket, Native, Outcome, World};

const HOST: u16 = 9;
const SET: u32 = 9;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn scene(flags: u32) -> World {
    let mut world = Net::scene();
    world.host_firewall(HOST, SET);
    world.sets.entry(SET).or_default().flags = flags;
    world
}

fn run(native: &mut Native, hook: Hook, device: u32, packet: &Build) -> Outcome {
    native.run(hook, &MemPacket::new(device, packet.frame()))
}

fn of_kind(outcome: &Outcome, kind: EventKind) -> Vec<EventRecord> {
    let events = outcome.events.iter();
    events
        .filter(|event| event.kind == kind as u8)
        .copied()
        .collect()
}

/// Verdicts and drops name the node as they name an endpoint.
#[test]
fn events_name_the_node() {
    for net in [V4, V6] {
        let mut native = Native::default();
        native.set_world(&scene(PolicySetFlags::DEFAULT_DENY_INGRESS));
        let syn = Build::tcp(net.world, net.node, (4000, 80), SYN);
        let refused = run(&mut native, Hook::FromNetdev, UPLINK, &syn);
        assert_eq!(refused.action, Action::Drop);
        for kind in [EventKind::PolicyVerdict, EventKind::Drop] {
            let events = of_kind(&refused, kind);
            let [event] = events.as_slice() else {
                panic!("one {kind:?}: {:?}", refused.events);
            };
            assert_eq!(event.endpoint, HOST, "{kind:?}");
            assert_eq!(event.reason, DropReason::PolicyDenied as u8, "{kind:?}");
            assert_eq!(event.direction, Direction::Ingress as u8, "{kind:?}");
            assert_eq!(event.destination_identity, Identity::HOST, "{kind:?}");
            assert_eq!(event.policy_set, SET, "{kind:?}");
        }
        let out = Build::tcp(net.node, net.world, (4000, 80), SYN);
        let passed = run(&mut native, Hook::ToNetdev, UPLINK, &out);
        let verdicts = of_kind(&passed, EventKind::PolicyVerdict);
        assert_eq!((verdicts.len(), verdicts[0].endpoint), (1, HOST));
        assert_eq!(verdicts[0].direction, Direction::Egress as u8);
        assert_eq!(verdicts[0].source_identity, Identity::HOST);
        // Between the node and its endpoint, each is asked for itself.
        let to_pod = Build::tcp(net.node, net.b, (4001, 80), SYN);
        let passed = run(&mut native, Hook::ToEndpoint, POD_B, &to_pod);
        let verdicts = of_kind(&passed, EventKind::PolicyVerdict);
        let asked: Vec<u16> = verdicts.iter().map(|event| event.endpoint).collect();
        assert_eq!(asked, [HOST, 2]);
    }
}

/// What the node's policy no longer allows ends with the next epoch, both ways,
/// at uplinks and at endpoints; and comes back with it.
#[test]
fn a_policy_that_changes_judges_anew() {
    for net in [V4, V6] {
        let flows = [
            (
                (Hook::FromNetdev, UPLINK),
                Build::tcp(net.world, net.node, (4000, 80), SYN),
                (Hook::ToNetdev, UPLINK),
                Build::tcp(net.node, net.world, (80, 4000), ACK),
            ),
            (
                (Hook::FromEndpoint, POD_B),
                Build::tcp(net.b, net.node, (4000, 80), SYN),
                (Hook::ToEndpoint, POD_B),
                Build::tcp(net.node, net.b, (80, 4000), ACK),
            ),
        ];
        for (there, first, back, answer) in flows {
            let mut native = Native::default();
            native.set_world(&scene(0));
            let passes = |native: &mut Native| {
                let first = run(native, there.0, there.1, &first);
                let answer = run(native, back.0, back.1, &answer);
                let told = of_kind(&first, EventKind::Drop);
                let told = told.first().map(|event| (event.endpoint, event.policy_set));
                let both = [first, answer].map(|outcome| outcome.action == Action::Next);
                (both, told)
            };
            assert_eq!(passes(&mut native), ([true, true], None));
            let closed = PolicySetFlags::DEFAULT_DENY_INGRESS;
            native.world.sets.entry(SET + 1).or_default().flags = closed;
            native.world.host_firewall(HOST, SET + 1);
            native.world.config.epoch += 1;
            let refused = ([false, false], Some((HOST, SET + 1)));
            assert_eq!(passes(&mut native), refused, "{there:?}");
            // The entry knows: nothing is asked again, and the same is told.
            assert_eq!(passes(&mut native), refused, "{there:?}");
            native.world.host_firewall(HOST, SET);
            native.world.config.epoch += 1;
            assert_eq!(passes(&mut native), ([true, true], None), "{there:?}");
        }
    }
}

/// What is only audited is told as such.
#[test]
fn an_audited_node_lets_pass_and_tells() {
    let mut world = scene(PolicySetFlags::DEFAULT_DENY_INGRESS);
    world.config.flags |= axon_abi::ConfigFlags::AUDIT;
    let mut native = Native::default();
    native.set_world(&world);
    let syn = Build::tcp(V4.world, V4.node, (4000, 80), SYN);
    let passed = run(&mut native, Hook::FromNetdev, UPLINK, &syn);
    assert_eq!(passed.action, Action::Next);
    let verdicts = of_kind(&passed, EventKind::PolicyVerdict);
    assert!(verdicts[0].flags & EventFlags::AUDIT != 0);
}

/// The sweep hears of the node's many flows, but not that they fill a quota.
#[test]
fn the_nodes_flows_fill_no_quota() {
    let world = scene(0);
    let owned = FLOWS_PER_NOTICE - 1;
    world.ct_count.borrow_mut().insert(HOST, owned);
    let mut native = Native::default();
    native.set_world(&world);
    let syn = Build::tcp(V4.world, V4.node, (4000, 80), SYN);
    let passed = run(&mut native, Hook::FromNetdev, UPLINK, &syn);
    let told = passed.events.iter();
    let told = told.filter(|event| event.kind == EventRecord::FLOWS_OPENED);
    let told: Vec<_> = told.map(|event| (event.endpoint, event.len)).collect();
    assert_eq!(told, [(HOST, 0)]);
}
