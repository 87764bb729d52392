//! Plays service cases: state by state, probe by probe.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::ask::{self, Open, Order, PATIENCE, Told};
use super::case::{Case, Connection, Continues, Expected, From, Probe, Reply};
use super::judge::{self, Addresses};
use super::reports;
use super::stage::{Among, Stage};
use super::world;
use crate::report::{Outcome, Row};

/// What is kept of a case from state to state.
#[derive(Default)]
struct Memory {
    /// Connections that are open, by name.
    open: BTreeMap<String, Open>,
    /// Who answered first, by probe.
    first: BTreeMap<String, String>,
}

/// Plays cases one after the other in a lab; none if agents do not serve services.
pub(super) fn in_a_lab(cases: &[Case]) -> Option<Vec<Row>> {
    let mut stage: Option<Stage> = None;
    let mut rows = Vec::new();
    for case in cases {
        let mut of_case = match stage.take() {
            Some(stage) if stage.can_become(case) => stage,
            // The one before goes first: it has the addresses.
            other => {
                drop(other);
                Stage::up(case)?
            }
        };
        rows.push(of_case.case(case));
        stage = Some(of_case);
    }
    Some(rows)
}

pub(super) fn row(case: &Case, outcome: Outcome) -> Row {
    Row {
        name: case.name.clone(),
        title: case.title.clone(),
        group: case.kind.clone(),
        outcome,
        states: 0,
        probes: 0,
        late: 0,
        took: Duration::ZERO,
    }
}

impl Stage {
    fn case(&mut self, case: &Case) -> Row {
        let began = Instant::now();
        let mut row = row(case, Outcome::Passed);
        let mut memory = Memory::default();
        let mut wrong = Vec::new();
        for (n, state) in case.states().iter().enumerate() {
            let line = |what: String| format!("state {n}: {what}");
            row.states += 1;
            row.probes += state.probes.len();
            let reached = self.become_like(case);
            if let Err(problem) = reached.and_then(|()| self.reach(case, state)) {
                wrong.push(line(problem));
                break;
            }
            std::thread::sleep(Duration::from_secs(state.wait));
            for probe in state.probes {
                let found = self.probe(case, probe, &mut memory);
                let found = found.unwrap_or_else(|problem| vec![problem]);
                let from = world::name(&probe.from);
                let to = SocketAddr::new(probe.to.address, probe.to.port);
                let named = |what| line(format!("{}: {from} -> {to}: {what}", probe.id));
                wrong.extend(found.into_iter().map(named));
            }
            self.forget_routes();
            if let Some(expected) = state.reports {
                let found = reports::wrong(&self.agents, expected);
                wrong.extend(found.into_iter().map(line));
            }
        }
        row.took = began.elapsed();
        if !wrong.is_empty() {
            row.outcome = match case.unsure {
                true => Outcome::Unsure(wrong),
                false => Outcome::Failed(wrong),
            };
        }
        row.tell();
        row
    }

    fn probe(
        &mut self,
        case: &Case,
        probe: &Probe,
        memory: &mut Memory,
    ) -> Result<Vec<String>, String> {
        self.route(probe)?;
        let expected = probe.expected()?;
        let (place, own) = self.client(case, &probe.from)?;
        let is_v6 = probe.to.address.is_ipv6();
        let is_outside = matches!(probe.from, From::Outside(_));
        let order = Order {
            protocol: probe.protocol,
            from: own
                .iter()
                .copied()
                .find(|ip| ip.is_ipv6() == is_v6 && is_outside),
            source_port: probe.same_source_port,
            to: SocketAddr::new(probe.to.address, probe.to.port),
            wait: expected.wait(),
        };
        let failed = |error: io::Error| error.to_string();
        let _among = Among::enter(place).map_err(failed)?;
        if let Some(path) = &probe.http {
            return health(&place.netns, &order, path, &expected).map_err(failed);
        }
        if let Some(Connection::Use(name)) = &probe.connection {
            let open = memory
                .open
                .get_mut(name)
                .ok_or("that connection is not open")?;
            let told = ask::again(open, order.wait);
            let is_over = matches!(told, Told::Refused(..));
            let new = match expected.continues {
                Some(Continues::Moves) if is_over => {
                    ask::all(&place.netns, &order, 1).map_err(failed)?.pop()
                }
                _ => None,
            };
            let new = new.map(|(told, _)| told);
            return Ok(judge::continues(&told, new.as_ref(), &expected)
                .into_iter()
                .collect());
        }
        let (told, mut open): (Vec<Told>, Vec<Option<Open>>) =
            ask::all(&place.netns, &order, probe.count)
                .map_err(failed)?
                .into_iter()
                .unzip();
        if let Some(Connection::Open(name)) = &probe.connection
            && let Some(kept) = open.pop().flatten()
        {
            memory.open.insert(name.clone(), kept);
        }
        let addresses = Addresses {
            own: own.into_iter().collect(),
            nodes: self
                .nodes
                .values()
                .flat_map(|node| node.ips.clone())
                .collect(),
        };
        let before = probe
            .compare_with
            .as_ref()
            .and_then(|id| memory.first.get(id));
        let wrong = judge::wrong(&told, &expected, &addresses, before.map(String::as_str));
        if let Some(first) = judge::backends(&told).into_keys().next() {
            memory.first.insert(probe.id.clone(), first.to_owned());
        }
        Ok(wrong)
    }
}

/// What is wrong with what a node tells of its backends. No marker says when it
/// follows: it is asked until it is right.
fn health(netns: &Path, order: &Order, path: &str, expected: &Expected) -> io::Result<Vec<String>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = ask::health(netns, order, path)?;
        let is_right = match expected.result {
            Some(Reply::Answer) | None => {
                told.is_some() && (expected.health.is_none() || told == expected.health)
            }
            Some(_) => told.is_none(),
        };
        if is_right {
            return Ok(Vec::new());
        }
        if Instant::now() > end {
            let wanted = &expected.health;
            return Ok(vec![format!("told {told:?}; expected {wanted:?}")]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
