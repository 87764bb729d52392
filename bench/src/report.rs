//! Medians of ratios within a round, with an interval, beside what they shall be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::goals::{Goal, Judged, Sense};
use crate::load::{Mode, Sample};
use crate::service::DIRECT;
use crate::targets::{Figure, Target, target, targets};
use crate::topology::Kind;

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// Samples by mode, topology and round.
pub(crate) struct Results {
    modes: Vec<Mode>,
    topologies: Vec<Kind>,
    /// Why a topology has no figures.
    failed: Vec<Option<String>>,
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

/// What ratios are shown to.
const REFERENCES: [Kind; 5] = [
    Kind::Raw,
    Kind::Netfilter,
    Kind::Floor,
    Kind::FloorBig,
    DIRECT,
];

impl Results {
    pub(crate) fn new(modes: &[Mode], topologies: &[Kind]) -> Self {
        Self {
            modes: modes.to_vec(),
            topologies: topologies.to_vec(),
            failed: vec![None; topologies.len()],
            samples: vec![vec![Vec::new(); topologies.len()]; modes.len()],
        }
    }

    pub(crate) fn add(&mut self, mode: usize, topology: usize, sample: Sample) {
        if let Some(samples) = self.samples.get_mut(mode).and_then(|m| m.get_mut(topology)) {
            samples.push(sample);
        }
    }

    /// From here on a topology has no figures; those that it had do not count.
    pub(crate) fn fail(&mut self, topology: usize, why: String) {
        if let Some(failed) = self.failed.get_mut(topology) {
            *failed = Some(why);
        }
    }

    pub(crate) fn has_failed(&self, topology: usize) -> bool {
        self.failed.get(topology).is_some_and(Option::is_some)
    }

    /// Whether a topology was asked for.
    pub(crate) fn is_asked(&self, kind: Kind) -> bool {
        self.topologies.contains(&kind)
    }

    /// The topologies that were asked for and have no figures, with the reason.
    pub(crate) fn failures(&self) -> Vec<String> {
        let named = self.topologies.iter().zip(&self.failed);
        named
            .filter_map(|(kind, why)| Some(format!("{} ({})", kind.name(), why.as_ref()?)))
            .collect()
    }

    /// The targets of which a run with these modes and topologies shall tell.
    /// What has no figures misses them.
    pub(crate) fn judged(&self) -> Vec<Judged> {
        self.modes.iter().flat_map(|m| self.judged_of(*m)).collect()
    }

    fn judged_of(&self, mode: Mode) -> Vec<Judged> {
        let asked = |kind| self.is_asked(kind);
        let targets = targets().filter(|t| t.mode == mode);
        targets
            .filter(|target| asked(target.of) && asked(target.to))
            .map(|target| {
                let found = self.ratio(mode, target.figure, (target.of, target.to));
                Judged {
                    what: target.what(),
                    goal: target.goal,
                    figure: found.median,
                    interval: Some(found.interval),
                }
            })
            .collect()
    }

    /// The samples of a topology that has figures.
    fn of(&self, mode: Mode, kind: Kind) -> &[Sample] {
        let mode = self.modes.iter().position(|m| *m == mode);
        let at = self.topologies.iter().position(|k| *k == kind);
        let (Some(mode), Some(at)) = (mode, at) else {
            return &[];
        };
        if self.has_failed(at) {
            return &[];
        }
        let samples = self.samples.get(mode).and_then(|m| m.get(at));
        samples.map_or(&[], Vec::as_slice)
    }

    pub(crate) fn ratio(&self, mode: Mode, figure: Figure, (of, to): (Kind, Kind)) -> Ratio {
        ratio(self.of(mode, of), self.of(mode, to), figure)
    }

    fn references(&self) -> impl Iterator<Item = Kind> {
        REFERENCES
            .into_iter()
            .filter(|kind| self.topologies.contains(kind))
    }

    pub(crate) fn table(&self) -> String {
        self.modes.iter().map(|mode| self.table_of(*mode)).collect()
    }

    fn table_of(&self, mode: Mode) -> String {
        let mut text = format!("\n{} ({})\n", mode.name(), mode.unit());
        text += &format!(
            "  {:<12} {:>10} {:>10} {:>10}",
            "topology", "median", "least", "most"
        );
        for (name, _) in Figure::beside(mode) {
            text += &format!(" {name:>8}");
        }
        for kind in self.references() {
            text += &format!(" {:>22}", format!("to {}", kind.name()));
        }
        text.push('\n');
        for (kind, failed) in self.topologies.iter().zip(&self.failed) {
            if kind.measures(mode) {
                text += &match failed {
                    Some(why) => format!("  {:<12} failed: {}\n", kind.name(), one_line(why)),
                    None => self.row(mode, *kind),
                };
            }
        }
        for judged in self.judged_of(mode) {
            text += &format!("  {}\n", judged.line());
        }
        for kind in self.unsteady(mode) {
            text += &format!("  {} is unsteady: run it again\n", kind.name());
        }
        text
    }

