//! What becomes of connections to services in a cluster that is only described.
//!
//! ```text
//! objects ──> api ──> control's services, for each node ──> rows ┐
//! from, to ──> the node that takes it, and as what ──────────────┴─> datapath's choice
//!                       all that chance may say ──> who has the backend's address ──> answer
//! ```
//!
//! What chance decides is thrown in every way that it can fall, so what is said
//! to be certain is. Nothing is decided here that an agent decides: frontends and
//! lists come from `control`, the choice from `datapath`.

mod answer;
mod options;
mod past;
mod question;
mod state;
mod tables;
mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axon_control::services::Numbers;
pub(crate) use tables::NodeTables;

use answer::{Answer, ProbeAnswer, StateAnswer, Told};
use past::{Answered, Pasts};
use question::{Connection, Probe, Question};
use state::{Listeners, State};
use way::{Arrival, Open, Outcome, Taker, Way};

use crate::Problem;
use crate::wire::{line, read};

/// Seconds of the monotonic clock before anything happens: more than any client
/// is remembered.
const START_S: u32 = 1_000_000;

/// Answers a question about services: JSON in, one line of JSON out. Whatever is
/// wrong is said in the answer, under `error`: of the whole question, or of one
/// connection.
pub fn service_answer(question: &[u8]) -> String {
    match answer_to(question) {
        Ok(answer) => line(&answer),
        Err(problem) => service_refusal(&problem.to_string()),
    }
}

/// The answer to a question with which something is wrong.
pub fn service_refusal(error: &str) -> String {
    line(&Answer {
        error: Some(error.to_owned()),
        ..Answer::default()
    })
}

fn answer_to(text: &[u8]) -> Result<Answer, Problem> {
    let question: Question = read(text)?;
    let (config, ignored) = options::read(&question.config)?;
    let listeners = listeners(&question)?;
    let mut numbers: BTreeMap<String, Numbers> = BTreeMap::new();
    let mut asking = Asking::new(&question);
    let mut passed_s = f64::from(START_S);
    let mut states = Vec::new();
    for (n, asked) in question.states.iter().enumerate() {
        passed_s += asked.wait;
        if asked.wait < 0.0 || passed_s > f64::from(u32::MAX) {
            let message = format!("{}; expected the seconds that pass", asked.wait);
            return Err(Problem::new(format!("states[{n}].wait"), message));
        }
        let places = (&question.outside, &listeners);
        let mut state = State::new(&asked.objects, places, passed_s as u32);
        state.resolve(&config, &mut numbers);
        states.push(StateAnswer {
            results: asked
                .probes
                .iter()
                .map(|tree| asking.answer(&state, tree))
                .collect(),
            reports: state.reports().map(Told::from).collect(),
        });
    }
    Ok(Answer {
        error: None,
        ignored,
        states,
    })
}

fn listeners(question: &Question) -> Result<Listeners, Problem> {
    let mut listeners = Listeners::new();
    for (n, listener) in question.listeners.iter().enumerate() {
        let path = format!("listeners[{n}].protocol");
        let protocol = question::protocol(&listener.protocol, &path)?;
        let ports = listeners.entry(listener.node.clone()).or_default();
        ports.insert((protocol, listener.port));
    }
    Ok(listeners)
}

/// What was asked so far.
struct Asking {
    /// Probes that later ones are compared with, and these.
    compared: BTreeSet<String>,
    pasts: Pasts,
}

impl Asking {
    fn new(question: &Question) -> Self {
        let probes = question.states.iter().flat_map(|state| &state.probes);
        let text = |tree: &serde_json::Value, field: &str| {
            let text = tree.get(field).and_then(|value| value.as_str());
            text.map(str::to_owned)
        };
        let pairs =
            probes.filter_map(|probe| Some([text(probe, "compare_with")?, text(probe, "id")?]));
        Self {
            compared: pairs.flatten().collect(),
            pasts: Pasts::default(),
        }
    }

    fn answer(&mut self, state: &State<'_>, tree: &serde_json::Value) -> ProbeAnswer {
        let answer = Probe::parse(tree).and_then(|probe| match &probe.connection {
            Some(Connection::Use(name)) => self.goes_on(state, &probe, name),
            Some(Connection::Open(_)) | None => self.opens(state, &probe),
        });
        answer.unwrap_or_else(|problem| {
            let id = tree.get("id").and_then(|id| id.as_str());
            ProbeAnswer::wrong(id.unwrap_or_default().to_owned(), problem.to_string())
        })
    }

