//! Frontends and the choice of backends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, BackendState, Be16, DropReason, FrontendKind, IpKey,
    ListBlock, ListKey, ListRef, MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceFlags,
    ServiceKey, SourceRangeKey,
};
use axon_datapath::{Answer, Ask, Asker, Choice, ServiceTables, Why, select, still_valid};
use proptest::prelude::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SERVICE: u32 = 9;
const LIST: u32 = 3;
const TABLE: u32 = 5;

/// Rows as the agent writes them.
#[derive(Default)]
struct Rows {
    services: HashMap<ServiceKey, ServiceEntry>,
    lists: HashMap<ListKey, ListBlock>,
    tables: HashMap<MaglevKey, MaglevBlock>,
    backends: HashMap<u32, Backend>,
    ranges: Vec<SourceRangeKey>,
    skips: Vec<ServiceClient>,
    affinity: RefCell<HashMap<ServiceClient, AffinityEntry>>,
    nodes: Vec<IpKey>,
    random: Cell<u32>,
    now_s: u32,
}

impl ServiceTables for Rows {
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.services.get(key)
    }
    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        self.lists.get(key)
    }
    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        self.tables.get(key)
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }
    fn source_range(&self, key: &SourceRangeKey) -> bool {
        self.ranges.iter().any(|range| {
            let bits = range.prefix_bits - SourceRangeKey::SERVICE_BITS;
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            let of = |addr: IpKey| u128::from_be_bytes(addr.0) & mask;
            range.service == key.service && of(range.addr) == of(key.addr)
        })
    }
    fn skips(&self, client: &ServiceClient) -> bool {
        self.skips.contains(client)
    }
    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry> {
        self.affinity.borrow().get(client).copied()
    }
    fn affinity_insert(&self, client: &ServiceClient, entry: &AffinityEntry) {
        self.affinity.borrow_mut().insert(*client, *entry);
    }
    fn is_node(&self, addr: &IpKey) -> bool {
        self.nodes.contains(addr)
    }
    fn random(&self) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.set(next);
        next >> 8
    }
    fn now_s(&self) -> u32 {
        self.now_s
    }
}

fn ip(text: &str) -> IpKey {
    IpKey::from(text.parse::<std::net::IpAddr>().expect("an address"))
}

fn key(addr: &str, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        addr: ip(addr),
        port: Be16::new(port),
        protocol,
        pad: 0,
    }
}

impl Rows {
    /// A list of `count` active backends, ids from 1, and how to refer to it.
    fn with_backends(count: u32) -> (Self, ListRef) {
        let mut rows = Self {
            now_s: 1000,
            ..Self::default()
        };
        for id in 1..=count {
            let backend = Backend {
                addr: IpKey::from_v4([10, 1, (id >> 8) as u8, id as u8]),
                port: Be16::new(8080),
                protocol: TCP,
                service: SERVICE,
                flags: BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL,
                ..Backend::default()
            };
            rows.backends.insert(id, backend);
            let slot = id - 1;
            let block = rows.lists.entry(ListKey {
                list: LIST,
                block: slot / 16,
            });
            block.or_default().backends[slot as usize % 16] = id;
        }
        let list = ListRef {
            list: LIST,
            slots: count,
            maglev: 0,
        };
        (rows, list)
    }

    fn frontend(&mut self, key: ServiceKey, kind: FrontendKind, flags: u32, list: ListRef) {
        let entry = ServiceEntry {
            service: SERVICE,
            flags: kind as u32 | flags,
            internal: list,
            external: list,
            affinity_timeout_s: 10,
            ..ServiceEntry::default()
        };
        self.services.insert(key, entry);
    }
}

fn ask(asker: Asker, addr: &str, port: u16) -> Ask {
    Ask {
        asker,
        addr: ip(addr),
        port: Be16::new(port),
        protocol: TCP,
        client: ip("192.0.2.7"),
        source: ip("192.0.2.7"),
        source_port: Be16::new(40_000),
    }
}

fn chosen(answer: Result<Answer, DropReason>) -> Choice {
    match answer {
        Ok(Answer::Backend(choice)) => choice,
        other => panic!("{other:?}"),
    }
}

/// What becomes of who asks, without who it is that answers.
fn short(answer: Result<Answer, DropReason>) -> Result<&'static str, DropReason> {
    answer.map(|answer| match answer {
        Answer::Elsewhere => "elsewhere",
        Answer::Closed => "closed",
        Answer::Refused => "refused",
        Answer::Backend(_) => "backend",
    })
}

