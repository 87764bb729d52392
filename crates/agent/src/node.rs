//! What the parts of the agent share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axon_hubble::NameTable;
use axon_linux::{Datapath, Maps, Sweeper};
use axon_model::{Desired, Observed};
use axon_sources::SourceStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::checks::Checks;
use crate::endpoints::{Endpoints, Flusher};
use crate::engine::{EngineHandle, View};
use crate::flows::Flows;
use crate::guard::GuardState;
use crate::metrics::Metrics;
use crate::staged::Rehearsed;
use crate::status::Neighbours;
use crate::store::Store;
use crate::sweep::{Pressure, SweepState};
use crate::uplinks::Uplinks;

/// A node's state, shared by every part of its agent.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) observed: Observed,
    pub(crate) desired: Desired,
    pub(crate) store: Store,
    /// DELs that the CNI plugin has left while no agent was there.
    pub(crate) queue: Store,
    /// Programs and stubs; held for single operations only.
    pub(crate) datapath: Mutex<Datapath>,
    pub(crate) maps: Maps,
    pub(crate) sweeper: Mutex<Sweeper>,
    pub(crate) flusher: Flusher,
    pub(crate) endpoints: Endpoints,
    pub(crate) engine: EngineHandle,
    /// What the control loop has found last.
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) sources: watch::Receiver<Arc<SourceStatus>>,
    pub(crate) uplinks: watch::Receiver<Arc<Uplinks>>,
    pub(crate) names: Arc<arc_swap::ArcSwap<NameTable>>,
    pub(crate) staged: Arc<Rehearsed>,
    pub(crate) flows: Flows,
    pub(crate) metrics: Metrics,
    pub(crate) sweeps: Mutex<SweepState>,
    pub(crate) pressure: Pressure,
    pub(crate) guard: Mutex<GuardState>,
    pub(crate) neighbours: Neighbours,
    pub(crate) checks: Checks,
    pub(crate) ready: AtomicBool,
    pub(crate) stop: CancellationToken,
}

impl Node {
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// Whoever panicked with a lock held has left a value that is whole: every
/// critical section here replaces values or calls the kernel.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
