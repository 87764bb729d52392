//! The names of services and pods, from the tables that services are told from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_control::services::Cluster as Tables;
use axon_model::{ObjectKey, Service, ServiceKind};
use serde_json::Value;

use crate::dns::{Book, Endpoint, Entry, Port, StandsFor};
use crate::manifest::{Id, text};
use crate::plan::PodKey;
use crate::pod::DNS;
use crate::services;
use crate::state::Cluster;
use crate::tables::{SERVICE_NAME, protocol};

/// Host names of endpoints, by namespace, service and address.
type Hostnames = BTreeMap<(String, String, IpAddr), String>;

/// Every name of a cluster. The slices are those of the tables, as they are
/// written.
///
/// Where agents do not serve services, the name of one with addresses stands for
/// its endpoints.
pub(crate) fn names<'a>(
    cluster: &Cluster,
    tables: &Tables,
    slices: impl Iterator<Item = (&'a Id, &'a Value)>,
) -> Book {
    let hostnames = hostnames(slices);
    let mut endpoints = endpoints(tables, &hostnames);
    let mut book = Book::default();
    for id in cluster
        .plan
        .others
        .keys()
        .filter(|id| id.kind == "Namespace")
    {
        book.namespaces.insert(id.name.to_ascii_lowercase());
    }
    for (key, service) in &tables.services {
        let external = cluster.plan.others.get(&service_id(key));
        let external = external.and_then(|value| text(value, "/spec/externalName"));
        let endpoints = endpoints.remove(key).unwrap_or_default();
        let entry = entry(service, external, endpoints, cluster.serves_services());
        let of_namespace = book.services.entry(key.namespace.clone()).or_default();
        of_namespace.insert(key.name.to_ascii_lowercase(), entry);
    }
    for (key, pod) in cluster.pods.iter().filter(|(_, pod)| !pod.ips.is_empty()) {
        let of_namespace = book.pods.entry(key.namespace.clone()).or_default();
        of_namespace.insert(key.name.clone(), pod.ips.clone());
    }
    book.server = name_servers(cluster);
    book
}

/// Where the cluster's name server is to be asked: its Service's addresses or,
/// where agents do not serve services, its pod's. Empty as long as it has none.
pub(crate) fn name_servers(cluster: &Cluster) -> Vec<IpAddr> {
    let service = service_id(&ObjectKey::new(DNS.0, "kube-dns"));
    let value = cluster.plan.others.get(&service);
    let own = value.map(|value| services::addresses(&value["spec"]));
    let key = PodKey {
        namespace: DNS.0.into(),
        name: DNS.1.into(),
    };
    let pod = cluster.pods.get(&key).map(|pod| pod.ips.clone());
    match own {
        // An address of nobody is none.
        Some(own) if !own.is_empty() && cluster.serves_services() && pod.is_some() => own,
        _ => pod.unwrap_or_default(),
    }
}

fn service_id(key: &ObjectKey) -> Id {
    Id {
        kind: "Service".into(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn entry(
    service: &Service,
    external: Option<String>,
    endpoints: Vec<Endpoint>,
    is_served: bool,
) -> Entry {
    let spec = &service.spec;
    let stands_for = match external {
        Some(name) if spec.kind == ServiceKind::ExternalName => {
            StandsFor::Name(name.trim_end_matches('.').to_ascii_lowercase())
        }
        _ if spec.is_headless => StandsFor::Endpoints,
        _ if is_served => StandsFor::Addresses(spec.cluster_ips.iter().map(|ip| ip.addr).collect()),
        _ => {
            let ips: BTreeSet<IpAddr> = endpoints.iter().map(|e| e.addr).collect();
            StandsFor::Addresses(ips.into_iter().collect())
        }
    };
    let ports = spec.ports.iter().filter_map(|port| {
        Some(Port {
            name: port.name.to_ascii_lowercase(),
            protocol: protocol(port.protocol)?.to_ascii_lowercase(),
            port: port.port,
        })
    });
    Entry {
        stands_for,
        ports: ports.collect(),
        endpoints,
    }
}

/// The endpoints of each service that are ready, each address once.
fn endpoints(tables: &Tables, hostnames: &Hostnames) -> BTreeMap<ObjectKey, Vec<Endpoint>> {
    let mut all: BTreeMap<ObjectKey, BTreeMap<IpAddr, BTreeSet<Port>>> = BTreeMap::new();
    for (key, slice) in &tables.slices {
        let service = ObjectKey::new(&key.namespace, &slice.service);
        let ports = slice.ports.iter().filter_map(|port| {
            Some(Port {
                name: port.name.to_ascii_lowercase(),
                protocol: protocol(port.protocol)?.to_ascii_lowercase(),
                port: port.port,
            })
        });
        let ports: Vec<Port> = ports.collect();
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.is_ready);
        let of_service = all.entry(service).or_default();
        for address in ready.flat_map(|endpoint| &endpoint.addresses) {
            let known = of_service.entry(address.addr).or_default();
            known.extend(ports.iter().cloned());
        }
    }
    let named = all.into_iter().map(|(key, endpoints)| {
        let endpoints = endpoints.into_iter().map(|(addr, ports)| {
            let at = (key.namespace.clone(), key.name.clone(), addr);
            Endpoint {
                addr,
                hostname: hostnames.get(&at).cloned().unwrap_or_default(),
                ports: ports.into_iter().collect(),
            }
        });
        let endpoints = endpoints.collect();
        (key, endpoints)
    });
    named.collect()
}

/// The host names that slices give.
fn hostnames<'a>(slices: impl Iterator<Item = (&'a Id, &'a Value)>) -> Hostnames {
    let mut names = Hostnames::new();
    for (id, slice) in slices {
        let service = slice["metadata"]["labels"][SERVICE_NAME].as_str();
        let service = service.unwrap_or_default();
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let Some(hostname) = endpoint["hostname"].as_str().filter(|h| !h.is_empty()) else {
                continue;
            };
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            for address in addresses.filter_map(Value::as_str) {
                if let Ok(addr) = address.parse() {
                    let at = (id.namespace.clone(), service.to_owned(), addr);
                    names.insert(at, hostname.to_ascii_lowercase());
                }
            }
        }
    }
    names
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
