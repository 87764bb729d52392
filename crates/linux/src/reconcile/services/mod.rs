//! Services: rows that lead to others, each after what it leads to.
//!
//! ```text
//!  backends ─> lists ─> Maglev tables ─> ranges, who passes by ─> frontends
//!                                                     frontends away
//!  who has gone is valid no more      backends: marked
//!  after a grace                      ranges, who passes by, tables, lists, backends away
//! ```
//!
//! At no moment does a frontend lead to a list, a table or a backend that is not
//! there: one whose list the kernel does not take stays what it was, and what it
//! leads to stays too. While it is not known what frontends and lists the kernel
//! holds, nothing that they may lead to goes.

mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use axon_abi::{
    Backend, BackendFlags, LIST_BLOCK_SLOTS, ListBlock, ListKey, ListRef, MAGLEV_BLOCK_SLOTS,
    MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};
use axon_model::DesiredServices;
use axon_statedb::Backoff;

use super::{Pass, ReconcileReport};
use crate::maps::{Entries, Maps};
use rows::Rows;

/// The maps of services.
pub(super) struct Stores {
    backends: Box<dyn Entries<u32, Backend>>,
    lists: Box<dyn Entries<ListKey, ListBlock>>,
    maglev: Box<dyn Entries<MaglevKey, MaglevBlock>>,
    ranges: Box<dyn Entries<SourceRangeKey, u32>>,
    skips: Box<dyn Entries<ServiceClient, u32>>,
    frontends: Box<dyn Entries<ServiceKey, ServiceEntry>>,
}

impl Stores {
    pub(super) fn of(maps: &Maps) -> Self {
        Self {
            backends: Box::new(maps.backend.clone()),
            lists: Box::new(maps.service_list.clone()),
            maglev: Box::new(maps.maglev.clone()),
            ranges: Box::new(maps.source_range.clone()),
            skips: Box::new(maps.service_skip.clone()),
            frontends: Box::new(maps.service.clone()),
        }
    }
}

/// Every row of services.
pub(super) struct Services {
    backends: Rows<u32, Backend>,
    lists: Rows<ListKey, ListBlock>,
    maglev: Rows<MaglevKey, MaglevBlock>,
    ranges: Rows<SourceRangeKey, u32>,
    skips: Rows<ServiceClient, u32>,
    frontends: Rows<ServiceKey, ServiceEntry>,
    /// Frontends that wait for what they lead to.
    withheld: BTreeSet<ServiceKey>,
    /// Ranges that wait for frontends to be closed.
    withheld_ranges: BTreeSet<SourceRangeKey>,
    /// Backends that are gone and valid still.
    unmarked: BTreeSet<u32>,
    grace_ms: u64,
    /// How often a backend was replaced or went.
    gone: u64,
}

/// Services whose ranges are to mean the opposite of what they did.
#[derive(Default)]
struct Turning {
    /// Those all of whose frontends are closed to the network until it is done.
    closed: BTreeSet<u32>,
    /// Those of which one is not, or may not be: their ranges stay as they are.
    open: BTreeSet<u32>,
}

/// What frontends lead to that are not as they shall be.
#[derive(Default)]
struct Needed {
    lists: BTreeSet<u32>,
    tables: BTreeSet<u32>,
    services: BTreeSet<u32>,
    backends: BTreeSet<u32>,
}

/// Why a range, or a frontend with ranges, is not written.
const UNTURNED: &str = "ranges of its service may come to mean the opposite, and a frontend of it \
                        cannot be read, or not be closed meanwhile";

/// Services whose ranges are not as they shall be.
struct Unranged {
    /// A range is not there.
    late: BTreeSet<u32>,
    /// One is there that is to go.
    left: BTreeSet<u32>,
}

impl Unranged {
    /// What a frontend would let in that it shall not.
    fn lacks(&self, row: &ServiceEntry, turning: &Turning) -> Option<&'static str> {
        if !row.has(ServiceFlags::SOURCE_RANGES) {
            return None;
        }
        if turning.open.contains(&row.service) {
            return Some(UNTURNED);
        }
        let keeps_out = row.has(ServiceFlags::SOURCE_DENY);
        if keeps_out && self.late.contains(&row.service) {
            return Some("a range that it keeps out is not in the kernel yet");
        }
        let is_left = self.left.contains(&row.service);
        if is_left && turning.closed.contains(&row.service) {
            return Some("a range of what it said before is in the kernel still");
        }
        None
    }
}

