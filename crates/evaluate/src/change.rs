//! What changes between two states of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use axon_model::{PolicyObject, Protocol};
use ipnet::IpNet;
use serde::Serialize;

use crate::demand::Demand;
use crate::ends::{Workload, nodes, outside, workloads};
use crate::ports::{Span, spans};
use crate::{Cluster, End, Problem, Verdict, Word, World};

/// Connections asked about at most: minutes of work.
const QUESTIONS_MAX: usize = 20_000_000;

/// A verdict, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Decision {
    /// allow, redirect, deny.
    pub verdict: &'static str,
    /// The policies that decide, by direction; empty if none is about it.
    pub by: String,
    /// What may be said here and not on the other side of a change, where both lead
    /// through the proxy; empty otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who opens the connection.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Protocol and ports.
    pub port: String,
    /// What becomes of it now.
    pub before: Decision,
    /// What would.
    pub after: Decision,
}

/// What changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Pairs that were looked at.
    pub pairs: usize,
    /// What changes between them.
    pub changes: Vec<Change>,
}

/// What is different for one port of a pair.
type Difference = Option<(Decision, Decision)>;

/// What is different between two states of one cluster, of which policies and
/// CIDR groups are not the same: for every pair of workloads, and between them
/// and nodes and parts of the world, on every port that a rule of either names and
/// on one that none does.
///
/// # Errors
/// Too many of them.
pub fn changes(before: &World, after: &World) -> Result<Changes, Problem> {
    let policies = || before.policies.values().chain(after.policies.values());
    let spans = spans(policies(), &port_numbers(&before.cluster));
    let pairs = pairs(before, after);
    let questions = pairs.len().saturating_mul(spans.len());
    if questions > QUESTIONS_MAX {
        let message = format!(
            "{} pairs on {} ports are {questions} connections; expected at most {QUESTIONS_MAX}: \
             describe a part of the cluster",
            pairs.len(),
            spans.len()
        );
        return Err(Problem::new("cluster", message));
    }
    let mut found = Vec::new();
    for (names, (from, to)) in &pairs {
        let mut differences = Vec::new();
        for span in &spans {
            let l4 = (span.protocol, span.port);
            let old = before.connection(from, to, l4)?;
            let new = after.connection(from, to, l4)?;
            let both = || (decision(before, old), decision(after, new));
            let difference = match (old.word(), new.word()) {
                (Word::Redirect, Word::Redirect) => {
                    let asked = |world: &World| world.asked(from, to, l4);
                    said(&asked(before)?, &asked(after)?, both)
                }
                (old, new) => (old != new).then(both),
            };
            differences.push((*span, difference));
        }
        let changes = by_ports(&differences);
        if !changes.is_empty() {
            found.push((names.clone(), changes));
        }
    }
    Ok(Changes {
        pairs: pairs.len(),
        changes: listed(found),
    })
}

/// What two proxies ask that do not ask the same.
fn said(
    old: &[BTreeSet<Demand>; 2],
    new: &[BTreeSet<Demand>; 2],
    both: impl FnOnce() -> (Decision, Decision),
) -> Difference {
    let only = |here: &[BTreeSet<Demand>; 2], there: &[BTreeSet<Demand>; 2]| {
        let ends = here.iter().zip(there);
        let only = ends.flat_map(|(here, there)| here.difference(there).map(ToString::to_string));
        Vec::from_iter(BTreeSet::from_iter(only))
    };
    (old != new).then(|| {
        let (mut before, mut after) = both();
        (before.said, after.said) = (only(old, new), only(new, old));
        (before, after)
    })
}

type Names = (String, String);

/// Who is asked about.
fn pairs(before: &World, after: &World) -> Vec<(Names, (End, End))> {
    let all: Vec<&PolicyObject> = before
        .policies
        .values()
        .chain(after.policies.values())
        .collect();
    let workloads = workloads(before);
    let nodes = nodes(&before.cluster, all.iter().copied());
    let own = before.people.prefixes();
    let prefixes: BTreeSet<IpNet> = own.union(after.people.prefixes()).copied().collect();
    let outside = outside(&before.cluster, &prefixes);
    let mut pairs = Vec::new();
    let mut both = |one: (&str, &End), other: (&str, &End)| {
        for (from, to) in [(one, other), (other, one)] {
            let names = (from.0.to_owned(), to.0.to_owned());
            pairs.push((names, (from.1.clone(), to.1.clone())));
        }
    };
    for (n, workload) in workloads.iter().enumerate() {
        let own = (workload.name.as_str(), &workload.pod);
        for other in workloads.iter().skip(n + 1) {
            both(own, (&other.name, &other.pod));
        }
        both(own, ("host", &End::Node(workload.node.clone())));
        for (name, node) in &nodes {
            if let Some(node) = node.iter().find(|node| **node != workload.node) {
                both(own, (name, &End::Node(node.clone())));
            }
        }
        for (name, ip) in &outside {
            both(own, (name, ip));
        }
    }
    // Only with a host firewall does anything change there.
    for (name, members) in &nodes {
        let Some(first) = members.first() else {
            continue;
        };
        let node = End::Node(first.clone());
        let name = name.replacen("remote-node", "node", 1);
        for (other, ip) in &outside {
            both((&name, &node), (other, ip));
        }
    }
    pairs.extend(workloads.iter().filter_map(siblings));
    pairs
}

