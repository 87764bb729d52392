//! Desired rows in the kernel's maps and routes.

mod common;

use axon_abi::{
    ClassKey, ClassRow, Identity, IdentityRow, IpKey, IpcacheRow, LpmKey, PolicyEntry,
    PolicyEntryFlags, PolicyKey,
};
use axon_linux::{KernelReconciler, MapError, ReconcilerConfig};
use axon_model::{PolicyRows, Route};
use common::monitor::Monitor;
use common::{Node, Pod, complete, desired, maps_alone, reconciler, root};

fn set(number: u32, class: u32) -> PolicyRows {
    let class_key = ClassKey {
        set: number,
        identity: Identity(1000),
    };
    let key = PolicyKey {
        set: number,
        class,
        ..PolicyKey::default()
    };
    PolicyRows {
        classes: [(class_key, ClassRow { class })].into_iter().collect(),
        entries: [(
            key,
            PolicyEntry {
                precedence: 1,
                ..PolicyEntry::default()
            },
        )]
        .into_iter()
        .collect(),
        ..PolicyRows::default()
    }
}

#[test]
fn every_change_of_endpoints_has_a_version_of_its_own() {
    let Some(()) = root() else { return };
    let node = Node::new("version");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let desired = desired(&[&pod]);
    let mut reconciler = reconciler(&node, maps);
    let mut seen = std::collections::BTreeSet::new();
    let mut is_new = |what: &str| {
        let version = maps.rows_version.get(&0).expect("a look-up");
        let version = version.expect("a version");
        assert_eq!(version % 2, 1, "copies may be made: {what}");
        assert!(seen.insert(version), "{what}: {version} again");
    };
    reconciler.sync(0, &desired);
    is_new("a row is written");
    desired.endpoints.replace([(pod.ifindex, pod.row(1001, 1))]);
    reconciler.sync(0, &desired);
    is_new("it changes");
    desired.endpoints.replace([(pod.ifindex, pod.row(1001, 9))]);
    reconciler.sync(0, &desired);
    let row = maps.endpoint.get(&pod.ifindex).expect("a look-up");
    assert_eq!(row.map(|row| row.policy_set), Some(1), "set 9 is not there");
    // As an agent leaves it that is killed in the midst.
    maps.rows_version.insert(&0, &1000).expect("written");
    desired.endpoints.replace([]);
    reconciler.sync(60_000, &desired);
    is_new("it goes");
    reconciler.full(60_000, &desired);
    is_new("everything is looked at");
}

