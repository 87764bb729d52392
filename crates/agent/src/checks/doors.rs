//! Doors that are open, and those that cannot be yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Told;
use super::answers::Answer;
use super::door::{Door, listen};
use super::holder;

/// Connections at all doors at a time; who comes then waits in the kernel.
const TURNS: usize = 256;
/// Until a port is tried again, doubled with every failure: its holder does not say
/// when he goes.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// Doors by address.
pub(super) struct Doors {
    open: BTreeMap<SocketAddr, Open>,
    shut: BTreeMap<SocketAddr, Shut>,
    turns: Arc<Semaphore>,
    stop: CancellationToken,
}

struct Open {
    answer: Arc<ArcSwap<Answer>>,
    /// Closes the door.
    guard: DropGuard,
    /// Ends when it is closed.
    closed: oneshot::Receiver<()>,
}

struct Shut {
    what: String,
    why: String,
    wait: Duration,
    due: Instant,
}

impl Doors {
    /// None yet; all of them close when `stop` says so.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            open: BTreeMap::new(),
            shut: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(TURNS)),
            stop,
        }
    }

    /// Opens and closes doors so that these are open, as far as may be; the future is
    /// over when it is to be tried again.
    pub(super) async fn follow(
        &mut self,
        wanted: BTreeMap<SocketAddr, Answer>,
    ) -> impl Future<Output = ()> + use<> {
        // First, so that a port which moves is free.
        let (stay, go) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|(address, _)| wanted.contains_key(address));
        self.open = stay;
        let go: BTreeMap<SocketAddr, Open> = go;
        for open in go.into_values() {
            drop(open.guard);
            let _ = open.closed.await;
        }
        self.shut.retain(|address, _| wanted.contains_key(address));
        let now = Instant::now();
        for (address, answer) in wanted {
            if let Some(open) = self.open.get(&address) {
                open.answer.store(Arc::new(answer));
                continue;
            }
            if self.shut.get(&address).is_none_or(|shut| shut.due <= now) {
                self.try_open(address, answer).await;
            }
        }
        let due = self.shut.values().map(|shut| shut.due).min();
        async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }

    /// How they are.
    pub(super) fn told(&self) -> Told {
        let checks = self.open.values();
        let checks = checks.filter(|open| matches!(**open.answer.load(), Answer::Check(_)));
        let shut = self.shut.iter();
        Told {
            ports: checks.count(),
            shut: shut
                .map(|(address, shut)| format!("{} {address}: {}", shut.what, shut.why))
                .collect(),
        }
    }

    async fn try_open(&mut self, address: SocketAddr, answer: Answer) {
        let what = answer.to_string();
        match listen(address) {
            Ok(listener) => {
                tracing::info!(%address, what, "load balancers may ask");
                self.shut.remove(&address);
                let answer = Arc::new(ArcSwap::from_pointee(answer));
                let (sender, closed) = oneshot::channel();
                let close = self.stop.child_token();
                let door = Door {
                    listener,
                    turns: Arc::clone(&self.turns),
                    _closed: sender,
                };
                tokio::spawn(serve(door, Arc::clone(&answer), close.clone()));
                let open = Open {
                    answer,
                    guard: close.drop_guard(),
                    closed,
                };
                self.open.insert(address, open);
            }
            Err(error) => {
                // Every process may have to be looked at.
                let asked = tokio::task::spawn_blocking(move || holder::why(address, &error));
                let why = asked.await.unwrap_or_else(|error| error.to_string());
                let before = self.shut.get(&address);
                if before.is_none_or(|before| before.why != why) {
                    tracing::warn!(%address, what, why, "load balancers cannot ask");
                }
                let wait = before.map_or(AGAIN, |before| AGAIN_MAX.min(before.wait * 2));
                let due = Instant::now() + wait;
                let shut = Shut {
                    what,
                    why,
                    wait,
                    due,
                };
                self.shut.insert(address, shut);
            }
        }
    }
}

async fn serve(door: Door, answer: Arc<ArcSwap<Answer>>, close: CancellationToken) {
    let app = Router::new().fallback(told).with_state(answer);
    let served = axum::serve(door, app).with_graceful_shutdown(close.cancelled_owned());
    if let Err(error) = served.await {
        tracing::warn!(%error, "a door for load balancers broke");
    }
}

async fn told(State(answer): State<Arc<ArcSwap<Answer>>>, request: Request) -> Response {
    answer.load().to(request.uri().path())
}
