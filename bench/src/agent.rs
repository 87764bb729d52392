//! What an agent with many pods on its node takes, and how soon it is ready.
//!
//! ```text
//! cold start ──> pods, traffic: RSS ──> rest: CPU ──> kill -9, ready ──> more pods …
//! ```
//!
//! The traffic comes from one process that has sockets in every pod, so that
//! the pods cost no more than their namespaces.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::goals::{self, Goal, Judged};
use crate::node::{self, Node, ip};
use crate::report::median;

/// What the node's namespace is called, and what the pods' names begin with.
const NODE: &str = "axb-agent";
/// How long the agent may take until it is well.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing comes of the last pods for so long: the agent is at rest.
const REST: Duration = Duration::from_secs(2);
/// Kinds of pods, each with a policy.
const KINDS: usize = 20;
/// Flows of each kind that a pod opens in its turn.
const FAN: usize = 10;
/// How long a connection may take that policy may deny.
const CONNECT: Duration = Duration::from_millis(1);
/// Hundredths of a second, in which the kernel tells CPU time.
const TICK_MS: f64 = 10.0;
const PORT: u16 = 80;

/// What to measure.
#[derive(clap::Args, Clone)]
pub(crate) struct AgentArgs {
    /// Pods on the node, one number after the other.
    #[arg(short, long, value_delimiter = ',', default_value = "100,250")]
    pods: Vec<usize>,
    /// Seconds of traffic between the pods.
    #[arg(long, default_value_t = 5)]
    traffic_s: u64,
    /// Seconds of rest.
    #[arg(long, default_value_t = 15)]
    idle_s: u64,
    /// How often the agent is killed; the median is told.
    #[arg(short = 'n', long, default_value_t = 5)]
    restarts: usize,
    /// The `axon` binary; its `axon-cni` lies beside it.
    #[arg(long, default_value = "target/release/axon")]
    axon: PathBuf,
    /// Fail if a goal is missed.
    #[arg(long)]
    gate: bool,
    /// Write what was measured to this file as JSON, besides the table.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// A running agent; it is killed when this goes.
pub(crate) struct Agent {
    child: Child,
}

/// A pod, by its namespace and address.
pub(crate) struct Pod {
    pub(crate) netns: fs::File,
    pub(crate) address: Ipv4Addr,
}

/// What was measured with so many pods.
#[derive(Debug)]
struct Row {
    pods: usize,
    /// Of the agent under traffic, at most, in KiB: all, and what no file backs.
    rss_kib: u64,
    anon_kib: u64,
    /// Connections that were tried and made.
    tried: usize,
    made: usize,
    /// At rest.
    idle_percent: f64,
    wakeups_per_s: f64,
    ready_ms: f64,
}

/// Measures.
pub(crate) fn measure(args: &AgentArgs) -> Result<()> {
    let most = args.pods.iter().copied().max().unwrap_or(0);
    let node = Node::make(NODE, &args.axon, &manifests(most))?;
    let (agent, cold_ms) = Agent::start(&node, 0).with_context(|| node.told())?;
    let mut agent = Some(agent);
    let (mut pods, mut rows) = (Vec::new(), Vec::new());
    for count in &args.pods {
        eprintln!("{count} pods");
        add_pods(&node, &args.axon, &mut pods, *count).with_context(|| node.told())?;
        let running = agent.take().context("no agent")?;
        let (row, next) = row(args, &node, running, &pods).with_context(|| node.told())?;
        rows.push(row);
        agent = Some(next);
    }
    report(args, cold_ms, &rows)
}

fn row(args: &AgentArgs, node: &Node, agent: Agent, pods: &[Pod]) -> Result<(Row, Agent)> {
    settle(&node.dir);
    let (mut rss_kib, mut anon_kib) = (0, 0);
    let (tried, made) = thread::scope(|scope| {
        let end = Instant::now() + Duration::from_secs(args.traffic_s);
        let traffic = scope.spawn(move || traffic(pods, end));
        while !traffic.is_finished() {
            let (rss, anon) = agent.memory_kib()?;
            (rss_kib, anon_kib) = (rss.max(rss_kib), anon.max(anon_kib));
            thread::sleep(Duration::from_millis(100));
        }
        let done = traffic.join();
        done.map_err(|_| anyhow::anyhow!("the traffic broke"))?
    })?;
    thread::sleep(2 * REST);
    let before = (agent.cpu_ms()?, agent.wakeups()?);
    thread::sleep(Duration::from_secs(args.idle_s));
    let after = (agent.cpu_ms()?, agent.wakeups()?);
    // Threads that have ended meanwhile are not counted.
    let earlier = |thread| before.1.get(thread).copied().unwrap_or(0);
    let news = after
        .1
        .iter()
        .map(|(thread, count)| count.saturating_sub(earlier(thread)));
    let wakeups: u64 = news.sum();
    let idle_s = args.idle_s.max(1) as f64;
    let mut agent = agent;
    let mut ready_ms = Vec::new();
    for _ in 0..args.restarts {
        drop(agent);
        let took;
        (agent, took) = Agent::start(node, pods.len())?;
        ready_ms.push(took);
        // The next one shall find it at rest, as agents are mostly.
        thread::sleep(Duration::from_millis(500));
    }
    let row = Row {
        pods: pods.len(),
        rss_kib,
        anon_kib,
        tried,
        made,
        idle_percent: (after.0 - before.0) / idle_s / 10.0,
        wakeups_per_s: wakeups as f64 / idle_s,
        ready_ms: median(ready_ms),
    };
    Ok((row, agent))
}

impl Agent {
    /// Starts an agent; how many milliseconds its process takes until it says
    /// that it is well, with so many endpoints.
    pub(crate) fn start(node: &Node, endpoints: usize) -> Result<(Self, f64)> {
        let started = Instant::now();
        let child = node.start_agent()?;
        let mut agent = Self { child };
        let socket = node.dir.join("axon.sock");
        while !is_well(&socket, endpoints) {
            if agent.child.try_wait()?.is_some() || started.elapsed() > PATIENCE {
                bail!("the agent is not well");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok((agent, started.elapsed().as_secs_f64() * 1000.0))
    }

    fn file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }

    /// Resident memory, and that which no file backs.
    fn memory_kib(&self) -> Result<(u64, u64)> {
        let status = self.file("status")?;
        Ok((field(&status, "VmRSS:"), field(&status, "RssAnon:")))
    }

    /// CPU time so far, of threads that have ended too.
    pub(crate) fn cpu_ms(&self) -> Result<f64> {
        let stat = self.file("stat")?;
        // After the name, which may have anything in it.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = times.filter_map(|time| time.parse::<f64>().ok()).sum();
        Ok(ticks * TICK_MS)
    }

    /// How often each of its threads has gone to sleep.
    fn wakeups(&self) -> Result<BTreeMap<OsString, u64>> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let of = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            Some((task.file_name(), field(&status, "voluntary_ctxt_switches:")))
        };
        Ok(tasks.flatten().filter_map(of).collect())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The number after a name in a file of `/proc`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// Whether an agent answers that all of it is well, and every endpoint enforced.
fn is_well(socket: &Path, endpoints: usize) -> bool {
    let Some(status) = healthz(socket) else {
        return false;
    };
    let told = status["parts"]["endpoints"]["msg"].as_str();
    let all = told.is_some_and(|told| told.starts_with(&format!("{endpoints} of {endpoints} ")));
    status["cilium"]["state"] == "Ok" && (endpoints == 0 || all)
}

fn healthz(socket: &Path) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = "GET /v1/healthz HTTP/1.0\r\nhost: agent\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

/// A node with pods of so many kinds, each of which lets a quarter of them in.
fn manifests(pods: usize) -> String {
    let mut text = node::manifests(pods);
    for kind in 0..KINDS {
        let from = (0..KINDS / 4).map(|n| {
            let kind = format!("k{}", (kind + n * 4) % KINDS);
            json!({"matchLabels": {"kind": kind}})
        });
        let policy = json!({"spec": {
            "endpointSelector": {"matchLabels": {"kind": format!("k{kind}")}},
            "ingress": [{
                "fromEndpoints": from.collect::<Vec<_>>(),
                "toPorts": [{"ports": [
                    {"port": PORT.to_string(), "protocol": "TCP"},
                    {"port": PORT.to_string(), "protocol": "UDP"},
                ]}],
            }],
        }});
        let name = format!("kind-{kind}");
        text += &node::document("CiliumNetworkPolicy", "cilium.io/v2", &name, &policy);
    }
    text
}

/// Makes pods until there are so many.
pub(crate) fn add_pods(node: &Node, axon: &Path, pods: &mut Vec<Pod>, count: usize) -> Result<()> {
    let fresh: Vec<usize> = (pods.len()..count).collect();
    for pod in &fresh {
        ip(&["netns", "add", &format!("{}-{pod}", node.name)])?;
    }
    let plugin = axon.with_file_name("axon-cni");
    let conf = node::axon_conf(&node.dir);
    let add = |pod: usize| {
        let name = format!("{}-{pod}", node.name);
        let said = node::call_plugin(node.enter(&plugin), &conf, "ADD", (&name, pod))?;
        let netns = fs::File::open(format!("/run/netns/{name}"))?;
        let address = address(&said).context("the plugin told no IPv4 address")?;
        Ok::<_, anyhow::Error>(Pod { netns, address })
    };
    // As a kubelet does, many at once.
    for some in fresh.chunks(50) {
        let made = thread::scope(|scope| {
            let add = &add;
            let calls: Vec<_> = some.iter().map(|pod| scope.spawn(|| add(*pod))).collect();
            let broke = |_| anyhow::anyhow!("a call broke");
            let joined = calls.into_iter().map(|call| call.join().map_err(broke)?);
            joined.collect::<Result<Vec<_>>>()
        });
        pods.extend(made?);
    }
    Ok(())
}

/// The IPv4 address of a plugin's answer.
fn address(said: &[u8]) -> Option<Ipv4Addr> {
    let said: Value = serde_json::from_slice(said).ok()?;
    let ips = said["ips"].as_array()?.iter();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .next()
}

/// Waits until the agent has finished the stubs of new pods, as their pins tell.
pub(crate) fn settle(dir: &Path) {
    let pins = || fs::read_dir(dir.join("bpf/links")).map_or(0, Iterator::count);
    let (mut seen, mut since) = (pins(), Instant::now());
    let end = Instant::now() + PATIENCE;
    while since.elapsed() < REST && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
        if pins() != seen {
            (seen, since) = (pins(), Instant::now());
        }
    }
}

/// Has pods talk with others until then; connections that were tried and made.
/// For a thread of its own, whose namespace changes.
fn traffic(pods: &[Pod], end: Instant) -> Result<(usize, usize)> {
    let enter = |pod: &Pod| setns(&pod.netns, CloneFlags::CLONE_NEWNET);
    let mut servers = Vec::new();
    for pod in pods {
        enter(pod)?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        listener.set_nonblocking(true)?;
        let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        servers.push((listener, datagrams));
    }
    let (mut tried, mut made) = (0, 0);
    // Steps that share no factor with the count reach everybody.
    let mut target = 0;
    for pod in pods.iter().cycle() {
        if Instant::now() > end {
            break;
        }
        enter(pod)?;
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for _ in 0..FAN {
            target = (target + 37) % pods.len();
            let (Some(to), Some((listener, _))) = (pods.get(target), servers.get(target)) else {
                continue;
            };
            // Refusals of earlier ones come as errors here.
            client.send_to(b"hello", (to.address, PORT)).ok();
            tried += 1;
            let to = SocketAddr::from((to.address, PORT));
            if TcpStream::connect_timeout(&to, CONNECT).is_ok() {
                made += 1;
            }
            while listener.accept().is_ok() {}
        }
    }
    Ok((tried, made))
}

impl Row {
    /// What the figures shall come to, by their names in the JSON. CPU at rest: 0.05 %
    /// of two CPUs is 0.1 % of one, which is what is told here.
    fn judged(&self) -> Vec<(&'static str, Judged)> {
        let judged = |what: &str, figure, goal, aim| Judged {
            what: format!("{what}, {} pods", self.pods),
            goal: Goal::at_most(Some(goal), aim),
            figure,
            interval: None,
        };
        let idle = judged("CPU % at rest", self.idle_percent, 0.1, Some(0.04));
        let ready = judged("ready after kill -9, ms", self.ready_ms, 1000.0, None);
        let mut all = vec![("idle_percent", idle), ("ready_after_kill_ms", ready)];
        if self.pods <= 100 {
            let rss = self.rss_kib as f64 / 1024.0;
            all.push(("rss_mib", judged("RSS of the agent, MiB", rss, 40.0, None)));
        }
        all
    }
}

fn report(args: &AgentArgs, cold_ms: f64, rows: &[Row]) -> Result<()> {
    println!("\nAgent (cold start: ready after {cold_ms:.0} ms)");
    println!(
        "  {:>5} {:>9} {:>9} {:>12} {:>10} {:>10} {:>18}",
        "pods", "RSS MiB", "own MiB", "connections", "idle %", "wakes/s", "ready ms, kill -9"
    );
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut list = vec![json!({"section": "agent", "cold_start_ms": cold_ms})];
    for row in rows {
        println!(
            "  {:>5} {:>9.1} {:>9.1} {:>12} {:>10.2} {:>10.1} {:>18.0}",
            row.pods,
            mib(row.rss_kib),
            mib(row.anon_kib),
            format!("{}/{}", row.made, row.tried),
            row.idle_percent,
            row.wakeups_per_s,
            row.ready_ms
        );
        list.push(json!({
            "section": "agent", "pods": row.pods, "rss_mib": mib(row.rss_kib),
            "anon_mib": mib(row.anon_kib), "connections_tried": row.tried,
            "connections_made": row.made, "idle_percent": row.idle_percent,
            "wakeups_per_s": row.wakeups_per_s, "ready_after_kill_ms": row.ready_ms,
            "goals": goals::by_name(row.judged()),
        }));
    }
    let judged: Vec<Judged> = rows
        .iter()
        .flat_map(Row::judged)
        .map(|(_, one)| one)
        .collect();
    goals::print(&judged);
    if let Some(out) = &args.out {
        fs::write(out, format!("{:#}\n", Value::Array(list)))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    goals::check(args.gate, &judged)
}

#[cfg(test)]
mod tests {
    use super::{address, field};

    #[test]
    fn what_proc_and_plugins_tell_is_read() {
        let status = "Name:\tVmRSS: 1\nVmRSS:\t   37864 kB\n";
        assert_eq!(field(status, "VmRSS:"), 37864);
        assert_eq!(field(status, "RssAnon:"), 0);
        let said = br#"{"ips": [{"address": "fd77::9/128"}, {"address": "10.77.0.9/32"}]}"#;
        assert_eq!(address(said), Some([10, 77, 0, 9].into()));
        assert_eq!(address(b"{}"), None);
    }
}
