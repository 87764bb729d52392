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
    /// Plugins; the first is the reference. Those that are not there are left out.
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
    let mut plugins = Vec::new();
    for name in &args.plugins {
        match Plugin::named(name, args, dir) {
            Some(plugin) => plugins.push(plugin),
            None => eprintln!("{name} is left out: not found (cargo xtask runtimes)"),
        }
    }
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

fn report(args: &CniArgs, plugins: &[Plugin], times: &[Times]) -> Result<()> {
    let Some(reference) = times.first() else {
        bail!("no plugin is there");
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
    let mut list = Vec::new();
    for (plugin, times) in plugins.iter().zip(times) {
        let ratios = times
            .add
            .iter()
            .zip(&reference.add)
            .map(|(own, first)| own / first);
        let ratios = sorted(ratios.collect());
        let (low, high) = interval(ratios.len());
        let at = |n: usize| ratios.get(n).copied().unwrap_or(f64::NAN);
        let (p50, p99) = (quantile(&times.add, 0.5), quantile(&times.add, 0.99));
        let (del, ratio) = (quantile(&times.del, 0.5), quantile(&ratios, 0.5));
        println!(
            "  {:<8} {p50:>8.2} {p99:>8.2} {del:>8.2} {ratio:>9.3} {:>8.3} .. {:<5.3} {:>12.0} {:>12.0}",
            plugin.name,
            at(low),
            at(high),
            times.all_added,
            times.all_deleted
        );
        list.push(json!({
            "section": "cni", "plugin": plugin.name, "rounds": args.rounds,
            "add_p50_ms": p50, "add_p99_ms": p99, "del_p50_ms": del,
            "ratio": ratio, "ratio_low": at(low), "ratio_high": at(high),
            "parallel": args.parallel, "all_added_ms": times.all_added,
            "last_add_ms": times.last_of_all, "all_deleted_ms": times.all_deleted,
        }));
    }
    if let Some(out) = &args.out {
        fs::write(out, format!("{:#}\n", Value::Array(list)))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    Ok(())
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
    use super::{interval, quantile};

    #[test]
    fn quantiles_and_their_intervals() {
        let numbers: Vec<f64> = (0..25).rev().map(f64::from).collect();
        assert!((quantile(&numbers, 0.5) - 12.0).abs() < 1e-9);
        assert!((quantile(&numbers, 1.0) - 24.0).abs() < 1e-9);
        assert_eq!(interval(25), (7, 18));
        assert_eq!(interval(1), (0, 0));
        assert!(quantile(&[], 0.5).is_nan());
    }
}
