//! Rules to CiliumNetworkPolicies.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::Direction;
use axon_model::Protocol;
use axon_model::keys::{CLUSTER, NAMESPACE};
use serde_json::{Map, Value, json};

use super::party::{Parties, Workload};
use super::rules::{Peer, Peers, Ports, Rules};
use super::selector::Selector;

/// Items of one list of ports, and of ICMP types, in Cilium's schema.
const PORTS_MAX: usize = 40;
/// From how many ports on a range is written.
const RANGE_MIN: usize = 3;
/// Bytes of the part of a name that labels give.
const NAME_MAX: usize = 200;
const DNS_PORT: u16 = 53;

/// A rule, and how many flows it rests upon.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) flows: u64,
    pub(crate) value: Value,
}

/// One policy.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) selector: Value,
    /// Nothing of what is not spoken of; no rule if nothing is allowed.
    pub(crate) ingress: Option<Vec<Rule>>,
    pub(crate) egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The whole object.
    pub(crate) fn object(&self) -> Value {
        let mut spec = json!({"endpointSelector": self.selector});
        for (key, rules) in [("ingress", &self.ingress), ("egress", &self.egress)] {
            if let Some(rules) = rules {
                let values: Vec<Value> = rules.iter().map(|rule| rule.value.clone()).collect();
                spec[key] = match values.is_empty() {
                    // A rule that allows nobody: nothing that is not allowed passes.
                    true => json!([{}]),
                    false => Value::Array(values),
                };
            }
        }
        json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        })
    }
}

/// The policies, by namespace and name.
pub(crate) fn policies(rules: &Rules<'_>, parties: &Parties<'_>) -> Vec<Policy> {
    let mut subjects: Vec<(usize, &Workload, &(Peers, Peers))> = rules
        .subjects
        .iter()
        .filter_map(|(number, peers)| Some((*number, parties.get(*number)?, peers)))
        .collect();
    subjects.sort_by_key(|(_, workload, _)| *workload);
    let selectors = selectors(rules, parties);
    let mut names = Names::default();
    let mut policies: Vec<Policy> = Vec::new();
    for (number, workload, (ingress, egress)) in subjects {
        let Some(selector) = selectors.get(&number) else {
            continue;
        };
        let name = names.name(&workload.namespace, selector);
        let writer = Writer {
            subject: workload,
            parties,
            selectors: &selectors,
            cluster: rules.cluster(),
        };
        let side = |direction, peers| {
            let asked = rules.about(direction);
            asked.then(|| writer.rules(direction, peers))
        };
        policies.push(Policy {
            namespace: workload.namespace.clone(),
            name,
            selector: selector.value(),
            ingress: side(Direction::Ingress, ingress),
            egress: side(Direction::Egress, egress),
        });
    }
    policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    policies
}

/// What selects each workload that is spoken of: found once, as it is told from
/// all others.
fn selectors(rules: &Rules<'_>, parties: &Parties<'_>) -> BTreeMap<usize, Selector> {
    let sides = rules.subjects.values();
    let peers = sides.flat_map(|(ingress, egress)| ingress.keys().chain(egress.keys()));
    let peers = peers.filter_map(|peer| match peer {
        Peer::Workload(number) => Some(*number),
        Peer::Entity(_) | Peer::Name(_) | Peer::Address(_) => None,
    });
    let numbers: BTreeSet<usize> = rules.subjects.keys().copied().chain(peers).collect();
    let selector = |number: usize| {
        let workload = parties.get(number)?;
        Some((number, Selector::of(workload, parties.beside(workload))))
    };
    numbers.into_iter().filter_map(selector).collect()
}

/// Names that are given, by namespace; each with how often it was asked for.
#[derive(Default)]
struct Names(BTreeMap<(String, String), u32>);

impl Names {
    /// A name after the labels, that nobody else has.
    fn name(&mut self, namespace: &str, selector: &Selector) -> String {
        let values: Vec<&str> = selector.labels.values().map(String::as_str).collect();
        let mut called: String = values.join("-").to_ascii_lowercase();
        called = called
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(NAME_MAX)
            .collect();
        let called = match called.trim_matches('-') {
            "" => "all",
            called => called,
        };
        let first = format!("suggested-{called}");
        let key = |name: &str| (namespace.to_owned(), name.to_owned());
        let mut number = self.0.get(&key(&first)).copied().unwrap_or_default();
        let mut name = first.clone();
        while number > 0 {
            number += 1;
            name = format!("{first}-{number}");
            if !self.0.contains_key(&key(&name)) {
                break;
            }
        }
        self.0.insert(key(&name), 1);
        self.0.insert(key(&first), number.max(1));
        name
    }
}

/// What rules can be about, each in a list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Workloads,
    Entities,
    Names,
    Addresses,
}

fn kind(peer: &Peer) -> Kind {
    match peer {
        Peer::Workload(_) => Kind::Workloads,
        Peer::Entity(_) => Kind::Entities,
        Peer::Name(_) => Kind::Names,
        Peer::Address(_) => Kind::Addresses,
    }
}

/// Writes the rules of one workload.
struct Writer<'a> {
    subject: &'a Workload,
    parties: &'a Parties<'a>,
    selectors: &'a BTreeMap<usize, Selector>,
    cluster: &'a str,
}

type L4s = BTreeSet<(Protocol, u16)>;

/// What one rule is about: a kind of peers, and ports or types of ICMP.
type Group = (Kind, bool, L4s);

