//! The rules of a set, taken apart into terms: one far side, one action, some
//! port prefixes each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{Direction, Identity, PolicyKey, PolicySetFlags};
use axon_model::{
    Action, Auth, Entity, Peer, Peers, PortMatch, Ports, Protocol, Rule, RuleEntry, Tier,
};

use crate::order::Order;
use crate::pass::Said;
use crate::ports::{L4, PortTerm, terms};
use crate::select::Who;
use crate::tiers::{self, Closed};
use crate::{Enforcement, NamedPorts, PolicyConfig};

/// What of an identity, beside the rules that select it, decides on its set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SubjectTraits {
    /// It waits for its labels: nothing is allowed that no rule allows.
    pub(crate) is_init: bool,
    /// It is the node itself.
    pub(crate) is_host: bool,
    /// Those of its declared ports that its rules name.
    pub(crate) named_ports: NamedPorts,
}

impl SubjectTraits {
    /// The traits of a subject with these rules.
    pub(crate) fn new(id: Identity, declared: &NamedPorts, rules: &[(u32, &Rule)]) -> Self {
        let names = port_names(rules, Direction::Ingress);
        let named = |(key, ports): (&(String, Protocol), &BTreeSet<u16>)| {
            names.contains(key).then(|| (key.clone(), ports.clone()))
        };
        Self {
            is_init: id == Identity::INIT,
            is_host: id == Identity::HOST,
            named_ports: declared.iter().filter_map(named).collect(),
        }
    }
}

/// The port names that entries of one direction ask for.
pub(crate) fn port_names(
    rules: &[(u32, &Rule)],
    direction: Direction,
) -> BTreeSet<(String, Protocol)> {
    rules
        .iter()
        .flat_map(|(_, rule)| &rule.entries)
        .filter(|entry| entry.direction == direction && has_names(&entry.ports))
        .flat_map(|entry| terms(&entry.ports))
        .filter_map(|term| match term {
            PortTerm::Named(name, protocol) => Some((name, protocol)),
            PortTerm::Prefixes(_) => None,
        })
        .collect()
}

fn has_names(ports: &Ports) -> bool {
    match ports {
        Ports::Any => false,
        Ports::List(rules) => rules.iter().any(|r| matches!(r.port, PortMatch::Named(_))),
    }
}

/// What a term does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Does {
    /// It may pass.
    Allow,
    /// It is dropped.
    Deny,
    /// What is said must be asked about.
    Redirect,
    /// It may pass, as if nothing had matched.
    Open,
    /// It is dropped, as if nothing had matched.
    Close,
    /// It may pass, whoever it is and whatever policy says.
    Failsafe,
    /// The next tier decides. No entry says so: see [`crate::pass`].
    Pass,
    /// It may pass if it comes from somebody, or goes to somebody, who has proved
    /// who he is. No term does so: see [`crate::auth`].
    Authenticate(Auth),
}

/// The rank of what asks a proxy that is not there: below what allows.
const UNSERVED: u8 = 0;

/// Something that a set says of somebody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    /// [`PolicyKey::INGRESS`] or [`PolicyKey::EGRESS`].
    pub(crate) direction: u8,
    pub(crate) does: Does,
    /// Which of several terms decides.
    pub(crate) order: Order,
    /// Index of the far side in [`Compiled::whos`].
    pub(crate) who: usize,
    /// Protocols and ports.
    pub(crate) l4: Vec<L4>,
    /// Number of the rule.
    pub(crate) rule: u32,
    /// What its far side must have proved.
    pub(crate) auth: Auth,
}

impl Term {
    /// Whether it allows something in the Normal tier.
    pub(crate) fn is_normal_allow(&self) -> bool {
        Said::of(self).is_normal_allow()
    }

    /// Whether it asks a proxy that is not there.
    pub(crate) fn is_unserved(&self) -> bool {
        self.does == Does::Redirect && self.order == Order::normal(UNSERVED)
    }
}