#[test]
fn who_asks_finds_what_is_for_him() {
    let none = ListRef::default();
    let (mut rows, list) = Rows::with_backends(3);
    rows.nodes = vec![ip("198.51.100.1"), ip("198.51.100.2")];
    let closed_in = ServiceFlags::CLOSED_INSIDE;
    for (key, kind, flags, list) in [
        (
            key("10.96.0.1", 80, TCP),
            FrontendKind::ClusterIp,
            ServiceFlags::CLOSED_OUTSIDE,
            list,
        ),
        (key("10.96.0.1", 0, 0), FrontendKind::Address, 0, none),
        (key("fd96::1", 80, TCP), FrontendKind::LoadBalancer, 0, list),
        (
            key("10.96.0.2", 80, TCP),
            FrontendKind::LoadBalancer,
            0,
            none,
        ),
        (
            key("10.96.0.3", 80, TCP),
            FrontendKind::LoadBalancer,
            ServiceFlags::DROP_OUTSIDE,
            none,
        ),
        (
            key("10.96.0.4", 80, TCP),
            FrontendKind::ClusterIp,
            ServiceFlags::DROP_INSIDE,
            none,
        ),
        (
            key("203.0.113.9", 80, TCP),
            FrontendKind::ExternalIp,
            closed_in,
            list,
        ),
        (
            key("203.0.113.9", 0, 0),
            FrontendKind::Address,
            closed_in,
            none,
        ),
        (key("0.0.0.0", 30_080, TCP), FrontendKind::NodePort, 0, list),
        (
            key("198.51.100.1", 30_080, TCP),
            FrontendKind::NodePort,
            0,
            list,
        ),
        (key("::", 30_080, TCP), FrontendKind::NodePort, 0, list),
    ] {
        rows.frontend(key, kind, flags, list);
    }
    use Asker::{Network, Node, Pod};
    let clusterip = Err(DropReason::IsAClusterip);
    let nobody = Err(DropReason::ServiceBackendNotFound);
    for (name, asker, addr, port, expected) in [
        (
            "a cluster address, from a pod",
            Pod,
            "10.96.0.1",
            80,
            Ok("backend"),
        ),
        ("from the node", Node, "10.96.0.1", 80, Ok("backend")),
        ("from the network", Network, "10.96.0.1", 80, clusterip),
        ("a port that it has not", Pod, "10.96.0.1", 81, Ok("closed")),
        (
            "that, from the network",
            Network,
            "10.96.0.1",
            81,
            Ok("closed"),
        ),
        ("no service at all", Pod, "10.96.0.9", 80, Ok("elsewhere")),
        ("IPv6", Network, "fd96::1", 80, Ok("backend")),
        (
            "an address that nobody owns as a whole",
            Pod,
            "fd96::1",
            81,
            Ok("elsewhere"),
        ),
        ("nobody behind it", Network, "10.96.0.2", 80, Ok("refused")),
        ("nobody near, outside", Network, "10.96.0.3", 80, nobody),
        (
            "nobody near, outside, from inside",
            Pod,
            "10.96.0.3",
            80,
            Ok("refused"),
        ),
        ("nobody near, inside", Pod, "10.96.0.4", 80, nobody),
        (
            "an external address, outside",
            Network,
            "203.0.113.9",
            80,
            Ok("backend"),
        ),
        (
            "an external address, inside",
            Pod,
            "203.0.113.9",
            80,
            Ok("elsewhere"),
        ),
        (
            "its other ports, inside",
            Pod,
            "203.0.113.9",
            81,
            Ok("elsewhere"),
        ),
        (
            "its other ports, outside",
            Network,
            "203.0.113.9",
            81,
            Ok("closed"),
        ),
        (
            "a node port here, outside",
            Network,
            "198.51.100.1",
            30_080,
            Ok("backend"),
        ),
        (
            "a node port elsewhere, outside",
            Network,
            "198.51.100.2",
            30_080,
            Ok("elsewhere"),
        ),
        (
            "a node port elsewhere, inside",
            Pod,
            "198.51.100.2",
            30_080,
            Ok("backend"),
        ),
        (
            "another port of a node",
            Pod,
            "198.51.100.2",
            30_081,
            Ok("elsewhere"),
        ),
        (
            "a node port on who is no node",
            Pod,
            "198.51.100.3",
            30_080,
            Ok("elsewhere"),
        ),
        (
            "a node port at home",
            Node,
            "127.0.0.1",
            30_080,
            Ok("backend"),
        ),
        (
            "a node port at home, IPv6",
            Node,
            "::1",
            30_080,
            Ok("backend"),
        ),
        (
            "a pod's own home",
            Pod,
            "127.0.0.1",
            30_080,
            Ok("elsewhere"),
        ),
    ] {
        assert_eq!(
            short(select(&rows, &ask(asker, addr, port))),
            expected,
            "{name}"
        );
    }
    let udp = Ask {
        protocol: UDP,
        ..ask(Pod, "10.96.0.1", 80)
    };
    assert_eq!(short(select(&rows, &udp)), Ok("closed"), "another protocol");
}

