//! Numbers of service ports, backends and lists, and their generations.
//!
//! What stands in rows that outlive the agent is on disk before: [`Numbers`] is
//! kept whole and by its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::IpAddr;

use axon_model::Protocol;
use serde::{Deserialize, Serialize};

use super::book::{Book, BookChange, Record, lenient};
use super::digest::Digest;

/// Milliseconds for which a number that nobody has is kept in any case: who was
/// just choosing has written down by then what he chose.
pub const KEPT_MS: u64 = 60_000;
/// The longest time between two questions whether the kernel knows one still.
const ASKED_MS_MAX: u64 = 60 * 60 * 1000;

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PortRecord {
    name: String,
    /// That of its rows.
    generation: u32,
    /// A digest of these rows.
    content: Digest,
    /// Whether it is nobody's at present.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
}

impl Record for PortRecord {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// A backend of a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BackendRecord {
    service: u32,
    addr: IpAddr,
    port: u16,
    /// How often it has come back.
    generation: u32,
    /// Whether it is nobody's at present.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
}

impl Record for BackendRecord {
    type Key = (u32, IpAddr, u16);

    fn key(&self) -> Self::Key {
        (self.service, self.addr, self.port)
    }
}

/// A digest of a list, or of a table over one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Content(Digest);

impl Record for Content {
    type Key = Digest;

    fn key(&self) -> Digest {
        self.0
    }
}

/// A number that may stand in what the kernel remembers: connections, sockets,
/// affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remembered {
    /// That of a service's port.
    Port(u32),
    /// A backend's id.
    Backend(u32),
}

/// The numbers that rows in the kernel name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenNumbers {
    /// Of services' ports.
    pub ports: BTreeSet<u32>,
    /// Of backends.
    pub backends: BTreeSet<u32>,
    /// Of lists.
    pub lists: BTreeSet<u32>,
    /// Of Maglev tables.
    pub tables: BTreeSet<u32>,
    /// Generations of frontends.
    pub generations: BTreeSet<u32>,
}

/// Somebody who is gone.
#[derive(Clone, Copy, Debug)]
struct Gone {
    /// When the kernel is asked whether it knows him.
    due_ms: u64,
    /// How long that was put off last.
    wait_ms: u64,
}

/// What has which number.
///
/// A number stands for one thing as long as anybody may know it: what has gone is
/// kept until [`forget`](Self::forget), and what comes back before has the same
/// number under another generation. A list with other content is another list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    #[serde(deserialize_with = "lenient")]
    ports: Book<PortRecord>,
    #[serde(deserialize_with = "lenient")]
    backends: Book<BackendRecord>,
    #[serde(deserialize_with = "lenient")]
    lists: Book<Content>,
    #[serde(deserialize_with = "lenient")]
    tables: Book<Content>,
    /// The last generation of a port's rows. One is never that of two contents,
    /// whoever's they are.
    #[serde(deserialize_with = "lenient")]
    generation: u32,
    /// Generations that rows of another life have.
    #[serde(skip)]
    generations: BTreeSet<u32>,
    /// Who is gone.
    #[serde(skip)]
    gone: BTreeMap<Remembered, Gone>,
    /// The same by when the kernel is asked.
    #[serde(skip)]
    due: BTreeSet<(u64, Remembered)>,
}

impl PartialEq for Numbers {
    fn eq(&self, other: &Self) -> bool {
        let of = |n: &Self| n.generation;
        of(self) == of(other)
            && self.ports == other.ports
            && self.backends == other.backends
            && self.lists == other.lists
            && self.tables == other.tables
    }
}

impl Eq for Numbers {}

/// How [`Numbers`] have changed: as large as what has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumbersChange {
    #[serde(
        skip_serializing_if = "BookChange::is_empty",
        deserialize_with = "lenient"
    )]
    ports: BookChange<PortRecord>,
    #[serde(
        skip_serializing_if = "BookChange::is_empty",
        deserialize_with = "lenient"
    )]
    backends: BookChange<BackendRecord>,
    #[serde(
        skip_serializing_if = "BookChange::is_empty",
        deserialize_with = "lenient"
    )]
    lists: BookChange<Content>,
    #[serde(
        skip_serializing_if = "BookChange::is_empty",
        deserialize_with = "lenient"
    )]
    tables: BookChange<Content>,
    #[serde(deserialize_with = "lenient")]
    generation: u32,
}

impl NumbersChange {
    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
            && self.backends.is_empty()
            && self.lists.is_empty()
            && self.tables.is_empty()
    }
}

