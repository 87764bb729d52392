//! What was seen, line by line.

use std::collections::{BTreeMap, BTreeSet};

use axon_model::{NamePattern, Protocol};

use crate::line::{Line, read};
use crate::{Described, Problem, World};

use super::notes::Notes;
use super::party::{Parties, Party};
use super::policy::policies;
use super::rules::Rules;
use super::sight::{Side, Sight, sight};
use super::{Options, Suggestion};

/// Different flows that are kept.
const FLOWS_MAX: usize = 1_000_000;
/// Names that one flow is known by: more say nothing.
const NAMES_MAX: usize = 16;

/// A connection, but for its source port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) from: Party,
    pub(crate) to: Party,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// The last lines that tell of one end; 0: none does.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    passed: u64,
    denied: u64,
}

impl Last {
    fn allows(self) -> bool {
        self.passed >= self.denied
    }
}

/// What is known of a connection.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Lines that tell of it, without answers and denials.
    pub(crate) count: u64,
    /// Names of its receiver.
    pub(crate) names: BTreeSet<String>,
    egress: Last,
    ingress: Last,
}

/// Flows that were recorded.
#[derive(Debug)]
pub struct Record<'a> {
    options: Options,
    parties: Parties<'a>,
    seen: BTreeMap<Key, Seen>,
    /// The last answers, by what they answer.
    replies: BTreeMap<Key, u64>,
    notes: Notes,
    /// How many lines each cluster's agents have told of its own pods.
    clusters: BTreeMap<String, u64>,
}

impl<'a> Record<'a> {
    /// An empty one. Pods that are described are told from others even if no flow
    /// is about them, and known by name and address where flows lack labels.
    pub fn new(options: Options, described: Option<(&'a Described, &'a World)>) -> Self {
        Self {
            options,
            parties: Parties::new(described),
            seen: BTreeMap::new(),
            replies: BTreeMap::new(),
            notes: Notes::default(),
            clusters: BTreeMap::new(),
        }
    }

    /// Notes what is wrong with a line that cannot be read.
    pub fn note(&mut self, line: u64, why: &str) {
        self.notes.add(line, why);
    }

    /// Takes the line of this number.
    ///
    /// # Errors
    /// It is no flow.
    pub fn add(&mut self, number: u64, text: &[u8]) -> Result<(), Problem> {
        let line = read(text)?;
        if line.lost_events.is_some() {
            self.notes
                .add(number, "events were lost: the record is not whole");
        }
        let (Some(ip), Some((protocol, port, l4))) = (&line.ip, line.l4()?) else {
            return Ok(());
        };
        let sight = sight(&line, (protocol, port), l4);
        if let Sight::Unclear(why) = sight {
            self.notes.add(number, &format!("left out: {why}"));
            return Ok(());
        }
        if sight == Sight::Nothing || ip.source == ip.destination {
            return Ok(());
        }
        let ends = self.parties.find(&line.source, ip.source);
        let ends = ends.and_then(|from| {
            let to = self.parties.find(&line.destination, ip.destination)?;
            Ok((from, to))
        });
        let (from, to) = match ends {
            Ok(ends) => ends,
            Err(why) => {
                self.notes.add(number, &format!("left out: {why}"));
                return Ok(());
            }
        };
        let key = Key {
            from,
            to,
            protocol,
            port,
        };
        match sight {
            Sight::Reply => self.reply(number, &key, l4.source_port),
            Sight::Passed(side) => self.passed(number, key, (side, &line)),
            Sight::Denied(side) => self.denied(number, key, (side, &line)),
            Sight::Nothing | Sight::Unclear(_) => {}
        }
        Ok(())
    }

    /// An answer: what it answers has passed.
    fn reply(&mut self, number: u64, answer: &Key, port: u16) {
        let port = match answer.protocol {
            Protocol::ICMP => 8,
            Protocol::ICMPV6 => 128,
            _ => port,
        };
        let key = Key {
            from: answer.to.clone(),
            to: answer.from.clone(),
            protocol: answer.protocol,
            port,
        };
        if self.replies.len() < FLOWS_MAX || self.replies.contains_key(&key) {
            self.replies.insert(key, number);
        }
    }