    /// New connections.
    fn opens(&mut self, state: &State<'_>, probe: &Probe) -> Result<ProbeAnswer, Problem> {
        let peer = SocketAddr::new(probe.to.address, probe.to.port).to_string();
        let (taker, ways) = match state.arrive(probe)? {
            Arrival::Frontend(taker) => {
                let ways = state.ways(&taker, None);
                (taker, ways)
            }
            Arrival::Straight(outcome) => {
                let who = BTreeSet::from([outcome.who().map(str::to_owned)]);
                self.pasts.keep(&probe.id, Answered { who, key: None });
                self.leave_open(probe, Open::new(probe, &outcome, None));
                let mut answer = ProbeAnswer::of(&probe.id, &[(outcome, 1)], peer);
                answer.exactly_one = Some(true);
                answer.same_as = self.same_as(probe);
                return Ok(answer);
            }
        };
        let outcomes: Vec<(Outcome, u64)> = ways
            .iter()
            .map(|way| (way.outcome.clone(), way.throws))
            .collect();
        let mut answer = ProbeAnswer::of(&probe.id, &outcomes, peer);
        answer.exactly_one = Some(self.remember(state, probe, (&taker, &ways)));
        answer.same_as = self.same_as(probe);
        Ok(answer)
    }

    /// Goes through all that may become of the first connection; tells whether the
    /// next one has the same backend each time.
    fn remember(
        &mut self,
        state: &State<'_>,
        probe: &Probe,
        (taker, ways): (&Taker, &[Way]),
    ) -> bool {
        // Whom a client's port decides is known if the port is.
        let known = probe
            .same_source_port
            .map(|port| state.ways(taker, Some(port)));
        let ways = known.as_deref().unwrap_or(ways);
        let client = ways
            .iter()
            .find_map(|way| way.after)
            .map(|(client, _)| client);
        let key = client.map(|client| (taker.node.clone(), client));
        let mut firsts: Vec<Way> = Vec::new();
        let mut is_one = true;
        if let (Some(key), Some(client)) = (&key, client) {
            let id = self
                .compared
                .contains(&probe.id)
                .then_some(probe.id.as_str());
            let mut next = BTreeSet::new();
            for history in self.pasts.of(key) {
                let past = history.entry().map(|entry| (client, entry));
                for way in state.again(taker, ways, past) {
                    is_one &= is_only(&way, &state.again(taker, ways, way.after));
                    next.insert(history.with(&way, id));
                    firsts.push(way);
                }
            }
            self.pasts.set(key.clone(), next);
        } else {
            is_one = ways.first().is_none_or(|way| is_only(way, ways));
            firsts = ways.to_vec();
        }
        let who = firsts
            .iter()
            .map(|way| way.outcome.who().map(str::to_owned));
        let answered = Answered {
            who: who.collect(),
            key,
        };
        self.pasts.keep(&probe.id, answered);
        let opened = firsts.iter().filter_map(|way| {
            Open::new(
                probe,
                &way.outcome,
                way.choice.map(|choice| (taker, choice)),
            )
        });
        self.leave_open(probe, opened);
        is_one
    }

    fn leave_open(&mut self, probe: &Probe, opened: impl IntoIterator<Item = Open>) {
        if let Some(Connection::Open(name)) = &probe.connection {
            let mut connections: Vec<Open> = Vec::new();
            for open in opened {
                if !connections.contains(&open) {
                    connections.push(open);
                }
            }
            self.pasts.open.insert(name.clone(), connections);
        }
    }

    fn same_as(&self, probe: &Probe) -> Option<&'static str> {
        let earlier = probe.compare_with.as_deref()?;
        self.pasts
            .relation(earlier, &probe.id)
            .map(past::Relation::text)
    }

    /// What becomes of a connection that was left open.
    fn goes_on(
        &mut self,
        state: &State<'_>,
        probe: &Probe,
        name: &str,
    ) -> Result<ProbeAnswer, Problem> {
        let absent = || Problem::new("connection.use", format!("nothing was opened as {name:?}"));
        let open = self.pasts.open.get(name).ok_or_else(absent)?;
        let peer = SocketAddr::new(probe.to.address, probe.to.port).to_string();
        let live = open.iter().filter(|open| state.holds(open));
        let live: Vec<(Outcome, u64)> = live.map(|open| (open.outcome(), 1)).collect();
        if !live.is_empty() {
            let mut answer = ProbeAnswer::of(&probe.id, &live, peer);
            answer.continues = Some("yes");
            return Ok(answer);
        }
        if probe.protocol()? == axon_model::Protocol::TCP {
            let mut answer = ProbeAnswer::of(&probe.id, &[(Outcome::Nobody, 1)], peer);
            answer.continues = Some("no");
            return Ok(answer);
        }
        // Who has no connection asks anew.
        let mut answer = self.opens(state, probe)?;
        answer.continues = Some(if answer.is_answered() { "moves" } else { "no" });
        Ok(answer)
    }
}

/// Whether all these lead to the same backend.
fn is_only(way: &Way, others: &[Way]) -> bool {
    let mut others = others.iter();
    others.all(|other| other.outcome.who() == way.outcome.who())
}
