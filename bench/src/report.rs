//! Medians of ratios within a round, with an interval.

use std::collections::BTreeMap;

use crate::load::{Mode, Sample};
use crate::topology::{Kind, Topology};

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// Samples by mode, topology and round.
pub(crate) struct Results {
    modes: Vec<Mode>,
    topologies: Vec<Kind>,
    samples: Vec<Vec<Vec<Sample>>>,
}

/// What the ratio of a figure is, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    /// Median of the ratios within a round.
    pub median: f64,
    /// Bounds that hold the median of 95 % of the draws.
    pub interval: (f64, f64),
}

/// What is shown of one mode and topology.
struct Row {
    rate: f64,
    least: f64,
    most: f64,
    p50_us: f64,
    p99_us: f64,
    to: BTreeMap<&'static str, Ratio>,
}

/// What ratios are taken to.
const REFERENCES: [Kind; 4] = [Kind::Raw, Kind::Netfilter, Kind::Floor, Kind::FloorBig];

/// What our ratio to another topology shall be at the least.
const GOALS: [(Mode, Kind, f64); 7] = [
    (Mode::Rr, Kind::Floor, 0.97),
    (Mode::Rr, Kind::Netfilter, 1.2),
    (Mode::Crr, Kind::Floor, 0.97),
    (Mode::Crr, Kind::Netfilter, 1.3),
    (Mode::Stream, Kind::FloorBig, 0.95),
    (Mode::Udp, Kind::FloorBig, 0.95),
    (Mode::Udp, Kind::Netfilter, 1.4),
];

/// A goal, and what was measured of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    mode: Mode,
    to: Kind,
    least: f64,
    found: Ratio,
}

impl Goal {
    /// Whether the rounds leave it possible: the upper end of the interval is
    /// not below the bound.
    pub(crate) fn is_met(&self) -> bool {
        self.found.interval.1 >= self.least
    }
}

impl Results {
    /// The goals of which this run can tell.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let samples = |mode: Mode, kind: Kind| {
            let mode = self.modes.iter().position(|m| *m == mode)?;
            let kind = self.topologies.iter().position(|k| *k == kind)?;
            self.samples.get(mode)?.get(kind)
        };
        let goal = |(mode, to, least)| {
            let found = ratio(samples(mode, Kind::Axon)?, samples(mode, to)?);
            Some(Goal {
                mode,
                to,
                least,
                found,
            })
        };
        GOALS.into_iter().filter_map(goal).collect()
    }

    pub(crate) fn new(modes: &[Mode], topologies: &[Topology]) -> Self {
        Self {
            modes: modes.to_vec(),
            topologies: topologies.iter().map(|t| t.kind).collect(),
            samples: vec![vec![Vec::new(); topologies.len()]; modes.len()],
        }
    }

    pub(crate) fn add(&mut self, mode: usize, topology: usize, sample: Sample) {
        if let Some(samples) = self.samples.get_mut(mode).and_then(|m| m.get_mut(topology)) {
            samples.push(sample);
        }
    }

    fn references(&self) -> impl Iterator<Item = Kind> {
        REFERENCES
            .into_iter()
            .filter(|kind| self.topologies.contains(kind))
    }

    pub(crate) fn print_table(&self) {
        for (mode, by_topology) in self.modes.iter().zip(&self.samples) {
            println!("\n{} ({})", mode.name(), mode.unit());
            print!(
                "  {:<10} {:>10} {:>10} {:>10} {:>8} {:>8}",
                "topology", "median", "least", "most", "p50 us", "p99 us"
            );
            for kind in self.references() {
                print!(" {:>22}", format!("to {}", kind.name()));
            }
            println!();
            for (kind, row) in self.topologies.iter().zip(self.rows(by_topology)) {
                print!(
                    "  {:<10} {:>10.1} {:>10.1} {:>10.1} {:>8.1} {:>8.1}",
                    kind.name(),
                    row.rate,
                    row.least,
                    row.most,
                    row.p50_us,
                    row.p99_us,
                );
                for kind in self.references() {
                    let told = row.to.get(kind.name()).map_or_else(String::new, |ratio| {
                        let (low, high) = ratio.interval;
                        format!("{:.3} [{low:.3} {high:.3}]", ratio.median)
                    });
                    print!(" {told:>22}");
                }
                println!();
            }
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let mut list = Vec::new();
        for (mode, by_topology) in self.modes.iter().zip(&self.samples) {
            for (kind, row) in self.topologies.iter().zip(self.rows(by_topology)) {
                let ratios: BTreeMap<_, _> = row
                    .to
                    .iter()
                    .map(|(name, ratio)| {
                        let (low, high) = ratio.interval;
                        let value = serde_json::json!({
                            "median": ratio.median, "low": low, "high": high,
                        });
                        (*name, value)
                    })
                    .collect();
                list.push(serde_json::json!({
                    "mode": mode.name(), "unit": mode.unit(), "topology": kind.name(),
                    "rate": row.rate, "least": row.least, "most": row.most,
                    "p50_us": row.p50_us, "p99_us": row.p99_us, "ratio_to": ratios,
                }));
            }
        }
        serde_json::Value::Array(list)
    }

    fn rows(&self, by_topology: &[Vec<Sample>]) -> Vec<Row> {
        let references: Vec<(Kind, &[Sample])> = self
            .references()
            .filter_map(|kind| {
                let at = self.topologies.iter().position(|t| *t == kind)?;
                Some((kind, by_topology.get(at)?.as_slice()))
            })
            .collect();
        by_topology
            .iter()
            .map(|samples| row(samples, &references))
            .collect()
    }
}

