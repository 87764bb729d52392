//! What becomes of flows that expire, or whose address changes hands.

mod common;

use axon_abi::{CtEntry, CtKey4, CtKey6, CtState, IpKey, NatEntry, NatKey};
use axon_linux::Sweeper;
use common::{Node, open, root};

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
    let datapath = open(&node, &node.config());
    let maps = datapath.maps();
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
}

#[test]
fn the_sweep_makes_room_at_the_cost_of_half_open_flows() {
    let Some(()) = root() else { return };
    let node = Node::new("room");
    let datapath = open(&node, &node.config());
    let maps = datapath.maps();
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
fn an_address_given_anew_starts_without_flows() {
    let Some(()) = root() else { return };
    let node = Node::new("flush");
    let datapath = open(&node, &node.config());
    let maps = datapath.maps();
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
    let removed = Sweeper::new(maps.clone()).flush(&["10.7.0.1".parse().expect("an address")]);
    assert_eq!(removed.expect("flushed"), 4);
    assert_eq!(
        (
            maps.ct4.count().expect("a count"),
            maps.nat.count().expect("a count")
        ),
        (1, 0)
    );
}
