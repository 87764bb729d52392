//! Sweeps of the connection tables.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axon_linux::SweepReport;

use crate::clock::monotonic_s;
use crate::node::{Node, lock};
use crate::problem::chain;

/// Between two sweeps of tables that are nearly empty, and of full ones.
const CALM: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(2);

/// How the sweeps go.
#[derive(Clone, Debug, Default)]
pub(crate) struct SweepState {
    pub(crate) last: SweepReport,
    pub(crate) error: Option<String>,
    pub(crate) interval: Duration,
}

/// Sweeps until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    // At once: where agents live less long than what lies between two sweeps, expired connections
    // would count against their endpoints for ever.
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = node.stop.cancelled() => return Ok(()),
        }
        let sweeping = Arc::clone(&node);
        let done = tokio::task::spawn_blocking(move || sweep(&sweeping)).await;
        let fullest = done.unwrap_or(0.0);
        let configured = node.config.sizes.gc_interval_s;
        wait = match configured {
            0 if fullest > 0.5 => BUSY,
            0 if fullest > 0.25 => FIRST,
            0 => CALM,
            seconds => Duration::from_secs(seconds.into()),
        };
        lock(&node.sweeps).interval = wait;
    }
}

/// One sweep; says how full the fullest table is.
fn sweep(node: &Node) -> f64 {
    let started = Instant::now();
    let result = lock(&node.sweeper).pass(monotonic_s());
    node.metrics.swept(&result, started.elapsed());
    let mut state = lock(&node.sweeps);
    match result {
        Ok(report) => {
            let fullest = report
                .maps
                .iter()
                .map(|m| f64::from(m.entries) / f64::from(m.capacity.max(1)))
                .fold(0.0, f64::max);
            let removed: u32 = report.maps.iter().map(|m| m.removed).sum();
            tracing::debug!(removed, fullest, "connections are swept");
            state.last = report;
            state.error = None;
            fullest
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "connections are not swept");
            state.error = Some(chain(&error));
            1.0
        }
    }
}
