//! What the judge of the node's own traffic reads in a packet, plainly: the IP
//! header and the first bytes of what it carries (RFC 791, RFC 8200).

use std::net::IpAddr;

use super::host::Asked;
use super::judge::{ETHERNET_LEN, addresses};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// What part of its datagram it is, if it is not all of it: which datagram,
    /// and whether it is the first.
    pub(super) part: Option<(u32, bool)>,
    /// Whether headers or options stand between, about which parsers may differ.
    pub(super) extended: bool,
    payload: &'a [u8],
}

/// What it is to policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Of a connection; `opens` says whether it asks for one.
    Session {
        source: u16,
        destination: u16,
        opens: bool,
    },
    /// Asks by ICMP.
    Query { kind: u8, id: u16 },
    /// Answers what was asked so.
    Answer { kind: u8, asked: u8, id: u16 },
    /// Another ICMP message.
    Single { kind: u8 },
    /// As [`Message::Single`], but endpoints may not send or get it.
    Turning { kind: u8 },
    /// What rules the link: always passes.
    Link,
    /// Tells of what became of another packet: always passes.
    Error,
    /// Of a protocol that has no ports.
    Bare,
    /// A later fragment of what has ports.
    Part,
}

impl<'a> Packet<'a> {
    /// Reads a frame; `None` if it is malformed.
    pub(super) fn read(frame: &'a [u8], aggregate: bool) -> Option<Self> {
        let (source, destination) = addresses(frame)?;
        let ip = frame.get(ETHERNET_LEN..)?;
        let read = if source.is_ipv4() { read_v4 } else { read_v6 };
        read(
            ip,
            aggregate,
            Self {
                source,
                destination,
                protocol: 0,
                part: None,
                extended: false,
                payload: &[],
            },
        )
    }

    /// What it is; `None` if it is too short to say.
    pub(super) fn message(&self) -> Option<Message> {
        let Self {
            protocol, payload, ..
        } = *self;
        let icmp = if self.source.is_ipv4() { ICMP } else { ICMPV6 };
        let has_ports = matches!(protocol, TCP | UDP | SCTP) || protocol == icmp;
        if !has_ports {
            return Some(Message::Bare);
        }
        if matches!(self.part, Some((_, false))) {
            return Some(Message::Part);
        }
        let [a, b, c, d, e, f, ..] = *payload.first_chunk::<8>()?;
        if protocol == icmp {
            let id = u16::from_be_bytes([e, f]);
            return Some(icmp_message(icmp == ICMP, a, b, id));
        }
        let flags = payload.get(13).copied().unwrap_or_default();
        Some(Message::Session {
            source: u16::from_be_bytes([a, b]),
            destination: u16::from_be_bytes([c, d]),
            opens: protocol == TCP && flags & (SYN | ACK) == SYN,
        })
    }

    /// Whether there is nothing in it that a careful reader might object to.
    pub(super) fn is_plain(&self, aggregate: bool) -> bool {
        let len = self.payload.len();
        let at = |n: usize| usize::from(self.payload.get(n).copied().unwrap_or_default());
        let transport = match self.protocol {
            TCP => {
                let flags = at(13) as u8 & 0x3f;
                let sane = flags != 0
                    && flags & (SYN | FIN) != SYN | FIN
                    && flags & (SYN | RST) != SYN | RST;
                let header = (at(12) >> 4) * 4;
                sane && header >= 20 && header <= len
            }
            UDP => {
                let said = at(4) << 8 | at(5);
                len >= 8 && (aggregate || said >= 8 && said <= len)
            }
            SCTP => len >= 12,
            _ => len >= 8,
        };
        let mapped = |addr| matches!(addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        transport
            && self.part.is_none()
            && !self.extended
            && !mapped(self.source)
            && !mapped(self.destination)
    }
}

impl Message {
    /// What policy is asked of it, as something new.
    pub(super) fn asked(self, protocol: u8) -> Asked {
        let port = match self {
            Self::Session { destination, .. } => Some(destination),
            Self::Query { kind, .. }
            | Self::Answer { kind, .. }
            | Self::Single { kind }
            | Self::Turning { kind } => Some(u16::from(kind)),
            Self::Link | Self::Error | Self::Bare | Self::Part => None,
        };
        Asked { protocol, port }
    }

