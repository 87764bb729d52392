//! Plays service cases: those of like nodes and options in one lab.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axon_linux::{cgroup, netns};
use serde_json::Value;

use super::ask::{self, Open, Order, PATIENCE, Told};
use super::case::{Case, Connection, Continues, Expected, From, Probe, Reply, State};
use super::echo::{Names, Servers};
use super::judge::{self, Addresses};
use super::settle::settle;
use super::world::{self, asked, declared, manifests, unasked};
use crate::case::Protocol;
use crate::common::axon;
use crate::report::{Outcome, Row};
use crate::support::{Lab, lab_of, text};

/// A namespace, and who is in it.
struct Place {
    netns: PathBuf,
    inode: u64,
    ips: Vec<IpAddr>,
    /// Where the node's processes are, whose sockets its agent leads to backends.
    cgroup: Option<PathBuf>,
}

/// This process among those of a node, until dropped: a socket belongs to the group
/// in which it was made.
struct Among {
    home: PathBuf,
}

impl Among {
    fn enter(place: &Place) -> io::Result<Option<Self>> {
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
struct Stage {
    lab: Lab,
    dir: tempfile::TempDir,
    /// The number of its marker.
    number: u16,
    pods: BTreeMap<String, Place>,
    nodes: BTreeMap<String, Place>,
    outside: Option<Place>,
    served: BTreeMap<PathBuf, Served>,
    /// Routes of the world that were made for a state.
    routes: Vec<String>,
}

/// The first number of a marker.
const FIRST: u16 = 1;

/// What is kept of a case from state to state.
#[derive(Default)]
struct Memory {
    /// Connections that are open, by name.
    open: BTreeMap<String, Open>,
    /// Who answered first, by probe.
    first: BTreeMap<String, String>,
}

/// Plays cases, and tells what came of all of them; none if agents do not serve
/// services, or if that takes privileges that are not there.
pub(crate) fn play(cases: &[Case]) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let mut labs: BTreeMap<String, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        match case.skipped().or_else(|| unasked(case)) {
            Some(reason) => rows.push(row(case, Outcome::Skipped(reason))),
            None => labs.entry(case.kind_of_lab()).or_default().push(case),
        }
    }
    for cases in labs.values() {
        let mut stage = Stage::up(cases.first()?)?;
        rows.extend(cases.iter().map(|case| stage.case(case)));
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Some(rows)
}

fn row(case: &Case, outcome: Outcome) -> Row {
    Row {
        name: case.name.clone(),
        title: case.title.clone(),
        group: case.kind.clone(),
        outcome,
        states: 0,
        probes: 0,
        late: 0,
        took: Duration::ZERO,
    }
}

impl Stage {
    fn up(case: &Case) -> Option<Self> {
        let mut state = case.states().into_iter().next()?;
        // Nodes alone: agents that run see everything being written. What is there when
        // they come they do not know to be whole, and may read it later than a marker.
        state.objects.retain(|object| object["kind"] == "Node");
        let lab = lab_of(&axon(), "services", &manifests(case, &state, FIRST))?;
        let told = lab.axon(&["services", "-o", "json"]);
        let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
        if told["servedByAgents"] != true {
            return None;
        }
        Some(Self {
            lab,
            dir: tempfile::tempdir().expect("a temporary directory"),
            number: FIRST,
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            outside: None,
            served: BTreeMap::new(),
            routes: Vec::new(),
        })
    }

    fn case(&mut self, case: &Case) -> Row {
        let began = Instant::now();
        let mut row = row(case, Outcome::Passed);
        let mut memory = Memory::default();
        let mut wrong = Vec::new();
        for (n, state) in case.states().iter().enumerate() {
            let line = |what: String| format!("state {n}: {what}");
            row.states += 1;
            row.probes += state.probes.len();
            if let Err(problem) = self.reach(case, state) {
                wrong.push(line(problem));
                break;
            }
            std::thread::sleep(Duration::from_secs(state.wait));
            for probe in state.probes {
                let found = self.probe(case, probe, &mut memory);
                let found = found.unwrap_or_else(|problem| vec![problem]);
                let from = world::name(&probe.from);
                let to = SocketAddr::new(probe.to.address, probe.to.port);
                let named = |what| line(format!("{}: {from} -> {to}: {what}", probe.id));
                wrong.extend(found.into_iter().map(named));
            }
            self.forget_routes();
        }
        row.took = began.elapsed();
        if !wrong.is_empty() {
            row.outcome = match case.unsure {
                true => Outcome::Unsure(wrong),
                false => Outcome::Failed(wrong),
            };
        }
        row.tell();
        row
    }

