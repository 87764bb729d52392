//! Numbers, each with a record of what it stands for, that outlive the agent.
//!
//! What was written down of one of them and makes no sense costs that one alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize, Serializer};

/// What a number stands for.
pub(super) trait Record: Clone + PartialEq {
    /// By what it is found.
    type Key: Ord + Clone;

    /// By what it is found.
    fn key(&self) -> Self::Key;
}

/// Numbers with their records. A number is not given out again before the counter
/// has gone round, and never while its record is here.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "BookRead<R>", bound = "R: Deserialize<'de>")]
pub(super) struct Book<R: Record> {
    /// The number given out last.
    last: u32,
    records: BTreeMap<u32, R>,
    index: BTreeMap<R::Key, u32>,
    /// Numbers that somebody may know for something else, without records.
    reserved: BTreeSet<u32>,
    /// Records that made no sense when they were read.
    lost: usize,
    /// Numbers whose records have changed since this was asked last.
    changed: BTreeSet<u32>,
    /// Counts changes.
    changes: u64,
}

/// A book on disk.
#[derive(Serialize)]
struct BookFile<'a, R> {
    last: u32,
    records: &'a BTreeMap<u32, R>,
}

/// The same, as it is read.
#[derive(Deserialize)]
#[serde(bound = "R: Deserialize<'de>")]
struct BookRead<R> {
    #[serde(default, deserialize_with = "lenient")]
    last: Option<u32>,
    #[serde(default, deserialize_with = "lenient")]
    records: Entries<R>,
}

/// What makes sense, or something else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Sense(T),
    Nonsense(IgnoredAny),
}

impl<T> Lenient<T> {
    fn sense(self) -> Option<T> {
        match self {
            Self::Sense(value) => Some(value),
            Self::Nonsense(_) => None,
        }
    }
}

/// Reads a value, or takes the default for one that makes no sense.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    let read = Lenient::<T>::deserialize(deserializer)?;
    Ok(read.sense().unwrap_or_default())
}

/// Records by their numbers' texts, each by itself.
#[derive(Deserialize)]
#[serde(transparent, bound = "R: Deserialize<'de>")]
struct Entries<R>(BTreeMap<String, Lenient<R>>);

impl<R> Default for Entries<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R> Entries<R> {
    /// Numbers, each with its record if that makes sense.
    fn numbers(self) -> impl Iterator<Item = (u32, Option<R>)> {
        let entries = self.0.into_iter();
        entries.filter_map(|(number, record)| Some((number.parse().ok()?, record.sense())))
    }
}

/// How a book has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "R: Deserialize<'de>"))]
pub(super) struct BookChange<R> {
    /// 0 if it made no sense when it was read.
    #[serde(deserialize_with = "lenient")]
    last: u32,
    /// Records by number; `None` where it was forgotten, or makes no sense.
    #[serde(deserialize_with = "changed")]
    records: BTreeMap<u32, Option<R>>,
}

