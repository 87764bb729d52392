//! Builds packets for tests: what matters is spelt out, the rest is sane.

use std::net::IpAddr;

use crate::oracle::sum;

/// A packet to be.
#[derive(Clone, Debug)]
pub struct Build {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The transport header and payload, its checksum zero.
    pub body: Vec<u8>,
    /// Hops left.
    pub hops: u8,
    /// IPv4 options.
    pub options: Vec<u8>,
    /// IPv6 extension headers: the type, and all bytes but the next-header one.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Part of the datagram that is sent: identification, offset and end of
    /// the transport bytes.
    pub part: Option<(u16, usize, usize)>,
    /// IPv4: may not be cut.
    pub dont_fragment: bool,
    /// The transport checksum is left out.
    pub unsummed: bool,
}

impl Build {
    fn new(source: &str, destination: &str, protocol: u8, body: Vec<u8>) -> Self {
        Self {
            source: address(source),
            destination: address(destination),
            protocol,
            body,
            hops: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            part: None,
            dont_fragment: false,
            unsummed: false,
        }
    }

    /// A TCP segment with these flags.
    #[must_use]
    pub fn tcp(source: &str, destination: &str, ports: (u16, u16), flags: u8) -> Self {
        let mut body = vec![0; 20];
        body[0..2].copy_from_slice(&ports.0.to_be_bytes());
        body[2..4].copy_from_slice(&ports.1.to_be_bytes());
        body[4..8].copy_from_slice(&[1, 2, 3, 4]);
        body[12] = 0x50;
        body[13] = flags;
        body[14] = 0x20;
        Self::new(source, destination, 6, body)
    }

    /// A UDP datagram with a payload of so many bytes.
    #[must_use]
    pub fn udp(source: &str, destination: &str, ports: (u16, u16), payload: usize) -> Self {
        let mut body = vec![0; 8];
        body[0..2].copy_from_slice(&ports.0.to_be_bytes());
        body[2..4].copy_from_slice(&ports.1.to_be_bytes());
        body[4..6].copy_from_slice(&(8 + payload as u16).to_be_bytes());
        body.extend((0..payload).map(|n| n as u8));
        Self::new(source, destination, 17, body)
    }

    /// An ICMP message of the addresses' family: type, code, the word after
    /// the checksum, and what follows.
    #[must_use]
    pub fn icmp(source: &str, destination: &str, head: (u8, u8, u32), rest: &[u8]) -> Self {
        let mut body = vec![head.0, head.1, 0, 0];
        body.extend(head.2.to_be_bytes());
        body.extend(rest);
        let protocol = if address(source).is_ipv4() { 1 } else { 58 };
        Self::new(source, destination, protocol, body)
    }

    /// An echo request.
    #[must_use]
    pub fn ping(source: &str, destination: &str, id: u16) -> Self {
        let kind = if address(source).is_ipv4() { 8 } else { 128 };
        Self::icmp(
            source,
            destination,
            (kind, 0, u32::from(id) << 16 | 1),
            &[1, 2, 3, 4],
        )
    }

    /// An echo reply.
    #[must_use]
    pub fn pong(source: &str, destination: &str, id: u16) -> Self {
        let kind = if address(source).is_ipv4() { 0 } else { 129 };
        Self::icmp(
            source,
            destination,
            (kind, 0, u32::from(id) << 16 | 1),
            &[1, 2, 3, 4],
        )
    }

    /// The ICMP error "port unreachable" about a frame.
    #[must_use]
    pub fn unreachable(source: &str, destination: &str, about: &[u8]) -> Self {
        let quote = &about[14..about.len().min(14 + 128)];
        let head = if address(source).is_ipv4() {
            (3, 3, 0)
        } else {
            (1, 4, 0)
        };
        Self::icmp(source, destination, head, quote)
    }

    /// With so many hops left.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// With a hop less.
    #[must_use]
    pub fn hop(mut self) -> Self {
        self.hops -= 1;
        self
    }

    /// Of a datagram: without a checksum (IPv4).
    #[must_use]
    pub fn unsummed(mut self) -> Self {
        self.unsummed = true;
        self
    }

