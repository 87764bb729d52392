//! What a packet costs: nanoseconds of each program by `BPF_PROG_TEST_RUN`,
//! beside floors that do the least a design can do, in one interleaved run.
//!
//! ```text
//! cost [--rounds N] [--budget FILE] [--out FILE]
//! ```
//!
//! Each figure is the least of all rounds, less the empty program: other work
//! on the machine only ever adds. With `--budget` the run fails if a stage
//! costs more, in proportion to the floor, than the file allows (in hundredths);
//! `--out` writes what was measured as JSON.
//! `AXON_COST_OBJECT` and `AXON_COST_FLOOR` name other objects to measure.

#[path = "../tests/common/kernel.rs"]
mod kernel;
#[path = "../tests/common/veth.rs"]
mod veth;

#[path = "cost/floor.rs"]
mod floor;
#[path = "cost/stages.rs"]
mod stages;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::stages::Stage;

/// A stage's name, and hundredths of `floor_full` that it may cost.
type Budget = BTreeMap<String, u32>;

struct Args {
    rounds: usize,
    budget: Option<PathBuf>,
    out: Option<PathBuf>,
}

/// Cargo runs benchmarks in the folder of their package; paths are told from
/// that of the workspace.
fn from_root(path: String) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    PathBuf::from(root).join(path)
}

fn args() -> Args {
    let mut args = Args {
        rounds: 300,
        budget: None,
        out: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--rounds" => {
                let rounds = given.next().and_then(|n| n.parse().ok());
                args.rounds = rounds.expect("--rounds takes a number");
            }
            "--budget" => args.budget = given.next().map(from_root),
            "--out" => args.out = given.next().map(from_root),
            // What `cargo bench` adds.
            "--bench" => {}
            other => panic!("{other} is no argument: --rounds N, --budget FILE, --out FILE"),
        }
    }
    args
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let args = args();
    let measured = std::thread::spawn(move || {
        stages::prepare_thread();
        let mut stages = stages::all();
        stages.extend(floor::all());
        for round in 0..args.rounds {
            let there: Box<dyn Iterator<Item = &mut Stage>> = if round % 2 == 0 {
                Box::new(stages.iter_mut())
            } else {
                Box::new(stages.iter_mut().rev())
            };
            there.for_each(Stage::sample);
        }
        let over = report(&stages, &args);
        assert!(over.is_empty(), "over budget: {}", over.join(", "));
    });
    if measured.join().is_err() {
        std::process::exit(1);
    }
}

/// Prints what was found; gives back what is over budget.
fn report(stages: &[Stage], args: &Args) -> Vec<String> {
    let least = |name: &str| {
        let stage = stages.iter().find(|stage| stage.name == name);
        f64::from(stage.expect("the stage exists").least_ns())
    };
    let (empty, full) = (least("floor_empty"), least("floor_full"));
    let budget: Budget = args.budget.as_ref().map_or_else(Budget::new, |file| {
        let text = std::fs::read_to_string(file).expect("the budget can be read");
        serde_json::from_str(&text).expect("the budget is JSON")
    });
    let (mut over, mut list) = (Vec::new(), Vec::new());
    println!(
        "{:<18} {:>6} {:>8} {:>8}",
        "ns per packet", "net", "to full", "budget"
    );
    let mut told = |name: &str, net: f64, ratio: f64| {
        let allowed = budget.get(name).map(|percent| f64::from(*percent) / 100.0);
        if allowed.is_some_and(|allowed| ratio > allowed) {
            over.push(name.to_owned());
        }
        let shown = allowed.map_or_else(String::new, |allowed| format!("{allowed:.2}"));
        println!("{name:<18} {net:>6.0} {ratio:>8.2} {shown:>8}");
        list.push(serde_json::json!({
            "stage": name, "net_ns": net, "ratio": ratio, "budget": allowed,
        }));
    };
    for stage in stages {
        let net = f64::from(stage.least_ns()) - empty;
        told(stage.name, net, net / (full - empty));
    }
    // Who an address is, of 250,000: beside one trie instead of floor_full.
    let (base, exact, trie) = (least("look_base"), least("look_exact"), least("look_trie"));
    told("who_of_250k", exact - base, (exact - base) / (trie - base));
    if let Some(out) = &args.out {
        let text = serde_json::Value::Array(list).to_string();
        std::fs::write(out, text).expect("the results can be written");
    }
    over
}
