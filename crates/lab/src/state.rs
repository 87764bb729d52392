//! What a supervisor knows: what shall be, and what is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use axon_control::identity::LabelIdentities;
use axon_model::Labels;

use crate::brain::Brain;
use crate::dns::Book;
use crate::manifest::{Id, Object};
use crate::paths::Lab;
use crate::plan::{Plan, PodKey, PodPlan};

/// A lab's supervisor, as its threads share it.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The lab.
    pub(crate) lab: Lab,
    cluster: Mutex<Cluster>,
    changed: Condvar,
    brain: Mutex<Brain>,
}

/// What shall be, and what is.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// What the user wants, by name.
    pub(crate) objects: BTreeMap<Id, Object>,
    /// What follows from it.
    pub(crate) plan: Plan,
    /// Nodes that are, or are coming.
    pub(crate) nodes: BTreeMap<String, NodeState>,
    /// Pods that are, or are coming, or are going.
    pub(crate) pods: BTreeMap<PodKey, PodState>,
    /// Numbers of label sets.
    pub(crate) identities: LabelIdentities,
    /// The number of each pod's labels, as last told to the agents.
    pub(crate) numbers: BTreeMap<PodKey, u32>,
    /// Plain processes with an endpoint (`axon run`), by node, as its agent
    /// told last.
    pub(crate) processes: BTreeMap<String, Vec<Process>>,
    /// The names that there are, as last told to the name server.
    pub(crate) book: Book,
}

impl Cluster {
    /// Whether all agents lead addresses of services to their endpoints.
    pub(crate) fn serves_services(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.values().all(|node| node.serves_services)
    }
}

/// A plain process that has an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its name in the cluster: that of its container, which is unique.
    pub(crate) name: String,
    /// The namespace that it was put in; empty if in none.
    pub(crate) namespace: String,
    /// The labels that it was given.
    pub(crate) labels: Labels,
    /// Its addresses.
    pub(crate) ips: Vec<IpAddr>,
    /// Its number on its node.
    pub(crate) endpoint: u16,
}

/// A node that is, or is coming.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeState {
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its port of the bridge.
    pub(crate) number: usize,
    /// Its namespace and devices are there.
    pub(crate) wired: bool,
    /// Its agent's process.
    pub(crate) agent_pid: Option<u32>,
    /// Its agent has answered since it was started.
    pub(crate) answers: bool,
    /// Its agent leads addresses of services to their endpoints, as it said last.
    pub(crate) serves_services: bool,
    /// How often its agent was started again.
    pub(crate) restarts: u32,
    /// How many of its agents died young, one after the other.
    pub(crate) deaths: u32,
    /// Why it is not well.
    pub(crate) problem: Option<String>,
    /// It shall go.
    pub(crate) stop: Stop,
}

/// A pod that is, is coming, or is going.
#[derive(Clone, Debug)]
pub(crate) struct PodState {
    /// What it shall be.
    pub(crate) plan: PodPlan,
    /// Its unique id.
    pub(crate) uid: String,
    /// Its network namespace.
    pub(crate) netns: PathBuf,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// Its addresses; empty before CNI ADD.
    pub(crate) ips: Vec<IpAddr>,
    /// Its number on its node.
    pub(crate) endpoint: Option<u16>,
    /// What it is doing, in a few words.
    pub(crate) doing: String,
    /// What keeps it from being ready.
    pub(crate) problem: Option<String>,
    /// Its containers by name.
    pub(crate) containers: BTreeMap<String, ContainerState>,
    /// It shall go.
    pub(crate) stop: Stop,
}

/// How a container is.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerState {
    /// It runs and answers its probe, or has done its work.
    pub(crate) ready: bool,
    /// It has ended for good: the exit status, 128 and more for a signal.
    pub(crate) ended: Option<i32>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// Its log.
    pub(crate) log: PathBuf,
}

impl PodState {
    /// It is to stay, and serves.
    pub(crate) fn ready(&self) -> bool {
        !self.stop.is_set() && self.serves()
    }

