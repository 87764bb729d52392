//! Packets to services over states: which frontend, which backends, which of them
//! may be chosen, what policy says of those, and why nobody is chosen.

mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, BackendState, Be16, ConfigFlags, FrontendKind, IpKey,
    ListBlock, ListKey, ListRef, RuntimeConfig, SERVICE_FLOW, ServiceClient, ServiceEntry,
    ServiceFlags, ServiceFlow, ServiceFlowKey, ServiceKey, SourceRangeKey,
};
use axon_api::state::{MapRows, NodeState, STATE_SERVICE_MAPS, ServiceRow, ServiceState, Sockets};
use axon_replay::{
    Explanation, Node, Outcome, Packet, ServiceError, ServiceView, Transport, explain, explain_new,
};

use world::{DEATHSTAR, NODE, OUTSIDE, REMOTE, TIE, XWING, state};

const VIP: &str = "10.96.0.1";
const BALANCED: &str = "203.0.113.50";
const NODE_PORT: u16 = 30_080;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The empire alone is let in.
const RULES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: rule1}
spec:
  endpointSelector: {matchLabels: {class: deathstar}}
  ingress:
  - fromEndpoints:
    - matchLabels: {org: empire}
";

/// A backend: its address, its state, and the lists that it is in.
type Behind = (&'static str, BackendState, u32);

const INSIDE: u32 = BackendFlags::IN_INTERNAL;
const BOTH: u32 = BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL;

const HERE: Behind = (DEATHSTAR, BackendState::Active, BOTH);
const THERE: Behind = (REMOTE, BackendState::Active, BOTH);

/// The service `default/web` of a state.
#[derive(Clone)]
struct Web {
    backends: Vec<Behind>,
    /// Of all its frontends.
    flags: u32,
    external_local: bool,
    internal_local: bool,
    sockets: Sockets,
    ranges: Vec<(&'static str, u32)>,
    protocol: u8,
    backend_port: u16,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            backends: vec![HERE, THERE],
            flags: 0,
            external_local: false,
            internal_local: false,
            sockets: Sockets::All,
            ranges: Vec::new(),
            protocol: TCP,
            backend_port: 8080,
        }
    }
}

fn key(addr: &str) -> IpKey {
    addr.parse::<IpAddr>().expect("an address").into()
}

fn push<K, V>(state: &mut NodeState, map: &str, row: &V, at: &K)
where
    K: zerocopy::IntoBytes + zerocopy::Immutable,
    V: zerocopy::IntoBytes + zerocopy::Immutable,
{
    let rows = state.maps.entry(map.to_owned()).or_default();
    rows.push(at, row);
}

impl Web {
    fn state(&self) -> NodeState {
        let mut state = state(RULES);
        let config = state.rows::<u32, RuntimeConfig>("axon_config_v1");
        let (_, mut config) = config.expect("rows")[0];
        config.flags |= ConfigFlags::SERVICES;
        state
            .maps
            .insert("axon_config_v1".into(), MapRows::default());
        push(&mut state, "axon_config_v1", &config, &0_u32);
        for (id, (addr, of, lists)) in (1_u32..).zip(&self.backends) {
            let local = if *addr == REMOTE {
                0
            } else {
                BackendFlags::LOCAL
            };
            let backend = Backend {
                addr: key(addr),
                port: Be16::new(self.backend_port),
                protocol: self.protocol,
                state: *of as u8,
                service: 7,
                flags: lists | local,
                generation: 1,
            };
            push(&mut state, "axon_backend_v1", &backend, &id);
        }
        let internal = self.list(&mut state, 1, BackendFlags::IN_INTERNAL);
        let external = self.list(&mut state, 2, BackendFlags::IN_EXTERNAL);
        for (addr, port, kind, flags) in [
            (
                VIP,
                80,
                FrontendKind::ClusterIp,
                ServiceFlags::CLOSED_OUTSIDE,
            ),
            (BALANCED, 80, FrontendKind::LoadBalancer, 0),
            (NODE, NODE_PORT, FrontendKind::NodePort, 0),
            ("0.0.0.0", NODE_PORT, FrontendKind::NodePort, 0),
        ] {
            let at = ServiceKey {
                addr: key(addr),
                port: Be16::new(port),
                protocol: self.protocol,
                pad: 0,
            };
            let entry = ServiceEntry {
                service: 7,
                flags: kind as u32 | flags | self.flags,
                internal,
                external,
                affinity_timeout_s: 10_800,
                generation: 1,
                ..ServiceEntry::default()
            };
            push(&mut state, "axon_service_v1", &entry, &at);
        }
        for addr in [VIP, BALANCED] {
            let at = ServiceKey {
                addr: key(addr),
                ..ServiceKey::default()
            };
            let entry = ServiceEntry {
                flags: FrontendKind::Address as u32,
                ..ServiceEntry::default()
            };
            push(&mut state, "axon_service_v1", &entry, &at);
        }
        for (addr, bits) in &self.ranges {
            let range = SourceRangeKey {
                prefix_bits: SourceRangeKey::SERVICE_BITS + 96 + bits,
                service: 7,
                addr: key(addr),
            };
            push(&mut state, "axon_source_range_v1", &1_u32, &range);
        }
        state.services = ServiceState {
            sockets: self.sockets,
            ports: BTreeMap::from([(7, "default/web:http".to_owned())]),
            services: vec![
                ServiceRow {
                    namespace: "default".into(),
                    name: "web".into(),
                    kind: "LoadBalancer".into(),
                    internal_local: self.internal_local,
                    external_local: self.external_local,
                    ..ServiceRow::default()
                },
                ServiceRow {
                    namespace: "default".into(),
                    name: "bare".into(),
                    kind: "ClusterIP".into(),
                    headless: true,
                    ..ServiceRow::default()
                },
            ],
        };
        state
    }

