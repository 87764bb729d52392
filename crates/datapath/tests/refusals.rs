//! Who is told of a policy that refuses (`policy-deny-response: icmp`) once it
//! changes under flows that are known.

use axon_abi::{ConfigFlags, DropReason, Hook, PolicySetFlags};
use axon_testkit::cases::{Net, POD_A, POD_B, V4, V6};
use axon_testkit::{Action, Backend, Build, MemPacket, Native, Outcome};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn sends(native: &mut Native, device: u32, packet: &Build) -> Outcome {
    let packet = MemPacket::new(device, packet.frame());
    native.run(Hook::FromEndpoint, &packet)
}

/// The egress that is asked about is the opener's: the endpoint that answers is
/// told nothing of it, also where it is the one that has it asked.
#[test]
fn who_answers_is_not_told_of_the_openers_policy() {
    for net in [V4, V6] {
        let mut world = Net::scene();
        world.config.flags |= ConfigFlags::DENY_RESPONSE;
        let mut native = Native::default();
        native.set_world(&world);
        let there = |flags| Build::tcp(net.a, net.b, (4000, 80), flags);
        let back = |flags| Build::tcp(net.b, net.a, (80, 4000), flags);
        let opened = sends(&mut native, POD_A, &there(SYN));
        assert_eq!(opened.action, Action::Redirect);
        let answered = sends(&mut native, POD_B, &back(SYN | ACK));
        assert_eq!(answered.action, Action::Redirect);
        let closed = PolicySetFlags::DEFAULT_DENY_EGRESS;
        native.world.sets.entry(1).or_default().flags = closed;
        native.world.config.epoch += 1;
        // The first has it judged anew, the second meets what the entry knows.
        for _ in 0..2 {
            let refused = sends(&mut native, POD_B, &back(ACK));
            assert_eq!(refused.action, Action::Drop);
            assert_eq!(refused.counted, Some(DropReason::PolicyDenied as u8));
        }
        let told = sends(&mut native, POD_A, &there(ACK));
        assert_eq!(told.action, Action::Redirect, "the opener is told");
        assert_eq!(told.counted, Some(DropReason::PolicyDenied as u8));
    }
}
