//! Policy sets that change in place, and endpoints that change sets: whoever is
//! known is in his class, wherever he may be asked about.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use axon_abi::{
    ClassKey, ClassRow, Identity, IdentityRow, IpKey, IpcacheRow, PolicyEntry, PolicyEntryFlags,
    PolicyKey, PolicySetFlags,
};
use axon_linux::{KernelReconciler, Maps, ReconcileReport, ReconcilerConfig};
use axon_model::{Desired, PolicyRows};
use common::{Node, Pod, complete, desired, maps_alone, reconciler, root};

const GRACE_MS: u64 = 2000;

/// A set that denies identities what it allows all others, each in a class with
/// so many entries.
fn telling(number: u32, told: &[(u32, u32)], entries: u16) -> PolicyRows {
    let mut rows = PolicyRows::default();
    rows.set.ingress_prefixes = 1 | 1 << 16;
    for (identity, class) in told {
        let key = ClassKey {
            set: number,
            identity: Identity(*identity),
        };
        rows.classes.insert(key, ClassRow { class: *class });
        for port in 0..entries {
            let key = entry_key(number, *class, port);
            rows.entries.insert(key, entry(PolicyEntryFlags::DENY));
        }
    }
    rows
}

fn entry(flags: u16) -> PolicyEntry {
    PolicyEntry {
        precedence: 1,
        flags,
        ..PolicyEntry::default()
    }
}

fn entry_key(set: u32, class: u32, port: u16) -> PolicyKey {
    PolicyKey {
        set,
        class,
        port: port.into(),
        ..PolicyKey::default()
    }
}

fn class_of(maps: &Maps, set: u32, identity: u32) -> Option<u32> {
    let key = ClassKey {
        set,
        identity: Identity(identity),
    };
    maps.class
        .get(&key)
        .expect("a look-up")
        .map(|row| row.class)
}

fn known(maps: &Maps, identity: u32) -> bool {
    let row = maps.identity.get(&Identity(identity));
    row.expect("a look-up").is_some()
}

fn set_of(maps: &Maps, pod: &Pod) -> u32 {
    let row = maps.endpoint.get(&pod.ifindex).expect("a look-up");
    row.expect("an endpoint").policy_set
}

fn come(desired: &Desired, identity: u32) {
    let row = IdentityRow::default();
    desired
        .identities
        .write(|txn| txn.insert(Identity(identity), row));
}

fn go(desired: &Desired, identity: u32) {
    desired
        .identities
        .write(|txn| txn.remove(&Identity(identity)));
}

/// Passes whenever one is due, until `until_ms`.
fn passes(
    reconciler: &mut KernelReconciler,
    desired: &Desired,
    from_ms: u64,
    until_ms: u64,
) -> ReconcileReport {
    let mut report = reconciler.sync(from_ms, desired);
    while let Some(due_ms) = report.due_ms.filter(|due_ms| *due_ms <= until_ms) {
        report = reconciler.sync(due_ms, desired);
    }
    report
}

