//! Waiting until a state is in force on every node, however long that takes.
//!
//! ```text
//!  what is written    a read of the manifests    tables    a pass    the kernel
//!   state, change 1 ...
//!            change 2 ──> has read the state ─┐
//!            change 3 ────────────────────────┴─> hold it ─┐
//!            change 4 ─────────────────────────────────────┴─> is over ──> has it, and no more
//! ```
//!
//! A Service that nobody asks is changed again and again. That an agent's kernel has a
//! change tells that all before it is done: the change before was written by itself,
//! after the state; the next one came with a later read, so that the tables hold all
//! of the one before; and with a later pass, which begins when all rows of the one
//! before are written and removed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axon_api::services::ServiceView;
use axon_cni::http::Client;

use super::world;
use crate::support::{Lab, PATIENCE, text};

/// So many changes, one after the other.
const CHANGES: u16 = 4;
/// How often an agent is asked.
const LOOK: Duration = Duration::from_millis(5);

/// Waits for all of these agents.
pub(super) fn settle(
    lab: &Lab,
    dir: &Path,
    agents: &[(String, PathBuf)],
    number: &mut u16,
) -> Result<(), String> {
    let file = dir.join("marker.yaml");
    for _ in 0..CHANGES {
        *number += 1;
        let marker = world::marker(*number).to_string();
        std::fs::write(&file, marker).map_err(|error| error.to_string())?;
        let done = lab.axon(&["apply", "--no-wait", file.to_str().unwrap_or_default()]);
        if !done.status.success() {
            return Err(format!("axon lab apply: {}", text(&done)));
        }
        let end = Instant::now() + PATIENCE;
        for (node, socket) in agents {
            let client = Client::new(socket, PATIENCE);
            while !has(&client, *number) {
                if Instant::now() > end {
                    return Err(format!("node {node} has not come to this state"));
                }
                std::thread::sleep(LOOK);
            }
        }
    }
    Ok(())
}

/// Whether the kernel of an agent's node has the marker of this number.
fn has(agent: &Client, number: u16) -> bool {
    let path = format!("/v1/service/default/{}", world::MARKER);
    // Of an agent that does not answer nobody knows.
    let frontends: Vec<ServiceView> = agent.get(&path).unwrap_or_default();
    let mut held = frontends
        .iter()
        .filter_map(|one| one.status.realized.as_ref());
    held.any(|held| held.frontend_address.port == number)
}
