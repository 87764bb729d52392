//! The scene of the cases: one node, two endpoints, and who is out there.

use axon_abi::{EndpointRow, Hook, Identity, IpKey, IpcacheFlags};
use axon_datapath::{Route, Verdict};

use crate::run::{Case, Step};
use crate::world::{NO_RULES, key};
use crate::{Build, MemPacket, World};

/// Device of the first endpoint.
pub const POD_A: u32 = 11;
/// Device of the second endpoint.
pub const POD_B: u32 = 12;
/// Device of an endpoint that has no policy yet.
pub const POD_HERMIT: u32 = 13;
/// The node's uplink.
pub const UPLINK: u32 = 10;

/// The first endpoint's identity.
pub(super) const IDENTITY_A: Identity = Identity(300);
/// The second endpoint's identity.
pub(super) const IDENTITY_B: Identity = Identity(301);
/// The identity of the endpoint on another node.
pub(super) const IDENTITY_REMOTE: Identity = Identity(302);

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// 4 or 6.
    pub version: u8,
    /// The first endpoint.
    pub a: &'static str,
    /// The second endpoint.
    pub b: &'static str,
    /// The endpoint without policy.
    pub hermit: &'static str,
    /// This node.
    pub node: &'static str,
    /// An endpoint of another node.
    pub remote: &'static str,
    /// Another node.
    pub remote_node: &'static str,
    /// Somebody outside.
    pub world: &'static str,
    /// A group.
    pub multicast: &'static str,
    /// The router on the uplink.
    pub router: &'static str,
    /// A service's address inside the cluster.
    pub cluster_ip: &'static str,
    /// A service's address for the network.
    pub vip: &'static str,
    /// From whom endpoints hear themselves.
    pub hairpin: &'static str,
}

/// IPv4.
pub const V4: Net = Net {
    version: 4,
    a: "10.0.0.11",
    b: "10.0.0.12",
    hermit: "10.0.0.13",
    node: "192.0.2.1",
    remote: "10.0.1.21",
    remote_node: "192.0.2.2",
    world: "198.51.100.7",
    multicast: "224.0.0.251",
    router: "192.0.2.254",
    cluster_ip: "10.96.0.10",
    vip: "198.18.0.10",
    hairpin: "169.254.42.1",
};

/// IPv6.
pub const V6: Net = Net {
    version: 6,
    a: "fd00::a",
    b: "fd00::b",
    hermit: "fd00::d",
    node: "2001:db8::1",
    remote: "fd00:0:0:1::15",
    remote_node: "2001:db8::2",
    world: "2001:db8:ffff::7",
    multicast: "ff02::fb",
    router: "2001:db8::fe",
    cluster_ip: "fd96::a",
    vip: "2001:db8:aa::a",
    hairpin: "fd61:786f:6e65::2a01",
};

impl Net {
    fn endpoint(
        id: u16,
        ifindex: u32,
        identity: Identity,
        addrs: [&str; 2],
        set: u32,
    ) -> EndpointRow {
        let low = id as u8;
        EndpointRow {
            ifindex,
            identity,
            policy_set: set,
            id,
            flags: 0,
            ipv4: key(addrs[0]).to_v4().unwrap_or_default(),
            ipv6: key(addrs[1]),
            mac: [2, 0, 0, 0, 0, low],
            node_mac: [2, 0, 0, 0, 0xff, low],
        }
    }

    /// The scene: everything is allowed.
    #[must_use]
    pub fn scene() -> World {
        let mut world = World::new((V4.node, V6.node));
        world.endpoint(Self::endpoint(1, POD_A, IDENTITY_A, [V4.a, V6.a], 1));
        world.endpoint(Self::endpoint(2, POD_B, IDENTITY_B, [V4.b, V6.b], 2));
        world.endpoint(Self::endpoint(
            3,
            POD_HERMIT,
            IDENTITY_B,
            [V4.hermit, V6.hermit],
            0,
        ));
        world.uplinks.insert(UPLINK);
        for set in [1, 2] {
            world.sets.insert(set, NO_RULES);
        }
        for net in [V4, V6] {
            world.known(net.remote, IDENTITY_REMOTE, IpcacheFlags::WORKLOAD);
            world.known(net.remote_node, Identity::REMOTE_NODE, 0);
            for to in [net.remote, net.world] {
                let via = (Route::Via { ifindex: UPLINK }, key(net.router));
                world.routes.insert(key(to), via);
            }
        }
        world
    }

    /// A case in the scene.
    #[must_use]
    pub fn case(&self, name: &str, world: World, steps: Vec<Step>) -> Case {
        Case {
            name: format!("v{}: {name}", self.version),
            world,
            steps,
            routes: false,
        }
    }

    /// The address of this family as a key.
    #[must_use]
    pub fn key(addr: &str) -> IpKey {
        key(addr)
    }
}

/// A packet that is expected to come to something.
pub(crate) fn step(
    name: &'static str,
    (hook, ifindex): (Hook, u32),
    frame: Vec<u8>,
    expected: Result<Verdict, axon_abi::DropReason>,
) -> Step {
    let packet = MemPacket::new(ifindex, frame);
    Step {
        name,
        after_s: 0,
        hook,
        packet,
        expected,
        bytes: None,
        traced: None,
    }
}

/// What an endpoint sends.
pub(crate) fn sends(
    name: &'static str,
    ifindex: u32,
    packet: &Build,
    expected: Result<Verdict, axon_abi::DropReason>,
) -> Step {
    step(
        name,
        (Hook::FromEndpoint, ifindex),
        packet.frame(),
        expected,
    )
}

/// What the network sends.
pub(crate) fn arrives(
    name: &'static str,
    packet: &Build,
    expected: Result<Verdict, axon_abi::DropReason>,
) -> Step {
    step(name, (Hook::FromNetdev, UPLINK), packet.frame(), expected)
}

/// What the node's stack sends to the second endpoint; 0 if no device brought
/// it.
pub(super) fn reaches(
    name: &'static str,
    by: u32,
    packet: &Build,
    expected: Result<Verdict, axon_abi::DropReason>,
) -> Step {
    let mut step = step(name, (Hook::ToEndpoint, POD_B), packet.frame(), expected);
    step.packet.ingress_ifindex = by;
    step
}

/// What leaves by the uplink.
pub(crate) fn leaves(
    name: &'static str,
    packet: &Build,
    expected: Result<Verdict, axon_abi::DropReason>,
) -> Step {
    step(name, (Hook::ToNetdev, UPLINK), packet.frame(), expected)
}

/// As it comes to an endpoint of this number: a hop less, and its MAC addresses.
pub(super) fn delivered(mut step: Step, id: u8, after: Build) -> Step {
    let mut frame = after.hop().frame();
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, id, 2, 0, 0, 0, 0xff, id]);
    step.bytes = Some(frame);
    step
}

/// As it leaves by the uplink: a hop less.
pub(super) fn sent_on(mut step: Step, after: Build) -> Step {
    step.bytes = Some(after.hop().frame());
    step
}

/// Out by the uplink.
pub(super) fn out() -> Result<Verdict, axon_abi::DropReason> {
    Ok(Verdict::RedirectNeigh { ifindex: UPLINK })
}

/// Delivery to an endpoint of the node.
pub(crate) fn to(ifindex: u32) -> Result<Verdict, axon_abi::DropReason> {
    Ok(Verdict::RedirectPeer { ifindex })
}