#[test]
fn nobody_becomes_known_to_a_set_that_is_not_followed_any_more() {
    let Some(()) = root() else { return };
    let node = Node::new("frozen");
    let pod = Pod::create(&node, 1);
    let mut config = node.config();
    config.map_sizes.insert("axon_policy_v1".to_owned(), 4);
    let maps = &maps_alone(&node, &config);
    let wanted = desired(&[&pod]);
    wanted.policy_sets.replace([(1, telling(1, &[], 0))]);
    let mut first = reconciler(&node, maps);
    assert_eq!(first.sync(0, &wanted).failing_rows(), 0);

    // Policy changes and somebody comes, whom only the new set tells apart: it
    // does not fit.
    wanted
        .policy_sets
        .replace([(1, telling(1, &[], 0)), (2, telling(2, &[(2000, 17)], 8))]);
    wanted.endpoints.replace([(pod.ifindex, pod.row(1000, 2))]);
    come(&wanted, 2000);
    passes(&mut first, &wanted, 10, 10_000);
    assert_eq!(set_of(maps, &pod), 1, "what is in force stays");
    assert!(!known(maps, 2000), "set 1 does not tell him apart");
    assert!(known(maps, 1000), "who was known stays so");
    wanted
        .policy_sets
        .write(|txn| txn.insert(2, telling(2, &[(2000, 17)], 1)));
    first.sync(10_001, &wanted);
    assert_eq!((set_of(maps, &pod), known(maps, 2000)), (2, true));

    // Another agent does not know yet what is in force, but who is there.
    let mut second = node.run(|| KernelReconciler::new(maps.clone(), ReconcilerConfig::default()));
    let again = Desired::default();
    for identity in [1000, 2000, 2001] {
        come(&again, identity);
    }
    second.full(0, &again);
    assert!(known(maps, 2000) && !known(maps, 2001));
    let told = telling(2, &[(2000, 17), (2001, 17)], 1);
    again.policy_sets.replace([(2, told)]);
    again.endpoints.replace([(pod.ifindex, pod.row(1000, 2))]);
    complete(&again);
    let report = second.full(10, &again);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    assert!(known(maps, 2001));
    assert_eq!(class_of(maps, 2, 2001), Some(17));
}

/// An endpoint whose policy does not fit keeps only those unknown whom what it
/// has would allow too much.
#[test]
fn an_overfull_endpoint_is_its_own_loss() {
    let Some(()) = root() else { return };
    let node = Node::new("overfull");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let mut config = node.config();
    config.map_sizes.insert("axon_policy_v1".to_owned(), 4);
    let maps = &maps_alone(&node, &config);
    let wanted = desired(&[&a, &b]);
    // What each allows all pods, and nobody else anything.
    let closed = |set: u32, mut rows: PolicyRows| {
        let pods = axon_abi::class::default_of(axon_abi::Scope::Cluster);
        rows.set.flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
        rows.entries.insert(entry_key(set, pods, 0), entry(0));
        rows
    };
    let small = closed(1, telling(1, &[], 0));
    let large = closed(3, telling(3, &[(2001, 17)], 8));
    wanted
        .policy_sets
        .replace([(1, small), (2, PolicyRows::default())]);
    wanted
        .endpoints
        .replace([(a.ifindex, a.row(1000, 1)), (b.ifindex, b.row(1000, 2))]);
    let mut reconciler = reconciler(&node, maps);
    assert_eq!(reconciler.sync(0, &wanted).failing_rows(), 0);

    wanted.policy_sets.write(|txn| {
        txn.remove(&1);
        txn.insert(3, large);
    });
    wanted
        .endpoints
        .write(|txn| txn.insert(a.ifindex, a.row(1000, 3)));
    come(&wanted, 2000);
    come(&wanted, 2001);
    let report = passes(&mut reconciler, &wanted, 10, 10_000);
    assert_eq!(set_of(maps, &a), 1, "what is in force stays");
    assert!(known(maps, 2000), "he may what all pods may");
    assert!(!known(maps, 2001), "set 1 would allow what set 3 denies");
    let (row, error) = &report.tables["identities"].failing[0];
    assert_eq!(row, "2001");
    let name = format!("set 1, which endpoint 1 at device {} has", a.ifindex);
    assert!(error.contains(&name), "{error}");

    // The large one takes less room now.
    let fits = closed(3, telling(3, &[(2001, 17)], 1));
    wanted.policy_sets.write(|txn| txn.insert(3, fits));
    let report = passes(&mut reconciler, &wanted, 10_001, 30_000);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    assert_eq!((set_of(maps, &a), known(maps, 2001)), (3, true));
}