    fn passed(&mut self, number: u64, key: Key, (side, line): (Side, &Line)) {
        // Nobody decides at an end that is no pod.
        let outgoing = side != Side::Ingress || !is_pod(&key.from);
        let incoming = side == Side::Ingress || !is_pod(&key.to);
        if line.verdict == "REDIRECTED" {
            self.notes.add(
                number,
                "went through the proxy: whatever is said on that port is allowed",
            );
        }
        if is_service(&key, line) {
            let why = "left out: goes to a service's address; what reaches its pods counts";
            self.notes.add(number, why);
            return;
        }
        self.count_cluster(&key, side);
        let Some(seen) = self.seen(number, key) else {
            return;
        };
        seen.count += 1;
        for name in &line.destination_names {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if seen.names.len() < NAMES_MAX && is_name(&name) {
                seen.names.insert(name);
            }
        }
        if outgoing {
            seen.egress.passed = seen.egress.passed.max(number);
        }
        if incoming {
            seen.ingress.passed = seen.ingress.passed.max(number);
            // It has left its sender, or would not have come.
            seen.egress.passed = seen.egress.passed.max(number);
        }
    }

    fn denied(&mut self, number: u64, key: Key, (side, line): (Side, &Line)) {
        if self.options.denied {
            return self.passed(number, key, (Side::Ingress, line));
        }
        let Some(seen) = self.seen(number, key) else {
            return;
        };
        if side != Side::Ingress {
            seen.egress.denied = seen.egress.denied.max(number);
        }
        if side != Side::Egress {
            seen.ingress.denied = seen.ingress.denied.max(number);
        }
    }

    fn seen(&mut self, number: u64, key: Key) -> Option<&mut Seen> {
        if self.seen.len() >= FLOWS_MAX && !self.seen.contains_key(&key) {
            let why = format!("left out: more than {FLOWS_MAX} different flows");
            self.notes.add(number, &why);
            return None;
        }
        Some(self.seen.entry(key).or_default())
    }

    fn count_cluster(&mut self, key: &Key, side: Side) {
        let (own, other) = match side {
            Side::Egress => (&key.from, &key.to),
            Side::Ingress | Side::Unknown => (&key.to, &key.from),
        };
        let number = match (own, other) {
            (Party::Workload(number), _) | (_, Party::Workload(number)) => number,
            _ => return,
        };
        if let Some(workload) = self.parties.get(*number) {
            *self.clusters.entry(workload.cluster.clone()).or_default() += 1;
        }
    }

    /// Policies that allow what was seen.
    pub fn suggest(mut self) -> Suggestion {
        let most = self.clusters.iter().max_by_key(|(_, count)| **count);
        let cluster = most.map(|(name, _)| name.clone()).unwrap_or_default();
        let mut rules = Rules::new(&self.options, &cluster);
        let mut flows = 0;
        for (key, seen) in &mut self.seen {
            if let Some(answered) = self.replies.get(key) {
                seen.egress.passed = seen.egress.passed.max(*answered);
                seen.ingress.passed = seen.ingress.passed.max(*answered);
            }
            if !(is_pod(&key.from) || is_pod(&key.to)) {
                continue;
            }
            let denied = seen.egress.denied.max(seen.ingress.denied);
            if !(seen.egress.allows() && seen.ingress.allows()) {
                self.notes.add(denied, "left out: policy denies it");
                continue;
            }
            if denied > 0 {
                let why = "policy denies it here, and lets it pass in a later line: it is allowed";
                self.notes.add(denied, why);
            }
            if seen.count == 0 {
                continue;
            }
            if seen.ingress.passed == 0 {
                let why = "seen at its sender alone: that its receiver took it is assumed";
                self.notes.add(seen.egress.passed, why);
            }
            flows += seen.count;
            rules.add(key, seen, &self.parties);
        }
        let policies = policies(&rules, &self.parties);
        let mut notes = self.notes.told();
        notes.extend(rules.notes());
        Suggestion {
            policies,
            notes,
            flows,
        }
    }
}

fn is_pod(party: &Party) -> bool {
    matches!(party, Party::Workload(_))
}

/// Whether a flow goes to an address that the datapath translates.
fn is_service(key: &Key, line: &Line) -> bool {
    let service = line.destination_service.as_ref();
    let named = service.is_some_and(|s| !(s.name.is_empty() && s.namespace.is_empty()));
    named && matches!(key.to, Party::Address(_))
}

/// Whether a name can stand in a policy.
fn is_name(name: &str) -> bool {
    NamePattern::new(name).is_ok_and(|pattern| pattern.name().is_some())
}
