//! A lab whose pods, nodes and world are places to talk from and to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use axon_linux::netns;
use serde_json::Value;

use crate::case::{Cluster, Config, End, Probe, Protocol, Word};
use crate::common::axon;
use crate::events::{Drop, Events};
use crate::process::Process;
use crate::serve::{Ports, Servers};
use crate::support::{Lab, PATIENCE, eventually, lab_of, text};
use crate::talk::{self, Order, Outcome, Told};
use crate::world::{manifests, of_family};

/// How long an event of what has happened may take.
const EVENTS: Duration = PATIENCE;

/// A state to reach.
pub(crate) struct Wanted<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) config: &'a Config,
    pub(crate) policies: &'a [Value],
    pub(crate) probes: &'a [Probe],
}

impl Wanted<'_> {
    fn text(&self) -> String {
        self.text_with(None)
    }

    /// With one option more.
    fn text_with(&self, option: Option<(&str, &str)>) -> String {
        let mut objects = manifests(self.cluster, self.config, self.policies, self.probes);
        if let (Some((name, value)), Some(options)) = (option, objects.first_mut()) {
            options["data"][name] = value.into();
        }
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        documents.join("\n---\n")
    }
}

/// How agents come to start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// They were told to end.
    Ended,
    /// They were killed.
    Killed,
    /// Their nodes were started anew: nothing is pinned any more.
    Cold,
}

/// What came of the probes of a state.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What is not as expected.
    pub(crate) wrong: Vec<String>,
    /// How many were answered, but not the first time: machines are busy.
    pub(crate) late: usize,
}

/// A network namespace with servers in it.
struct Place {
    netns: PathBuf,
    inode: u64,
    node: Option<String>,
    ips: Vec<IpAddr>,
    /// None where nobody will be sought.
    servers: Option<Servers>,
}

/// A lab and who talks in it.
pub(crate) struct Bench {
    lab: Lab,
    dir: tempfile::TempDir,
    ports: Ports,
    places: BTreeMap<End, Place>,
    /// What stands for pods that Kubernetes has no labels for, by their ends.
    processes: BTreeMap<End, Process>,
    events: Events,
}

/// The world outside, where there is one place for all of its addresses.
fn outside() -> End {
    End::Ip(String::new())
}

fn place_of(end: &End) -> End {
    match end {
        End::Ip(_) => outside(),
        End::Pod(_) | End::Node(_) | End::Special(_) => end.clone(),
    }
}

fn absent(end: &End) -> String {
    format!("there is no {end}")
}

impl Bench {
    /// Brings a lab up in this state; none without the privileges for that.
    pub(crate) fn up(name: &str, wanted: &Wanted<'_>, ports: Ports) -> Option<Self> {
        let lab = lab_of(&axon(), name, &wanted.text())?;
        Some(Self {
            lab,
            dir: tempfile::tempdir().expect("a temporary directory"),
            ports,
            places: BTreeMap::new(),
            processes: BTreeMap::new(),
            events: Events::default(),
        })
    }

    /// Brings the lab into a state; it is in force on every node then.
    pub(crate) fn reach(&mut self, wanted: &Wanted<'_>) -> Result<(), String> {
        self.processes.clear();
        let file = self.dir.path().join("state.yaml");
        std::fs::write(&file, wanted.text()).map_err(|error| error.to_string())?;
        let file = file.to_str().unwrap_or_default();
        let done = self
            .lab
            .axon(&["apply", "--prune", "--timeout", "60", file]);
        if !done.status.success() {
            return Err(format!("axon lab apply: {}", text(&done)));
        }
        let status = self.lab.status();
        for pod in wanted
            .cluster
            .pods
            .iter()
            .filter(|pod| !pod.extra_labels.is_empty())
        {
            let end = End::Pod(format!("{}/{}", pod.namespace, pod.name));
            self.processes
                .insert(end, Process::start(&self.lab, &status, pod)?);
        }
        self.find_places(&status, wanted.cluster)?;
        self.serve(wanted.probes)?;
        self.events.listen(&status)
    }

