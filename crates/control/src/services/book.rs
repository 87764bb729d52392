//! Numbers, each with a record of what it stands for, that outlive the agent.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What a number stands for.
pub(super) trait Record: Clone + PartialEq {
    /// By what it is found.
    type Key: Ord + Clone;

    /// By what it is found.
    fn key(&self) -> Self::Key;
}

/// Numbers with their records. A number is not given out again before the counter
/// has gone round, and never while its record is here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "BookFile<R>", into = "BookFile<R>")]
#[serde(bound(serialize = "R: Serialize", deserialize = "R: Deserialize<'de>"))]
pub(super) struct Book<R: Record> {
    /// The number given out last.
    last: u32,
    records: BTreeMap<u32, R>,
    index: BTreeMap<R::Key, u32>,
    /// Numbers whose records have changed since this was asked last.
    changed: BTreeSet<u32>,
    /// Counts changes.
    changes: u64,
}

/// A book on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct BookFile<R> {
    last: u32,
    records: BTreeMap<u32, R>,
}

/// How a book has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BookChange<R> {
    last: u32,
    /// Records by number; `None` where it was forgotten.
    records: BTreeMap<u32, Option<R>>,
}

impl<R> Default for BookChange<R> {
    fn default() -> Self {
        Self {
            last: 0,
            records: BTreeMap::new(),
        }
    }
}

impl<R> BookChange<R> {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl<R: Record> Default for Book<R> {
    fn default() -> Self {
        Self {
            last: 0,
            records: BTreeMap::new(),
            index: BTreeMap::new(),
            changed: BTreeSet::new(),
            changes: 0,
        }
    }
}

impl<R: Record> PartialEq for Book<R> {
    fn eq(&self, other: &Self) -> bool {
        self.last == other.last && self.records == other.records
    }
}

impl<R: Record> From<BookFile<R>> for Book<R> {
    fn from(file: BookFile<R>) -> Self {
        let records = file.records.iter();
        Self {
            last: file.last,
            index: records.map(|(n, record)| (record.key(), *n)).collect(),
            records: file.records,
            changed: BTreeSet::new(),
            changes: 0,
        }
    }
}

impl<R: Record> From<Book<R>> for BookFile<R> {
    fn from(book: Book<R>) -> Self {
        Self {
            last: book.last,
            records: book.records,
        }
    }
}

impl<R: Record> Book<R> {
    /// The number of what is found by this key: the one it has, or the next.
    pub(super) fn number_of(&mut self, key: &R::Key, new: impl FnOnce() -> R) -> u32 {
        if let Some(number) = self.index.get(key) {
            return *number;
        }
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.records.contains_key(&self.last) {
                break;
            }
        }
        self.index.insert(key.clone(), self.last);
        self.records.insert(self.last, new());
        self.note(self.last);
        self.last
    }

    /// Gives out none of the numbers up to this one any more.
    pub(super) fn reserve_through(&mut self, number: u32) {
        self.last = self.last.max(number);
    }

    pub(super) fn get(&self, number: u32) -> Option<&R> {
        self.records.get(&number)
    }

    /// Changes a record in what it is not found by.
    pub(super) fn change(&mut self, number: u32, change: impl FnOnce(&mut R)) {
        let Some(record) = self.records.get_mut(&number) else {
            return;
        };
        let before = record.clone();
        change(record);
        if *record != before {
            self.note(number);
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(record) = self.records.remove(&number) {
            self.index.remove(&record.key());
            self.note(number);
        }
    }

    fn note(&mut self, number: u32) {
        self.changed.insert(number);
        self.changes += 1;
    }

    /// How often anything has changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &R)> {
        self.records
            .iter()
            .map(|(number, record)| (*number, record))
    }

    pub(super) fn take_change(&mut self) -> BookChange<R> {
        let changed = std::mem::take(&mut self.changed);
        let record = |number: u32| (number, self.records.get(&number).cloned());
        BookChange {
            last: self.last,
            records: changed.into_iter().map(record).collect(),
        }
    }

    /// Has numbers stand for what they did in another life. Changes that it has
    /// seen before are no harm, if all that came after them come again too.
    pub(super) fn apply(&mut self, change: BookChange<R>) {
        if change.is_empty() {
            return;
        }
        for (number, record) in change.records {
            self.remove(number);
            let Some(record) = record else { continue };
            if let Some(other) = self.index.insert(record.key(), number) {
                self.records.remove(&other);
            }
            self.records.insert(number, record);
        }
        self.last = change.last;
        self.changed.clear();
    }
}
