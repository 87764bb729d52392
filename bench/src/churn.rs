//! Latency while policy and endpoints change: the tails, not only the medians.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::goals::{self, Goal, Judged};
use crate::load::{Mode, Sample};
use crate::report::median;
use crate::topology::{LAB, Topology};

/// Samples under each kind of change.
const SAMPLES: usize = 15;

/// What goes on beside the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Policy,
    Endpoints,
    Restart,
}

/// Latency of round trips beside one kind of change.
pub(crate) struct Tail {
    change: Change,
    /// Changes that were made meanwhile.
    changes: u32,
    samples: Vec<Sample>,
}

impl Change {
    const ALL: [Self; 4] = [Self::Nothing, Self::Policy, Self::Endpoints, Self::Restart];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "at rest",
            Self::Policy => "policy changes",
            Self::Endpoints => "pods come and go",
            Self::Restart => "agent is killed",
        }
    }

    /// Makes one change, and waits until it is in force.
    fn make(self, axon: &Path, folder: &Path, n: u32) -> Result<()> {
        let file = folder.join("change.yaml");
        match self {
            Self::Nothing => std::thread::sleep(Duration::from_millis(50)),
            Self::Policy => {
                std::fs::write(&file, policy(20_000 + n % 1000))?;
                lab(axon, "apply", &file)?;
            }
            Self::Endpoints => {
                std::fs::write(&file, POD)?;
                lab(
                    axon,
                    if n.is_multiple_of(2) {
                        "apply"
                    } else {
                        "delete"
                    },
                    &file,
                )?;
            }
            Self::Restart => {
                kill_agent(axon)?;
                std::thread::sleep(Duration::from_millis(700));
            }
        }
        Ok(())
    }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: visitor, labels: {role: client}}
spec: {containers: [{name: main, command: [sleep, infinity]}]}
";

/// A rule of the server's that is another each time.
fn policy(port: u32) -> String {
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: changing}}
spec:
  endpointSelector: {{matchLabels: {{role: server}}}}
  ingress:
    - fromEndpoints: [{{matchLabels: {{role: client}}}}]
      toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]
"
    )
}

fn lab(axon: &Path, verb: &str, file: &Path) -> Result<()> {
    let status = Command::new(axon)
        .args(["lab", "--name", LAB, verb])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("running {}", axon.display()))?;
    if !status.success() {
        bail!("axon lab {verb} failed");
    }
    Ok(())
}

/// Kills the agent; the lab starts it again.
fn kill_agent(axon: &Path) -> Result<()> {
    let output = Command::new(axon)
        .args(["lab", "--name", LAB, "status", "-o", "json"])
        .output()?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    if let Some(pid) = status["nodes"][0]["agentPid"].as_u64() {
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()?;
    }
    Ok(())
}

/// Measures round trips over our topology beside each kind of change.
pub(crate) fn measure(topology: &Topology, axon: &Path, sample_ms: u64) -> Result<Vec<Tail>> {
    let folder = std::env::temp_dir().join(format!("axon-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let tails = Change::ALL
        .into_iter()
        .map(|change| {
            eprintln!("latency: {}", change.name());
            beside(change, topology, axon, &folder, sample_ms)
        })
        .collect();
    std::fs::remove_dir_all(&folder).ok();
    tails
}

fn beside(
    change: Change,
    topology: &Topology,
    axon: &Path,
    folder: &Path,
    sample_ms: u64,
) -> Result<Tail> {
    let (done, changes) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                change.make(axon, folder, changes.load(Ordering::Relaxed))?;
                changes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let samples: Result<Vec<Sample>> = (0..SAMPLES)
            .map(|_| crate::measure(Mode::Rr, topology, sample_ms))
            .collect();
        done.store(true, Ordering::Relaxed);
        match changer.join() {
            Ok(made) => made.with_context(|| format!("while {}", change.name()))?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(Tail {
            change,
            changes: changes.load(Ordering::Relaxed),
            samples: samples?,
        })
    })
}

impl Tail {
    fn median_of(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure).collect())
    }

    fn longest(&self) -> f64 {
        self.samples.iter().map(|s| s.max_us).fold(0.0, f64::max)
    }
}

pub(crate) fn print(tails: &[Tail]) {
    println!("\nround trips while things change (microseconds)");
    println!(
        "  {:<18} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "", "changes", "p50", "p99", "p99.9", "longest"
    );
    for tail in tails {
        println!(
            "  {:<18} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>9.1}",
            tail.change.name(),
            tail.changes,
            tail.median_of(|s| s.p50_us),
            tail.median_of(|s| s.p99_us),
            tail.median_of(|s| s.p999_us),
            tail.longest()
        );
    }
    goals::print(&judged(tails));
}

/// What the longest trips shall come to: an agent that is exchanged holds nobody up.
pub(crate) fn judged(tails: &[Tail]) -> Vec<Judged> {
    let killed = tails.iter().filter(|t| t.change == Change::Restart);
    killed
        .map(|tail| Judged {
            what: "longest trip us, agent is killed".to_owned(),
            goal: Goal::at_most(None, Some(5000.0)),
            figure: tail.longest(),
            interval: None,
        })
        .collect()
}

pub(crate) fn json(tails: &[Tail]) -> serde_json::Value {
    tails
        .iter()
        .map(|tail| {
            let judged = judged(std::slice::from_ref(tail));
            serde_json::json!({
                "goals": { "longest_us": judged.first().map(Judged::json) },
                "change": tail.change.name(), "changes": tail.changes,
                "p50_us": tail.median_of(|s| s.p50_us),
                "p99_us": tail.median_of(|s| s.p99_us),
                "p999_us": tail.median_of(|s| s.p999_us),
                "longest_us": tail.longest(),
            })
        })
        .collect()
}
