//! Which ports are told apart.

use std::collections::{BTreeMap, BTreeSet};

use axon_model::{PolicyObject, PortMatch, Ports, Protocol};

/// Protocols that are always asked about.
const PROTOCOLS: [Protocol; 5] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::SCTP,
    Protocol::ICMP,
    Protocol::ICMPV6,
];

/// Ports of one protocol of which all rules say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// First and last; `None`: all that no rule names.
    pub(crate) named: Option<(u16, u16)>,
    /// One of them.
    pub(crate) port: u16,
}

/// The ports that these policies tell apart, given the numbers of named ports.
pub(crate) fn spans<'a>(
    policies: impl Iterator<Item = &'a PolicyObject>,
    numbers: &BTreeMap<&str, BTreeSet<u16>>,
) -> Vec<Span> {
    let mut ranges: BTreeMap<Protocol, BTreeSet<(u16, u16)>> =
        PROTOCOLS.map(|protocol| (protocol, BTreeSet::new())).into();
    let entries = policies
        .flat_map(|policy| &policy.rules)
        .flat_map(|rule| &rule.entries);
    for entry in entries {
        let Ports::List(list) = &entry.ports else {
            continue;
        };
        for rule in list {
            let of: &[Protocol] = match rule.protocol {
                Protocol::ANY => &PROTOCOLS[..3],
                _ => &[rule.protocol],
            };
            let meant: Vec<(u16, u16)> = match &rule.port {
                PortMatch::Any => Vec::new(),
                PortMatch::Range(first, last) => vec![(*first, *last)],
                PortMatch::Named(name) => {
                    let numbers = numbers.get(name.as_str()).into_iter().flatten();
                    numbers.map(|port| (*port, *port)).collect()
                }
            };
            for protocol in of {
                ranges.entry(*protocol).or_default().extend(meant.clone());
            }
        }
    }
    let told = ranges.iter();
    told.flat_map(|(protocol, ranges)| told_apart(*protocol, ranges))
        .collect()
}

fn told_apart(protocol: Protocol, ranges: &BTreeSet<(u16, u16)>) -> Vec<Span> {
    let firsts = ranges.iter().map(|(first, _)| u32::from(*first));
    let ends = ranges.iter().map(|(_, last)| u32::from(*last) + 1);
    let limits = [0, 1 << 16];
    let cuts: BTreeSet<u32> = firsts.chain(ends).chain(limits).collect();
    let mut spans = Vec::new();
    let mut other = None;
    for (first, end) in cuts.iter().zip(cuts.iter().skip(1)) {
        let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(end - 1)) else {
            continue;
        };
        if ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&first))
        {
            spans.push(Span {
                protocol,
                named: Some((first, last)),
                port: first,
            });
        } else {
            other = Some(last);
        }
    }
    spans.extend(other.map(|port| Span {
        protocol,
        named: None,
        port,
    }));
    spans
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axon_model::Protocol;

    #[test]
    fn ports_are_told_apart_where_rules_begin_and_end() {
        type Named = Option<(u16, u16)>;
        type Case<'a> = (&'a [(u16, u16)], &'a [Named]);
        let cases: [Case<'_>; 5] = [
            (&[], &[None]),
            (&[(80, 80)], &[Some((80, 80)), None]),
            (
                &[(80, 90), (85, 85)],
                &[Some((80, 84)), Some((85, 85)), Some((86, 90)), None],
            ),
            (&[(0, 65535)], &[Some((0, 65535))]),
            (&[(1, 65535)], &[Some((1, 65535)), None]),
        ];
        for (ranges, expected) in cases {
            let ranges: BTreeSet<(u16, u16)> = ranges.iter().copied().collect();
            let spans = super::told_apart(Protocol::TCP, &ranges);
            let named: Vec<Named> = spans.iter().map(|span| span.named).collect();
            assert_eq!(named, expected, "{ranges:?}");
            for span in spans {
                let inside = |(low, high): &(u16, u16)| (*low..=*high).contains(&span.port);
                assert_eq!(ranges.iter().any(inside), span.named.is_some(), "{span:?}");
            }
        }
    }
}