    fn list(&self, state: &mut NodeState, list: u32, flag: u32) -> ListRef {
        let mut block = ListBlock::default();
        let ids = (1_u32..).zip(&self.backends);
        let listed = ids.filter(|(_, (_, _, lists))| lists & flag != 0);
        let mut slots = 0;
        for (place, (id, _)) in block.backends.iter_mut().zip(listed) {
            *place = id;
            slots += 1;
        }
        if slots == 0 {
            return ListRef::default();
        }
        push(
            state,
            "axon_service_list_v1",
            &block,
            &ListKey { list, block: 0 },
        );
        ListRef {
            list,
            slots,
            maglev: 0,
        }
    }

    fn node(&self) -> Node {
        Node::load(self.state()).expect("a state")
    }

    fn packet(&self, source: &str, destination: &str, port: u16) -> Packet {
        let ports = [40_000, port];
        Packet {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            transport: match self.protocol {
                UDP => Transport::Udp { ports },
                SCTP => Transport::Sctp { ports },
                _ => Transport::Tcp {
                    ports,
                    flags: Transport::SYN,
                },
            },
        }
    }

    fn explained(&self, source: &str, destination: &str, port: u16) -> Explanation {
        let packet = self.packet(source, destination, port);
        explain_new(&self.node(), &packet, None).expect("it is of the node")
    }
}

fn service(explanation: &Explanation) -> &ServiceView {
    explanation.service.as_ref().expect("a service")
}

/// Backends that may be chosen, each with what becomes of it.
fn chosen(explanation: &Explanation) -> Vec<(&str, Option<Outcome>)> {
    let backends = service(explanation).backends.iter();
    let chosen = backends.filter(|backend| backend.may_be_chosen);
    chosen
        .map(|backend| (backend.backend.as_str(), backend.verdict))
        .collect()
}

const HERE_AT: &str = "10.0.0.13:8080";
const THERE_AT: &str = "10.0.1.21:8080";

#[test]
fn policy_is_asked_for_each_backend_that_may_be_chosen() {
    let (yes, no) = (Some(Outcome::Allowed), Some(Outcome::Denied));
    for (name, web, source, verdict, backends) in [
        (
            "both let it in",
            Web::default(),
            TIE,
            Outcome::Allowed,
            vec![(HERE_AT, yes), (THERE_AT, yes)],
        ),
        (
            "one does, as far as is known here",
            Web::default(),
            XWING,
            Outcome::Depends,
            vec![(HERE_AT, no), (THERE_AT, yes)],
        ),
        (
            "the only one does not",
            Web {
                backends: vec![HERE],
                ..Web::default()
            },
            XWING,
            Outcome::Denied,
            vec![(HERE_AT, no)],
        ),
        (
            "only the one of this node is chosen",
            Web {
                backends: vec![HERE, (REMOTE, BackendState::Active, 0)],
                internal_local: true,
                ..Web::default()
            },
            TIE,
            Outcome::Allowed,
            vec![(HERE_AT, yes)],
        ),
        (
            "the node itself",
            Web::default(),
            NODE,
            Outcome::Depends,
            vec![(HERE_AT, no), (THERE_AT, yes)],
        ),
    ] {
        for protocol in [TCP, UDP] {
            let web = Web {
                protocol,
                ..web.clone()
            };
            let explanation = web.explained(source, VIP, 80);
            assert_eq!(chosen(&explanation), backends, "{name}: {explanation:#?}");
            assert_eq!(explanation.verdict, verdict, "{name}: {explanation:#?}");
            let service = service(&explanation);
            assert_eq!(
                (service.by, service.kind),
                ("socket", "ClusterIP"),
                "{name}"
            );
            assert_eq!(service.service, "default/web:http", "{name}");
            let head = "of default/web:http: ";
            assert!(explanation.reason.contains(head), "{}", explanation.reason);
            let first = explanation.hooks[0].hook;
            assert_eq!(
                first,
                if protocol == TCP {
                    "connect"
                } else {
                    "sendmsg"
                }
            );
        }
    }
}

