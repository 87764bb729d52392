//! A deployment is rolled under traffic: every backend is replaced, one by one, and no
//! connection is hurt but those of a backend that has ended.
//!
//! ```text
//!  one more is ready, one is to go ──> rows on both nodes ──> what began before is over ──> it ends
//! ```
//!
//! Nothing waits for a time: a server ends when the nodes send it nobody new and who
//! began before is done. `AXON_ROLL_TIMES` and `AXON_ROLL_WORKERS` make more of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::rolled;
use crate::support::{Lab, at, eventually, lab, turn};
use crate::traffic::kill_agent;

/// Backends of the deployment.
const BACKENDS: usize = 10;
const PORT: u16 = 7000;
const NODE_PORT: u16 = 30_700;
const VIPS: [&str; 2] = ["10.96.7.7", "fd00:10:96::707"];

const CLUSTER: &str = "
{apiVersion: v1, kind: ConfigMap, metadata: {name: axon-lab, namespace: kube-system}, data: {pod-status: as-written}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
# While no agent is there, nobody takes away the flows that are over.
data: {bpf-ct-global-tcp-max: '262144', bpf-ct-global-any-max: '262144'}
---
{apiVersion: v1, kind: Node, metadata: {name: a}}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  selector: {app: web}
  ipFamilyPolicy: RequireDualStack
  clusterIP: 10.96.7.7
  clusterIPs: [10.96.7.7, 'fd00:10:96::707']
  ports:
  - {name: tcp, port: 7000, nodePort: 30700, protocol: TCP}
  - {name: udp, port: 7000, nodePort: 30700, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}
";

fn wanted(variable: &str, default: usize) -> usize {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect(variable))
}

/// Not a test of its own: a client of the other, if it says so.
#[test]
fn client() {
    rolled::run();
}

/// How a backend stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Ready,
    /// Its probe fails, or has not yet been well.
    NotReady,
    Terminating,
}

fn pod(generation: usize, n: usize, stands: Stands) -> String {
    let node = ["a", "b"][n % 2];
    let ready = if stands == Stands::NotReady {
        "False"
    } else {
        "True"
    };
    let deleted = match stands {
        Stands::Terminating => {
            ", deletionTimestamp: '2026-01-01T00:00:00Z', deletionGracePeriodSeconds: 600"
        }
        Stands::Ready | Stands::NotReady => "",
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {}, namespace: default, labels: {{app: web}}{deleted}}}
spec:
  nodeName: {node}
  containers: [{{name: c, command: [axon, lab, serve, 'who:{PORT}'], ports: [{{containerPort: {PORT}}}]}}]
status: {{phase: Running, conditions: [{{type: Ready, status: '{ready}'}}]}}
",
        name(generation, n)
    )
}

fn name(generation: usize, n: usize) -> String {
    format!("web-{generation}-{n}")
}

fn generation(number: usize, stands: Stands) -> String {
    (0..BACKENDS).map(|n| pod(number, n, stands)).collect()
}

#[test]
fn a_deployment_is_rolled_and_nobody_is_hurt() {
    let _turn = turn();
    let first = format!(
        "{CLUSTER}{}{}",
        generation(0, Stands::Ready),
        generation(1, Stands::NotReady)
    );
    let Some(lab) = lab("roll", &first) else {
        return;
    };
    let times = wanted("AXON_ROLL_TIMES", 1);
    let mut roll = Roll::begin(&lab, wanted("AXON_ROLL_WORKERS", 2));
    for time in 0..times {
        if time > 0 {
            lab.apply(&generation(time + 1, Stands::NotReady));
            roll.serve(time + 1);
        }
        for n in 0..BACKENDS {
            // In the middle, with a change that no agent has seen yet.
            roll.replace((time, n), time == 0 && n == BACKENDS / 2);
        }
    }
    roll.end(times);
}

/// The traffic, and what has become of it.
struct Roll<'a> {
    lab: &'a Lab,
    workers: usize,
    began: Instant,
    clients: Vec<Client>,
    stop: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

