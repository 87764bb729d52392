//! The incremental way: what changes is asked again, and only rows that follow
//! from it are touched.
//!
//! ```text
//! change ─> objects to ask again ─> what each asks for ─┬─> rows that are its alone
//!                                                       └─> claims ─> whose ─> frontends ─> generations
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{FrontendKind, ServiceEntry, ServiceFlags, ServiceKey};
use axon_model::{EndpointSlice, LocalRedirect, Node, ObjectKey, Pod, Protocol, Service};

use super::asked::{Asked, Claimed, Kind, Object, Over, PortRows, Rank, Step, What, taken};
use super::frontends::key;
use super::index::Multi;
use super::known::Known;
use super::numbers::Remembered;
use super::tables::{Pending, ServiceTables, differ, differ_in};
use super::{Cluster, HealthCheck, Numbers, Report, ServicesConfig};

/// Services of a node, kept up with changes.
///
/// Nothing is written before [`mark_complete`](Self::mark_complete): of a cluster
/// that is known in part, lists would lack backends that are there.
#[derive(Debug)]
pub struct Engine {
    known: Known,
    is_complete: bool,
    /// Whether numbers of another life were looked through.
    is_adopted: bool,
    turns: BTreeMap<Object, Turn>,
    claims: Multi<Claimed, Arc<Rank>>,
    overs: Multi<ServiceKey, Arc<Rank>>,
    /// How many claim an address as a whole, and how many of these from inside too.
    wholes: BTreeMap<ServiceKey, (u32, u32)>,
    /// Frontends without their generations.
    frontends: BTreeMap<ServiceKey, Frontend>,
    tables: ServiceTables,
}

/// How much a step had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// Objects that were asked again.
    pub objects: usize,
    /// Rows that are others now.
    pub rows: usize,
}

/// An object's turn.
#[derive(Debug)]
struct Turn {
    rank: Arc<Rank>,
    asked: Asked,
    got: Got,
}

/// What an object got of what it claims.
#[derive(Clone, Debug, Default, PartialEq)]
struct Got {
    frontends: BTreeMap<ServiceKey, ServiceEntry>,
    /// Addresses as a whole, and whether that is from the network alone.
    wholes: BTreeMap<ServiceKey, bool>,
    health: BTreeMap<u16, HealthCheck>,
    reports: BTreeMap<(String, String), Report>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Frontend {
    entry: ServiceEntry,
    /// The port that a redirection took the place of.
    before: u32,
}

/// What is left to do in a step.
#[derive(Default)]
struct Work {
    pending: Pending,
    /// Who had what is claimed anew.
    owners: BTreeMap<Claimed, Option<Arc<Rank>>>,
    /// Who gets what has to be seen.
    unsettled: BTreeSet<Object>,
    /// Frontends to put together.
    frontends: BTreeSet<ServiceKey>,
    /// Whose rows may have another generation.
    unstamped: BTreeSet<Arc<Rank>>,
    /// Who asks for nothing any more.
    gone: Vec<Object>,
}

impl Engine {
    /// An engine that knows nothing.
    pub fn new(node: &str, config: ServicesConfig, makes_slices: bool) -> Self {
        Self {
            known: Known::new(node, config, makes_slices),
            is_complete: false,
            is_adopted: false,
            turns: BTreeMap::new(),
            claims: Multi::default(),
            overs: Multi::default(),
            wholes: BTreeMap::new(),
            frontends: BTreeMap::new(),
            tables: ServiceTables::default(),
        }
    }

    /// The rows.
    pub fn tables(&self) -> &ServiceTables {
        &self.tables
    }

    /// What is known of the cluster.
    pub fn cluster(&self) -> &Cluster {
        self.known.cluster()
    }

    /// A service as it is now; none: it has gone.
    pub fn set_service(&mut self, key: &ObjectKey, service: Option<Arc<Service>>) {
        self.known.service(key, service);
    }

    /// The same of a slice.
    pub fn set_slice(&mut self, key: &ObjectKey, slice: Option<Arc<EndpointSlice>>) {
        self.known.slice(key, slice);
    }

    /// The same of a pod.
    pub fn set_pod(&mut self, key: &ObjectKey, pod: Option<Arc<Pod>>) {
        self.known.pod(key, pod);
    }

    /// The same of a node.
    pub fn set_node(&mut self, name: &str, node: Option<Arc<Node>>) {
        self.known.node(name, node);
    }

