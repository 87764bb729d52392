//! The ordered tiers: which entries of a set count, and in which order they are
//! asked.

use axon_abi::Direction;
use axon_model::{Action, Rule, RuleEntry, Tier};

use crate::compile::Does;
use crate::order::{Order, PLACES};

/// The directions of which the Normal tier decides on everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
}

/// The place that all entries beyond those with one of their own share.
const LAST: u32 = PLACES - 1;

/// Entries of one tier, of which not all have a place of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// A tier, with any priority.
    pub tier: Tier,
    /// How many entries it has.
    pub entries: usize,
    /// How many of them have a place of their own.
    pub places: usize,
    /// How many of the others allow or pass: they are not in force.
    pub cut: usize,
}

/// The ordered tiers of a set in which rules have more entries than there are
/// places.
pub fn crowds(rules: &[&Rule]) -> Vec<Crowd> {
    let rules: Vec<(u32, &Rule)> = rules.iter().map(|rule| (0, *rule)).collect();
    let of = |tier: Tier, is: fn(&Rule) -> bool| {
        let of_tier = rules.iter().filter(|(_, rule)| is(rule));
        let most: usize = of_tier.map(|(_, rule)| rule.entries.len()).sum();
        if most <= LAST as usize {
            return None;
        }
        let entries = in_sequence(&rules, is);
        let places = LAST as usize;
        let beyond = entries.iter().skip(places);
        let cut = beyond.filter(|(_, entry)| entry.action != Action::Deny);
        (entries.len() > places).then(|| Crowd {
            tier,
            entries: entries.len(),
            places,
            cut: cut.count(),
        })
    };
    let admin = of(Tier::Admin(0), |rule| matches!(rule.tier, Tier::Admin(_)));
    let baseline = of(Tier::Baseline(0), |rule| {
        matches!(rule.tier, Tier::Baseline(_))
    });
    admin.into_iter().chain(baseline).collect()
}

/// An entry of a rule, and its place.
type Placed<'a> = (u32, &'a RuleEntry, Order);

/// What an entry does; `pass` is what becomes of one that passes.
pub(crate) fn does(entry: &RuleEntry, pass: Does) -> Does {
    match (entry.action, &entry.l7) {
        (Action::Pass, _) => pass,
        (Action::Deny, _) => Does::Deny,
        (Action::Allow, Some(_)) => Does::Redirect,
        (Action::Allow, None) => Does::Allow,
    }
}

/// The entries of the Admin tier that change anything.
pub(crate) fn admin<'a>(rules: &[(u32, &'a Rule)]) -> Vec<Placed<'a>> {
    let of_tier = |rule: &Rule| matches!(rule.tier, Tier::Admin(_));
    in_order(rules, of_tier, Order::admin)
}

/// The entries of the Baseline tier that change anything: none where the Normal
/// tier decides on everything.
pub(crate) fn baseline<'a>(rules: &[(u32, &'a Rule)], closed: Closed) -> Vec<Placed<'a>> {
    let of_tier = |rule: &Rule| matches!(rule.tier, Tier::Baseline(_));
    let mut entries = in_order(rules, of_tier, Order::baseline);
    entries.retain(|(_, entry, _)| match entry.direction {
        Direction::Ingress => !closed.ingress,
        Direction::Egress => !closed.egress,
        Direction::Unknown => false,
    });
    entries
}

/// The entries of a tier that change anything, as they are asked.
fn in_sequence<'a>(
    rules: &[(u32, &'a Rule)],
    of_tier: impl Fn(&Rule) -> bool,
) -> Vec<(u32, &'a RuleEntry)> {
    // The sort is stable: of one priority, policies are in the order of their names.
    let mut rules: Vec<(u32, &Rule)> = rules.iter().filter(|(_, r)| of_tier(r)).copied().collect();
    rules.sort_by_key(|(_, rule)| rule.tier);
    let entries = rules
        .into_iter()
        .flat_map(|(number, rule)| rule.entries.iter().map(move |entry| (number, entry)));
    let mut entries: Vec<(u32, &RuleEntry)> = entries.collect();
    leave_out_last_passes(&mut entries);
    entries
}

fn in_order<'a>(
    rules: &[(u32, &'a Rule)],
    of_tier: impl Fn(&Rule) -> bool,
    order: impl Fn(u32) -> Order,
) -> Vec<Placed<'a>> {
    let last = LAST;
    let placed = in_sequence(rules, of_tier)
        .into_iter()
        .zip((0..last).chain(std::iter::repeat(last)));
    placed
        // Beyond the last place of its own an entry would not know who goes first:
        // only what denies is left there.
        .filter(|((_, entry), n)| *n < last || entry.action == Action::Deny)
        .map(|((rule, entry), n)| (rule, entry, order(n)))
        .collect()
}

/// A Pass after which nothing of its direction decides changes nothing.
fn leave_out_last_passes(entries: &mut Vec<(u32, &RuleEntry)>) {
    let decides = |direction| {
        entries
            .iter()
            .rposition(|(_, e)| e.direction == direction && e.action != Action::Pass)
    };
    let last = [Direction::Ingress, Direction::Egress].map(|d| (d, decides(d)));
    let mut n = 0;
    entries.retain(|(_, entry)| {
        let here = n;
        n += 1;
        entry.action != Action::Pass
            || last.iter().any(|(direction, last)| {
                *direction == entry.direction && last.is_some_and(|last| here < last)
            })
    });
}
