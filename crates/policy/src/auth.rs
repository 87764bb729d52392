//! Who must have proved who it is: what `authentication.mode` of the rules
//! around a port comes to.
//!
//! ```text
//!                   any          tcp 0-65535       tcp 80
//! of everyone       ·            required          ·
//! of the remote     disabled     ·                 not said
//!                                                  └─> the narrowest decides, if it says;
//!                                                      else the stricter of what both sides
//!                                                      say around it: here required
//! ```
//!
//! As in Cilium, whose map has an entry for each identity and one for everyone
//! (`pkg/policy/mapstate.go`, `bpf/lib/policy.h`): entries that do not say take
//! over what the narrowest around them of the same side says; of the two sides the
//! narrower one is asked, of equals that of the remote, and before all one on
//! which a proxy is asked what is said.
//!
//! What is demanded stands in the rows in the places of what would be allowed. A
//! set in which nobody demands anything has the same rows as ever; in others a
//! class has at most one row more for each prefix that everyone is allowed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use axon_abi::PolicyKey;
use axon_model::Auth;

use crate::compile::{Compiled, Does, Term};
use crate::pass::{Passed, Said};
use crate::ports::L4;

/// What terms of one side say of one prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    auth: Auth,
    /// The rule that says so.
    rule: u32,
    /// The proxy is asked what is said there.
    asks: bool,
}

/// What a side says of some ports.
#[derive(Clone, Copy, Debug)]
struct Voice {
    asks: bool,
    /// Of the narrowest prefix.
    specificity: u32,
    /// It is that one that says so.
    explicit: bool,
    auth: Auth,
    rule: u32,
}

/// What terms of one side say in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Side {
    /// One of them demands something.
    demands: bool,
    slots: BTreeMap<L4, Slot>,
}

impl Side {
    fn of<'a>(terms: impl Iterator<Item = &'a Term>) -> Self {
        let mut side = Self::default();
        for term in terms {
            side.add(term);
        }
        side
    }

    /// Adds what a term says, which is something only if it allows. Where there is no
    /// proxy, one that asks a proxy lets nobody pass: it may demand, and excuses from
    /// nothing that others demand.
    pub(crate) fn add(&mut self, term: &Term) {
        if !term.is_normal_allow() || term.is_unserved() && !term.auth.demands() {
            return;
        }
        self.demands |= term.auth.demands();
        for l4 in &term.l4 {
            self.slots.entry(*l4).or_default().add(term);
        }
    }

    /// What it says of ports: the narrowest prefix around them, where that does
    /// not say the one around that.
    fn voice(&self, l4: L4) -> Option<Voice> {
        let around = l4
            .around()
            .filter_map(|l4| Some((l4.specificity(), *self.slots.get(&l4)?)));
        let by_breadth: BTreeMap<u32, Slot> = around.collect();
        let mut voice: Option<Voice> = None;
        for (specificity, slot) in by_breadth {
            let broader = voice;
            let asks = broader.is_some_and(|broader| broader.asks);
            let explicit = slot.auth != Auth::Unsaid;
            // Where the proxy is asked anyway, that some of it is allowed is not heard.
            if asks && !slot.asks && !explicit {
                continue;
            }
            let taken_over = broader.map_or((Auth::Unsaid, 0), |b| (b.auth, b.rule));
            let (auth, rule) = match explicit {
                true => (slot.auth, slot.rule),
                false => taken_over,
            };
            voice = Some(Voice {
                asks: asks || slot.asks,
                specificity,
                explicit,
                auth,
                rule,
            });
        }
        voice
    }
}

/// What somebody must have proved, by ports of one direction.
pub(crate) struct Demands<'a> {
    /// What the terms say whose far side is anyone.
    pub(crate) of_everyone: &'a Side,
    /// What the others say that mean him.
    pub(crate) of_remote: &'a Side,
}

impl Demands<'_> {
    fn any(&self) -> bool {
        self.of_everyone.demands || self.of_remote.demands
    }

    /// What becomes of ports on which this wins, and by which rule.
    pub(crate) fn of(&self, l4: L4, winner: &Said) -> (Does, u32) {
        let demanded = (self.any() && winner.is_normal_allow()).then(|| self.at(l4));
        match demanded.flatten() {
            Some((auth, rule)) => (Does::Authenticate(auth), rule),
            None => (winner.does, winner.rule),
        }
    }

    fn at(&self, l4: L4) -> Option<(Auth, u32)> {
        let asked = |voice: &Voice| (voice.asks, voice.specificity);
        let (chosen, other) = match (self.of_remote.voice(l4), self.of_everyone.voice(l4)) {
            (Some(own), Some(all)) if asked(&all) > asked(&own) => (all, Some(own)),
            (Some(own), all) => (own, all),
            (None, Some(all)) => (all, None),
            (None, None) => return None,
        };
        let stricter = other.filter(|other| !chosen.explicit && other.auth > chosen.auth);
        let said = stricter.unwrap_or(chosen);
        said.auth.demands().then_some((said.auth, said.rule))
    }
}

