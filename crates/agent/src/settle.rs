//! Finishes the stubs of new endpoints when nobody waits for the kernel.
//!
//! On a node that is never quiet they stay filters, which enforce the same;
//! what others take away of them the guard puts back.

use std::sync::Arc;
use std::time::Duration;

use crate::node::{Node, lock};
use crate::problem::chain;

/// No endpoint has come or gone for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Follows the endpoints until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    let mut begun = node.endpoints.begun.subscribe();
    loop {
        let quiet = async {
            while tokio::time::timeout(QUIET, begun.changed()).await.is_ok() {}
            while !begun.has_changed().unwrap_or(true) && settle_one(&node).await {}
            // What is left waits for the next quiet moment.
            begun.changed().await
        };
        tokio::select! {
            news = quiet => news?,
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}

/// Finishes one stub; whether there may be more.
async fn settle_one(node: &Arc<Node>) -> bool {
    let settling = Arc::clone(node);
    let settled = tokio::task::spawn_blocking(move || lock(&settling.datapath).settle()).await;
    match settled {
        Ok(Ok(more)) => more,
        Ok(Err(error)) => {
            // It is not asked for again before another endpoint comes.
            tracing::warn!(error = chain(&error), "a stub stays a filter");
            true
        }
        Err(error) => {
            tracing::error!(%error, "settling broke");
            false
        }
    }
}