#[test]
fn a_policy_set_is_whole_before_and_stays_while_endpoints_use_it() {
    let Some(()) = root() else { return };
    let node = Node::new("sets");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let desired = desired(&[&pod]);
    let mut reconciler = reconciler(&node, maps);

    desired.endpoints.replace([(pod.ifindex, pod.row(1000, 7))]);
    let report = reconciler.sync(0, &desired);
    assert_eq!(report.tables["endpoints"].failing_rows, 1, "{report:?}");
    assert!(
        maps.endpoint
            .get(&pod.ifindex)
            .expect("a look-up")
            .is_none(),
        "set 7 is not there"
    );

    desired.policy_sets.replace([(7, set(7, 16))]);
    let report = reconciler.sync(report.due_ms.expect("a retry"), &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    assert!(reconciler.endpoint_enforced(pod.ifindex, &pod.row(1000, 7)));
    assert!(!reconciler.endpoint_enforced(pod.ifindex, &pod.row(1000, 1)));
    assert_eq!(maps.address.count().expect("a count"), 2);

    desired.policy_sets.replace([(8, set(8, 17))]);
    desired.endpoints.replace([(pod.ifindex, pod.row(1000, 8))]);
    reconciler.sync(1000, &desired);
    assert!(
        maps.policy_set.get(&7).expect("a look-up").is_some(),
        "within its grace"
    );
    let report = reconciler.sync(4000, &desired);
    assert_eq!(
        report.tables["policy-sets"].deleted, 2,
        "sets 1 and 7: {report:?}"
    );
    assert_eq!(maps.policy_set.dump().expect("a dump").len(), 1);
    assert_eq!(
        (
            maps.class.count().expect("a count"),
            maps.policy.count().expect("a count")
        ),
        (1, 1)
    );

    desired.policy_sets.replace([]);
    reconciler.sync(5000, &desired);
    let report = reconciler.sync(9000, &desired);
    assert_eq!(
        report.tables["policy-sets"].failing_rows, 1,
        "the endpoint still names it: {report:?}"
    );
    assert!(maps.policy_set.get(&8).expect("a look-up").is_some());
}

/// A set that denies these identities what it allows all others.
fn telling(number: u32, told: &[(u32, u32)]) -> PolicyRows {
    let mut rows = PolicyRows::default();
    for (identity, class) in told {
        let one = set(number, *class);
        let key = ClassKey {
            set: number,
            identity: Identity(*identity),
        };
        rows.classes.insert(key, ClassRow { class: *class });
        for (key, entry) in &one.entries {
            let flags = PolicyEntryFlags::DENY;
            rows.entries.insert(*key, PolicyEntry { flags, ..*entry });
        }
    }
    rows.set.ingress_prefixes = 1;
    rows
}

#[test]
fn whoever_is_known_is_in_its_class_while_identities_come_and_go() {
    const GRACE_MS: u64 = 2000;
    let Some(()) = root() else { return };
    let node = Node::new("classes");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let desired = desired(&[&pod]);
    let mut reconciler = reconciler(&node, maps);
    let addr = IpKey::from_v4([10, 7, 0, 77]);
    let mut put = |now_ms: u64, guest: Option<u32>| {
        let told: Vec<(u32, u32)> = guest.map(|class| (2000, class)).into_iter().collect();
        desired
            .policy_sets
            .write(|txn| txn.insert(1, telling(1, &told)));
        desired.identities.write(|txn| match guest {
            Some(_) => txn.insert(Identity(2000), IdentityRow::default()),
            None => txn.remove(&Identity(2000)).is_some(),
        });
        let row = IpcacheRow {
            identity: Identity(2000),
            ..IpcacheRow::default()
        };
        desired.ipcache.write(|txn| match guest {
            Some(_) => txn.insert(addr, row),
            None => txn.remove(&addr).is_some(),
        });
        let report = reconciler.sync(now_ms, &desired);
        assert_eq!(report.failing_rows(), 0, "{report:?}");
        report.due_ms
    };
    let key = ClassKey {
        set: 1,
        identity: Identity(2000),
    };
    let class = || {
        maps.class
            .get(&key)
            .expect("a look-up")
            .map(|row| row.class)
    };
    let entries = || maps.policy.count().expect("a count");
    assert_eq!(put(0, Some(17)), None);
    assert_eq!((class(), entries()), (Some(17), 1));
    let due = put(10, None);
    assert_eq!(
        (class(), entries()),
        (Some(17), 1),
        "packets in flight find them"
    );
    assert_eq!(maps.identity.get(&Identity(2000)).expect("a look-up"), None);
    assert_eq!(due, Some(10 + GRACE_MS));
    put(20, Some(18));
    assert_eq!(
        (class(), entries()),
        (Some(18), 2),
        "back, and in another class"
    );
    put(10 + GRACE_MS, Some(18));
    assert_eq!(class(), Some(18), "what is wanted again does not go");
    put(20 + 2 * GRACE_MS, Some(18));
    assert_eq!(entries(), 1, "the entries of the class that nobody is in");
    let due = put(30_000, None).expect("a row goes");
    assert_eq!((put(due, None), class()), (Some(due + GRACE_MS), None));
    assert_eq!(entries(), 1, "they outlive the rows that lead to them");
    assert_eq!((put(due + GRACE_MS, None), entries()), (None, 0));

    // As the programs look: the address, whether it is somebody, who that is
    // here. Meanwhile the guest comes, changes class, goes and comes back.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0_u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let known = || {
                    maps.identity
                        .get(&Identity(2000))
                        .expect("a look-up")
                        .is_some()
                };
                if maps.ipcache.get(&addr).expect("a look-up").is_none() || !known() {
                    continue;
                }
                let entry_of = |class| {
                    let key = PolicyKey {
                        set: 1,
                        class,
                        ..PolicyKey::default()
                    };
                    maps.policy.get(&key).expect("a look-up")
                };
                let told = class();
                if told.and_then(entry_of).is_none() {
                    // Unless the look-ups took so long that it was somebody
                    // else by then, or gone.
                    let still = class() == told && told.and_then(entry_of).is_none();
                    let wrong = still && class() == told && known();
                    assert!(!wrong, "known, and in class {told:?} without an entry");
                }
                seen += 1;
            }
            seen
        });
        for round in 0..400_u64 {
            let now_ms = 100_000 + round * GRACE_MS;
            put(now_ms, Some(17 + (round % 3) as u32));
            put(now_ms + 1, Some(20));
            put(now_ms + 2, None);
            if round % 2 == 0 {
                put(now_ms + 3, Some(21));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(
            reader.join().expect("the reader") > 0,
            "it never met the guest"
        );
    });
}