impl Slot {
    /// Of several rules that say the same the lowest number is told of, no rule (0)
    /// last.
    fn add(&mut self, term: &Term) {
        let order = |auth: Auth, rule: u32| (auth, Reverse(rule.wrapping_sub(1)));
        if order(term.auth, term.rule) > order(self.auth, self.rule) {
            (self.auth, self.rule) = (term.auth, term.rule);
        }
        self.asks |= term.does == Does::Redirect;
    }
}

/// What becomes of what terms of the Normal tier allow anyone, if something is
/// demanded there: said in their own places.
pub(crate) fn demanded_of_anyone(compiled: &Compiled) -> Passed {
    let terms = compiled.terms.iter();
    let view: Vec<&Term> = terms.filter(|term| compiled.is_anyone(term.who)).collect();
    demanded(compiled, &view, |_| true)
}

/// What becomes of it to somebody whom `view` is about, where that is not what
/// becomes of it to anyone.
pub(crate) fn demanded_of(compiled: &Compiled, view: &[&Term], of_anyone: &Passed) -> Passed {
    let allowing = view.iter().copied().filter(|term| term.is_normal_allow());
    let own = own_ports(compiled, allowing);
    if own.is_empty() {
        return Passed::new();
    }
    let mut said = demanded(compiled, view, |key| touches(&own, key));
    said.retain(|key, said| own.contains(key) || of_anyone.get(key) != Some(said));
    said
}

fn demanded(compiled: &Compiled, view: &[&Term], asked: impl Fn((u8, L4)) -> bool) -> Passed {
    let mut said = Passed::new();
    if !compiled.demands {
        return said;
    }
    for direction in [PolicyKey::INGRESS, PolicyKey::EGRESS] {
        let normal = |term: &&Term| term.direction == direction && term.order.is_normal();
        let view: Vec<&Term> = view.iter().copied().filter(normal).collect();
        let (all, own): (Vec<&Term>, Vec<&Term>) =
            view.iter().partition(|term| compiled.is_anyone(term.who));
        let demands = Demands {
            of_everyone: &Side::of(all.into_iter()),
            of_remote: &Side::of(own.into_iter()),
        };
        if !demands.any() {
            continue;
        }
        let undemanding = view.iter().filter(|term| !term.auth.demands());
        let undemanding = best(undemanding.copied());
        let best = best(view.iter().copied());
        let allowed = view.iter().filter(|term| term.is_normal_allow());
        let keys: BTreeSet<L4> = allowed.flat_map(|term| term.l4.iter().copied()).collect();
        for l4 in keys.into_iter().filter(|l4| asked((direction, *l4))) {
            let Some(winner) = decider(&best, l4).filter(|term| term.is_normal_allow()) else {
                continue;
            };
            // Where nothing is demanded, who demands nothing is told of.
            let teller = decider(&undemanding, l4)
                .filter(|term| (term.order, term.does) == (winner.order, winner.does));
            let (does, rule) = demands.of(l4, &Said::of(teller.unwrap_or(winner)));
            let order = winner.order;
            said.insert((direction, l4), Said { order, does, rule });
        }
    }
    said
}

/// The ports of those terms whose far side is not anyone.
fn own_ports<'a>(compiled: &Compiled, view: impl Iterator<Item = &'a Term>) -> BTreeSet<(u8, L4)> {
    let own = view.filter(|term| !compiled.is_anyone(term.who));
    own.flat_map(|term| term.l4.iter().map(|l4| (term.direction, *l4)))
        .collect()
}

/// Whether one of these is around some ports: around all others there are terms
/// of anyone only.
fn touches(own: &BTreeSet<(u8, L4)>, (direction, l4): (u8, L4)) -> bool {
    l4.around().any(|around| own.contains(&(direction, around)))
}

/// The term that wins on some ports, of the best under each key.
fn decider<'a>(best: &BTreeMap<L4, &'a Term>, l4: L4) -> Option<&'a Term> {
    let around = l4
        .around()
        .filter_map(|l4| Some((l4.specificity(), *best.get(&l4)?)));
    let decided = around.max_by_key(|(specificity, term)| (term.order, *specificity));
    decided.map(|(_, term)| term)
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
