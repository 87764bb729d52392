//! What an operator should know stands in the log too, once as it comes up and once as it goes:
//! who does not ask for the status learns of it where all else is told.
//!
//! ```text
//!  sources: files, objects, policies that are refused ──┐
//!  control: conditions (overflow, unsupported, ...) ────┴─> lines ─> those that are new or gone
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_control::{Condition, ConditionKind};
use axon_sources::SourceStatus;

use crate::node::Node;
use crate::status::cluster::{not_in_force, refusal};

/// Lines, and what to do about each; empty if the line says it.
type Lines = BTreeMap<String, String>;

/// Tells until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    let mut sources = node.sources.clone();
    let mut view = node.view.clone();
    let mut known = Lines::new();
    loop {
        let status = Arc::clone(&sources.borrow_and_update());
        let found = Arc::clone(&view.borrow_and_update());
        known = tell(&known, lines(&status, &found.report.conditions));
        let news = tokio::select! {
            news = sources.changed() => news,
            news = view.changed() => news,
            () = node.stop.cancelled() => return Ok(()),
        };
        if news.is_err() {
            // Whose watch ends says why where it ends.
            node.stop.cancelled().await;
            return Ok(());
        }
    }
}

/// What is wrong now.
fn lines(status: &SourceStatus, conditions: &[Condition]) -> Lines {
    let refused = status.refused.iter().map(refusal);
    let told = not_in_force(status).into_iter().chain(refused);
    let conditions = conditions
        .iter()
        // At each start; that it is over is said by `agent is ready`.
        .filter(|condition| condition.kind != ConditionKind::SourceIncomplete)
        .map(|condition| (condition.message.clone(), condition.remedy.clone()));
    told.map(|line| (line, String::new()))
        .chain(conditions)
        .collect()
}

/// Logs what has come up since, and what is over.
fn tell(known: &Lines, now: Lines) -> Lines {
    for (what, remedy) in now.iter().filter(|(what, _)| !known.contains_key(*what)) {
        match remedy.is_empty() {
            true => tracing::warn!("{what}"),
            false => tracing::warn!(remedy, "{what}"),
        }
    }
    for what in known.keys().filter(|what| !now.contains_key(*what)) {
        tracing::info!("no longer so: {what}");
    }
    now
}