    /// Every container is ready or has ended well, whether it is to go or not.
    pub(crate) fn serves(&self) -> bool {
        let all = || self.containers.values();
        !self.containers.is_empty() && all().all(|c| c.ready || c.ended == Some(0))
    }

    /// Kubernetes' word for where it stands in its life.
    pub(crate) fn phase(&self) -> &'static str {
        let ended = |c: &ContainerState| c.ended.is_some();
        if self.containers.is_empty() {
            "Pending"
        } else if !self.containers.values().all(ended) {
            "Running"
        } else if self.containers.values().all(|c| c.ended == Some(0)) {
            "Succeeded"
        } else {
            "Failed"
        }
    }
}

/// Says that something shall end; everyone who waits hears of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<StopInner>);

#[derive(Debug, Default)]
struct StopInner {
    set: AtomicBool,
    at: OnceLock<SystemTime>,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// Sets it, for good.
    pub(crate) fn set(&self) {
        let _held = lock(&self.0.lock);
        self.0.at.get_or_init(SystemTime::now);
        self.0.set.store(true, Ordering::SeqCst);
        self.0.changed.notify_all();
    }

    /// Whether it is set.
    pub(crate) fn is_set(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// When it was set, if it is.
    pub(crate) fn since(&self) -> Option<SystemTime> {
        self.0.at.get().copied()
    }

    /// Sleeps, but not beyond the moment it is set; says whether it is.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut held = lock(&self.0.lock);
        while !self.is_set() {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return false;
            };
            held = self
                .0
                .changed
                .wait_timeout(held, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Shared {
    /// A supervisor that knows nothing yet.
    pub(crate) fn new(lab: Lab) -> Self {
        Self {
            brain: Mutex::new(Brain::new(&lab)),
            lab,
            cluster: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Looks at the cluster.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.cluster)
    }

    /// Changes the cluster, and tells the agents and everyone who waits.
    ///
    /// When it returns, the manifests are written.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let result = change(&mut self.cluster());
        self.changed.notify_all();
        if let Err(error) = self.publish() {
            log(&format!("manifests cannot be written: {error:#}"));
        }
        result
    }

    fn publish(&self) -> Result<()> {
        // Taken first: whoever writes last has seen the latest.
        let mut brain = lock(&self.brain);
        let files = brain.think(&mut self.cluster())?;
        brain.write(files)
    }

    /// Changes one pod, if it is still there.
    pub(crate) fn pod(&self, key: &PodKey, change: impl FnOnce(&mut PodState)) {
        self.update(|cluster| {
            if let Some(pod) = cluster.pods.get_mut(key) {
                change(pod);
            }
        });
    }

    /// Changes one node, if it is still there. The agents need not know.
    pub(crate) fn node(&self, name: &str, change: impl FnOnce(&mut NodeState)) {
        if let Some(node) = self.cluster().nodes.get_mut(name) {
            change(node);
        }
        self.changed.notify_all();
    }

    /// Waits until the cluster is such, or something is to stop; says whether
    /// it is such.
    pub(crate) fn wait_until(&self, stop: &Stop, is: impl Fn(&Cluster) -> bool) -> bool {
        let mut cluster = self.cluster();
        loop {
            if stop.is_set() {
                return false;
            }
            if is(&cluster) {
                return true;
            }
            // The time is for `stop`, whose setting does not wake us here.
            cluster = self
                .changed
                .wait_timeout(cluster, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Locks; what a thread that panicked left is still the best there is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A time as Kubernetes writes it.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let ns = since.as_secs().saturating_mul(1_000_000_000);
    let text = axon_hubble::Time(ns).to_string();
    let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
    format!("{seconds}Z")
}

/// Writes a line to the supervisor's log.
pub(crate) fn log(text: &str) {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let (seconds, millis) = (now.as_secs() % 86_400, now.subsec_millis());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    eprintln!(
        "{hours:02}:{minutes:02}:{:02}.{millis:03} {text}",
        seconds % 60
    );
}