    /// The same of a redirection.
    pub fn set_redirect(&mut self, key: &ObjectKey, redirect: Option<Arc<LocalRedirect>>) {
        self.known.redirect(key, redirect);
    }

    /// The ports of this node that processes listen at.
    pub fn set_listeners(&mut self, listeners: BTreeSet<(Protocol, u16)>) {
        self.known.listeners(listeners);
    }

    /// Says that all objects of all kinds have been told of: from now on absence
    /// means something.
    pub fn mark_complete(&mut self) {
        self.is_complete = true;
    }

    /// Brings the rows up to date. The numbers are those of all steps before, of
    /// this engine and of those that were before it.
    pub fn step(&mut self, now_ms: u64, numbers: &mut Numbers) -> Stepped {
        if !self.is_complete {
            return Stepped::default();
        }
        let dirty = std::mem::take(&mut self.known.dirty);
        let mut work = Work::default();
        for object in &dirty {
            let asked = self.known.asked(object, numbers);
            self.ask(&mut work, object, (asked, now_ms), numbers);
        }
        self.look_at_owners(&mut work);
        for object in std::mem::take(&mut work.unsettled) {
            self.settle(&mut work, &object);
        }
        for key in std::mem::take(&mut work.frontends) {
            self.put_together(&mut work, key);
        }
        while let Some(rank) = work.unstamped.pop_first() {
            self.stamp(&mut work, &rank, numbers);
        }
        for object in &work.gone {
            self.turns.remove(object);
        }
        if !std::mem::replace(&mut self.is_adopted, true) {
            self.retire_unknown(now_ms, numbers);
            self.mark_tables_complete(std::mem::take(&mut work.pending), dirty.len())
        } else {
            Stepped {
                objects: dirty.len(),
                rows: work.pending.write(&self.tables),
            }
        }
    }

    fn mark_tables_complete(&self, pending: Pending, objects: usize) -> Stepped {
        let rows = pending.write(&self.tables);
        let tables = &self.tables;
        tables.services.mark_complete();
        tables.lists.mark_complete();
        tables.maglev.mark_complete();
        tables.backends.mark_complete();
        tables.ranges.mark_complete();
        tables.skips.mark_complete();
        tables.health.mark_complete();
        tables.reports.mark_complete();
        Stepped { objects, rows }
    }

    /// Takes in what an object asks for now.
    fn ask(
        &mut self,
        work: &mut Work,
        object: &Object,
        (asked, now_ms): (Option<(Rank, Asked)>, u64),
        numbers: &mut Numbers,
    ) {
        let nobody = || Rank {
            created: String::new(),
            object: object.clone(),
        };
        let (rank, asked) = asked.unwrap_or_else(|| (nobody(), Asked::default()));
        let asks = asked != Asked::default();
        let old = self.turns.get_mut(object);
        let is_same = |old: &Turn| *old.rank == rank && old.asked == asked;
        // Who asks for nothing and did not before has no turn.
        if old.as_deref().map_or(!asks, is_same) {
            return;
        }
        let new = Arc::new(rank);
        let (old_asked, old_rank) = match old {
            Some(turn) => (
                std::mem::take(&mut turn.asked),
                std::mem::replace(&mut turn.rank, Arc::clone(&new)),
            ),
            None => (Asked::default(), Arc::clone(&new)),
        };
        let rank = new;
        for (asked, rank, is_there) in [(&old_asked, &old_rank, false), (&asked, &rank, true)] {
            for claimed in asked.steps.iter().filter_map(Step::claimed) {
                let owner = || self.claims.first(&claimed).cloned();
                work.owners.entry(claimed).or_insert_with(owner);
                self.claims.set(claimed, Arc::clone(rank), is_there);
            }
            for key in asked.overs.keys() {
                self.overs.set(*key, Arc::clone(rank), is_there);
                work.frontends.insert(*key);
            }
        }
        let pending = &mut work.pending;
        differ(&mut pending.lists, &old_asked.lists, &asked.lists);
        differ(&mut pending.maglev, &old_asked.maglev, &asked.maglev);
        differ(&mut pending.backends, &old_asked.backends, &asked.backends);
        differ_in(&mut pending.ranges, &old_asked.ranges, &asked.ranges);
        differ_in(&mut pending.skips, &old_asked.skips, &asked.skips);
        retire(&old_asked, &asked, numbers, now_ms);
        work.unsettled.insert(object.clone());
        if !asks {
            work.gone.push(object.clone());
        }
        match self.turns.get_mut(object) {
            Some(turn) => turn.asked = asked,
            None => {
                let got = Got::default();
                let turn = Turn { rank, asked, got };
                self.turns.insert(object.clone(), turn);
            }
        }
    }

