//! The control loop: observed tables in, kernel rows out.
//!
//! ```text
//! wake ──> Controller::step ──> persist ──> names ──> KernelReconciler ──> services ──> View
//! ```
//!
//! One thread does all of it, woken by changes and by what is due: nothing is
//! polled. Its calls block (files, the kernel), so it is no task of the runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use axon_abi::{EndpointRow, HOST_DEVICE, Identity, PolicySetFlags};
use axon_control::{Controller, EndpointStatus, Persisted, StepReport, WaitReason};
use axon_hubble::NameTable;
use axon_linux::{KernelReconciler, Pass, ReconcileReport};
use axon_model::{Desired, EndpointState, Observed};
use tokio::sync::{oneshot, watch};

use crate::clock::{monotonic_ms, monotonic_ns, monotonic_zero_ns};
use crate::endpoints::Records;
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::names::{Namer, Sources};
use crate::problem::chain;
use crate::services::ServiceRows;
use crate::staged::Rehearsed;
use crate::store::Store;
use crate::trials;
use crate::uplinks::Uplinks;

/// Between two comparisons of every row with the kernel.
const FULL_EVERY_MS: u64 = 5 * 60 * 1000;
/// Until state that could not be written is tried again.
const PERSIST_RETRY_MS: u64 = 1000;

/// What the control loop has found last.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) report: StepReport,
    pub(crate) reconcile: ReconcileReport,
    pub(crate) endpoints: BTreeMap<u16, Enforced>,
    /// What has become of the node itself, where policy is enforced on it.
    pub(crate) host: Option<Enforced>,
    /// The policies of each set.
    pub(crate) policies: Arc<BTreeMap<u32, Vec<Arc<str>>>>,
    /// Why numbers could not be written to disk; no row is written meanwhile, but those
    /// of services.
    pub(crate) persist_error: Option<String>,
    /// When services were last brought up to date with all that is known of them, on
    /// the monotonic clock; `None` before all is known.
    pub(crate) services_ns: Option<u64>,
    /// Why those of services could not; none of their rows is written meanwhile.
    pub(crate) services_error: Option<String>,
    /// Why what has become of a trial could not; rows do not wait for that.
    pub(crate) trial_error: Option<String>,
    /// Why what holds the node itself is not on disk for the next start.
    pub(crate) kept_error: Option<String>,
    /// The revision of the policies that every endpoint enforces.
    pub(crate) enforced_revision: u64,
    /// Passes so far.
    pub(crate) passes: u64,
}

/// What has become of an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Enforced {
    pub(crate) status: EndpointStatus,
    /// The kernel holds the row that is desired.
    pub(crate) enforced: bool,
    /// Ingress, then egress, that no rule allows is denied.
    pub(crate) default_deny: [bool; 2],
}

impl Enforced {
    /// The endpoint has its identity, and the kernel enforces its policy.
    pub(crate) fn is_ready(&self) -> bool {
        self.enforced && self.status.waiting.is_none()
    }
}

type Question = Box<dyn FnOnce(&mut Controller) + Send>;

enum Message {
    Wake,
    Ask(Question),
}

/// Speaks to the control loop. Its queue is bounded by who speaks: one wake-up
/// at a time, and one question for each request that the API admits.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    sender: Sender<Message>,
    woken: Arc<AtomicBool>,
}

impl EngineHandle {
    pub(crate) fn new() -> (Self, Inbox) {
        let (sender, receiver) = channel();
        let woken = Arc::new(AtomicBool::new(false));
        let handle = Self {
            sender,
            woken: Arc::clone(&woken),
        };
        (handle, Inbox { receiver, woken })
    }

    /// Has the loop look at the tables again.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Message::Wake);
        }
    }

    /// Asks the controller, between two passes; `None` if the loop has ended.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Controller) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |controller| {
            let _ = answer.send(question(controller));
        });
        self.sender.send(Message::Ask(question)).ok()?;
        answered.await.ok()
    }

    /// Tells the controller something, and has it look at the tables again.
    pub(crate) fn tell(&self, fact: impl FnOnce(&mut Controller) + Send + 'static) {
        let _ = self.sender.send(Message::Ask(Box::new(fact)));
        self.wake();
    }
}

/// The loop's end of its queue.
pub(crate) struct Inbox {
    receiver: Receiver<Message>,
    woken: Arc<AtomicBool>,
}

/// The control loop.
pub(crate) struct Engine {
    pub(crate) controller: Controller,
    pub(crate) reconciler: KernelReconciler,
    pub(crate) observed: Observed,
    pub(crate) desired: Desired,
    pub(crate) records: Records,
    pub(crate) names: Arc<arc_swap::ArcSwap<NameTable>>,
    pub(crate) namer: Namer,
    pub(crate) staged: Arc<Rehearsed>,
    pub(crate) node_name: Arc<str>,
    /// The node's own number; 0 where policy is not enforced on it.
    pub(crate) host_id: u16,
    /// Where policies for the node itself on trial are kept, if there are trials.
    pub(crate) trials: Option<Store>,
    /// Keeps what holds the node itself for the next start; `None` where nothing does.
    pub(crate) keeper: Option<Keeper>,
    pub(crate) uplinks: watch::Receiver<Arc<Uplinks>>,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) journal: Journal<Persisted>,
    pub(crate) persist_due: bool,
    /// What the last pass of all rows but those of services did.
    pub(crate) reconciled: ReconcileReport,
    pub(crate) services: ServiceRows,
    pub(crate) full_due_ms: u64,
    /// Every desired table has been complete: what only the kernel has may go.
    pub(crate) complete: bool,
}