    /// Has the agents of all nodes start anew, and reaches the state again.
    pub(crate) fn start_anew(&mut self, wanted: &Wanted<'_>, how: Start) -> Result<(), String> {
        match how {
            Start::Ended => self.signal("-TERM")?,
            Start::Killed => self.signal("-KILL")?,
            Start::Cold => self.reboot(wanted)?,
        }
        self.reach(wanted)
    }

    fn agents(&self) -> BTreeMap<String, Option<u64>> {
        let status = self.lab.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let agent = |node: &Value| {
            let name = node["name"].as_str().unwrap_or_default();
            (name.to_owned(), node["agentPid"].as_u64())
        };
        nodes.iter().map(agent).collect()
    }

    fn signal(&self, signal: &str) -> Result<(), String> {
        let before = self.agents();
        for pid in before.values().flatten() {
            let done = Command::new("kill")
                .args([signal, &pid.to_string()])
                .status();
            done.map_err(|error| format!("kill: {error}"))?;
        }
        eventually("every node has another agent", || {
            let now = self.agents();
            before.iter().all(|(node, old)| {
                let new = now.get(node).copied().flatten();
                new.is_some() && new != *old
            })
        });
        Ok(())
    }

    /// Takes every agent away, and everything out of the kernel, as reboots do.
    fn reboot(&self, wanted: &Wanted<'_>) -> Result<(), String> {
        let file = self.dir.path().join("away.yaml");
        // No agent starts with such an option.
        let away = wanted.text_with(Some(("mtu", "big")));
        std::fs::write(&file, away).map_err(|error| error.to_string())?;
        let file = file.to_str().unwrap_or_default();
        let done = self.lab.axon(&["apply", "--prune", "--no-wait", file]);
        if !done.status.success() {
            return Err(format!("axon lab apply: {}", text(&done)));
        }
        for node in self.agents().into_keys() {
            eventually("the agent is away", || {
                self.lab.try_ask(&node, "/v1/healthz").is_err()
            });
            self.lab.forget(&node);
        }
        Ok(())
    }

    /// Keeps a place for every namespace there is.
    fn find_places(&mut self, status: &Value, cluster: &Cluster) -> Result<(), String> {
        let mut found = seen(status, &self.lab.name);
        for pod in &cluster.pods {
            let end = End::Pod(format!("{}/{}", pod.namespace, pod.name));
            if let Some(process) = self.processes.get(&end) {
                let ips = pod.ip.parse().into_iter().collect();
                let node = Some(pod.node.clone());
                found.insert(end, (process.netns.clone(), node, ips));
            }
        }
        // Numbers are given again, but not while servers are in there.
        self.places.retain(|end, place| {
            found.get(end).is_some_and(|(netns, ..)| {
                *netns == place.netns && netns::inode_of(netns).ok() == Some(place.inode)
            })
        });
        for (end, (netns, node, ips)) in found {
            if let Some(place) = self.places.get_mut(&end) {
                place.ips = ips;
                continue;
            }
            let inode = netns::inode_of(&netns);
            let place = Place {
                inode: inode.map_err(|error| format!("the namespace of {end}: {error}"))?,
                netns,
                node,
                ips,
                servers: None,
            };
            self.places.insert(end, place);
        }
        Ok(())
    }

    /// Has servers wherever these probes go.
    fn serve(&mut self, probes: &[Probe]) -> Result<(), String> {
        for probe in probes {
            let to = &probe.to;
            let place = self
                .places
                .get_mut(&place_of(to))
                .ok_or_else(|| absent(to))?;
            if place.servers.is_none() {
                let servers = Servers::start(place.netns.clone(), self.ports.clone());
                let failed = |error| format!("servers in {to}: {error}");
                place.servers = Some(servers.map_err(failed)?);
            }
        }
        Ok(())
    }

