//! ICMP and SCTP over raw sockets: of ICMP no other client has every type, and
//! few kernels have SCTP.
//!
//! Of SCTP it is the beginning that is spoken (RFC 9260 §5.1): an INIT, whose
//! initiate tag is the number of the try, and the INIT ACK that answers it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    recv, send, socket,
};

use crate::case::Protocol;

/// SCTP's number among the protocols.
const SCTP: u8 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// Chunk header and fixed part of an INIT (RFC 9260 §3.3.2).
const INIT_LENGTH: u16 = 20;
const SCTP_HEADER: usize = 12;

/// A raw socket that does not block; with `from` and `to` it is their own.
pub(crate) fn open(
    protocol: Protocol,
    from: Option<IpAddr>,
    to: Option<IpAddr>,
) -> io::Result<OwnedFd> {
    let (family, number) = match protocol {
        Protocol::IcmpV6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        Protocol::Icmp => (AddressFamily::Inet, SockProtocol::Icmp),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => (AddressFamily::Inet, SockProtocol::Sctp),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Raw, flags, number)?;
    let address = |ip| SockaddrStorage::from(SocketAddr::new(ip, 0));
    if let Some(from) = from {
        bind(fd.as_raw_fd(), &address(from))?;
    }
    if let Some(to) = to {
        connect(fd.as_raw_fd(), &address(to))?;
    }
    Ok(fd)
}

/// The address that a connected socket sends from.
pub(crate) fn local(fd: &OwnedFd) -> io::Result<IpAddr> {
    let address: SockaddrStorage = nix::sys::socket::getsockname(fd.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
    v4.or(v6)
        .ok_or_else(|| io::Error::other("a socket without an address"))
}

/// Sends what a connected socket's peer shall get.
pub(crate) fn post(fd: &OwnedFd, packet: &[u8]) -> io::Result<()> {
    send(fd.as_raw_fd(), packet, MsgFlags::empty())?;
    Ok(())
}

/// The next packet: of IPv4 with its header.
pub(crate) fn take<'b>(fd: &OwnedFd, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let length = recv(fd.as_raw_fd(), buffer, MsgFlags::empty())?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Source, destination and what comes after the header, of an IPv4 packet.
pub(crate) fn unwrap_v4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 15) * 4;
    let ip = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    Some((ip(12)?, ip(16)?, packet.get(header..)?))
}

/// An ICMP request: number in identifier and sequence number, and enough after
/// it for those types that are longer than an echo.
pub(crate) fn icmp(kind: u8, number: u32, v6: bool) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(number.to_be_bytes());
    packet.extend([0; 12]);
    if !v6 {
        let sum = internet_checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// Type and number of an ICMP message.
pub(crate) fn icmp_number(message: &[u8]) -> Option<(u8, u32)> {
    let number = message.get(4..8)?.try_into().ok()?;
    Some((*message.first()?, u32::from_be_bytes(number)))
}

/// The type that answers a request, if kernels answer it.
pub(crate) fn icmp_reply(protocol: Protocol, kind: u8) -> Option<u8> {
    match (protocol, kind) {
        (Protocol::Icmp, 8) => Some(0),
        (Protocol::Icmp, 13) => Some(14),
        (Protocol::IcmpV6, 128) => Some(129),
        _ => None,
    }
}

/// The Internet checksum (RFC 1071).
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// An SCTP packet of one INIT, or of the INIT ACK that answers it.
pub(crate) fn sctp(ports: (u16, u16), tag: u32, number: u32, is_ack: bool) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([if is_ack { INIT_ACK } else { INIT }, 0]);
    // With the number of the try as the cookie, which an INIT ACK must have.
    let length = INIT_LENGTH + if is_ack { 8 } else { 0 };
    packet.extend(length.to_be_bytes());
    packet.extend(number.to_be_bytes());
    packet.extend(65536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(number.to_be_bytes());
    if is_ack {
        packet.extend([0, 7, 0, 8]);
        packet.extend(tag.to_be_bytes());
    }
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// What an INIT or an INIT ACK says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    /// The tag that the packet was to have: of an INIT none.
    pub(crate) tag: u32,
    /// The tag that its sender wants.
    pub(crate) wanted: u32,
    pub(crate) is_ack: bool,
}

/// Reads an SCTP packet that begins with an INIT or an INIT ACK.
pub(crate) fn read_sctp(packet: &[u8]) -> Option<Init> {
    let short = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
    };
    let long = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?))
    };
    let kind = *packet.get(SCTP_HEADER)?;
    if ![INIT, INIT_ACK].contains(&kind) {
        return None;
    }
    Some(Init {
        source: short(0)?,
        destination: short(2)?,
        tag: long(4)?,
        wanted: long(SCTP_HEADER + 4)?,
        is_ack: kind == INIT_ACK,
    })
}

/// SCTP's checksum (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let low = sum & 1;
            sum = (sum >> 1) ^ (low * 0x82f6_3b78);
        }
    }
    !sum
}

/// Whether an IPv4 packet is SCTP's.
pub(crate) fn is_sctp(packet: &[u8]) -> bool {
    packet.get(9) == Some(&SCTP)
}

#[test]
fn checksums_are_those_of_the_standards() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let mut echo = icmp(8, 7, false);
    assert_eq!(internet_checksum(&echo), 0);
    echo[7] ^= 1;
    assert_ne!(internet_checksum(&echo), 0);
}

#[test]
fn an_init_is_read_as_it_was_written() {
    let init = Init {
        source: 4000,
        destination: 80,
        tag: 0,
        wanted: 77,
        is_ack: false,
    };
    assert_eq!(read_sctp(&sctp((4000, 80), 0, 77, false)), Some(init));
    let ack = Init {
        source: 80,
        destination: 4000,
        tag: 77,
        wanted: 5,
        is_ack: true,
    };
    assert_eq!(read_sctp(&sctp((80, 4000), 77, 5, true)), Some(ack));
    assert_eq!(read_sctp(b"short"), None);
}