fn row(samples: &[Sample], references: &[(Kind, &[Sample])]) -> Row {
    let rates: Vec<f64> = samples.iter().map(|s| s.rate).collect();
    let to = references
        .iter()
        .map(|(kind, reference)| (kind.name(), ratio(samples, reference)));
    Row {
        rate: median(rates.clone()),
        least: rates.iter().copied().fold(f64::INFINITY, f64::min),
        most: rates.iter().copied().fold(0.0, f64::max),
        p50_us: median(samples.iter().map(|s| s.p50_us).collect()),
        p99_us: median(samples.iter().map(|s| s.p99_us).collect()),
        to: to.collect(),
    }
}

pub(crate) fn print_goals(goals: &[Goal]) {
    println!("\ngoals (met unless the whole interval is below)");
    for goal in goals {
        let (low, high) = goal.found.interval;
        println!(
            "  {:<8} to {:<10} at least {:.2}: {:.3} [{low:.3} {high:.3}] {}",
            goal.mode.name(),
            goal.to.name(),
            goal.least,
            goal.found.median,
            if goal.is_met() { "met" } else { "MISSED" }
        );
    }
}

/// The ratio of the rates of two topologies, taken within each round.
fn ratio(samples: &[Sample], reference: &[Sample]) -> Ratio {
    let ratios: Vec<f64> = samples
        .iter()
        .zip(reference)
        .map(|(sample, reference)| sample.rate / reference.rate)
        .collect();
    Ratio {
        median: median(ratios.clone()),
        interval: interval(&ratios),
    }
}

/// The 95 % interval of the median, by drawing the rounds anew.
fn interval(ratios: &[f64]) -> (f64, f64) {
    if ratios.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    // Any sequence serves that is the same in each run.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = usize::try_from(state >> 33).unwrap_or(0) % ratios.len();
        ratios.get(at).copied().unwrap_or(f64::NAN)
    };
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| median((0..ratios.len()).map(|_| draw()).collect()))
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |n: usize| medians.get(n).copied().unwrap_or(f64::NAN);
    (at(DRAWS / 40), at(DRAWS - 1 - DRAWS / 40))
}

/// The middle, of an even count the mean of the two middles.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let upper = numbers.len() / 2;
    let at = |n: usize| numbers.get(n).copied().unwrap_or(f64::NAN);
    if numbers.len().is_multiple_of(2) && upper > 0 {
        f64::midpoint(at(upper - 1), at(upper))
    } else {
        at(upper)
    }
}

#[cfg(test)]
mod tests {
    use super::{interval, median, ratio};
    use crate::load::Sample;

    fn sample(rate: f64) -> Sample {
        Sample {
            rate,
            ..Sample::default()
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine is twice as fast in the second round: the ratio holds.
        let raw = [100.0, 200.0, 100.0].map(sample);
        let other = [90.0, 180.0, 90.0].map(sample);
        assert!((ratio(&other, &raw).median - 0.9).abs() < 1e-9);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_rounds() {
        let ratios = |n: usize| -> Vec<f64> {
            (0..n)
                .map(|i| 0.9 + 0.1 * ((i * 7 % 10) as f64 / 10.0))
                .collect()
        };
        let (few, many) = (ratios(5), ratios(50));
        let width = |ratios: &[f64]| {
            let (low, high) = interval(ratios);
            assert!(low <= median(ratios.to_vec()) && median(ratios.to_vec()) <= high);
            high - low
        };
        assert!(width(&many) < width(&few));
        assert_eq!(interval(&[1.0; 7]), (1.0, 1.0));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}
