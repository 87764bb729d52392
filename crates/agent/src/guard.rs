//! Watches over what keeps policy in force: the bpffs, its pins, the stubs.
//!
//! Others can take them away: unmount, remove, detach. As long as this process
//! lives it holds all of it open, so that it can be put back before anything
//! is lost by its own end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axon_linux::device::{self, Device};

use crate::clock::{has_stepped, monotonic_zero_ns};
use crate::endpoints::{Record, Stage, device_of};
use crate::node::{Node, lock};
use crate::problem::chain;

/// Between two looks. Nothing tells when a stub goes; what is looked at costs
/// less than a millisecond.
const EVERY: Duration = Duration::from_secs(5);

/// One look of so many lists the devices too, as each does while anything is
/// amiss: some milliseconds where there are hundreds.
const THOROUGH: u32 = 12;

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
    for turn in (0..THOROUGH).cycle() {
        let looking = Arc::clone(&node);
        tokio::task::spawn_blocking(move || look(&looking, turn == 0)).await?;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = node.stop.cancelled() => break,
        }
    }
    Ok(())
}

fn look(node: &Node, thorough: bool) {
    let told_ns = node.names.load().monotonic_zero_ns;
    if has_stepped(told_ns, monotonic_zero_ns()) {
        tracing::info!(
            "the wall clock was stepped: times of events follow; connections and timeouts go by another clock"
        );
        node.engine.wake();
    }
    let is_well = {
        let state = lock(&node.guard);
        state.error.is_none() && state.unknown.is_empty()
    };
    if !thorough && is_well && lock(&node.datapath).is_whole() {
        return;
    }
    // Where they cannot be listed, nobody knows which are endpoints': the rest is looked after.
    let devices = device::list_links().unwrap_or_default();
    let records = node.endpoints.records.all();
    let known = with_device(&records, &devices);
    let mut attached = lock(&node.datapath).attached();
    let uplinks = node.uplinks.borrow().devices.clone();
    let uplinks: Vec<u32> = uplinks.iter().map(|device| device.ifindex).collect();
    let result = lock(&node.datapath).repair(&known, &uplinks);
    attached.retain(|ifindex| !known.contains(ifindex));
    attached.retain(|ifindex| lock(&node.datapath).is_attached(*ifindex));
    let unknown = unknown_devices(node, &attached, &devices);
    let mut state = lock(&node.guard);
    state.unknown = unknown;
    match result {
        Ok(repair) if repair.is_nothing() => state.error = None,
        Ok(repair) => {
            state.error = None;
            state.repairs += 1;
            // Filters that stood in for links may become links again.
            node.endpoints.begun.send_replace(Instant::now());
            tracing::warn!(
                mounted = repair.mounted,
                pins = repair.pins,
                stubs = repair.stubs,
                sockets = repair.sockets,
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

/// The indexes of endpoints' devices. An index whose device is gone may be that
/// of another by now, and has nothing to be put back: it is compared what else
/// tells an endpoint's device.
fn with_device(records: &[Record], devices: &[Device]) -> Vec<u32> {
    let made = records.iter().filter(|record| record.stage == Stage::Made);
    made.filter_map(|record| device_of(&record.endpoint, devices))
        .map(|device| device.ifindex)
        .collect()
}

/// Names of devices that carry stubs and belong to no record, now or a moment
/// ago.
fn unknown_devices(node: &Node, attached: &[u32], devices: &[Device]) -> Vec<String> {
    if attached.is_empty() {
        return Vec::new();
    }
    let records = node.endpoints.records.all();
    devices
        .iter()
        .filter(|device| attached.contains(&device.ifindex))
        .filter(|device| {
            let is = |r: &Record| {
                r.endpoint.ifindex == device.ifindex || r.endpoint.interface == device.name
            };
            !records.iter().any(is)
        })
        .map(|device| device.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use axon_linux::device::Device;
    use axon_model::{Endpoint, Mac};

    use super::with_device;
    use crate::endpoints::{Record, Stage};

    #[test]
    fn a_device_is_no_endpoints_by_its_index_alone() {
        let own = Mac([2, 0, 0, 0, 0, 1]);
        let record = |stage| Record {
            endpoint: Endpoint {
                ifindex: 7,
                interface: "axon1".to_owned(),
                node_mac: own,
                ..Endpoint::default()
            },
            mtu: 1500,
            stage,
        };
        let device = |ifindex, name: &str, mac| Device {
            ifindex,
            name: name.to_owned(),
            mac: Some(mac),
            ..Device::default()
        };
        let other = Mac([2, 0, 0, 0, 0, 2]);
        for (what, device, stage, expected) in [
            ("as it was made", device(7, "axon1", own), Stage::Made, true),
            ("renamed", device(7, "mine", own), Stage::Made, true),
            (
                "another address",
                device(7, "axon1", other),
                Stage::Made,
                true,
            ),
            ("its index", device(7, "mine", other), Stage::Made, false),
            ("its name", device(8, "axon1", other), Stage::Made, false),
            (
                "on its way out",
                device(7, "axon1", own),
                Stage::Leaving,
                false,
            ),
        ] {
            let found = with_device(&[record(stage)], &[device]);
            assert_eq!(found == [7], expected, "{what}");
        }
    }
}
