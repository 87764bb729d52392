//! What the rows of a set say of a packet: a twin of the datapath's look-up.

use std::collections::{BTreeMap, BTreeSet};

use crate::PolicyRows;
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
            Verdict::Denied { rule } => Verdict::Denied { rule },
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
    fn allows(&self, class: Option<u32>, (direction, protocol, port): Point) -> bool {
        let verdict = match class {
            Some(class) => self.of_class(direction, class, protocol, port),
            None => self.of_unknown(direction, protocol, port),
        };
        verdict.is_allowed()
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
    let both = SideBySide::new(one, Some(other));
    let known = identities.map(|id| Some(both.classes_of(id)));
    let pairs: BTreeSet<Option<(u32, u32)>> = known.chain([None]).collect();
    both.points().all(|point| {
        pairs.iter().all(|pair| {
            let (a, b) = pair.unzip();
            !both.one.allows(a, point) || both.other_allows(b, point)
        })
    })
}

/// Whom a set that is in force may be asked about although it is not, or not
/// yet, as it shall be. What was asked once is known.
#[derive(Debug)]
pub struct Newcomers {
    sets: SideBySide,
    told: BTreeMap<(u32, u32), bool>,
}

impl Newcomers {
    /// What is in force, and what shall be; nothing is allowed by `None`.
    pub fn new(in_force: &PolicyRows, wanted: Option<&PolicyRows>) -> Self {
        Self {
            sets: SideBySide::new(in_force, wanted),
            told: BTreeMap::new(),
        }
    }

    /// Whether an identity may become known: whatever is allowed then it is
    /// allowed as nobody, or it shall be allowed.
    pub fn may_come(&mut self, id: Identity) -> bool {
        let sets = &self.sets;
        let (a, b) = sets.classes_of(id);
        *self.told.entry((a, b)).or_insert_with(|| {
            sets.points().all(|point| {
                !sets.one.allows(Some(a), point)
                    || sets.one.allows(None, point)
                    || sets.other_allows(Some(b), point)
            })
        })
    }
}

/// A direction, a protocol, and a port.
type Point = (Direction, u8, u16);

/// Two sets, and where the verdicts of either may change.
#[derive(Debug)]
struct SideBySide {
    one: Lookup,
    /// `None` allows nothing.
    other: Option<Lookup>,
    ports: BTreeSet<(u8, u16)>,
}

impl SideBySide {
    fn new(one: &PolicyRows, other: Option<&PolicyRows>) -> Self {
        let (one, other) = (Lookup::new(one), other.map(Lookup::new));
        // 255 is reserved: no entry names it, so it stands for every protocol
        // that none names.
        let ports = one
            .breakpoints()
            .chain(other.iter().flat_map(Lookup::breakpoints))
            .chain([(255, 0)])
            .collect();
        Self { one, other, ports }
    }

    fn points(&self) -> impl Iterator<Item = Point> {
        [Direction::Ingress, Direction::Egress]
            .into_iter()
            .flat_map(|direction| {
                self.ports
                    .iter()
                    .map(move |(p, port)| (direction, *p, *port))
            })
    }

    fn classes_of(&self, id: Identity) -> (u32, u32) {
        let other = self.other.as_ref();
        let other = other.map_or(class::ANY, |other| other.class_of(id));
        (self.one.class_of(id), other)
    }

    fn other_allows(&self, class: Option<u32>, point: Point) -> bool {
        let other = self.other.as_ref();
        other.is_some_and(|other| other.allows(class, point))
    }
}

/// Whether no packet of anybody may pass, told without a look at anybody.
fn allows_nothing(rows: &PolicyRows) -> bool {
    let both = PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;
    rows.set.flags & both == both && rows.entries.is_empty()
}

#[cfg(test)]
mod tests {
    use axon_abi::{
        Be16, ClassKey, ClassRow, Identity, PolicyEntry, PolicyEntryFlags, PolicyKey,
        PolicySetFlags, class,
    };

    use super::Newcomers;
    use crate::PolicyRows;

    /// Somebody of the cluster, in class 16 where a set tells him apart.
    const GUEST: Identity = Identity(2000);

    /// A set of entries (class, port, deny); closed if it denies by default.
    fn set(closed: bool, tells: bool, entries: &[(u32, u16, bool)]) -> PolicyRows {
        let mut rows = PolicyRows::default();
        rows.set.ingress_prefixes = if entries.is_empty() { 0 } else { 1 << 16 };
        rows.set.flags = if closed {
            PolicySetFlags::DEFAULT_DENY_INGRESS
        } else {
            0
        };
        if tells {
            let key = ClassKey {
                set: 1,
                identity: GUEST,
            };
            rows.classes.insert(key, ClassRow { class: 16 });
        }
        for (class, port, deny) in entries {
            let key = PolicyKey {
                set: 1,
                class: *class,
                port: Be16::new(*port),
                protocol: 6,
                direction_prefix: 16,
            };
            let entry = PolicyEntry {
                precedence: if *deny { 2 } else { 1 },
                flags: u16::from(*deny) * PolicyEntryFlags::DENY,
                ..PolicyEntry::default()
            };
            rows.entries.insert(key, entry);
        }
        rows
    }

    #[test]
    fn who_would_be_allowed_too_much_may_not_come() {
        let pods = class::default_of(GUEST.scope());
        let (open, closed) = (false, true);
        let of_pods = set(closed, false, &[(pods, 80, false)]);
        let denied = set(closed, true, &[(pods, 80, false), (16, 80, true)]);
        let wider = set(closed, true, &[(pods, 80, false), (16, 443, false)]);
        let nothing = set(closed, false, &[]);
        let everything = set(open, false, &[]);
        let all_but_one = set(open, true, &[(16, 80, true)]);
        let untold = set(open, false, &[(16, 80, true)]);
        for (what, in_force, wanted, expected) in [
            (
                "what all pods may is denied him",
                &of_pods,
                Some(&denied),
                false,
            ),
            ("what all pods may, and more", &wider, Some(&wider), true),
            ("nothing of what he may", &nothing, Some(&wider), true),
            (
                "of all pods' in his own class nothing",
                &of_pods,
                Some(&wider),
                false,
            ),
            ("nobody may anything", &nothing, None, true),
            (
                "the endpoint is to go, and all pods may",
                &of_pods,
                None,
                false,
            ),
            (
                "nobody is denied anything",
                &everything,
                Some(&denied),
                true,
            ),
            (
                "nobody is denied, somebody not yet",
                &untold,
                Some(&all_but_one),
                false,
            ),
            ("he is told apart", &all_but_one, Some(&all_but_one), true),
        ] {
            let mut newcomers = Newcomers::new(in_force, wanted);
            assert_eq!(newcomers.may_come(GUEST), expected, "{what}");
            assert_eq!(newcomers.may_come(GUEST), expected, "{what}, again");
        }
    }
}