    /// Brings the lab into a state; it is in force on every node then.
    fn reach(&mut self, case: &Case, state: &State<'_>) -> Result<(), String> {
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
        let status = self.lab.status();
        self.find_places(&status)?;
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let agent = |node: &'_ Value| -> Option<(String, PathBuf)> {
            let socket = node["apiSocket"].as_str()?;
            Some((node["name"].as_str()?.to_owned(), socket.into()))
        };
        let agents: Vec<(String, PathBuf)> = nodes.filter_map(agent).collect();
        settle(&self.lab, self.dir.path(), &agents, &mut self.number)?;
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
    fn client<'a>(
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

    fn probe(
        &mut self,
        case: &Case,
        probe: &Probe,
        memory: &mut Memory,
    ) -> Result<Vec<String>, String> {
        self.route(probe)?;
        let expected = probe.expected()?;
        let (place, own) = self.client(case, &probe.from)?;
        let is_v6 = probe.to.address.is_ipv6();
        let is_outside = matches!(probe.from, From::Outside(_));
        let order = Order {
            protocol: probe.protocol,
            from: own
                .iter()
                .copied()
                .find(|ip| ip.is_ipv6() == is_v6 && is_outside),
            source_port: probe.same_source_port,
            to: SocketAddr::new(probe.to.address, probe.to.port),
            wait: expected.wait(),
        };
        let failed = |error: io::Error| error.to_string();
        let _among = Among::enter(place).map_err(failed)?;
        if let Some(path) = &probe.http {
            return health(&place.netns, &order, path, &expected).map_err(failed);
        }
        if let Some(Connection::Use(name)) = &probe.connection {
            let open = memory
                .open
                .get_mut(name)
                .ok_or("that connection is not open")?;
            let told = ask::again(open, order.wait);
            let is_over = matches!(told, Told::Refused(..));
            let new = match expected.continues {
                Some(Continues::Moves) if is_over => {
                    ask::all(&place.netns, &order, 1).map_err(failed)?.pop()
                }
                _ => None,
            };
            let new = new.map(|(told, _)| told);
            return Ok(judge::continues(&told, new.as_ref(), &expected)
                .into_iter()
                .collect());
        }
        let (told, mut open): (Vec<Told>, Vec<Option<Open>>) =
            ask::all(&place.netns, &order, probe.count)
                .map_err(failed)?
                .into_iter()
                .unzip();
        if let Some(Connection::Open(name)) = &probe.connection
            && let Some(kept) = open.pop().flatten()
        {
            memory.open.insert(name.clone(), kept);
        }
        let addresses = Addresses {
            own: own.into_iter().collect(),
            nodes: self
                .nodes
                .values()
                .flat_map(|node| node.ips.clone())
                .collect(),
        };
        let before = probe
            .compare_with
            .as_ref()
            .and_then(|id| memory.first.get(id));
        let wrong = judge::wrong(&told, &expected, &addresses, before.map(String::as_str));
        if let Some(first) = judge::backends(&told).into_keys().next() {
            memory.first.insert(probe.id.clone(), first.to_owned());
        }
        Ok(wrong)
    }

    /// Leads what hosts outside send to an address to the node that a probe names.
    fn route(&mut self, probe: &Probe) -> Result<(), String> {
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

    fn forget_routes(&mut self) {
        for to in std::mem::take(&mut self.routes) {
            // One that is gone already is gone.
            let _ = self.lab.run("node:outside", &["ip", "route", "del", &to]);
        }
    }
}

/// What is wrong with what a node tells of its backends. No marker says when it
/// follows: it is asked until it is right.
fn health(netns: &Path, order: &Order, path: &str, expected: &Expected) -> io::Result<Vec<String>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = ask::health(netns, order, path)?;
        let is_right = match expected.result {
            Some(Reply::Answer) | None => {
                told.is_some() && (expected.health.is_none() || told == expected.health)
            }
            Some(_) => told.is_none(),
        };
        if is_right {
            return Ok(Vec::new());
        }
        if Instant::now() > end {
            let wanted = &expected.health;
            return Ok(vec![format!("told {told:?}; expected {wanted:?}")]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