/// A set's rules, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Compiled {
    /// [`PolicySetFlags`].
    pub(crate) flags: u32,
    /// Every far side, once.
    pub(crate) whos: Vec<Arc<Who>>,
    /// What is said.
    pub(crate) terms: Vec<Term>,
    /// Numbers of the rules.
    pub(crate) rules: Vec<u32>,
    /// A term of the Admin tier passes.
    pub(crate) passes: bool,
    /// A term demands that something be proved.
    pub(crate) demands: bool,
    /// By direction, the last term of the Admin tier that decides.
    pub(crate) last_decision: BTreeMap<u8, Order>,
}

impl Compiled {
    /// Whether a far side is everybody, known or not.
    pub(crate) fn is_anyone(&self, who: usize) -> bool {
        self.whos.get(who).is_some_and(|who| who.is_anyone())
    }

    /// What becomes of that of which no term speaks.
    pub(crate) fn default_of(&self, direction: u8) -> Does {
        let closed = match direction {
            PolicyKey::EGRESS => PolicySetFlags::DEFAULT_DENY_EGRESS,
            _ => PolicySetFlags::DEFAULT_DENY_INGRESS,
        };
        match self.flags & closed {
            0 => Does::Open,
            _ => Does::Close,
        }
    }
}

/// Takes the rules that select a subject apart. `declared` are the ports that
/// any known identity declares by name: candidates for the far side of egress.
pub(crate) fn compile(
    config: &PolicyConfig,
    traits: &SubjectTraits,
    rules: &[(u32, &Rule)],
    declared: &NamedPorts,
) -> Compiled {
    if config.enforcement == Enforcement::Never {
        return Compiled::default();
    }
    let normal = || rules.iter().filter(|(_, rule)| rule.tier == Tier::Normal);
    let closed = Closed {
        ingress: normal().any(|(_, rule)| rule.default_deny_ingress),
        egress: normal().any(|(_, rule)| rule.default_deny_egress),
    };
    let forced = config.enforcement == Enforcement::Always || traits.is_init;
    let mut flags = 0;
    if forced || closed.ingress {
        flags |= PolicySetFlags::DEFAULT_DENY_INGRESS;
    }
    if forced || closed.egress {
        flags |= PolicySetFlags::DEFAULT_DENY_EGRESS;
    }
    let mut compiler = Compiler {
        proxy: config.proxy,
        subject: &traits.named_ports,
        declared,
        whos: BTreeMap::new(),
        terms: Vec::new(),
    };
    for (rule, entry, order) in tiers::admin(rules) {
        compiler.entry(rule, entry, tiers::does(entry, Does::Pass), Some(order));
    }
    for (number, rule) in normal() {
        for entry in rule.entries.iter().filter(|e| e.action != Action::Pass) {
            compiler.entry(*number, entry, tiers::does(entry, Does::Pass), None);
        }
    }
    // The Normal tier's default deny leaves nothing for it to decide.
    let baseline = tiers::baseline(rules, closed);
    let restricted = flags & PolicySetFlags::DEFAULT_DENY_INGRESS != 0
        || baseline
            .iter()
            .any(|(_, entry, _)| entry.direction == Direction::Ingress)
        || compiler.asks_on_ingress();
    if config.allow_localhost && restricted {
        compiler.entry(0, &from_host(), Does::Allow, None);
    }
    let default = if forced { Does::Close } else { Does::Open };
    for (rule, entry, order) in baseline {
        compiler.entry(rule, entry, tiers::does(entry, default), Some(order));
    }
    if traits.is_host {
        compiler.add_failsafe(&config.failsafe, flags);
    }
    compiler.finish(flags, rules)
}

/// What `allow-localhost: always` adds: an allow of no rule, so that a deny of
/// the host still counts.
pub(crate) fn from_host() -> RuleEntry {
    RuleEntry {
        direction: Direction::Ingress,
        action: Action::Allow,
        peers: Peers::List(vec![Peer::Entity(Entity::Host)]),
        ports: Ports::Any,
        l7: None,
        auth: Auth::Unsaid,
    }
}

/// What the terms of one entry have in common.
#[derive(Clone, Copy)]
struct Head {
    direction: u8,
    does: Does,
    order: Order,
    rule: u32,
    auth: Auth,
}

