//! Counters by Cilium's names.
//!
//! What the agent counts itself is kept here; what the kernel and the tables
//! know is asked when somebody reads.

mod gather;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axon_linux::{MapError, SweepReport};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::clock::monotonic_ms;
use crate::node::{Node, lock};

pub(crate) use gather::Gathered;

/// Upper bounds of the API's times, in seconds: an ADD may wait for labels.
const API_SECONDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
const SWEEP_SECONDS: [f64; 7] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabels {
    path: String,
    method: String,
    return_code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GcLabels {
    family: String,
    protocol: String,
    status: String,
}

/// What the agent counts itself.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    api_seconds: Family<ApiLabels, Histogram, fn() -> Histogram>,
    gc_runs: Family<GcLabels, Counter>,
    gc_entries: Family<GcLabels, Gauge>,
    gc_seconds: Family<GcLabels, Histogram, fn() -> Histogram>,
    lost: AtomicU64,
    /// Those of them that were lost before this agent read.
    lost_unread: AtomicU64,
    /// When events were lost last while this agent read, by the monotonic
    /// clock; 0 is never.
    lost_ms: AtomicU64,
    seen: AtomicU64,
}

/// What has become of events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) seen: u64,
    pub(crate) lost: u64,
    /// Those of the lost that no agent was there to read.
    pub(crate) unread: u64,
}

fn api_histogram() -> Histogram {
    Histogram::new(API_SECONDS)
}

fn sweep_histogram() -> Histogram {
    Histogram::new(SWEEP_SECONDS)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("cilium")),
            api_seconds: Family::new_with_constructor(api_histogram),
            gc_runs: Family::default(),
            gc_entries: Family::default(),
            gc_seconds: Family::new_with_constructor(sweep_histogram),
            lost: AtomicU64::new(0),
            lost_unread: AtomicU64::new(0),
            lost_ms: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        };
        let mut registry = lock(&metrics.registry);
        registry.register(
            "agent_api_process_time_seconds",
            "Time that the API took to answer",
            metrics.api_seconds.clone(),
        );
        registry.register(
            "datapath_conntrack_gc_runs",
            "Sweeps of the connection tables",
            metrics.gc_runs.clone(),
        );
        registry.register(
            "datapath_conntrack_gc_entries",
            "Connections that the last sweep left and removed",
            metrics.gc_entries.clone(),
        );
        registry.register(
            "datapath_conntrack_gc_duration_seconds",
            "Time that a sweep of the connection tables took",
            metrics.gc_seconds.clone(),
        );
        drop(registry);
        metrics
    }

    /// Everything as Prometheus reads it.
    pub(crate) fn text(&self, node: &Node) -> String {
        let mut text = String::new();
        let gathered = Gathered::now(node);
        // Writing into a string cannot fail.
        let _ =
            prometheus_client::encoding::text::encode_registry(&mut text, &lock(&self.registry));
        let mut of_now = Registry::default();
        of_now.register_collector(Box::new(gathered));
        let _ = prometheus_client::encoding::text::encode(&mut text, &of_now);
        text
    }

    pub(crate) fn answered(&self, path: &str, method: &str, code: u16, took: Duration) {
        let labels = ApiLabels {
            path: path.to_owned(),
            method: method.to_owned(),
            return_code: code.to_string(),
        };
        self.api_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub(crate) fn events_seen(&self, count: u64) {
        self.seen.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn events_lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.lost_ms.store(monotonic_ms(), Ordering::Relaxed);
    }

    /// Events that were lost between the last agent and this one.
    pub(crate) fn events_unread(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.lost_unread.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether events were lost so lately because this agent was slow.
    pub(crate) fn lost_within(&self, time: Duration) -> bool {
        let lost_ms = self.lost_ms.load(Ordering::Relaxed);
        let ago = Duration::from_millis(monotonic_ms().saturating_sub(lost_ms));
        lost_ms != 0 && ago < time
    }

    /// What has become of events since the start.
    pub(crate) fn events(&self) -> Events {
        Events {
            seen: self.seen.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            unread: self.lost_unread.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn swept(&self, result: &Result<SweepReport, MapError>, took: Duration) {
        let status = if result.is_ok() {
            "completed"
        } else {
            "uncompleted"
        };
        for family in ["ipv4", "ipv6"] {
            let labels = GcLabels {
                family: family.to_owned(),
                protocol: "all".to_owned(),
                status: status.to_owned(),
            };
            self.gc_runs.get_or_create(&labels).inc();
            self.gc_seconds
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
        }
        let Ok(report) = result else { return };
        for map in &report.maps {
            let family = match map.map {
                axon_abi::CT4 => "ipv4",
                axon_abi::CT6 => "ipv6",
                _ => continue,
            };
            for (status, count) in [("alive", map.entries), ("deleted", map.removed)] {
                let labels = GcLabels {
                    family: family.to_owned(),
                    protocol: "all".to_owned(),
                    status: status.to_owned(),
                };
                self.gc_entries.get_or_create(&labels).set(count.into());
            }
        }
    }
}