struct Client {
    place: &'static str,
    process: Child,
    told: Arc<Mutex<Told>>,
    reader: JoinHandle<()>,
}

/// What a client has said.
#[derive(Debug, Default)]
struct Told {
    round: u64,
    /// Who answers, by worker.
    now: BTreeMap<String, String>,
    /// Which workers' connections have ended.
    ended: BTreeMap<String, usize>,
    counts: BTreeMap<String, u64>,
    /// Questions that were another's flow still.
    again: usize,
    wrong: Vec<String>,
    /// Backends that are told to end.
    going: BTreeSet<String>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["round", round] => self.round = round.parse().unwrap_or(self.round),
            ["now", kind, n, name] => {
                self.now.insert(format!("{kind} {n}"), name.to_owned());
            }
            ["ended", kind, n, name] => {
                if !self.going.contains(name) {
                    self.wrong.push(format!("{line}: it was there still"));
                }
                let worker = format!("{kind} {n}");
                self.now.remove(&worker);
                *self.ended.entry(worker).or_default() += 1;
            }
            ["again", _, _, name] => {
                self.again += 1;
                if !self.going.contains(name) {
                    self.wrong.push(format!("{line}: it was there still"));
                }
            }
            ["count", kind, count] => {
                self.counts
                    .insert(kind.to_owned(), count.parse().unwrap_or(0));
            }
            ["failed", ..] => self.wrong.push(line.to_owned()),
            // The harness's.
            _ => {}
        }
    }
}

