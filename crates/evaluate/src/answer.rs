//! Answers questions about policy.

use axon_model::Auth;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::verdict::Backend;
use crate::wire::{line, read};
use crate::{Cluster, Judgement, Probe, Problem, Settings, World, judge};

/// A question: a cluster, its policies, and connections.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Question {
    /// What it is told by; decides nothing.
    #[serde(rename = "case")]
    _case: Value,
    /// The same.
    #[serde(rename = "step")]
    _step: Value,
    config: Settings,
    cluster: Cluster,
    policies: Vec<Value>,
    probes: Vec<Value>,
}

/// The answer.
#[derive(Debug, Default, Serialize)]
struct Answer {
    /// What is wrong with the question; then nothing else is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    policies: Vec<Acceptance>,
    results: Vec<Outcome>,
}

/// What becomes of a policy.
#[derive(Debug, Serialize)]
struct Acceptance {
    accepted: bool,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What becomes of a connection.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    id: Value,
    /// What is wrong with what was asked; then there is no verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l7: Option<&'static str>,
    /// The mode of the authentication for want of which it is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<&'static str>,
    /// Where a connection to a service may lead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends: Vec<Behind>,
    /// Why it leads to nobody; policy is not asked then.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// What becomes of a connection if a backend is chosen.
#[derive(Debug, Serialize)]
struct Behind {
    backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    egress: &'static str,
    ingress: &'static str,
    verdict: &'static str,
}

impl From<&Backend> for Behind {
    fn from(backend: &Backend) -> Self {
        Self {
            backend: backend.at.to_string(),
            pod: backend.pod.clone(),
            egress: backend.verdict.egress.word.text(),
            ingress: backend.verdict.ingress.word.text(),
            verdict: backend.verdict.word().text(),
        }
    }
}

/// Answers a question: JSON in, one line of JSON out. Whatever is wrong is said
/// in the answer, under `error`: of the whole question, or of one connection.
pub fn answer(question: &[u8]) -> String {
    match answer_to(question) {
        Ok(answer) => line(&answer),
        Err(problem) => refusal(&problem.to_string()),
    }
}

/// The answer to a question with which something is wrong.
pub fn refusal(error: &str) -> String {
    line(&Answer {
        error: Some(error.to_owned()),
        ..Answer::default()
    })
}

fn answer_to(text: &[u8]) -> Result<Answer, Problem> {
    let question: Question = read(text)?;
    let config = World::config(&question.cluster, &question.config)?;
    let mut accepted = Vec::new();
    let mut acceptances = Vec::new();
    for object in &question.policies {
        let reason = match judge(&config, object) {
            Judgement::Accepted(policy) => {
                accepted.push(*policy);
                None
            }
            Judgement::Refused(reason) => Some(reason),
        };
        acceptances.push(Acceptance {
            accepted: reason.is_none(),
            reason,
        });
    }
    let world = World::new(question.cluster, &question.config, accepted)?;
    Ok(Answer {
        error: None,
        policies: acceptances,
        results: question
            .probes
            .iter()
            .map(|probe| outcome(&world, probe))
            .collect(),
    })
}

fn outcome(world: &World, tree: &Value) -> Outcome {
    let id = tree.get("id").cloned().unwrap_or_default();
    let through = Probe::parse(tree).and_then(|probe| world.through(&probe));
    match through {
        Ok(through) => Outcome {
            id,
            error: None,
            egress: Some(through.verdict.egress.word.text()),
            ingress: Some(through.verdict.ingress.word.text()),
            verdict: Some(through.word().text()),
            l7: through
                .verdict
                .l7
                .map(|passes| if passes { "allow" } else { "deny" }),
            auth: Some(through.verdict.auth())
                .filter(|auth| auth.demands())
                .map(Auth::mode),
            backends: through.backends.iter().map(Behind::from).collect(),
            refused: through.refused,
        },
        Err(problem) => Outcome {
            id,
            error: Some(problem.to_string()),
            ..Outcome::default()
        },
    }
}
