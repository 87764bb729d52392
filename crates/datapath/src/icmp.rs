//! ICMP messages: which are queries, answers, errors, and what they quote.

use axon_abi::{Be16, DropReason};

use crate::family::{Family, same};
use crate::header::{IcmpHead, protocol};
use crate::packet::Packet;
use crate::scratch::{Flow, Kind};

/// The ICMPv6 type of a redirect (RFC 4861 section 4.5).
pub(crate) const REDIRECT_V6: u8 = 137;

/// What an ICMP message is to the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks; the answer has the same identifier.
    Query,
    /// Answers the query of type `asked`.
    Answer {
        /// ICMP type of the query.
        asked: u8,
    },
    /// Reports what became of another packet, and quotes it.
    Error,
    /// Anything else.
    Other,
    /// Never forwarded.
    Forbidden(DropReason),
}

/// Whether a message of this protocol answers a query: policy was asked about that.
pub const fn is_answer(protocol: u8, kind: u8) -> bool {
    let message = match protocol {
        protocol::ICMP => classify_v4(kind, 0),
        protocol::ICMPV6 => classify_v6(kind),
        _ => return false,
    };
    matches!(message, Message::Answer { .. })
}

/// IPv4 types (RFC 792, RFC 950).
#[inline(always)]
pub(crate) const fn classify_v4(kind: u8, code: u8) -> Message {
    match kind {
        8 | 13 | 15 | 17 => Message::Query,
        0 => Message::Answer { asked: 8 },
        14 | 16 | 18 => Message::Answer { asked: kind - 1 },
        3 if code > 15 => Message::Forbidden(DropReason::UnknownIcmpv4Code),
        3 | 4 | 11 | 12 => Message::Error,
        // Redirects and router discovery rule a link; we are its only router.
        5 | 9 | 10 => Message::Forbidden(DropReason::UnknownIcmpv4Type),
        _ => Message::Other,
    }
}

/// IPv6 types (RFC 4443, RFC 4861, RFC 3810).
#[inline(always)]
pub(crate) const fn classify_v6(kind: u8) -> Message {
    match kind {
        128 => Message::Query,
        129 => Message::Answer { asked: 128 },
        1..=4 => Message::Error,
        // Multicast listeners, routers, neighbours: matters of one link.
        130..=137 | 143 | 148 | 149 | 151..=153 => {
            Message::Forbidden(DropReason::ForbiddenIcmpv6Message)
        }
        _ => Message::Other,
    }
}

/// The answering side's port of a query: 0 of an echo, else the query's type,
/// so that queries of different types are different flows, each with its own
/// verdict.
#[inline(always)]
const fn answering_port(asked: u8) -> Be16 {
    match asked {
        8 | 128 => Be16::ZERO,
        _ => Be16::new(asked as u16),
    }
}

/// Reads an ICMP message at `flow.l4_at`.
#[inline(always)]
pub(crate) fn parse<F: Family>(
    packet: &impl Packet,
    flow: &mut Flow,
    head: IcmpHead,
) -> Result<(), DropReason> {
    flow.icmp = true;
    flow.l4_len = 8;
    flow.icmp_type = head.kind;
    flow.icmp_code = head.code;
    flow.policy_type = head.kind;
    match F::icmp(head.kind, head.code) {
        Message::Query => {
            flow.kind = Kind::Query;
            flow.tuple.source_port = head.id;
            flow.tuple.destination_port = answering_port(head.kind);
        }
        Message::Answer { asked } => {
            flow.kind = Kind::Answer;
            flow.policy_type = asked;
            flow.tuple.source_port = answering_port(asked);
            flow.tuple.destination_port = head.id;
        }
        Message::Error => {
            if quoted::<F>(packet, flow).is_some() {
                flow.kind = Kind::Error;
            }
        }
        Message::Other => {}
        Message::Forbidden(reason) => return Err(reason),
    }
    Ok(())
}

/// Reads what an ICMP error quotes into `flow.about`; `None` if it quotes no
/// flow that we could know, or one that the error's receiver is no part of.
#[inline(never)]
fn quoted<F: Family>(packet: &impl Packet, flow: &mut Flow) -> Option<()> {
    let at = flow.l4_at + 8;
    let l4_at = F::quoted(packet, at, &mut flow.about)?;
    let head: IcmpHead = packet.load(l4_at)?;
    let [a, b] = [
        Be16::from_bytes([head.kind, head.code]),
        Be16::from_bytes(head.checksum),
    ];
    let mut asked = 0;
    // Turned: what the quote's sender is sent now comes towards it.
    let (source_port, destination_port) = match flow.about.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => (b, a),
        other if other == F::ICMP => match F::icmp(head.kind, head.code) {
            Message::Query => {
                asked = head.kind;
                (answering_port(head.kind), head.id)
            }
            Message::Answer { asked: kind } => {
                asked = kind;
                (head.id, answering_port(kind))
            }
            Message::Error | Message::Other | Message::Forbidden(_) => return None,
        },
        _ => return None,
    };
    if !same(&flow.about.destination, &flow.tuple.destination) {
        return None;
    }
    flow.about.source_port = source_port;
    flow.about.destination_port = destination_port;
    flow.about.pad = [0; 3];
    flow.about_at = at;
    flow.about_l4_at = l4_at;
    flow.policy_type = asked;
    flow.icmp = asked != 0;
    Some(())
}
