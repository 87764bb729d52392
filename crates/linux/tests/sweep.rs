//! What becomes of flows that expire, or whose address changes hands.

mod common;

use axon_abi::{
    CtEntry, CtKey4, CtKey6, CtState, EndpointRow, IpKey, NatEntry, NatKey, RuntimeConfig,
};
use axon_linux::Sweeper;
use common::{Node, maps_alone, root};

fn flow(n: u32) -> CtKey4 {
    CtKey4 {
        low: n.to_be_bytes(),
        protocol: 6,
        ..CtKey4::default()
    }
}

#[test]
fn the_sweep_removes_what_has_expired_and_counts_anew() {
    let Some(()) = root() else { return };
    let node = Node::new("sweep");
    let maps = &maps_alone(&node, &node.config());
    let entry = |expires_s, owner, state: CtState| CtEntry {
        expires_s,
        owner,
        state: state as u8,
        ..CtEntry::default()
    };
    for n in 0..10 {
        maps.ct4
            .insert(&flow(n), &entry(100 + n, 5, CtState::Established))
            .expect("a flow");
    }
    maps.ct6
        .insert(&CtKey6::default(), &entry(1000, 6, CtState::TwoWay))
        .expect("a flow");
    maps.ct_count.insert(&5, &77).expect("a count");
    maps.ct_count.insert(&9, &3).expect("a count");
    let mut sweeper = Sweeper::new(maps.clone());
    let report = sweeper.pass(104).expect("a pass");
    assert_eq!(
        (report.maps[0].removed, report.maps[0].entries),
        (5, 5),
        "{report:?}"
    );
    let count = |owner| {
        maps.ct_count
            .get(&owner)
            .expect("a count")
            .expect("a count")
    };
    assert_eq!((count(5), count(6), count(9)), (5, 1, 0));
    assert!(maps.ct4.get(&flow(4)).expect("a look-up").is_none());
    assert!(maps.ct4.get(&flow(5)).expect("a look-up").is_some());

    // Later passes look at those who own flows, owned some at the last pass, or are endpoints:
    // of the last kind somebody whose only flows came and went in between.
    let newcomer = EndpointRow {
        id: 7,
        ..EndpointRow::default()
    };
    maps.endpoint.insert(&70, &newcomer).expect("an endpoint");
    for (owner, wrong) in [(5, 50), (6, 60), (7, 70)] {
        maps.ct_count.insert(&owner, &wrong).expect("a count");
    }
    sweeper.pass(2000).expect("a pass");
    assert_eq!((count(5), count(6), count(7)), (0, 0, 0));
}

#[test]
fn who_comes_and_goes_between_two_sweeps_leaves_no_count() {
    let Some(()) = root() else { return };
    let node = Node::new("came");
    let maps = &maps_alone(&node, &node.config());
    let mut sweeper = Sweeper::new(maps.clone());
    sweeper.pass(10).expect("a pass");
    // It comes, opens flows, and goes; one that another address has is left.
    let row = EndpointRow {
        id: 8,
        ..EndpointRow::default()
    };
    maps.endpoint.insert(&80, &row).expect("an endpoint");
    let entry = CtEntry {
        expires_s: 1000,
        owner: 8,
        ..CtEntry::default()
    };
    let own: [u8; 4] = [10, 7, 0, 8];
    for n in 0..5 {
        let key = CtKey4 {
            low: own,
            high: [10, 7, 1, n],
            ..CtKey4::default()
        };
        maps.ct4.insert(&key, &entry).expect("a flow");
    }
    maps.ct_count.insert(&8, &6).expect("a count");
    assert!(maps.endpoint.remove(&80).expect("removed"));
    let flushed = Sweeper::new(maps.clone()).flush(&[own.into()], &[8]);
    assert_eq!(flushed.expect("flushed"), 5);
    sweeper.pass(11).expect("a pass");
    let count = || maps.ct_count.get(&8).expect("a count");
    assert_eq!(
        count(),
        Some(0),
        "the next with the number has its whole quota"
    );

    maps.ct4.insert(&flow(1), &entry).expect("a flow");
    let flushed = Sweeper::new(maps.clone()).flush(&[own.into()], &[8]);
    assert_eq!((flushed.expect("flushed"), count()), (0, Some(1)));
}

#[test]
fn the_sweep_makes_room_at_the_cost_of_half_open_flows() {
    let Some(()) = root() else { return };
    let node = Node::new("room");
    let maps = &maps_alone(&node, &node.config());
    let capacity = maps.ct4.capacity();
    for n in 0..capacity * 9 / 10 {
        let state = if n < 100 {
            CtState::Established
        } else {
            CtState::Opening
        };
        let entry = CtEntry {
            expires_s: 1000 + n,
            state: state as u8,
            ..CtEntry::default()
        };
        maps.ct4.insert(&flow(n), &entry).expect("a flow");
    }
    let before = maps.ct4.count().expect("a count");
    assert!(before * 100 > capacity * 80, "{before} of {capacity}");
    let report = Sweeper::new(maps.clone()).pass(10).expect("a pass");
    let row = report.maps[0];
    assert_eq!(
        (row.removed, row.evicted_early),
        (0, before - capacity * 75 / 100),
        "{row:?}"
    );
    assert!((0..100).all(|n| maps.ct4.get(&flow(n)).expect("a look-up").is_some()));
    assert!(
        maps.ct4.get(&flow(100)).expect("a look-up").is_none(),
        "the soonest to expire"
    );
}

