//! Ports and protocols as the kernel's look-up knows them: prefixes.

use axon_abi::{Be16, PolicyKey};
use axon_model::{PortMatch, PortRule, Ports, Protocol};

/// Bits of a port (or ICMP type).
const PORT_BITS: u8 = 16;

/// One port prefix of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct L4 {
    /// IP protocol number; 0 is any.
    pub(crate) protocol: u8,
    /// Port, bits beyond the prefix zero.
    pub(crate) port: u16,
    /// Bits of the port that count.
    pub(crate) bits: u8,
}

impl L4 {
    /// Every protocol and port.
    pub(crate) const ANY: Self = Self {
        protocol: 0,
        port: 0,
        bits: 0,
    };

    /// The entry's key but for set and class.
    pub(crate) fn key(self, direction: u8) -> PolicyKey {
        PolicyKey {
            set: 0,
            class: 0,
            port: Be16::new(self.port),
            protocol: self.protocol,
            direction_prefix: direction | self.bits,
        }
    }

    /// Whether a port of a protocol is among those it stands for.
    pub(crate) fn covers(self, protocol: u8, port: u16) -> bool {
        let mask = u32::from(u16::MAX) << (u32::from(PORT_BITS) - u32::from(self.bits));
        // The mask's upper half shifts out.
        (self.protocol == 0 || self.protocol == protocol) && port & (mask as u16) == self.port
    }

    /// Itself and everything that stands for more: shorter prefixes of its
    /// protocol, and every protocol.
    pub(crate) fn around(self) -> impl Iterator<Item = Self> {
        let bits = if self.protocol == 0 { 0 } else { self.bits + 1 };
        let shorter = (0..bits).map(move |bits| {
            let mask = u32::from(u16::MAX) << (u32::from(PORT_BITS) - u32::from(bits));
            Self {
                // The mask's upper half shifts out.
                port: self.port & (mask as u16),
                bits,
                ..self
            }
        });
        shorter.chain([Self::ANY])
    }

    /// Between which, in order, all are that it stands for.
    pub(crate) fn span(self) -> std::ops::RangeInclusive<Self> {
        let others = u16::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0);
        let (protocol, port) = match self.protocol {
            0 => (u8::MAX, u16::MAX),
            protocol => (protocol, self.port | others),
        };
        let last = Self {
            protocol,
            port,
            bits: PORT_BITS,
        };
        Self { bits: 0, ..self }..=last
    }

    /// Whether it stands for all that another one stands for.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.covers(other.protocol, other.port) && self.bits <= other.bits
    }

    /// How specific it is, for telling which of several entries decided: any,
    /// a protocol, ever longer prefixes.
    pub(crate) fn specificity(self) -> u32 {
        match self.protocol {
            0 => 0,
            _ => 1 + u32::from(self.bits),
        }
    }
}

/// What a port rule asks for, names not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortTerm {
    /// These prefixes.
    Prefixes(Vec<L4>),
    /// The port declared under this name for this protocol.
    Named(String, Protocol),
}

/// The terms of an entry's ports.
pub(crate) fn terms(ports: &Ports) -> Vec<PortTerm> {
    match ports {
        Ports::Any => vec![PortTerm::Prefixes(vec![L4::ANY])],
        Ports::List(rules) => rules.iter().flat_map(terms_of_rule).collect(),
    }
}

fn terms_of_rule(rule: &PortRule) -> Vec<PortTerm> {
    let any = rule.protocol == Protocol::ANY;
    let protocols: &[Protocol] = if any && rule.port != PortMatch::Any {
        &Protocol::WITH_PORTS
    } else {
        std::slice::from_ref(&rule.protocol)
    };
    let each = |protocol: &Protocol| match &rule.port {
        PortMatch::Any => PortTerm::Prefixes(vec![L4 {
            protocol: protocol.0,
            ..L4::ANY
        }]),
        PortMatch::Range(first, last) => {
            PortTerm::Prefixes(range_prefixes(protocol.0, *first, *last))
        }
        PortMatch::Named(name) => PortTerm::Named(name.clone(), *protocol),
    };
    protocols.iter().map(each).collect()
}