#[test]
fn a_packet_is_led_as_a_socket_is() {
    for (sockets, protocol, by) in [
        (Sockets::All, TCP, "socket"),
        (Sockets::Host, TCP, "packet"),
        (Sockets::Off, TCP, "packet"),
        (Sockets::Off, UDP, "packet"),
    ] {
        let web = Web {
            sockets,
            protocol,
            ..Web::default()
        };
        for (addr, port) in [(VIP, 80), (BALANCED, 80), (NODE, NODE_PORT)] {
            let explanation = web.explained(XWING, addr, port);
            let what = format!("{sockets:?} {protocol} {addr}: {explanation:#?}");
            assert_eq!(service(&explanation).by, by, "{what}");
            let expected = [
                (HERE_AT, Some(Outcome::Denied)),
                (THERE_AT, Some(Outcome::Allowed)),
            ];
            assert_eq!(chosen(&explanation), expected, "{what}");
            assert!(explanation.reason.contains("rule1"), "{what}");
        }
    }
}

/// The kernel is not asked about its sockets, and its checksum cannot be mended: a
/// port of another number is none.
#[test]
fn sctp_is_led_by_packets_to_the_port_that_it_names() {
    for (backend_port, expected) in [(80, Outcome::Allowed), (8080, Outcome::Denied)] {
        let web = Web {
            protocol: SCTP,
            backend_port,
            ..Web::default()
        };
        let explanation = web.explained(TIE, VIP, 80);
        assert_eq!(service(&explanation).by, "packet");
        let verdicts = chosen(&explanation).into_iter().map(|(_, verdict)| verdict);
        let verdicts: Vec<_> = verdicts.collect();
        assert_eq!(verdicts, [Some(expected); 2], "{explanation:#?}");
        assert_eq!(explanation.verdict, expected, "{explanation:#?}");
    }
}