    /// Where something has another owner, everybody who claims it is told.
    fn look_at_owners(&self, work: &mut Work) {
        for (claimed, before) in std::mem::take(&mut work.owners) {
            if self.claims.first(&claimed) != before.as_ref() {
                for rank in self.claims.get(&claimed) {
                    if !work.unsettled.contains(&rank.object) {
                        work.unsettled.insert(rank.object.clone());
                    }
                }
            }
            if let Claimed::Frontend(key) = claimed {
                work.frontends.insert(key);
            }
        }
    }

    /// What an object gets of what it claims.
    fn got(claims: &Multi<Claimed, Arc<Rank>>, turn: &Turn) -> Got {
        let mut got = Got::default();
        for step in &turn.asked.steps {
            let mut report = |reason: String| {
                let name = turn.rank.object.name();
                let at = (name.clone(), step.field.clone());
                got.reports.entry(at).or_insert_with(|| Report {
                    object: name,
                    field: step.field.clone(),
                    reason,
                });
            };
            if let Some(claimed) = step.claimed()
                && let Some(owner) = claims.first(&claimed)
                && *owner != turn.rank
            {
                report(taken(claimed, &owner.object.name()));
                continue;
            }
            match &step.what {
                What::Wrong(reason) => report(reason.clone()),
                What::Health { port, check } => {
                    got.health.entry(*port).or_insert_with(|| check.clone());
                }
                What::Frontend {
                    key: at,
                    entry,
                    whole,
                } => {
                    got.frontends.entry(*at).or_insert(*entry);
                    if let Some(closed) = whole {
                        let whole = key(at.addr.into(), 0, Protocol(0));
                        *got.wholes.entry(whole).or_insert(true) &= *closed != 0;
                    }
                }
            }
        }
        got
    }

    fn settle(&mut self, work: &mut Work, object: &Object) {
        let Some(turn) = self.turns.get_mut(object) else {
            return;
        };
        let got = Self::got(&self.claims, turn);
        work.unstamped.insert(Arc::clone(&turn.rank));
        let old = std::mem::replace(&mut turn.got, got);
        let got = &turn.got;
        let pending = &mut work.pending;
        differ(&mut pending.reports, &old.reports, &got.reports);
        // Of what somebody else has got, he says more than that it was lost.
        for port in old
            .health
            .keys()
            .filter(|port| !got.health.contains_key(port))
        {
            pending.health.entry(*port).or_insert(None);
        }
        for (port, check) in &got.health {
            pending.health.insert(*port, Some(check.clone()));
        }
        work.frontends.extend(old.frontends.keys());
        work.frontends.extend(got.frontends.keys());
        for (key, is_closed) in &old.wholes {
            let (all, open) = self.wholes.entry(*key).or_default();
            *all -= 1;
            *open -= u32::from(!is_closed);
        }
        for (key, is_closed) in &got.wholes {
            let (all, open) = self.wholes.entry(*key).or_default();
            *all += 1;
            *open += u32::from(!is_closed);
        }
        for key in old.wholes.keys().chain(got.wholes.keys()) {
            let (all, open) = self.wholes.get(key).copied().unwrap_or_default();
            let closed = u32::from(open == 0) * ServiceFlags::CLOSED_INSIDE;
            let row = (all > 0).then(|| ServiceEntry {
                flags: FrontendKind::Address as u32 | closed,
                ..ServiceEntry::default()
            });
            if row.is_none() {
                self.wholes.remove(key);
            }
            work.pending.services.insert(*key, row);
        }
    }

    /// A frontend from who has it, and who is in its place.
    fn put_together(&mut self, work: &mut Work, key: ServiceKey) {
        let owner = self.claims.first(&Claimed::Frontend(key));
        let entry = owner.and_then(|owner| {
            let turn = self.turns.get(&owner.object)?;
            turn.got.frontends.get(&key).copied()
        });
        let (Some(owner), Some(entry)) = (owner, entry) else {
            if self.frontends.remove(&key).is_some() {
                work.unstamped.extend(self.overs.get(&key).cloned());
            }
            work.pending.services.insert(key, None);
            return;
        };
        let mut frontend = Frontend { entry, before: 0 };
        let mut seen = vec![Arc::clone(owner)];
        for rank in self.overs.get(&key) {
            seen.push(Arc::clone(rank));
            if let Some(over) = self.over(rank, &key)
                && owner.object == Object::new(Kind::Service, &over.service)
            {
                frontend.before = frontend.entry.service;
                frontend.entry = over.entry(frontend.entry);
            }
        }
        if self.frontends.insert(key, frontend) != Some(frontend) {
            work.unstamped.extend(seen);
        }
    }

