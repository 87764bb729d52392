//! The packet that is asked about.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Hops that it has left.
const HOPS: u8 = 64;

/// A packet without payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it says beyond.
    pub transport: Transport,
}

/// The transport header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A segment of TCP.
    Tcp {
        /// Ports of source and destination.
        ports: [u16; 2],
        /// The low byte of the flags.
        flags: u8,
    },
    /// A datagram of UDP.
    Udp {
        /// Ports of source and destination.
        ports: [u16; 2],
    },
    /// A packet of SCTP.
    Sctp {
        /// Ports of source and destination.
        ports: [u16; 2],
    },
    /// A message of the addresses' ICMP.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// Its identifier, if it is a query.
        id: u16,
    },
}

impl Transport {
    /// The flag that opens a connection.
    pub const SYN: u8 = 2;

    /// Whether it is of a connection that has been opened before.
    pub(crate) fn continues(self) -> bool {
        const ACK: u8 = 16;
        matches!(self, Self::Tcp { flags, .. } if flags & ACK != 0)
    }

    /// The ports of source and destination, if it has any.
    pub(crate) fn ports(&mut self) -> Option<&mut [u16; 2]> {
        match self {
            Self::Tcp { ports, .. } | Self::Udp { ports } | Self::Sctp { ports } => Some(ports),
            Self::Icmp { .. } => None,
        }
    }

    /// The protocol's number; ICMP has one for each family.
    pub fn protocol(self, v6: bool) -> u8 {
        match (self, v6) {
            (Self::Tcp { .. }, _) => 6,
            (Self::Udp { .. }, _) => 17,
            (Self::Sctp { .. }, _) => 132,
            (Self::Icmp { .. }, false) => 1,
            (Self::Icmp { .. }, true) => 58,
        }
    }

    /// What policy is asked for as the port: the destination's, or ICMP's type.
    pub fn port(self) -> u16 {
        match self {
            Self::Tcp { ports, .. } | Self::Udp { ports } | Self::Sctp { ports } => ports[1],
            Self::Icmp { kind, .. } => u16::from(kind),
        }
    }

    /// The header; the datapath does not look at checksums that it does not
    /// change, and these are none.
    fn header(self) -> Vec<u8> {
        let pair = |ports: [u16; 2]| ports.into_iter().flat_map(u16::to_be_bytes);
        let mut bytes: Vec<u8> = match self {
            Self::Tcp { ports, flags } => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags];
                pair(ports).chain(rest).collect()
            }
            Self::Udp { ports } => pair(ports).chain([0, 8]).collect(),
            Self::Sctp { ports } => pair(ports).chain([0; 8]).collect(),
            Self::Icmp { kind, code, id } => [kind, code, 0, 0]
                .into_iter()
                .chain(id.to_be_bytes())
                .collect(),
        };
        let length = match self {
            Self::Tcp { .. } => 20,
            Self::Udp { .. } => 8,
            Self::Sctp { .. } => 16,
            // Neighbour discovery has an address after its head.
            Self::Icmp { .. } => 24,
        };
        bytes.resize(length, 0);
        bytes
    }
}

/// Why there is no such packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_addr} and {destination} are of two families; expected two of one")]
pub struct PacketError {
    source_addr: IpAddr,
    destination: IpAddr,
}

impl Packet {
    /// Whether its addresses are IPv6.
    pub fn is_v6(&self) -> bool {
        self.destination.is_ipv6()
    }

    /// Its protocol's number.
    pub fn protocol(&self) -> u8 {
        self.transport.protocol(self.is_v6())
    }

    /// Sends it elsewhere.
    pub(crate) fn readdress(&mut self, to: SocketAddr) {
        self.destination = to.ip();
        if let Some(ports) = self.transport.ports() {
            ports[1] = to.port();
        }
    }

    /// Takes over addresses and ports from its frame, which somebody has changed.
    pub(crate) fn reread(&mut self, frame: &[u8]) {
        let (first, length) = if self.is_v6() { (22, 16) } else { (26, 4) };
        let part = |at: usize, length: usize| frame.get(at..at + length);
        let address = |at: usize| -> Option<IpAddr> {
            let bytes = part(at, length)?;
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
                .ok()
        };
        let port = |at: usize| {
            let bytes = <[u8; 2]>::try_from(part(at, 2)?).ok()?;
            Some(u16::from_be_bytes(bytes))
        };
        let ends = (address(first), address(first + length));
        let (Some(source), Some(destination)) = ends else {
            return;
        };
        (self.source, self.destination) = (source, destination);
        let at = first + 2 * length;
        if let Some(ports) = self.transport.ports()
            && let (Some(from), Some(to)) = (port(at), port(at + 2))
        {
            *ports = [from, to];
        }
    }

    /// Its bytes, from the Ethernet header on.
    ///
    /// # Errors
    /// Its addresses are of two families.
    pub fn frame(&self) -> Result<Vec<u8>, PacketError> {
        let body = self.transport.header();
        let length = u16::try_from(body.len()).unwrap_or(0);
        let mut frame = vec![2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 1];
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend((20 + length).to_be_bytes());
                frame.extend([0, 1, 0x40, 0, HOPS, self.protocol(), 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol(), HOPS]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (source_addr, destination) => {
                return Err(PacketError {
                    source_addr,
                    destination,
                });
            }
        }
        frame.extend(body);
        Ok(frame)
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, ports) = match self.transport {
            Transport::Tcp { ports, .. } => ("TCP", ports),
            Transport::Udp { ports } => ("UDP", ports),
            Transport::Sctp { ports } => ("SCTP", ports),
            Transport::Icmp { kind, code, .. } => {
                let name = if self.is_v6() { "ICMPv6" } else { "ICMP" };
                let ends = (self.source, self.destination);
                return write!(f, "{name} type {kind} code {code} {} -> {}", ends.0, ends.1);
            }
        };
        let at = |address, port| SocketAddr::new(address, port);
        let (from, to) = (at(self.source, ports[0]), at(self.destination, ports[1]));
        write!(f, "{name} {from} -> {to}")?;
        if let Transport::Tcp { flags, .. } = self.transport {
            let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
            let set = names
                .iter()
                .enumerate()
                .filter(|(n, _)| flags >> n & 1 == 1);
            for (_, name) in set {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}