    fn row(&self, mode: Mode, kind: Kind) -> String {
        let samples = self.of(mode, kind);
        let (least, most) = range(samples);
        let middle = |figure: Figure| median(samples.iter().map(|s| figure.of(s)).collect());
        let mut text = format!(
            "  {:<12} {:>10.1} {least:>10.1} {most:>10.1}",
            kind.name(),
            middle(Figure::Rate)
        );
        for (_, figure) in Figure::beside(mode) {
            let digits = if *figure == Figure::Cpu { 3 } else { 1 };
            text += &format!(" {:>8.digits$}", middle(*figure));
        }
        for reference in self.references() {
            let Ratio { median, interval } = self.ratio(mode, Figure::Rate, (kind, reference));
            let (low, high) = interval;
            text += &format!(" {:>22}", format!("{median:.3} [{low:.3} {high:.3}]"));
        }
        text.push('\n');
        text
    }

    /// The limits of a run whose own rates differ so much that it tells little.
    fn unsteady(&self, mode: Mode) -> Vec<Kind> {
        let bound = if mode == Mode::Stream { 1.15 } else { 1.25 };
        let limits = [Kind::Raw, Kind::Floor, Kind::FloorBig, DIRECT].into_iter();
        limits
            .filter(|kind| {
                let (least, most) = range(self.of(mode, *kind));
                most / least > bound
            })
            .collect()
    }

    pub(crate) fn json(&self) -> Value {
        let mut list = Vec::new();
        for mode in &self.modes {
            for (kind, failed) in self.topologies.iter().zip(&self.failed) {
                if kind.measures(*mode) {
                    let mut row = self.ratios_of(*mode, *kind);
                    match failed {
                        Some(why) => row["failed"] = why.as_str().into(),
                        None => self.tell_figures(*mode, *kind, &mut row),
                    }
                    list.push(row);
                }
            }
        }
        Value::Array(list)
    }

    /// What a topology that has no figures misses is told too.
    fn ratios_of(&self, mode: Mode, kind: Kind) -> Value {
        json!({
            "mode": mode.name(), "unit": mode.unit(), "topology": kind.name(),
            "ratio_to": self.ratios(mode, kind, Figure::Rate),
            "p99_ratio_to": self.ratios(mode, kind, Figure::P99),
            "cpu_ratio_to": self.ratios(mode, kind, Figure::Cpu),
        })
    }

    fn tell_figures(&self, mode: Mode, kind: Kind, row: &mut Value) {
        let samples = self.of(mode, kind);
        let (least, most) = range(samples);
        let middle = |figure: Figure| median(samples.iter().map(|s| figure.of(s)).collect());
        for (name, value) in [
            ("rounds", samples.len().into()),
            ("rate", middle(Figure::Rate).into()),
            ("least", least.into()),
            ("most", most.into()),
            ("p50_us", middle(Figure::P50).into()),
            ("p99_us", middle(Figure::P99).into()),
            ("cpu_s_per_gb", middle(Figure::Cpu).into()),
            ("unsteady", self.unsteady(mode).contains(&kind).into()),
        ] {
            row[name] = value;
        }
    }

    /// The ratios of a figure to all that it is shown beside or held to.
    fn ratios(&self, mode: Mode, of: Kind, figure: Figure) -> BTreeMap<&'static str, Value> {
        let shown =
            figure == Figure::Rate || Figure::beside(mode).iter().any(|(_, told)| *told == figure);
        if !shown {
            return BTreeMap::new();
        }
        let measured = self.topologies.iter().copied();
        let references = measured
            .filter(|to| REFERENCES.contains(to) || target(mode, figure, (of, *to)).is_some());
        references
            .map(|to| {
                let found = self.ratio(mode, figure, (of, to));
                let told = target(mode, figure, (of, to));
                let sense = match figure {
                    Figure::Rate => Sense::AtLeast,
                    Figure::P50 | Figure::P99 | Figure::Cpu => Sense::AtMost,
                };
                let none = Goal {
                    sense,
                    goal: None,
                    aim: None,
                };
                let judged = Judged {
                    what: told.map_or_else(String::new, Target::what),
                    goal: told.map_or(none, |told| told.goal),
                    figure: found.median,
                    interval: Some(found.interval),
                };
                (to.name(), judged.json())
            })
            .collect()
    }
}

/// The least and the greatest rate.
fn range(samples: &[Sample]) -> (f64, f64) {
    let rates = || samples.iter().map(|s| s.rate);
    let least = rates().fold(f64::INFINITY, f64::min);
    (least, rates().fold(f64::NEG_INFINITY, f64::max))
}