#[test]
fn an_identity_that_a_set_cannot_tell_apart_stays_unknown() {
    let Some(()) = root() else { return };
    let node = Node::new("untold");
    let pod = Pod::create(&node, 1);
    let mut config = node.config();
    config.map_sizes.insert("axon_class_v1".to_owned(), 2);
    let maps = &maps_alone(&node, &config);
    let desired = desired(&[&pod]);
    let mut reconciler = reconciler(&node, maps);
    let told: Vec<(u32, u32)> = (2000..2003).map(|id| (id, 17)).collect();
    desired
        .policy_sets
        .write(|txn| txn.insert(1, telling(1, &told[..2])));
    desired
        .identities
        .replace([1000, 2000, 2001].map(|id| (Identity(id), IdentityRow::default())));
    assert_eq!(reconciler.sync(0, &desired).failing_rows(), 0);
    desired
        .policy_sets
        .write(|txn| txn.insert(1, telling(1, &told)));
    for id in [2002, 2003] {
        desired
            .identities
            .write(|txn| txn.insert(Identity(id), IdentityRow::default()));
    }
    let report = reconciler.sync(10, &desired);
    assert_eq!(report.failing_rows(), 2, "{report:?}");
    let known = |id| {
        maps.identity
            .get(&Identity(id))
            .expect("a look-up")
            .is_some()
    };
    assert!(known(2003), "the set does not tell it apart");
    assert!(!known(2002), "its default class is allowed more");
    desired
        .policy_sets
        .write(|txn| txn.insert(1, telling(1, &told[1..])));
    desired.identities.write(|txn| txn.remove(&Identity(2000)));
    for now_ms in [20, 4000, 8000] {
        reconciler.sync(now_ms, &desired);
    }
    assert!(known(2002), "there is room");
}