impl Client {
    fn start(lab: &Lab, place: &'static str, command: &[String]) -> Self {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut process = lab.start(place, &command);
        let told = Arc::<Mutex<Told>>::default();
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let hearing = Arc::clone(&told);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                lock(&hearing).hear(&line);
            }
        });
        Self {
            place,
            process,
            told,
            reader,
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Roll<'a> {
    fn begin(lab: &'a Lab, workers: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let stop = dir.path().join("stop");
        let mut roll = Self {
            lab,
            workers,
            began: Instant::now(),
            clients: Vec::new(),
            stop,
            _dir: dir,
        };
        for generation in [0, 1] {
            roll.serve(generation);
        }
        let all: Vec<String> = (0..BACKENDS).map(|n| name(0, n)).collect();
        for name in &all {
            roll.until_chosen(name, true);
        }
        let vips = VIPS.map(|ip| to(ip, PORT));
        let node_ports = [false, true].map(|v6| to(&lab.node_ip("b", v6), NODE_PORT));
        // The node's own, a pod's, which are led at sockets; and packets of the world.
        for (place, to) in [
            ("client", vips),
            ("node:a", vips),
            ("node:outside", node_ports),
        ] {
            let command = rolled::command(roll.workers, &roll.stop, &to);
            roll.clients.push(Client::start(lab, place, &command));
        }
        roll.over_rounds(2);
        roll.began = Instant::now();
        roll
    }

    /// Waits until every backend of a generation serves.
    fn serve(&self, generation: usize) {
        for n in 0..BACKENDS {
            let name = name(generation, n);
            for v6 in [false, true] {
                let target = at(&self.lab.pod_ip(&name, v6), PORT);
                eventually(&format!("{name} serves at {target}"), || {
                    let args = ["axon", "lab", "connect", "tcp", &target];
                    let tried = self.lab.run("node:b", &args);
                    // It says who it is before it echoes.
                    String::from_utf8_lossy(&tried.stderr).contains(&name)
                });
            }
        }
    }

    /// Replaces one backend by that of the next generation.
    fn replace(&mut self, (generation, n): (usize, usize), kill: bool) {
        let (old, new) = (name(generation, n), name(generation + 1, n));
        let leaving = [Stands::Terminating, Stands::NotReady][n % 2];
        let change = pod(generation + 1, n, Stands::Ready) + &pod(generation, n, leaving);
        if kill {
            let file = self.lab.write("roll.yaml", &change);
            let done = self.lab.axon(&["apply", "--no-wait", &file]);
            assert!(done.status.success(), "{done:?}");
            kill_agent(self.lab, "a");
        } else {
            self.lab.apply(&change);
        }
        self.until_chosen(&new, true);
        self.until_chosen(&old, false);
        self.over_rounds(2);
        for client in &self.clients {
            client.told().going.insert(old.clone());
        }
        self.lab.delete(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {old}, namespace: default}}}}"
        ));
        self.is_well();
    }

    /// Waits until both nodes choose a backend for who is new, or do not.
    fn until_chosen(&self, name: &str, is_chosen: bool) {
        let ips = [false, true].map(|v6| at(&self.lab.pod_ip(name, v6), PORT));
        for node in ["a", "b"] {
            eventually(&format!("{node}: {name}: {is_chosen}"), || {
                let rows = self.lab.try_ask(node, "/v1/map/lb").unwrap_or_default();
                let chosen = |ip: &String| rows.contains(&format!("\"{ip}\""));
                !rows.is_empty() && ips.iter().all(|ip| chosen(ip) == is_chosen)
            });
        }
    }

    /// Waits until whatever short-lived began before is over.
    fn over_rounds(&self, rounds: u64) {
        for client in &self.clients {
            let before = client.told().round;
            eventually(&format!("{} goes on", client.place), || {
                let told = client.told();
                !told.wrong.is_empty() || told.round >= before + rounds
            });
        }
        self.is_well();
    }

    fn is_well(&self) {
        for client in &self.clients {
            let told = client.told();
            if !told.wrong.is_empty() {
                for node in ["a", "b"] {
                    let flows = self.lab.flows(node);
                    let dropped = flows.iter().filter(|flow| flow["verdict"] == "DROPPED");
                    let last: Vec<String> = dropped.map(ToString::to_string).collect();
                    println!("{node} has dropped {}: {:?}", last.len(), last.last());
                }
            }
            assert!(told.wrong.is_empty(), "{}: {told:?}", client.place);
        }
    }

    fn end(self, times: usize) {
        let long = ["kept", "connected", "named"];
        for client in &self.clients {
            let last = format!("web-{times}-");
            eventually(&format!("{}: all have new backends", client.place), || {
                let told = client.told();
                let workers = long
                    .iter()
                    .flat_map(|kind| (0..self.workers).map(move |n| format!("{kind} {n}")));
                let mut now = workers.map(|worker| told.now.get(&worker).cloned());
                now.all(|name| name.is_some_and(|name| name.starts_with(&last)))
            });
        }
        let took = self.began.elapsed();
        self.is_well();
        std::fs::write(&self.stop, "").expect("they stop");
        for client in self.clients {
            let place = client.place;
            let told = Arc::clone(&client.told);
            let output = client.process.wait_with_output().expect("it ends");
            client.reader.join().expect("it has heard all");
            let told = lock(&told);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{place}: {error}");
            assert!(told.wrong.is_empty(), "{place}: {told:?}");
            for n in 0..self.workers {
                // Whoever is led is told, whatever it speaks to is gone.
                let kinds = ["kept", "connected"];
                let told_of = kinds
                    .iter()
                    .take(if place == "node:outside" { 1 } else { 2 });
                for kind in told_of {
                    let ended = told.ended.get(&format!("{kind} {n}"));
                    assert!(
                        ended.is_some_and(|ended| *ended >= times),
                        "{place}: {kind} {n}: {told:?}"
                    );
                }
            }
            let per_second = |kind: &str| {
                let count = told.counts.get(kind).copied().unwrap_or(0);
                assert!(count > 0, "{place}: no {kind}: {told:?}");
                count as f64 / took.as_secs_f64()
            };
            println!(
                "{place}: {:.0} new connections and {:.0} queries a second over {took:.1?}, none \
                 failed; {} were an ended one's flow; ended with their backends: {:?}",
                per_second("new"),
                per_second("query"),
                told.again,
                told.ended
            );
        }
    }
}

fn to(ip: &str, port: u16) -> SocketAddr {
    at(ip, port).parse().expect("an address")
}