/// A set that waits to go, and comes back when there is no room for somebody
/// who has come meanwhile, is no endpoint's until there is.
#[test]
fn no_endpoint_gets_a_set_that_lacks_the_row_of_somebody_known() {
    let Some(()) = root() else { return };
    let node = Node::new("lacks");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let mut config = node.config();
    config.map_sizes.insert("axon_class_v1".to_owned(), 2);
    let maps = &maps_alone(&node, &config);
    let wanted = desired(&[&a]);
    wanted.policy_sets.replace([(1, telling(1, &[], 0))]);
    let mut reconciler = reconciler(&node, maps);
    assert_eq!(reconciler.sync(0, &wanted).failing_rows(), 0);
    let two = telling(2, &[(2000, 17), (2001, 17)], 1);
    wanted.policy_sets.replace([(2, two)]);
    wanted.endpoints.replace([(a.ifindex, a.row(1000, 2))]);
    come(&wanted, 2000);
    come(&wanted, 2001);
    assert_eq!(reconciler.sync(10, &wanted).failing_rows(), 0);
    assert!(known(maps, 2000) && known(maps, 2001));

    let one = telling(1, &[(2000, 17)], 1);
    wanted.policy_sets.write(|txn| txn.insert(1, one));
    wanted
        .endpoints
        .write(|txn| txn.insert(b.ifindex, b.row(1000, 1)));
    let report = reconciler.sync(20, &wanted);
    let row = maps.endpoint.get(&b.ifindex).expect("a look-up");
    assert_eq!(row, None, "2000 is denied by set 1");
    let text = "policy set 1 lacks the row of identity 2000, whom it would allow too much";
    assert_eq!(report.tables["endpoints"].failing[0].1, text, "{report:?}");

    let two = telling(2, &[(2000, 17)], 1);
    wanted.policy_sets.write(|txn| txn.insert(2, two));
    go(&wanted, 2001);
    let report = passes(&mut reconciler, &wanted, 30, 30_000);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    assert_eq!((set_of(maps, &b), class_of(maps, 1, 2000)), (1, Some(17)));
}

#[test]
fn a_class_row_stays_while_its_identity_is_known() {
    let Some(()) = root() else { return };
    let node = Node::new("stays");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let wanted = desired(&[&pod]);
    let rows = |told: &[(u32, u32)]| telling(1, told, 1);
    wanted.policy_sets.replace([(1, rows(&[(2000, 17)]))]);
    come(&wanted, 2000);
    let mut first = reconciler(&node, maps);
    assert_eq!(first.sync(0, &wanted).failing_rows(), 0);

    // Another agent, whose sources have not told everything: who is gone may
    // only not have been told.
    let mut second = node.run(|| KernelReconciler::new(maps.clone(), ReconcilerConfig::default()));
    let again = Desired::default();
    come(&again, 1000);
    again.policy_sets.replace([(1, rows(&[]))]);
    again.endpoints.replace([(pod.ifindex, pod.row(1000, 1))]);
    second.full(0, &again);
    passes(&mut second, &again, 1, 5 * GRACE_MS);
    assert!(known(maps, 2000));
    assert_eq!(class_of(maps, 1, 2000), Some(17));
    let entry = maps.policy.get(&entry_key(1, 17, 0)).expect("a look-up");
    assert!(entry.is_some(), "and so what his class says");

    complete(&again);
    second.full(6 * GRACE_MS, &again);
    assert!(!known(maps, 2000));
    assert_eq!(class_of(maps, 1, 2000), Some(17), "packets in flight");
    passes(&mut second, &again, 6 * GRACE_MS + 1, 20 * GRACE_MS);
    assert_eq!(class_of(maps, 1, 2000), None);
    assert_eq!(maps.policy.count().expect("a count"), 0);
}

#[test]
fn what_a_class_says_stays_while_somebody_is_in_it() {
    let Some(()) = root() else { return };
    let node = Node::new("says");
    let pod = Pod::create(&node, 1);
    let mut config = node.config();
    config.map_sizes.insert("axon_policy_v1".to_owned(), 4);
    let maps = &maps_alone(&node, &config);
    let wanted = desired(&[&pod]);
    let put = |rows| wanted.policy_sets.write(|txn| txn.insert(1, rows));
    put(telling(1, &[(2000, 17)], 1));
    come(&wanted, 2000);
    let mut reconciler = reconciler(&node, maps);
    assert_eq!(reconciler.sync(0, &wanted).failing_rows(), 0);
    let entry = |class| maps.policy.get(&entry_key(1, class, 0)).expect("a look-up");

    // The class that he changes to does not fit, for longer than any grace.
    put(telling(1, &[(2000, 18)], 8));
    let report = passes(&mut reconciler, &wanted, 10, 10 * GRACE_MS);
    assert_eq!(report.tables["policy-sets"].failing_rows, 1, "{report:?}");
    assert!(known(maps, 2000));
    assert_eq!(class_of(maps, 1, 2000), Some(17));
    assert!(entry(17).is_some(), "it may be what denies");

    // One that does, once what was written of the other is gone.
    put(telling(1, &[(2000, 19)], 2));
    let now_ms = 10 * GRACE_MS + 1;
    let report = passes(&mut reconciler, &wanted, now_ms, 20 * GRACE_MS);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    assert_eq!(class_of(maps, 1, 2000), Some(19));
    assert_eq!(entry(17), None, "nobody is in it any more");
    assert_eq!(maps.policy.count().expect("a count"), 2);
}

