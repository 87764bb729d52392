//! Pass, taken out of the rows: the kernel knows entries that allow and deny.
//!
//! ```text
//! Admin   1  pass  tcp 80-95   ─┐
//!         2  deny  any          │ what the tiers below say of the ports of 1 is
//! Normal     allow tcp 80      ─┤ said once more, in its place: above 2
//!            nothing else      ─┘
//! entries    tcp 80/16 allow (1)   tcp 80/12 deny by default (1)   any deny (2)
//! ```
//!
//! Of two entries in one place the more specific one wins, and each says what
//! all terms around it come to. So there is at most one entry for each prefix
//! that some term has, however many terms meet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use axon_abi::PolicyKey;

use crate::compile::{Compiled, Does, Term};
use crate::order::Order;
use crate::ports::L4;

/// What is said in the place of a Pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Said {
    /// The place.
    pub(crate) order: Order,
    /// What the tiers below do there.
    pub(crate) does: Does,
    /// The rule that does it; 0 if none does.
    pub(crate) rule: u32,
}

/// What is said in places of Pass, by direction and ports.
pub(crate) type Passed = BTreeMap<(u8, L4), Said>;

/// What is said in the places of Pass to anyone.
pub(crate) fn passed_to_anyone(compiled: &Compiled) -> Passed {
    let terms = compiled.terms.iter();
    let view: Vec<&Term> = terms.filter(|term| compiled.is_anyone(term.who)).collect();
    passed(compiled, &view, |_| true)
}

/// What is said there to somebody whom `view` is about, all terms whose far side
/// means him, and not to anyone.
pub(crate) fn passed_to(compiled: &Compiled, view: &[&Term], to_anyone: &Passed) -> Passed {
    let own = view.iter().filter(|term| !compiled.is_anyone(term.who));
    let own = own.flat_map(|term| term.l4.iter().map(|l4| (term.direction, *l4)));
    let own: BTreeSet<(u8, L4)> = own.collect();
    if own.is_empty() {
        return Passed::new();
    }
    // Around all other keys there are terms of anyone only.
    let touched =
        |(direction, l4): (u8, L4)| l4.around().any(|around| own.contains(&(direction, around)));
    let mut said = passed(compiled, view, touched);
    said.retain(|key, said| to_anyone.get(key) != Some(said));
    said
}

fn passed(compiled: &Compiled, view: &[&Term], asked: impl Fn((u8, L4)) -> bool) -> Passed {
    let mut passed = Passed::new();
    if !compiled.passes {
        return passed;
    }
    for direction in [PolicyKey::INGRESS, PolicyKey::EGRESS] {
        let view = view.iter().filter(|term| term.direction == direction);
        let view: Vec<&Term> = view.copied().collect();
        let said = of_direction(compiled, &view, |l4| asked((direction, l4)));
        passed.extend(said.into_iter().map(|(l4, said)| ((direction, l4), said)));
    }
    passed
}

fn of_direction(
    compiled: &Compiled,
    view: &[&Term],
    asked: impl Fn(L4) -> bool,
) -> BTreeMap<L4, Said> {
    let Some(direction) = view.first().map(|term| term.direction) else {
        return BTreeMap::new();
    };
    let decides = |term: &&&Term| term.order.is_admin() && term.does != Does::Pass;
    let last = view.iter().filter(decides).map(|term| term.order).min();
    // A Pass after which nothing of the tier decides changes nothing. Of anyone
    // it is kept for the sake of those to whom something does, so that they need
    // no entries of their own.
    let matters = |term: &&&Term| {
        let after = match compiled.is_anyone(term.who) {
            true => compiled.last_decision.get(&direction).copied(),
            false => last,
        };
        term.does == Does::Pass && after.is_some_and(|last| term.order > last)
    };
    let passes = best(view.iter().filter(matters).copied());
    if passes.is_empty() {
        return BTreeMap::new();
    }
    let below = best(
        view.iter()
            .filter(|term| term.order.is_below_admin())
            .copied(),
    );
    let keys: BTreeSet<L4> = passes.keys().chain(below.keys()).copied().collect();
    let keys = keys.into_iter().filter(|l4| asked(*l4));
    let said = |l4: L4| {
        let pass = l4
            .around()
            .filter_map(|l4| passes.get(&l4))
            .max_by_key(|term| term.order)?;
        let around = l4.around().filter_map(|l4| Some((l4, *below.get(&l4)?)));
        let decided = around.max_by_key(|(l4, term)| (term.order, l4.specificity()));
        let (does, rule) = match decided {
            Some((_, term)) => (term.does, term.rule),
            None => (compiled.default_of(direction), 0),
        };
        let order = pass.order;
        Some((l4, Said { order, does, rule }))
    };
    keys.filter_map(said).collect()
}

/// The term that wins under each key.
fn best<'a>(terms: impl Iterator<Item = &'a Term>) -> BTreeMap<L4, &'a Term> {
    let mut best: BTreeMap<L4, &Term> = BTreeMap::new();
    // Of equals the lower number; what is of no rule (0) comes last.
    let order = |term: &Term| (term.order, Reverse(term.rule.wrapping_sub(1)));
    for term in terms {
        for l4 in &term.l4 {
            let known = best.entry(*l4).or_insert(term);
            if order(term) > order(known) {
                *known = term;
            }
        }
    }
    best
}