#[test]
fn what_nobody_gets_is_told_why() {
    let web = Web::default;
    let terminating = (REMOTE, BackendState::Terminating, 0);
    for (name, web, (source, addr, port), told) in [
        (
            "no endpoints",
            Web {
                backends: Vec::new(),
                ..web()
            },
            (TIE, VIP, 80),
            "no endpoint is ready",
        ),
        (
            "nobody takes anything new",
            Web {
                backends: vec![terminating],
                ..web()
            },
            (TIE, VIP, 80),
            "the one behind it takes nothing new; who asks is refused at once",
        ),
        (
            "elsewhere alone, from inside",
            Web {
                backends: vec![(REMOTE, BackendState::Active, 0)],
                internal_local: true,
                flags: ServiceFlags::DROP_INSIDE,
                ..web()
            },
            (TIE, VIP, 80),
            "internalTrafficPolicy is Local, and the one behind it is not on this node; it is \
             dropped",
        ),
        (
            "elsewhere alone, from the network",
            Web {
                backends: vec![(REMOTE, BackendState::Active, INSIDE)],
                external_local: true,
                flags: ServiceFlags::DROP_OUTSIDE,
                ..web()
            },
            (OUTSIDE, BALANCED, 80),
            "externalTrafficPolicy is Local, and the one behind it is not on this node; it is \
             dropped",
        ),
        (
            "a ClusterIP from outside",
            web(),
            (OUTSIDE, VIP, 80),
            "closed to the network",
        ),
        (
            "source ranges",
            Web {
                ranges: vec![("192.0.2.0", 24)],
                flags: ServiceFlags::SOURCE_RANGES,
                ..web()
            },
            (OUTSIDE, BALANCED, 80),
            "its source ranges (192.0.2.0/24) do not let 198.51.100.7 in",
        ),
        (
            "source ranges that keep out",
            Web {
                ranges: vec![("198.51.100.0", 24)],
                flags: ServiceFlags::SOURCE_RANGES | ServiceFlags::SOURCE_DENY,
                ..web()
            },
            (OUTSIDE, NODE, NODE_PORT),
            "its source ranges (198.51.100.0/24) keep 198.51.100.7 out",
        ),
        (
            "another port, from inside",
            web(),
            (TIE, VIP, 81),
            "no service listens at its port 81",
        ),
        (
            "another port, from outside",
            web(),
            (OUTSIDE, BALANCED, 81),
            "no service listens at its port 81",
        ),
    ] {
        for sockets in [Sockets::All, Sockets::Off] {
            let web = Web {
                sockets,
                ..web.clone()
            };
            let explanation = web.explained(source, addr, port);
            let what = format!("{name}, {sockets:?}: {explanation:#?}");
            assert_eq!(explanation.verdict, Outcome::Denied, "{what}");
            assert_eq!(chosen(&explanation), [], "{what}");
            let refused = service(&explanation).refused.as_deref().expect("why");
            assert!(refused.contains(told), "{what}");
            assert!(explanation.reason.contains(told), "{what}");
            let reasons = explanation.hooks.iter();
            let dropped = reasons.filter_map(|hook| hook.drop_reason).count();
            assert_eq!(dropped, 1, "{what}");
        }
    }
}

/// Not chosen, and why.
#[test]
fn who_is_not_chosen_is_told_why() {
    let web = Web {
        backends: vec![
            HERE,
            (REMOTE, BackendState::Active, INSIDE),
            (TIE, BackendState::Terminating, 0),
            (XWING, BackendState::Maintenance, 0),
        ],
        external_local: true,
        ..Web::default()
    };
    let explanation = web.explained(OUTSIDE, BALANCED, 80);
    assert_eq!(explanation.verdict, Outcome::Denied, "{explanation:#?}");
    assert_eq!(
        chosen(&explanation),
        [(HERE_AT, Some(Outcome::Denied))],
        "{explanation:#?}"
    );
    let backends = service(&explanation).backends.iter();
    let why: Vec<&str> = backends.map(|backend| backend.why.as_str()).collect();
    assert_eq!(
        why,
        [
            "",
            "it is on another node, and externalTrafficPolicy is Local",
            "it is terminating: connections go on, none begins",
            "it is not ready, or has no weight",
        ]
    );
}

#[test]
fn the_network_is_led_to_backends_here_and_elsewhere() {
    let explanation = Web::default().explained(OUTSIDE, NODE, NODE_PORT);
    let expected = [
        (HERE_AT, Some(Outcome::Denied)),
        (THERE_AT, Some(Outcome::Allowed)),
    ];
    assert_eq!(chosen(&explanation), expected, "{explanation:#?}");
    assert_eq!(explanation.verdict, Outcome::Depends);
    let told = "what default/lambda receives is held to its ingress policy on node n2";
    let notes = &explanation.elsewhere;
    assert!(notes.iter().any(|note| note.contains(told)), "{notes:?}");
}

#[test]
fn affinity_binds_who_was_there_before() {
    let web = Web {
        flags: ServiceFlags::AFFINITY,
        ..Web::default()
    };
    let mut state = web.state();
    let client = ServiceClient {
        client: key(OUTSIDE),
        service: 7,
        external: 1,
    };
    let entry = AffinityEntry {
        backend: 2,
        last_s: 990,
    };
    push(&mut state, "axon_service_affinity_v1", &entry, &client);
    let node = Node::load(state).expect("a state");
    let packet = web.packet(OUTSIDE, BALANCED, 80);
    let explanation = explain_new(&node, &packet, None).expect("of the node");
    assert_eq!(
        chosen(&explanation),
        [(THERE_AT, Some(Outcome::Allowed))],
        "{explanation:#?}"
    );
    let why = &service(&explanation).backends[1].why;
    assert!(why.contains("was there before"), "{why}");
    // Of who asks from inside it is not known.
    let explanation = web.explained(TIE, VIP, 80);
    assert_eq!(chosen(&explanation).len(), 2);
    let notes = &explanation.elsewhere;
    assert!(
        notes.iter().any(|note| note.contains("affinity")),
        "{notes:?}"
    );
}

