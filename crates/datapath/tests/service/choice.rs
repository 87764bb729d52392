//! Which backend of a frontend it is.

use std::collections::HashMap;

use axon_abi::{
    Backend, BackendFlags, BackendState, Be16, FrontendKind, IpKey, MaglevKey, ServiceFlags,
};
use axon_datapath::{Ask, Asker, Frontend, Why, frontend, keeps_client, select, still_valid};
use proptest::prelude::*;

use crate::rows::{Rows, SERVICE, TABLE, TCP, UDP, ask, chosen, ip, key};

#[test]
fn affinity_lasts_while_its_backend_takes_clients_and_not_longer_than_its_time() {
    let (mut rows, list) = Rows::with_backends(40);
    let key = key("10.96.0.1", 80, TCP);
    rows.frontend(key, FrontendKind::ClusterIp, ServiceFlags::AFFINITY, list);
    let ask = ask(Asker::Pod, "10.96.0.1", 80);
    let first = chosen(select(&rows, &ask));
    assert_eq!(first.by, Why::Random);
    for wait in [0, 10, 10, 3] {
        rows.now_s += wait;
        let again = chosen(select(&rows, &ask));
        assert_eq!((again.id, again.by), (first.id, Why::Affinity), "{wait}");
    }
    rows.now_s += 11;
    let late = chosen(select(&rows, &ask));
    assert_eq!(late.by, Why::Random);
    let backend = rows.backends[&late.id];
    for (name, gone) in [
        (
            "not ready",
            Backend {
                state: BackendState::Maintenance as u8,
                ..backend
            },
        ),
        (
            "out of the list",
            Backend {
                flags: BackendFlags::IN_EXTERNAL,
                ..backend
            },
        ),
        (
            "another service's",
            Backend {
                service: SERVICE + 1,
                ..backend
            },
        ),
    ] {
        rows.backends.insert(late.id, gone);
        rows.affinity
            .borrow_mut()
            .values_mut()
            .for_each(|entry| entry.backend = late.id);
        assert_eq!(chosen(select(&rows, &ask)).by, Why::Random, "{name}");
    }
    let network = Ask {
        asker: Asker::Network,
        ..ask
    };
    assert_eq!(
        chosen(select(&rows, &network)).by,
        Why::Random,
        "another scope"
    );
}

#[test]
fn a_choice_holds_until_its_backend_is_gone_or_another() {
    let (mut rows, list) = Rows::with_backends(1);
    rows.frontend(key("10.96.0.1", 80, TCP), FrontendKind::ClusterIp, 0, list);
    let choice = chosen(select(&rows, &ask(Asker::Pod, "10.96.0.1", 80)));
    assert!(still_valid(&rows, &choice));
    rows.backends.get_mut(&1).expect("a row").state = BackendState::Terminating as u8;
    assert!(still_valid(&rows, &choice), "what is open goes on");
    rows.backends.get_mut(&1).expect("a row").generation += 1;
    assert!(!still_valid(&rows, &choice));
    rows.backends.clear();
    assert!(!still_valid(&rows, &choice));
}

/// A table over `count` slots of some disorder.
fn table(rows: &mut Rows, size: u32, count: u32) {
    for at in 0..size {
        let block = rows.tables.entry(MaglevKey {
            table: TABLE,
            block: at / 64,
        });
        block.or_default().slots[at as usize % 64] =
            (at.wrapping_mul(2_654_435_761) >> 7) as u16 % count as u16;
    }
}

proptest! {
    /// Whoever is chosen is in the list, and chance leaves out nobody.
    #[test]
    fn chance_reaches_each_of_the_list_and_nobody_else(count in 1..70u32, seed: u32) {
        let (mut rows, list) = Rows::with_backends(count);
        rows.random.set(seed);
        rows.frontend(key("10.96.0.1", 80, TCP), FrontendKind::ClusterIp, 0, list);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..count * 40 {
            let choice = chosen(select(&rows, &ask(Asker::Pod, "10.96.0.1", 80)));
            prop_assert!((1..=count).contains(&choice.id));
            seen.insert(choice.id);
        }
        prop_assert_eq!(seen.len() as u32, count);
    }

    /// By Maglev the network's flows go where their hash says, whatever the
    /// node's chance, by whichever address of the service; from inside chance
    /// decides.
    #[test]
    fn a_flow_has_one_backend(source: u128, port: u16, v6: bool, seeds: [u32; 2]) {
        let (mut rows, mut list) = Rows::with_backends(50);
        table(&mut rows, 251, 50);
        list.maglev = TABLE;
        for addr in ["10.96.0.1", "10.96.0.2"] {
            rows.frontend(key(addr, 80, TCP), FrontendKind::LoadBalancer, 0, list);
        }
        rows.services.values_mut().for_each(|entry| entry.maglev_slots = 251);
        let source = match v6 {
            true => IpKey(source.to_be_bytes()),
            false => IpKey::from_v4((source as u32).to_be_bytes()),
        };
        let ask = Ask { source, source_port: Be16::new(port), ..ask(Asker::Network, "10.96.0.1", 80) };
        rows.random.set(seeds[0]);
        let here = chosen(select(&rows, &ask));
        rows.random.set(seeds[1]);
        let there = chosen(select(&rows, &Ask { addr: ip("10.96.0.2"), ..ask }));
        prop_assert_eq!((here.id, here.by), (there.id, Why::Maglev));
        prop_assert_eq!(chosen(select(&rows, &Ask { asker: Asker::Pod, ..ask })).by, Why::Random);
    }
}