/// What fits into a row of a table.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The ratio of a figure of two topologies, taken within each round.
fn ratio(samples: &[Sample], reference: &[Sample], figure: Figure) -> Ratio {
    let ratios: Vec<f64> = samples
        .iter()
        .zip(reference)
        .map(|(sample, reference)| figure.of(sample) / figure.of(reference))
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
    use super::{Figure, Results, interval, median, ratio};
    use crate::load::{Mode, Sample};
    use crate::topology::Kind;

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
        assert!((ratio(&other, &raw, Figure::Rate).median - 0.9).abs() < 1e-9);
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

    /// Rounds in which we have so much of the rate of the floor.
    fn run(share: f64) -> Results {
        let kinds = [Kind::Raw, Kind::Floor, Kind::Axon, Kind::AxonPlain];
        let mut results = Results::new(&[Mode::Rr, Mode::Stream], &kinds);
        for _ in 0..25 {
            for (t, rate) in [100.0, 94.0, 94.0 * share].into_iter().enumerate() {
                let sample = Sample {
                    p99_us: 1400.0 / rate,
                    ..sample(rate)
                };
                results.add(0, t, sample);
            }
            for (t, rate) in [60.0, 58.0, 90.0, 58.0 * share].into_iter().enumerate() {
                let sample = Sample {
                    cpu_s_per_gb: 12.0 / rate,
                    ..sample(rate)
                };
                results.add(1, t, sample);
            }
        }
        results
    }

    #[test]
    fn each_ratio_in_json_tells_its_goal_and_whether_it_is_met() {
        for (share, met, aimed) in [
            (1.01, true, true),
            (0.98, true, false),
            (0.95, false, false),
        ] {
            let json = run(share).json();
            let row = |mode: &str, topology: &str| {
                let rows = json.as_array().expect("rows").iter();
                let mut found = rows.filter(|r| r["mode"] == mode && r["topology"] == topology);
                found.next().expect("a row").clone()
            };
            let rr = row("rr", "axon");
            let to_floor = &rr["ratio_to"]["floor"];
            assert_eq!(to_floor["goal"], 0.97);
            assert_eq!(to_floor["met"], met, "{share}");
            assert!(to_floor["aim"].is_null());
            let to_raw = &rr["ratio_to"]["raw"];
            assert!(to_raw["goal"].is_null() && to_raw["met"].is_null());
            assert_eq!(to_raw["aim"], 0.945);
            assert_eq!(to_raw["aim_met"], aimed, "{share}");
            assert_eq!(rr["p99_ratio_to"]["raw"]["aim"], 1.06);
            // Without BIG TCP we are held to the floor that has none.
            assert_eq!(row("stream", "axon-plain")["ratio_to"]["floor"]["met"], met);
            let with = row("stream", "axon");
            assert!(with["ratio_to"]["floor"]["goal"].is_null());
            assert_eq!(with["ratio_to"]["raw"]["aim_met"], true);
            assert_eq!(with["cpu_ratio_to"]["raw"]["aim_met"], true);
        }
    }

    #[test]
    fn the_table_tells_goals_and_a_topology_measures_what_it_is_for() {
        let table = run(0.95).table();
        let line = |start: &str| {
            let mut lines = table.lines().map(str::trim);
            lines
                .find(|line| line.starts_with(start))
                .map(str::to_owned)
        };
        let told = line("rr of axon to floor ").expect("the goal is told");
        assert!(told.ends_with("goal >= 0.97 MISSED"), "{told}");
        let told = line("stream of axon to raw").expect("the aim is told");
        assert!(told.ends_with("aim >= 1.45 reached"), "{told}");
        let (rr, stream) = table.split_once("stream (").expect("two modes");
        assert!(!rr.contains("\n  axon-plain "), "{rr}");
        assert!(stream.contains("\n  axon-plain "), "{stream}");
    }

    #[test]
    fn a_topology_that_fails_is_a_row_and_misses_its_goals() {
        let mut results = run(1.0);
        assert!(results.failures().is_empty());
        // Whatever it had measured before.
        results.fail(2, "no\n  program".to_owned());
        assert_eq!(results.failures(), ["axon (no\n  program)"]);
        let table = results.table();
        assert!(
            table.contains("\n  axon         failed: no program\n"),
            "{table}"
        );
        let json = results.json();
        let failed: Vec<_> = json.as_array().expect("rows").iter().collect();
        let failed: Vec<_> = failed.iter().filter(|r| !r["failed"].is_null()).collect();
        assert_eq!(failed.len(), 2, "of each mode");
        assert_eq!(failed[0]["ratio_to"]["floor"]["met"], false);
        assert!(failed[0]["rate"].is_null());
        let judged = results.judged();
        let of = |what: &str| judged.iter().find(|j| j.what == what).expect("judged");
        assert_eq!(of("rr of axon to floor").met(), Some(false));
        assert_eq!(of("stream of axon-plain to floor").met(), Some(true));
    }

    #[test]
    fn a_limit_that_wavers_is_told() {
        let mut results = Results::new(&[Mode::Rr], &[Kind::Raw]);
        results.add(0, 0, sample(100.0));
        results.add(0, 0, sample(120.0));
        assert!(!results.table().contains("unsteady"));
        results.add(0, 0, sample(126.0));
        assert!(results.table().contains("raw is unsteady"));
    }
}
