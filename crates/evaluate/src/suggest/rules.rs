//! What was seen, by whom a policy is for, who is allowed, and on which ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::Direction;
use axon_model::Protocol;

use super::party::{Parties, Party};
use super::record::{Key, Seen};
use super::{Beyond, Options};

/// Addresses of one rule from which on a note tells of another way.
const ADDRESSES_MANY: usize = 20;
/// Other clusters that are named, the rest is counted.
const CLUSTERS_MAX: usize = 5;

/// Whom a rule can name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// Pods, by number.
    Workload(usize),
    /// A word of policies.
    Entity(&'static str),
    /// A name that resolves to addresses.
    Name(Arc<str>),
    /// An address.
    Address(IpAddr),
}

/// Protocols and ports (ICMP: types), each with the flows seen.
pub(crate) type Ports = BTreeMap<(Protocol, u16), u64>;

/// One direction of one workload.
pub(crate) type Peers = BTreeMap<Peer, Ports>;

/// Everything that is allowed.
#[derive(Debug)]
pub(crate) struct Rules<'o> {
    options: &'o Options,
    cluster: &'o str,
    /// By whom the policy is for: what comes in, what goes out.
    pub(crate) subjects: BTreeMap<usize, (Peers, Peers)>,
    elsewhere: BTreeSet<String>,
    names: bool,
}

impl<'o> Rules<'o> {
    /// None yet, for the workloads of this cluster.
    pub(crate) fn new(options: &'o Options, cluster: &'o str) -> Self {
        Self {
            options,
            cluster,
            subjects: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            names: false,
        }
    }

    /// Whether there are rules of this direction.
    pub(crate) fn about(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.options.ingress,
            Direction::Egress => self.options.egress,
            Direction::Unknown => false,
        }
    }

    /// The cluster that policies are for.
    pub(crate) fn cluster(&self) -> &str {
        self.cluster
    }

    /// Allows what was seen at both ends.
    pub(crate) fn add(&mut self, key: &Key, seen: &Seen, parties: &Parties<'_>) {
        let l4 = (key.protocol, key.port);
        for (own, other, outgoing) in [(&key.to, &key.from, false), (&key.from, &key.to, true)] {
            let Party::Workload(number) = own else {
                continue;
            };
            if !self.is_asked_for(*number, parties) {
                continue;
            }
            let peers = self.peers(other, seen, outgoing);
            let (ingress, egress) = self.subjects.entry(*number).or_default();
            let side = if outgoing { egress } else { ingress };
            for peer in peers {
                *side.entry(peer).or_default().entry(l4).or_default() += seen.count;
            }
        }
    }

    fn is_asked_for(&mut self, number: usize, parties: &Parties<'_>) -> bool {
        let Some(workload) = parties.get(number) else {
            return false;
        };
        if workload.cluster != self.cluster {
            self.elsewhere.insert(workload.cluster.clone());
            return false;
        }
        let namespaces = &self.options.namespaces;
        namespaces.is_empty() || namespaces.contains(&workload.namespace)
    }

    fn peers(&mut self, party: &Party, seen: &Seen, outgoing: bool) -> Vec<Peer> {
        match (party, self.options.beyond) {
            (Party::Workload(number), _) => vec![Peer::Workload(*number)],
            (Party::Entity(word), _) => vec![Peer::Entity(word)],
            (Party::Address(_), Beyond::World) => vec![Peer::Entity("world")],
            (Party::Address(_), Beyond::Names) if outgoing && !seen.names.is_empty() => {
                self.names = true;
                seen.names.iter().cloned().map(Peer::Name).collect()
            }
            (Party::Address(ip), Beyond::Names | Beyond::Addresses) => vec![Peer::Address(*ip)],
        }
    }

    /// What is to be known of these rules.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.elsewhere.is_empty() {
            let names = self.elsewhere.iter().take(CLUSTERS_MAX);
            let mut names = Vec::from_iter(names.map(String::as_str)).join(", ");
            if let Some(more @ 1..) = self.elsewhere.len().checked_sub(CLUSTERS_MAX) {
                names.push_str(&format!(" and {more} more"));
            }
            notes.push(format!(
                "no policies for pods of other clusters than {:?}: {names}",
                self.cluster
            ));
        }
        if self.names {
            notes.push(
                "toFQDNs needs a proxy that hears the answers to DNS queries; `axon policy diff` \
                 does not know them"
                    .to_owned(),
            );
        }
        let addresses = |peers: &Peers| {
            let addresses = peers.keys().filter(|p| matches!(p, Peer::Address(_)));
            addresses.count()
        };
        let sides = self.subjects.values();
        let most = sides.map(|(ingress, egress)| addresses(ingress).max(addresses(egress)));
        if let Some(most) = most.max().filter(|most| *most > ADDRESSES_MANY) {
            notes.push(format!(
                "a workload has {most} addresses outside: `--outside world` makes them one"
            ));
        }
        notes
    }
}
