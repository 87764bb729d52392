//! Whether one set allows what another denies.
//!
//! ```text
//! said of anyone    ├────────────┤         ├────┤    where they begin and end the verdict on everybody
//! of a class alone      ├──┤                         may change; here, that on the class
//! ```
//!
//! Of two classes only that is looked at which is said of them alone, and inside of it what is
//! said of anyone; everywhere else their verdicts are anyone's, of which one look tells. So sets of
//! hundreds of thousands of entries take about as many looks. Rules can be made for which that does
//! not hold: after [`LOOKS_MAX`] looks the answer is the one by which less is allowed.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity, PolicyKey, PolicySetFlags, class};

use crate::PolicyRows;
use crate::evaluate::{Lookup, Point};

/// Points at which two sets are compared: some seconds.
const LOOKS_MAX: usize = 4_000_000;

/// Whether one set allows nothing that another denies, to any of these
/// identities or to nobody known, on any protocol and port; `false` also where
/// that is too much to find out.
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
    // Whoever there is: endpoints that are locked down wait for room so.
    allows_nothing(one) || compare(one, other, identities, &mut Looks::default())
}

fn compare(
    one: &PolicyRows,
    other: &PolicyRows,
    identities: impl Iterator<Item = Identity>,
    looks: &mut Looks,
) -> bool {
    let both = SideBySide::new(one, Some(other));
    let is_fine = |class: Option<(u32, u32)>, point: Point| {
        let (a, b) = class.unzip();
        !both.one.allows(a, point) || both.other_allows(b, point)
    };
    let pairs: BTreeSet<(u32, u32)> = identities.map(|id| both.classes_of(id)).collect();
    let suspects = both.suspects(|point| is_fine(Some(NO_CLASS), point));
    let mut anyones = both.anyones.iter();
    anyones.all(|point| looks.one_more() && is_fine(None, *point))
        && pairs.iter().all(|pair| {
            let mut points = both.points_of(*pair).chain(suspects.iter().copied());
            points.all(|point| looks.one_more() && is_fine(Some(*pair), point))
        })
}

/// Whom a set that is in force may be asked about although it is not, or not
/// yet, as it shall be. What was asked once is known.
#[derive(Debug)]
pub struct Newcomers {
    sets: SideBySide,
    suspects: Vec<Point>,
    told: BTreeMap<(u32, u32), bool>,
    looks: Looks,
}

impl Newcomers {
    /// What is in force, and what shall be; nothing is allowed by `None`.
    pub fn new(in_force: &PolicyRows, wanted: Option<&PolicyRows>) -> Self {
        let sets = SideBySide::new(in_force, wanted);
        Self {
            suspects: sets.suspects(|point| sets.may_be(NO_CLASS, point)),
            sets,
            told: BTreeMap::new(),
            looks: Looks::default(),
        }
    }

    /// Whether an identity may become known: whatever is allowed then it is
    /// allowed as nobody, or it shall be allowed. Where that is too much to find
    /// out, it may not.
    pub fn may_come(&mut self, id: Identity) -> bool {
        let Self {
            sets,
            suspects,
            told,
            looks,
        } = self;
        let pair = sets.classes_of(id);
        *told.entry(pair).or_insert_with(|| {
            let mut points = sets.points_of(pair).chain(suspects.iter().copied());
            points.all(|point| looks.one_more() && sets.may_be(pair, point))
        })
    }
}

/// How many more points may be looked at.
#[derive(Debug)]
struct Looks(usize);

impl Default for Looks {
    fn default() -> Self {
        Self(LOOKS_MAX)
    }
}

impl Looks {
    fn one_more(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or_default();
        left.is_some()
    }
}

/// Those of whom nothing is said that is not said of anyone.
const NO_CLASS: (u32, u32) = (class::ANY, class::ANY);

/// Two sets, and where the verdicts of either on anyone may change.
#[derive(Debug)]
struct SideBySide {
    one: Lookup,
    /// `None` allows nothing.
    other: Option<Lookup>,
    anyones: BTreeSet<Point>,
}

impl SideBySide {
    fn new(one: &PolicyRows, other: Option<&PolicyRows>) -> Self {
        let (one, other) = (Lookup::new(one), other.map(Lookup::new));
        let keys = other.iter().flat_map(|other| other.own(class::ANY));
        let points = one.own(class::ANY).chain(keys).flat_map(ends);
        // 255 is reserved: no entry names it, so it stands for every protocol
        // that none names.
        let nameless = [Direction::Ingress, Direction::Egress].map(|d| (d, 255, 0));
        let anyones = points.chain(nameless).collect();
        Self {
            one,
            other,
            anyones,
        }
    }

    /// The points at which anyone's verdicts are not fine.
    fn suspects(&self, is_fine: impl Fn(Point) -> bool) -> Vec<Point> {
        let points = self.anyones.iter().copied();
        points.filter(|point| !is_fine(*point)).collect()
    }

