//! ARP from endpoints: the gateway is all there is on their link.

use axon_abi::{Be16, DropReason, EndpointFlags, EndpointRow};

use crate::header::{ArpPacket, ethertype};
use crate::packet::Packet;

/// The IPv4 gateway of every endpoint.
pub const GATEWAY_IPV4: [u8; 4] = [169, 254, 1, 1];

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Answers an endpoint's request for its gateway's MAC address: the packet becomes
/// its answer. Any other ARP packet is dropped.
#[inline(never)]
pub(crate) fn answer(packet: &mut impl Packet, row: &EndpointRow) -> Result<(), DropReason> {
    let arp: &mut ArpPacket = packet.edit(0).ok_or(DropReason::InvalidPacket)?;
    let sane =
        arp.hardware.get() == 1 && arp.protocol.get() == ethertype::IPV4 && arp.lengths == [6, 4];
    if !sane {
        return Err(DropReason::InvalidPacket);
    }
    if arp.operation.get() != REQUEST || arp.target != GATEWAY_IPV4 {
        return Err(DropReason::UnknownL3Target);
    }
    if arp.sender != row.ipv4 && row.flags & EndpointFlags::NO_SOURCE_CHECK == 0 {
        return Err(DropReason::InvalidSourceIp);
    }
    arp.operation = Be16::new(REPLY);
    arp.ethernet.destination = arp.ethernet.source;
    arp.ethernet.source = row.node_mac;
    arp.target_mac = arp.sender_mac;
    arp.target = arp.sender;
    arp.sender_mac = row.node_mac;
    arp.sender = GATEWAY_IPV4;
    Ok(())
}
