//! How soon services are in the kernel: from rows in the observed tables to the last
//! map write, the numbers on disk in between as an agent has them.
//!
//! ```text
//! 5,000 services of ten endpoints ─> controller ─> numbers to the disk ─> maps
//! ```
//!
//! As root: maps are the kernel's own.
#[path = "../../control/tests/services_twins/shop.rs"]
mod shop;

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use axon_control::{Config, Controller, Persisted};
use axon_linux::{Datapath, DatapathConfig, KernelReconciler, ReconcilerConfig, netns};
use axon_model::{Desired, Node, Observed};
use shop::{service, slice};

const SERVICES: usize = 5_000;
const ENDPOINTS: usize = 10;
/// How often all services come at once; the median is told.
const ROUNDS: usize = 5;
/// Changes of one slice; the median and the 99th of a hundred are told.
const CHANGES: usize = 2_000;
const NODE: &str = "axb-services";

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let path = netns::create(NODE).expect("a namespace");
    let measured = netns::within_path(&path, || {
        let mut all: Vec<Stages> = (1..ROUNDS).map(|_| round(false)).collect();
        all.push(round(true));
        all.sort_by_key(Stages::sum);
        println!(
            "{SERVICES} services of {ENDPOINTS} endpoints: {}",
            all[all.len() / 2]
        );
    });
    netns::delete(NODE).expect("the namespace goes");
    measured.expect("the node's namespace");
}

/// What each part takes.
#[derive(Clone, Copy, Default)]
struct Stages {
    control: Duration,
    disk: Duration,
    kernel: Duration,
    rows: usize,
}

impl Stages {
    fn sum(&self) -> Duration {
        self.control + self.disk + self.kernel
    }
}

impl std::fmt::Display for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            control,
            disk,
            kernel,
            rows,
        } = self;
        let sum = self.sum();
        write!(
            f,
            "{sum:.1?} (control {control:.1?}, numbers to the disk {disk:.1?}, {rows} rows to \
             the kernel {kernel:.1?})"
        )
    }
}

/// An agent's way from observed rows to the kernel.
struct Way {
    controller: Controller,
    observed: Observed,
    desired: Desired,
    reconciler: KernelReconciler,
    log: std::fs::File,
    /// Whether everything is to be written to the disk, as at an agent's first change.
    is_first: bool,
}

impl Way {
    fn new(maps: axon_linux::Maps, dir: &Path) -> Self {
        let config = Config {
            node_name: "a".to_owned(),
            ..Config::default()
        };
        let controller = Controller::new(config, Persisted::default());
        let desired = Desired {
            services: controller.desired_services(),
            ..Desired::default()
        };
        Self {
            controller,
            observed: Observed::default(),
            desired,
            reconciler: KernelReconciler::new(maps, ReconcilerConfig::default()),
            log: std::fs::File::create(dir.join("changes")).expect("a file"),
            is_first: true,
        }
    }

    fn complete(&self) {
        let observed = &self.observed;
        observed
            .nodes
            .write(|t| t.insert("a".to_owned(), Node::default()));
        observed.namespaces.mark_complete();
        observed.nodes.mark_complete();
        observed.pods.mark_complete();
        observed.policies.mark_complete();
        observed.cidr_groups.mark_complete();
        observed.services.mark_complete();
        observed.endpoint_slices.mark_complete();
        observed.local_redirects.mark_complete();
        observed.cilium_endpoints.mark_complete();
        observed.identities.mark_complete();
        observed.names.mark_complete();
        observed.endpoints.mark_complete();
    }

    fn step(&mut self, now_ms: u64) -> Stages {
        let begin = Instant::now();
        self.controller.step(now_ms, &self.observed, &self.desired);
        let report = self.controller.step_services(now_ms, &self.observed);
        let control = begin.elapsed();
        let begin = Instant::now();
        if report.persist {
            let change = self.controller.take_service_numbers_change();
            let text = if std::mem::take(&mut self.is_first) {
                serde_json::to_vec(self.controller.service_numbers())
            } else {
                serde_json::to_vec(&change)
            };
            self.log.write_all(&text.expect("text")).expect("written");
        }
        let disk = begin.elapsed();
        let begin = Instant::now();
        let report = self.reconciler.sync(now_ms, &self.desired);
        assert_eq!(report.failing_rows(), 0, "{report:?}");
        Stages {
            control,
            disk,
            kernel: begin.elapsed(),
            rows: report.tables.values().map(|t| t.updated).sum(),
        }
    }
}

/// All services at once, and then changes, if they are asked for.
fn round(with_changes: bool) -> Stages {
    let dir = tempfile::tempdir_in("/run").expect("a directory");
    let config = DatapathConfig {
        bpf_root: dir.path().join("bpf"),
        node: "a".to_owned(),
        ..DatapathConfig::default()
    };
    let datapath = Datapath::open(&config).expect("a datapath");
    let mut way = Way::new(datapath.maps().clone(), dir.path());
    way.complete();
    way.step(0);
    way.observed.services.write(|t| {
        for n in 0..SERVICES {
            let (key, row) = service(n);
            t.insert(key, (*row).clone());
        }
    });
    way.observed.endpoint_slices.write(|t| {
        for n in 0..SERVICES {
            let (key, row) = slice(n, ENDPOINTS);
            t.insert(key, (*row).clone());
        }
    });
    let all = way.step(1);
    if with_changes {
        changes(&mut way);
    }
    drop(datapath);
    axon_linux::cleanup(&config.bpf_root, true).expect("a clean node");
    all
}

/// One endpoint goes or comes, again and again.
fn changes(way: &mut Way) {
    let mut all: Vec<Stages> = Vec::new();
    for n in 0..CHANGES {
        let fewer = ENDPOINTS - 1 + n % 2;
        let (key, row) = slice(n / 2 * 7 % SERVICES, fewer);
        way.observed
            .endpoint_slices
            .write(|t| t.insert(key, (*row).clone()));
        // So that what is due to go, goes in between as it would.
        all.push(way.step(10 + n as u64 * 10));
    }
    all.sort_by_key(Stages::sum);
    let at = |part: usize| all[all.len() * part / 100];
    println!("one change, median: {}", at(50));
    println!("one change, p99: {}", at(99));
}