    /// With IPv4 options, or for IPv6 a destination-options header of the same
    /// bytes.
    #[must_use]
    pub fn options(mut self, bytes: &[u8]) -> Self {
        if self.source.is_ipv4() {
            self.options = bytes.to_vec();
        } else {
            let mut header = vec![((bytes.len() + 2) / 8) as u8];
            header.extend(bytes);
            while (header.len() + 1) % 8 != 0 {
                header.push(0);
            }
            header[0] = (header.len() / 8) as u8;
            self.extensions.push((60, header));
        }
        self
    }

    /// Only the part of the datagram from `from` to `to`, counted from its
    /// transport header.
    #[must_use]
    pub fn part(mut self, id: u16, from: usize, to: usize) -> Self {
        self.part = Some((id, from, to));
        self
    }

    /// With the don't-fragment flag (IPv4).
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, 0x01];
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                self.v4(&mut frame, source.octets(), destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                self.v6(&mut frame, source.octets(), destination.octets());
            }
            _ => panic!("the addresses are of two families"),
        }
        frame
    }

    /// The body with its checksum, of which the part is sent.
    fn summed(&self, addresses: &[u8]) -> Vec<u8> {
        let mut body = self.body.clone();
        if self.unsummed {
            return body;
        }
        let len = (body.len() as u32).to_be_bytes();
        let pseudo = [addresses, &len, &[0, 0, 0, self.protocol]].concat();
        let (at, sum) = match self.protocol {
            6 => (16, sum(&[&pseudo, &body])),
            17 => (6, sum(&[&pseudo, &body])),
            58 => (2, sum(&[&pseudo, &body])),
            1 => (2, sum(&[&body])),
            _ => return body,
        };
        let sum = if sum == 0 && self.protocol == 17 {
            0xffff
        } else {
            sum
        };
        if let Some(field) = body.get_mut(at..at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        body
    }

    fn v4(&self, frame: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4]) {
        let body = self.summed(&[source, destination].concat());
        let (id, from, to) = self.part.unwrap_or((0, 0, body.len()));
        let more = to < body.len();
        let header_len = 20 + self.options.len();
        let mut fragment = (from / 8) as u16 | u16::from(more) << 13;
        if self.dont_fragment {
            fragment |= 0x4000;
        }
        let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
        ip.extend(((header_len + to - from) as u16).to_be_bytes());
        ip.extend(id.to_be_bytes());
        ip.extend(fragment.to_be_bytes());
        ip.extend([self.hops, self.protocol, 0, 0]);
        ip.extend(source);
        ip.extend(destination);
        ip.extend(&self.options);
        let header_sum = sum(&[&ip]).to_be_bytes();
        ip[10..12].copy_from_slice(&header_sum);
        frame.extend(ip);
        frame.extend(&body[from..to]);
    }

    fn v6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        let body = self.summed(&[source, destination].concat());
        let (id, from, to) = self.part.unwrap_or((0, 0, body.len()));
        let mut headers = self.extensions.clone();
        if self.part.is_some() {
            let word = (from / 8 * 8) as u16 | u16::from(to < body.len());
            let mut header = vec![0];
            header.extend(word.to_be_bytes());
            header.extend(u32::from(id).to_be_bytes());
            headers.push((44, header));
        }
        let mut payload = Vec::new();
        for (n, (_, bytes)) in headers.iter().enumerate() {
            payload.push(headers.get(n + 1).map_or(self.protocol, |(kind, _)| *kind));
            payload.extend(bytes);
        }
        payload.extend(&body[from..to]);
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.push(headers.first().map_or(self.protocol, |(kind, _)| *kind));
        frame.push(self.hops);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(payload);
    }
}

fn address(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address"))
}

/// An ARP request of an endpoint.
#[must_use]
pub fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([
        2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1,
    ]);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// A neighbour solicitation of an endpoint.
#[must_use]
pub fn neighbour_solicitation(source: &str, target: &str) -> Vec<u8> {
    let IpAddr::V6(wanted) = address(target) else {
        panic!("{target} is not IPv6")
    };
    let mut rest = wanted.octets().to_vec();
    rest.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    Build::icmp(source, "ff02::1:ff00:1", (135, 0, 0), &rest)
        .hops(255)
        .frame()
}
