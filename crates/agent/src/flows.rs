//! Events of the kernel as flows, for whoever reads them.
//!
//! ```text
//! ring buffer ── EventReader ── records with names ──> Flows (the last 4095) ── decode ──> readers
//! ```
//!
//! A reader that is slower than the events learns exactly how many it missed;
//! nobody waits for it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axon_api::agent::ObserverStatus;
use axon_hubble::{Entry, Filter, History, LostEvents, LostSource, Query, Response, Time, decode};
use axon_linux::{EventReader, Lost};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::clock::monotonic_zero_ns;
use crate::endpoints::readable as readable_state;
use crate::node::{Node, lock};
use crate::problem::chain;
use crate::readiness::readable;
use crate::store::EVENTS;

/// Flows that are remembered: as many as Hubble remembers.
const HISTORY: usize = 4095;
/// Events taken from the kernel at a time, before others get their turn.
const BATCH: usize = 1024;
/// The first event waits this long for others, unless they are many: each time
/// that all are read, the next one costs its packet a wake-up.
const LINGER: Duration = Duration::from_millis(50);
/// Flows that a reader gets at a time.
const CHUNK: usize = 512;

/// The last flows.
pub(crate) struct Flows {
    history: Mutex<History>,
    /// When the first of them can have been seen.
    began: Time,
    /// How many there have ever been.
    news: watch::Sender<u64>,
}

impl Flows {
    pub(crate) fn new() -> Self {
        Self {
            history: Mutex::new(History::new(HISTORY)),
            began: now(),
            news: watch::Sender::new(0),
        }
    }

    /// Adds what is told to the history, and wakes those who read.
    fn add<T>(&self, tell: impl FnOnce(&mut History) -> T) -> T {
        let mut history = lock(&self.history);
        let before = history.next();
        let told = tell(&mut history);
        let next = history.next();
        drop(history);
        if next != before {
            self.news.send_replace(next);
        }
        told
    }

    /// How many flows are remembered, and from when on.
    pub(crate) fn observer(&self) -> ObserverStatus {
        let history = lock(&self.history);
        let complete_since = history.complete_since().unwrap_or(self.began);
        ObserverStatus {
            current_flows: history.len() as u64,
            max_flows: history.capacity() as u64,
            seen_flows: history.next(),
            complete_since: complete_since.to_string(),
        }
    }

    /// Starts reading.
    pub(crate) fn reader(&self, query: Query, node: Arc<str>) -> Reader {
        let history = lock(&self.history);
        let cursor = history.next();
        let entries = if query.last > 0 {
            history.newest_first()
        } else {
            Vec::new()
        };
        // Flows are made while nobody waits for the history.
        drop(history);
        let mut backlog: Vec<Arc<Response>> = entries
            .iter()
            .map(Entry::response)
            .filter(|response| wanted(&query.filter, response))
            .take(query.last)
            .collect();
        backlog.reverse();
        Reader {
            backlog,
            cursor,
            query,
            node,
            news: self.news.subscribe(),
        }
    }
}

fn wanted(filter: &Filter, response: &Response) -> bool {
    response
        .flow
        .as_ref()
        .is_none_or(|flow| filter.matches(flow))
}

/// Somebody who reads flows.
pub(crate) struct Reader {
    backlog: Vec<Arc<Response>>,
    cursor: u64,
    query: Query,
    node: Arc<str>,
    news: watch::Receiver<u64>,
}

impl Reader {
    /// The next flows as JSON lines; `None` when there are no more to come.
    pub(crate) async fn next(&mut self, flows: &Flows) -> Option<Vec<u8>> {
        if !self.backlog.is_empty() {
            return Some(lines(&std::mem::take(&mut self.backlog)));
        }
        while self.query.follow {
            let read = lock(&flows.history).read(self.cursor, CHUNK);
            let moved = read.next != self.cursor;
            self.cursor = read.next;
            let mut found = Vec::new();
            if !read.lost.is_empty() {
                found.push(Arc::new(self.lost(read.lost.end - read.lost.start)));
            }
            found.extend(
                read.items
                    .iter()
                    .map(Entry::response)
                    .filter(|r| wanted(&self.query.filter, r)),
            );
            if !found.is_empty() {
                return Some(lines(&found));
            }
            if !moved {
                self.news.changed().await.ok()?;
            }
        }
        None
    }

    fn lost(&self, count: u64) -> Response {
        let lost = LostEvents {
            source: LostSource::HubbleRingBuffer,
            num_events_lost: count,
            ..LostEvents::default()
        };
        Response::lost(lost, Arc::clone(&self.node), now())
    }
}

fn now() -> Time {
    Time(monotonic_zero_ns().saturating_add(crate::clock::monotonic_ms() * 1_000_000))
}

fn lines(responses: &[Arc<Response>]) -> Vec<u8> {
    let mut text = Vec::new();
    for response in responses {
        // Nothing in a response can fail to be written as JSON.
        if serde_json::to_writer(&mut text, response.as_ref()).is_ok() {
            text.push(b'\n');
        }
    }
    text
}

