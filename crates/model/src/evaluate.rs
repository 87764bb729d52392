//! What the rows of a set say of a packet: a twin of the datapath's look-up.

use std::collections::BTreeMap;

use crate::{Auth, PolicyRows};
use axon_abi::{
    Be16, ClassKey, Direction, Identity, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetFlags,
    class,
};

/// What a set says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An entry of this rule allows it.
    Allowed {
        /// Number of the rule.
        rule: u32,
    },
    /// An entry of this rule denies it.
    Denied {
        /// Number of the rule.
        rule: u32,
    },
    /// An entry of this rule has the proxy ask what is said. Where no proxy
    /// listens it is dropped.
    Redirected {
        /// Number of the rule.
        rule: u32,
    },
    /// An entry of this rule allows it to who has proved who he is. Nobody has: it
    /// is dropped.
    Unproved {
        /// Number of the rule.
        rule: u32,
        /// What is demanded.
        auth: Auth,
    },
    /// No entry speaks of it, and the direction is not enforced.
    AllowedByDefault,
    /// No entry speaks of it, and the direction is enforced.
    DeniedByDefault,
}

impl Verdict {
    /// Whether the packet may pass.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed { .. } | Self::AllowedByDefault)
    }
}

/// A direction, a protocol, and a port.
pub(crate) type Point = (Direction, u8, u16);

/// A packet as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Seen from the endpoint.
    pub direction: Direction,
    /// The far side, a known identity.
    pub remote: Identity,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or the type of an ICMP message.
    pub port: u16,
}

/// The rows of a set, indexed as the kernel's maps are.
#[derive(Debug)]
pub struct Lookup {
    set: axon_abi::PolicySetRow,
    classes: BTreeMap<Identity, u32>,
    entries: BTreeMap<PolicyKey, PolicyEntry>,
}

impl Lookup {
    /// Indexes the rows of a set.
    pub fn new(rows: &PolicyRows) -> Self {
        let class = |(key, row): (&ClassKey, &axon_abi::ClassRow)| (key.identity, row.class);
        Self {
            set: rows.set,
            classes: rows.classes.iter().map(class).collect(),
            entries: rows
                .entries
                .iter()
                .map(|(key, entry)| (PolicyKey { set: 0, ..*key }, *entry))
                .collect(),
        }
    }

    /// The class of a known identity.
    pub fn class_of(&self, id: Identity) -> u32 {
        let of_scope = class::default_of(id.scope());
        self.classes.get(&id).copied().unwrap_or(of_scope)
    }

    /// The verdict on a packet of a class.
    pub fn of_class(&self, direction: Direction, class: u32, protocol: u8, port: u16) -> Verdict {
        let default_deny = match direction {
            Direction::Egress => PolicySetFlags::DEFAULT_DENY_EGRESS,
            Direction::Ingress | Direction::Unknown => PolicySetFlags::DEFAULT_DENY_INGRESS,
        };
        match self.best(direction, class, protocol, port) {
            Some(entry) if entry.flags & PolicyEntryFlags::DEFAULT != 0 => {
                match entry.flags & PolicyEntryFlags::DENY {
                    0 => Verdict::AllowedByDefault,
                    _ => Verdict::DeniedByDefault,
                }
            }
            Some(entry) if Auth::of_flags(entry.flags).demands() => Verdict::Unproved {
                rule: entry.rule,
                auth: Auth::of_flags(entry.flags),
            },
            Some(entry) if entry.flags & PolicyEntryFlags::REDIRECT != 0 => {
                Verdict::Redirected { rule: entry.rule }
            }
            Some(entry) if entry.flags & PolicyEntryFlags::DENY != 0 => {
                Verdict::Denied { rule: entry.rule }
            }
            Some(entry) => Verdict::Allowed { rule: entry.rule },
            None if self.set.flags & default_deny != 0 => Verdict::DeniedByDefault,
            None => Verdict::AllowedByDefault,
        }
    }