/// A port's name as people read it: of `Service shop/cart/http/6` it is
/// `shop/cart:http`. Other objects keep their kind.
fn shown(name: &str) -> String {
    let name = name.strip_prefix("Service ").unwrap_or(name);
    let parts = name.rsplit_once('/');
    let parts = parts.and_then(|(rest, _protocol)| rest.rsplit_once('/'));
    match parts {
        Some((owner, "")) => owner.to_owned(),
        Some((owner, port)) => format!("{owner}:{port}"),
        None => name.to_owned(),
    }
}

impl Numbers {
    /// The number of a service's port.
    pub(super) fn port(&mut self, owner: &str, name: &str, protocol: Protocol) -> u32 {
        let name = format!("{owner}/{name}/{}", protocol.0);
        let number = self.ports.number_of(&name, || PortRecord {
            name: name.clone(),
            ..PortRecord::default()
        });
        self.ports
            .change(number, |port| std::mem::take(&mut port.gone));
        self.is_back(Remembered::Port(number));
        number
    }

    /// The id of a backend of a service's port, and how often he has come back: under
    /// his id may be somebody else now if he was gone.
    pub(super) fn backend(&mut self, service: u32, addr: IpAddr, port: u16) -> (u32, u32) {
        let id = self
            .backends
            .number_of(&(service, addr, port), || BackendRecord {
                service,
                addr,
                port,
                generation: 0,
                gone: false,
            });
        let record = self.backends.change(id, |backend| {
            let was_gone = std::mem::take(&mut backend.gone);
            backend.generation = backend.generation.wrapping_add(u32::from(was_gone));
            was_gone
        });
        let generation = record.map_or(0, |record| record.generation);
        self.is_back(Remembered::Backend(id));
        (id, generation)
    }

    fn is_back(&mut self, number: Remembered) {
        if let Some(gone) = self.gone.remove(&number) {
            self.due.remove(&(gone.due_ms, number));
        }
    }

    /// Gives none of the numbers that rows in the kernel name another meaning, also
    /// where it is not known what they stand for.
    pub(crate) fn reserve(&mut self, seen: SeenNumbers) {
        self.ports.reserve(seen.ports);
        self.backends.reserve(seen.backends);
        self.lists.reserve(seen.lists);
        self.tables.reserve(seen.tables);
        let greatest = seen.generations.last().copied().unwrap_or(0);
        self.generation = self.generation.max(greatest);
        self.generations.extend(seen.generations);
    }

    /// How many records made no sense when these were read.
    pub fn lost(&self) -> usize {
        self.ports.lost() + self.backends.lost() + self.lists.lost() + self.tables.lost()
    }

    /// What ports are called, by number.
    pub(super) fn port_names(&self) -> BTreeMap<u32, String> {
        let ports = self.ports.iter();
        ports
            .map(|(number, port)| (number, shown(&port.name)))
            .collect()
    }

    /// When the kernel is to be asked whether it knows somebody still who is gone
    /// ([`forget`](Self::forget)); `None` while nobody is.
    pub fn forget_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// The number of a list.
    pub(super) fn list(&mut self, backends: &[u32]) -> u32 {
        let content = Digest::of(&backends);
        self.lists.number_of(&content, || Content(content))
    }

    /// The number of a table over a list with weights.
    pub(super) fn table(&mut self, backends: &[(u32, u16)], size: u32) -> u32 {
        let content = Digest::of(&(backends, size));
        self.tables.number_of(&content, || Content(content))
    }

    /// The generation of a port's rows: the one they have, or the next if their
    /// content is another.
    pub(super) fn generation(&mut self, port: u32, content: &impl Hash) -> u32 {
        let content = Digest::of(content);
        if let Some(known) = self.ports.get(port).filter(|p| p.content == content) {
            return known.generation;
        }
        loop {
            self.generation = self.generation.wrapping_add(1).max(1);
            if !self.generations.contains(&self.generation) {
                break;
            }
        }
        let generation = self.generation;
        self.ports.change(port, |port| {
            port.generation = generation;
            port.content = content;
            true
        });
        generation
    }

    /// The generation that a port's rows had last.
    pub(super) fn last_generation(&self, port: u32) -> u32 {
        self.ports.get(port).map_or(0, |record| record.generation)
    }