/// The fewest prefixes that cover exactly the ports from `first` to `last`;
/// none if `last` is less.
pub(crate) fn range_prefixes(protocol: u8, first: u16, last: u16) -> Vec<L4> {
    let mut prefixes = Vec::new();
    let end = u32::from(last) + 1;
    let mut port = u32::from(first);
    while port < end {
        // The largest block that begins here and does not reach beyond.
        let aligned = port.trailing_zeros().min(u32::from(PORT_BITS));
        let fits = (end - port).ilog2();
        let block_bits = aligned.min(fits);
        prefixes.push(L4 {
            protocol,
            // Both are below 2^16: `port` < `end` ≤ 2^16.
            port: port as u16,
            bits: PORT_BITS - block_bits as u8,
        });
        port += 1 << block_bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use axon_model::{PortMatch, PortRule, Ports, Protocol};
    use proptest::prelude::*;

    use super::{L4, PortTerm, range_prefixes, terms};

    fn covers(l4: &L4, port: u16) -> bool {
        let mask = if l4.bits == 0 {
            0
        } else {
            u16::MAX << (16 - l4.bits)
        };
        port & mask == l4.port
    }

    /// The fewest aligned blocks for a range, by splitting the whole space.
    fn fewest(first: u32, last: u32, low: u32, size: u32) -> usize {
        let high = low + size - 1;
        if last < low || high < first {
            0
        } else if first <= low && high <= last {
            1
        } else {
            fewest(first, last, low, size / 2) + fewest(first, last, low + size / 2, size / 2)
        }
    }

    #[test]
    fn ranges_known_by_hand() {
        for (first, last, expected) in [
            (80, 80, vec![(80, 16)]),
            (0, 65535, vec![(0, 0)]),
            (
                1024,
                65535,
                vec![
                    (1024, 6),
                    (2048, 5),
                    (4096, 4),
                    (8192, 3),
                    (16384, 2),
                    (32768, 1),
                ],
            ),
            (80, 83, vec![(80, 14)]),
            (81, 83, vec![(81, 16), (82, 15)]),
            (5, 4, vec![]),
        ] {
            let got: Vec<_> = range_prefixes(6, first, last)
                .iter()
                .map(|l4| (l4.port, l4.bits))
                .collect();
            assert_eq!(got, expected, "{first}-{last}");
        }
    }

    proptest! {
        #[test]
        fn ranges_are_covered_exactly_and_minimally(a: u16, b: u16, probes: [u16; 32]) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = range_prefixes(6, first, last);
            let edges = [first, last, first.saturating_sub(1), last.saturating_add(1)];
            for port in probes.into_iter().chain(edges) {
                let hits = prefixes.iter().filter(|l4| covers(l4, port)).count();
                prop_assert_eq!(hits, usize::from((first..=last).contains(&port)), "{}", port);
            }
            prop_assert_eq!(prefixes.len(), fewest(first.into(), last.into(), 0, 65536));
        }
    }

    #[test]
    fn any_protocol_with_a_port_is_the_three_with_ports() {
        let rule = |protocol, port| Ports::List(vec![PortRule { protocol, port }]);
        let protocols = |ports: &Ports| -> Vec<u8> {
            terms(ports)
                .iter()
                .flat_map(|t| match t {
                    PortTerm::Prefixes(l4) => l4.iter().map(|l| l.protocol).collect(),
                    PortTerm::Named(_, protocol) => vec![protocol.0],
                })
                .collect()
        };
        for (name, ports, expected) in [
            ("any", Ports::Any, vec![0]),
            (
                "any, any port",
                rule(Protocol::ANY, PortMatch::Any),
                vec![0],
            ),
            (
                "any, a port",
                rule(Protocol::ANY, PortMatch::Range(53, 53)),
                vec![6, 17, 132],
            ),
            (
                "any, a name",
                rule(Protocol::ANY, PortMatch::Named("dns".into())),
                vec![6, 17, 132],
            ),
            ("udp", rule(Protocol::UDP, PortMatch::Any), vec![17]),
            (
                "icmp echo",
                rule(Protocol::ICMP, PortMatch::Range(8, 8)),
                vec![1],
            ),
            ("nothing", Ports::List(vec![]), vec![]),
        ] {
            assert_eq!(protocols(&ports), expected, "{name}");
        }
    }
}
