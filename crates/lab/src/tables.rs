//! The cluster as its services are told from: the same tables, by the same
//! readers, that agents have.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axon_api::k8s;
use axon_control::services::{Cluster as Tables, selected, target};
use axon_model::{ObjectKey, Protocol, Service, ServiceKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::manifest::Id;

/// The label of a slice that names its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// So many endpoints are in a slice, as the EndpointSlice controller has it.
const ENDPOINTS_MAX: usize = 100;

/// Tables of objects. What cannot be read is in none: agents tell of it.
pub(crate) fn tables<'a>(objects: impl Iterator<Item = (&'a Id, &'a Value)>) -> Tables {
    let mut tables = Tables::default();
    for (id, value) in objects {
        let key = ObjectKey::new(&id.namespace, &id.name);
        match id.kind.as_str() {
            "Service" => {
                if let Some(service) = read::<k8s::Service>(value) {
                    tables.services.insert(key, Arc::new(service.to_model()));
                }
            }
            "EndpointSlice" => {
                if let Some(slice) = read::<k8s::EndpointSlice>(value) {
                    tables.slices.insert(key, Arc::new(slice.to_model()));
                }
            }
            "Node" => {
                let node = read::<k8s::Node>(value).and_then(|node| node.to_model().ok());
                if let Some(node) = node {
                    tables.nodes.insert(id.name.clone(), Arc::new(node));
                }
            }
            "Pod" => {
                let pod = read::<k8s::Pod>(value).and_then(|pod| pod.to_model().ok());
                if let Some(pod) = pod {
                    tables.pods.insert(key, Arc::new(pod));
                }
            }
            _ => {}
        }
    }
    tables
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

/// A port of an endpoint: name, protocol, number.
type EndpointPort = (String, &'static str, u16);

/// The slices of all services that select pods, as the EndpointSlice controller
/// would write them. `hostname_of` gives the host name of a pod that asks for one
/// under a service.
pub(crate) fn slices(
    tables: &Tables,
    hostname_of: impl Fn(&ObjectKey, &str) -> Option<String>,
) -> BTreeMap<Id, Value> {
    let mut all = BTreeMap::new();
    for (key, service) in &tables.services {
        if service.selector.is_empty() || service.spec.kind == ServiceKind::ExternalName {
            continue;
        }
        let mut groups: BTreeMap<(bool, Vec<EndpointPort>), Vec<Value>> = BTreeMap::new();
        for (pod, endpoint) in selected(tables, (&key.namespace, service)) {
            let ports = ports_of(service, pod);
            let hostname = hostname_of(&ObjectKey::new(&pod.namespace, &pod.name), &key.name);
            let families = [(false, service.spec.has_v4), (true, service.spec.has_v6)];
            for (is_v6, _) in families.into_iter().filter(|(_, has)| *has) {
                let Some(ip) = pod.ips.iter().find(|ip| ip.is_ipv6() == is_v6) else {
                    continue;
                };
                let value = endpoint_object(*ip, pod, &endpoint, hostname.as_deref());
                groups
                    .entry((is_v6, ports.clone()))
                    .or_default()
                    .push(value);
            }
        }
        for is_v6 in [false, true] {
            let of_family = groups.iter().filter(|((v6, _), _)| *v6 == is_v6);
            let parts = of_family.flat_map(|((_, ports), endpoints)| {
                let parts = endpoints.chunks(ENDPOINTS_MAX);
                parts.map(move |part| (ports, part))
            });
            for (n, (ports, endpoints)) in parts.enumerate() {
                let (id, value) = slice(key, (is_v6, n), ports, endpoints);
                all.insert(id, value);
            }
        }
    }
    all
}

/// The ports of a pod that a service means.
fn ports_of(service: &Service, pod: &axon_model::Pod) -> Vec<EndpointPort> {
    let ports = service.spec.ports.iter();
    let ports = ports.filter_map(|port| {
        Some((
            port.name.clone(),
            protocol(port.protocol)?,
            target(port, pod)?,
        ))
    });
    ports.collect()
}

/// Kubernetes' word for a protocol that services have.
pub(crate) fn protocol(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::TCP => Some("TCP"),
        Protocol::UDP => Some("UDP"),
        Protocol::SCTP => Some("SCTP"),
        _ => None,
    }
}

fn endpoint_object(
    ip: IpAddr,
    pod: &axon_model::Pod,
    endpoint: &axon_model::SliceEndpoint,
    hostname: Option<&str>,
) -> Value {
    let hints = |names: &[String]| -> Vec<Value> {
        let names = names.iter();
        names.map(|name| json!({"name": name})).collect()
    };
    let mut value = json!({
        "addresses": [ip.to_string()],
        "conditions": {
            "ready": endpoint.is_ready,
            "serving": endpoint.is_serving,
            "terminating": endpoint.is_terminating,
        },
        "nodeName": endpoint.node,
        "targetRef": {
            "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        },
    });
    if let Some(hostname) = hostname {
        value["hostname"] = hostname.into();
    }
    for (field, names) in [
        ("forZones", &endpoint.for_zones),
        ("forNodes", &endpoint.for_nodes),
    ] {
        if !names.is_empty() {
            value["hints"][field] = hints(names).into();
        }
    }
    value
}

fn slice(
    service: &ObjectKey,
    (is_v6, number): (bool, usize),
    ports: &[EndpointPort],
    endpoints: &[Value],
) -> (Id, Value) {
    let (suffix, address_type) = match is_v6 {
        false => ("v4", "IPv4"),
        true => ("v6", "IPv6"),
    };
    // A dot keeps it apart from what users write: theirs rarely have one.
    let mut name = format!("{}.{suffix}", service.name);
    if number > 0 {
        name = format!("{name}.{number}");
    }
    let ports = ports.iter();
    let ports: Vec<Value> = ports
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": service.namespace, "name": name,
            "labels": {
                SERVICE_NAME: service.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": address_type,
        "endpoints": endpoints,
        "ports": ports,
    });
    let id = Id {
        kind: "EndpointSlice".into(),
        namespace: service.namespace.clone(),
        name,
    };
    (id, value)
}