    /// Says that a port or a backend is nobody's any more.
    pub(super) fn retire(&mut self, number: Remembered, now_ms: u64) {
        match number {
            Remembered::Port(port) => {
                self.ports.change(port, |port| {
                    let content = std::mem::take(&mut port.content);
                    !std::mem::replace(&mut port.gone, true) || content != Digest::default()
                });
            }
            Remembered::Backend(id) => {
                let goes =
                    |backend: &mut BackendRecord| !std::mem::replace(&mut backend.gone, true);
                self.backends.change(id, goes);
            }
        }
        if !self.gone.contains_key(&number) {
            self.put_off(now_ms, number, KEPT_MS);
        }
    }

    /// Has the kernel be asked about somebody who is gone, in so long.
    fn put_off(&mut self, now_ms: u64, number: Remembered, wait_ms: u64) {
        let due_ms = now_ms.saturating_add(wait_ms);
        let gone = Gone { due_ms, wait_ms };
        if let Some(before) = self.gone.insert(number, gone) {
            self.due.remove(&(before.due_ms, number));
        }
        self.due.insert((due_ms, number));
    }

    /// Every port and backend that has a number.
    pub(super) fn remembered(&self) -> impl Iterator<Item = Remembered> {
        let ports = self
            .ports
            .iter()
            .map(|(number, _)| Remembered::Port(number));
        let backends = self.backends.iter();
        ports.chain(backends.map(|(id, _)| Remembered::Backend(id)))
    }

    /// Forgets a list's number. The list itself may be in the kernel for a while.
    pub(super) fn drop_list(&mut self, list: u32) {
        self.lists.remove(list);
    }

    /// The same of a table's.
    pub(super) fn drop_table(&mut self, table: u32) {
        self.tables.remove(table);
    }

    pub(super) fn list_numbers(&self) -> impl Iterator<Item = u32> {
        self.lists.iter().map(|(number, _)| number)
    }

    pub(super) fn table_numbers(&self) -> impl Iterator<Item = u32> {
        self.tables.iter().map(|(number, _)| number)
    }

    /// Forgets who has been gone for [`KEPT_MS`] and of whom the kernel knows
    /// nothing. A port is known as long as one of its backends is. Who is known
    /// still is asked about later, each time after twice as long.
    pub fn forget(&mut self, now_ms: u64, is_in_kernel: impl Fn(Remembered) -> bool) {
        let due = self.due.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        let due: Vec<Remembered> = due.map(|(_, number)| *number).collect();
        let (known, unknown): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|number| is_in_kernel(*number));
        for number in &unknown {
            if let Remembered::Backend(id) = number {
                self.backends.remove(*id);
                self.is_back(*number);
            }
        }
        let backends = self.backends.iter();
        let kept: BTreeSet<u32> = backends.map(|(_, known)| known.service).collect();
        let mut late = known;
        for number in unknown {
            match number {
                Remembered::Backend(_) => {}
                Remembered::Port(port) if kept.contains(&port) => late.push(number),
                Remembered::Port(port) => {
                    self.ports.remove(port);
                    self.is_back(number);
                }
            }
        }
        for number in late {
            let waited_ms = self.gone.get(&number).map_or(KEPT_MS, |gone| gone.wait_ms);
            let wait_ms = waited_ms.saturating_mul(2).min(ASKED_MS_MAX);
            self.put_off(now_ms, number, wait_ms);
        }
    }

    /// Tells one state from the next without comparing everything.
    pub(crate) fn stamp(&self) -> u64 {
        let books = (&self.ports, &self.backends, &self.lists, &self.tables);
        books.0.changes() + books.1.changes() + books.2.changes() + books.3.changes()
    }

    /// What has changed since this was asked last.
    pub fn take_change(&mut self) -> NumbersChange {
        NumbersChange {
            ports: self.ports.take_change(),
            backends: self.backends.take_change(),
            lists: self.lists.take_change(),
            tables: self.tables.take_change(),
            generation: self.generation,
        }
    }

    /// Says that all of these are being kept, so that no change of before has to be.
    pub fn forget_change(&mut self) {
        self.ports.forget_change();
        self.backends.forget_change();
        self.lists.forget_change();
        self.tables.forget_change();
    }

    /// Carries out a change of another life.
    pub fn apply(&mut self, change: NumbersChange) {
        if !change.is_empty() && change.generation != 0 {
            self.generation = change.generation;
        }
        self.ports.apply(change.ports);
        self.backends.apply(change.backends);
        self.lists.apply(change.lists);
        self.tables.apply(change.tables);
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn ports_have_names_that_people_read() {
        for (name, expected) in [
            ("Service shop/cart/http/6", "shop/cart:http"),
            ("Service shop/cart//17", "shop/cart"),
            ("Pod shop/cart-1/8080/6", "Pod shop/cart-1:8080"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(shown(name), expected);
        }
    }
}
