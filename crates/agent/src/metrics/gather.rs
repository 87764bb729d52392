//! Numbers that the kernel and the tables know, at the moment they are read.

use std::collections::BTreeMap;
use std::fmt::Error;

use axon_abi::{Direction, DropReason};
use axon_api::maps::{backend_state, frontend_kind};
use axon_linux::read_metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::http::views::condition_word;
use crate::node::Node;
use crate::staged::StagedCount;
use crate::status::{endpoint_state, pressure};

/// Labels with their values.
type Labels = Vec<(&'static str, String)>;
/// Values by labels.
type Counts = BTreeMap<Labels, u64>;

/// A metric of one moment.
#[derive(Debug)]
enum Values {
    Counter(Counts),
    Gauge(BTreeMap<Labels, f64>),
}

/// Everything of one moment: name, meaning, values.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    metrics: Vec<(&'static str, &'static str, Values)>,
}

fn staged(node: &Node) -> Counts {
    let labels = |count: StagedCount| {
        vec![
            ("kind", count.origin.kind.to_string()),
            ("namespace", count.origin.namespace),
            ("policy", count.origin.name),
            ("direction", count.direction.to_owned()),
            ("action", count.action.to_owned()),
            ("enforced", count.enforced.to_owned()),
        ]
    };
    let counts = node.staged.counts().into_iter();
    counts.map(|(count, n)| (labels(count), n)).collect()
}

