//! Plays cases: one after the other in a lab, in several labs at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::bench::{Bench, Start, Wanted};
use crate::case::{Case, Config, Probe, Protocol, State};
use crate::report::{Outcome, Row};
use crate::serve::Ports;

/// A case with the options that it is played with.
#[derive(Clone)]
pub(crate) struct Run<'c> {
    case: &'c Case,
    config: Config,
    /// Prefixes select nodes and pods, and the expectations are others.
    is_literal: bool,
    /// After which starts of the agents it is to hold too.
    starts: &'static [Start],
}

impl<'c> Run<'c> {
    /// The runs of a case: with Cilium's reading of prefixes, and with the
    /// literal one where that says something else.
    pub(crate) fn of(case: &'c Case) -> Vec<Self> {
        let mut runs = vec![Self {
            case,
            config: case.config.clone(),
            is_literal: false,
            starts: &[],
        }];
        if case.has_literal_reading() {
            let modes = ["nodes", "pods"].map(str::to_owned);
            runs.push(Self {
                case,
                config: Config {
                    cidr_match_mode: modes.into(),
                    ..case.config.clone()
                },
                is_literal: true,
                starts: &[],
            });
        }
        runs
    }

    fn name(&self) -> String {
        let reading = if self.is_literal { " (literal)" } else { "" };
        format!("{}{reading}", self.case.name)
    }

    /// What a lab has to become for it; alike are played after one another.
    fn kind(&self) -> (Vec<&str>, &Config) {
        let state = &self.case.states()[0];
        let nodes = state.cluster.nodes.iter().map(|node| node.name.as_str());
        (nodes.collect(), &self.config)
    }

    fn wanted<'a>(&'a self, state: &'a State, probes: &'a [Probe]) -> Wanted<'a> {
        Wanted {
            cluster: &state.cluster,
            config: &self.config,
            policies: &state.policies,
            probes,
        }
    }

    fn row(&self, outcome: Outcome) -> Row {
        Row {
            name: self.name(),
            title: self.case.title.clone(),
            group: self.case.group().to_owned(),
            outcome,
            states: 0,
            probes: 0,
            late: 0,
            took: std::time::Duration::ZERO,
        }
    }

    fn play(&self, bench: &mut Bench) -> Row {
        let began = Instant::now();
        let mut row = self.row(Outcome::Passed);
        let mut wrong = Vec::new();
        for (number, state) in self.case.states().iter().enumerate() {
            let probes = state.probes(self.is_literal);
            let wanted = self.wanted(state, &probes);
            row.states += 1;
            row.probes += probes.len();
            for start in [None].into_iter().chain(self.starts.iter().map(Some)) {
                let reached = match start {
                    None => bench.reach(&wanted),
                    Some(start) => bench.start_anew(&wanted, *start),
                };
                let after = start.map_or(String::new(), |start| format!("{start:?}: "));
                match reached.and_then(|()| bench.check(&probes)) {
                    Ok(found) => {
                        row.late += found.late;
                        let lines = found.wrong.iter();
                        wrong.extend(lines.map(|line| self.line(number, &(after.clone() + line))));
                    }
                    Err(problem) => match unsupported(&problem) {
                        Some(reason) => row.outcome = Outcome::Skipped(reason),
                        None => wrong.push(self.line(number, &(after + &problem))),
                    },
                }
            }
        }
        row.took = began.elapsed();
        if !wrong.is_empty() {
            row.outcome = match self.case.unsure {
                true => Outcome::Unsure(wrong),
                false => Outcome::Failed(wrong),
            };
        }
        row.tell();
        row
    }

    /// What is wrong, with the step that it is wrong in if there are several.
    fn line(&self, step: usize, wrong: &str) -> String {
        match self.case.states() {
            [_] => wrong.to_owned(),
            _ => format!("step {step}: {wrong}"),
        }
    }
}

/// What a policy asks for that no agent does yet: it is refused whole, and
/// says so.
fn unsupported(problem: &str) -> Option<String> {
    const WORDS: &str = ": not supported yet";
    let (before, _) = problem.split_once(WORDS)?;
    let field = before.rsplit([' ', '\n']).next()?;
    Some(format!("{field} is not supported yet"))
}

/// Every port that any of these cases tries.
fn ports(runs: &[Run<'_>]) -> Ports {
    let mut ports = Ports::default();
    for run in runs {
        let states = run.case.states().iter();
        for probe in states.flat_map(|state| state.probes(run.is_literal)) {
            let of_protocol = match probe.protocol {
                Protocol::Tcp => &mut ports.tcp,
                Protocol::Udp => &mut ports.udp,
                Protocol::Sctp => &mut ports.sctp,
                Protocol::Icmp | Protocol::IcmpV6 => continue,
            };
            of_protocol.insert(probe.port);
        }
    }
    ports
}

/// Plays cases in so many labs; tells what came of all of them, played or
/// not. None without the privileges that a lab takes.
pub(crate) fn play(cases: &[Case], labs: usize, starts: &'static [Start]) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let mut runs = Vec::new();
    for case in cases {
        match case.skipped() {
            Some(reason) => {
                let run = Run::of(case).remove(0);
                rows.push(run.row(Outcome::Skipped(reason)));
            }
            None => {
                let of_case = Run::of(case).into_iter();
                runs.extend(of_case.map(|run| Run { starts, ..run }));
            }
        }
    }
    runs.sort_by(|a, b| {
        a.kind()
            .cmp(&b.kind())
            .then_with(|| a.name().cmp(&b.name()))
    });
    let ports = ports(&runs);
    let played = Mutex::new(Some(Vec::new()));
    std::thread::scope(|scope| {
        for (number, share) in shares(&runs, labs).into_iter().enumerate() {
            let (ports, played) = (ports.clone(), &played);
            scope.spawn(move || {
                let of_share = in_a_lab(&format!("cases{number}"), share, ports);
                let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
                match (played.as_mut(), of_share) {
                    (Some(played), Some(rows)) => played.extend(rows),
                    _ => *played = None,
                }
            });
        }
    });
    rows.extend(
        played
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)?,
    );
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Some(rows)
}

/// Parts of about as many states each, in order.
fn shares<'r, 'c>(runs: &'r [Run<'c>], labs: usize) -> Vec<&'r [Run<'c>]> {
    let states = |run: &Run<'_>| run.case.states().len();
    let all: usize = runs.iter().map(states).sum();
    let mut cuts = BTreeMap::new();
    let mut before = 0;
    for (at, run) in runs.iter().enumerate() {
        cuts.entry(before * labs / all).or_insert(at);
        before += states(run);
    }
    let starts: Vec<usize> = cuts.into_values().collect();
    let ends = starts.iter().copied().skip(1).chain([runs.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &runs[*start..end])
        .collect()
}

fn in_a_lab(name: &str, runs: &[Run<'_>], ports: Ports) -> Option<Vec<Row>> {
    let first = runs.first()?;
    // Without its policies: they may be refused, which is for the case to tell.
    let wanted = Wanted {
        cluster: &first.case.states()[0].cluster,
        config: &first.config,
        policies: &[],
        probes: &[],
    };
    let mut bench = Bench::up(name, &wanted, ports)?;
    Some(runs.iter().map(|run| run.play(&mut bench)).collect())
}
