//! What a packet costs: nanoseconds of each program by `BPF_PROG_TEST_RUN`,
//! beside floors that do the least a design can do, in one interleaved run.
//!
//! ```text
//! cost [--rounds N] [--json] [--budget FILE]
//! ```
//!
//! Each figure is the least of all rounds, less the empty program: other work
//! on the machine only ever adds. With `--budget` the run fails if a stage
//! costs more, in proportion to the floor, than the file allows.
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

use crate::stages::Stage;

/// A stage's name, and hundredths of `floor_full` that it may cost.
type Budget = BTreeMap<String, u32>;

struct Args {
    rounds: usize,
    json: bool,
    budget: Option<String>,
}

fn args() -> Args {
    let mut args = Args {
        rounds: 300,
        json: false,
        budget: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--rounds" => {
                let rounds = given.next().and_then(|n| n.parse().ok());
                args.rounds = rounds.expect("--rounds takes a number");
            }
            "--json" => args.json = true,
            "--budget" => args.budget = Some(given.next().expect("--budget takes a file")),
            // What `cargo bench` adds.
            "--bench" => {}
            other => panic!("{other} is no argument: --rounds N, --json, --budget FILE"),
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
    let mut over = Vec::new();
    let mut list = Vec::new();
    if !args.json {
        println!(
            "{:<28} {:>6} {:>8} {:>9}",
            "ns per packet", "net", "to full", "budget"
        );
    }
    for stage in stages {
        let net = f64::from(stage.least_ns()) - empty;
        let ratio = net / (full - empty);
        let allowed = budget.get(stage.name).copied();
        if allowed.is_some_and(|percent| ratio * 100.0 > f64::from(percent)) {
            over.push(stage.name.to_owned());
        }
        if args.json {
            list.push(serde_json::json!({
                "stage": stage.name, "net_ns": net, "to_floor_full": ratio,
                "budget": allowed.map(|percent| f64::from(percent) / 100.0),
            }));
        } else {
            let allowed =
                allowed.map_or_else(String::new, |n| format!("{:.2}", f64::from(n) / 100.0));
            println!("{:<28} {net:>6.0} {ratio:>8.2} {allowed:>9}", stage.name);
        }
    }
    if args.json {
        println!("{}", serde_json::Value::Array(list));
    } else {
        let (base, exact, trie) = (least("look_base"), least("look_exact"), least("look_trie"));
        println!(
            "\nwho an address is, of 250,000: {:.0} ns; in one trie {:.0} ns; ratio {:.2}",
            exact - base,
            trie - base,
            (exact - base) / (trie - base)
        );
    }
    over
}
