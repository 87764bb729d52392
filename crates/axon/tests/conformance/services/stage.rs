//! A lab of service cases: brought into a state, with servers wherever somebody may
//! answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use axon_linux::{cgroup, netns};
use serde_json::Value;

use super::case::{Case, From, Likeness, Probe, State};
use super::echo::{Names, Servers};
use super::settle::settle;
use super::world::{self, asked, declared, manifests};
use crate::case::Protocol;
use crate::common::axon;
use crate::support::{Lab, lab_of, text};

/// A namespace, and who is in it.
pub(super) struct Place {
    pub(super) netns: PathBuf,
    inode: u64,
    pub(super) ips: Vec<IpAddr>,
    /// Where the node's processes are, whose sockets its agent leads to backends.
    cgroup: Option<PathBuf>,
}

/// This process among those of a node, until dropped: a socket belongs to the group
/// in which it was made.
pub(super) struct Among {
    home: PathBuf,
}

impl Among {
    pub(super) fn enter(place: &Place) -> io::Result<Option<Self>> {
        let Some(group) = &place.cgroup else {
            return Ok(None);
        };
        let home = cgroup::mount_point()?.join(cgroup::current()?);
        cgroup::create(group)?;
        cgroup::enter(group, std::process::id())?;
        Ok(Some(Self { home }))
    }
}

impl Drop for Among {
    fn drop(&mut self) {
        cgroup::enter(&self.home, std::process::id()).expect("back where it was");
    }
}

/// Servers of a namespace, while it is the same one.
struct Served {
    inode: u64,
    servers: Servers,
}

/// Servers that a namespace is to have.
#[derive(Default)]
struct Wanted {
    inode: u64,
    names: Names,
    ports: BTreeSet<(Protocol, u16)>,
}

/// A lab, and who talks in it.
pub(super) struct Stage {
    lab: Lab,
    dir: tempfile::TempDir,
    /// What it is.
    is: Likeness,
    /// The number of its marker.
    number: u16,
    /// The sockets of the agents, by their nodes.
    pub(super) agents: Vec<(String, PathBuf)>,
    pods: BTreeMap<String, Place>,
    pub(super) nodes: BTreeMap<String, Place>,
    outside: Option<Place>,
    served: BTreeMap<PathBuf, Served>,
    /// Routes of the world that were made for a state.
    routes: Vec<String>,
}

/// The first number of a marker.
const FIRST: u16 = 1;

impl Stage {
    pub(super) fn up(case: &Case) -> Option<Self> {
        let mut state = case.states().into_iter().next()?;
        alone(&mut state);
        let lab = lab_of(&axon(), "services", &manifests(case, &state, FIRST))?;
        let told = lab.axon(&["services", "-o", "json"]);
        let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
        if told["servedByAgents"] != true {
            return None;
        }
        Some(Self {
            lab,
            dir: tempfile::tempdir().expect("a temporary directory"),
            is: case.lab(),
            number: FIRST,
            agents: Vec::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            outside: None,
            served: BTreeMap::new(),
            routes: Vec::new(),
        })
    }

    /// Whether it can be made what a case asks for.
    pub(super) fn can_become(&self, case: &Case) -> bool {
        self.is.can_become(&case.lab())
    }

    /// Makes it what a case asks for.
    pub(super) fn become_like(&mut self, case: &Case) -> Result<(), String> {
        if self.is == case.lab() {
            return Ok(());
        }
        let mut state = case.states().into_iter().next().ok_or("no state")?;
        alone(&mut state);
        self.apply(case, &state)?;
        self.is = case.lab();
        Ok(())
    }

    fn apply(&self, case: &Case, state: &State<'_>) -> Result<(), String> {
        let file = self.dir.path().join("state.yaml");
        let objects = manifests(case, state, self.number);
        std::fs::write(&file, objects).map_err(|error| error.to_string())?;
        let file = file.to_str().unwrap_or_default();
        let done = self
            .lab
            .axon(&["apply", "--prune", "--timeout", "60", file]);
        if !done.status.success() {
            return Err(format!("axon lab apply: {}", text(&done)));
        }
        Ok(())
    }