    /// What policy was asked of what it replies to, if it may be a reply.
    pub(super) fn replies_to(self, protocol: u8) -> Option<Asked> {
        let port = match self {
            Self::Session { source, .. } => source,
            Self::Answer { asked, .. } => u16::from(asked),
            _ => return None,
        };
        Some(Asked {
            protocol,
            port: Some(port),
        })
    }
}

fn read_v4<'a>(ip: &'a [u8], aggregate: bool, packet: Packet<'a>) -> Option<Packet<'a>> {
    let [
        first,
        _,
        len_a,
        len_b,
        id_a,
        id_b,
        part_a,
        part_b,
        _,
        protocol,
        ..,
    ] = *ip.first_chunk::<20>()?;
    let header = usize::from(first & 15) * 4;
    let len = match usize::from(u16::from_be_bytes([len_a, len_b])) {
        0 if aggregate => ip.len(),
        said => said,
    };
    let word = u16::from_be_bytes([part_a, part_b]);
    let id = u32::from(u16::from_be_bytes([id_a, id_b]));
    Some(Packet {
        protocol,
        part: (word & 0x3fff != 0).then_some((id, word & 0x1fff == 0)),
        extended: header != 20,
        payload: ip
            .get(header..len)
            .filter(|_| header >= 20 && first >> 4 == 4)?,
        ..packet
    })
}

fn read_v6<'a>(ip: &'a [u8], aggregate: bool, mut packet: Packet<'a>) -> Option<Packet<'a>> {
    let [first, _, _, _, len_a, len_b, mut next, ..] = *ip.first_chunk::<40>()?;
    let len = match usize::from(u16::from_be_bytes([len_a, len_b])) {
        0 if aggregate => ip.len(),
        said => said + 40,
    };
    let mut rest = ip.get(40..len).filter(|_| first >> 4 == 6)?;
    // Hop-by-hop, routing, fragment, authentication, destination.
    while matches!(next, 0 | 43 | 44 | 51 | 60) && !matches!(packet.part, Some((_, false))) {
        let [following, said, a, b, id @ ..] = *rest.first_chunk::<8>()?;
        let len = match next {
            44 => 8,
            51 => (usize::from(said) + 2) * 4,
            _ => (usize::from(said) + 1) * 8,
        };
        let word = u16::from_be_bytes([a, b]);
        if next == 44 && word & 0xfff9 != 0 {
            packet.part = Some((u32::from_be_bytes(id), word & 0xfff8 == 0));
        }
        packet.extended = true;
        next = following;
        rest = rest.get(len..)?;
    }
    packet.protocol = next;
    packet.payload = rest;
    Some(packet)
}

/// What an ICMP message is (RFC 792, RFC 950; RFC 4443, RFC 4861, RFC 3810,
/// RFC 3971, RFC 4286).
fn icmp_message(v4: bool, kind: u8, code: u8, id: u16) -> Message {
    match (v4, kind) {
        (true, 8 | 13 | 15 | 17) | (false, 128) => Message::Query { kind, id },
        (true, 0) => Message::Answer { kind, asked: 8, id },
        (true, 14 | 16 | 18) | (false, 129) => Message::Answer {
            kind,
            asked: kind - 1,
            id,
        },
        (true, 3) if code > 15 => Message::Turning { kind },
        (true, 3 | 4 | 11 | 12) | (false, 1..=4) => Message::Error,
        (true, 5 | 9 | 10) | (false, 137) => Message::Turning { kind },
        (false, 130..=136 | 143 | 148 | 149 | 151..=153) => Message::Link,
        _ => Message::Single { kind },
    }
}