#[test]
fn who_fits_is_known_at_once_and_who_does_not_leaves_nothing_behind() {
    let Some(()) = root() else { return };
    let node = Node::new("fits");
    let pod = Pod::create(&node, 1);
    let mut config = node.config();
    config.map_sizes.insert("axon_class_v1".to_owned(), 2);
    let maps = &maps_alone(&node, &config);
    let wanted = desired(&[&pod]);
    let put = |told: &[u32]| {
        let told: Vec<(u32, u32)> = told.iter().map(|id| (*id, 17)).collect();
        wanted
            .policy_sets
            .write(|txn| txn.insert(1, telling(1, &told, 1)));
    };
    put(&[2000]);
    come(&wanted, 2000);
    let mut reconciler = reconciler(&node, maps);
    assert_eq!(reconciler.sync(0, &wanted).failing_rows(), 0);

    put(&[2000, 2001, 2002]);
    come(&wanted, 2001);
    come(&wanted, 2002);
    passes(&mut reconciler, &wanted, 10, 1000);
    assert!(known(maps, 2001), "its row is there");
    assert!(!known(maps, 2002), "there was no room");

    // Long after the last try and before the next one: one goes for whom
    // nothing was written, and the set is whole.
    put(&[2000, 2001]);
    go(&wanted, 2002);
    let report = reconciler.sync(1001, &wanted);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    put(&[2001, 2002]);
    go(&wanted, 2000);
    come(&wanted, 2002);
    passes(&mut reconciler, &wanted, 1100, 20_000);
    assert!(known(maps, 2002), "there is room");

    put(&[]);
    for identity in [2001, 2002] {
        go(&wanted, identity);
    }
    passes(&mut reconciler, &wanted, 20_001, 60_000);
    assert_eq!(maps.class.count().expect("a count"), 0);
    assert_eq!(maps.policy.count().expect("a count"), 0);
}

/// Rows that were written before the one that did not fit are known to be
/// there: they go with those they are about.
#[test]
fn half_a_change_is_taken_back() {
    let Some(()) = root() else { return };
    let node = Node::new("half");
    let pod = Pod::create(&node, 1);
    let mut config = node.config();
    config.map_sizes.insert("axon_class_v1".to_owned(), 3);
    let maps = &maps_alone(&node, &config);
    let wanted = desired(&[&pod]);
    let put = |told: std::ops::Range<u32>| {
        let told: Vec<(u32, u32)> = told.map(|id| (id, 17)).collect();
        wanted
            .policy_sets
            .write(|txn| txn.insert(1, telling(1, &told, 1)));
    };
    put(2000..2001);
    come(&wanted, 2000);
    let mut reconciler = reconciler(&node, maps);
    assert_eq!(reconciler.sync(0, &wanted).failing_rows(), 0);
    put(2000..2005);
    for identity in 2001..2005 {
        come(&wanted, identity);
    }
    passes(&mut reconciler, &wanted, 10, 1000);
    assert_eq!(maps.class.count().expect("a count"), 3);
    // A pass in which the set is not tried again.
    reconciler.sync(1001, &wanted);
    put(2000..2001);
    for identity in 2001..2005 {
        go(&wanted, identity);
    }
    passes(&mut reconciler, &wanted, 1002, 30_000);
    assert_eq!(maps.class.count().expect("a count"), 1);
    assert_eq!(class_of(maps, 1, 2000), Some(17));
}

