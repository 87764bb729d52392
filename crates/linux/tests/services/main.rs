//! Rows of services in the kernel's maps: whole, in order, and no more than is
//! wanted.

#[path = "../common/mod.rs"]
mod common;
mod order;
mod shop;

use axon_abi::{Backend, IpKey, LpmKey, SourceRangeKey};
use axon_linux::{MapError, Maps, ReconcileReport};
use common::{Node, maps_alone, root};
use shop::{GRACE_MS, Shop, reconciler};

fn deleted(report: &ReconcileReport) -> usize {
    let tables = report.tables.values();
    tables.map(|table| table.deleted).sum()
}

fn updated(report: &ReconcileReport) -> usize {
    let services = [
        "services",
        "service-lists",
        "maglev-tables",
        "backends",
        "source-ranges",
        "service-skips",
    ];
    let tables = services.iter().filter_map(|name| report.tables.get(name));
    tables.map(|table| table.updated).sum()
}

#[test]
fn many_rows_are_written_and_removed_at_once() {
    let Some(()) = root() else { return };
    let node = Node::new("svc-batch");
    let mut config = node.config();
    config.map_sizes.insert("axon_backend_v1".to_owned(), 5000);
    let maps = &maps_alone(&node, &config);
    let row = |n: u32| Backend {
        service: n,
        ..Backend::default()
    };
    let rows: Vec<_> = (1..=6000).map(|n| (n, row(n))).collect();
    let failed = maps.backend.insert_all(&rows);
    assert_eq!(failed.len(), 1000);
    for (at, error) in &failed {
        assert!(
            *at >= 5000 && matches!(error, MapError::Full { .. }),
            "{at}"
        );
    }
    assert_eq!(maps.backend.count().expect("a count"), 5000);
    // Those that are there are no room taken: what comes after one without is written.
    let rows: Vec<_> = [4000, 6000, 4001].map(|n| (n, row(n + 1))).into();
    let failed = maps.backend.insert_all(&rows);
    assert_eq!(failed.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1]);
    for n in [4000, 4001] {
        assert_eq!(maps.backend.get(&n).expect("a look-up"), Some(row(n + 1)));
    }
    let keys: Vec<u32> = (1..=6000).rev().collect();
    assert!(maps.backend.remove_all(&keys).is_empty(), "gone is gone");
    assert_eq!(maps.backend.count().expect("a count"), 0);
    // A trie alike.
    let range = |n: u8| SourceRangeKey::host(1, IpKey::from_v4([192, 0, 2, n]));
    let ranges: Vec<_> = (0..200).map(|n| (range(n), 1)).collect();
    assert!(maps.source_range.insert_all(&ranges).is_empty());
    assert_eq!(maps.source_range.count().expect("a count"), 200);
    let keys: Vec<_> = ranges.iter().map(|(key, _)| *key).collect();
    assert!(maps.source_range.remove_all(&keys).is_empty());
    assert_eq!(maps.source_range.count().expect("a count"), 0);
    let wide = LpmKey {
        prefix_bits: 200,
        addr: IpKey::UNSPECIFIED,
    };
    let failed = maps.nomasq.insert_all(&[(wide, 1), (wide, 1)]);
    assert_eq!(failed.len(), 2, "no such prefix");
}