fn changed<'de, D, R>(deserializer: D) -> Result<BTreeMap<u32, Option<R>>, D::Error>
where
    D: Deserializer<'de>,
    R: Deserialize<'de>,
{
    let entries = Entries::<Option<R>>::deserialize(deserializer)?;
    let numbers = entries.numbers();
    Ok(numbers.map(|(n, record)| (n, record.flatten())).collect())
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
            reserved: BTreeSet::new(),
            lost: 0,
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

impl<R: Record> From<BookRead<R>> for Book<R> {
    fn from(file: BookRead<R>) -> Self {
        let mut book = Self::default();
        let mut greatest = 0;
        for (number, record) in file.records.numbers() {
            greatest = greatest.max(number);
            match record {
                Some(record) => book.put(number, record),
                None => {
                    book.lost += 1;
                    book.reserved.insert(number);
                }
            }
        }
        book.last = file.last.unwrap_or(greatest);
        book
    }
}

impl<R: Record + Serialize> Serialize for Book<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = BookFile {
            last: self.last,
            records: &self.records,
        };
        file.serialize(serializer)
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
            if !(self.records.contains_key(&self.last) || self.reserved.contains(&self.last)) {
                break;
            }
        }
        self.index.insert(key.clone(), self.last);
        self.records.insert(self.last, new());
        self.note(self.last);
        self.last
    }

    /// Gives none of these numbers out, and goes on after the greatest of them. One
    /// that is out of all reason has the counter go round, and no more.
    pub(super) fn reserve(&mut self, numbers: BTreeSet<u32>) {
        self.last = self.last.max(numbers.last().copied().unwrap_or(0));
        self.reserved.extend(numbers);
    }

    /// How many records made no sense when they were read.
    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    /// Has a number stand for something, and no other number for the same.
    fn put(&mut self, number: u32, record: R) {
        if let Some(other) = self.index.insert(record.key(), number) {
            self.records.remove(&other);
        }
        self.records.insert(number, record);
    }

    pub(super) fn get(&self, number: u32) -> Option<&R> {
        self.records.get(&number)
    }

    /// Changes a record in what it is not found by; the change says whether it is one.
    /// Hands back the record.
    pub(super) fn change(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut R) -> bool,
    ) -> Option<&R> {
        let record = self.records.get_mut(&number)?;
        if change(record) {
            self.changed.insert(number);
            self.changes += 1;
        }
        Some(record)
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

    /// Forgets what has changed: all of it is told.
    pub(super) fn forget_change(&mut self) {
        self.changed.clear();
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
        let greatest = change.records.keys().last().copied().unwrap_or(0);
        self.last = match change.last {
            0 => self.last.max(greatest),
            last => last,
        };
        for (number, record) in change.records {
            self.remove(number);
            if let Some(record) = record {
                self.put(number, record);
            }
        }
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::{Deserialize, Serialize};

    use super::{Book, BookChange, Record};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Name {
        name: String,
    }

    impl Record for Name {
        type Key = String;

        fn key(&self) -> String {
            self.name.clone()
        }
    }

    fn book(text: &str) -> Book<Name> {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn names(book: &Book<Name>) -> Vec<(u32, &str)> {
        book.iter().map(|(n, r)| (n, r.name.as_str())).collect()
    }

    fn number(book: &mut Book<Name>, name: &str) -> u32 {
        let new = || Name {
            name: name.to_owned(),
        };
        book.number_of(&name.to_owned(), new)
    }

    #[test]
    fn one_record_that_makes_no_sense_loses_no_other() {
        let all = r#"{"last":3,"records":{"1":{"name":"a"},"2":{"name":7},"x":{"name":"b"},
            "3":{"name":"c"},"4":[1],"5":{"name":"e"}}}"#;
        let mut read = book(all);
        assert_eq!(names(&read), [(1, "a"), (3, "c"), (5, "e")]);
        assert_eq!(read.lost(), 2);
        assert_eq!(
            number(&mut read, "f"),
            6,
            "somebody may know 4, and 5 is taken"
        );
        assert_eq!(number(&mut read, "c"), 3);
        // Without a counter, after the greatest of all.
        for last in [r#""last":"?","#, r#""last":null,"#, ""] {
            let mut read = book(&format!(
                r#"{{{last}"records":{{"8":{{"name":"a"}},"9":1}}}}"#
            ));
            assert_eq!(number(&mut read, "b"), 10, "{last}");
        }
        let mut read = book(r#"{"last":7,"records":"none"}"#);
        assert!(names(&read).is_empty());
        assert_eq!(number(&mut read, "a"), 8);
    }

    #[test]
    fn a_change_that_makes_no_sense_in_one_record_tells_of_the_others() {
        let mut read = book(r#"{"last":2,"records":{"1":{"name":"a"},"2":{"name":"b"}}}"#);
        let line = r#"{"last":4,"records":{"1":null,"2":"?","3":{"name":"c"},"y":{"name":"d"}}}"#;
        let change: BookChange<Name> = serde_json::from_str(line).expect("a change");
        read.apply(change);
        assert_eq!(
            names(&read),
            [(3, "c")],
            "what 2 stands for now is not known"
        );
        assert_eq!(number(&mut read, "e"), 5);
    }

    #[test]
    fn two_numbers_never_stand_for_one_thing() {
        let read = book(r#"{"last":2,"records":{"1":{"name":"a"},"2":{"name":"a"}}}"#);
        assert_eq!(names(&read), [(2, "a")]);
    }

    #[test]
    fn one_number_out_of_all_reason_has_no_other_be_given_again() {
        let mut book = Book::<Name>::default();
        book.reserve(BTreeSet::from([1, 2, u32::MAX]));
        assert_eq!(number(&mut book, "a"), 3);
        assert_eq!(number(&mut book, "b"), 4);
        let mut book = Book::<Name>::default();
        book.reserve(BTreeSet::from([5, 9]));
        assert_eq!(number(&mut book, "a"), 10);
    }
}
