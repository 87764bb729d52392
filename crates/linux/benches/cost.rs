//! What a packet costs: nanoseconds of each program by `BPF_PROG_TEST_RUN`,
//! beside floors that do the least a design can do, in one interleaved run.
//!
//! ```text
//! cost [--rounds N] [--budget FILE] [--gate] [--out FILE]
//! ```
//!
//! Each figure is the least of all rounds, less the empty program: other work
//! on the machine only ever adds. `--budget` names what each stage may and shall
//! cost, in proportion to a floor of the same run (`cost/budget.rs`); with `--gate`
//! a stage that costs more fails the run, or the policy look-up with many rows too
//! much more than with one. `--out` writes what was measured as JSON.
//! `AXON_COST_OBJECT` and `AXON_COST_FLOOR` name other objects to measure.

#[path = "../tests/common/kernel.rs"]
mod kernel;
#[path = "../tests/common/veth.rs"]
mod veth;

#[path = "cost/budget.rs"]
mod budget;
#[path = "cost/floor.rs"]
mod floor;
#[path = "cost/lookup.rs"]
mod lookup;
#[path = "cost/stages.rs"]
mod stages;

use std::path::PathBuf;

use crate::budget::Budgets;
use crate::stages::Stage;

struct Args {
    rounds: usize,
    gate: bool,
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
        gate: false,
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
            "--gate" => args.gate = true,
            // What `cargo bench` adds.
            "--bench" => {}
            other => {
                panic!("{other} is no argument: --rounds N, --budget FILE, --gate, --out FILE")
            }
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
        let mut looks = lookup::all();
        for round in 0..args.rounds {
            let there: Box<dyn Iterator<Item = &mut Stage>> = if round % 2 == 0 {
                Box::new(stages.iter_mut())
            } else {
                Box::new(stages.iter_mut().rev())
            };
            there.for_each(Stage::sample);
            looks.iter_mut().for_each(lookup::Look::sample);
        }
        let over = report(&stages, &looks, &args);
        let fails = args.gate && !over.is_empty();
        assert!(!fails, "beyond budget or goal: {}", over.join(", "));
    });
    if measured.join().is_err() {
        std::process::exit(1);
    }
}

/// Prints what was found; gives back what is beyond its budget or misses its goal.
fn report(stages: &[Stage], looks: &[lookup::Look], args: &Args) -> Vec<String> {
    let least = |name: &str| {
        let stage = stages.iter().find(|stage| stage.name == name);
        f64::from(stage.expect("the stage exists").least_ns())
    };
    let (empty, full) = (least("floor_empty"), least("floor_full"));
    let budgets = args.budget.as_ref().map_or_else(Budgets::none, |file| {
        let text = std::fs::read_to_string(file).expect("the budget can be read");
        Budgets::read(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    });
    let (mut over, mut list, mut names) = (Vec::new(), Vec::new(), Vec::new());
    println!(
        "{:<18} {:>6} {:>7} {:>8} {:>6} {:>6}",
        "ns per packet", "net", "budget", "to floor", "goal", "aim"
    );
    let shown = |bound: Option<f64>| bound.map_or_else(String::new, |bound| bound.to_string());
    let mut told = |name: &'static str, net: f64, to: (&str, f64)| {
        let judged = budgets.judge(name, net, to);
        if judged.is_over() || judged.is_missed() {
            over.push(name.to_owned());
        }
        println!(
            "{name:<18} {net:>6.0} {:>7} {:>8.2} {:>6} {:>6} {}",
            shown(judged.budget_ns.map(f64::round)),
            judged.ratio,
            shown(judged.goal),
            shown(judged.aim),
            judged.told()
        );
        list.push(judged.json(name, to.0));
        names.push(name);
    };
    for stage in stages {
        let net = f64::from(stage.least_ns()) - empty;
        told(stage.name, net, (budget::REFERENCE, full - empty));
    }
    // Who an address is, of 250,000: beside one trie instead of floor_full.
    let (base, exact, trie) = (least("look_base"), least("look_exact"), least("look_trie"));
    told("who_of_250k", exact - base, ("look_trie", trie - base));
    over.extend(budgets.unmeasured(&names).map(str::to_owned));
    over.extend(lookup::report(looks, exact - base, &mut list));
    if let Some(out) = &args.out {
        let text = serde_json::Value::Array(list).to_string();
        std::fs::write(out, text).expect("the results can be written");
    }
    over
}
