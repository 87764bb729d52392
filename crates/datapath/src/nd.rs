//! IPv6 neighbour discovery from endpoints: the gateway is all there is on
//! their link.

use axon_abi::{Be16, DropReason, EndpointRow};
use zerocopy::IntoBytes;

use crate::checksum;
use crate::header::{ETHERNET_LEN, Frame6, NeighbourMessage, protocol};
use crate::packet::Packet;

/// The IPv6 gateway of every endpoint: `fe80::1`.
pub const GATEWAY_IPV6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const MESSAGE_AT: usize = ETHERNET_LEN + 40;
const MESSAGE_LEN: u16 = size_of::<NeighbourMessage>() as u16;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The option that holds the sender's, and the target's, MAC address.
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// Router, solicited, override (RFC 4861 section 4.4).
const FLAGS: [u8; 4] = [0xe0, 0, 0, 0];

/// Whether the packet is a neighbour solicitation.
#[inline(always)]
pub(crate) fn is_solicitation(packet: &impl Packet) -> bool {
    let ends_in_icmp = packet
        .view::<Frame6>(0)
        .is_some_and(|frame| frame.ip.next_header == protocol::ICMPV6);
    ends_in_icmp && packet.view::<[u8; 2]>(MESSAGE_AT) == Some(&[SOLICITATION, 0])
}

/// Answers an endpoint's solicitation of its gateway; other solicitations are
/// dropped, those for duplicate address detection among them.
#[inline(never)]
pub(crate) fn answer(packet: &mut impl Packet, row: &EndpointRow) -> Result<(), DropReason> {
    let forbidden = DropReason::ForbiddenIcmpv6Message;
    let frame: &Frame6 = packet.view(0).ok_or(DropReason::InvalidPacket)?;
    let (source, source_mac) = (frame.ip.source, frame.ethernet.source);
    let proper =
        frame.ip.hop_limit == 255 && frame.ip.payload_len.get() == MESSAGE_LEN && source != [0; 16];
    let message: NeighbourMessage = packet.load(MESSAGE_AT as u32).ok_or(forbidden)?;
    let asks =
        message.target == GATEWAY_IPV6 && message.option == SOURCE_MAC && message.option_len == 1;
    if !proper || !asks {
        return Err(forbidden);
    }
    let frame: &mut Frame6 = packet.edit(0).ok_or(DropReason::PacketWrite)?;
    frame.ethernet.destination = source_mac;
    frame.ethernet.source = row.node_mac;
    frame.ip.source = GATEWAY_IPV6;
    frame.ip.destination = source;
    let mut message = NeighbourMessage {
        kind: ADVERTISEMENT,
        code: 0,
        checksum: [0; 2],
        flags: FLAGS,
        target: GATEWAY_IPV6,
        option: TARGET_MAC,
        option_len: 1,
        mac: row.node_mac,
    };
    message.checksum = sum(&message, &source).to_ne_bytes();
    packet
        .store(MESSAGE_AT as u32, &message)
        .ok_or(DropReason::PacketWrite)?;
    Ok(())
}

/// The checksum of an advertisement from the gateway.
#[inline(always)]
fn sum(message: &NeighbourMessage, destination: &[u8; 16]) -> u16 {
    let mut sum =
        checksum::half(Be16::new(MESSAGE_LEN).to_bytes()) + checksum::half([0, protocol::ICMPV6]);
    for part in [&GATEWAY_IPV6, destination] {
        sum = checksum::add(sum, checksum::address(&axon_abi::IpKey(*part), true));
    }
    let (words, _) = message.as_bytes().as_chunks::<4>();
    for bytes in words {
        sum = checksum::add(sum, checksum::word(*bytes));
    }
    checksum::fold(sum)
}
