//! Services in the control loop, and what the kernel knows of them beside the rows
//! that it is given.
//!
//! ```text
//! policy's rows ──> Controller::step_services ──> numbers on disk ──> rows of services
//! ```
//!
//! Policy comes first, and waits neither for services nor for the disk that takes
//! their numbers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axon_control::Controller;
use axon_control::services::{Numbers, Remembered, SeenNumbers, ServicesReport};
use axon_linux::{KernelReconciler, MapError, Maps, Pass, ReconcileReport};
use axon_model::{Desired, Observed};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::monotonic_ms;
use crate::journal::Journal;
use crate::node::Node;
use crate::problem::chain;
use crate::store::Store;

/// Until maps that could not be read are read again.
const AGAIN: Duration = Duration::from_secs(60);

/// Services' part of the control loop.
pub(crate) struct ServiceRows {
    journal: Journal<Numbers>,
    persist_due: bool,
    /// What the next pass of rows looks at.
    pass: Pass,
    /// What the last one did.
    report: ReconcileReport,
    forget: watch::Sender<Option<u64>>,
}

/// What has become of services in a pass.
pub(crate) struct Followed {
    pub(crate) report: ServicesReport,
    pub(crate) reconcile: ReconcileReport,
    /// Why their numbers could not be written to disk; none of their rows is
    /// written meanwhile.
    pub(crate) error: Option<String>,
}

impl ServiceRows {
    /// Services whose numbers go to this journal, and when the kernel is to be asked
    /// which of these it knows still.
    pub(crate) fn new(journal: Journal<Numbers>) -> (Self, watch::Receiver<Option<u64>>) {
        let (forget, due) = watch::channel(None);
        let rows = Self {
            journal,
            persist_due: false,
            pass: Pass::Everything,
            report: ReconcileReport::default(),
            forget,
        };
        (rows, due)
    }

    /// Has the next pass compare everything with the kernel.
    pub(crate) fn compare_all(&mut self) {
        self.pass = Pass::Everything;
    }

    /// Brings rows up to date, their numbers to the disk, and the kernel up to date.
    pub(crate) fn follow(
        &mut self,
        now_ms: u64,
        controller: &mut Controller,
        kernel: (&mut KernelReconciler, &Store),
        (observed, desired): (&Observed, &Desired),
    ) -> Followed {
        let (reconciler, store) = kernel;
        let report = controller.step_services(now_ms, observed);
        self.forget.send_if_modified(|due| {
            let news = *due != report.forget_due_ms;
            *due = report.forget_due_ms;
            news
        });
        self.persist_due |= report.persist;
        let written = match self.persist_due {
            true => self.journal.write(store, controller),
            false => Ok(()),
        };
        let error = written.err().map(|error| chain(&error));
        if error.is_none() {
            self.persist_due = false;
            let pass = std::mem::take(&mut self.pass);
            self.report = reconciler.services(pass, now_ms, desired);
        }
        let reconcile = self.report.clone();
        // What was done is done once.
        self.report.due_ms = None;
        Followed {
            report,
            reconcile,
            error,
        }
    }
}

/// The numbers in pinned rows: none of them is given another meaning, also where what
/// they stood for is lost. What cannot be read of one map loses nothing of another.
pub(crate) fn seen(maps: &Maps) -> SeenNumbers {
    let mut seen = SeenNumbers::default();
    let tell = |read: Result<(), MapError>| {
        if let Err(error) = read {
            tracing::warn!(
                error = chain(&error),
                "numbers of pinned services cannot be read"
            );
        }
    };
    tell(maps.service.for_each(|_, row| {
        seen.ports.insert(row.service);
        seen.generations.insert(row.generation);
        for list in [row.internal, row.external] {
            seen.lists.insert(list.list);
            seen.tables.insert(list.maglev);
        }
    }));
    tell(maps.service_list.for_each(|key, block| {
        seen.lists.insert(key.list);
        seen.backends.extend(block.backends);
    }));
    tell(maps.maglev.for_each(|key, _| {
        seen.tables.insert(key.table);
    }));
    tell(maps.backend.for_each(|id, row| {
        seen.backends.insert(id);
        seen.ports.insert(row.service);
    }));
    tell(maps.source_range.for_each(|key, _| {
        seen.ports.insert(key.service);
    }));
    tell(maps.service_skip.for_each(|key, _| {
        seen.ports.insert(key.service);
    }));
    let mut known = BTreeSet::new();
    for read in remembered(maps, &mut known) {
        tell(read);
    }
    for number in known {
        match number {
            Remembered::Port(port) => seen.ports.insert(port),
            Remembered::Backend(id) => seen.backends.insert(id),
        };
    }
    seen
}

/// The numbers that programs have written down: of clients with affinity, of connected
/// sockets, and of flows that are translated packet by packet.
fn remembered(maps: &Maps, known: &mut BTreeSet<Remembered>) -> [Result<(), MapError>; 3] {
    let mut note = |service, backend| {
        known.insert(Remembered::Port(service));
        known.insert(Remembered::Backend(backend));
    };
    [
        maps.service_affinity
            .for_each(|key, entry| note(key.service, entry.backend)),
        maps.socket
            .for_each(|_, entry| note(entry.service, entry.backend)),
        maps.service_flow
            .for_each(|_, flow| note(flow.service, flow.backend)),
    ]
}

