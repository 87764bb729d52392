//! The scene of the cases, two endpoints more whose policy lets almost nothing
//! through, and what the node itself may be held to.

use std::cell::OnceCell;

use axon_abi::{
    ConfigFlags, EndpointFlags, EndpointRow, HOST_DEVICE, Hook, Identity, IpKey, IpcacheFlags,
    IpcacheRow, LpmKey, PolicySetFlags, PolicySetRow,
};
use axon_testkit::cases::{Net, POD_A, UPLINK, V4, V6};
use axon_testkit::{Backend, Build, MemPacket, Native, Rule, World};

use super::host::{Does, Held, POLICIES, Policy, What, Who};
use super::served;

/// Device of the endpoint that takes TCP port 80 from the first, and opens
/// nothing.
pub(super) const PICKY: u32 = 14;
/// Device of the endpoint that may nothing.
pub(super) const LOCKED: u32 = 15;

pub(super) const PICKY_V4: &str = "10.0.0.14";
pub(super) const PICKY_V6: &str = "fd00::e";
pub(super) const LOCKED_V4: &str = "10.0.0.15";
pub(super) const LOCKED_V6: &str = "fd00::f";
/// Addresses of the node besides those that it is known by.
pub(super) const FURTHER: [&str; 3] = ["203.0.113.1", "2001:db8:5::1", "fe80::1"];
/// The node's number among the endpoints.
pub(super) const HOST_ID: u16 = 9;
/// The first of the node's policy sets, in the order of [`POLICIES`].
const HOST_SETS: u32 = 100;

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
    for addr in FURTHER {
        world.known(addr, Identity::HOST, IpcacheFlags::LOCAL_HOST);
    }
    for (set, policy) in (HOST_SETS..).zip(&POLICIES) {
        add_policy(&mut world, set, policy);
    }
    served::add(&mut world);
    under_way(world)
}

/// Holds the node to one of its policies from now on, as an agent does: every
/// flow is judged anew.
pub(super) fn hold(world: &mut World, number: usize) {
    let policy = &POLICIES[number];
    let flags = ConfigFlags::HOST_FIREWALL | ConfigFlags::IPCACHE_PARTIAL;
    world.config.flags &= !flags;
    world.endpoints.remove(&HOST_DEVICE);
    if policy.held != Held::Off {
        world.host_firewall(HOST_ID, HOST_SETS + number as u32);
    }
    if policy.partial {
        world.config.flags |= ConfigFlags::IPCACHE_PARTIAL;
    }
    match policy.held {
        Held::Waits => {
            world.endpoints.remove(&HOST_DEVICE);
        }
        Held::Audited => {
            let row = world.endpoints.entry(HOST_DEVICE).or_default();
            row.flags |= EndpointFlags::AUDIT;
        }
        Held::Off | Held::Fast => {}
    }
    world.config.epoch = world.config.epoch.wrapping_add(1);
}

fn add_policy(world: &mut World, set: u32, policy: &Policy) {
    let closed = [
        PolicySetFlags::DEFAULT_DENY_INGRESS,
        PolicySetFlags::DEFAULT_DENY_EGRESS,
    ];
    let closed = policy.closed.iter().zip(closed);
    let flags = closed.fold(0, |flags, (closed, flag)| {
        flags | (u32::from(*closed) * flag)
    });
    world.sets.entry(set).or_default().flags = flags;
    let precedences = (1..=policy.rules.len() as u32).rev();
    for (rule, precedence) in policy.rules.iter().zip(precedences) {
        let written = Rule {
            egress: rule.egress,
            precedence,
            deny: matches!(rule.does, Does::Deny | Does::DenyByDefault),
            default: rule.does == Does::DenyByDefault,
            failsafe: rule.does == Does::Failsafe,
            ..Rule::default()
        };
        for remote in identities(world, rule.who) {
            for (protocol, port, prefix) in places(rule.what) {
                let place = Rule {
                    protocol,
                    port,
                    prefix,
                    ..written
                };
                world.rule(set, remote, place);
            }
        }
    }
}

/// Where entries of a rule stand: protocol, port, bits of it that count.
fn places(what: What) -> Vec<(u8, u16, u8)> {
    match what {
        What::Any => vec![(0, 0, 0)],
        What::Protocol(protocol) => vec![(protocol, 0, 0)],
        What::Ports(protocol, first, count) => {
            vec![(protocol, first, 16 - count.trailing_zeros() as u8)]
        }
        What::Type(v4, v6) => vec![(1, v4.into(), 16), (58, v6.into(), 16)],
    }
}

fn identities(world: &World, who: Option<Who>) -> Vec<Option<Identity>> {
    let endpoint = |device| world.endpoints.get(&device).map(|row| row.identity);
    match who {
        None => vec![None],
        Some(Who::First) => vec![endpoint(POD_A)],
        Some(Who::RemotePod) => {
            let row = world.ipcache.get(&Net::key(V4.remote));
            vec![row.map(|row| row.identity)]
        }
        Some(Who::RemoteNode) => vec![Some(Identity::REMOTE_NODE)],
        Some(Who::Prefix) => vec![Some(Identity::LOCAL_MIN)],
        Some(Who::World) => vec![Some(Identity::WORLD_IPV4), Some(Identity::WORLD_IPV6)],
        Some(who @ (Who::Pod | Who::Unknown)) => unreachable!("no rule names {who:?}"),
    }
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
