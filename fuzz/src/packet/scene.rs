//! The scene of the cases, and two endpoints more whose policy lets almost
//! nothing through.

use std::cell::OnceCell;

use axon_abi::{
    EndpointRow, Hook, Identity, IpKey, IpcacheRow, LpmKey, PolicySetFlags, PolicySetRow,
};
use axon_testkit::cases::{Net, POD_A, UPLINK, V4, V6};
use axon_testkit::{Backend, Build, MemPacket, Native, Rule, World};

/// Device of the endpoint that takes TCP port 80 from the first, and opens
/// nothing.
pub(super) const PICKY: u32 = 14;
/// Device of the endpoint that may nothing.
pub(super) const LOCKED: u32 = 15;

pub(super) const PICKY_V4: &str = "10.0.0.14";
pub(super) const PICKY_V6: &str = "fd00::e";
pub(super) const LOCKED_V4: &str = "10.0.0.15";
pub(super) const LOCKED_V6: &str = "fd00::f";

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// The scene, with a few flows under way.
pub(super) fn world() -> World {
    WORLD.with(|world| world.get_or_init(make).clone())
}

fn make() -> World {
    let mut world = Net::scene();
    add(&mut world, 4, PICKY, (PICKY_V4, PICKY_V6));
    add(&mut world, 5, LOCKED, (LOCKED_V4, LOCKED_V6));
    let allow = Rule {
        protocol: 6,
        port: 80,
        prefix: 16,
        precedence: 1,
        ..Rule::default()
    };
    // The identity of the scene's first endpoint.
    let first = world.endpoints.get(&POD_A).map(|row| row.identity);
    world.rule(4, first, allow);
    for (prefix, bits) in [("203.0.113.0", 120), ("2001:db8:1::", 48)] {
        let key = LpmKey {
            prefix_bits: bits,
            addr: Net::key(prefix),
        };
        let row = IpcacheRow {
            identity: Identity::LOCAL_MIN,
            flags: 0,
            node: IpKey::UNSPECIFIED,
        };
        world.cidrs.push((key, row));
        world.nomasq.push(key);
    }
    world.identities.insert(Identity::LOCAL_MIN);
    under_way(world)
}

fn add(world: &mut World, id: u16, ifindex: u32, (v4, v6): (&str, &str)) {
    let set = u32::from(id);
    world.endpoint(EndpointRow {
        ifindex,
        identity: Identity(300 + set),
        policy_set: set,
        id,
        flags: 0,
        ipv4: Net::key(v4).to_v4().unwrap_or_default(),
        ipv6: Net::key(v6),
        mac: [2, 0, 0, 0, 0, id as u8],
        node_mac: [2, 0, 0, 0, 0xff, id as u8],
    });
    let row = PolicySetRow {
        flags: PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS,
        ..PolicySetRow::default()
    };
    world.sets.insert(set, row);
}

/// A few flows, translations and fragments, so that the first packet of a
/// script can already belong to one.
fn under_way(world: World) -> World {
    let mut native = Native { world };
    for (net, picky) in [(V4, PICKY_V4), (V6, PICKY_V6)] {
        let sent = [
            Build::tcp(net.a, net.b, (40000, 80), 2),
            Build::tcp(net.a, picky, (40000, 80), 2),
            Build::tcp(net.a, net.world, (40000, 443), 2),
            Build::udp(net.a, net.world, (40001, 53), 9),
            Build::udp(net.a, net.b, (40001, 53), 64).part(7, 0, 24),
            Build::ping(net.a, net.world, 77),
        ];
        for packet in sent {
            let frame = packet.frame();
            let _ = native.run(Hook::FromEndpoint, &MemPacket::new(POD_A, frame.clone()));
            let _ = native.run(Hook::ToNetdev, &MemPacket::new(UPLINK, frame));
        }
    }
    native.world.counts.borrow_mut().clear();
    native.world.events.borrow_mut().clear();
    native.world
}