/// Flows differ in port and address, and so do their places in a table.
#[test]
fn flows_spread_over_the_table() {
    let (mut rows, mut list) = Rows::with_backends(10);
    table(&mut rows, 251, 10);
    list.maglev = TABLE;
    rows.frontend(
        key("10.96.0.1", 80, TCP),
        FrontendKind::LoadBalancer,
        0,
        list,
    );
    rows.services
        .values_mut()
        .for_each(|entry| entry.maglev_slots = 251);
    for v6 in [false, true] {
        let mut counts = HashMap::new();
        for port in 10_000..20_000u16 {
            let source = if v6 { "2001:db8::5" } else { "192.0.2.5" };
            let ask = Ask {
                source: ip(source),
                source_port: Be16::new(port),
                ..ask(Asker::Network, "10.96.0.1", 80)
            };
            *counts.entry(chosen(select(&rows, &ask)).id).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 10);
        assert!(
            counts.values().all(|count| (500..1800).contains(count)),
            "{counts:?}"
        );
    }
}

/// Both families of a client may be one to affinity: he is told apart by the
/// cookie of his namespace.
#[test]
fn affinity_does_not_lead_into_the_other_family() {
    let (mut rows, list) = Rows::with_backends(2);
    let flags = ServiceFlags::AFFINITY;
    for addr in ["10.96.0.1", "fd96::1"] {
        rows.frontend(key(addr, 80, TCP), FrontendKind::ClusterIp, flags, list);
    }
    rows.backends.get_mut(&2).expect("a row").addr = ip("fd01::2");
    let client = ip("::7");
    for (addr, id) in [("10.96.0.1", 1), ("fd96::1", 2)] {
        let ask = Ask {
            client,
            ..ask(Asker::Pod, addr, 80)
        };
        rows.affinity.borrow_mut().clear();
        let first = chosen(select(&rows, &ask));
        for entry in rows.affinity.borrow_mut().values_mut() {
            entry.backend = id;
        }
        assert_eq!(chosen(select(&rows, &ask)).by, Why::Affinity, "{first:?}");
        for entry in rows.affinity.borrow_mut().values_mut() {
            entry.backend = 3 - id;
        }
        assert_eq!(chosen(select(&rows, &ask)).by, Why::Random, "{addr}");
    }
}

#[test]
fn a_backend_sees_the_client_if_it_is_here_or_answers_itself() {
    let (mut rows, list) = Rows::with_backends(1);
    let key = key("10.96.0.1", 80, TCP);
    for (flags, backend, protocol, expected) in [
        (0, 0, TCP, false),
        (0, BackendFlags::LOCAL, UDP, true),
        (ServiceFlags::DSR_TCP, 0, TCP, true),
        (ServiceFlags::DSR_TCP, 0, UDP, false),
        (ServiceFlags::DSR_OTHER, 0, UDP, true),
        (ServiceFlags::DSR_OTHER, 0, TCP, false),
    ] {
        rows.frontend(key, FrontendKind::NodePort, flags, list);
        rows.backends.get_mut(&1).expect("a row").flags = backend;
        let tcp = ask(Asker::Network, "10.96.0.1", 80);
        let found: Frontend = frontend(&rows, &tcp).expect("a frontend");
        let choice = chosen(select(&rows, &tcp));
        let ask = Ask { protocol, ..tcp };
        let keeps = keeps_client(&ask, &found, &choice);
        assert_eq!(keeps, expected, "{flags:x} {backend:x} {protocol}");
    }
}