#[test]
fn a_full_pass_repairs_what_somebody_else_changed() {
    let Some(()) = root() else { return };
    let node = Node::new("repair");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let desired = desired(&[&pod]);
    desired.policy_sets.replace([(1, set(1, 16))]);
    let mut reconciler = reconciler(&node, maps);
    reconciler.sync(0, &desired);

    let (v4, v6) = (
        IpKey::from_v4([10, 7, 0, 1]),
        IpKey::from_v4([10, 7, 0, 99]),
    );
    maps.address.remove(&v4).expect("removed");
    maps.address.insert(&v6, &pod.row(5, 5)).expect("inserted");
    maps.policy
        .insert(
            &PolicyKey {
                set: 1,
                class: 99,
                ..PolicyKey::default()
            },
            &PolicyEntry::default(),
        )
        .expect("inserted");
    maps.class
        .insert(
            &ClassKey {
                set: 66,
                identity: Identity(5),
            },
            &ClassRow { class: 20 },
        )
        .expect("inserted");
    maps.ipcache
        .insert(&v6, &IpcacheRow::default())
        .expect("inserted");
    maps.policy_set.remove(&1).expect("removed");
    let report = reconciler.full(10_000, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    reconciler.sync(20_000, &desired);
    assert!(reconciler.endpoint_enforced(pod.ifindex, &pod.row(1000, 1)));
    assert!(maps.address.get(&v6).expect("a look-up").is_none());
    assert_eq!(maps.policy.count().expect("a count"), 1);
    assert_eq!(maps.class.count().expect("a count"), 1);
    assert_eq!(maps.ipcache.count().expect("a count"), 2);
    let report = reconciler.full(30_000, &desired);
    let changed: usize = report
        .tables
        .values()
        .map(|table| table.updated + table.deleted)
        .sum();
    assert_eq!(changed, 0, "nothing is left to repair: {report:?}");
}

#[test]
fn a_full_map_names_itself_and_recovers() {
    let Some(()) = root() else { return };
    let node = Node::new("full");
    let mut config = node.config();
    for map in ["axon_identity_v1", "axon_ipcache_cidr_v1", "axon_policy_v1"] {
        config.map_sizes.insert(map.to_owned(), 4);
    }
    let maps = &maps_alone(&node, &config);
    let mut reconciler = reconciler(&node, maps);
    let desired = axon_model::Desired::default();
    desired
        .identities
        .replace((1000..1005).map(|n| (Identity(n), IdentityRow::default())));
    desired.ipcache_cidrs.replace((0..5).map(|n| {
        let addr = IpKey::from_v4([10, n, 0, 0]);
        (
            LpmKey {
                prefix_bits: 112,
                addr,
            },
            IpcacheRow::default(),
        )
    }));
    let mut large = set(3, 16);
    large.entries = (16..21)
        .map(|class| {
            (
                PolicyKey {
                    set: 3,
                    class,
                    ..PolicyKey::default()
                },
                PolicyEntry::default(),
            )
        })
        .collect();
    desired.policy_sets.replace([(3, large)]);
    complete(&desired);
    let report = reconciler.sync(0, &desired);
    for (table, text) in [
        ("identities", "axon_identity_v1 is full at 4 of 4 entries"),
        (
            "ipcache-cidrs",
            "axon_ipcache_cidr_v1 is full at 4 of 4 entries",
        ),
        ("policy-sets", "axon_policy_v1 is full at 4 of 4 entries"),
    ] {
        assert_eq!(report.tables[table].failing[0].1, text, "{report:?}");
    }
    assert_eq!(
        maps.policy.count().expect("a count"),
        0,
        "half a set takes no room"
    );
    assert!(matches!(
        maps.identity.insert(&Identity(7), &IdentityRow::default()),
        Err(MapError::Full {
            map: "axon_identity_v1",
            entries_max: 4,
            ..
        })
    ));
    let epoch = || {
        maps.config
            .get(&0)
            .expect("a look-up")
            .unwrap_or_default()
            .epoch
    };
    desired.config.replace([(
        0,
        axon_abi::RuntimeConfig {
            epoch: 7,
            ..Default::default()
        },
    )]);
    let partial = || {
        let row = maps.config.get(&0).expect("a look-up").unwrap_or_default();
        row.flags & axon_abi::ConfigFlags::IPCACHE_PARTIAL != 0
    };
    let report = reconciler.sync(1, &desired);
    let before = epoch();
    assert!(report.ipcache_partial && partial(), "a prefix is missing");
    desired.identities.write(|txn| txn.remove(&Identity(1000)));
    reconciler.sync(100, &desired);
    let report = reconciler.sync(60_000, &desired);
    assert_eq!(report.tables["identities"].failing_rows, 0, "{report:?}");
    assert!(report.ipcache_partial && partial(), "it still is");
    assert_ne!(
        epoch(),
        before,
        "verdicts are made again from the row that came late"
    );
    assert_eq!(
        reconciler.full(60_001, &desired).tables["config"].updated,
        0
    );
    // What another agent finds, and has to set right.
    let config = ReconcilerConfig::default();
    let mut next = node.run(|| KernelReconciler::new(maps.clone(), config));
    next.full(60_002, &desired);
    assert!(partial());
    let gone = desired.ipcache_cidrs.snapshot();
    let (gone, _) = gone.iter().next().expect("a prefix");
    desired.ipcache_cidrs.write(|txn| txn.remove(gone));
    next.sync(60_003, &desired);
    let report = next.sync(200_000, &desired);
    assert!(!report.ipcache_partial && !partial(), "{report:?}");
}

#[test]
fn routes_of_ours_follow_the_table_and_others_stay() {
    let Some(()) = root() else { return };
    let node = Node::new("routes");
    node.run(|| common::veth::add("up0", 0, "up1", 1500));
    for args in [
        &["link", "set", "up0", "up"][..],
        &["link", "set", "up1", "up"],
        &["addr", "add", "192.0.2.1/24", "dev", "up0"],
        &["-6", "addr", "add", "2001:db8::1/64", "dev", "up0", "nodad"],
        &["route", "add", "198.51.100.0/24", "via", "192.0.2.77"],
    ] {
        assert!(node.exec("ip", args).status.success(), "{args:?}");
    }
    let maps = maps_alone(&node, &node.config());
    let mut reconciler = reconciler(&node, &maps);
    let desired = axon_model::Desired::default();
    let (v4, v6) = (
        "10.8.0.0/24".parse().expect("a prefix"),
        "fd08::/64".parse().expect("a prefix"),
    );
    let via = |text: &str| Route {
        via: text.parse().expect("an address"),
    };
    desired
        .routes
        .replace([(v4, via("192.0.2.2")), (v6, via("2001:db8::2"))]);
    complete(&desired);
    let report = reconciler.sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let routes = |family: &str| {
        let output = node.exec("ip", &[family, "route", "show", "proto", "0x61"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(
        routes("-4").contains("10.8.0.0/24 via 192.0.2.2 dev up0"),
        "{}",
        routes("-4")
    );
    assert!(
        routes("-6").contains("fd08::/64 via 2001:db8::2 dev up0"),
        "{}",
        routes("-6")
    );

    let mut monitor = Monitor::start(&node);
    // An agent that starts anew learns of its rows one after the other.
    let mut reconciler = common::reconciler(&node, &maps);
    let desired = axon_model::Desired::default();
    reconciler.sync(0, &desired);
    desired
        .routes
        .replace([(v4, via("192.0.2.2")), (v6, via("2001:db8::2"))]);
    complete(&desired);
    let report = reconciler.sync(1, &desired);
    assert_eq!(report.tables["routes"].updated, 2, "{report:?}");
    desired
        .routes
        .replace([(v4, via("192.0.2.3")), (v6, via("2001:db8::3"))]);
    reconciler.sync(2, &desired);
    let seen = monitor.until("fd08::/64 via 2001:db8::3");
    assert!(!seen.contains("Deleted"), "never without a route: {seen}");
    assert!(routes("-4").contains("via 192.0.2.3") && !routes("-4").contains("192.0.2.2"));
    assert!(routes("-6").contains("via 2001:db8::3") && !routes("-6").contains("2001:db8::2"));
    node.exec("ip", &["route", "del", "10.8.0.0/24"]);
    reconciler.full(2, &desired);
    assert!(
        routes("-4").contains("10.8.0.0/24 via 192.0.2.3"),
        "{}",
        routes("-4")
    );
    let report = reconciler.full(3, &desired);
    assert_eq!(report.tables["routes"].updated, 0, "{report:?}");
    desired.routes.replace([]);
    reconciler.sync(4, &desired);
    assert_eq!((routes("-4"), routes("-6")), (String::new(), String::new()));
    let others = node.exec("ip", &["route"]);
    assert!(String::from_utf8_lossy(&others.stdout).contains("198.51.100.0/24"));
}
