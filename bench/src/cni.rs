//! How long a pod waits for its network: ADD until policy is enforced, beside
//! what the reference plugins take for a network without any.
//!
//! ```text
//! for each round: ptp, bridge, axon ──> ADD, DEL of one pod, timed around the plugin's process
//!                                   ratio to the first within the round ──> median
//! then of each:   so many at once   ──> time until the last has its network
//! ```
//!
//! The benchmark runs itself inside the node's namespace, so that no plugin's
//! time has the entering in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::goals::{self, Goal, Judged};
use crate::node::{self, Node, ip};

/// What the node's namespace is called, and what others' names begin with.
const NODE: &str = "axb-cni";
/// How long the agent may take until it is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(clap::Args, Clone)]
pub(crate) struct CniArgs {
    /// Rounds; each makes one pod with every plugin.
    #[arg(short = 'n', long, default_value_t = 25)]
    rounds: usize,
    /// Pods that are made at once afterwards.
    #[arg(short, long, default_value_t = 100)]
    parallel: usize,
    /// Plugins; the first is the reference. One that is not there fails the run
    /// once the others are measured.
    #[arg(
        short = 'P',
        long,
        value_delimiter = ',',
        default_value = "ptp,bridge,axon"
    )]
    plugins: Vec<String>,
    /// The `axon` binary; its `axon-cni` lies beside it.
    #[arg(long, default_value = "target/release/axon")]
    axon: PathBuf,
    /// Fail if a goal is missed; takes 25 rounds or more.
    #[arg(long)]
    gate: bool,
    /// Write what was measured to this file as JSON, besides the table.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Set where the benchmark has entered the node.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// The times of one plugin, in milliseconds.
#[derive(Clone, Debug, Default)]
struct Times {
    add: Vec<f64>,
    del: Vec<f64>,
    all_added: f64,
    all_deleted: f64,
    last_of_all: f64,
}

/// A plugin and its configuration.
struct Plugin {
    name: String,
    program: PathBuf,
    conf: Value,
}

/// Measures; outside of the node first, then in it.
pub(crate) fn measure(args: &CniArgs) -> Result<()> {
    if let Some(dir) = &args.inside {
        return inside(args, dir);
    }
    goals::check_rounds(args.gate, args.rounds)?;
    let node = Node::make(NODE, &args.axon, &manifests(args.parallel.max(1)))?;
    let mut agent = node.start_agent()?;
    let measured = until_well(args, &node.dir, &mut agent).and_then(|()| {
        let mut again = node.enter(&std::env::current_exe()?);
        again.args(["cni", "--inside"]).arg(&node.dir);
        again.args(["--rounds", &args.rounds.to_string()]);
        again.args(["--parallel", &args.parallel.to_string()]);
        again.args(["--plugins", &args.plugins.join(",")]);
        again.arg("--axon").arg(&args.axon);
        if let Some(out) = &args.out {
            again.arg("--out").arg(out);
        }
        if args.gate {
            again.arg("--gate");
        }
        let status = again.status().context("running in the node")?;
        if status.success() {
            Ok(())
        } else {
            bail!("measuring failed: {status}")
        }
    });
    agent.kill().ok();
    agent.wait().ok();
    measured.with_context(|| node.told())
}

fn until_well(args: &CniArgs, dir: &Path, agent: &mut Child) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = Command::new(&args.axon)
            .arg("status")
            .env("AXON_SOCKET", dir.join("axon.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            return Ok(());
        }
        if agent.try_wait()?.is_some() || Instant::now() > end {
            bail!("the agent is not well");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// A node, a policy for all, and pods of twenty kinds.
fn manifests(pods: usize) -> String {
    let policy = json!({"spec": {
        "endpointSelector": {},
        "ingress": [{
            "fromEndpoints": [{"matchLabels": {"kind": "k1"}}],
            "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
        }],
    }});
    node::manifests(pods) + &node::document("CiliumNetworkPolicy", "cilium.io/v2", "web", &policy)
}

impl Plugin {
    /// A plugin by its name; `None` if it is not there.
    fn named(name: &str, args: &CniArgs, dir: &Path) -> Option<Self> {
        if name == "axon" {
            return Some(Self {
                name: name.to_owned(),
                program: args.axon.with_file_name("axon-cni"),
                conf: node::axon_conf(dir),
            });
        }
        let program = folders()
            .into_iter()
            .map(|folder| folder.join(name))
            .find(|p| p.exists())?;
        let subnet = if name == "bridge" {
            "10.205.0.0/16"
        } else {
            "10.204.0.0/16"
        };
        Some(Self {
            name: name.to_owned(),
            program,
            conf: json!({
                "cniVersion": "0.4.0", "name": name, "type": name, "isGateway": true,
                "ipam": {"type": "host-local", "subnet": subnet, "dataDir": dir.join(name)},
            }),
        })
    }

    /// One call; how long it took, in milliseconds.
    fn call(&self, command: &str, netns: &str, pod: usize) -> Result<f64> {
        let path = std::env::join_paths(folders())?;
        let mut plugin = Command::new(&self.program);
        plugin.env_clear().env("CNI_PATH", path);
        let started = Instant::now();
        node::call_plugin(plugin, &self.conf, command, (netns, pod))?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    /// Many calls at once; how long all took, and the longest, in milliseconds.
    fn all(&self, command: &str, names: &[String]) -> Result<(f64, f64)> {
        let started = Instant::now();
        let longest = thread::scope(|scope| {
            let calls: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(pod, netns)| scope.spawn(move || self.call(command, netns, pod)))
                .collect();
            calls.into_iter().try_fold(0.0_f64, |longest, call| {
                let took = call.join().map_err(|_| anyhow::anyhow!("a call broke"))??;
                Ok::<_, anyhow::Error>(longest.max(took))
            })
        })?;
        Ok((started.elapsed().as_secs_f64() * 1000.0, longest))
    }
}

/// Where the reference plugins may be.
fn folders() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("AXON_CACHE")
        .map(PathBuf::from)
        .or_else(|| set("XDG_CACHE_HOME").map(|base| Path::new(&base).join("axoneme")))
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache/axoneme")));
    let cached = cache.map(|cache| cache.join("runtimes/usr/lib/cni"));
    let system = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from);
    cached
        .into_iter()
        .chain(system)
        .filter(|folder| folder.exists())
        .collect()
}

