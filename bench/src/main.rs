//! Pod-to-pod speed beside what else a node could do, in one run.
//!
//! ```text
//! for each round: raw, routed, netfilter, axon, and back ──> load (client, server in two namespaces)
//!                                                  ratio to raw within the round ──> median
//! ```
//!
//! Absolute numbers depend on the machine and its mood; ratios within a round
//! hold. Samples are short, interleaved and run at real-time priority, so that
//! other work on the machine does not show as latency.
#![forbid(unsafe_code)]

mod agent;
mod change;
mod churn;
mod cni;
mod floor;
mod goals;
mod load;
mod node;
mod report;
mod rules;
mod service;
mod services;
mod targets;
mod topology;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::load::{Mode, Sample};
use crate::report::Results;
use crate::topology::{Kind, Parts, Topology};

/// Pod-to-pod speed beside what else a node could do, in one run.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure (root).
    Run(RunArgs),
    /// Measure how long pods wait for their network (root).
    Cni(cni::CniArgs),
    /// Measure what an agent with many pods takes, and how soon it is ready (root).
    Agent(agent::AgentArgs),
    /// Measure how soon policies are in force (root).
    Change(change::ChangeArgs),
    /// Measure what services cost beside kube-proxy's rules (root).
    Services(services::ServicesArgs),
    /// Answer one load of a kind; used by `run` inside a namespace.
    #[command(hide = true)]
    Serve { mode: Mode, port: u16 },
    /// Make one load of a kind and print a sample; used by `run`.
    #[command(hide = true)]
    Load {
        mode: Mode,
        address: std::net::IpAddr,
        port: u16,
        milliseconds: u64,
    },
}

/// What to measure.
#[derive(clap::Args)]
struct RunArgs {
    /// Rounds; each measures every topology once. Ratios are taken within a round.
    #[arg(short = 'n', long, default_value_t = 25)]
    rounds: usize,
    /// Milliseconds of each sample; at most 500, so that real-time priority is
    /// never throttled.
    #[arg(short = 't', long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(50..=500))]
    sample_ms: u64,
    /// Kinds of load.
    #[arg(
        short,
        long,
        value_delimiter = ',',
        default_value = "rr,crr,udprr,stream,udp"
    )]
    modes: Vec<Mode>,
    /// Topologies; ratios are taken to raw, netfilter and the floors.
    #[arg(
        short = 'T',
        long,
        value_delimiter = ',',
        default_value = "raw,bridge,routed,netfilter,floor,floor-big,axon,axon-plain,axon-quiet,rules-16k,rules-64k,rules-250k"
    )]
    topologies: Vec<Kind>,
    /// The `axon` binary whose lab carries the `axon` topology.
    #[arg(long, default_value = "target/release/axon")]
    axon: PathBuf,
    /// The object with the floor's programs, as the build of the binary leaves it.
    #[arg(
        long,
        default_value = "target/bpf/bpfel-unknown-none/release/axon-floor"
    )]
    floor: PathBuf,
    /// Leave out the latency tails while policy and endpoints change.
    #[arg(long)]
    no_churn: bool,
    /// Fail if a goal is missed; takes 25 rounds or more.
    #[arg(long)]
    gate: bool,
    /// Write what was measured to this file as JSON, besides the table.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Args::parse().command {
        Verb::Serve { mode, port } => load::serve(mode, port),
        Verb::Load {
            mode,
            address,
            port,
            milliseconds,
        } => {
            let sample = load::run(mode, address, port, Duration::from_millis(milliseconds))?;
            println!("{}", sample.to_line());
            Ok(())
        }
        Verb::Run(args) => run(&args),
        Verb::Cni(args) => cni::measure(&args),
        Verb::Agent(args) => agent::measure(&args),
        Verb::Change(args) => change::measure(&args),
        Verb::Services(args) => services::measure(&args),
    }
}