fn frontend_name(key: &ServiceKey) -> String {
    let addr = IpAddr::from(key.addr);
    let protocol = match key.protocol {
        0 => return addr.to_string(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    };
    let at = std::net::SocketAddr::new(addr, key.port.get());
    format!("{at}/{protocol}")
}

fn range_name(key: &SourceRangeKey) -> String {
    let bits = key.prefix_bits.saturating_sub(SourceRangeKey::SERVICE_BITS);
    let bits = if key.addr.is_v4() {
        bits.saturating_sub(96)
    } else {
        bits
    };
    format!("{} {}/{bits}", key.service, IpAddr::from(key.addr))
}

/// Who is behind the id now is nobody: no choice of before holds, and no list that
/// is in force names it.
fn marked(backend: &Backend) -> Backend {
    Backend {
        flags: backend.flags & BackendFlags::LOCAL,
        generation: backend.generation.wrapping_add(1),
        ..*backend
    }
}

impl Services {
    pub(super) fn new(stores: Stores, backoff: Backoff, grace_ms: u64) -> Self {
        Self {
            backends: Rows::new(stores.backends, "backends", u32::to_string, backoff),
            lists: Rows::new(
                stores.lists,
                "service-lists",
                |key| format!("{} block {}", key.list, key.block),
                backoff,
            ),
            maglev: Rows::new(
                stores.maglev,
                "maglev-tables",
                |key| format!("{} block {}", key.table, key.block),
                backoff,
            ),
            ranges: Rows::new(stores.ranges, "source-ranges", range_name, backoff),
            skips: Rows::new(
                stores.skips,
                "service-skips",
                |key| format!("{} {}", key.service, IpAddr::from(key.client)),
                backoff,
            ),
            frontends: Rows::new(stores.frontends, "services", frontend_name, backoff),
            withheld: BTreeSet::new(),
            withheld_ranges: BTreeSet::new(),
            unmarked: BTreeSet::new(),
            grace_ms,
            gone: 0,
        }
    }

    pub(super) fn pass(
        &mut self,
        pass: Pass,
        now_ms: u64,
        desired: &DesiredServices,
        report: &mut ReconcileReport,
    ) {
        let goes_ms = now_ms + self.grace_ms;
        let at = (pass, now_ms);
        self.frontends.hasten(std::mem::take(&mut self.withheld));
        self.ranges
            .hasten(std::mem::take(&mut self.withheld_ranges));
        let frontends = self.frontends.look(at, &desired.frontends, |row| *row);
        let turning = self.close_turning(now_ms, &frontends.wanted);

        let backends = self.backends.look(at, &desired.backends, |row| *row);
        let is_replaced = |(id, row): &&(u32, Backend)| {
            let held = self.backends.held(id);
            held.is_some_and(|held| held.generation != row.generation)
        };
        self.gone += backends.wanted.iter().filter(is_replaced).count() as u64;
        self.backends.put(now_ms, &backends.wanted);
        let lists = self.lists.look(at, &desired.lists, |row| *row);
        self.lists.put(now_ms, &lists.wanted);
        self.lists.doom(goes_ms, &lists.unwanted);
        let maglev = self.maglev.look(at, &desired.maglev, |row| *row);
        self.maglev.put(now_ms, &maglev.wanted);
        self.maglev.doom(goes_ms, &maglev.unwanted);
        let ranges = self.ranges.look(at, &desired.ranges, |()| 1);
        self.put_ranges(now_ms, ranges.wanted, &turning);
        self.ranges.doom(now_ms, &ranges.unwanted);
        let mut room = self
            .ranges
            .take(now_ms, |key| !turning.closed.contains(&key.service));
        let skips = self.skips.look(at, &desired.skips, |()| 1);
        self.skips.put(now_ms, &skips.wanted);
        self.skips.doom(now_ms, &skips.unwanted);

        self.put_frontends(now_ms, frontends.wanted, &turning);
        self.frontends.doom(now_ms, &frontends.unwanted);
        room |= self.frontends.take(now_ms, |_| false);
        self.backends.doom(goes_ms, &backends.unwanted);
        self.unmarked.extend(backends.unwanted);
        room |= self.take(now_ms, &turning);
        self.tell(now_ms, report);
        if room {
            // What has found no room may find some.
            self.hasten();
            report.due_ms = Some(now_ms);
        }
    }

    /// Closes frontends whose ranges are to mean the opposite until that is done: for
    /// a moment there are those of both meanings. One that cannot be closed, or of
    /// which it is not known what it says, keeps the ranges of its service.
    fn close_turning(&mut self, now_ms: u64, wanted: &[(ServiceKey, ServiceEntry)]) -> Turning {
        let mut turning = Turning::default();
        let mut closed = Vec::new();
        for (key, row) in wanted {
            let has_ranges = row.has(ServiceFlags::SOURCE_RANGES);
            let Some(held) = self.frontends.held(key) else {
                if has_ranges && self.frontends.is_unread() {
                    turning.open.insert(row.service);
                }
                continue;
            };
            let has_ranges = has_ranges && held.has(ServiceFlags::SOURCE_RANGES);
            // One that was closed and opens again may have been left in the middle of it.
            let opens = held.flags & !row.flags & ServiceFlags::CLOSED_OUTSIDE;
            let turns = (held.flags ^ row.flags) & ServiceFlags::SOURCE_DENY;
            if !has_ranges || (opens | turns) == 0 {
                continue;
            }
            turning.closed.extend([held.service, row.service]);
            let flags = held.flags | ServiceFlags::CLOSED_OUTSIDE;
            if flags != held.flags {
                closed.push((*key, ServiceEntry { flags, ..*held }));
            }
        }
        self.frontends.put(now_ms, &closed);
        for (key, row) in &closed {
            if self.frontends.held(key) != Some(row) {
                self.withheld.insert(*key);
                turning.open.insert(row.service);
            }
        }
        for (key, row) in wanted {
            if self.withheld.contains(key) {
                turning.open.insert(row.service);
            }
        }
        if self.frontends.is_unread() {
            // Frontends may be there that nobody knows of.
            turning.open.append(&mut turning.closed);
        }
        let Turning { closed, open } = &mut turning;
        closed.retain(|service| !open.contains(service));
        turning
    }

    /// Writes ranges, but for those of services that cannot be closed meanwhile.
    fn put_ranges(
        &mut self,
        now_ms: u64,
        mut wanted: Vec<(SourceRangeKey, u32)>,
        turning: &Turning,
    ) {
        let stays = |key: &SourceRangeKey| turning.open.contains(&key.service);
        let late: Vec<_> = wanted.iter().map(|(key, _)| *key).collect();
        for key in late.into_iter().filter(stays) {
            self.ranges.fail(now_ms, key, UNTURNED);
            self.withheld_ranges.insert(key);
        }
        wanted.retain(|(key, _)| !stays(key));
        self.ranges.put(now_ms, &wanted);
    }

    /// Writes the frontends all of whose lists are there.
    fn put_frontends(
        &mut self,
        now_ms: u64,
        mut wanted: Vec<(ServiceKey, ServiceEntry)>,
        turning: &Turning,
    ) {
        let is_turning = !(turning.open.is_empty() && turning.closed.is_empty());
        let is_whole = self.backends.is_whole()
            && self.lists.is_whole()
            && self.maglev.is_whole()
            && self.ranges.is_whole();
        if is_turning || !is_whole {
            let unranged = Unranged {
                late: self.ranges.failing().map(|key| key.service).collect(),
                left: self.ranges.lingering().map(|key| key.service).collect(),
            };
            let lacking = wanted.iter().map(|(key, row)| {
                let of_ranges = || unranged.lacks(row, turning).map(str::to_owned);
                let of_lists = || Some(format!("{} is not in the kernel yet", self.lacks(row)?));
                (*key, of_ranges().or_else(of_lists))
            });
            let lacking: Vec<_> = lacking.collect();
            for (key, lacks) in lacking {
                // Of one that could not be closed, why is told already.
                if let Some(why) = lacks
                    && self.withheld.insert(key)
                {
                    self.frontends.fail(now_ms, key, &why);
                }
            }
            wanted.retain(|(key, _)| !self.withheld.contains(key));
        }
        self.frontends.put(now_ms, &wanted);
    }

    /// What a frontend leads to that is not there.
    fn lacks(&self, row: &ServiceEntry) -> Option<String> {
        for list in [row.internal, row.external] {
            for key in blocks(&list) {
                let block = self.lists.in_place(&key);
                let Some(block) = block else {
                    return Some(format!("block {} of list {}", key.block, key.list));
                };
                let mut ids = block.backends.iter().filter(|id| **id != 0);
                if let Some(id) = ids.find(|id| self.backends.in_place(id).is_none()) {
                    return Some(format!("backend {id}"));
                }
            }
            for key in table_blocks(&list, row.maglev_slots) {
                if self.maglev.in_place(&key).is_none() {
                    return Some(format!("block {} of table {}", key.block, key.table));
                }
            }
        }
        None
    }

    /// What frontends still lead to that are to be others, or to go.
    fn needed(&self, turning: &Turning) -> Needed {
        let mut needed = Needed {
            services: turning.open.clone(),
            ..Needed::default()
        };
        let late = self.frontends.failing().chain(self.frontends.lingering());
        for row in late.filter_map(|key| self.frontends.held(key)) {
            needed.services.insert(row.service);
            for list in [row.internal, row.external] {
                needed.lists.insert(list.list);
                needed.tables.insert(list.maglev);
                let blocks = blocks(&list).filter_map(|key| self.lists.held(&key).copied());
                needed
                    .backends
                    .extend(blocks.flat_map(|block| block.backends));
            }
        }
        needed
    }

    /// Takes away what is due and nobody leads to, and has who is gone be valid no
    /// more. Says whether there is room now for rows that have failed.
    fn take(&mut self, now_ms: u64, turning: &Turning) -> bool {
        let backends = &self.backends;
        self.unmarked.retain(|id| backends.is_doomed(id));
        if self.frontends.is_unread() || self.lists.is_unread() {
            // Who leads to whom is not known.
            return false;
        }
        let needed = self.needed(turning);
        self.mark(now_ms, &needed);
        let of_service = |service: u32| needed.services.contains(&service);
        // Ranges, and who passes by, are asked with the frontend in hand, and once.
        let mut room = self.ranges.take(now_ms, |key| of_service(key.service));
        room |= self.skips.take(now_ms, |key| of_service(key.service));
        room |= self
            .maglev
            .take(now_ms, |key| needed.tables.contains(&key.table));
        room |= self
            .lists
            .take(now_ms, |key| needed.lists.contains(&key.list));
        room | self
            .backends
            .take(now_ms, |id| needed.backends.contains(id))
    }

    /// Has who is gone be valid no more, unless a frontend leads to him still.
    fn mark(&mut self, now_ms: u64, needed: &Needed) {
        let gone = self.unmarked.iter();
        let gone = gone.filter(|id| !needed.backends.contains(id));
        let rows = gone.filter_map(|id| Some((*id, marked(self.backends.held(id)?))));
        let rows: Vec<_> = rows.collect();
        self.backends.put(now_ms, &rows);
        for (id, _) in rows {
            if !self.backends.has_failed(&id) {
                self.unmarked.remove(&id);
                self.gone += 1;
            }
        }
    }

    fn tell(&mut self, now_ms: u64, report: &mut ReconcileReport) {
        self.backends.tell(now_ms, report);
        self.lists.tell(now_ms, report);
        self.maglev.tell(now_ms, report);
        self.ranges.tell(now_ms, report);
        self.skips.tell(now_ms, report);
        self.frontends.tell(now_ms, report);
        report.backends_gone = self.gone;
    }

    fn hasten(&mut self) {
        self.backends.hasten_all();
        self.lists.hasten_all();
        self.maglev.hasten_all();
        self.ranges.hasten_all();
        self.skips.hasten_all();
        self.frontends.hasten_all();
    }
}

/// The blocks of a list.
fn blocks(list: &ListRef) -> impl Iterator<Item = ListKey> + use<> {
    let ListRef { list, slots, .. } = *list;
    let count = if list == 0 {
        0
    } else {
        slots.div_ceil(LIST_BLOCK_SLOTS)
    };
    (0..count).map(move |block| ListKey { list, block })
}

/// The blocks of its Maglev table.
fn table_blocks(list: &ListRef, places: u32) -> impl Iterator<Item = MaglevKey> + use<> {
    let table = list.maglev;
    let count = if table == 0 {
        0
    } else {
        places.div_ceil(MAGLEV_BLOCK_SLOTS)
    };
    (0..count).map(move |block| MaglevKey { table, block })
}