fn inside(args: &CniArgs, dir: &Path) -> Result<()> {
    let named = |name: &String| Plugin::named(name, args, dir);
    let plugins: Vec<Plugin> = args.plugins.iter().filter_map(named).collect();
    let mut times = vec![Times::default(); plugins.len()];
    for round in 0..args.rounds {
        for (plugin, times) in plugins.iter().zip(&mut times) {
            let netns = format!("{NODE}-{}-{round}", plugin.name);
            ip(&["netns", "add", &netns])?;
            settle();
            times.add.push(plugin.call("ADD", &netns, 0)?);
            settle();
            times.del.push(plugin.call("DEL", &netns, 0)?);
            ip(&["netns", "del", &netns])?;
            settle();
        }
    }
    for (plugin, times) in plugins.iter().zip(&mut times) {
        let name = |pod| format!("{NODE}-{}-all-{pod}", plugin.name);
        let names: Vec<String> = (0..args.parallel).map(name).collect();
        for netns in &names {
            ip(&["netns", "add", netns])?;
        }
        (times.all_added, times.last_of_all) = plugin.all("ADD", &names)?;
        (times.all_deleted, _) = plugin.all("DEL", &names)?;
        for netns in &names {
            ip(&["netns", "del", netns])?;
        }
    }
    report(args, &plugins, &times)
}

/// What the one before has left for later is not the next one's.
fn settle() {
    thread::sleep(Duration::from_millis(20));
}

/// What is told of one plugin.
struct Row {
    add_p50: f64,
    add_p99: f64,
    del_p50: f64,
    /// To the first plugin that was asked for, within rounds.
    ratio: f64,
    interval: (f64, f64),
}

impl Row {
    fn of(times: &Times, reference: Option<&Times>) -> Self {
        let reference = reference.map_or(&[][..], |times| &times.add);
        let ratios = times.add.iter().zip(reference);
        let ratios = sorted(ratios.map(|(own, first)| own / first).collect());
        let (low, high) = interval(ratios.len());
        let at = |n: usize| ratios.get(n).copied().unwrap_or(f64::NAN);
        Self {
            add_p50: quantile(&times.add, 0.5),
            add_p99: quantile(&times.add, 0.99),
            del_p50: quantile(&times.del, 0.5),
            ratio: quantile(&ratios, 0.5),
            interval: (at(low), at(high)),
        }
    }

    /// What it shall come to: that of ours beside `ptp`.
    fn judged(&self, name: &str, first: &str) -> Vec<(&'static str, Judged)> {
        if name != "axon" {
            return Vec::new();
        }
        let tail = Judged {
            what: "ADD of axon, p99 to p50".to_owned(),
            goal: Goal::at_most(None, Some(2.0)),
            figure: self.add_p99 / self.add_p50,
            interval: None,
        };
        let ratio = Judged {
            what: "ADD of axon to ptp".to_owned(),
            goal: Goal::at_most(Some(1.0), Some(0.4)),
            figure: self.ratio,
            interval: Some(self.interval),
        };
        let beside = (first == "ptp").then_some(("ratio", ratio));
        beside.into_iter().chain([("add_p99_ms", tail)]).collect()
    }

