//! Services of a cluster in which policy is asked: whom a connection to one of
//! their addresses may be led to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axon_abi::{Be16, DropReason, FrontendKind, IpKey};
use axon_control::services::{Cluster, Numbers, ServiceRows, ServicesConfig, resolve};
use axon_datapath::{Answer, Ask, Asker, frontend, select_of};
use axon_model::{
    EndpointSlice, Node, NodeAddress, NodeAddressKind, ObjectKey, Pod, Protocol, Service,
    ServicePort, ServiceSpec, SliceEndpoint, SlicePort, TargetPort, Written,
};

use crate::services::NodeTables;

/// The services of a cluster, and what each node holds for them once it is asked.
#[derive(Debug, Default)]
pub(crate) struct Served {
    cluster: Cluster,
    /// Addresses of all nodes.
    nodes: BTreeSet<IpKey>,
    rows: BTreeMap<String, OnceLock<ServiceRows>>,
}

/// Where a connection to a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Led {
    /// To one of these.
    To(BTreeSet<SocketAddr>),
    /// To nobody; why.
    Nobody(String),
}

impl Served {
    /// The services that have an address.
    pub(crate) fn new(described: &crate::Cluster) -> Self {
        let mut cluster = Cluster {
            makes_slices: true,
            ..Cluster::default()
        };
        for service in &described.services {
            let key = ObjectKey::new(&service.namespace, &service.name);
            let Some(modelled) = modelled(service) else {
                continue;
            };
            if service.selector.is_empty() {
                for v6 in [false, true] {
                    let name = format!("{}-{}", service.name, if v6 { "v6" } else { "v4" });
                    let slice = slice(service, &modelled.spec.ports, v6);
                    let key = ObjectKey::new(&service.namespace, &name);
                    cluster.slices.insert(key, slice.into());
                }
            }
            cluster.services.insert(key, modelled.into());
        }
        if cluster.services.is_empty() {
            return Self::default();
        }
        for node in &described.nodes {
            let address = NodeAddress {
                kind: NodeAddressKind::InternalIP,
                addr: node.ip,
            };
            let modelled = Node {
                name: node.name.clone(),
                labels: node.labels.clone(),
                addresses: vec![address],
                pod_cidrs: Vec::new(),
            };
            cluster.nodes.insert(node.name.clone(), modelled.into());
        }
        let own = described.pods.iter().filter(|pod| pod.cluster.is_empty());
        for pod in own {
            let key = ObjectKey::new(&pod.namespace, &pod.name);
            cluster.pods.insert(key, Arc::new(ready(pod)));
        }
        let names = described.nodes.iter().map(|node| node.name.clone());
        let nameless = [String::new()];
        Self {
            cluster,
            nodes: described.nodes.iter().map(|node| node.ip.into()).collect(),
            rows: names
                .chain(nameless)
                .map(|name| (name, OnceLock::new()))
                .collect(),
        }
    }

    /// Where a connection leads that is opened on a node, by a pod or by the node
    /// itself; nothing if the address is no service's.
    pub(crate) fn led(
        &self,
        (node, asker): (&str, Asker),
        (addr, port): (IpAddr, u16),
        protocol: Protocol,
    ) -> Option<Led> {
        let rows = self.rows.get(node)?.get_or_init(|| {
            let config = ServicesConfig::default();
            resolve(&self.cluster, node, &config, &mut Numbers::default())
        });
        let ask = Ask {
            addr: addr.into(),
            port: Be16::new(port),
            protocol: protocol.0,
            asker,
            ..Ask::default()
        };
        let tables = |random| NodeTables {
            rows,
            nodes: &self.nodes,
            random,
            now_s: 0,
            affinity: RefCell::default(),
        };
        let found = frontend(&tables(0), &ask)?;
        if !Protocol::WITH_PORTS.contains(&protocol) {
            // The address alone answers an echo, whoever is behind its ports.
            return (found.entry.kind() != Some(FrontendKind::Address))
                .then(|| Led::Nobody(format!("{addr} is a service's, which has no {protocol}")));
        }
        let mut backends = BTreeSet::new();
        for random in 0..found.list.slots.max(1) {
            match select_of(&tables(random), &ask, &found) {
                Ok(Answer::Backend(choice)) => {
                    let (addr, port) = (choice.backend.addr, choice.backend.port);
                    backends.insert(SocketAddr::new(addr.into(), port.get()));
                }
                Ok(Answer::Elsewhere) => return None,
                Ok(Answer::Closed) => {
                    let at = SocketAddr::new(addr, port);
                    return Some(Led::Nobody(format!(
                        "no service listens at {at}/{protocol}"
                    )));
                }
                Ok(Answer::Refused) | Err(DropReason::ServiceBackendNotFound) => {
                    return Some(Led::Nobody("the service has no backend".to_owned()));
                }
                Err(reason) => return Some(Led::Nobody(reason.to_string())),
            }
        }
        Some(Led::To(backends))
    }
}

/// A service as the agent knows it; nothing if it has no address.
fn modelled(service: &crate::Service) -> Option<Service> {
    let addr: IpAddr = service.cluster_ip.parse().ok()?;
    let ports = service
        .ports
        .iter()
        .enumerate()
        .filter_map(|(index, port)| {
            let protocol: Protocol = match port.protocol.as_str() {
                "" => Protocol::TCP,
                protocol => protocol.parse().ok()?,
            };
            Some(ServicePort {
                index,
                name: port.name.clone(),
                protocol,
                port: port.port,
                target: TargetPort::Number(match port.target_port {
                    0 => port.port,
                    target => target,
                }),
                node_port: 0,
            })
        });
    let spec = ServiceSpec {
        cluster_ips: vec![Written {
            field: "spec.clusterIP".to_owned(),
            addr,
        }],
        has_v4: addr.is_ipv4(),
        has_v6: addr.is_ipv6(),
        ports: ports.collect(),
        ..ServiceSpec::default()
    };
    Some(Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        labels: service.labels.clone(),
        selector: service.selector.clone(),
        spec,
    })
}

/// The endpoints of a service without selector, of one family.
fn slice(service: &crate::Service, ports: &[ServicePort], v6: bool) -> EndpointSlice {
    let addresses = service.endpoints.iter().copied();
    let addresses: Vec<IpAddr> = addresses.filter(|addr| addr.is_ipv6() == v6).collect();
    let endpoint = |addr: &IpAddr| SliceEndpoint {
        addresses: vec![Written {
            field: "endpoints".to_owned(),
            addr: *addr,
        }],
        is_ready: true,
        is_serving: true,
        ..SliceEndpoint::default()
    };
    let port = |port: &ServicePort| {
        let TargetPort::Number(target) = port.target else {
            return None;
        };
        Some(SlicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: target,
        })
    };
    EndpointSlice {
        service: service.name.clone(),
        endpoints: addresses.iter().map(endpoint).collect(),
        addresses,
        ports: ports.iter().filter_map(port).collect(),
        ..EndpointSlice::default()
    }
}

/// A pod that is ready: no case says otherwise.
fn ready(pod: &crate::Pod) -> Pod {
    Pod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        node: pod.node.clone(),
        ips: vec![pod.ip],
        is_ready: true,
        ..Pod::default()
    }
}
