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
//!
//! What is said of anyone is looked through once. What a class is told beside is
//! laid over that, and asked about only where it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use axon_abi::PolicyKey;

use crate::auth::{Demands, Side};
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

impl Said {
    /// What a term says in its own place.
    pub(crate) fn of(term: &Term) -> Self {
        Self {
            order: term.order,
            does: term.does,
            rule: term.rule,
        }
    }

    /// Whether it allows something in the Normal tier.
    pub(crate) fn is_normal_allow(&self) -> bool {
        self.order.is_normal() && matches!(self.does, Does::Allow | Does::Redirect)
    }

    /// Of equals the lower number wins; what is of no rule (0) comes last.
    fn rank(&self) -> (Order, Reverse<u32>) {
        (self.order, Reverse(self.rule.wrapping_sub(1)))
    }
}

/// What is said in places of Pass, by direction and ports.
pub(crate) type Passed = BTreeMap<(u8, L4), Said>;

const DIRECTIONS: [u8; 2] = [PolicyKey::INGRESS, PolicyKey::EGRESS];

/// What is said of anyone, with Pass and without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Anyone {
    /// By direction.
    terms: [Terms; 2],
    /// What is said in places of Pass.
    pub(crate) passed: Passed,
}

impl Anyone {
    pub(crate) fn new(compiled: &Compiled) -> Self {
        let mut anyone = Self::default();
        if !compiled.passes {
            return anyone;
        }
        for (direction, terms) in DIRECTIONS.into_iter().zip(&mut anyone.terms) {
            let own = compiled.terms.iter();
            let own = own.filter(|t| t.direction == direction && compiled.is_anyone(t.who));
            // A Pass after which nothing is denied to anyone is kept for the sake of
            // those to whom something is, so that they need no entries of their own.
            let last = compiled.last_decision.get(&direction).copied();
            *terms = Terms::of(compiled, own, last);
            let place = Place {
                layers: [&*terms, &Terms::default()],
                default: compiled.default_of(direction),
            };
            let said = terms.keys().filter_map(|l4| Some((l4, place.said(l4)?)));
            let said = said.map(|(l4, said)| ((direction, l4), said));
            anyone.passed.extend(said);
        }
        anyone
    }

    /// What is said there to somebody, and not to anyone; `own` are the terms whose
    /// far side means him and not anyone.
    pub(crate) fn passed_to<'a>(
        &self,
        compiled: &Compiled,
        own: &(impl Iterator<Item = &'a Term> + Clone),
    ) -> Passed {
        let mut passed = Passed::new();
        for (direction, anyone) in DIRECTIONS.into_iter().zip(&self.terms) {
            let own = own.clone().filter(|term| term.direction == direction);
            let decides = own.clone().filter(|term| decides(term));
            let last = decides.map(|term| term.order).chain(anyone.last).min();
            let own = Terms::of(compiled, own, last);
            if own.passes.is_empty() && anyone.passes.is_empty() {
                continue;
            }
            let place = Place {
                layers: [anyone, &own],
                default: compiled.default_of(direction),
            };
            // Around all other keys there are terms of anyone only.
            let beneath = own.places.iter().flat_map(|l4| anyone.within(*l4));
            let touched: BTreeSet<L4> = own.keys().chain(beneath).collect();
            let said = touched
                .into_iter()
                .filter_map(|l4| Some((l4, place.said(l4)?)));
            let said = said.map(|(l4, said)| ((direction, l4), said));
            passed.extend(said.filter(|(key, said)| self.passed.get(key) != Some(said)));
        }
        passed
    }
}

fn decides(term: &Term) -> bool {
    term.order.is_admin() && term.does != Does::Pass
}

/// Terms of one direction: under each key the one that wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Terms {
    /// Those that pass, if something of the tier decides after them: otherwise
    /// they change nothing.
    passes: BTreeMap<L4, Said>,
    /// Those of the tiers below.
    below: BTreeMap<L4, Said>,
    /// What they say must be proved, in sets in which something must.
    demands: Side,
    /// The last one of the tier that decides.
    last: Option<Order>,
    /// The keys of all, also of those that decide.
    places: BTreeSet<L4>,
}

impl Terms {
    /// `last` is the last term of the tier that decides.
    fn of<'a>(
        compiled: &Compiled,
        terms: impl Iterator<Item = &'a Term>,
        last: Option<Order>,
    ) -> Self {
        let mut of = Self::default();
        for term in terms {
            of.places.extend(&term.l4);
            if compiled.demands {
                of.demands.add(term);
            }
            let into = if term.does == Does::Pass {
                if last.is_none_or(|last| term.order <= last) {
                    continue;
                }
                &mut of.passes
            } else if term.order.is_below_admin() {
                &mut of.below
            } else {
                of.last = of
                    .last
                    .into_iter()
                    .chain(decides(term).then_some(term.order))
                    .min();
                continue;
            };
            let said = Said::of(term);
            for l4 in &term.l4 {
                let known = into.entry(*l4).or_insert(said);
                if said.rank() > known.rank() {
                    *known = said;
                }
            }
        }
        of
    }

    /// The keys of what passes and of what is below.
    fn keys(&self) -> impl Iterator<Item = L4> {
        self.passes.keys().chain(self.below.keys()).copied()
    }

    /// Those of them that are within one.
    fn within(&self, around: L4) -> impl Iterator<Item = L4> {
        let maps = [&self.passes, &self.below].into_iter();
        let keys = maps.flat_map(move |map| map.range(around.span()));
        keys.map(|(key, _)| *key)
            .filter(move |key| around.contains(*key))
    }
}

/// A place of Pass: what is said there in one direction, of anyone and beside.
struct Place<'a> {
    layers: [&'a Terms; 2],
    /// What is done where nothing is said.
    default: Does,
}

impl Place<'_> {
    /// What the terms around a key come to; nothing if none of them passes.
    fn said(&self, l4: L4) -> Option<Said> {
        let passes = |l4: L4| self.layers.map(|terms| terms.passes.get(&l4));
        let pass = l4
            .around()
            .flat_map(passes)
            .flatten()
            .map(|said| said.order);
        let order = pass.max()?;
        let below = |l4: L4| {
            let both = self.layers.map(|terms| terms.below.get(&l4)).into_iter();
            let wins = both.flatten().max_by_key(|said| said.rank())?;
            Some((l4, *wins))
        };
        let around = l4.around().filter_map(below);
        let decided = around.max_by_key(|(l4, said)| (said.order, l4.specificity()));
        let (does, rule) = match decided {
            Some((_, said)) => self.demands().of(l4, &said),
            None => (self.default, 0),
        };
        Some(Said { order, does, rule })
    }

    fn demands(&self) -> Demands<'_> {
        let [anyone, own] = self.layers;
        Demands {
            of_everyone: &anyone.demands,
            of_remote: &own.demands,
        }
    }
}
