//! What may have become of earlier connections.
//!
//! Chance decides, so a client has several pasts. At a frontend with affinity
//! what comes next depends on them; elsewhere it does not.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{AffinityEntry, ServiceClient};

use super::way::{Open, Way};

/// Pasts of one client at most: with more, nothing is said for certain of one
/// probe beside another.
const HISTORIES_MAX: usize = 10_000;

/// A client at a node's service.
pub(super) type Key = (String, ServiceClient);

/// One of a client's pasts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct History {
    /// Backend and time of his last connection.
    entry: Option<(u32, u32)>,
    /// Who answered which probe.
    answered: BTreeMap<String, Option<String>>,
}

impl History {
    /// The row that affinity has of it.
    pub(super) fn entry(&self) -> Option<AffinityEntry> {
        self.entry
            .map(|(backend, last_s)| AffinityEntry { backend, last_s })
    }

    /// The same past with one connection more.
    pub(super) fn with(&self, way: &Way, id: Option<&str>) -> Self {
        let mut next = self.clone();
        next.entry = way.after.map(|(_, entry)| (entry.backend, entry.last_s));
        if let Some(id) = id {
            let who = way.outcome.who().map(str::to_owned);
            next.answered.insert(id.to_owned(), who);
        }
        next
    }
}

/// What is known of one probe's answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    /// Who may have answered.
    pub(super) who: BTreeSet<Option<String>>,
    /// The client whose pasts know who did.
    pub(super) key: Option<Key>,
}

/// All that may have been.
#[derive(Debug, Default)]
pub(super) struct Pasts {
    clients: BTreeMap<Key, BTreeSet<History>>,
    answered: BTreeMap<String, Answered>,
    pub(super) open: BTreeMap<String, Vec<Open>>,
}

/// How two probes' backends are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Must,
    May,
    MustNot,
}

impl Relation {
    /// The word for it.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::May => "may",
            Self::MustNot => "must_not",
        }
    }

    /// What holds of all these pairs; nothing if somebody was not answered.
    fn of<'a>(
        pairs: impl Iterator<Item = (&'a Option<String>, &'a Option<String>)>,
    ) -> Option<Self> {
        let (mut same, mut other) = (false, false);
        for (one, two) in pairs {
            let (one, two) = (one.as_ref()?, two.as_ref()?);
            same |= one == two;
            other |= one != two;
        }
        match (same, other) {
            (true, false) => Some(Self::Must),
            (false, true) => Some(Self::MustNot),
            (true, true) => Some(Self::May),
            (false, false) => None,
        }
    }
}

impl Pasts {
    /// The pasts of a client.
    pub(super) fn of(&self, key: &Key) -> BTreeSet<History> {
        let known = self.clients.get(key).cloned();
        known.unwrap_or_else(|| BTreeSet::from([History::default()]))
    }

    /// Puts others in their place.
    pub(super) fn set(&mut self, key: Key, histories: BTreeSet<History>) {
        let histories = if histories.len() > HISTORIES_MAX {
            let entries = histories.into_iter().map(|history| History {
                answered: BTreeMap::new(),
                ..history
            });
            entries.collect()
        } else {
            histories
        };
        self.clients.insert(key, histories);
    }

    /// Keeps who answered a probe.
    pub(super) fn keep(&mut self, id: &str, answered: Answered) {
        self.answered.insert(id.to_owned(), answered);
    }

    /// How the backends of two probes are to each other; nothing if one of them
    /// was not answered. What is not of one client's past is independent.
    pub(super) fn relation(&self, earlier: &str, later: &str) -> Option<Relation> {
        let (one, two) = (self.answered.get(earlier)?, self.answered.get(later)?);
        if one.key.is_some() && one.key == two.key {
            let histories = one.key.as_ref().and_then(|key| self.clients.get(key));
            let histories = histories.into_iter().flatten();
            let pairs: Option<Vec<_>> = histories
                .map(|h| h.answered.get(earlier).zip(h.answered.get(later)))
                .collect();
            if let Some(pairs) = pairs {
                return Relation::of(pairs.into_iter());
            }
        }
        let pairs = one.who.iter();
        Relation::of(pairs.flat_map(|who| two.who.iter().map(move |other| (who, other))))
    }
}