fn run(args: &RunArgs) -> Result<()> {
    goals::check_rounds(args.gate, args.rounds)?;
    let mut results = Results::new(&args.modes, &args.topologies);
    let topologies = set_up(args, &mut results);
    let amount = (args.rounds, args.sample_ms);
    measure_all(amount, &args.modes, &topologies, &mut results);
    print!("{}", results.table());
    let mut judged = results.judged();
    let mut failures = results.failures();
    let mut json = serde_json::json!({ "pods": results.json() });
    let axon = topologies.iter().flatten().find(|t| t.kind == Kind::Axon);
    if let Some(axon) = axon.filter(|_| !args.no_churn) {
        match churn::measure(axon, &args.axon, args.sample_ms) {
            Ok(tails) => {
                churn::print(&tails);
                judged.extend(churn::judged(&tails));
                json["churn"] = churn::json(&tails);
            }
            Err(error) => {
                let why = report::one_line(&format!("{error:#}"));
                println!("\nround trips while things change: failed: {why}");
                json["churn"] = serde_json::json!([{ "failed": why }]);
                failures.push(format!("changes ({why})"));
            }
        }
    }
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    if !failures.is_empty() {
        bail!("not measured: {}", failures.join("; "));
    }
    goals::check(args.gate, &judged)
}

/// Sets every topology up that can be; the others are failures of the results.
fn set_up(args: &RunArgs, results: &mut Results) -> Vec<Option<Topology>> {
    let parts = Parts {
        axon: args.axon.clone(),
        floor: args.floor.clone(),
    };
    let mut topologies = Vec::new();
    for (t, kind) in args.topologies.iter().enumerate() {
        eprintln!("setting up {}", kind.name());
        let topology = Topology::up(*kind, &parts);
        topologies.push(match topology {
            Ok(topology) => Some(topology),
            Err(error) => {
                eprintln!("  failed: {error:#}");
                results.fail(t, format!("{error:#}"));
                None
            }
        });
    }
    topologies
}

/// Every round of every mode over every topology; one that fails is left alone
/// from then on.
pub(crate) fn measure_all(
    (rounds, sample_ms): (usize, u64),
    modes: &[Mode],
    topologies: &[Option<Topology>],
    results: &mut Results,
) {
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // There and back again: slow drifts of the machine hit all alike.
        let mut order: Vec<usize> = (0..topologies.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (m, mode) in modes.iter().enumerate() {
            for &t in &order {
                let topology = topologies.get(t).and_then(Option::as_ref);
                let Some(topology) = topology.filter(|t| t.kind.measures(*mode)) else {
                    continue;
                };
                if results.has_failed(t) {
                    continue;
                }
                match measure(*mode, topology, sample_ms) {
                    Ok(sample) => results.add(m, t, sample),
                    Err(error) => {
                        let name = topology.kind.name();
                        eprintln!("  {name} failed: {error:#}");
                        results.fail(t, format!("{}: {error:#}", mode.name()));
                    }
                }
            }
        }
    }
}

/// Runs a server and a client in the topology's two namespaces.
pub(crate) fn measure(mode: Mode, topology: &Topology, milliseconds: u64) -> Result<Sample> {
    const PORT: u16 = 5201;
    let me = std::env::current_exe()?;
    let (server_core, client_core) = mode.cores();
    let wrap = &topology.wrap;
    let mut server = enter((&topology.server, wrap), server_core)
        .arg(&me)
        .args(["serve", mode.name(), &PORT.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the server")?;
    // The server says when it listens.
    let ready = std::io::BufRead::lines(std::io::BufReader::new(
        server.stdout.take().context("the server has no output")?,
    ))
    .next();
    let client = ready
        .context("the server ended early")?
        .map_err(Into::into)
        .and_then(|_| {
            enter((&topology.client, wrap), client_core)
                .arg(&me)
                .args([
                    "load",
                    mode.name(),
                    &topology.address.to_string(),
                    &PORT.to_string(),
                ])
                .arg(milliseconds.to_string())
                .output()
                .context("running the client")
        });
    server.kill().ok();
    server.wait().ok();
    let output = client?;
    if !output.status.success() {
        bail!(
            "the client failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Sample::from_line(&String::from_utf8_lossy(&output.stdout))
}

/// A command inside a namespace, as what becomes of it, on one core, at real-time
/// priority.
fn enter((netns, wrap): (&str, &[String]), core: usize) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={netns}"))
        .args(wrap)
        .args(["taskset", "-c", &core.to_string()]);
    command.args(["chrt", "-f", "1"]);
    command
}