    /// The entry that decides on a packet of a class, if one does.
    fn best(
        &self,
        direction: Direction,
        class: u32,
        protocol: u8,
        port: u16,
    ) -> Option<&PolicyEntry> {
        let (bit, prefixes) = match direction {
            Direction::Egress => (PolicyKey::EGRESS, self.set.egress_prefixes),
            Direction::Ingress | Direction::Unknown => {
                (PolicyKey::INGRESS, self.set.ingress_prefixes)
            }
        };
        let probe = |class: u32, protocol: u8, bits: u8| {
            let mask = u32::from(u16::MAX) << (16 - bits);
            self.entries.get(&PolicyKey {
                set: 0,
                class,
                // The mask's upper half shifts out.
                port: Be16::new(port & (mask as u16)),
                protocol,
                direction_prefix: bit | bits,
            })
        };
        // As in the kernel, which trusts the row.
        let no_anyone = match direction {
            Direction::Egress => PolicySetFlags::NO_ANYONE_PORTS_EGRESS,
            Direction::Ingress | Direction::Unknown => PolicySetFlags::NO_ANYONE_PORTS_INGRESS,
        };
        let anyone = self.set.flags & no_anyone == 0;
        let of_protocol = (0..=16)
            .filter(|bits| prefixes & (1 << bits) != 0)
            .flat_map(|bits| {
                let of_anyone = (anyone || bits == 0).then_some(class::ANY);
                [Some(class), of_anyone].map(|class| probe(class?, protocol, bits))
            });
        // As in the kernel: "any protocol" is asked only if some entry has no
        // port prefix.
        let wildcards = [class, class::ANY].map(|class| {
            let key = PolicyKey {
                class,
                direction_prefix: bit,
                ..PolicyKey::default()
            };
            self.entries.get(&key).filter(|_| prefixes & 1 != 0)
        });
        of_protocol
            .chain(wildcards)
            .flatten()
            .max_by_key(|entry| entry.precedence)
    }

    /// The verdict on a packet of nobody known: no allow is for it but what is
    /// never denied to the node, and where a direction has entries none of which it
    /// matches, it is denied.
    pub fn of_unknown(&self, direction: Direction, protocol: u8, port: u16) -> Verdict {
        let prefixes = match direction {
            Direction::Egress => self.set.egress_prefixes,
            Direction::Ingress | Direction::Unknown => self.set.ingress_prefixes,
        };
        let best = self.best(direction, class::ANY, protocol, port);
        let never_denied = |e: &PolicyEntry| e.flags & PolicyEntryFlags::UNKNOWN_TOO != 0;
        if let Some(entry) = best.filter(|entry| never_denied(entry)) {
            return Verdict::Allowed { rule: entry.rule };
        }
        match self.of_class(direction, class::ANY, protocol, port) {
            said @ (Verdict::Denied { .. } | Verdict::Unproved { .. }) => said,
            // With entries, one that stands for the default counts as little as any
            // that allows.
            Verdict::AllowedByDefault if prefixes == 0 => Verdict::AllowedByDefault,
            Verdict::Allowed { .. }
            | Verdict::Redirected { .. }
            | Verdict::AllowedByDefault
            | Verdict::DeniedByDefault => Verdict::DeniedByDefault,
        }
    }

    /// The verdict on a packet.
    pub fn verdict(&self, packet: Packet) -> Verdict {
        let class = self.class_of(packet.remote);
        self.of_class(packet.direction, class, packet.protocol, packet.port)
    }

    /// Whether packets of a class pass, or those of nobody known (`None`).
    pub(crate) fn allows(&self, class: Option<u32>, (direction, protocol, port): Point) -> bool {
        let verdict = match class {
            Some(class) => self.of_class(direction, class, protocol, port),
            None => self.of_unknown(direction, protocol, port),
        };
        verdict.is_allowed()
    }

    /// What is said of a class and not of anyone, in order.
    pub(crate) fn own(&self, class: u32) -> impl Iterator<Item = &PolicyKey> {
        let first = PolicyKey {
            class,
            ..PolicyKey::default()
        };
        let last = PolicyKey {
            port: Be16::new(u16::MAX),
            protocol: u8::MAX,
            direction_prefix: u8::MAX,
            ..first
        };
        self.entries.range(first..=last).map(|(key, _)| key)
    }
}

/// The verdict of a set's rows on a packet to or from a *known* identity.
/// `port` is the destination port, or the type of an ICMP message.
pub fn evaluate(
    rows: &PolicyRows,
    direction: Direction,
    remote: Identity,
    protocol: u8,
    port: u16,
) -> Verdict {
    Lookup::new(rows).verdict(Packet {
        direction,
        remote,
        protocol,
        port,
    })
}