/// Reads events until the agent stops.
pub(crate) async fn run(node: Arc<Node>, reader: EventReader) -> anyhow::Result<()> {
    let mut reader = readable(reader)?;
    let mut lost = Lost::default();
    // What the kernel has counted, and how much of it is told.
    let (mut counted, mut told) = (0, told_before(&node).await);
    // What was lost before the first look nobody was there to read.
    let mut first = true;
    loop {
        while drain(&node, reader.get_mut()) == BATCH {
            tokio::task::yield_now().await;
        }
        match lost.delta(&node.maps) {
            Ok(delta) => {
                counted += delta;
                // A map that was made anew has counted nothing yet.
                told = if counted < told { 0 } else { told };
                if counted > told {
                    let count = counted - told;
                    if first {
                        node.metrics.events_unread(count);
                    } else {
                        node.metrics.events_lost(count);
                    }
                    tell_lost(&node, count);
                    told = counted;
                    remember(&node, told).await;
                }
                first = false;
            }
            Err(error) => tracing::warn!(error = chain(&error), "lost events cannot be counted"),
        }
        tokio::select! {
            announced = announced(&reader) => announced?,
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}

/// Waits for events, and a little for more of them.
async fn announced(reader: &AsyncFd<EventReader>) -> io::Result<()> {
    // Cleared before they are read: what comes meanwhile is announced anew.
    reader.readable().await?.clear_ready();
    match tokio::time::timeout(LINGER, reader.readable()).await {
        Ok(many) => many.map(|mut ready| ready.clear_ready()),
        Err(_) => Ok(()),
    }
}

/// Losses that an earlier agent has told: they are not told again, but those
/// between it and this one are.
async fn told_before(node: &Arc<Node>) -> u64 {
    let node = Arc::clone(node);
    let read = tokio::task::spawn_blocking(move || readable_state(node.store.read(EVENTS)));
    match read.await {
        Ok(Ok(told)) => told.unwrap_or(0),
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "losses told before are not known");
            0
        }
        Err(_) => 0,
    }
}

async fn remember(node: &Arc<Node>, told: u64) {
    let node = Arc::clone(node);
    let written = tokio::task::spawn_blocking(move || node.store.write(EVENTS, &told));
    if let Ok(Err(error)) = written.await {
        tracing::warn!(
            error = chain(&error),
            "losses are told again by the next agent"
        );
    }
}

fn drain(node: &Node, reader: &mut EventReader) -> usize {
    let names = node.names.load_full();
    let quota = node.config.sizes.ct_quota;
    // What staged policies say is counted whether anybody reads it or not.
    let waits = node.staged.is_idle();
    let taken = node.flows.add(|history| {
        reader.next_batch(BATCH, |record| {
            if node.pressure.take(record, quota) {
                return;
            }
            if waits {
                history.push_record(record, &names);
                return;
            }
            let mut flow = decode(record, names.as_ref());
            node.staged.judge(record, &mut flow);
            history.push(Response::flow(Arc::new(flow)));
        })
    });
    if taken > 0 {
        node.metrics.events_seen(taken as u64);
    }
    taken
}

fn tell_lost(node: &Node, count: u64) {
    let lost = LostEvents {
        source: LostSource::PerfEventRingBuffer,
        num_events_lost: count,
        ..LostEvents::default()
    };
    let name = Arc::clone(&node.names.load().node);
    let response = Response::lost(lost, name, now());
    node.flows.add(|history| history.push(response));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axon_hubble::{Flow, Query, Response};

    use super::{Flows, HISTORY};

    impl Flows {
        fn push(&self, responses: impl IntoIterator<Item = Response>) {
            self.add(|history| responses.into_iter().for_each(|told| history.push(told)));
        }
    }

    fn flow(n: u64) -> Response {
        Response::flow(Arc::new(Flow {
            time: axon_hubble::Time(n),
            ..Flow::default()
        }))
    }

    fn read(text: &[u8]) -> Vec<Response> {
        text.split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("json"))
            .collect()
    }

    #[tokio::test]
    async fn a_slow_reader_learns_how_many_it_missed() {
        let flows = Flows::new();
        let query = Query::parse([]).expect("query");
        let mut reader = flows.reader(query, "n1".into());
        flows.push((0..HISTORY as u64 + 7).map(flow));
        let first = read(&reader.next(&flows).await.expect("lines"));
        let lost = first[0].lost_events.as_ref().expect("a loss first");
        assert_eq!(lost.num_events_lost, 7);
        assert_eq!(first[1].time, axon_hubble::Time(7));
    }

    #[test]
    fn it_is_told_from_when_on_all_is_remembered() {
        let flows = Flows::new();
        flows.push((0..HISTORY as u64).map(flow));
        let whole = flows.observer();
        let started = axon_hubble::Time::parse(&whole.complete_since).expect("a time");
        assert!(started.0 > HISTORY as u64, "the agent's start: {whole:?}");
        flows.push([flow(HISTORY as u64)]);
        let cut = flows.observer();
        let oldest = axon_hubble::Time::parse(&cut.complete_since);
        assert_eq!(oldest, Some(axon_hubble::Time(1)));
        assert_eq!(
            (cut.current_flows, cut.max_flows, cut.seen_flows),
            (HISTORY as u64, HISTORY as u64, HISTORY as u64 + 1)
        );
    }

    #[tokio::test]
    async fn the_past_is_read_oldest_first_and_ends() {
        let flows = Flows::new();
        flows.push((0..10).map(flow));
        let query = Query::parse([("last", "3")]).expect("query");
        let mut reader = flows.reader(query, "n1".into());
        let times: Vec<u64> = read(&reader.next(&flows).await.expect("lines"))
            .iter()
            .map(|r| r.time.0)
            .collect();
        assert_eq!(times, [7, 8, 9]);
        assert!(reader.next(&flows).await.is_none());
    }
}
