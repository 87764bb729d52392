//! Maps that are full: what the programs write is forgotten, the least used
//! first; what the agent writes is told, and whoever has no row is cut off.
//! Of policy, identities and the ipcache `rows.rs` tells, of the sweep
//! `sweep.rs`, of what a packet meets then the case tables.

mod common;

use axon_abi::{
    ConfigFlags, CtEntry, CtKey4, CtKey6, EndpointRow, FragmentKey, FragmentPorts, HOST_DEVICE,
    Identity, IpKey, IpcacheFlags, IpcacheRow, LpmKey, NatEntry, NatKey,
};
use common::{Node, Pod, attached, desired, exec, maps_alone, reconciler, root};

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
    let maps = &maps_alone(&node, &config);
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

/// The node's row of a policy set.
fn host_row(policy_set: u32) -> EndpointRow {
    EndpointRow {
        ifindex: HOST_DEVICE,
        identity: Identity::HOST,
        policy_set,
        id: 77,
        ..EndpointRow::default()
    }
}

const GAVE_WAY: &str = "it had to make room for the node itself";

#[test]
fn the_node_is_held_though_the_map_is_full_of_endpoints() {
    let Some(()) = root() else { return };
    let node = Node::new("held");
    let (a, b) = (Pod::create(&node, 1), Pod::create(&node, 2));
    let mut config = node.config();
    config.map_sizes.insert("axon_endpoint_v1".to_owned(), 2);
    let datapath = attached(&node, &config, [&a, &b]);
    let maps = datapath.maps();
    let desired = desired(&[&a, &b]);
    let mut reconciler = reconciler(&node, maps);
    let failing = |report: &axon_linux::ReconcileReport| report.tables["endpoints"].failing.clone();
    assert_eq!(failing(&reconciler.sync(0, &desired)), []);
    let of = |device: u32| maps.endpoint.get(&device).expect("a look-up");

    // A set that is not there yet takes nobody's room.
    desired
        .endpoints
        .write(|txn| txn.insert(HOST_DEVICE, host_row(9)));
    let report = reconciler.sync(1, &desired);
    assert_eq!(failing(&report).len(), 1, "{report:?}");
    assert!(of(a.ifindex).is_some() && of(b.ifindex).is_some());

    desired
        .endpoints
        .write(|txn| txn.insert(HOST_DEVICE, host_row(1)));
    let report = reconciler.sync(2, &desired);
    assert_eq!(of(HOST_DEVICE), Some(host_row(1)));
    let (kept, cut) = (a.ifindex.min(b.ifindex), a.ifindex.max(b.ifindex));
    assert_eq!((of(kept).is_some(), of(cut)), (true, None));
    let told = (format!("device {cut}"), GAVE_WAY.to_owned());
    assert_eq!(failing(&report), [told], "{report:?}");
    let (kept, cut) = if a.ifindex == kept { (a, b) } else { (b, a) };
    let by_address = IpKey::from(std::net::IpAddr::from(cut.link.ipv4.expect("an address")));
    assert_eq!(maps.address.get(&by_address).expect("a look-up"), None);

    // It waits for room, and does not take the node's.
    let report = reconciler.sync(60_000, &desired);
    let text = "axon_endpoint_v1 is full at 2 of 2 entries";
    assert_eq!(failing(&report)[0].1, text, "{report:?}");
    assert_eq!(of(HOST_DEVICE), Some(host_row(1)));
    desired.endpoints.write(|txn| txn.remove(&kept.ifindex));
    reconciler.sync(60_001, &desired);
    let report = reconciler.sync(120_000, &desired);
    assert_eq!(failing(&report), [], "{report:?}");
    assert_eq!(of(cut.ifindex), Some(cut.row(1000, 1)));

    // What another life has left goes first.
    assert!(maps.endpoint.remove(&HOST_DEVICE).expect("removed"));
    let stale = EndpointRow::default();
    maps.endpoint.insert(&2, &stale).expect("room");
    let report = reconciler.full(180_000, &desired);
    assert_eq!(failing(&report), [], "{report:?}");
    assert_eq!(of(HOST_DEVICE), Some(host_row(1)));
    assert_eq!(of(cut.ifindex), Some(cut.row(1000, 1)));
}

#[test]
fn the_node_knows_its_addresses_though_the_map_is_full_of_others() {
    let Some(()) = root() else { return };
    let node = Node::new("own");
    let mut config = node.config();
    config.map_sizes.insert("axon_ipcache_v1".to_owned(), 4);
    let maps = &maps_alone(&node, &config);
    let desired = desired(&[]);
    let addr = |n: u8| IpKey::from_v4([10, 9, 0, n]);
    let row = |identity: u32, flags: u32, of: u8| IpcacheRow {
        identity: Identity(identity),
        flags,
        node: if of == 0 {
            IpKey::UNSPECIFIED
        } else {
            IpKey::from_v4([192, 0, 2, of])
        },
    };
    let server = row(Identity::KUBE_APISERVER.0, 0, 0);
    let others = [
        (addr(1), server),
        (addr(2), row(1000, IpcacheFlags::WORKLOAD, 0)),
        (addr(3), row(1001, IpcacheFlags::WORKLOAD, 7)),
        (addr(4), row(0x0100_0001, 0, 0)),
    ];
    desired.ipcache.replace(others);
    let mut reconciler = reconciler(&node, maps);
    let report = reconciler.sync(0, &desired);
    assert!(!report.ipcache_partial, "{report:?}");
    let own = row(Identity::HOST.0, IpcacheFlags::LOCAL_HOST, 0);
    let has = |n: u8| maps.ipcache.get(&addr(n)).expect("a look-up");
    let partial = || {
        let row = maps.config.get(&0).expect("a look-up").unwrap_or_default();
        (row.flags & ConfigFlags::IPCACHE_PARTIAL != 0, row.epoch)
    };
    let (_, before) = partial();

    // The workload of another node goes first.
    desired.ipcache.write(|txn| txn.insert(addr(11), own));
    let report = reconciler.sync(1, &desired);
    assert_eq!((has(11), has(3)), (Some(own), None));
    let told = ("10.9.0.3".to_owned(), GAVE_WAY.to_owned());
    assert_eq!(report.tables["ipcache"].failing, [told], "{report:?}");
    assert!(report.ipcache_partial && partial().0);
    assert_ne!(partial().1, before, "verdicts are made again");

    // The API server goes last, and the node's own never.
    desired.ipcache.write(|txn| {
        txn.insert(addr(12), own);
        txn.insert(addr(13), own);
    });
    reconciler.sync(2, &desired);
    let kept: Vec<u8> = (0..20).filter(|n| has(*n).is_some()).collect();
    assert_eq!(kept, [1, 11, 12, 13]);
    desired.ipcache.write(|txn| {
        txn.insert(addr(14), own);
        txn.insert(addr(15), own);
    });
    let report = reconciler.sync(3, &desired);
    let kept: Vec<u8> = (0..20).filter(|n| has(*n).is_some()).collect();
    assert_eq!(kept, [11, 12, 13, 14], "{report:?}");
    assert_eq!(report.tables["ipcache"].failing_rows, 5, "{report:?}");

    // There is room again.
    desired.ipcache.replace(others);
    reconciler.sync(4, &desired);
    let report = reconciler.sync(60_000, &desired);
    assert_eq!(report.tables["ipcache"].failing_rows, 0, "{report:?}");
    let kept: Vec<u8> = (0..20).filter(|n| has(*n).is_some()).collect();
    assert_eq!(kept, [1, 2, 3, 4]);
    assert!(!report.ipcache_partial && !partial().0);
}
