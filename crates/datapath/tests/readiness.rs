//! What reaches nobody before its policy is known.

use axon_abi::{DropReason, Hook};
use axon_datapath::Verdict;
use axon_testkit::cases::{Net, POD_A, V4, V6};
use axon_testkit::{Backend, Build, MemPacket, Native};

#[test]
fn a_flow_older_than_the_endpoint_waits_for_its_policy() {
    for net in [V4, V6] {
        let mut native = Native::default();
        native.set_world(&Net::scene());
        let hermit = Net::key(net.hermit);
        let frame = Build::udp(net.a, net.hermit, (4000, 53), 8).frame();
        let packet = MemPacket::new(POD_A, frame);
        let row = native.world.addresses.remove(&hermit);
        let decided = native.run(Hook::FromEndpoint, &packet).decided;
        assert_eq!(decided, Some(Ok(Verdict::Pass)), "nobody has the address");
        native.world.addresses.extend(row.map(|row| (hermit, row)));
        assert_eq!(
            native.run(Hook::FromEndpoint, &packet).decided,
            Some(Err(DropReason::EndpointNotReady)),
            "the endpoint has no policy yet"
        );
    }
}

#[test]
fn nothing_is_masqueraded_before_the_node_has_an_address() {
    for net in [V4, V6] {
        let mut world = Net::scene();
        world.config.node_ipv4 = [0; 4];
        world.config.node_ipv6 = axon_abi::IpKey::UNSPECIFIED;
        let mut native = Native::default();
        native.set_world(&world);
        let frame = Build::udp(net.a, net.world, (4000, 53), 8).frame();
        let packet = MemPacket::new(axon_testkit::cases::UPLINK, frame);
        assert_eq!(
            native.run(Hook::ToNetdev, &packet).decided,
            Some(Err(DropReason::NoNatMapping))
        );
    }
}

#[test]
fn the_nodes_own_ports_beyond_those_of_masquerading_stay() {
    for net in [V4, V6] {
        let mut world = Net::scene();
        world.config.nat_port_max = 60999;
        let mut native = Native::default();
        native.set_world(&world);
        let frame = Build::tcp(net.node, net.world, (61000, 4000), 18).frame();
        let packet = MemPacket::new(axon_testkit::cases::UPLINK, frame.clone());
        let outcome = native.run(Hook::ToNetdev, &packet);
        assert_eq!(outcome.decided, Some(Ok(Verdict::Ignore)));
        assert_eq!(outcome.bytes, frame);
    }
}
