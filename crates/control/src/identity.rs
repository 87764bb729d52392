//! Numbers for sets of labels and for prefixes, where the cluster gives none.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::Identity;
use axon_model::Labels;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// No number is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} identity is left: all of {first} to {last} are in use")]
pub struct Exhausted {
    /// What kind of identity.
    pub kind: &'static str,
    /// The first number.
    pub first: u32,
    /// The last number.
    pub last: u32,
}

/// Numbers of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    kind: &'static str,
    first: u32,
    last: u32,
}

impl Range {
    /// Of sets of labels.
    pub(crate) const LABELS: Self = Self {
        kind: "label",
        first: Identity::CLUSTER_MIN.0,
        last: Identity::CLUSTER_MAX.0,
    };
    /// Of workloads that are told from others of their labels by where their
    /// addresses are. Another cluster would have these numbers only with the
    /// cluster id 255.
    pub(crate) const PLACES: Self = Self {
        kind: "place",
        first: 0x00ff_0100,
        last: 0x00ff_ffff,
    };
    /// Of prefixes outside the cluster. Cilium leaves the first number of the
    /// scope out.
    pub(crate) const PREFIXES: Self = Self {
        kind: "CIDR",
        first: Identity::LOCAL_MIN.0 + 1,
        last: 0x017f_ffff,
    };
    /// Of addresses outside the cluster that were given for names.
    pub(crate) const NAMES: Self = Self {
        kind: "DNS name",
        first: 0x0180_0000,
        last: Identity::LOCAL_MAX.0,
    };
    /// Of other nodes' addresses.
    pub(crate) const NODES: Self = Self {
        kind: "node",
        first: Identity::REMOTE_NODE_MIN.0 + 1,
        last: 0x027f_ffff,
    };
    /// Of other nodes by their labels.
    pub(crate) const NODE_LABELS: Self = Self {
        kind: "labelled node",
        first: 0x0280_0000,
        last: 0x02ff_ffff,
    };

    /// Whether a number is of this kind.
    pub(crate) fn holds(&self, id: Identity) -> bool {
        (self.first..=self.last).contains(&id.0)
    }
}

/// Numbers of sets of labels (256 to 65535), stable over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<u32, Labels>", into = "BTreeMap<u32, Labels>")]
pub struct LabelIdentities {
    by_labels: BTreeMap<Labels, u32>,
    by_number: BTreeMap<u32, Labels>,
    last: u32,
    /// Numbers given out and taken back since somebody asked.
    changed: BTreeSet<u32>,
}

impl From<BTreeMap<u32, Labels>> for LabelIdentities {
    fn from(by_number: BTreeMap<u32, Labels>) -> Self {
        Self {
            by_labels: by_number.iter().map(|(n, l)| (l.clone(), *n)).collect(),
            last: by_number.keys().next_back().copied().unwrap_or(0),
            by_number,
            changed: BTreeSet::new(),
        }
    }
}

impl From<LabelIdentities> for BTreeMap<u32, Labels> {
    fn from(identities: LabelIdentities) -> Self {
        identities.by_number
    }
}

impl LabelIdentities {
    /// The number given out last, and how many are in use: together they tell
    /// one state from the next.
    pub(crate) fn stamp(&self) -> (u32, usize) {
        (self.last, self.by_number.len())
    }

    /// The number of a set of labels: the one it has, or a new one, as late a
    /// reuse as possible.
    ///
    /// # Errors
    /// Every number is in use.
    pub fn allocate(&mut self, labels: &Labels) -> Result<Identity, Exhausted> {
        self.allocate_in(Range::LABELS, labels)
    }

    /// The same of numbers of another kind.
    pub(crate) fn allocate_in(
        &mut self,
        range: Range,
        labels: &Labels,
    ) -> Result<Identity, Exhausted> {
        if let Some(number) = self.by_labels.get(labels) {
            return Ok(Identity(*number));
        }
        let number = next_free(self.last, range, |n| self.by_number.contains_key(&n))?;
        self.last = number;
        self.by_labels.insert(labels.clone(), number);
        self.by_number.insert(number, labels.clone());
        self.changed.insert(number);
        Ok(Identity(number))
    }

    /// Takes in a number that a set of labels has had, unless either of them
    /// has another by now.
    pub(crate) fn adopt(&mut self, range: Range, id: Identity, labels: Labels) {
        let known = self.by_labels.contains_key(&labels) || self.by_number.contains_key(&id.0);
        if !known && range.holds(id) {
            self.by_labels.insert(labels.clone(), id.0);
            self.by_number.insert(id.0, labels);
            self.changed.insert(id.0);
            self.reserve(range, id);
        }
    }

    /// Has a number given out as late as possible: it may still have a meaning
    /// in the kernel. Numbers of other kinds are passed over.
    pub(crate) fn reserve(&mut self, range: Range, id: Identity) {
        if range.holds(id) {
            self.last = self.last.max(id.0);
        }
    }

    /// The number of a set of labels, if it has one.
    pub fn get(&self, labels: &Labels) -> Option<Identity> {
        self.by_labels.get(labels).copied().map(Identity)
    }

    /// The labels of a number.
    pub fn labels(&self, id: Identity) -> Option<&Labels> {
        self.by_number.get(&id.0)
    }

    /// Every number with its labels.
    pub fn iter(&self) -> impl Iterator<Item = (Identity, &Labels)> {
        self.by_number.iter().map(|(n, l)| (Identity(*n), l))
    }