#[test]
fn what_an_earlier_agent_has_written_right_is_not_written_again() {
    let Some(()) = root() else { return };
    let node = Node::new("svc-adopt");
    let maps = &maps_alone(&node, &node.config());
    let mut shop = Shop::default();
    shop.list(1, &[1, 2, 3]);
    shop.list(2, &(1..=40).collect::<Vec<_>>());
    shop.maglev(1, 251);
    shop.frontend(1, (1, 3), (2, 40), 1);
    shop.range(1, [192, 0, 2, 0]);
    shop.skip(1);
    let mut first = reconciler(&node, maps);
    let report = first.sync(0, &shop.desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    shop.is_in(maps);

    // The next agent does not know everything yet.
    let next = Shop::default();
    let mut second = reconciler(&node, maps);
    for pass in 0..3 {
        let report = second.full(pass * GRACE_MS, &next.desired);
        assert_eq!((updated(&report), deleted(&report)), (0, 0), "{report:?}");
    }
    shop.is_in(maps);
    // Now it does: one row is wrong, one is surplus, all else is as it shall be.
    let mut row = maps.backend.get(&3).expect("a look-up").expect("a row");
    row.state = 2;
    maps.backend.insert(&3, &row).expect("written");
    maps.backend.insert(&99, &row).expect("written");
    next.follow(&shop);
    next.mark_complete();
    let report = second.full(10 * GRACE_MS, &next.desired);
    assert_eq!((updated(&report), deleted(&report)), (2, 0), "{report:?}");
    assert_eq!(
        report.tables["backends"].updated, 2,
        "the wrong, the surplus"
    );
    let report = second.sync(report.due_ms.expect("a removal"), &next.desired);
    assert_eq!((updated(&report), deleted(&report)), (0, 1), "{report:?}");
    shop.is_in(maps);
    assert_eq!(report.due_ms, None, "nothing is left to do");
}

#[test]
fn a_full_pass_repairs_what_somebody_else_has_changed() {
    let Some(()) = root() else { return };
    let node = Node::new("svc-repair");
    let maps = &maps_alone(&node, &node.config());
    let mut shop = Shop::default();
    shop.list(1, &[1, 2, 3]);
    shop.frontend(1, (1, 3), (1, 3), 0);
    shop.mark_complete();
    let mut reconciler = reconciler(&node, maps);
    reconciler.sync(0, &shop.desired);
    shop.is_in(maps);
    for (key, _) in maps.service_list.dump().expect("a dump") {
        maps.service_list.remove(&key).expect("removed");
    }
    for (key, row) in maps.service.dump().expect("a dump") {
        let row = axon_abi::ServiceEntry { flags: 7, ..row };
        maps.service.insert(&key, &row).expect("written");
    }
    let report = reconciler.sync(1, &shop.desired);
    assert_eq!(updated(&report), 0, "nobody has looked");
    let report = reconciler.full(2, &shop.desired);
    assert_eq!(updated(&report), 2, "{report:?}");
    shop.is_in(maps);
}

#[test]
fn who_has_gone_is_valid_no_more_and_his_row_goes_after_a_grace() {
    let Some(()) = root() else { return };
    let node = Node::new("svc-gone");
    let maps = &maps_alone(&node, &node.config());
    let mut shop = Shop::default();
    shop.list(1, &[1, 2]);
    shop.frontend(1, (1, 2), (1, 2), 0);
    shop.mark_complete();
    let mut reconciler = reconciler(&node, maps);
    reconciler.sync(0, &shop.desired);
    let before = maps.backend.get(&2).expect("a look-up").expect("a row");

    shop.without_list(1);
    shop.list(2, &[1]);
    shop.without_backend(2);
    shop.frontend(1, (2, 1), (2, 1), 0);
    let report = reconciler.sync(1000, &shop.desired);
    let marked = maps
        .backend
        .get(&2)
        .expect("a look-up")
        .expect("in its grace");
    assert_eq!(marked.flags & 3, 0, "in no list");
    assert_ne!(marked.generation, before.generation, "no choice holds");
    let lists = |maps: &Maps| maps.service_list.count().expect("a count");
    assert_eq!(
        lists(maps),
        2,
        "who has just read the frontend finds its list"
    );
    assert_eq!(report.due_ms, Some(1000 + GRACE_MS));

    // It comes back meanwhile.
    shop.backend(2, 7);
    reconciler.sync(1001, &shop.desired);
    let row = maps.backend.get(&2).expect("a look-up").expect("a row");
    assert_eq!((row.flags & 3, row.generation), (3, 7));
    let report = reconciler.sync(1000 + GRACE_MS, &shop.desired);
    assert_eq!(deleted(&report), 1, "the list");
    shop.is_in(maps);
    shop.without_backend(2);
    reconciler.sync(20_000, &shop.desired);
    reconciler.sync(20_000 + GRACE_MS, &shop.desired);
    assert_eq!(maps.backend.get(&2).expect("a look-up"), None);
    shop.without_frontend(1);
    let report = reconciler.sync(40_000, &shop.desired);
    assert_eq!(deleted(&report), 1, "frontends have no grace");
}

#[test]
fn a_frontend_whose_list_finds_no_room_stays_what_it_was_and_recovers() {
    let Some(()) = root() else { return };
    let node = Node::new("svc-full");
    let maps = &maps_alone(&node, &node.config());
    let mut shop = Shop::default();
    shop.list(1, &(1..=1000).collect::<Vec<_>>());
    shop.frontend(1, (1, 1000), (1, 1000), 0);
    shop.mark_complete();
    let mut reconciler = reconciler(&node, maps);
    let report = reconciler.sync(0, &shop.desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let kept = maps.service.dump().expect("a dump");

    // 1024 are all that there is room for: of these hundred, 24.
    let mut all: Vec<u32> = (1..=1100).collect();
    shop.without_list(1);
    shop.list(2, &all);
    shop.list(3, &[1, 2]);
    shop.frontend(1, (2, 1100), (2, 1100), 0);
    shop.frontend(2, (3, 2), (3, 2), 0);
    let mut report = reconciler.sync(1, &shop.desired);
    let failing = &report.tables["services"].failing;
    assert_eq!(failing.len(), 1, "{report:?}");
    let (name, error) = &failing[0];
    assert_eq!(name, "10.96.0.1:80/TCP");
    assert!(error.contains("backend 10"), "{error}");
    assert_eq!(report.tables["backends"].failing_rows, 76);
    let full = &report.tables["backends"].failing[0].1;
    assert!(full.contains("axon_backend_v1 is full at 1024"), "{full}");
    for _ in 0..10 {
        // Whatever time goes by, the old list is there as long as the frontend.
        report = reconciler.sync(report.due_ms.expect("a retry"), &shop.desired);
        let now = maps.service.dump().expect("a dump");
        assert!(kept.iter().all(|row| now.contains(row)), "{now:?}");
        order::whole(maps).expect("whole");
    }
    assert_eq!(
        maps.service.count().expect("a count"),
        2,
        "the other is there"
    );

    all.truncate(1010);
    shop.without_list(2);
    shop.list(4, &all);
    for id in 1011..=1100 {
        shop.without_backend(id);
    }
    shop.frontend(1, (4, 1010), (4, 1010), 0);
    for _ in 0..4 {
        let Some(due_ms) = report.due_ms else { break };
        report = reconciler.sync(due_ms, &shop.desired);
    }
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    shop.is_in(maps);
}
