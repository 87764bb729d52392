//! Random clusters, small enough that objects meet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_control::services::{Mode, ServicesConfig};
use axon_model::{
    Algorithm, Distribution, EndpointSlice, Fault, LocalRedirect, Node, NodeAddress,
    NodeAddressKind, ObjectKey, Pod, PodPort, Protocol, RedirectFrontend, RedirectPort,
    Requirement, Selector, Service, ServiceKind, ServicePort, ServiceSpec, SliceEndpoint,
    SlicePort, TargetPort, Written, source,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

pub(crate) const NODE: &str = "here";
const NODES: [&str; 3] = [NODE, "there", "far"];
const ZONE: &str = "topology.kubernetes.io/zone";

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Addresses of frontends; the third is node `here`'s, the fourth `there`'s.
fn front() -> impl Strategy<Value = IpAddr> {
    let all = [
        "10.96.0.1",
        "10.96.0.2",
        "192.0.2.1",
        "192.0.2.2",
        "fd00::96:1",
    ];
    select(all.map(addr).to_vec())
}

/// Addresses of pods.
fn back() -> impl Strategy<Value = IpAddr> {
    let all = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1", "192.0.2.1"];
    select(all.map(addr).to_vec())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::TCP, Protocol::TCP, Protocol::UDP])
}

fn name() -> impl Strategy<Value = String> {
    select(vec![String::new(), "a".to_owned()])
}