    fn place(&self, end: &End) -> Result<&Place, String> {
        self.places.get(&place_of(end)).ok_or_else(|| absent(end))
    }

    fn address(&self, end: &End, v6: bool) -> Result<IpAddr, String> {
        let found = match end {
            End::Ip(ip) => of_family([ip.as_str()].into_iter(), v6),
            End::Pod(_) | End::Node(_) | End::Special(_) => {
                let mut ips = self.place(end)?.ips.iter().copied();
                ips.find(|ip| ip.is_ipv6() == v6)
            }
        };
        found.ok_or_else(|| format!("{end} has no address of that family"))
    }

    fn order(&self, probe: &Probe) -> Result<Order, String> {
        let v6 = probe.is_v6();
        let from = match &probe.from {
            End::Ip(_) => Some(self.address(&probe.from, v6)?),
            End::Pod(_) | End::Node(_) | End::Special(_) => None,
        };
        Ok(Order {
            protocol: probe.protocol,
            from,
            to: self.address(&probe.to, v6)?,
            port: probe.port,
            icmp_type: probe.icmp_type,
            is_hopeful: probe.expect == Word::Allow,
        })
    }

    /// Tries everything at once, and tells what is not as expected.
    pub(crate) fn check(&self, probes: &[Probe]) -> Result<Found, String> {
        self.events.forget();
        for servers in self
            .places
            .values()
            .filter_map(|place| place.servers.as_ref())
        {
            servers.forget();
        }
        let mut by_place: BTreeMap<&Path, (Vec<usize>, Vec<Order>)> = BTreeMap::new();
        for (number, probe) in probes.iter().enumerate() {
            let (numbers, orders) = by_place.entry(&self.place(&probe.from)?.netns).or_default();
            numbers.push(number);
            orders.push(self.order(probe)?);
        }
        let mut told = vec![Told::default(); probes.len()];
        std::thread::scope(|scope| {
            let running: Vec<_> = by_place
                .iter()
                .map(|(netns, (numbers, orders))| {
                    (numbers, scope.spawn(move || talk::talk(netns, orders)))
                })
                .collect();
            for (numbers, thread) in running {
                let all = thread.join().map_err(|_| "a client panicked".to_owned())?;
                let all = all.map_err(|error| format!("entering a namespace: {error}"))?;
                for (number, one) in numbers.iter().zip(all) {
                    told[*number] = one;
                }
            }
            Ok::<_, String>(())
        })?;
        let end = Instant::now() + EVENTS;
        let mut found = Found::default();
        for (probe, told) in probes.iter().zip(&told) {
            match self.judge(probe, told, end) {
                Some(what) => found.wrong.push(format!("{probe}: {what}")),
                None if probe.expect == Word::Allow => {
                    found.late += usize::from(told.tries.len() > 1);
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// What is wrong, if anything.
    fn judge(&self, probe: &Probe, told: &Told, end: Instant) -> Option<String> {
        if let Some(problem) = &told.problem {
            return Some(problem.clone());
        }
        let seen = self.was_seen(probe, told);
        match (probe.expect, told.outcome) {
            (Word::Redirect, _) => Some("no proxy is there".to_owned()),
            (Word::Allow, Outcome::Answered) => None,
            (Word::Allow, outcome) => Some(format!(
                "expected an answer, got {outcome:?}; {}{}",
                if seen {
                    "the server saw it"
                } else {
                    "the server saw nothing"
                },
                self.drops_of(probe, told)
            )),
            (Word::Deny, Outcome::Silent) if !seen => self.misjudged(probe, told, end),
            (Word::Deny, Outcome::Silent) => Some("denied, but the server saw it".to_owned()),
            (Word::Deny, outcome) => Some(format!("expected silence, got {outcome:?}")),
        }
    }

    fn was_seen(&self, probe: &Probe, told: &Told) -> bool {
        let servers = self
            .place(&probe.to)
            .ok()
            .and_then(|place| place.servers.as_ref());
        let Some(servers) = servers else {
            return false;
        };
        servers.seen(|seen| {
            told.tries.iter().any(|one| {
                let accepted = probe.protocol == Protocol::Tcp && seen.peers.contains(&one.source);
                accepted || seen.numbers.contains(&one.number)
            })
        })
    }

    /// Whether another end than expected has denied it, by the events.
    fn misjudged(&self, probe: &Probe, told: &Told, end: Instant) -> Option<String> {
        let (at, direction) = match (probe.egress, probe.ingress) {
            (Some(Word::Deny), _) => (&probe.from, "EGRESS"),
            (_, Some(Word::Deny)) => (&probe.to, "INGRESS"),
            _ => return None,
        };
        let node = self.place(at).ok()?.node.clone()?;
        for one in &told.tries {
            let drops = loop {
                let drops = self.drops(probe, one);
                if !drops.is_empty() || Instant::now() > end {
                    break drops;
                }
                std::thread::sleep(Duration::from_millis(10));
            };
            if drops.is_empty() {
                return Some(format!("denied, but no event tells of {}", one.source));
            }
            let is_right = |drop: &Drop| {
                drop.node == node
                    && drop.direction == direction
                    && match probe.auth {
                        Some(_) => drop.reason == "AUTH_REQUIRED",
                        None => drop.reason.starts_with("POLICY_DEN"),
                    }
            };
            if let Some(other) = drops.iter().find(|drop| !is_right(drop)) {
                return Some(format!(
                    "expected {direction} of {node} to deny it, got {other:?}"
                ));
            }
        }
        None
    }

    fn drops(&self, probe: &Probe, one: &talk::Try) -> std::collections::BTreeSet<Drop> {
        let Ok(ip) = self.address(&probe.to, probe.is_v6()) else {
            return Default::default();
        };
        let port = match probe.protocol {
            Protocol::Icmp | Protocol::IcmpV6 => u16::from(probe.icmp_type),
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => probe.port,
        };
        self.events
            .of(&(probe.protocol, one.source, SocketAddr::new(ip, port)))
    }

    /// The drops of what should have passed, for people.
    fn drops_of(&self, probe: &Probe, told: &Told) -> String {
        let all = told.tries.iter().flat_map(|one| self.drops(probe, one));
        let all: std::collections::BTreeSet<Drop> = all.collect();
        all.iter()
            .map(|drop| {
                format!(
                    "; dropped: {} of {}, {}",
                    drop.direction, drop.node, drop.reason
                )
            })
            .collect()
    }
}

/// The namespaces that a lab's status tells of, each with its node and
/// addresses.
fn seen(status: &Value, lab: &str) -> BTreeMap<End, (PathBuf, Option<String>, Vec<IpAddr>)> {
    let mut found = BTreeMap::new();
    let address = |text: &Value| text.as_str()?.parse().ok();
    for pod in list(status, "pods") {
        let name = format!("{}/{}", word(pod, "namespace"), word(pod, "name"));
        let ips = [&pod["ipv4"], &pod["ipv6"]].into_iter().filter_map(address);
        let node = Some(word(pod, "node").to_owned());
        found.insert(
            End::Pod(name),
            (word(pod, "netns").into(), node, ips.collect()),
        );
    }
    for node in list(status, "nodes") {
        let name = word(node, "name").to_owned();
        let ips = list(node, "addresses").iter().filter_map(address).collect();
        let netns = word(node, "netns").into();
        found.insert(End::Node(name.clone()), (netns, Some(name), ips));
    }
    let world = format!("/run/axon-lab/{lab}/netns/outside");
    found.insert(outside(), (world.into(), None, Vec::new()));
    found
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn word<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}
