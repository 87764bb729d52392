//! The answer to a question about services.

use std::collections::{BTreeMap, BTreeSet};

use axon_control::services::Report;
use serde::Serialize;

use super::way::Outcome;

/// The answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    /// What is wrong with the question; then nothing else is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// Options that nothing here asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ignored: Vec<String>,
    pub(super) states: Vec<StateAnswer>,
}

/// What was asked in one state.
#[derive(Debug, Default, Serialize)]
pub(super) struct StateAnswer {
    pub(super) results: Vec<ProbeAnswer>,
    pub(super) reports: Vec<Told>,
}

/// Something that is wrong with an object.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    object: String,
    field: String,
    reason: String,
}

impl From<&Report> for Told {
    fn from(report: &Report) -> Self {
        Self {
            object: report.object.clone(),
            field: report.field.clone(),
            reason: report.reason.clone(),
        }
    }
}

/// What becomes of a probe's connections.
#[derive(Debug, Default, Serialize)]
pub(super) struct ProbeAnswer {
    pub(super) id: String,
    /// What is wrong with what was asked; then there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    /// Who may answer.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    backends: BTreeSet<String>,
    /// What address of the client each of them sees.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    source: BTreeMap<String, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exactly_one: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    shares: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) same_as: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) continues: Option<&'static str>,
}

/// How a node says that it has backends.
#[derive(Debug, Serialize)]
struct Health {
    code: u16,
    local_endpoints: usize,
}

impl ProbeAnswer {
    /// The answer to a probe with which something is wrong.
    pub(super) fn wrong(id: String, error: String) -> Self {
        Self {
            id,
            error: Some(error),
            ..Self::default()
        }
    }

    /// Whether somebody answers.
    pub(super) fn is_answered(&self) -> bool {
        self.result == Some("answer")
    }

    /// What may become of connections to a peer, each with its weight. If anybody
    /// may answer, somebody does.
    pub(super) fn of(id: &str, outcomes: &[(Outcome, u64)], peer: String) -> Self {
        let mut answer = Self {
            id: id.to_owned(),
            ..Self::default()
        };
        let total: u64 = outcomes.iter().map(|(_, weight)| weight).sum();
        for (outcome, weight) in outcomes {
            match outcome {
                Outcome::Answer { who, keeps_client } => {
                    answer.backends.insert(who.clone());
                    let word = if *keeps_client { "preserved" } else { "node" };
                    answer.source.insert(who.clone(), word);
                    let share = answer.shares.entry(who.clone()).or_default();
                    *share += *weight as f64 / total as f64;
                }
                Outcome::Health(here) => {
                    answer.health = Some(Health {
                        code: if *here > 0 { 200 } else { 503 },
                        local_endpoints: *here,
                    });
                }
                Outcome::Refused | Outcome::Dropped | Outcome::Nobody => {}
            }
        }
        let words = outcomes.iter().map(|(outcome, _)| match outcome {
            Outcome::Answer { .. } | Outcome::Health(_) => "answer",
            Outcome::Refused => "refused",
            Outcome::Dropped => "dropped",
            Outcome::Nobody => "none",
        });
        // Of the words "answer" is the first.
        answer.result = words.min();
        if answer.is_answered() {
            answer.peer = Some(peer);
        }
        answer
    }
}
