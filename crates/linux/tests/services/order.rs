//! The order of writes, as somebody sees it who looks while they are made.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axon_abi::{
    IpKey, LIST_BLOCK_SLOTS, ListKey, ListRef, MAGLEV_BLOCK_SLOTS, MaglevKey, ServiceEntry,
    ServiceFlags, ServiceKey,
};
use axon_linux::Maps;

use crate::common::{Node, maps_alone, root};
use crate::shop::{Shop, key, reconciler};

/// Changes that are made while somebody looks.
const CHANGES: u32 = 6000;

/// Whether everything that the frontends lead to is there.
pub(crate) fn whole(maps: &Maps) -> Result<(), String> {
    for (key, entry) in maps.service.dump().expect("a dump") {
        leads(maps, &key, &entry)?;
    }
    Ok(())
}

fn leads(maps: &Maps, key: &ServiceKey, entry: &ServiceEntry) -> Result<(), String> {
    for list in [entry.internal, entry.external] {
        if let Some(what) = lacks(maps, &list, entry.maglev_slots) {
            return Err(format!(
                "{key:?} of generation {}: {what}",
                entry.generation
            ));
        }
    }
    Ok(())
}

fn lacks(maps: &Maps, list: &ListRef, places: u32) -> Option<String> {
    for slot in 0..list.slots {
        let at = ListKey {
            list: list.list,
            block: slot / LIST_BLOCK_SLOTS,
        };
        let Some(block) = maps.service_list.get(&at).expect("a look-up") else {
            return Some(format!("no {at:?}"));
        };
        let id = block.backends[(slot % LIST_BLOCK_SLOTS) as usize];
        if maps.backend.get(&id).expect("a look-up").is_none() {
            return Some(format!("slot {slot} of {at:?}: no backend {id}"));
        }
    }
    let blocks = if list.maglev == 0 {
        0
    } else {
        places.div_ceil(MAGLEV_BLOCK_SLOTS)
    };
    let blocks = (0..blocks).map(|block| MaglevKey {
        table: list.maglev,
        block,
    });
    let mut blocks = blocks.filter(|at| maps.maglev.get(at).expect("a look-up").is_none());
    blocks.next().map(|at| format!("no {at:?}"))
}

/// Looks at a frontend again and again while `change` is made; how often, and what
/// was wrong with one that was there before and after.
fn watched(
    maps: &Maps,
    keys: &[ServiceKey],
    is_wrong: impl Fn(&ServiceKey, &ServiceEntry) -> Result<(), String> + Sync,
    change: impl FnOnce(),
) -> (usize, Vec<String>) {
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let look = || {
        let mut wrong = Vec::new();
        while !stop.load(Ordering::Acquire) && wrong.is_empty() {
            for key in keys {
                let Some(entry) = maps.service.get(key).expect("a look-up") else {
                    continue;
                };
                looks.fetch_add(1, Ordering::Relaxed);
                let Err(error) = is_wrong(key, &entry) else {
                    continue;
                };
                // A look takes long, and what was read last may have gone rightly.
                if maps.service.get(key).expect("a look-up") == Some(entry) {
                    wrong.push(error);
                }
            }
        }
        wrong
    };
    std::thread::scope(|scope| {
        let looker = scope.spawn(look);
        change();
        stop.store(true, Ordering::Release);
        let wrong = looker.join().expect("the looks");
        (looks.load(Ordering::Relaxed), wrong)
    })
}

#[test]
fn at_no_moment_does_a_frontend_lead_to_half_a_list() {
    let Some(()) = root() else { return };
    let node = Node::new("svc-order");
    let maps = &maps_alone(&node, &node.config());
    let mut shop = Shop::default();
    shop.mark_complete();
    let mut reconciler = reconciler(&node, maps);
    let keys: Vec<ServiceKey> = (0..4).map(key).collect();
    let change = || {
        for n in 1..=CHANGES {
            // Each change: another list of other backends, and the last ones go. Time goes by
            // so fast that of any list the grace is over within the test.
            let frontend = (n % 4) as u8;
            let size = 1 + n % 37;
            let first = 1 + (n % 16) * 40;
            let ids: Vec<u32> = (first..first + size).collect();
            if n > 4 {
                shop.without_list(n - 4);
                let gone = 1 + ((n - 4) % 16) * 40;
                for id in gone..gone + 40 {
                    shop.without_backend(id);
                }
            }
            shop.list(n, &ids);
            let maglev = n % 2 * n;
            if maglev != 0 {
                shop.maglev(maglev, 251);
            }
            shop.frontend(frontend, (n, size), (n, size), maglev);
            let report = reconciler.sync(u64::from(n) * 100, &shop.desired);
            assert_eq!(report.failing_rows(), 0, "{report:?}");
            if maglev != 0 {
                let tables = &shop.desired.services.maglev;
                tables.write(|t| {
                    for block in 0..251_u32.div_ceil(MAGLEV_BLOCK_SLOTS) {
                        t.remove(&MaglevKey {
                            table: maglev.saturating_sub(4),
                            block,
                        });
                    }
                });
            }
        }
    };
    let (looks, wrong) = watched(maps, &keys, |key, entry| leads(maps, key, entry), change);
    assert_eq!(wrong, Vec::<String>::new(), "after {looks} looks");
    assert!(looks > 100, "somebody has looked: {looks}");
    whole(maps).expect("whole at the end");
}

#[test]
fn ranges_never_mean_for_a_moment_what_neither_before_nor_after_does() {
    const INSIDE: [u8; 4] = [192, 0, 2, 0];
    const OUTSIDE: [u8; 4] = [198, 51, 100, 0];
    let Some(()) = root() else { return };
    let node = Node::new("svc-ranges");
    let maps = &maps_alone(&node, &node.config());
    let mut shop = Shop::default();
    shop.list(1, &[1]);
    shop.frontend(1, (1, 1), (1, 1), 0);
    shop.mark_complete();
    let mut reconciler = reconciler(&node, maps);
    let first = shop.desired.services.frontends.get(&key(1)).expect("it");
    // Those in `INSIDE` are let in, and then all but those in `OUTSIDE`: these never are.
    let change = || {
        for n in 0..CHANGES {
            let denies = n % 2 == 1;
            let (come, go) = if denies {
                (OUTSIDE, INSIDE)
            } else {
                (INSIDE, OUTSIDE)
            };
            let deny = if denies { ServiceFlags::SOURCE_DENY } else { 0 };
            shop.range(1, come);
            shop.without_range(1, go);
            let entry = ServiceEntry {
                flags: first.flags | ServiceFlags::SOURCE_RANGES | deny,
                generation: 10 + n,
                ..*first
            };
            shop.put(key(1), entry);
            reconciler.sync(u64::from(n), &shop.desired);
        }
    };
    let asked = axon_abi::SourceRangeKey::host(1, IpKey::from_v4([198, 51, 100, 7]));
    let is_wrong = |_: &ServiceKey, entry: &ServiceEntry| {
        let named = maps.source_range.get(&asked).expect("a look-up").is_some();
        let is_open = !entry.has(ServiceFlags::CLOSED_OUTSIDE);
        let lets_in = named != entry.has(ServiceFlags::SOURCE_DENY);
        let has_ranges = entry.has(ServiceFlags::SOURCE_RANGES);
        if is_open && has_ranges && lets_in {
            return Err(format!("let in by generation {}", entry.generation));
        }
        Ok(())
    };
    let (looks, wrong) = watched(maps, &[key(1)], is_wrong, change);
    assert_eq!(wrong, Vec::<String>::new(), "after {looks} looks");
}
