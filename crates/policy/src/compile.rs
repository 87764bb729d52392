//! The rules of a set, taken apart into terms: one far side, one action, some
//! port prefixes each.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity, PolicyKey, PolicySetFlags};
use axon_model::{Action, Entity, Peer, Peers, PortMatch, Ports, Protocol, Rule, RuleEntry};

use crate::ports::{L4, PortTerm, terms};
use crate::select::Who;
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

/// Something that a set allows or denies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    /// [`PolicyKey::INGRESS`] or [`PolicyKey::EGRESS`].
    pub(crate) direction: u8,
    /// It denies.
    pub(crate) deny: bool,
    /// What is said must be asked about.
    pub(crate) redirect: bool,
    /// Which of several terms decides: the one of the highest rank.
    pub(crate) rank: u8,
    /// Index of the far side in [`Compiled::whos`].
    pub(crate) who: usize,
    /// Protocols and ports.
    pub(crate) l4: Vec<L4>,
    /// Number of the rule.
    pub(crate) rule: u32,
}

/// A set's rules, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Compiled {
    /// [`PolicySetFlags`].
    pub(crate) flags: u32,
    /// Every far side, once.
    pub(crate) whos: Vec<Who>,
    /// What is allowed and denied.
    pub(crate) terms: Vec<Term>,
    /// Numbers of the rules.
    pub(crate) rules: Vec<u32>,
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
    let forced = config.enforcement == Enforcement::Always || traits.is_init;
    let denies = |of: fn(&Rule) -> bool| forced || rules.iter().any(|(_, rule)| of(rule));
    let mut flags = 0;
    if denies(|rule| rule.default_deny_ingress) {
        flags |= PolicySetFlags::DEFAULT_DENY_INGRESS;
    }
    if denies(|rule| rule.default_deny_egress) {
        flags |= PolicySetFlags::DEFAULT_DENY_EGRESS;
    }
    let mut compiler = Compiler {
        proxy: config.proxy,
        subject: &traits.named_ports,
        declared,
        whos: BTreeMap::new(),
        terms: Vec::new(),
    };
    for (number, rule) in rules {
        for entry in &rule.entries {
            compiler.entry(*number, entry);
        }
    }
    if config.allow_localhost && flags & PolicySetFlags::DEFAULT_DENY_INGRESS != 0 {
        compiler.entry(0, &from_host());
    }
    if traits.is_host {
        compiler.add_failsafe(&config.failsafe, flags);
    }
    let mut whos: Vec<(usize, Who)> = compiler.whos.into_iter().map(|(w, n)| (n, w)).collect();
    whos.sort_by_key(|(n, _)| *n);
    Compiled {
        flags,
        whos: whos.into_iter().map(|(_, who)| who).collect(),
        terms: compiler.terms,
        rules: rules.iter().map(|(number, _)| *number).collect(),
    }
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
    }
}

pub(crate) struct Compiler<'a> {
    proxy: bool,
    subject: &'a NamedPorts,
    declared: &'a NamedPorts,
    whos: BTreeMap<Who, usize>,
    pub(crate) terms: Vec<Term>,
}

impl Compiler<'_> {
    pub(crate) fn entry(&mut self, rule: u32, entry: &RuleEntry) {
        let who = Who::new(&entry.peers, entry.action);
        for term in terms(&entry.ports) {
            match term {
                PortTerm::Prefixes(l4) => self.push(rule, entry, who.clone(), l4),
                PortTerm::Named(name, protocol) => self.named(rule, entry, &who, &name, protocol),
            }
        }
    }

    /// A named port is the receiver's: on ingress the subject's own, on egress
    /// that of each far side which declares it.
    fn named(&mut self, rule: u32, entry: &RuleEntry, who: &Who, name: &str, protocol: Protocol) {
        let key = (name.to_owned(), protocol);
        let ingress = entry.direction == Direction::Ingress;
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
            self.push(rule, entry, who, vec![l4]);
        }
    }

    fn push(&mut self, rule: u32, entry: &RuleEntry, who: Who, l4: Vec<L4>) {
        let direction = match entry.direction {
            Direction::Ingress => PolicyKey::INGRESS,
            Direction::Egress => PolicyKey::EGRESS,
            // No format can say this; an entry without direction says nothing.
            Direction::Unknown => return,
        };
        let deny = entry.action == Action::Deny;
        let redirect = entry.l7.is_some();
        let next = self.whos.len();
        let who = *self.whos.entry(who).or_insert(next);
        self.terms.push(Term {
            direction,
            deny,
            redirect,
            rank: match (deny, redirect) {
                (true, _) => 3,
                // The proxy knows also what passes whatever is said.
                (false, true) if self.proxy => 2,
                (false, false) => 1,
                // Nobody listens: what may pass anyway does.
                (false, true) => 0,
            },
            who,
            l4,
            rule,
        });
    }
}