#[test]
fn a_known_connection_goes_on_to_its_backend() {
    let web = Web::default();
    let mut state = web.state();
    let known = ServiceFlowKey {
        source: key(OUTSIDE),
        destination: key(BALANCED),
        source_port: Be16::new(40_000),
        destination_port: Be16::new(80),
        protocol: TCP,
        ..ServiceFlowKey::default()
    };
    let flow = ServiceFlow {
        source: key(OUTSIDE),
        destination: key(DEATHSTAR),
        source_port: Be16::new(40_000),
        destination_port: Be16::new(8080),
        backend: 1,
        service: 7,
        generation: 1,
        backend_generation: 1,
        seen_s: 1000,
        flags: 0,
    };
    push(&mut state, SERVICE_FLOW, &flow, &known);
    let node = Node::load(state).expect("a state");
    let mut packet = web.packet(OUTSIDE, BALANCED, 80);
    packet.transport = Transport::Tcp {
        ports: [40_000, 80],
        flags: 16,
    };
    let explanation = explain(&node, &packet, None).expect("of the node");
    let chosen = chosen(&explanation);
    assert_eq!(chosen.len(), 1, "{explanation:#?}");
    assert_eq!(chosen[0].0, HERE_AT);
    assert!(
        service(&explanation).backends[0]
            .why
            .contains("has its backend")
    );
}

/// What was seen on the wire was a socket's before.
#[test]
fn a_packet_that_was_seen_is_no_sockets_any_more() {
    let web = Web::default();
    let packet = web.packet(TIE, VIP, 80);
    let explanation = explain(&web.node(), &packet, None).expect("of the node");
    assert_eq!(service(&explanation).by, "packet");
    assert_eq!(explanation.hooks[0].hook, "from_endpoint");
}

#[test]
fn a_state_of_before_there_were_services_is_read() {
    let mut state = state(RULES);
    for map in STATE_SERVICE_MAPS {
        state.maps.remove(map);
    }
    let node = Node::load(state).expect("a state");
    let packet = Web::default().packet(TIE, DEATHSTAR, 80);
    let explanation = explain_new(&node, &packet, None).expect("of the node");
    assert_eq!(explanation.verdict, Outcome::Allowed);
    assert_eq!(explanation.service, None);
    assert_eq!(explanation.hooks[0].hook, "from_endpoint");
}

#[test]
fn a_maglev_table_that_is_left_out_is_told_of() {
    let web = Web::default();
    let mut state = web.state();
    let rows = state.rows::<ServiceKey, ServiceEntry>("axon_service_v1");
    let rows = rows.expect("rows");
    state
        .maps
        .insert("axon_service_v1".into(), MapRows::default());
    for (at, mut entry) in rows {
        if entry.external.list != 0 {
            entry.external.maglev = 5;
            entry.maglev_slots = 251;
        }
        push(&mut state, "axon_service_v1", &entry, &at);
    }
    let node = Node::load(state).expect("a state");
    let packet = web.packet(OUTSIDE, BALANCED, 80);
    let explanation = explain_new(&node, &packet, None).expect("of the node");
    assert_eq!(chosen(&explanation).len(), 2, "{explanation:#?}");
    let notes = &explanation.elsewhere;
    assert!(
        notes.iter().any(|note| note.contains("Maglev")),
        "{notes:?}"
    );
}

#[test]
fn services_are_found_by_name() {
    let node = Web::default().node();
    let of = |name, port, is_outside| {
        let found = node.addresses_of_service(("default", name), (port, TCP), is_outside);
        found.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(of("web", 80, false), Ok(vec![VIP.into(), BALANCED.into()]));
    assert_eq!(of("web", 80, true), Ok(vec![BALANCED.into(), VIP.into()]));
    assert_eq!(of("web", NODE_PORT, true), Ok(vec![NODE.into()]));
    assert_eq!(
        of("nobody", 80, false),
        Err(ServiceError::Unknown("default/nobody".into()))
    );
    let no_port = of("web", 81, false).expect_err("no port").to_string();
    assert_eq!(
        no_port,
        "service default/web has no port 81/TCP; it has 30080/TCP, 80/TCP"
    );
    let bare = of("bare", 80, false).expect_err("headless").to_string();
    assert!(bare.contains("headless"), "{bare}");
}
