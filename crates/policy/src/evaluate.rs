//! What the rows of a set say of a packet: a twin of the datapath's look-up.

use std::collections::BTreeMap;

use axon_abi::{
    Be16, ClassKey, Direction, Identity, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetFlags,
    class,
};
use axon_model::PolicyRows;

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
        let (bit, prefixes, default_deny) = match direction {
            Direction::Egress => (
                PolicyKey::EGRESS,
                self.set.egress_prefixes,
                PolicySetFlags::DEFAULT_DENY_EGRESS,
            ),
            Direction::Ingress | Direction::Unknown => (
                PolicyKey::INGRESS,
                self.set.ingress_prefixes,
                PolicySetFlags::DEFAULT_DENY_INGRESS,
            ),
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
        let of_protocol = (0..=16)
            .filter(|bits| prefixes & (1 << bits) != 0)
            .flat_map(|bits| {
                [
                    probe(class, protocol, bits),
                    probe(class::ANY, protocol, bits),
                ]
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
        let best = of_protocol
            .chain(wildcards)
            .flatten()
            .max_by_key(|entry| entry.precedence);
        match best {
            Some(entry) if entry.flags & PolicyEntryFlags::DENY != 0 => {
                Verdict::Denied { rule: entry.rule }
            }
            Some(entry) => Verdict::Allowed { rule: entry.rule },
            None if self.set.flags & default_deny != 0 => Verdict::DeniedByDefault,
            None => Verdict::AllowedByDefault,
        }
    }

    /// The verdict on a packet of nobody known: no allow is for it, and where a
    /// direction has entries none of which it matches, it is denied.
    pub fn of_unknown(&self, direction: Direction, protocol: u8, port: u16) -> Verdict {
        let prefixes = match direction {
            Direction::Egress => self.set.egress_prefixes,
            Direction::Ingress | Direction::Unknown => self.set.ingress_prefixes,
        };
        match self.of_class(direction, class::ANY, protocol, port) {
            Verdict::Denied { rule } => Verdict::Denied { rule },
            Verdict::AllowedByDefault if prefixes == 0 => Verdict::AllowedByDefault,
            Verdict::Allowed { .. } | Verdict::AllowedByDefault | Verdict::DeniedByDefault => {
                Verdict::DeniedByDefault
            }
        }
    }

    /// The verdict on a packet.
    pub fn verdict(&self, packet: Packet) -> Verdict {
        let class = self.class_of(packet.remote);
        self.of_class(packet.direction, class, packet.protocol, packet.port)
    }

    /// Where verdicts may change: protocols named, each with the first ports
    /// of its prefixes and the ports after their last.
    fn breakpoints(&self) -> impl Iterator<Item = (u8, u16)> {
        self.entries.keys().flat_map(|key| {
            let bits = key.direction_prefix & PolicyKey::PREFIX_MASK;
            let first = key.port.get();
            let after = (u32::from(first) + (1 << (16 - bits.min(16)))).min(65535);
            [
                (key.protocol, 0),
                (key.protocol, first),
                (key.protocol, after as u16),
            ]
        })
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

/// Whether one set allows nothing that another denies, to any of these
/// identities or to nobody known, on any protocol and port.
///
/// Who is not known does not follow from who is: a set that allows everybody
/// who is known denies nobody's packets, and one without any entry allows them.
/// An identity that comes later is asked about when it comes, before any address
/// is its own.
pub fn at_least_as_strict(
    one: &PolicyRows,
    other: &PolicyRows,
    identities: impl Iterator<Item = Identity>,
) -> bool {
    if allows_nothing(one) {
        // Whoever there is: endpoints that are locked down wait for room so.
        return true;
    }
    let (one, other) = (Lookup::new(one), Lookup::new(other));
    // 255 is reserved: no entry names it, so it stands for every protocol
    // that none names.
    let points: std::collections::BTreeSet<(u8, u16)> = one
        .breakpoints()
        .chain(other.breakpoints())
        .chain([(255, 0)])
        .collect();
    let known = identities.map(|id| Some((one.class_of(id), other.class_of(id))));
    let pairs: std::collections::BTreeSet<Option<(u32, u32)>> = known.chain([None]).collect();
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .all(|direction| {
            pairs.iter().all(|pair| {
                points.iter().all(|(protocol, port)| {
                    let allowed = |lookup: &Lookup, class: Option<u32>| {
                        let verdict = match class {
                            Some(class) => lookup.of_class(direction, class, *protocol, *port),
                            None => lookup.of_unknown(direction, *protocol, *port),
                        };
                        verdict.is_allowed()
                    };
                    let (a, b) = pair.unzip();
                    !allowed(&one, a) || allowed(&other, b)
                })
            })
        })
}

/// Whether no packet of anybody may pass, told without a look at anybody.
fn allows_nothing(rows: &PolicyRows) -> bool {
    let both = PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;
    rows.set.flags & both == both && rows.entries.is_empty()
}