#[test]
fn ended_flows_of_an_endpoint_near_its_quota_go_early() {
    let Some(()) = root() else { return };
    let node = Node::new("crowded");
    let maps = &maps_alone(&node, &node.config());
    let configure = |ct_quota| {
        let mut config = RuntimeConfig {
            ct_quota,
            ..RuntimeConfig::default()
        };
        config.timeouts.tcp_closing_s = 10;
        maps.config.insert(&0, &config).expect("a configuration");
    };
    configure(100);
    let insert = |n, expires_s, owner, state: CtState, denied| {
        let entry = CtEntry {
            expires_s,
            owner,
            state: state as u8,
            denied,
            ..CtEntry::default()
        };
        maps.ct4.insert(&flow(n), &entry).expect("a flow");
    };
    // At second 1000 a flow that ended in second 998 expires in second 1008.
    for n in 0..30 {
        insert(n, 9999, 5, CtState::Established, 0);
        insert(100 + n, 1008, 5, CtState::Closing, 0);
        insert(200 + n, 1009, 5, CtState::Closing, 0);
        insert(300 + n, 1002 + n % 3, 6, CtState::Closing, 0);
    }
    insert(400, 1001, 5, CtState::Closing, 133);
    insert(401, 1002, 5, CtState::Closing, 0);
    let report = Sweeper::new(maps.clone()).pass(1000).expect("a pass");
    let holds = |n| maps.ct4.get(&flow(n)).expect("a look-up").is_some();
    let left = |from: u32| (from..from + 30).filter(|n| holds(*n)).count();
    assert_eq!(left(0), 30, "what goes on stays");
    assert_eq!(left(100), 0, "what has ended goes");
    assert_eq!(left(200), 30, "but for what may have stragglers");
    assert_eq!(left(300), 30, "others have room");
    assert!(holds(400), "what policy cut stays cut");
    assert!(!holds(401));
    let row = report.maps[0];
    assert_eq!((row.removed, row.evicted_early, row.entries), (31, 0, 91));
    assert_eq!(report.crowding_percent, 61);
    assert_eq!(maps.ct_count.get(&5).expect("a count"), Some(61));
    // No more than it takes.
    configure(118);
    for n in 0..30 {
        insert(100 + n, 1008 - n / 28, 5, CtState::Closing, 0);
    }
    let report = Sweeper::new(maps.clone()).pass(1000).expect("a pass");
    assert_eq!(report.maps[0].removed, 30, "91 are more than 59 by 32");
    configure(124);
    for n in 0..30 {
        insert(100 + n, 1008 - n / 28, 5, CtState::Closing, 0);
    }
    let report = Sweeper::new(maps.clone()).pass(1000).expect("a pass");
    assert_eq!(report.maps[0].removed, 29, "91 are more than 62 by 29");
    assert!(!holds(128) && !holds(129), "the longest ended first");
}

#[test]
fn what_is_no_longer_doomed_is_not_removed() {
    let Some(()) = root() else { return };
    let node = Node::new("doomed");
    let maps = maps_alone(&node, &node.config());
    let map = &maps.ct4;
    let entry = |expires_s| CtEntry {
        expires_s,
        ..CtEntry::default()
    };
    map.insert(&flow(1), &entry(5)).expect("a flow");
    let looks = std::cell::Cell::new(0);
    // A packet comes between the first look and the removal.
    let doomed = |found: &CtEntry| {
        if looks.replace(looks.get() + 1) == 0 {
            map.insert(&flow(1), &entry(50)).expect("a flow");
        }
        found.expires_s <= 10
    };
    assert!(!map.remove_if(&flow(1), doomed).expect("a look"));
    assert_eq!(looks.get(), 2);
    assert_eq!(map.get(&flow(1)).expect("a look-up"), Some(entry(50)));
    assert!(!map.remove_if(&flow(2), |_| true).expect("a look"));
    assert!(map.remove_if(&flow(1), |_| true).expect("a look"));
    assert!(map.get(&flow(1)).expect("a look-up").is_none());
}

#[test]
fn an_address_given_anew_starts_without_flows() {
    let Some(()) = root() else { return };
    let node = Node::new("flush");
    let maps = &maps_alone(&node, &node.config());
    let (old, other) = ([10, 7, 0, 1], [10, 7, 0, 2]);
    let peer = [192, 0, 2, 1];
    for (low, high) in [(old, peer), (old, other), (other, peer)] {
        maps.ct4
            .insert(
                &CtKey4 {
                    low,
                    high,
                    ..CtKey4::default()
                },
                &CtEntry::default(),
            )
            .expect("a flow");
    }
    let outbound = NatKey {
        source: IpKey::from_v4(old),
        ..NatKey::default()
    };
    let inbound = NatKey {
        inbound: 1,
        source: IpKey::from_v4(peer),
        ..NatKey::default()
    };
    maps.nat
        .insert(&outbound, &NatEntry::default())
        .expect("a translation");
    let entry = NatEntry {
        addr: IpKey::from_v4(old),
        ..NatEntry::default()
    };
    maps.nat.insert(&inbound, &entry).expect("a translation");
    let removed = Sweeper::new(maps.clone()).flush(&["10.7.0.1".parse().expect("an address")], &[]);
    assert_eq!(removed.expect("flushed"), 4);
    assert_eq!(
        (
            maps.ct4.count().expect("a count"),
            maps.nat.count().expect("a count")
        ),
        (1, 0)
    );
}
