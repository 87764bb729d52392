//! Flows that were let through before a rule demanded a proof of who is behind
//! them.

use axon_abi::{DropReason, EventKind, Hook, PolicySetFlags};
use axon_testkit::cases::{Net, POD_A, POD_B, V4, V6};
use axon_testkit::{Action, Backend, Build, MemPacket, Native, Outcome, Rule};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn sends(native: &mut Native, device: u32, packet: &Build) -> Outcome {
    let packet = MemPacket::new(device, packet.frame());
    native.run(Hook::FromEndpoint, &packet)
}

/// Both ways, also where only the flow's own entry is asked any more.
#[test]
fn an_established_flow_ends_with_the_reason() {
    for net in [V4, V6] {
        let mut native = Native::default();
        native.set_world(&Net::scene());
        let there = |flags| Build::tcp(net.a, net.b, (4000, 80), flags);
        let back = |flags| Build::tcp(net.b, net.a, (80, 4000), flags);
        let opened = sends(&mut native, POD_A, &there(SYN));
        assert_eq!(opened.action, Action::Redirect);
        let answered = sends(&mut native, POD_B, &back(SYN | ACK));
        assert_eq!(answered.action, Action::Redirect);
        native.world.sets.entry(2).or_default().flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
        let demand = Rule {
            protocol: 6,
            port: 80,
            prefix: 16,
            precedence: 7,
            deny: true,
            auth: true,
            ..Rule::default()
        };
        native.world.rule(2, None, demand);
        native.world.config.epoch += 1;
        // The first has it judged anew, the others meet what the entry knows.
        for (device, packet) in [(POD_A, there(ACK)), (POD_A, there(ACK)), (POD_B, back(ACK))] {
            let refused = sends(&mut native, device, &packet);
            assert_eq!(refused.action, Action::Drop);
            assert_eq!(refused.counted, Some(DropReason::AuthRequired as u8));
            let mut told = refused.events.iter();
            let told = told.find(|event| event.kind == EventKind::Drop as u8);
            let told = told.map(|event| (event.reason, event.rule, event.policy_set));
            assert_eq!(told, Some((DropReason::AuthRequired as u8, 7, 2)));
        }
    }
}