    /// Brings the lab into a state; it is in force on every node then.
    pub(super) fn reach(&mut self, case: &Case, state: &State<'_>) -> Result<(), String> {
        self.apply(case, state)?;
        let status = self.lab.status();
        self.find_places(&status)?;
        self.agents = agents(&status);
        settle(&self.lab, self.dir.path(), &self.agents, &mut self.number)?;
        self.serve(case, state)
    }

    fn find_places(&mut self, status: &Value) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ip = |value: &Value| value.as_str()?.parse().ok();
        let groups = cgroup::mount_point().map_err(|error| error.to_string())?;
        let groups = groups.join("axon-lab").join(&self.lab.name);
        let place = |netns: PathBuf, ips: Vec<IpAddr>, node: Option<&Value>| {
            let inode = netns::inode_of(&netns);
            let inode = inode.map_err(|error| format!("{}: {error}", netns.display()))?;
            let node = node.and_then(Value::as_str);
            Ok::<_, String>(Place {
                netns,
                inode,
                ips,
                cgroup: node.map(|node| groups.join(node).join("host")),
            })
        };
        self.pods.clear();
        self.nodes.clear();
        for pod in status["pods"].as_array().into_iter().flatten() {
            let name = format!("{}/{}", text(&pod["namespace"]), text(&pod["name"]));
            let ips = [&pod["ipv4"], &pod["ipv6"]]
                .into_iter()
                .filter_map(ip)
                .collect();
            self.pods.insert(
                name,
                place(text(&pod["netns"]).into(), ips, pod.get("node"))?,
            );
        }
        for node in status["nodes"].as_array().into_iter().flatten() {
            let netns: PathBuf = text(&node["netns"]).into();
            let mut ips: Vec<IpAddr> = Vec::new();
            ips.extend(
                node["addresses"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(ip),
            );
            // Also those that nobody was told of: its router's.
            let own = netns::within_path(&netns, addresses).map_err(|error| error.to_string())?;
            ips.extend(own);
            let place = place(netns, ips, node.get("name"))?;
            self.nodes.insert(text(&node["name"]), place);
        }
        let netns = format!("/run/axon-lab/{}/netns/outside", self.lab.name);
        self.outside = Some(place(netns.into(), Vec::new(), None)?);
        Ok(())
    }

    /// Has servers wherever somebody may answer.
    fn serve(&mut self, case: &Case, state: &State<'_>) -> Result<(), String> {
        let wanted = self.wanted(case, state);
        self.served.retain(|netns, served| {
            let same = |wanted: &Wanted| {
                wanted.inode == served.inode && wanted.ports.is_subset(&served.servers.ports)
            };
            wanted.get(netns).is_some_and(same)
        });
        for (netns, wanted) in wanted {
            if let Some(served) = self.served.get(&netns) {
                served.servers.rename(wanted.names);
                continue;
            }
            let servers = Servers::start(netns.clone(), wanted.names, wanted.ports);
            let failed = |error| format!("servers in {}: {error}", netns.display());
            let servers = servers.map_err(failed)?;
            let inode = wanted.inode;
            self.served.insert(netns, Served { inode, servers });
        }
        Ok(())
    }