    /// The points at which the verdicts on two classes may not be anyone's.
    fn points_of(&self, (a, b): (u32, u32)) -> impl Iterator<Item = Point> {
        let other = self.other.iter().flat_map(move |other| other.own(b));
        let keys = self.one.own(a).chain(other);
        keys.flat_map(move |key| ends(key).into_iter().chain(self.anyones_within(key)))
    }

    /// Where anyone's verdicts may change among what an entry speaks of.
    fn anyones_within(&self, key: &PolicyKey) -> impl Iterator<Item = Point> {
        let (direction, first, last) = (direction_of(key), key.port.get(), last_port(key));
        let span = match key.protocol {
            0 => (direction, 0, 0)..=(direction, u8::MAX, u16::MAX),
            protocol => (direction, protocol, first)..=(direction, protocol, last),
        };
        self.anyones.range(span).copied()
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

    /// Whether somebody who becomes known is allowed nothing at a point that he
    /// was not allowed as nobody, and shall not be.
    fn may_be(&self, (a, b): (u32, u32), point: Point) -> bool {
        !self.one.allows(Some(a), point)
            || self.one.allows(None, point)
            || self.other_allows(Some(b), point)
    }
}

/// Where verdicts may change for an entry's sake: at its protocol's first port,
/// at its own, and behind its last.
fn ends(key: &PolicyKey) -> [Point; 3] {
    let after = last_port(key).saturating_add(1);
    [0, key.port.get(), after].map(|port| (direction_of(key), key.protocol, port))
}

fn direction_of(key: &PolicyKey) -> Direction {
    match key.direction_prefix & PolicyKey::EGRESS {
        0 => Direction::Ingress,
        _ => Direction::Egress,
    }
}

/// The last port that an entry speaks of.
fn last_port(key: &PolicyKey) -> u16 {
    let bits = (key.direction_prefix & PolicyKey::PREFIX_MASK).min(16);
    let others = u16::MAX.checked_shr(u32::from(bits)).unwrap_or_default();
    key.port.get() | others
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

    use super::{Looks, Newcomers, compare};
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

    /// Pods, each in a class of its own that may use one port, or every port;
    /// and so many ports of which every pod is denied each.
    fn crowd(pods: u32, every_port: bool, denied: u16) -> PolicyRows {
        let mut rows = set(true, false, &[]);
        rows.set.ingress_prefixes = 1 << 16 | 1;
        let mut put = |class, port, bits, flags| {
            let key = PolicyKey {
                set: 1,
                class,
                port: Be16::new(port),
                protocol: 6,
                direction_prefix: bits,
            };
            let entry = PolicyEntry {
                precedence: 1 + u32::from(flags),
                flags,
                ..PolicyEntry::default()
            };
            rows.entries.insert(key, entry);
        };
        for n in 0..pods {
            match every_port {
                true => put(16 + n, 0, 0, 0),
                false => put(16 + n, n as u16, 16, 0),
            }
        }
        for port in 0..denied {
            put(class::ANY, 2 * port, 16, PolicyEntryFlags::DENY);
        }
        for n in 0..pods {
            let identity = Identity(2000 + n);
            rows.classes
                .insert(ClassKey { set: 1, identity }, ClassRow { class: 16 + n });
        }
        rows
    }

    #[test]
    fn large_sets_take_as_many_looks_as_they_have_entries() {
        const PODS: u32 = 5000;
        let pods = || (0..PODS).map(|n| Identity(2000 + n));
        let rows = crowd(PODS, false, 5000);
        let mut less = rows.clone();
        let key = |(key, _): (&PolicyKey, _)| (key.class == 4001).then_some(*key);
        let one = rows.entries.iter().find_map(key).expect("an entry");
        less.entries.remove(&one);
        for (what, one, other, expected) in [
            ("itself", &rows, &rows, true),
            ("what allows one pod less", &less, &rows, true),
            ("what allows one pod more", &rows, &less, false),
        ] {
            let mut looks = Looks(10 * rows.entries.len());
            assert_eq!(compare(one, other, pods(), &mut looks), expected, "{what}");
        }
        let mut newcomers = Newcomers::new(&rows, Some(&less));
        newcomers.looks = Looks(10 * rows.entries.len());
        let denied: Vec<_> = pods().filter(|pod| !newcomers.may_come(*pod)).collect();
        assert_eq!(denied, [Identity(2000 + 4001 - 16)]);
    }

    #[test]
    fn what_is_too_much_to_find_out_is_not_allowed() {
        let pods = || (0..100).map(|n| Identity(2000 + n));
        let rows = crowd(100, true, 100);
        let few = || Looks(5000);
        assert!(compare(&rows, &rows, pods(), &mut Looks::default()));
        assert!(!compare(&rows, &rows, pods(), &mut few()));
        let mut newcomers = Newcomers::new(&rows, Some(&rows));
        newcomers.looks = few();
        let came = pods().filter(|pod| newcomers.may_come(*pod)).count();
        assert!((1..100).contains(&came), "{came}");
        let first = Identity(2000);
        assert!(newcomers.may_come(first), "what was found out is known");
    }
}
