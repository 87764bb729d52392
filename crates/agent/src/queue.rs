//! DELs that the CNI plugin has left beside the socket while no agent answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axon_api::agent::DELETE_QUEUE;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::endpoints;
use crate::node::Node;

/// How soon what could not be carried out is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Where the plugin leaves them.
pub(crate) fn directory(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or(Path::new("/")).join(DELETE_QUEUE)
}

/// Carries them out, at start and as they come, until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    // One wake-up is enough for however many files.
    let (wake, mut woken) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Listing the directory is an access too: only what writers do counts.
        if !event.is_ok_and(|event| event.kind.is_access() || event.kind.is_remove()) {
            let _ = wake.try_send(());
        }
    })
    .context("watching the queue of deletions")?;
    let dir = directory(&node.config.paths.socket);
    watcher
        .watch(&dir, RecursiveMode::NonRecursive)
        .with_context(|| format!("watching {}", dir.display()))?;
    loop {
        endpoints::carry_out_queue(&node).await;
        let wait = if node.queue.list(".").is_ok_and(|names| names.is_empty()) {
            // Notices may be lost, so that it is looked at all the same.
            RETRY * 10
        } else {
            RETRY
        };
        tokio::select! {
            _ = woken.recv() => {}
            () = tokio::time::sleep(wait) => {}
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}