    /// The servers that each namespace is to have.
    fn wanted(&self, case: &Case, state: &State<'_>) -> BTreeMap<PathBuf, Wanted> {
        let mut all = BTreeMap::<PathBuf, Wanted>::new();
        let asked = asked(case);
        let nodes: BTreeSet<&PathBuf> = self.nodes.values().map(|node| &node.netns).collect();
        for object in state.objects.iter().filter(|o| o["kind"] == "Pod") {
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
            let name = format!("{}/{}", text("namespace"), text("name"));
            let Some(place) = self.pods.get(&name) else {
                continue;
            };
            let wanted = all.entry(place.netns.clone()).or_default();
            wanted.inode = place.inode;
            let own = declared(object);
            if nodes.contains(&place.netns) {
                // What the node answers at others is for the case to tell.
                let named = own.iter().map(|port| (*port, name.clone()));
                wanted.names.by_port.extend(named);
            } else {
                wanted.names.other = name;
                wanted.ports.extend(asked.iter().copied());
            }
            wanted.ports.extend(own);
        }
        for listener in &case.listeners {
            if let Some(place) = self.nodes.get(&listener.node) {
                let wanted = all.entry(place.netns.clone()).or_default();
                wanted.inode = place.inode;
                let port = (listener.protocol, listener.port);
                let name = format!("node/{}", listener.node);
                wanted.names.by_port.insert(port, name);
                wanted.ports.insert(port);
            }
        }
        if let Some(place) = self.outside.as_ref().filter(|_| !case.outside.is_empty()) {
            let wanted = all.entry(place.netns.clone()).or_default();
            wanted.inode = place.inode;
            for host in &case.outside {
                let name = format!("outside/{}", host.name);
                let named = host.addresses.iter().map(|ip| (*ip, name.clone()));
                wanted.names.by_address.extend(named);
            }
            wanted.ports = asked;
        }
        all
    }

    /// Where one asks from, and with which addresses.
    pub(super) fn client<'a>(
        &'a self,
        case: &'a Case,
        from: &From,
    ) -> Result<(&'a Place, Vec<IpAddr>), String> {
        let absent = || format!("there is no {}", world::name(from));
        match from {
            From::Pod(name) => {
                let place = self.pods.get(name).ok_or_else(absent)?;
                Ok((place, place.ips.clone()))
            }
            From::Node(name) => {
                let place = self.nodes.get(name).ok_or_else(absent)?;
                Ok((place, place.ips.clone()))
            }
            From::Outside(name) => {
                let place = self.outside.as_ref().ok_or_else(absent)?;
                let host = case.outside.iter().find(|host| host.name == *name);
                Ok((place, host.ok_or_else(absent)?.addresses.clone()))
            }
        }
    }

    /// Leads what hosts outside send to an address to the node that a probe names.
    pub(super) fn route(&mut self, probe: &Probe) -> Result<(), String> {
        let Some(via) = &probe.to.via else {
            return Ok(());
        };
        let to = probe.to.address;
        let node = self
            .nodes
            .get(via)
            .ok_or_else(|| format!("there is no node {via}"))?;
        let mut ips = node.ips.iter();
        let gateway = ips
            .find(|ip| ip.is_ipv6() == to.is_ipv6())
            .ok_or("no address of that family")?;
        if *gateway == to {
            return Ok(());
        }
        let (to, gateway) = (to.to_string(), gateway.to_string());
        let done = self.lab.run(
            "node:outside",
            &[
                "ip", "route", "replace", &to, "via", &gateway, "dev", "eth0",
            ],
        );
        if !done.status.success() {
            return Err(format!("a route to {to}: {}", text(&done)));
        }
        self.routes.push(to);
        Ok(())
    }

    pub(super) fn forget_routes(&mut self) {
        for to in std::mem::take(&mut self.routes) {
            // One that is gone already is gone.
            let _ = self.lab.run("node:outside", &["ip", "route", "del", &to]);
        }
    }
}

/// The sockets of the agents of a lab, by their nodes.
fn agents(status: &Value) -> Vec<(String, PathBuf)> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let agent = |node: &Value| -> Option<(String, PathBuf)> {
        let socket = node["apiSocket"].as_str()?;
        Some((node["name"].as_str()?.to_owned(), socket.into()))
    };
    nodes.filter_map(agent).collect()
}

/// Leaves the nodes alone in a state. Agents that run see everything being written. What
/// is there when they come they do not know to be whole, and may read it later than a
/// marker.
fn alone(state: &mut State<'_>) {
    state.objects.retain(|object| object["kind"] == "Node");
}

/// The addresses of the namespace that this thread is in, but for those of its
/// loopback.
fn addresses() -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ips = all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip()));
        v4.or(v6)
    });
    ips.filter(|ip| !ip.is_loopback()).collect()
}