    /// Takes a number back.
    pub fn release(&mut self, id: Identity) {
        if let Some(labels) = self.by_number.remove(&id.0) {
            self.by_labels.remove(&labels);
            self.changed.insert(id.0);
        }
    }

    /// The numbers given out and taken back since this was asked last, each with
    /// what it stands for now.
    pub(crate) fn take_changed(&mut self) -> BTreeMap<u32, Option<Labels>> {
        let changed = std::mem::take(&mut self.changed);
        let labels = |number: u32| (number, self.by_number.get(&number).cloned());
        changed.into_iter().map(labels).collect()
    }

    /// Has a number stand for these labels, or for none, as it did in another
    /// life.
    pub(crate) fn put(&mut self, number: u32, labels: Option<Labels>) {
        self.release(Identity(number));
        if let Some(labels) = labels {
            if let Some(other) = self.by_labels.insert(labels.clone(), number) {
                self.by_number.remove(&other);
            }
            self.by_number.insert(number, labels);
            self.last = self.last.max(number);
        }
        self.changed.clear();
    }
}

/// Numbers of prefixes outside the cluster (local scope), stable over
/// restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<u32, IpNet>", into = "BTreeMap<u32, IpNet>")]
pub struct CidrIdentities {
    by_prefix: BTreeMap<IpNet, u32>,
    by_number: BTreeMap<u32, IpNet>,
    last: u32,
    /// Numbers given out and taken back since somebody asked.
    changed: BTreeSet<u32>,
}

impl From<BTreeMap<u32, IpNet>> for CidrIdentities {
    fn from(by_number: BTreeMap<u32, IpNet>) -> Self {
        Self {
            by_prefix: by_number.iter().map(|(n, p)| (*p, *n)).collect(),
            last: by_number.keys().next_back().copied().unwrap_or(0),
            by_number,
            changed: BTreeSet::new(),
        }
    }
}

impl From<CidrIdentities> for BTreeMap<u32, IpNet> {
    fn from(identities: CidrIdentities) -> Self {
        identities.by_number
    }
}

impl CidrIdentities {
    /// The number given out last, and how many are in use: together they tell
    /// one state from the next.
    pub(crate) fn stamp(&self) -> (u32, usize) {
        (self.last, self.by_number.len())
    }

    /// The number of a prefix: the one it has, or a new one, as late a reuse
    /// as possible.
    ///
    /// # Errors
    /// Every number is in use.
    pub fn allocate(&mut self, prefix: IpNet) -> Result<Identity, Exhausted> {
        self.allocate_in(Range::PREFIXES, prefix)
    }

    /// The same of numbers of another kind.
    pub(crate) fn allocate_in(
        &mut self,
        range: Range,
        prefix: IpNet,
    ) -> Result<Identity, Exhausted> {
        let prefix = prefix.trunc();
        if let Some(number) = self.by_prefix.get(&prefix) {
            return Ok(Identity(*number));
        }
        let number = next_free(self.last, range, |n| self.by_number.contains_key(&n))?;
        self.last = number;
        self.by_prefix.insert(prefix, number);
        self.by_number.insert(number, prefix);
        self.changed.insert(number);
        Ok(Identity(number))
    }

    /// As [`LabelIdentities::reserve`].
    pub(crate) fn reserve(&mut self, range: Range, id: Identity) {
        if range.holds(id) {
            self.last = self.last.max(id.0);
        }
    }

    /// The number of a prefix, if it has one.
    pub fn get(&self, prefix: IpNet) -> Option<Identity> {
        self.by_prefix.get(&prefix.trunc()).copied().map(Identity)
    }

    /// The prefix of a number.
    pub fn prefix(&self, id: Identity) -> Option<IpNet> {
        self.by_number.get(&id.0).copied()
    }

    /// Every number with its prefix.
    pub fn iter(&self) -> impl Iterator<Item = (Identity, IpNet)> {
        self.by_number.iter().map(|(n, p)| (Identity(*n), *p))
    }

    /// Takes a number back.
    pub fn release(&mut self, id: Identity) {
        if let Some(prefix) = self.by_number.remove(&id.0) {
            self.by_prefix.remove(&prefix);
            self.changed.insert(id.0);
        }
    }

    /// As [`LabelIdentities::take_changed`].
    pub(crate) fn take_changed(&mut self) -> BTreeMap<u32, Option<IpNet>> {
        let changed = std::mem::take(&mut self.changed);
        let prefix = |number: u32| (number, self.by_number.get(&number).copied());
        changed.into_iter().map(prefix).collect()
    }

    /// As [`LabelIdentities::put`].
    pub(crate) fn put(&mut self, number: u32, prefix: Option<IpNet>) {
        self.release(Identity(number));
        if let Some(prefix) = prefix {
            if let Some(other) = self.by_prefix.insert(prefix, number) {
                self.by_number.remove(&other);
            }
            self.by_number.insert(number, prefix);
            self.last = self.last.max(number);
        }
        self.changed.clear();
    }
}

/// The first free number after `after`, going round.
fn next_free(after: u32, range: Range, used: impl Fn(u32) -> bool) -> Result<u32, Exhausted> {
    let Range { kind, first, last } = range;
    let start = after.saturating_add(1).clamp(first, last);
    let start = if after >= last { first } else { start };
    (start..=last)
        .chain(first..start)
        .find(|n| !used(*n))
        .ok_or(Exhausted { kind, first, last })
}