/// Forgets numbers that nobody has any more and the kernel does not know, until
/// the agent stops.
pub(crate) async fn run(node: Arc<Node>, due: watch::Receiver<Option<u64>>) -> anyhow::Result<()> {
    let stop = node.stop.clone();
    let look = || forget(Arc::clone(&node));
    follow_due(due, stop, monotonic_ms, look).await;
    Ok(())
}

/// Has somebody `look` when it is due, who says when it is due again, and sleeps in
/// between.
async fn follow_due<L: Future<Output = Option<u64>>>(
    mut due: watch::Receiver<Option<u64>>,
    stop: CancellationToken,
    now_ms: impl Fn() -> u64,
    mut look: impl FnMut() -> L,
) {
    let mut due_ms = *due.borrow_and_update();
    loop {
        let wait = due_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms())));
        let until = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = due.changed() => match changed {
                Ok(()) => due_ms = *due.borrow_and_update(),
                Err(_) => return,
            },
            () = until => due_ms = look().await,
        }
    }
}

/// Asks the kernel which numbers it knows, and has the others be forgotten; says when
/// it is to be asked again.
async fn forget(node: Arc<Node>) -> Option<u64> {
    let reader = Arc::clone(&node);
    let read = tokio::task::spawn_blocking(move || {
        let mut known = BTreeSet::new();
        let read = remembered(&reader.maps, &mut known).into_iter();
        read.collect::<Result<(), MapError>>().map(|()| known)
    });
    let known = match read.await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "services are not forgotten");
            return Some(monotonic_ms() + millis(AGAIN));
        }
        Err(error) => {
            tracing::warn!(%error, "services are not forgotten");
            return Some(monotonic_ms() + millis(AGAIN));
        }
    };
    let due = node.engine.ask(move |controller| {
        // Who chose since cannot have chosen what was gone a minute ago.
        controller.forget_services(monotonic_ms(), |number| known.contains(&number));
        controller.service_numbers().forget_due_ms()
    });
    due.await.flatten()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use axon_abi::{
        AffinityEntry, ServiceClient, ServiceFlow, ServiceFlowKey, SocketEntry, SocketKey,
    };
    use axon_control::services::Remembered;
    use axon_linux::{Datapath, DatapathConfig, Maps, netns};
    use tokio::sync::watch;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::{follow_due, millis, remembered, seen};

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_before_it_is_due() {
        let began = Instant::now();
        let now_ms = || millis(began.elapsed());
        let (sender, due) = watch::channel(None);
        let stop = CancellationToken::new();
        let looks = RefCell::new(Vec::new());
        // Known still at the first look, and asked about an hour later.
        let look = || {
            looks.borrow_mut().push(now_ms());
            let is_first = looks.borrow().len() == 1;
            std::future::ready(is_first.then(|| now_ms() + millis(HOUR)))
        };
        let told = async {
            tokio::time::sleep(10 * HOUR).await;
            assert!(looks.borrow().is_empty(), "nothing is gone");
            sender.send_replace(Some(millis(12 * HOUR)));
            tokio::time::sleep(100 * HOUR).await;
            stop.cancel();
        };
        tokio::join!(follow_due(due, stop.clone(), now_ms, look), told);
        let hours: Vec<u64> = looks.borrow().iter().map(|ms| ms / millis(HOUR)).collect();
        assert_eq!(hours, [12, 13]);
    }

    /// Looks at the maps of a node of its own.
    fn with_maps(name: &str, look: impl FnOnce(&Maps) + Send) {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let name = format!("axt-{name}-{}", std::process::id());
        let dir = tempfile::tempdir().expect("a directory");
        let config = DatapathConfig {
            bpf_root: dir.path().join("bpf"),
            node: "n1".to_owned(),
            ..DatapathConfig::default()
        };
        let path = netns::create(&name).expect("a namespace");
        let looked = netns::within_path(&path, || {
            let datapath = Datapath::open(&config).expect("a datapath");
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                look(datapath.maps());
            }));
            drop(datapath);
            axon_linux::cleanup(&config.bpf_root, true).expect("a clean node");
            looked
        });
        netns::delete(&name).expect("the namespace goes");
        if let Err(panic) = looked.expect("the node's namespace") {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn whatever_programs_have_written_down_is_known() {
        with_maps("known", |maps| {
            let client = ServiceClient {
                service: 1,
                ..ServiceClient::default()
            };
            let affinity = AffinityEntry {
                backend: 11,
                ..AffinityEntry::default()
            };
            maps.service_affinity
                .insert(&client, &affinity)
                .expect("written");
            let socket = SocketEntry {
                service: 2,
                backend: 12,
                ..SocketEntry::default()
            };
            maps.socket
                .insert(&SocketKey::default(), &socket)
                .expect("written");
            let flow = ServiceFlow {
                service: 3,
                backend: 13,
                ..ServiceFlow::default()
            };
            maps.service_flow
                .insert(&ServiceFlowKey::default(), &flow)
                .expect("written");
            let mut known = BTreeSet::new();
            assert!(remembered(maps, &mut known).iter().all(Result::is_ok));
            let ports = [1, 2, 3].map(Remembered::Port);
            let backends = [11, 12, 13].map(Remembered::Backend);
            assert_eq!(known, ports.into_iter().chain(backends).collect());
            let seen = seen(maps);
            assert!(seen.ports.is_superset(&[1, 2, 3].into()), "{seen:?}");
            assert!(seen.backends.is_superset(&[11, 12, 13].into()), "{seen:?}");
        });
    }
}
