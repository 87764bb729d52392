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
mod churn;
mod cni;
mod floor;
mod load;
mod node;
mod report;
mod topology;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::load::{Mode, Sample};
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
        default_value = "raw,bridge,routed,netfilter,floor,floor-big,axon"
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
    /// Fail if a goal is missed.
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
    }
}

fn run(args: &RunArgs) -> Result<()> {
    let parts = Parts {
        axon: args.axon.clone(),
        floor: args.floor.clone(),
    };
    let mut topologies = Vec::new();
    for kind in &args.topologies {
        eprintln!("setting up {kind:?}");
        match Topology::up(*kind, &parts) {
            Ok(topology) => topologies.push(topology),
            Err(error) => eprintln!("  left out: {error:#}"),
        }
    }
    if topologies.is_empty() {
        bail!("no topology could be set up");
    }
    let mut results = report::Results::new(&args.modes, &topologies);
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        // There and back again: slow drifts of the machine hit all alike.
        let mut order: Vec<usize> = (0..topologies.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (m, mode) in args.modes.iter().enumerate() {
            for &t in &order {
                if let Some(topology) = topologies.get(t) {
                    let sample = measure(*mode, topology, args.sample_ms)
                        .with_context(|| format!("{:?} over {:?}", mode, topology.kind))?;
                    results.add(m, t, sample);
                }
            }
        }
    }
    results.print_table();
    let goals = results.goals();
    report::print_goals(&goals);
    let mut json = serde_json::json!({ "pods": results.json() });
    if let Some(axon) = topologies.iter().find(|t| t.kind == Kind::Axon)
        && !args.no_churn
    {
        let tails = churn::measure(axon, &args.axon, args.sample_ms)?;
        churn::print(&tails);
        if let Some(json) = json.as_object_mut() {
            json.insert("churn".to_owned(), churn::json(&tails));
        }
    }
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    let missed = goals.iter().filter(|goal| !goal.is_met()).count();
    if args.gate && missed > 0 {
        bail!("{missed} goals are missed");
    }
    Ok(())
}

/// Runs a server and a client in the topology's two namespaces.
pub(crate) fn measure(mode: Mode, topology: &Topology, milliseconds: u64) -> Result<Sample> {
    const PORT: u16 = 5201;
    let me = std::env::current_exe()?;
    let (server_core, client_core) = mode.cores();
    let mut server = enter(&topology.server, server_core)
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
            enter(&topology.client, client_core)
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

/// A command inside a namespace, on one core, at real-time priority.
fn enter(netns: &str, core: usize) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={netns}"))
        .args(["taskset", "-c", &core.to_string()]);
    command.args(["chrt", "-f", "1"]);
    command
}
