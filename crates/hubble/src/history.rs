//! The last events, as the kernel told them, until somebody reads them.
//!
//! ```text
//! record + names of its moment ──> History (ring) ──> reader ──> flow
//! ```
//!
//! Whoever opens connections pays with the agent's time for each event: a flow is
//! made when it is read, which most never are.

use std::collections::VecDeque;
use std::sync::Arc;

use axon_abi::EventRecord;

use crate::{NameTable, Names, Read, Response, Ring, Time, decode};

/// Names of earlier moments that records may wait with. They share what is large,
/// but not all: what is older is made into flows.
const MOMENTS_MAX: usize = 4;

/// Something that was told: a record, or what is a response already.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A record, and the names of its moment.
    Record(EventRecord, Arc<NameTable>),
    /// A response.
    Response(Arc<Response>),
}

impl Entry {
    /// The response, made now if it was not.
    pub fn response(&self) -> Arc<Response> {
        match self {
            Self::Record(record, names) => {
                let flow = decode(record, names.as_ref());
                Arc::new(Response::flow(Arc::new(flow)))
            }
            Self::Response(response) => Arc::clone(response),
        }
    }

    /// When it was.
    pub fn time(&self) -> Time {
        match self {
            Self::Record(record, names) => names.time(record.time_ns),
            Self::Response(response) => response.time,
        }
    }
}

/// The last entries, numbered from 0 on.
#[derive(Debug)]
pub struct History {
    ring: Ring<Entry>,
    /// The names in use, oldest first, each with the number of its first record.
    moments: VecDeque<(Arc<NameTable>, u64)>,
}

impl History {
    /// A history of the last `capacity` entries (at least 1).
    pub fn new(capacity: usize) -> Self {
        Self {
            ring: Ring::new(capacity),
            moments: VecDeque::new(),
        }
    }

    /// Adds a record with the names of its moment.
    pub fn push_record(&mut self, record: &EventRecord, names: &Arc<NameTable>) {
        let is_new = !matches!(self.moments.back(), Some((last, _)) if Arc::ptr_eq(last, names));
        if is_new {
            self.begin(names);
        }
        self.ring.push(Entry::Record(*record, Arc::clone(names)));
    }

    /// Adds a response.
    pub fn push(&mut self, response: Response) {
        self.ring.push(Entry::Response(Arc::new(response)));
    }

    /// Takes up new names; records that came with names of long ago become flows.
    fn begin(&mut self, names: &Arc<NameTable>) {
        self.moments
            .push_back((Arc::clone(names), self.ring.next()));
        while self.moments.len() > MOMENTS_MAX {
            self.moments.pop_front();
            let Some((_, first_kept)) = self.moments.front() else {
                return;
            };
            let old = first_kept.saturating_sub(self.ring.oldest());
            let old = usize::try_from(old).unwrap_or(usize::MAX);
            for entry in self.ring.oldest_mut(old) {
                if matches!(entry, Entry::Record(..)) {
                    *entry = Entry::Response(entry.response());
                }
            }
        }
    }

    /// The number that the next entry will get: how many there have ever been.
    pub fn next(&self) -> u64 {
        self.ring.next()
    }

    /// How many entries are here.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// How many entries can be here.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// When the oldest entry here was, if others were before it.
    pub fn complete_since(&self) -> Option<Time> {
        if self.ring.oldest() == 0 {
            return None;
        }
        self.ring.iter().next().map(Entry::time)
    }

    /// The entries here, newest first.
    pub fn newest_first(&self) -> Vec<Entry> {
        self.ring.newest_first().cloned().collect()
    }

    /// At most `max` entries from `cursor` on, see [`Ring::read`].
    pub fn read(&self, cursor: u64, max: usize) -> Read<Entry> {
        self.ring.read(cursor, max)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axon_abi::EventRecord;

    use super::{Entry, History, MOMENTS_MAX};
    use crate::{NameTable, Time};

    fn record(time_ns: u64) -> EventRecord {
        EventRecord {
            time_ns,
            ..EventRecord::default()
        }
    }

    fn names(node: &str) -> Arc<NameTable> {
        Arc::new(NameTable {
            node: node.into(),
            ..NameTable::default()
        })
    }

    #[test]
    fn each_record_is_told_with_the_names_of_its_moment_and_few_names_are_kept() {
        let mut history = History::new(64);
        let moments: Vec<_> = (0..10).map(|n| names(&format!("n{n}"))).collect();
        for (n, names) in (0..).zip(&moments) {
            for m in 0..3 {
                history.push_record(&record(n * 3 + m), names);
            }
        }
        let kept = moments.iter().filter(|names| Arc::strong_count(names) > 1);
        assert_eq!(kept.count(), MOMENTS_MAX);
        let entries = history.read(0, 64).items;
        assert_eq!(entries.len(), 30);
        for (n, entry) in entries.iter().enumerate() {
            assert_eq!(entry.time(), Time(n as u64));
            let response = entry.response();
            assert_eq!(response.node_name.as_ref(), format!("n{}", n / 3));
            assert_eq!(response.time, Time(n as u64));
            let is_made = matches!(entry, Entry::Response(_));
            assert_eq!(is_made, n / 3 < 10 - MOMENTS_MAX, "{n}");
        }
    }

    #[test]
    fn names_that_come_back_and_records_that_have_left_harm_nothing() {
        let mut history = History::new(2);
        let [a, b] = [names("a"), names("b")];
        for n in 0..20 {
            history.push_record(&record(n), if n % 2 == 0 { &a } else { &b });
        }
        assert_eq!(history.complete_since(), Some(Time(18)));
        let told: Vec<_> = history.newest_first().iter().map(Entry::response).collect();
        let told: Vec<&str> = told.iter().map(|r| r.node_name.as_ref()).collect();
        assert_eq!(told, ["b", "a"]);
    }
}