    fn over(&self, rank: &Rank, key: &ServiceKey) -> Option<&Over> {
        self.turns.get(&rank.object)?.asked.overs.get(key)
    }

    /// Gives an object's rows their generations.
    fn stamp(&mut self, work: &mut Work, rank: &Arc<Rank>, numbers: &mut Numbers) {
        let Some(turn) = self.turns.get(&rank.object) else {
            return;
        };
        let mut contents: BTreeMap<u32, PortRows> = BTreeMap::new();
        let keys: BTreeSet<&ServiceKey> = turn
            .got
            .frontends
            .keys()
            .chain(turn.asked.overs.keys())
            .collect();
        for key in &keys {
            let Some(frontend) = self.frontends.get(key) else {
                continue;
            };
            if turn.asked.ports.contains(&frontend.entry.service) {
                let content = contents.entry(frontend.entry.service).or_default();
                let before = numbers.last_generation(frontend.before);
                content.frontends.push((**key, frontend.entry, before));
            }
        }
        for (id, backend) in &turn.asked.backends {
            let content = contents.entry(backend.service).or_default();
            content.backends.push((*id, *backend));
        }
        let mut news = false;
        for port in &turn.asked.ports {
            let content = contents.remove(port).unwrap_or_default();
            let before = numbers.last_generation(*port);
            let generation = numbers.generation(*port, &content);
            news |= generation != before;
            for (key, entry, _) in content.frontends {
                let entry = ServiceEntry {
                    generation,
                    ..entry
                };
                work.pending.services.insert(key, Some(entry));
            }
        }
        if news {
            // Who is in the place of these rows has what is behind them.
            let overs = keys.iter().flat_map(|key| self.overs.get(key));
            work.unstamped
                .extend(overs.filter(|over| *over > rank).cloned());
        }
    }

    /// Numbers of another life that nobody has now.
    fn retire_unknown(&self, now_ms: u64, numbers: &mut Numbers) {
        let mut used = Used::default();
        for turn in self.turns.values() {
            used.add(&turn.asked);
        }
        let known: Vec<Remembered> = numbers.remembered().collect();
        for number in known {
            if !used.remembered.contains(&number) {
                numbers.retire(number, now_ms);
            }
        }
        let lists: Vec<u32> = numbers.list_numbers().collect();
        for list in lists.into_iter().filter(|n| !used.lists.contains(n)) {
            numbers.drop_list(list);
        }
        let tables: Vec<u32> = numbers.table_numbers().collect();
        for table in tables.into_iter().filter(|n| !used.tables.contains(n)) {
            numbers.drop_table(table);
        }
    }
}

/// Numbers that objects have.
#[derive(Default)]
struct Used {
    remembered: BTreeSet<Remembered>,
    lists: BTreeSet<u32>,
    tables: BTreeSet<u32>,
}

impl Used {
    fn of(asked: &Asked) -> Self {
        let mut used = Self::default();
        used.add(asked);
        used
    }

    fn add(&mut self, asked: &Asked) {
        let ports = asked.ports.iter().map(|port| Remembered::Port(*port));
        let backends = asked.backends.keys().map(|id| Remembered::Backend(*id));
        self.remembered.extend(ports.chain(backends));
        self.lists.extend(asked.lists.keys().map(|key| key.list));
        self.tables.extend(asked.maglev.keys().map(|key| key.table));
    }
}

/// Gives up the numbers that an object has no more.
fn retire(old: &Asked, new: &Asked, numbers: &mut Numbers, now_ms: u64) {
    if *old == Asked::default() {
        return;
    }
    let (old, new) = (Used::of(old), Used::of(new));
    for number in old.remembered.difference(&new.remembered) {
        numbers.retire(*number, now_ms);
    }
    for list in old.lists.difference(&new.lists) {
        numbers.drop_list(*list);
    }
    for table in old.tables.difference(&new.tables) {
        numbers.drop_table(*table);
    }
}
