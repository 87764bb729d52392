//! Maps that are full: what the programs write is forgotten, the least used
//! first; what the agent writes is told, and whoever has no row is cut off.
//! Of policy, identities and the ipcache `rows.rs` tells, of the sweep
//! `sweep.rs`, of what a packet meets then the case tables.

mod common;

use axon_abi::{
    CtEntry, CtKey4, CtKey6, EndpointRow, FragmentKey, FragmentPorts, IpKey, LpmKey, NatEntry,
    NatKey,
};
use common::{Node, Pod, attached, desired, exec, open, reconciler, root};

const SMALL: u32 = 512;

#[test]
fn what_the_programs_write_is_forgotten_in_time() {
    let Some(()) = root() else { return };
    let node = Node::new("forget");
    let mut config = node.config();
    for map in [
        axon_abi::CT4,
        axon_abi::CT6,
        axon_abi::NAT,
        "axon_fragment_v1",
    ] {
        config.map_sizes.insert(map.to_owned(), SMALL);
    }
    let datapath = open(&node, &config);
    let maps = datapath.maps();
    for n in 0..4 * SMALL {
        let addr = n.to_be_bytes();
        let ct4 = CtKey4 {
            low: addr,
            ..CtKey4::default()
        };
        maps.ct4.insert(&ct4, &CtEntry::default()).expect("a flow");
        let mut ct6 = CtKey6::default();
        ct6.low[..4].copy_from_slice(&addr);
        maps.ct6.insert(&ct6, &CtEntry::default()).expect("a flow");
        let nat = NatKey {
            source: IpKey::from_v4(addr),
            ..NatKey::default()
        };
        maps.nat
            .insert(&nat, &NatEntry::default())
            .expect("a translation");
        let fragment = FragmentKey {
            id: n,
            ..FragmentKey::default()
        };
        maps.fragment
            .insert(&fragment, &FragmentPorts::default())
            .expect("a fragment");
    }
    let last = FragmentKey {
        id: 4 * SMALL - 1,
        ..FragmentKey::default()
    };
    assert!(maps.fragment.get(&last).expect("a look-up").is_some());
    let uses = maps.pressure().expect("their use");
    for map in [
        axon_abi::CT4,
        axon_abi::CT6,
        axon_abi::NAT,
        "axon_fragment_v1",
    ] {
        let used = uses.iter().find(|used| used.map == map).expect(map);
        assert_eq!(used.capacity, SMALL, "{used:?}");
        assert!(used.entries > 0 && used.entries <= SMALL, "{used:?}");
    }
}

#[test]
fn an_endpoint_beyond_the_table_is_told_and_cut_off() {
    let Some(()) = root() else { return };
    let node = Node::new("crowd");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let datapath = attached(&node, &node.config(), [&a, &b]);
    let maps = datapath.maps();
    let capacity = maps.endpoint.capacity();
    let desired = desired(&[&a]);
    desired.nomasq.replace((0..1025_u32).map(|n| {
        let addr = IpKey::from_v4((0x0b00_0000 + n).to_be_bytes());
        (LpmKey::host(addr), 1_u32)
    }));
    let mut reconciler = reconciler(&node, maps);
    let report = reconciler.sync(0, &desired);
    assert_eq!(
        report.tables["nomasq"].failing[0].1,
        "axon_nomasq_v1 is full at 1024 of 1024 entries"
    );
    // Past the reconciler, which would look at every one.
    for n in 1..capacity {
        let row = EndpointRow::default();
        maps.endpoint.insert(&(1_000_000 + n), &row).expect("room");
    }

    desired
        .endpoints
        .write(|txn| txn.insert(b.ifindex, b.row(1000, 1)));
    let report = reconciler.sync(1, &desired);
    let text = format!("axon_endpoint_v1 is full at {capacity} of {capacity} entries");
    assert_eq!(report.tables["endpoints"].failing[0].1, text, "{report:?}");
    // Asks again and again for so many seconds, unless told that the other cannot be reached.
    let ping = |from: &Pod, to: &str, seconds: &str| {
        let args = ["-c", "1", "-w", seconds, to];
        exec(&from.path(), "ping", &args).status.success()
    };
    assert!(!ping(&b, "10.7.0.1", "1"), "it sends nothing");
    assert!(!ping(&a, "10.7.0.2", "1"), "nothing comes to it");

    assert!(maps.endpoint.remove(&1_000_001).expect("removed"));
    let report = reconciler.sync(60_000, &desired);
    assert_eq!(report.tables["endpoints"].failing_rows, 0, "{report:?}");
    // Its kernel has asked in vain who the gateway is, and may be about to say so: that would end
    // the ping.
    let forget = ["neigh", "flush", "dev", "eth0"];
    assert!(exec(&b.path(), "ip", &forget).status.success());
    assert!(ping(&b, "10.7.0.1", "30"), "there is room");
}