pub(crate) struct Compiler<'a> {
    proxy: bool,
    subject: &'a NamedPorts,
    declared: &'a NamedPorts,
    whos: BTreeMap<Arc<Who>, usize>,
    pub(crate) terms: Vec<Term>,
}

impl Compiler<'_> {
    /// Takes an entry apart; what has no order is of the Normal tier.
    pub(crate) fn entry(&mut self, rule: u32, entry: &RuleEntry, does: Does, order: Option<Order>) {
        let direction = match entry.direction {
            Direction::Ingress => PolicyKey::INGRESS,
            Direction::Egress => PolicyKey::EGRESS,
            // No format can say this; an entry without direction says nothing.
            Direction::Unknown => return,
        };
        let head = Head {
            direction,
            does,
            order: order.unwrap_or_else(|| Order::normal(self.rank(does))),
            rule,
            auth: entry.auth,
        };
        let who = Who::new(&entry.peers, entry.action);
        for term in terms(&entry.ports) {
            match term {
                PortTerm::Prefixes(l4) => self.push(head, who.clone(), l4),
                PortTerm::Named(name, protocol) => self.named(head, &who, &name, protocol),
            }
        }
    }

    /// Whether what is said is asked about on ingress.
    fn asks_on_ingress(&self) -> bool {
        let asks = |t: &Term| t.does == Does::Redirect && t.direction == PolicyKey::INGRESS;
        self.terms.iter().any(asks)
    }

    /// Which of several entries of the Normal tier decides: that of the highest
    /// rank.
    fn rank(&self, does: Does) -> u8 {
        match does {
            Does::Deny | Does::Close | Does::Pass | Does::Failsafe | Does::Authenticate(_) => 3,
            // The proxy knows also what passes whatever is said.
            Does::Redirect if self.proxy => 2,
            Does::Allow | Does::Open => 1,
            // Nobody listens: what may pass anyway does.
            Does::Redirect => UNSERVED,
        }
    }

    /// A named port is the receiver's: on ingress the subject's own, on egress
    /// that of each far side which declares it.
    fn named(&mut self, head: Head, who: &Who, name: &str, protocol: Protocol) {
        let key = (name.to_owned(), protocol);
        let ingress = head.direction == PolicyKey::INGRESS;
        let table = if ingress { self.subject } else { self.declared };
        for &port in table.get(&key).into_iter().flatten() {
            let l4 = L4 {
                protocol: protocol.0,
                port,
                bits: 16,
            };
            let who = if ingress {
                who.clone()
            } else {
                who.declaring(name, protocol, port)
            };
            self.push(head, who, vec![l4]);
        }
    }

    fn push(&mut self, head: Head, who: Who, l4: Vec<L4>) {
        let next = self.whos.len();
        let known = self.whos.get(&who).copied();
        let who = known.unwrap_or_else(|| *self.whos.entry(Arc::new(who)).or_insert(next));
        self.terms.push(Term {
            direction: head.direction,
            does: head.does,
            order: head.order,
            who,
            l4,
            rule: head.rule,
            auth: head.auth,
        });
    }

    fn finish(self, flags: u32, rules: &[(u32, &Rule)]) -> Compiled {
        let whos = self.whos.into_iter();
        let mut whos: Vec<(usize, Arc<Who>)> = whos.map(|(who, n)| (n, who)).collect();
        whos.sort_by_key(|(n, _)| *n);
        let mut last_decision = BTreeMap::new();
        for term in &self.terms {
            if term.order.is_admin() && term.does != Does::Pass {
                let last = last_decision.entry(term.direction).or_insert(term.order);
                *last = term.order.min(*last);
            }
        }
        Compiled {
            flags,
            whos: whos.into_iter().map(|(_, who)| who).collect(),
            passes: self.terms.iter().any(|term| term.does == Does::Pass),
            demands: self
                .terms
                .iter()
                .any(|term| term.is_normal_allow() && term.auth.demands()),
            terms: self.terms,
            rules: rules.iter().map(|(number, _)| *number).collect(),
            last_decision,
        }
    }
}