/// Two pods of one workload.
fn siblings(workload: &Workload) -> Option<(Names, (End, End))> {
    let names = (workload.name.clone(), workload.name.clone());
    let sibling = workload.sibling.clone()?;
    Some((names, (workload.pod.clone(), sibling)))
}

/// The numbers of ports that pods have names for.
fn port_numbers(cluster: &Cluster) -> BTreeMap<&str, BTreeSet<u16>> {
    let mut numbers: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    for port in cluster.pods.iter().flat_map(|pod| &pod.ports) {
        numbers.entry(&port.name).or_default().insert(port.port);
    }
    numbers
}

/// A verdict, and whose it is.
pub(crate) fn decision(world: &World, verdict: Verdict) -> Decision {
    let word = verdict.word();
    let sides = [("egress", verdict.egress), ("ingress", verdict.ingress)];
    let by = sides.into_iter().filter_map(|(direction, side)| {
        match (world.rule(side.rule), word, side.word) {
            // What the other end would have let pass does not decide.
            (_, Word::Deny, Word::Allow | Word::Redirect) => None,
            (Some(rule), ..) => Some(format!("{direction}: {}", rule.origin)),
            (None, Word::Deny, _) => Some(format!("{direction}: no rule allows it")),
            (None, ..) => None,
        }
    });
    Decision {
        verdict: word.text(),
        by: Vec::from_iter(by).join(", "),
        said: Vec::new(),
    }
}

/// Named ports next to each other, and what is different there.
type NamedSpan<'a> = (Protocol, (u16, u16), &'a (Decision, Decision));

/// Ports of which the same is to be said, in as few words as that takes.
fn by_ports(differences: &[(Span, Difference)]) -> Vec<(String, Decision, Decision)> {
    let same = |some: &[&(Span, Difference)]| -> Option<(Decision, Decision)> {
        let (_, first) = some.first()?;
        let all = some.iter().all(|(_, other)| other == first);
        first.clone().filter(|_| all)
    };
    let row = |port: String, (before, after): (Decision, Decision)| (port, before, after);
    if let Some(both) = same(&differences.iter().collect::<Vec<_>>()) {
        return vec![row("any".to_owned(), both)];
    }
    let is_named = |difference: &&(Span, Difference)| difference.0.named.is_some();
    let (named, other): (Vec<_>, Vec<_>) = differences.iter().partition(is_named);
    let mut spans: Vec<NamedSpan<'_>> = Vec::new();
    for (span, difference) in named {
        let (Some((first, last)), Some(both)) = (span.named, difference) else {
            continue;
        };
        match spans.last_mut() {
            Some((protocol, range, with))
                if *protocol == span.protocol
                    && range.1.checked_add(1) == Some(first)
                    && *with == both =>
            {
                range.1 = last;
            }
            _ => spans.push((span.protocol, (first, last), both)),
        }
    }
    let spans = spans.into_iter();
    let mut rows: Vec<_> = spans
        .map(|(protocol, (first, last), both)| {
            let of_type = [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
            let word = if of_type { " type" } else { "" };
            let port = match first == last {
                true => format!("{protocol}{word} {first}"),
                false => format!("{protocol}{word} {first}-{last}"),
            };
            row(port, both.clone())
        })
        .collect();
    match same(&other) {
        Some(both) => rows.push(row("any other".to_owned(), both)),
        None => rows.extend(other.into_iter().filter_map(|(span, difference)| {
            let port = format!("{} other", span.protocol);
            Some(row(port, difference.clone()?))
        })),
    }
    rows
}

type Rows = Vec<(String, Decision, Decision)>;

/// The changes one by one; the world is one where its halves are alike.
fn listed(found: Vec<(Names, Rows)>) -> Vec<Change> {
    let mut by_names: BTreeMap<Names, Rows> = found.into_iter().collect();
    let halves: Vec<Names> = by_names.keys().cloned().collect();
    for names in halves {
        let to = |word: &str| {
            let change = |name: &str| name.replace("world-ipv4", word);
            (change(&names.0), change(&names.1))
        };
        let other = to("world-ipv6");
        if other != names && by_names.get(&names) == by_names.get(&other) {
            by_names.remove(&other);
            if let Some(rows) = by_names.remove(&names) {
                by_names.insert(to("world"), rows);
            }
        }
    }
    let rows = by_names.into_iter().flat_map(|((from, to), rows)| {
        rows.into_iter().map(move |(port, before, after)| Change {
            from: from.clone(),
            to: to.clone(),
            port,
            before,
            after,
        })
    });
    rows.collect()
}
