//! Watches over what keeps policy in force: the bpffs, its pins, the stubs.
//!
//! Others can take them away: unmount, remove, detach. As long as this process
//! lives it holds all of it open, so that it can be put back before anything
//! is lost by its own end.

use std::sync::Arc;
use std::time::Duration;

use axon_linux::device;

use crate::clock::clock_has_stepped;
use crate::endpoints::Stage;
use crate::node::{Node, lock};
use crate::problem::chain;

/// Between two looks. Nothing tells when a pin goes; what is looked at costs
/// less than a millisecond.
const EVERY: Duration = Duration::from_secs(5);

/// What was found last.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuardState {
    /// Why something that is missing could not be put back.
    pub(crate) error: Option<String>,
    /// Devices whose endpoint nobody knows; they are cut off.
    pub(crate) unknown: Vec<String>,
    /// How often something had to be put back.
    pub(crate) repairs: u64,
}

/// Looks until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    loop {
        let looking = Arc::clone(&node);
        tokio::task::spawn_blocking(move || look(&looking)).await?;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}

fn look(node: &Node) {
    let told_ns = node.names.load().monotonic_zero_ns;
    if told_ns != 0 && clock_has_stepped(told_ns) {
        tracing::info!("the wall clock was stepped: times of events follow, nothing else does");
        node.engine.wake();
    }
    let known: Vec<u32> = node
        .endpoints
        .records
        .all()
        .iter()
        .filter(|record| record.stage == Stage::Made)
        .map(|record| record.endpoint.ifindex)
        .collect();
    // A device that is gone has no stubs to put back, and its index may be another's by now.
    let mut attached = lock(&node.datapath).attached();
    let uplinks = node.uplinks.borrow().devices.clone();
    let uplinks: Vec<u32> = uplinks.iter().map(|device| device.ifindex).collect();
    let result = lock(&node.datapath).repair(&known, &uplinks);
    attached.retain(|ifindex| !known.contains(ifindex));
    let unknown = unknown_devices(node, &attached);
    let mut state = lock(&node.guard);
    state.unknown = unknown;
    match result {
        Ok(repair) if repair.is_nothing() => state.error = None,
        Ok(repair) => {
            state.error = None;
            state.repairs += 1;
            tracing::warn!(
                mounted = repair.mounted,
                pins = repair.pins,
                stubs = repair.stubs,
                "somebody took away what keeps policy in force; it is back"
            );
        }
        Err(error) => {
            let error = chain(&error);
            if state.error.as_ref() != Some(&error) {
                tracing::error!(error, "what keeps policy in force cannot be put back");
            }
            state.error = Some(error);
        }
    }
}

/// Names of devices that carry stubs and belong to no record, now or a moment
/// ago.
fn unknown_devices(node: &Node, attached: &[u32]) -> Vec<String> {
    if attached.is_empty() {
        return Vec::new();
    }
    let records = node.endpoints.records.all();
    let devices = device::list().unwrap_or_default();
    devices
        .into_iter()
        .filter(|device| attached.contains(&device.ifindex))
        .filter(|device| {
            let is = |r: &crate::endpoints::Record| {
                r.endpoint.ifindex == device.ifindex || r.endpoint.interface == device.name
            };
            !records.iter().any(is)
        })
        .map(|device| device.name)
        .collect()
}
