//! From services to the rows of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_abi::{Be16, IpKey, ServiceFlags, ServiceKey};
use axon_control::services::{Cluster, Numbers, ServiceRows, ServicesConfig, resolve};
use axon_model::{
    Node, NodeAddress, NodeAddressKind, ObjectKey, Pod, Protocol, Service, ServiceKind,
    ServicePort, ServiceSpec, TargetPort, Written,
};

const NODE_A: &str = "198.51.100.1";

fn service(created: &str, ip: &str, node_port: u16) -> Service {
    Service {
        namespace: "shop".to_owned(),
        selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        spec: ServiceSpec {
            created: created.to_owned(),
            kind: ServiceKind::NodePort,
            has_v4: true,
            external_local: true,
            cluster_ips: vec![Written {
                field: "spec.clusterIP".to_owned(),
                addr: ip.parse().expect("an address"),
            }],
            ports: vec![ServicePort {
                index: 0,
                name: String::new(),
                protocol: Protocol::TCP,
                port: 80,
                target: TargetPort::Number(8080),
                node_port,
            }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster {
        makes_slices: true,
        ..Cluster::default()
    };
    for (name, addr) in [("a", NODE_A), ("b", "198.51.100.2")] {
        let address = NodeAddress {
            kind: NodeAddressKind::InternalIP,
            addr: addr.parse().expect("an address"),
        };
        let node = Node {
            name: name.to_owned(),
            addresses: vec![address],
            ..Node::default()
        };
        cluster.nodes.insert(name.to_owned(), node.into());
    }
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        node: "b".to_owned(),
        ips: vec!["10.0.2.1".parse().expect("an address")],
        is_ready: true,
        ..Pod::default()
    };
    cluster
        .pods
        .insert(ObjectKey::new("shop", "web"), pod.into());
    let mut first = service("2026-01-01T00:00:01Z", "10.96.0.1", 30_080);
    "first".clone_into(&mut first.name);
    cluster
        .services
        .insert(ObjectKey::new("shop", "first"), first.into());
    cluster
}

fn rows(cluster: &Cluster, node: &str) -> ServiceRows {
    resolve(
        cluster,
        node,
        &ServicesConfig::default(),
        &mut Numbers::default(),
    )
}

fn key(addr: &str, port: u16) -> ServiceKey {
    ServiceKey {
        addr: IpKey::from(addr.parse::<std::net::IpAddr>().expect("an address")),
        port: Be16::new(port),
        protocol: 6,
        pad: 0,
    }
}

#[test]
fn a_local_policy_drops_where_nobody_is_near_and_refuses_where_nobody_is() {
    let mut cluster = cluster();
    let near = rows(&cluster, "b").services[&key("198.51.100.2", 30_080)];
    assert_eq!(near.external.slots, 1);
    let far = rows(&cluster, "a").services[&key(NODE_A, 30_080)];
    assert_eq!((far.external.slots, far.internal.slots), (0, 1));
    assert!(far.has(ServiceFlags::DROP_OUTSIDE));
    let pod = cluster.pods.values_mut().next().expect("a pod");
    Arc::make_mut(pod).is_ready = false;
    let nobody = rows(&cluster, "a").services[&key(NODE_A, 30_080)];
    assert_eq!(nobody.external.slots, 0);
    assert!(!nobody.has(ServiceFlags::DROP_OUTSIDE));
}

#[test]
fn who_came_first_keeps_what_both_claim() {
    let mut cluster = cluster();
    let mut second = service("2026-01-01T00:00:02Z", "10.96.0.1", 30_080);
    "a-second".clone_into(&mut second.name);
    let before = rows(&cluster, "a");
    cluster
        .services
        .insert(ObjectKey::new("shop", "a-second"), second.into());
    let after = rows(&cluster, "a");
    for addr in ["10.96.0.1", NODE_A] {
        let port = if addr == NODE_A { 30_080 } else { 80 };
        assert_eq!(
            after.services[&key(addr, port)],
            before.services[&key(addr, port)]
        );
    }
    let told: Vec<_> = after.reports.iter().collect();
    let fields: Vec<_> = told
        .iter()
        .map(|r| (r.object.as_str(), r.field.as_str()))
        .collect();
    let object = "Service shop/a-second";
    assert_eq!(
        fields,
        [
            (object, "spec.clusterIP"),
            (object, "spec.ports[0].nodePort")
        ]
    );
}