impl Writer<'_> {
    fn rules(&self, direction: Direction, peers: &Peers) -> Vec<Rule> {
        // Peers of one kind on the same ports are one rule.
        let mut groups: BTreeMap<Group, (BTreeMap<String, Value>, u64)> = BTreeMap::new();
        for (peer, ports) in peers {
            let Some(value) = self.peer(peer) else {
                continue;
            };
            let (types, ports): (Ports, Ports) = ports
                .iter()
                .map(|(l4, count)| (*l4, *count))
                .partition(|((protocol, _), _)| is_icmp(*protocol));
            for (icmp, ports) in [(false, ports), (true, types)] {
                if ports.is_empty() {
                    continue;
                }
                let key = (kind(peer), icmp, ports.keys().copied().collect());
                let (values, flows) = groups.entry(key).or_default();
                values.insert(value.to_string(), value.clone());
                *flows += ports.values().sum::<u64>();
            }
        }
        let names = peers.keys().any(|peer| kind(peer) == Kind::Names);
        let mut rules: Vec<(Kind, bool, String, Rule)> = Vec::new();
        for ((kind, icmp, l4s), (values, flows)) in groups {
            let mut value = Map::new();
            let list: Vec<Value> = values.into_values().collect();
            let first = list.first().map(Value::to_string).unwrap_or_default();
            value.insert(word(direction, kind).to_owned(), list.into());
            match icmp {
                true => value.insert("icmps".to_owned(), icmps(&l4s)),
                false => value.insert("toPorts".to_owned(), to_ports(&l4s, names)),
            };
            let value = Value::Object(value);
            rules.push((kind, icmp, first, Rule { flows, value }));
        }
        rules.sort_by(|a, b| (a.0, &a.2, a.1).cmp(&(b.0, &b.2, b.1)));
        rules.into_iter().map(|(.., rule)| rule).collect()
    }

    fn peer(&self, peer: &Peer) -> Option<Value> {
        Some(match peer {
            Peer::Workload(number) => {
                let selector = self.selectors.get(number)?.clone();
                self.endpoints(self.parties.get(*number)?, selector)
            }
            Peer::Entity(word) => json!(word),
            Peer::Name(name) => json!({"matchName": &**name}),
            Peer::Address(ip) => json!(ipnet::IpNet::from(*ip).to_string()),
        })
    }

    fn endpoints(&self, workload: &Workload, mut selector: Selector) -> Value {
        if workload.namespace != self.subject.namespace {
            let key = format!("k8s:{NAMESPACE}");
            selector.labels.insert(key, workload.namespace.clone());
        }
        if workload.cluster != self.cluster {
            let key = format!("k8s:{CLUSTER}");
            selector.labels.insert(key, workload.cluster.clone());
        }
        selector.value()
    }
}

fn is_icmp(protocol: Protocol) -> bool {
    [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol)
}

fn word(direction: Direction, kind: Kind) -> &'static str {
    match (direction, kind) {
        (Direction::Egress, Kind::Workloads) => "toEndpoints",
        (Direction::Egress, Kind::Entities) => "toEntities",
        (Direction::Egress, Kind::Addresses) => "toCIDR",
        (_, Kind::Names) => "toFQDNs",
        (Direction::Ingress | Direction::Unknown, Kind::Workloads) => "fromEndpoints",
        (Direction::Ingress | Direction::Unknown, Kind::Entities) => "fromEntities",
        (Direction::Ingress | Direction::Unknown, Kind::Addresses) => "fromCIDR",
    }
}

/// The ports, at most so many in one list; those of name servers apart, where
/// their answers are to be heard.
fn to_ports(l4s: &L4s, names: bool) -> Value {
    let is_dns = |(protocol, port): &(Protocol, u16)| {
        names && *port == DNS_PORT && [Protocol::TCP, Protocol::UDP].contains(protocol)
    };
    let (dns, other): (L4s, L4s) = l4s.iter().partition(|l4| is_dns(l4));
    let mut lists: Vec<Value> = ports(&other)
        .chunks(PORTS_MAX)
        .map(|ports| json!({"ports": ports}))
        .collect();
    if !dns.is_empty() {
        let every = json!({"dns": [{"matchPattern": "*"}]});
        lists.push(json!({"ports": ports(&dns), "rules": every}));
    }
    lists.into()
}

/// Ports one by one, or as ranges where several stand in a row.
fn ports(l4s: &L4s) -> Vec<Value> {
    let mut runs: Vec<(Protocol, u16, u16)> = Vec::new();
    for (protocol, port) in l4s {
        match runs.last_mut() {
            Some((of, _, last)) if of == protocol && last.checked_add(1) == Some(*port) => {
                *last = *port;
            }
            _ => runs.push((*protocol, *port, *port)),
        }
    }
    let mut ports = Vec::new();
    for (protocol, first, last) in runs {
        let protocol = protocol.to_string();
        if usize::from(last - first) + 1 >= RANGE_MIN {
            let port = first.to_string();
            ports.push(json!({"port": port, "endPort": last, "protocol": protocol}));
            continue;
        }
        let each = (first..=last).map(|p| json!({"port": p.to_string(), "protocol": protocol}));
        ports.extend(each);
    }
    ports
}

fn icmps(l4s: &L4s) -> Value {
    let field = |(protocol, of_type): &(Protocol, u16)| {
        let family = match *protocol {
            Protocol::ICMPV6 => "IPv6",
            _ => "IPv4",
        };
        json!({"family": family, "type": of_type})
    };
    let fields: Vec<Value> = l4s.iter().map(field).collect();
    let lists = fields.chunks(PORTS_MAX);
    lists.map(|fields| json!({"fields": fields})).collect()
}
