//! What becomes of flows that were recorded.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{Labels, Protocol};
use serde::Serialize;

use crate::change::decision;
use crate::ends::{Workload, workloads};
use crate::line::{Endpoint, read};
use crate::world::Owner;
use crate::{Decision, Described, End, Problem, World};

/// Different flows that are kept.
const FLOWS_MAX: usize = 1_000_000;

/// Recorded flows, each once with how often it was seen, and what was left out.
#[derive(Debug)]
pub struct Flows<'a> {
    cluster: &'a Described,
    world: &'a World,
    workloads: BTreeMap<Identity, Workload>,
    by_labels: BTreeMap<&'a Labels, Identity>,
    /// Seen how often, by ends, protocol and port.
    seen: BTreeMap<Key, (u64, (End, End))>,
    /// Lines that are replies: they follow what they answer.
    pub replies: u64,
    /// Lines that hold no flow that policy decides on (lost events, say).
    pub others: u64,
    /// Lines of pods that are not described.
    pub strangers: u64,
    /// Lines beyond the number of different flows that are kept.
    pub beyond: u64,
}

type Key = (String, String, Protocol, u16);

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowChange {
    /// Who opened it.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Protocol and port.
    pub port: String,
    /// How often it was recorded.
    pub count: u64,
    /// What becomes of it now.
    pub before: Decision,
    /// What would.
    pub after: Decision,
}

impl<'a> Flows<'a> {
    /// None yet, of a cluster as it is described and as it is now.
    pub fn new(cluster: &'a Described, world: &'a World) -> Self {
        let workloads = workloads(world).into_iter().map(|w| (w.identity, w));
        let workloads: BTreeMap<Identity, Workload> = workloads.collect();
        let known = workloads.keys();
        let known = known.filter_map(|id| Some((&world.people.identities.get(id)?.labels, *id)));
        Self {
            cluster,
            world,
            by_labels: known.collect(),
            workloads,
            seen: BTreeMap::new(),
            replies: 0,
            others: 0,
            strangers: 0,
            beyond: 0,
        }
    }

    /// Takes a line.
    ///
    /// # Errors
    /// It is no flow.
    pub fn add(&mut self, text: &[u8]) -> Result<(), Problem> {
        let line = read(text)?;
        if line.is_reply == Some(true) {
            self.replies += 1;
            return Ok(());
        }
        let (Some(ip), Some((protocol, port, _))) = (&line.ip, line.l4()?) else {
            self.others += 1;
            return Ok(());
        };
        let source = self.find(&line.source, ip.source);
        let destination = self.find(&line.destination, ip.destination);
        let (Some(source), Some(destination)) = (source, destination) else {
            self.strangers += 1;
            return Ok(());
        };
        let ends = (
            self.place(&source.1, &destination.1),
            self.place(&destination.1, &source.1),
        );
        let key = (source.0, destination.0, protocol, port);
        if self.seen.len() >= FLOWS_MAX && !self.seen.contains_key(&key) {
            self.beyond += 1;
            return Ok(());
        }
        self.seen.entry(key).or_insert((0, ends)).0 += 1;
        Ok(())
    }

    /// What becomes of each, now and then.
    ///
    /// # Errors
    /// An end that is not there.
    pub fn judge(&self, before: &World, after: &World) -> Result<Vec<FlowChange>, Problem> {
        let judged = self.seen.iter().map(|(key, (count, (from, to)))| {
            let (source, destination, protocol, port) = key;
            let l4 = (*protocol, *port);
            let of = |world: &World| {
                world
                    .connection(from, to, l4)
                    .map(|verdict| decision(world, verdict))
            };
            Ok(FlowChange {
                from: source.clone(),
                to: destination.clone(),
                port: format!("{protocol} {port}"),
                count: *count,
                before: of(before)?,
                after: of(after)?,
            })
        });
        judged.collect()
    }
}

/// Who an end of a flow is.
enum Who {
    Pod(usize),
    Is(End),
    /// The node of the other end.
    Host,
}

impl Flows<'_> {
    /// What an end is called, and who it is; nothing for who is not described.
    fn find(&self, endpoint: &Endpoint, ip: IpAddr) -> Option<(String, Who)> {
        let reserved = |name: &str| {
            let mut labels = endpoint.labels.iter();
            labels.any(|label| label.strip_prefix("reserved:") == Some(name))
        };
        let pods = &self.world.pods;
        let named = (endpoint.namespace.clone(), endpoint.pod_name.clone());
        let further = self.cluster.further.get(&ip);
        if let Some(n) = pods.get(&named).or_else(|| pods.get(further?)) {
            return self.pod(*n);
        }
        if !endpoint.pod_name.is_empty() {
            return self.alike(&endpoint.labels);
        }
        let node = |node: &crate::Node| Who::Is(End::Node(node.name.clone()));
        let cluster = &self.world.cluster;
        match self.world.owners.get(&ip) {
            _ if reserved("host") => Some(("host".to_owned(), Who::Host)),
            Some(Owner::Pod(n)) => self.pod(*n),
            Some(Owner::Node(n)) => {
                let found = cluster.nodes.get(*n)?;
                Some((format!("node {}", found.name), node(found)))
            }
            Some(Owner::Special(_)) => None,
            None if reserved("remote-node") => {
                Some(("remote-node".to_owned(), node(cluster.nodes.last()?)))
            }
            None if is_outside(&endpoint.labels) => Some((ip.to_string(), Who::Is(End::Ip(ip)))),
            None => self.alike(&endpoint.labels),
        }
    }

    fn pod(&self, index: usize) -> Option<(String, Who)> {
        let identity = self.world.people.pods.get(index)?;
        let workload = self.workloads.get(identity)?;
        Some((workload.name.clone(), Who::Pod(index)))
    }

    /// The workload of a pod that is not there any more, by its labels.
    fn alike(&self, labels: &[String]) -> Option<(String, Who)> {
        let labels = labels.iter().filter_map(|label| label.parse().ok());
        let labels: Labels = labels.collect();
        let workload = self.workloads.get(self.by_labels.get(&labels)?)?;
        Some((workload.name.clone(), Who::Is(workload.pod.clone())))
    }

    /// An end as it is asked about.
    fn place(&self, who: &Who, other: &Who) -> End {
        let cluster = &self.world.cluster;
        let path = |n: usize| {
            let pod = cluster.pods.get(n);
            End::Pod(pod.map_or_else(String::new, |p| format!("{}/{}", p.namespace, p.name)))
        };
        match (who, other) {
            (Who::Pod(n), _) => path(*n),
            (Who::Is(end), _) => end.clone(),
            (Who::Host, Who::Pod(n)) => {
                let pod = cluster.pods.get(*n);
                End::Node(pod.map_or_else(String::new, |pod| pod.node.clone()))
            }
            (Who::Host, Who::Is(_) | Who::Host) => {
                let first = cluster.nodes.first();
                End::Node(first.map_or_else(String::new, |node| node.name.clone()))
            }
        }
    }
}

/// Whether labels are those of addresses outside; so are none.
fn is_outside(labels: &[String]) -> bool {
    let starts = [
        "reserved:world",
        "reserved:kube-apiserver",
        "reserved:unknown",
        "cidr:",
        "fqdn:",
    ];
    let outside = |label: &String| starts.iter().any(|start| label.starts_with(start));
    labels.is_empty() || labels.iter().any(outside)
}