impl Gathered {
    /// Asks the kernel and the tables.
    pub(crate) fn now(node: &Node) -> Self {
        let mut gathered = Self::default();
        gathered.packets(node);
        gathered.endpoints(node);
        gathered.policy(node);
        gathered.services(node);
        gathered.addresses(node);
        gathered.maps(node);
        gathered.events(node);
        gathered.gauge(
            "cilium_version",
            "Version of the agent",
            [(
                vec![
                    ("version", env!("CARGO_PKG_VERSION").to_owned()),
                    ("revision", String::new()),
                    ("arch", std::env::consts::ARCH.to_owned()),
                ],
                1.0,
            )],
        );
        gathered
    }

    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let values = Values::Gauge(values.into_iter().collect());
        self.metrics.push((name, help, values));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, values: Counts) {
        self.metrics.push((name, help, Values::Counter(values)));
    }

    fn packets(&mut self, node: &Node) {
        let counters = match read_metrics(&node.maps) {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "counters of packets cannot be read");
                return;
            }
        };
        let mut sums: [Counts; 4] = Default::default();
        for counter in counters {
            let direction = match counter.direction {
                Direction::Ingress => "INGRESS",
                Direction::Egress => "EGRESS",
                Direction::Unknown => "UNKNOWN",
            };
            let mut labels = vec![("direction", direction.to_owned())];
            let [forwarded, forwarded_bytes, dropped, dropped_bytes] = &mut sums;
            let (packets, bytes) = if counter.reason == 0 {
                (forwarded, forwarded_bytes)
            } else {
                labels.insert(0, ("reason", reason(counter.reason)));
                (dropped, dropped_bytes)
            };
            *packets.entry(labels.clone()).or_default() += counter.packets;
            *bytes.entry(labels).or_default() += counter.bytes;
        }
        let [forwarded, forwarded_bytes, dropped, dropped_bytes] = sums;
        self.counter("cilium_forward_count", "Packets forwarded", forwarded);
        self.counter("cilium_forward_bytes", "Bytes forwarded", forwarded_bytes);
        self.counter("cilium_drop_count", "Packets dropped", dropped);
        self.counter("cilium_drop_bytes", "Bytes dropped", dropped_bytes);
    }

    fn endpoints(&mut self, node: &Node) {
        let view = node.view();
        let mut states: BTreeMap<Labels, f64> = BTreeMap::new();
        let mut enforcement: BTreeMap<Labels, f64> = BTreeMap::new();
        let records = node.endpoints.records.all();
        for record in &records {
            let state = endpoint_state(record, view.endpoints.get(&record.endpoint.id));
            *states
                .entry(vec![("endpoint_state", state.to_owned())])
                .or_default() += 1.0;
        }
        for endpoint in view.endpoints.values() {
            let word = match endpoint.default_deny {
                [true, true] => "both",
                [true, false] => "ingress",
                [false, true] => "egress",
                [false, false] => "none",
            };
            *enforcement
                .entry(vec![("enforcement", word.to_owned())])
                .or_default() += 1.0;
        }
        let count = float(records.len());
        self.gauge(
            "cilium_endpoint",
            "Endpoints of this node",
            [(vec![], count)],
        );
        self.gauge("cilium_endpoint_state", "Endpoints by state", states);
        self.gauge(
            "cilium_policy_endpoint_enforcement_status",
            "Endpoints by the directions in which policy is enforced",
            enforcement,
        );
    }

    fn policy(&mut self, node: &Node) {
        let view = node.view();
        let policies = float(node.observed.policies.snapshot().len());
        self.gauge("cilium_policy", "Policies in force", [(vec![], policies)]);
        let revision = view.report.policy_revision as f64;
        self.gauge(
            "cilium_policy_max_revision",
            "Revision of the policies",
            [(vec![], revision)],
        );
        self.counter(
            "axon_policy_staged_verdicts",
            "Verdicts on new connections that staged policies would have decided, by what they \
             would have said and what was enforced",
            staged(node),
        );
        let mut conditions: BTreeMap<Labels, f64> = BTreeMap::new();
        for condition in &view.report.conditions {
            let word = condition_word(condition.kind).to_owned();
            *conditions.entry(vec![("kind", word)]).or_default() += 1.0;
        }
        self.gauge(
            "axon_policy_conditions",
            "What is wrong with policy, as the status tells it, by kind",
            conditions,
        );
        let mut types: BTreeMap<Labels, f64> = BTreeMap::new();
        for id in node.desired.identities.snapshot().iter().map(|(id, _)| id) {
            let kind = match id.scope() {
                _ if id.is_reserved() => "reserved",
                axon_abi::Scope::Cluster => "cluster_local",
                axon_abi::Scope::RemoteNode => "remote_node",
                _ => "node_local",
            };
            *types.entry(vec![("type", kind.to_owned())]).or_default() += 1.0;
        }
        self.gauge("cilium_identity", "Identities known", types);
        let failing = view.reconcile.failing_rows();
        self.gauge(
            "cilium_controllers_failing",
            "Rows that the kernel does not take",
            [(vec![], float(failing))],
        );
        self.gauge(
            "axon_ipcache_partial",
            "1 while rows of the ipcache are missing, so that other addresses are unknown to policy",
            [(vec![], f64::from(u8::from(view.reconcile.ipcache_partial)))],
        );
    }

    fn services(&mut self, node: &Node) {
        let services = &node.desired.services;
        let mut kinds: BTreeMap<Labels, f64> = BTreeMap::new();
        for row in services.frontends.snapshot().values() {
            let kind = frontend_kind(row).to_owned();
            *kinds.entry(vec![("type", kind)]).or_default() += 1.0;
        }
        self.gauge(
            "axon_service_frontends",
            "Addresses and ports of services, by type",
            kinds,
        );
        let mut states: BTreeMap<Labels, f64> = BTreeMap::new();
        for row in services.backends.snapshot().values() {
            let state = backend_state(row.state);
            *states.entry(vec![("state", state)]).or_default() += 1.0;
        }
        self.gauge(
            "axon_service_backends",
            "Backends of services, by state",
            states,
        );
    }

    fn addresses(&mut self, node: &Node) {
        let mut families: BTreeMap<Labels, f64> = BTreeMap::new();
        for (address, _) in crate::node::lock(&node.endpoints.ipam).iter() {
            let family = if address.is_ipv6() { "ipv6" } else { "ipv4" };
            *families
                .entry(vec![("family", family.to_owned())])
                .or_default() += 1.0;
        }
        self.gauge("cilium_ip_addresses", "Addresses given out", families);
    }

    fn maps(&mut self, node: &Node) {
        let uses = pressure(node);
        let name = |map: &str| vec![("map_name", map.to_owned())];
        self.gauge(
            "cilium_bpf_map_pressure",
            "How full maps are, from 0 to 1",
            uses.iter().map(|m| {
                let full = f64::from(m.entries) / f64::from(m.capacity.max(1));
                (name(m.map), full)
            }),
        );
        self.gauge(
            "cilium_bpf_map_capacity",
            "Rows that maps can hold",
            uses.iter().map(|m| (name(m.map), f64::from(m.capacity))),
        );
    }

    fn events(&mut self, node: &Node) {
        let events = node.metrics.events();
        self.counter(
            "axon_events_seen",
            "Events read from the kernel",
            [(vec![], events.seen)].into(),
        );
        let source = vec![("source", "perf_event_ring_buffer".to_owned())];
        self.counter(
            "hubble_lost_events",
            "Events lost before they were read",
            [(source, events.lost)].into(),
        );
        let sweeps = crate::node::lock(&node.sweeps).clone();
        let early = sweeps.early.iter();
        self.counter(
            "axon_flows_removed_early",
            "Connections and translations removed before their time, for want of room",
            early
                .map(|(map, count)| (vec![("map_name", (*map).to_owned())], *count))
                .collect(),
        );
        self.gauge(
            "cilium_datapath_conntrack_gc_interval_seconds",
            "Time between two sweeps",
            [(
                vec![("global", "global".to_owned())],
                sweeps.interval.as_secs_f64(),
            )],
        );
    }
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn reason(number: u8) -> String {
    DropReason::from_u8(number).map_or_else(|| number.to_string(), |r| r.text().to_owned())
}

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        for (name, help, values) in &self.metrics {
            match values {
                Values::Counter(counts) => {
                    let kind = ConstCounter::new(0_u64).metric_type();
                    let metric = encoder.encode_descriptor(name, help, None, kind)?;
                    encode(metric, counts, |value| ConstCounter::new(*value))?;
                }
                Values::Gauge(gauges) => {
                    let kind = ConstGauge::new(0.0_f64).metric_type();
                    let metric = encoder.encode_descriptor(name, help, None, kind)?;
                    encode(metric, gauges, |value| ConstGauge::new(*value))?;
                }
            }
        }
        Ok(())
    }
}

fn encode<V, M: EncodeMetric>(
    mut metric: MetricEncoder<'_>,
    values: &BTreeMap<Labels, V>,
    of: impl Fn(&V) -> M,
) -> Result<(), Error> {
    // Without labels there is one value, and no braces.
    if let Some(value) = values.get(&Labels::new()) {
        return of(value).encode(metric);
    }
    for (labels, value) in values {
        of(value).encode(metric.encode_family(&Set(labels))?)?;
    }
    Ok(())
}

/// Labels as the encoder wants them.
#[derive(Debug)]
struct Set<'a>(&'a Labels);

impl EncodeLabelSet for Set<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> Result<(), Error> {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in self.0 {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
