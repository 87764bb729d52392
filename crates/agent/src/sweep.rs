//! Sweeps of the connection tables.
//!
//! ```text
//!  time goes by ──────────────────────────────┐
//!  programs: "1024 flows more" ── Pressure ───┴──> sweep ──> how long to wait, how many flows
//!  programs: "no room for a flow" ──┘                        may come before the next one
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axon_abi::{DropReason, EventKind, EventRecord, FLOWS_PER_NOTICE};
use axon_linux::SweepReport;
use tokio::sync::Notify;

use crate::clock::monotonic_s;
use crate::node::{Node, lock};
use crate::problem::chain;

/// Between two sweeps of tables with next to nothing in them, of nearly empty and of
/// full ones. A pass walks whole tables, whatever they hold: tens of milliseconds.
const IDLE: Duration = Duration::from_secs(90);
const CALM: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(2);
/// Between two sweeps at the least; and so many times what the last one took,
/// so that who opens flows without end does not have the node sweep without end.
const GAP: Duration = Duration::from_millis(500);
const GAP_SWEEPS: u32 = 10;

/// What the programs tell of new flows between two sweeps.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// Flows opened since the last sweep began.
    opened: AtomicU32,
    /// Flows that may be opened before the next one is due.
    room: AtomicU32,
    due: Notify,
}

impl Pressure {
    /// Takes notice of an event; says whether it tells of no packet, and is
    /// for nobody else.
    pub(crate) fn take(&self, record: &EventRecord, quota: u32) -> bool {
        if record.kind == EventRecord::FLOWS_OPENED {
            let before = self.opened.fetch_add(FLOWS_PER_NOTICE, Ordering::Relaxed);
            let opened = before.saturating_add(FLOWS_PER_NOTICE);
            let crowded = quota != 0 && record.len > quota / 2;
            if crowded || opened > self.room.load(Ordering::Relaxed) {
                self.due.notify_one();
            }
            return true;
        }
        if record.kind == EventKind::Drop as u8
            && record.reason == DropReason::CtMapInsertionFailed as u8
        {
            self.due.notify_one();
        }
        false
    }

    /// A sweep begins: what is opened from now on counts.
    fn begins(&self) {
        self.opened.store(0, Ordering::Relaxed);
    }

    /// So many flows may come until a table of connections is half full.
    fn ends(&self, report: &SweepReport) {
        let tables = report.maps.iter().filter(|map| {
            let tables = [
                axon_abi::CT4,
                axon_abi::CT6,
                axon_abi::NAT,
                axon_abi::SERVICE_FLOW,
            ];
            tables.contains(&map.map)
        });
        let room = tables.map(|map| (map.capacity / 2).saturating_sub(map.entries));
        self.room.store(room.min().unwrap_or(0), Ordering::Relaxed);
    }
}

/// How the sweeps go.
#[derive(Clone, Debug, Default)]
pub(crate) struct SweepState {
    pub(crate) last: SweepReport,
    pub(crate) error: Option<String>,
    pub(crate) interval: Duration,
    /// By map: what went before its time since the start.
    pub(crate) early: BTreeMap<&'static str, u64>,
}

/// Sweeps until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    // At once: where agents live less long than what lies between two sweeps, expired connections
    // would count against their endpoints for ever.
    let (mut wait, mut gap) = (Duration::ZERO, Duration::ZERO);
    loop {
        let due = async {
            tokio::time::sleep(gap).await;
            tokio::select! {
                () = tokio::time::sleep(wait.saturating_sub(gap)) => {}
                () = node.pressure.due.notified() => {}
            }
        };
        tokio::select! {
            () = due => {}
            () = node.stop.cancelled() => return Ok(()),
        }
        node.pressure.begins();
        let (sweeping, began) = (Arc::clone(&node), Instant::now());
        let done = tokio::task::spawn_blocking(move || sweep(&sweeping)).await;
        gap = GAP.max(began.elapsed() * GAP_SWEEPS);
        let fullest = done.unwrap_or(0.0);
        let configured = node.config.sizes.gc_interval_s;
        wait = match configured {
            0 if fullest > 0.5 => BUSY,
            0 if fullest > 0.25 => FIRST,
            0 if fullest > 0.01 => CALM,
            0 => IDLE,
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
                .chain([f64::from(report.crowding_percent) / 100.0])
                .fold(0.0, f64::max);
            node.pressure.ends(&report);
            let removed: u32 = report.maps.iter().map(|m| m.removed).sum();
            tracing::debug!(removed, fullest, "connections are swept");
            for map in &report.maps {
                *state.early.entry(map.map).or_default() += u64::from(map.evicted_early);
            }
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

#[cfg(test)]
mod tests {
    use axon_abi::{DropReason, EventKind, EventRecord};
    use axon_linux::{MapSweep, SweepReport};

    use super::Pressure;

    /// Looks without waiting.
    fn is_due(pressure: &Pressure) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let due = std::pin::pin!(pressure.due.notified());
        due.poll(&mut context).is_ready()
    }

    fn notice(owned: u32) -> EventRecord {
        EventRecord {
            kind: EventRecord::FLOWS_OPENED,
            len: owned,
            ..EventRecord::default()
        }
    }

    #[test]
    fn a_sweep_is_due_before_there_is_no_room() {
        let pressure = Pressure::default();
        let table = |map, entries| MapSweep {
            map,
            entries,
            capacity: 10_240,
            ..MapSweep::default()
        };
        pressure.ends(&SweepReport {
            maps: vec![
                table(axon_abi::CT4, 3000),
                table(axon_abi::CT6, 10),
                table("axon_fragment_v1", 10_240),
            ],
            crowding_percent: 0,
        });
        let quota = 100_000;
        assert!(pressure.take(&notice(1024), quota));
        assert!(pressure.take(&notice(2048), quota));
        assert!(!is_due(&pressure), "5048 of 10240 at most");
        pressure.take(&notice(3072), quota);
        assert!(is_due(&pressure), "it may be half full");
        pressure.begins();
        pressure.take(&notice(4096), quota);
        assert!(!is_due(&pressure), "these were not there when it began");
        pressure.take(&notice(50_001), quota);
        assert!(is_due(&pressure), "half of the endpoint's quota");
        pressure.begins();
        pressure.take(&notice(50_001), 0);
        assert!(!is_due(&pressure), "there is no quota");
    }

    #[test]
    fn a_flow_without_room_makes_a_sweep_due_and_is_told_to_others() {
        let pressure = Pressure::default();
        let drop = |reason: DropReason| EventRecord {
            kind: EventKind::Drop as u8,
            reason: reason as u8,
            ..EventRecord::default()
        };
        assert!(!pressure.take(&drop(DropReason::PolicyDenied), 10));
        assert!(!is_due(&pressure));
        assert!(!pressure.take(&drop(DropReason::CtMapInsertionFailed), 10));
        assert!(is_due(&pressure));
    }
}