/// The numbers of classes are hashes: one that nobody is in any more may be
/// another's by then.
#[test]
fn nobody_is_in_a_class_that_says_what_another_did() {
    let Some(()) = root() else { return };
    let node = Node::new("another");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let wanted = desired(&[&pod]);
    let put = |identity, entries| {
        let rows = telling(1, &[(identity, 17)], entries);
        wanted.policy_sets.write(|txn| txn.insert(1, rows));
    };
    put(2000, 2);
    come(&wanted, 2000);
    let mut reconciler = reconciler(&node, maps);
    assert_eq!(reconciler.sync(0, &wanted).failing_rows(), 0);
    put(2001, 1);
    go(&wanted, 2000);
    come(&wanted, 2001);
    passes(&mut reconciler, &wanted, 10, 10 + GRACE_MS);
    let left = || maps.policy.get(&entry_key(1, 17, 1)).expect("a look-up");
    assert!(left().is_some(), "packets in flight");
    assert!(!known(maps, 2001) && class_of(maps, 1, 2001).is_none());
    passes(&mut reconciler, &wanted, 11 + GRACE_MS, 10 * GRACE_MS);
    assert!(left().is_none() && known(maps, 2001));
    assert_eq!(class_of(maps, 1, 2001), Some(17));
}

/// As the programs look: whose set is asked, who an address is, whether that is
/// somebody, and in which class. Meanwhile the endpoint changes from set to set,
/// and a guest comes and goes in the same breath.
#[test]
fn a_guest_is_in_his_class_whatever_set_is_in_force() {
    let Some(()) = root() else { return };
    let node = Node::new("guest");
    let pod = Pod::create(&node, 1);
    let maps = &maps_alone(&node, &node.config());
    let wanted = desired(&[&pod]);
    let mut reconciler = reconciler(&node, maps);
    let guest = IpKey::from_v4([10, 7, 0, 77]);
    // What is written after the guest comes and taken before he goes: time in
    // which to look.
    let others = |net: u8| (0..200).map(move |n| IpKey::from_v4([10, net, 0, n]));
    let mut put = |now_ms: u64, set: u32, is_here: bool| {
        let told: &[(u32, u32)] = if is_here { &[(2000, 17)] } else { &[] };
        wanted.policy_sets.replace([(set, telling(set, told, 1))]);
        wanted
            .endpoints
            .replace([(pod.ifindex, pod.row(1000, set))]);
        let row = |identity| IpcacheRow {
            identity: Identity(identity),
            ..IpcacheRow::default()
        };
        let mut rows: Vec<(IpKey, IpcacheRow)> = Vec::new();
        if is_here {
            come(&wanted, 2000);
            rows.push((guest, row(2000)));
            rows.extend(others(6).chain(others(8)).map(|addr| (addr, row(1000))));
        } else {
            go(&wanted, 2000);
        }
        wanted.ipcache.replace(rows);
        let report = reconciler.sync(now_ms, &wanted);
        assert_eq!(report.failing_rows(), 0, "{report:?}");
    };
    put(0, 1, false);
    let look = || {
        let is_guest = maps.ipcache.get(&guest).expect("a look-up").is_some();
        (is_guest && known(maps, 2000)).then(|| {
            let set = set_of(maps, &pod);
            (set, class_of(maps, set, 2000))
        })
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut met = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let Some(seen) = look() else { continue };
                met += 1;
                if seen.1.is_none() {
                    // Unless he went, or came, while we looked.
                    let still = look() == Some(seen) && look() == Some(seen);
                    assert!(!still, "known, and set {} has no class for him", seen.0);
                }
            }
            met
        });
        for round in 0..80_u32 {
            let now_ms = u64::from(round) * 4 * GRACE_MS;
            let set = 10 + 2 * round;
            put(now_ms + 1, set, true);
            put(now_ms + 2, set + 1, false);
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("the reader") > 0, "it met nobody");
    });
}
