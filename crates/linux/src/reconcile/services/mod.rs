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
//! leads to stays too.

mod rows;

use std::collections::BTreeSet;
use std::net::IpAddr;

use axon_abi::{
    Backend, BackendFlags, LIST_BLOCK_SLOTS, ListBlock, ListKey, ListRef, MAGLEV_BLOCK_SLOTS,
    MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};
use axon_model::DesiredServices;
use axon_statedb::Backoff;

use super::{Pass, ReconcileReport};
use crate::maps::Maps;
use rows::Rows;

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
    grace_ms: u64,
}

/// What frontends lead to that are not as they shall be.
#[derive(Default)]
struct Needed {
    lists: BTreeSet<u32>,
    tables: BTreeSet<u32>,
    services: BTreeSet<u32>,
    backends: BTreeSet<u32>,
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
    pub(super) fn new(maps: &Maps, backoff: Backoff, grace_ms: u64) -> Self {
        Self {
            backends: Rows::new(maps.backend.clone(), "backends", u32::to_string, backoff),
            lists: Rows::new(
                maps.service_list.clone(),
                "service-lists",
                |key| format!("{} block {}", key.list, key.block),
                backoff,
            ),
            maglev: Rows::new(
                maps.maglev.clone(),
                "maglev-tables",
                |key| format!("{} block {}", key.table, key.block),
                backoff,
            ),
            ranges: Rows::new(
                maps.source_range.clone(),
                "source-ranges",
                range_name,
                backoff,
            ),
            skips: Rows::new(
                maps.service_skip.clone(),
                "service-skips",
                |key| format!("{} {}", key.service, IpAddr::from(key.client)),
                backoff,
            ),
            frontends: Rows::new(maps.service.clone(), "services", frontend_name, backoff),
            withheld: BTreeSet::new(),
            grace_ms,
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
        let frontends = self.frontends.look(at, &desired.frontends, |row| *row);
        let turning = self.close_turning(now_ms, &frontends.wanted);

        let backends = self.backends.look(at, &desired.backends, |row| *row);
        self.backends.put(now_ms, &backends.wanted);
        let lists = self.lists.look(at, &desired.lists, |row| *row);
        self.lists.put(now_ms, &lists.wanted);
        self.lists.doom(goes_ms, &lists.unwanted);
        let maglev = self.maglev.look(at, &desired.maglev, |row| *row);
        self.maglev.put(now_ms, &maglev.wanted);
        self.maglev.doom(goes_ms, &maglev.unwanted);
        let ranges = self.ranges.look(at, &desired.ranges, |()| 1);
        self.ranges.put(now_ms, &ranges.wanted);
        self.ranges.doom(now_ms, &ranges.unwanted);
        let mut room = self
            .ranges
            .take(now_ms, |key| !turning.contains(&key.service));
        let skips = self.skips.look(at, &desired.skips, |()| 1);
        self.skips.put(now_ms, &skips.wanted);
        self.skips.doom(now_ms, &skips.unwanted);

        self.put_frontends(now_ms, frontends.wanted);
        self.frontends.doom(now_ms, &frontends.unwanted);
        room |= self.frontends.take(now_ms, |_| false);
        self.backends.doom(goes_ms, &backends.unwanted);
        room |= self.take(now_ms, &backends.unwanted);
        self.tell(report);
        if room {
            // What has found no room may find some.
            self.hasten();
            report.due_ms = Some(now_ms);
        }
    }

    /// Closes frontends whose ranges are to mean the opposite until that is done: for
    /// a moment there are those of both meanings. Hands back their services.
    fn close_turning(
        &mut self,
        now_ms: u64,
        wanted: &[(ServiceKey, ServiceEntry)],
    ) -> BTreeSet<u32> {
        let mut turning = BTreeSet::new();
        let mut closed = Vec::new();
        for (key, row) in wanted {
            let Some(held) = self.frontends.held(key) else {
                continue;
            };
            let has_ranges =
                held.has(ServiceFlags::SOURCE_RANGES) && row.has(ServiceFlags::SOURCE_RANGES);
            if has_ranges && (held.flags ^ row.flags) & ServiceFlags::SOURCE_DENY != 0 {
                turning.extend([held.service, row.service]);
                let flags = held.flags | ServiceFlags::CLOSED_OUTSIDE;
                closed.push((*key, ServiceEntry { flags, ..*held }));
            }
        }
        self.frontends.put(now_ms, &closed);
        turning
    }

    /// Writes the frontends all of whose lists are there.
    fn put_frontends(&mut self, now_ms: u64, mut wanted: Vec<(ServiceKey, ServiceEntry)>) {
        let is_whole = self.backends.is_whole() && self.lists.is_whole() && self.maglev.is_whole();
        if !is_whole {
            let lacking = wanted.iter().map(|(key, row)| (*key, self.lacks(row)));
            let lacking: Vec<_> = lacking.collect();
            for (key, lacks) in lacking {
                if let Some(what) = lacks {
                    self.frontends
                        .fail(now_ms, key, &format!("{what} is not in the kernel yet"));
                    self.withheld.insert(key);
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
    fn needed(&self) -> Needed {
        let mut needed = Needed::default();
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

    /// Takes away what is due and nobody leads to. Says whether there is room now for
    /// rows that have failed.
    fn take(&mut self, now_ms: u64, gone: &[u32]) -> bool {
        let needed = self.needed();
        let gone = gone.iter().filter(|id| !needed.backends.contains(id));
        let rows = gone.filter_map(|id| Some((*id, marked(self.backends.held(id)?))));
        let rows: Vec<_> = rows.collect();
        self.backends.put(now_ms, &rows);
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

    fn tell(&mut self, report: &mut ReconcileReport) {
        self.backends.tell(report);
        self.lists.tell(report);
        self.maglev.tell(report);
        self.ranges.tell(report);
        self.skips.tell(report);
        self.frontends.tell(report);
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
