//! What is bounded: ICMP errors by time, flows and translations by room.

use axon_abi::{DropReason, EventRecord, FLOWS_PER_NOTICE, Hook};
use axon_datapath::Verdict;
use axon_testkit::cases::{Net, POD_A, UPLINK, V4, V6};
use axon_testkit::{Backend, Build, MemPacket, Native};

#[test]
fn errors_come_in_bursts_and_then_at_a_rate() {
    for net in [V4, V6] {
        let mut native = Native {
            world: Net::scene(),
        };
        let packet = Build::udp(net.a, net.b, (4000, 53), 4).hops(1);
        let packet = MemPacket::new(POD_A, packet.frame());
        let mut answered = |n: usize| {
            let run = |_| native.run(Hook::FromEndpoint, &packet).decided;
            let decided: Vec<_> = (0..n).map(run).collect();
            native.wait_s(1);
            let dropped = Some(DropReason::TtlExceeded);
            let answers = |d: &&Option<_>| **d == Some(Ok(Verdict::Reflect { dropped }));
            let refused = Some(Err(DropReason::RateLimited));
            let count = decided.iter().filter(answers).count();
            assert!(
                decided[count..].iter().all(|d| *d == refused),
                "first the answers, then none: {decided:?}"
            );
            count
        };
        assert_eq!(answered(200), 50);
        assert_eq!(answered(200), 50, "a second makes up for all");
        assert_eq!(answered(20), 20);
    }
}

#[test]
fn a_flow_that_cannot_be_remembered_is_not_opened() {
    for net in [V4, V6] {
        let mut native = Native {
            world: Net::scene(),
        };
        let packet = Build::udp(net.a, net.b, (4000, 53), 4);
        let packet = MemPacket::new(POD_A, packet.frame());
        let known = native.run(Hook::FromEndpoint, &packet).decided;
        assert!(matches!(known, Some(Ok(_))), "{known:?}");
        native.world.ct_full.set(true);
        let again = native.run(Hook::FromEndpoint, &packet).decided;
        assert_eq!(again, known, "what is known goes on");
        let other = Build::udp(net.a, net.b, (4001, 53), 4);
        let other = MemPacket::new(POD_A, other.frame());
        let decided = native.run(Hook::FromEndpoint, &other).decided;
        assert_eq!(decided, Some(Err(DropReason::CtMapInsertionFailed)));
    }
}

#[test]
fn the_sweep_is_told_of_many_flows() {
    for net in [V4, V6] {
        let mut native = Native {
            world: Net::scene(),
        };
        let owner = native.world.endpoints[&POD_A].id;
        native
            .world
            .ct_count
            .borrow_mut()
            .insert(owner, FLOWS_PER_NOTICE - 2);
        let mut notices = |port| {
            let packet = Build::udp(net.a, net.b, (port, 53), 4);
            let packet = MemPacket::new(POD_A, packet.frame());
            let events = native.run(Hook::FromEndpoint, &packet).events;
            let notices = events
                .iter()
                .filter(|event| event.kind == EventRecord::FLOWS_OPENED);
            notices
                .map(|event| (event.endpoint, event.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(notices(4000), []);
        assert_eq!(notices(4001), [(owner, FLOWS_PER_NOTICE)]);
        assert_eq!(notices(4001), [], "it is known");
        assert_eq!(notices(4002), []);
    }
}

#[test]
fn the_node_keeps_a_port_that_nobody_has_when_there_is_no_room() {
    for net in [V4, V6] {
        let mut native = Native {
            world: Net::scene(),
        };
        native.world.nat_full.set(true);
        let mut run = |source| {
            let packet = Build::udp(source, net.world, (50000, 53), 5);
            let packet = MemPacket::new(UPLINK, packet.frame());
            native.run(Hook::ToNetdev, &packet).decided
        };
        assert_eq!(run(net.node), Some(Ok(Verdict::Ignore)));
        assert_eq!(run(net.a), Some(Err(DropReason::NoNatMapping)));
    }
}