impl Engine {
    /// Runs until every handle is gone or `stop` says so.
    pub(crate) fn run(mut self, store: &Store, inbox: &Inbox, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let due_ms = self.pass(store);
            if !self.wait(inbox, due_ms) {
                return;
            }
        }
    }

    /// Waits for a wake-up and answers questions meanwhile; `false` if nobody
    /// can wake the loop any more.
    fn wait(&mut self, inbox: &Inbox, due_ms: u64) -> bool {
        loop {
            let wait = Duration::from_millis(due_ms.saturating_sub(monotonic_ms()));
            match inbox.receiver.recv_timeout(wait) {
                Ok(Message::Ask(question)) => question(&mut self.controller),
                Ok(Message::Wake) => {
                    // Before the pass reads the tables: a change that it does
                    // not see wakes the loop again.
                    inbox.woken.store(false, Ordering::Release);
                    return true;
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// One pass; says when the next is due at the latest.
    fn pass(&mut self, store: &Store) -> u64 {
        let now_ms = monotonic_ms();
        let mut report = self.controller.step(now_ms, &self.observed, &self.desired);
        self.persist_due |= report.persist;
        let mut view = View {
            passes: self.view.borrow().passes + 1,
            enforced_revision: self.view.borrow().enforced_revision,
            ..View::default()
        };
        view.trial_error = self.keep_trial().err();
        let must_be_kept = self.controller.host_trial_must_be_kept();
        let kept = view.trial_error.take_if(|_| must_be_kept);
        view.persist_error = self.persist(store).err().or(kept);
        for error in view.persist_error.iter().chain(&view.trial_error) {
            tracing::error!(error, "state cannot be written");
        }
        if view.persist_error.is_none() || self.must_take_back() {
            // Before the rows: the first packet that they let through is named.
            self.name(report.changed);
            if let Some(staged) = self.controller.take_staged() {
                self.staged.follow(&staged);
            }
            self.reconciled = self.reconcile(now_ms);
        }
        view.reconcile = self.reconciled.clone();
        let services = self.services.follow(
            now_ms,
            &mut self.controller,
            (&mut self.reconciler, store),
            (&self.observed, &self.desired),
        );
        view.reconcile.join(services.reconcile);
        report.conditions.extend(services.report.conditions);
        view.services_error = services.error;
        let is_known = self.desired.services.frontends.snapshot().is_complete();
        view.services_ns = match is_known && view.services_error.is_none() {
            true => Some(monotonic_ns()),
            false => self.view.borrow().services_ns,
        };
        if let Some(error) = &view.services_error {
            tracing::error!(error, "numbers of services cannot be written");
        }
        self.tell_failures(&view.reconcile);
        let mut due_ms = self.full_due_ms;
        for due in [report.next_step_ms, view.reconcile.due_ms]
            .into_iter()
            .flatten()
        {
            due_ms = due_ms.min(due);
        }
        let errors = [&view.persist_error, &view.trial_error, &view.services_error];
        if errors.iter().any(|error| error.is_some()) {
            due_ms = now_ms + PERSIST_RETRY_MS;
        }
        if let Some(again_ms) = self.keep_host(now_ms) {
            due_ms = due_ms.min(again_ms);
        }
        view.kept_error = self.keeper.as_ref().and_then(Keeper::error);
        view.report = report;
        self.publish(view);
        due_ms
    }

    /// Has what holds the node itself, and is in force, be kept for the next start.
    fn keep_host(&mut self, now_ms: u64) -> Option<u64> {
        if self.keeper.is_none() || !self.host().enforced {
            return None;
        }
        let rows = self.controller.host_rows(&self.desired)?;
        let uplinks = self.uplinks.borrow().names();
        self.keeper.as_mut()?.follow(now_ms, rows, uplinks)
    }

    /// What goes on trial is on disk before it is in force.
    fn keep_trial(&mut self) -> Result<(), String> {
        if let (Some(store), Some(trial)) = (&self.trials, self.controller.unkept_host_trial()) {
            trials::keep(store, trial).map_err(|error| chain(&error))?;
            self.controller.host_trial_is_kept();
        }
        Ok(())
    }

    /// Whether a policy for the node itself that was taken back is in force still:
    /// that goes without a disk that takes writes, as it may lock out who mends
    /// the disk. Numbers in the kernel's maps are not given again by the next agent.
    fn must_take_back(&self) -> bool {
        let host = self.host();
        let is_decided = !matches!(host.status.waiting, Some(WaitReason::Sources { .. }));
        self.controller.host_trial_is_taken_back() && is_decided && !host.enforced
    }

    /// Numbers go to the disk before rows that hold them go to the kernel.
    fn persist(&mut self, store: &Store) -> Result<(), String> {
        if self.persist_due {
            self.journal
                .write(store, &mut self.controller)
                .map_err(|error| chain(&error))?;
            self.persist_due = false;
        }
        for (id, status) in self.controller.endpoints() {
            if !status.labels.is_empty() {
                self.records
                    .decided(store, &self.observed, *id, status)
                    .map_err(|error| chain(&error))?;
            }
        }
        Ok(())
    }

    /// Has the names of events follow if they may have changed.
    fn name(&mut self, changed: bool) {
        let moved = self.uplinks.has_changed().unwrap_or(false);
        let before = self.names.load();
        let uplinks = Arc::clone(&self.uplinks.borrow_and_update());
        let sources = Sources {
            node: &self.node_name,
            observed: &self.observed,
            uplinks: &uplinks,
            zero_ns: monotonic_zero_ns(),
        };
        if !changed && !moved && !self.namer.has_news(&before, &sources) {
            return;
        }
        let table = self.namer.follow(&before, &mut self.controller, &sources);
        self.names.store(Arc::new(table));
    }

    fn reconcile(&mut self, now_ms: u64) -> ReconcileReport {
        if !self.complete && self.is_complete() {
            // What an earlier agent has left and nobody wants goes now.
            self.complete = true;
            self.full_due_ms = now_ms;
        }
        let mut pass = Pass::Changes;
        if now_ms >= self.full_due_ms {
            self.full_due_ms = now_ms + FULL_EVERY_MS;
            self.services.compare_all();
            pass = Pass::Everything;
        }
        self.reconciler
            .without_services(pass, now_ms, &self.desired)
    }

    /// Logs rows that the kernel does not take, each once.
    fn tell_failures(&self, report: &ReconcileReport) {
        let before = Arc::clone(&self.view.borrow());
        for (table, rows) in &report.tables {
            let known = before.reconcile.tables.get(table);
            for failure in &rows.failing {
                if known.is_none_or(|known| !known.failing.contains(failure)) {
                    let (row, error) = failure;
                    tracing::warn!(table, row, error, "the kernel does not take a row");
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        let desired = &self.desired;
        desired.identities.snapshot().is_complete()
            && desired.policy_sets.snapshot().is_complete()
            && desired.ipcache.snapshot().is_complete()
            && desired.ipcache_cidrs.snapshot().is_complete()
            && desired.endpoints.snapshot().is_complete()
            && desired.nomasq.snapshot().is_complete()
            && desired.routes.snapshot().is_complete()
    }

    fn publish(&self, mut view: View) {
        // What a set is made of never changes.
        view.policies = match view.report.changed {
            true => Arc::new(self.controller.policies_by_set(|o| o.to_string().into())),
            false => Arc::clone(&self.view.borrow().policies),
        };
        for (id, status) in self.controller.endpoints() {
            let enforced = self.row_of(*id).is_some_and(|(ifindex, row)| {
                row.policy_set == status.policy_set
                    && self.reconciler.endpoint_enforced(ifindex, &row)
            });
            let endpoint = Enforced {
                status: status.clone(),
                enforced,
                default_deny: self.default_deny(status.policy_set),
            };
            view.endpoints.insert(*id, endpoint);
        }
        view.host = (self.host_id != 0).then(|| self.host());
        let settled = view.persist_error.is_none()
            && self.reconciled.failing_rows() == 0
            && view.endpoints.values().all(Enforced::is_ready)
            && view.host.iter().all(Enforced::is_ready);
        if settled {
            view.enforced_revision = view.report.policy_revision;
        }
        self.view.send_replace(Arc::new(view));
    }

    /// What has become of the node itself.
    fn host(&self) -> Enforced {
        let decided = self.controller.host();
        let row = self.desired.endpoints.get(&HOST_DEVICE);
        let enforced = row.is_some_and(|row| {
            row.policy_set == decided.policy_set
                && self.reconciler.endpoint_enforced(HOST_DEVICE, &row)
        });
        Enforced {
            status: EndpointStatus {
                id: self.host_id,
                labels: self.controller.host_labels().clone(),
                identity: Identity::HOST,
                policy_set: decided.policy_set,
                state: EndpointState::Regenerating,
                waiting: decided.waiting.clone(),
            },
            enforced,
            default_deny: self.default_deny(decided.policy_set),
        }
    }

    /// Whether a set denies what no rule allows: ingress, then egress.
    fn default_deny(&self, set: u32) -> [bool; 2] {
        let rows = self.desired.policy_sets.get(&set);
        let flags = rows.map_or(0, |rows| rows.set.flags);
        [
            flags & PolicySetFlags::DEFAULT_DENY_INGRESS != 0,
            flags & PolicySetFlags::DEFAULT_DENY_EGRESS != 0,
        ]
    }

    fn row_of(&self, id: u16) -> Option<(u32, EndpointRow)> {
        let ifindex = self.observed.endpoints.get(&id)?.ifindex;
        let row = self.desired.endpoints.get(&ifindex)?;
        (row.id == id).then(|| (ifindex, *row))
    }
}
