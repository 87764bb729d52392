//! Ends sockets that still speak to a backend that is gone.
//!
//! ```text
//!  the control loop has taken a backend from the kernel ──┐
//!  a minute has gone by ──────────────────────────────────┴─> rows of sockets ─> those are ended
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axon_linux::{Features, SocketMode, Terminate, Terminated, terminate_stale};

use crate::config::Sockets;
use crate::node::{Node, lock};
use crate::problem::chain;

/// Between two looks that nobody asks for: what could not be ended, or was missed
/// by an agent before, is not forgotten.
const EVERY: Duration = Duration::from_secs(60);
/// Until the next look where the last one failed in part.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two looks at the least; and so many times what the last one took, so
/// that backends which come and go do not have the node look without end.
const GAP: Duration = Duration::from_millis(100);
const GAP_LOOKS: u32 = 10;
/// A look that was held up says little about the next one's price.
const GAP_MOST: Duration = Duration::from_secs(5);

/// Ends them until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    if !is_wanted(&node) {
        node.stop.cancelled().await;
        return Ok(());
    }
    let mut view = node.view.clone();
    let mut seen = None;
    let mut failed = Vec::new();
    loop {
        let began = Instant::now();
        let looking = Arc::clone(&node);
        let looked = tokio::task::spawn_blocking(move || look(&looking)).await?;
        tell(looked, &mut failed);
        let gap = (began.elapsed() * GAP_LOOKS).clamp(GAP, GAP_MOST);
        let unasked = if failed.is_empty() { EVERY } else { AGAIN };
        let news = async {
            tokio::time::sleep(gap).await;
            let gone = view.wait_for(|view| Some(view.reconcile.backends_gone) != seen);
            if let Ok(Ok(view)) = tokio::time::timeout(unasked, gone).await {
                seen = Some(view.reconcile.backends_gone);
            }
        };
        tokio::select! {
            () = news => {}
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}

/// Whether sockets are led to backends, and can be ended.
fn is_wanted(node: &Node) -> bool {
    let datapath = lock(&node.datapath);
    *datapath.socket_mode() != SocketMode::Off && datapath.features().has(Features::SOCKET_DESTROY)
}

fn look(node: &Node) -> Result<Terminated, String> {
    let Sockets {
        terminate_in_pods,
        terminate_all,
        host_only,
        ..
    } = node.config.sockets;
    let pods = if host_only {
        Some(Vec::new())
    } else {
        terminate_in_pods.then(|| namespaces(node))
    };
    let what = if terminate_all {
        Terminate::AllProtocols
    } else {
        Terminate::Datagrams
    };
    terminate_stale(&node.maps, pods.as_deref(), what).map_err(|error| chain(&error))
}

/// Those of the node's endpoints.
fn namespaces(node: &Node) -> Vec<PathBuf> {
    let records = node.endpoints.records.all();
    let paths = records.into_iter().map(|record| record.endpoint.netns);
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect();
    // A pod may have several devices.
    paths.sort();
    paths.dedup();
    paths
}

/// Logs what has become of them; what fails again and again, once.
fn tell(looked: Result<Terminated, String>, before: &mut Vec<String>) {
    let problems: Vec<String> = match looked {
        Ok(report) => {
            if report.ended > 0 {
                tracing::info!(
                    sockets = report.ended,
                    "sockets whose backend is gone were ended"
                );
            }
            let failed = report.failed.into_iter();
            failed
                .map(|(path, error)| format!("{}: {error}", path.display()))
                .collect()
        }
        Err(error) => vec![error],
    };
    for problem in problems.iter().filter(|problem| !before.contains(problem)) {
        tracing::warn!(
            problem,
            "sockets whose backend is gone may go on sending to nobody"
        );
    }
    *before = problems;
}
