//! Medians, and ratios to the first topology within each round.

use crate::load::{Mode, Sample};
use crate::topology::{Kind, Topology};

/// Samples by mode, topology and round.
pub(crate) struct Results {
    modes: Vec<Mode>,
    topologies: Vec<Kind>,
    samples: Vec<Vec<Vec<Sample>>>,
}

/// What is shown of one mode and topology.
struct Row {
    rate: f64,
    least: f64,
    most: f64,
    p50_us: f64,
    p99_us: f64,
    ratio: f64,
}

impl Results {
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

    pub(crate) fn print_table(&self) {
        for (mode, by_topology) in self.modes.iter().zip(&self.samples) {
            println!("\n{} ({})", mode.name(), mode.unit());
            println!(
                "  {:<10} {:>12} {:>12} {:>12} {:>9} {:>9} {:>9}",
                "topology", "median", "least", "most", "p50 us", "p99 us", "to first"
            );
            for (kind, row) in self.topologies.iter().zip(rows(by_topology)) {
                println!(
                    "  {:<10} {:>12.1} {:>12.1} {:>12.1} {:>9.1} {:>9.1} {:>9.3}",
                    format!("{kind:?}").to_lowercase(),
                    row.rate,
                    row.least,
                    row.most,
                    row.p50_us,
                    row.p99_us,
                    row.ratio
                );
            }
        }
    }

    pub(crate) fn print_json(&self) {
        let mut list = Vec::new();
        for (mode, by_topology) in self.modes.iter().zip(&self.samples) {
            for (kind, row) in self.topologies.iter().zip(rows(by_topology)) {
                list.push(serde_json::json!({
                    "mode": mode.name(), "unit": mode.unit(),
                    "topology": format!("{kind:?}").to_lowercase(),
                    "rate": row.rate, "least": row.least, "most": row.most,
                    "p50_us": row.p50_us, "p99_us": row.p99_us, "ratio": row.ratio,
                }));
            }
        }
        println!("{}", serde_json::Value::Array(list));
    }
}

fn rows(by_topology: &[Vec<Sample>]) -> Vec<Row> {
    let reference: &[Sample] = by_topology.first().map_or(&[], Vec::as_slice);
    by_topology
        .iter()
        .map(|samples| {
            let rates: Vec<f64> = samples.iter().map(|s| s.rate).collect();
            let ratios = samples.iter().zip(reference).map(|(s, r)| s.rate / r.rate);
            Row {
                rate: median(rates.clone()),
                least: rates.iter().copied().fold(f64::INFINITY, f64::min),
                most: rates.iter().copied().fold(0.0, f64::max),
                p50_us: median(samples.iter().map(|s| s.p50_us).collect()),
                p99_us: median(samples.iter().map(|s| s.p99_us).collect()),
                ratio: median(ratios.collect()),
            }
        })
        .collect()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{median, rows};
    use crate::load::Sample;

    fn sample(rate: f64) -> Sample {
        Sample {
            rate,
            p50_us: 0.0,
            p99_us: 0.0,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine is twice as fast in the second round: the ratio holds.
        let raw = vec![sample(100.0), sample(200.0), sample(100.0)];
        let other = vec![sample(90.0), sample(180.0), sample(90.0)];
        let rows = rows(&[raw, other]);
        assert!((rows[1].ratio - 0.9).abs() < 1e-9);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}