    fn line(&self, name: &str, times: &Times) -> String {
        let (low, high) = self.interval;
        format!(
            "  {name:<8} {:>8.2} {:>8.2} {:>8.2} {:>9.3} {low:>8.3} .. {high:<5.3} {:>12.0} {:>12.0}",
            self.add_p50,
            self.add_p99,
            self.del_p50,
            self.ratio,
            times.all_added,
            times.all_deleted
        )
    }

    fn json(&self, args: &CniArgs, name: &str, times: &Times) -> Value {
        let first = args.plugins.first().map_or("", String::as_str);
        let goals = goals::by_name(self.judged(name, first));
        json!({
            "section": "cni", "plugin": name, "rounds": args.rounds,
            "add_p50_ms": self.add_p50, "add_p99_ms": self.add_p99, "del_p50_ms": self.del_p50,
            "ratio": self.ratio, "ratio_low": self.interval.0, "ratio_high": self.interval.1,
            "parallel": args.parallel, "all_added_ms": times.all_added,
            "last_add_ms": times.last_of_all, "all_deleted_ms": times.all_deleted,
            "goals": goals,
        })
    }
}

const MISSING: &str = "not found (cargo xtask runtimes)";

fn report(args: &CniArgs, plugins: &[Plugin], times: &[Times]) -> Result<()> {
    let first = args.plugins.first().map_or("", String::as_str);
    let of = |name: &str| {
        let at = plugins.iter().position(|plugin| plugin.name == name)?;
        times.get(at)
    };
    println!("\nCNI (ms; axon: until policy is enforced)");
    println!(
        "  {:<8} {:>8} {:>8} {:>8} {:>9} {:>17} {:>12} {:>12}",
        "plugin",
        "ADD p50",
        "ADD p99",
        "DEL p50",
        "to first",
        "95 % interval",
        "all added",
        "all deleted"
    );
    let (mut list, mut judged, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for name in &args.plugins {
        let Some(times) = of(name) else {
            println!("  {name:<8} failed: {MISSING}");
            list.push(json!({"section": "cni", "plugin": name, "failed": MISSING}));
            missing.push(name.as_str());
            continue;
        };
        let row = Row::of(times, of(first));
        println!("{}", row.line(name, times));
        list.push(row.json(args, name, times));
        judged.extend(row.judged(name, first).into_iter().map(|(_, one)| one));
    }
    goals::print(&judged);
    if let Some(out) = &args.out {
        fs::write(out, format!("{:#}\n", Value::Array(list)))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    if !missing.is_empty() {
        bail!("not measured: {}: {MISSING}", missing.join(", "));
    }
    goals::check(args.gate, &judged)
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// A quantile of numbers in any order.
fn quantile(numbers: &[f64], share: f64) -> f64 {
    let sorted = sorted(numbers.to_vec());
    let last = sorted.len().saturating_sub(1) as f64;
    sorted
        .get((last * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Between which of so many numbers in order their median lies in 95 of 100
/// cases (the binomial distribution's normal approximation).
fn interval(count: usize) -> (usize, usize) {
    let count = count as f64;
    let half = 0.98 * count.sqrt();
    let low = (count / 2.0 - half).floor().max(0.0);
    let high = (count / 2.0 + half).ceil().min(count - 1.0);
    (low as usize, high.max(0.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::{Row, Times, interval, quantile};

    #[test]
    fn quantiles_and_their_intervals() {
        let numbers: Vec<f64> = (0..25).rev().map(f64::from).collect();
        assert!((quantile(&numbers, 0.5) - 12.0).abs() < 1e-9);
        assert!((quantile(&numbers, 1.0) - 24.0).abs() < 1e-9);
        assert_eq!(interval(25), (7, 18));
        assert_eq!(interval(1), (0, 0));
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn ours_is_held_to_ptp_and_to_nothing_where_ptp_is_not_there() {
        let times = |add: f64| Times {
            add: vec![add; 25],
            ..Times::default()
        };
        for (add, met, aimed) in [(3.0, true, true), (9.0, true, false), (11.0, false, false)] {
            let row = Row::of(&times(add), Some(&times(10.0)));
            let judged = row.judged("axon", "ptp");
            let (figure, ratio) = judged.first().expect("a goal");
            assert_eq!(*figure, "ratio");
            assert_eq!(
                (ratio.met(), ratio.aim_met()),
                (Some(met), Some(aimed)),
                "{add}"
            );
            assert!(row.judged("bridge", "ptp").is_empty());
        }
        // The reference was asked for and is missing: not met.
        let alone = Row::of(&times(3.0), None);
        let judged = alone.judged("axon", "ptp");
        assert_eq!(
            judged.first().map(|(_, ratio)| ratio.met()),
            Some(Some(false))
        );
        // Another reference: no goal.
        let other = Row::of(&times(3.0), Some(&times(10.0))).judged("axon", "bridge");
        assert_eq!(other.len(), 1, "the tail alone");
    }
}
