//! What was seen, line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_model::{NamePattern, Protocol};

use crate::line::{Line, read};
use crate::{Described, Problem, World};

use super::notes::Notes;
use super::party::{Parties, Party};
use super::policy::policies;
use super::rules::Rules;
use super::sight::{Side, Sight, sight};
use super::{Options, Suggestion};

/// What flows may take together, in bytes, here and in what is suggested: a record
/// may tell of as many as it likes.
const ROOM: usize = 512 << 20;
/// What each is counted; an answer; each name that one is known by.
const FLOW_ROOM: usize = 1024;
const REPLY_ROOM: usize = 128;
const NAMED_ROOM: usize = 512;
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
    pub(crate) names: Vec<Arc<str>>,
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
    /// Every name, once.
    names: BTreeSet<Arc<str>>,
    /// What is left of [`ROOM`].
    room: usize,
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
            names: BTreeSet::new(),
            room: ROOM,
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
            Sight::Passed(side) => self.passed(number, &key, (side, &line)),
            Sight::Denied(side) => self.denied(number, &key, (side, &line)),
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
        if self.replies.contains_key(&key) || take(&mut self.room, REPLY_ROOM) {
            self.replies.insert(key, number);
        } else {
            self.notes.add(number, NO_ROOM);
        }
    }

    fn passed(&mut self, number: u64, key: &Key, (side, line): (Side, &Line)) {
        // Nobody decides at an end that is no pod.
        let outgoing = side != Side::Ingress || !is_pod(&key.from);
        let incoming = side == Side::Ingress || !is_pod(&key.to);
        if line.verdict == "REDIRECTED" {
            self.notes.add(
                number,
                "went through the proxy: whatever is said on that port is allowed",
            );
        }
        if is_service(key, line) {
            let why = "left out: goes to a service's address; what reaches its pods counts";
            self.notes.add(number, why);
            return;
        }
        self.count_cluster(key, side);
        let Some(seen) = self.seen(number, key) else {
            return;
        };
        seen.count += 1;
        if outgoing {
            seen.egress.passed = seen.egress.passed.max(number);
        }
        if incoming {
            seen.ingress.passed = seen.ingress.passed.max(number);
            // It has left its sender, or would not have come.
            seen.egress.passed = seen.egress.passed.max(number);
        }
        if !line.destination_names.is_empty() {
            self.name(number, key, line);
        }
    }

    /// Notes the names that a flow's receiver is known by. Where there is no room
    /// for one its other names tell of the flow, or its address.
    fn name(&mut self, number: u64, key: &Key, line: &Line) {
        let Some(seen) = self.seen.get_mut(key) else {
            return;
        };
        for name in &line.destination_names {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let is_known = seen.names.iter().any(|known| **known == *name);
            if is_known || seen.names.len() >= NAMES_MAX || !is_name(&name) {
                continue;
            }
            let known = self.names.get(name.as_str()).cloned();
            let text = if known.is_some() { 0 } else { name.len() };
            if !take(&mut self.room, NAMED_ROOM + text) {
                self.notes
                    .add(number, "a name is left out: more than are kept");
                continue;
            }
            let name = known.unwrap_or_else(|| name.into());
            self.names.insert(Arc::clone(&name));
            seen.names.push(name);
        }
    }

    fn denied(&mut self, number: u64, key: &Key, (side, line): (Side, &Line)) {
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

    fn seen(&mut self, number: u64, key: &Key) -> Option<&mut Seen> {
        if !self.seen.contains_key(key) {
            if !take(&mut self.room, FLOW_ROOM) {
                self.notes.add(number, NO_ROOM);
                return None;
            }
            self.seen.insert(key.clone(), Seen::default());
        }
        self.seen.get_mut(key)
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
        for (key, mut seen) in std::mem::take(&mut self.seen) {
            if let Some(answered) = self.replies.get(&key) {
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
            rules.add(&key, &seen, &self.parties);
        }
        drop(self.replies);
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

/// What is told of a line for which there is none left of [`ROOM`].
const NO_ROOM: &str = "left out: more different flows than are kept";

/// Takes so much of a room, if it is there.
fn take(room: &mut usize, bytes: usize) -> bool {
    let left = room.checked_sub(bytes);
    *room = left.unwrap_or(*room);
    left.is_some()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{FLOW_ROOM, NAMED_ROOM, Options, REPLY_ROOM, Record};

    fn line(addr: u8, names: &[&str], is_reply: bool) -> Vec<u8> {
        let pod = json!({"labels": ["k8s:io.kubernetes.pod.namespace=farm", "k8s:app=cow"]});
        let (own, other) = ("10.0.0.1".to_owned(), format!("198.51.100.{addr}"));
        let world = json!({"labels": ["reserved:world"]});
        let mut flow = json!({
            "verdict": "FORWARDED", "is_reply": is_reply, "traffic_direction": "EGRESS",
            "IP": {"source": own, "destination": other},
            "l4": {"TCP": {"source_port": 40000, "destination_port": 443}},
            "source": pod, "destination": world, "destination_names": names,
        });
        if is_reply {
            (flow["source"], flow["destination"]) = (world, pod);
            flow["IP"] = json!({"source": other, "destination": own});
        }
        flow.to_string().into_bytes()
    }

    /// What comes of lines where there is so much room.
    fn suggested(room: usize, lines: &[Vec<u8>]) -> (String, Vec<String>) {
        let mut record = Record::new(Options::default(), None);
        record.room = room;
        for (n, line) in (1..).zip(lines) {
            record.add(n, line).expect("a flow");
        }
        let suggestion = record.suggest();
        (suggestion.yaml(), suggestion.notes)
    }

    #[test]
    fn what_finds_no_room_is_told_by_its_line() {
        let lines = [1, 2, 1, 3, 2].map(|addr| line(addr, &[], false));
        let (text, notes) = suggested(2 * FLOW_ROOM + REPLY_ROOM, &lines);
        assert!(
            text.contains("198.51.100.2/32") && !text.contains("198.51.100.3"),
            "{text}"
        );
        assert_eq!(
            notes[0],
            "line 4: left out: more different flows than are kept"
        );

        let mut lines = lines.to_vec();
        lines.extend([1, 2].map(|addr| line(addr, &[], true)));
        let (_, notes) = suggested(2 * FLOW_ROOM + REPLY_ROOM, &lines);
        assert_eq!(
            notes[0],
            "lines 4, 7: left out: more different flows than are kept"
        );
    }

    #[test]
    fn a_flow_whose_name_finds_no_room_is_known_by_its_address() {
        let names = ["a.example", "b.example"];
        // The flows first: what is left then is for their names.
        let lines = [
            line(1, &names[..1], false),
            line(2, &[], false),
            line(3, &[], false),
            line(2, &names, false),
            line(3, &names[1..], false),
        ];
        let room = 3 * FLOW_ROOM + 2 * NAMED_ROOM + names[0].len();
        let (text, notes) = suggested(room, &lines);
        let told = "lines 4, 5: a name is left out: more than are kept".to_owned();
        assert!(notes.contains(&told), "{notes:?}");
        assert!(
            text.contains("matchName: a.example") && !text.contains(names[1]),
            "{text}"
        );
        assert!(
            text.contains("198.51.100.3/32") && !text.contains("198.51.100.2"),
            "{text}"
        );
        let (text, _) = suggested(room + NAMED_ROOM + names[1].len(), &lines);
        assert!(
            text.contains(names[1]) && text.contains("198.51.100.3/32"),
            "{text}"
        );
    }
}
