//! Who is who in the scene, from its addresses alone.

use std::net::IpAddr;

use axon_abi::IpKey;
use axon_testkit::cases::{POD_A, POD_B, V4, V6};

use super::host::Who;
use super::scene::{FURTHER, LOCKED, LOCKED_V4, LOCKED_V6, PICKY, PICKY_V4, PICKY_V6};

/// Whether an address is one that the node has.
pub(super) fn is_own(addr: IpAddr) -> bool {
    is_any(addr, &[V4.node, V6.node]) || is_any(addr, &FURTHER)
}

/// Whether an address is one of the link, which no router forwards.
pub(super) fn is_link(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether no host beyond the link may be a packet's sender by this address.
pub(super) fn is_martian(addr: IpAddr) -> bool {
    if is_any(addr, &[V4.hairpin, V6.hairpin]) {
        return true;
    }
    match addr {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0 || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.segments()[0] == 0 || v6.is_multicast() || is_link(addr),
    }
}

/// Whether an address is taken for the node's at its uplinks.
pub(super) fn is_node(addr: IpAddr) -> bool {
    is_link(addr) || is_own(addr)
}

pub(super) fn is_any(addr: IpAddr, of: &[&str]) -> bool {
    of.iter().any(|text| text.parse() == Ok(addr))
}

/// Whether an address is that of an endpoint of the node.
pub(super) fn is_pod(addr: IpAddr) -> bool {
    let pods = [
        [V4.a, V4.b, V4.hermit, PICKY_V4, LOCKED_V4],
        [V6.a, V6.b, V6.hermit, PICKY_V6, LOCKED_V6],
    ];
    is_any(addr, pods.as_flattened())
}

/// Who hangs on a device, and its addresses; who has no policy yet is judged
/// elsewhere.
pub(super) fn pod(device: u32) -> Option<(Who, [IpAddr; 2])> {
    let (who, own) = match device {
        POD_A => (Who::First, [V4.a, V6.a]),
        POD_B => (Who::Pod, [V4.b, V6.b]),
        PICKY => (Who::Pod, [PICKY_V4, PICKY_V6]),
        LOCKED => (Who::Pod, [LOCKED_V4, LOCKED_V6]),
        _ => return None,
    };
    Some((
        who,
        own.map(|text| text.parse().expect("an address of the scene")),
    ))
}

/// Who an address is to the node.
pub(super) fn who(addr: IpAddr, partial: bool) -> Who {
    let key = IpKey::from(addr).0;
    let prefix = match addr {
        IpAddr::V4(_) => key[12..15] == [203, 0, 113],
        IpAddr::V6(_) => key[..6] == [0x20, 0x01, 0x0d, 0xb8, 0, 1],
    };
    match addr {
        _ if is_any(addr, &[V4.a, V6.a]) => Who::First,
        _ if is_pod(addr) => Who::Pod,
        _ if is_any(addr, &[V4.remote, V6.remote]) => Who::RemotePod,
        _ if is_any(addr, &[V4.remote_node, V6.remote_node]) => Who::RemoteNode,
        _ if partial => Who::Unknown,
        _ if prefix => Who::Prefix,
        _ => Who::World,
    }
}