pub(crate) fn key(names: usize) -> impl Strategy<Value = ObjectKey> {
    (select(vec!["x", "x", "y"]), 0..names)
        .prop_map(|(namespace, n)| ObjectKey::new(namespace, &format!("o{n}")))
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let pairs = [("app", "a"), ("app", "b"), ("tier", "a")];
    subsequence(pairs.to_vec(), 0..=2).prop_map(|pairs| {
        let owned = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
        pairs.into_iter().map(owned).collect()
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    labels().prop_map(|labels| {
        let equals = |(k, v): (&String, &String)| Requirement::equals(source::K8S, k, v);
        Selector::new(labels.iter().map(equals).collect())
    })
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let wrong = ["spec.a", "spec.clusterIP", "spec.ports[0].nodePort"];
    let fault = (select(wrong.to_vec()), select(vec!["bad", "worse"]));
    prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(fault.prop_map(|(field, why)| Fault::new(field, why)), 1..3),
    ]
}

fn created() -> impl Strategy<Value = String> {
    select(vec![String::new(), "1".to_owned(), "2".to_owned()])
}

fn port() -> impl Strategy<Value = ServicePort> {
    let target = prop_oneof![
        Just(TargetPort::Number(8080)),
        Just(TargetPort::Name("a".to_owned()))
    ];
    let node_port = select(vec![0, 0, 30_001, 30_002, 80]);
    (name(), protocol(), select(vec![80, 81]), target, node_port).prop_map(
        |(name, protocol, port, target, node_port)| ServicePort {
            index: 0,
            name,
            protocol,
            port,
            target,
            node_port,
        },
    )
}

fn written(field: &'static str) -> impl Strategy<Value = Vec<Written>> {
    prop::collection::vec(front(), 0..=2).prop_map(move |all| {
        let written = |addr| Written {
            field: field.to_owned(),
            addr,
        };
        all.into_iter().map(written).collect()
    })
}

type Addresses = (Vec<Written>, Vec<Written>, Vec<Written>);

fn addresses() -> impl Strategy<Value = Addresses> {
    (
        written("spec.clusterIP"),
        written("status.loadBalancer"),
        written("spec.externalIPs"),
    )
}

fn kind() -> impl Strategy<Value = ServiceKind> {
    select(vec![
        ServiceKind::ClusterIp,
        ServiceKind::NodePort,
        ServiceKind::LoadBalancer,
        ServiceKind::LoadBalancer,
        ServiceKind::ExternalName,
    ])
}

fn spec() -> impl Strategy<Value = ServiceSpec> {
    let distribution = select(vec![
        Distribution::Even,
        Distribution::Zone,
        Distribution::Node,
    ]);
    let ranges = select(vec![None, Some("10.0.0.0/8"), Some("fd00::/8")]);
    (
        (created(), kind(), prop::bool::weighted(0.1), addresses()),
        prop::collection::vec(port(), 1..=3),
        (any::<[bool; 6]>(), distribution, ranges),
        (faults(), select(vec![0_u16, 32_000, 32_001])),
        prop_oneof![4 => Just(None), 1 => selector().prop_map(Some)],
        select(vec![None, Some(Algorithm::Maglev)]),
    )
        .prop_map(
            |(what, mut ports, how, (faults, health), nodes, algorithm)| {
                let (created, kind, is_headless, (cluster_ips, load_balancer_ips, external_ips)) =
                    what;
                let (flags, distribution, ranges) = how;
                for (index, port) in ports.iter_mut().enumerate() {
                    port.index = index;
                }
                ServiceSpec {
                    created,
                    kind,
                    is_headless,
                    cluster_ips,
                    load_balancer_ips,
                    external_ips,
                    has_v4: flags[0],
                    has_v6: !flags[0] || flags[1],
                    ports,
                    external_local: flags[2],
                    internal_local: flags[3] && flags[2],
                    affinity_timeout_s: flags[4].then_some(10),
                    source_ranges: ranges
                        .and_then(|range| range.parse().ok())
                        .into_iter()
                        .collect(),
                    has_source_ranges: ranges.is_some(),
                    health_check_node_port: health,
                    publish_not_ready: flags[5],
                    distribution,
                    follows_hints: distribution != Distribution::Even,
                    algorithm,
                    nodes,
                    faults,
                    ..ServiceSpec::default()
                }
            },
        )
}

pub(crate) fn service() -> impl Strategy<Value = (ObjectKey, Service)> {
    (key(3), labels(), spec()).prop_map(|(key, selector, spec)| {
        let service = Service {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            selector,
            spec,
            ..Service::default()
        };
        (key, service)
    })
}

fn endpoint() -> impl Strategy<Value = SliceEndpoint> {
    let node = select(vec!["", NODE, "there"]);
    let zones = subsequence(vec!["z1", "z2"], 0..=2);
    (
        prop::collection::vec(back(), 0..=2),
        any::<[bool; 4]>(),
        node,
        zones,
    )
        .prop_map(|(all, flags, node, zones)| {
            let written = |addr| Written {
                field: String::new(),
                addr,
            };
            SliceEndpoint {
                addresses: all.into_iter().map(written).collect(),
                is_ready: flags[0],
                is_serving: flags[1],
                is_terminating: flags[2],
                node: node.to_owned(),
                for_zones: zones.into_iter().map(str::to_owned).collect(),
                for_nodes: flags[3].then(|| NODE.to_owned()).into_iter().collect(),
            }
        })
}

pub(crate) fn slice() -> impl Strategy<Value = (ObjectKey, EndpointSlice)> {
    let service = select(vec!["", "o0", "o1", "o2", "nobody"]);
    let port = (name(), protocol(), select(vec![8080, 8081]));
    let port = port.prop_map(|(name, protocol, port)| SlicePort {
        name,
        protocol,
        port,
    });
    (
        key(4),
        service,
        prop::collection::vec(endpoint(), 0..=3),
        prop::collection::vec(port, 0..=2),
        select(vec![None, Some(0), Some(50)]),
        faults(),
    )
        .prop_map(|(key, service, endpoints, ports, weight, faults)| {
            let slice = EndpointSlice {
                service: service.to_owned(),
                endpoints,
                ports,
                weight,
                faults,
                ..EndpointSlice::default()
            };
            (key, slice)
        })
}

pub(crate) fn pod() -> impl Strategy<Value = (ObjectKey, Pod)> {
    let port = (
        name(),
        protocol(),
        select(vec![0, 30_001, 8000]),
        any::<bool>(),
    );
    let port = port.prop_map(|(name, protocol, host_port, is_bound)| PodPort {
        field: format!("spec.containers[0].ports[{host_port}]"),
        name,
        port: 8080,
        protocol,
        host_port,
        host_ip: is_bound.then(|| addr("192.0.2.1")),
        is_init: false,
    });
    let node = select(vec![NODE, NODE, "there", ""]);
    (
        key(4),
        labels(),
        prop::collection::vec(back(), 0..=2),
        prop::collection::vec(port, 0..=2),
        (node, any::<[bool; 2]>()),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
    )
        .prop_map(|(key, labels, ips, ports, (node, flags), rare)| {
            let pod = Pod {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                labels,
                ips,
                ports,
                node: node.to_owned(),
                is_ready: flags[0] || flags[1],
                is_terminating: !flags[0],
                is_finished: rare.0,
                host_network: rare.1,
                ..Pod::default()
            };
            (key, pod)
        })
}

pub(crate) fn node_name() -> impl Strategy<Value = String> {
    select(NODES.to_vec()).prop_map(str::to_owned)
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let addresses = ["192.0.2.1", "192.0.2.2", "fd00::2:1", "10.96.0.2"];
    let kind = select(vec![
        NodeAddressKind::InternalIP,
        NodeAddressKind::InternalIP,
        NodeAddressKind::CiliumInternalIP,
    ]);
    (
        node_name(),
        subsequence(addresses.to_vec(), 0..=3),
        kind,
        select(vec!["", "z1", "z2"]),
        labels(),
    )
        .prop_map(|(name, addresses, kind, zone, mut labels)| {
            if !zone.is_empty() {
                labels.insert(ZONE.to_owned(), zone.to_owned());
            }
            let address = |text| NodeAddress {
                kind,
                addr: addr(text),
            };
            Node {
                name,
                labels,
                addresses: addresses.into_iter().map(address).collect(),
                ..Node::default()
            }
        })
}

fn redirect_port() -> impl Strategy<Value = RedirectPort> {
    (name(), select(vec![80, 81]), protocol()).prop_map(|(name, port, protocol)| RedirectPort {
        name,
        port,
        protocol,
    })
}

pub(crate) fn redirect() -> impl Strategy<Value = (ObjectKey, LocalRedirect)> {
    let ports = || prop::collection::vec(redirect_port(), 0..=2);
    let frontend = prop_oneof![
        (front(), ports()).prop_map(|(addr, ports)| RedirectFrontend::Address(addr, ports)),
        (key(3), ports()).prop_map(|(key, ports)| RedirectFrontend::Service(key, ports)),
    ];
    (
        key(3),
        created(),
        frontend,
        selector(),
        ports(),
        any::<bool>(),
    )
        .prop_map(|(key, created, frontend, selector, ports, skips_own)| {
            let redirect = LocalRedirect {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                created,
                frontend,
                selector,
                ports,
                skips_own,
            };
            (key, redirect)
        })
}

pub(crate) fn config() -> impl Strategy<Value = ServicesConfig> {
    let mode = select(vec![Mode::Snat, Mode::Dsr, Mode::Hybrid]);
    (any::<[bool; 8]>(), mode).prop_map(|(flags, mode)| ServicesConfig {
        mode,
        algorithm_annotation: flags[0],
        maglev_table_size: 251,
        external_cluster_ip: flags[1],
        topology: flags[2],
        drop_without_backends: flags[3],
        external_ips_inside: flags[4],
        local_redirects: flags[5] || flags[6],
        ipv6: flags[7] || flags[6],
        ..ServicesConfig::default()
    })
}