#[test]
fn source_ranges_let_in_or_keep_out() {
    let (mut rows, list) = Rows::with_backends(1);
    let prefix = |service, addr, bits| SourceRangeKey {
        prefix_bits: SourceRangeKey::SERVICE_BITS + bits,
        service,
        addr: ip(addr),
    };
    rows.ranges = vec![
        prefix(SERVICE, "192.0.2.0", 96 + 24),
        prefix(SERVICE + 1, "203.0.113.0", 96 + 24),
        prefix(SERVICE, "2001:db8::", 32),
    ];
    let kind = FrontendKind::LoadBalancer;
    let allow = ServiceFlags::SOURCE_RANGES;
    rows.frontend(key("10.96.0.1", 80, TCP), kind, allow, list);
    rows.frontend(
        key("10.96.0.2", 80, TCP),
        kind,
        allow | ServiceFlags::SOURCE_DENY,
        list,
    );
    let denied = Err(DropReason::SourceRangeDenied);
    for (addr, source, asker, expected) in [
        ("10.96.0.1", "192.0.2.7", Asker::Network, Ok("backend")),
        ("10.96.0.1", "2001:db8::7", Asker::Network, Ok("backend")),
        ("10.96.0.1", "203.0.113.7", Asker::Network, denied),
        ("10.96.0.1", "203.0.113.7", Asker::Pod, Ok("backend")),
        ("10.96.0.2", "192.0.2.7", Asker::Network, denied),
        ("10.96.0.2", "203.0.113.7", Asker::Network, Ok("backend")),
    ] {
        let ask = Ask {
            source: ip(source),
            ..ask(asker, addr, 80)
        };
        assert_eq!(short(select(&rows, &ask)), expected, "{addr} from {source}");
    }
}

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
fn targets_of_a_redirection_may_pass_it_by() {
    let (mut rows, list) = Rows::with_backends(1);
    let flags = ServiceFlags::SKIP_OWN;
    rows.frontend(
        key("10.96.0.1", 80, TCP),
        FrontendKind::LocalRedirect,
        flags,
        list,
    );
    let entry = rows.services.values_mut().next().expect("a row");
    entry.external = ListRef::default();
    let ask = ask(Asker::Pod, "10.96.0.1", 80);
    assert_eq!(short(select(&rows, &ask)), Ok("backend"));
    rows.skips.push(ServiceClient {
        client: ask.client,
        service: SERVICE,
        external: 0,
    });
    assert_eq!(
        short(select(&rows, &ask)),
        Ok("refused"),
        "the list without it"
    );
}

#[test]
fn rows_that_are_not_there_yet_drop_and_never_mislead() {
    let (mut rows, list) = Rows::with_backends(20);
    rows.frontend(
        key("10.96.0.1", 80, TCP),
        FrontendKind::LoadBalancer,
        0,
        list,
    );
    let mut maglev = list;
    maglev.maglev = TABLE;
    rows.frontend(
        key("10.96.0.2", 80, TCP),
        FrontendKind::LoadBalancer,
        0,
        maglev,
    );
    let entry = rows
        .services
        .get_mut(&key("10.96.0.2", 80, TCP))
        .expect("a row");
    entry.maglev_slots = 251;
    let lost = Err(DropReason::ServiceBackendNotFound);
    let to = |rows: &Rows, addr| short(select(rows, &ask(Asker::Network, addr, 80)));
    assert_eq!(to(&rows, "10.96.0.2"), lost, "no table");
    rows.backends.clear();
    assert_eq!(to(&rows, "10.96.0.1"), lost, "no backend");
    rows.lists.clear();
    assert_eq!(to(&rows, "10.96.0.1"), lost, "no list");
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
