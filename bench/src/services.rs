//! Connecting to a service and speaking over the connection, however many services
//! there are: at sockets, as we have it, beside kube-proxy's rules and beside no
//! service at all, in one run.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::goals::{self, Goal, Judged};
use crate::load::Mode;
use crate::report::{self, Results};
use crate::service::{By, DIRECT, SERVICES};
use crate::targets::Figure;
use crate::topology::{Kind, Parts, Topology};

/// Rounds of a gate, and of a run that is none.
const ROUNDS: (usize, usize) = (25, 7);
const MODES: [Mode; 2] = [Mode::Crr, Mode::Rr];

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct ServicesArgs {
    /// Rounds; each measures every topology once [default: 7, and 25 for a gate].
    #[arg(short = 'n', long)]
    rounds: Option<usize>,
    /// Milliseconds of each sample.
    #[arg(short = 't', long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(50..=500))]
    sample_ms: u64,
    /// Measure no more services than these.
    #[arg(long, default_value_t = 60_000)]
    most: usize,
    /// The `axon` binary.
    #[arg(long, default_value = "target/release/axon")]
    axon: PathBuf,
    /// Fail if a goal is missed; takes 25 rounds or more.
    #[arg(long)]
    gate: bool,
    /// Write what was measured to this file as JSON, besides the table.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Measures.
pub(crate) fn measure(args: &ServicesArgs) -> Result<()> {
    let usual = if args.gate { ROUNDS.0 } else { ROUNDS.1 };
    let rounds = args.rounds.unwrap_or(usual);
    goals::check_rounds(args.gate, rounds)?;
    let kinds = SERVICES.iter().filter(|(s, _)| s.count <= args.most);
    let kinds: Vec<Kind> = kinds.map(|(s, _)| Kind::Service(*s)).collect();
    let mut results = Results::new(&MODES, &kinds);
    let (topologies, set_up) = set_up(args, &kinds, &mut results);
    crate::measure_all((rounds, args.sample_ms), &MODES, &topologies, &mut results);
    drop(topologies);
    print!("{}", results.table());
    let mut judged = results.judged();
    let spreads: Vec<Judged> = MODES.iter().map(|mode| spread(*mode, &results)).collect();
    println!("\nover all numbers of services");
    goals::print(&spreads);
    judged.extend(spreads.iter().cloned());
    let spreads: Vec<Value> = spreads.iter().map(Judged::json).collect();
    let json = json!({ "paths": results.json(), "spreads": spreads, "set_up": set_up });
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    let failures = results.failures();
    if !failures.is_empty() {
        bail!("not measured: {}", failures.join("; "));
    }
    goals::check(args.gate, &judged)
}

/// Sets up what can be, and tells how long that took: for kube-proxy's tools it is
/// programming, for ours the start of a lab too.
fn set_up(
    args: &ServicesArgs,
    kinds: &[Kind],
    results: &mut Results,
) -> (Vec<Option<Topology>>, Vec<Value>) {
    let parts = Parts {
        axon: args.axon.clone(),
        floor: PathBuf::new(),
    };
    let (mut topologies, mut told) = (Vec::new(), Vec::new());
    for (t, kind) in kinds.iter().enumerate() {
        let begun = Instant::now();
        let topology = Topology::up(*kind, &parts);
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{} is up after {seconds:.1} s", kind.name());
        told.push(json!({ "topology": kind.name(), "set_up_s": seconds }));
        topologies.push(match topology {
            Ok(topology) => Some(topology),
            Err(error) => {
                eprintln!("  failed: {error:#}");
                results.fail(t, report::one_line(&format!("{error:#}")));
                None
            }
        });
    }
    (topologies, told)
}

/// By how much the rate at one number of services is above that at another.
fn spread(mode: Mode, results: &Results) -> Judged {
    let ours = SERVICES.iter().map(|(service, _)| *service);
    let ours = ours.filter(|service| service.by == By::Axon);
    let ratios = ours.filter_map(|service| {
        let kind = Kind::Service(service);
        let is_asked = results.is_asked(kind);
        is_asked.then(|| results.ratio(mode, Figure::Rate, (kind, DIRECT)).median)
    });
    Judged {
        what: format!("{} of services, most to least", mode.name()),
        goal: Goal::at_most(Some(1.02), Some(1.01)),
        figure: most_to_least(ratios),
        interval: None,
    }
}

/// Not a number if one of them is none: what was not measured reaches nothing.
fn most_to_least(numbers: impl Iterator<Item = f64>) -> f64 {
    let numbers: Vec<f64> = numbers.collect();
    if numbers.iter().any(|n| n.is_nan()) {
        return f64::NAN;
    }
    let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most / numbers.iter().copied().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::most_to_least;

    #[test]
    fn a_spread_is_that_of_all() {
        assert!((most_to_least([0.98, 1.0, 0.99].into_iter()) - 1.0 / 0.98).abs() < 1e-9);
        assert!(most_to_least([0.98, f64::NAN].into_iter()).is_nan());
        assert!(most_to_least([].into_iter()).is_nan());
    }
}
