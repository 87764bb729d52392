//! `PUT /v1/service/NAMESPACE/NAME`: a service that nobody but the agent's API tells
//! of, and the objects that it stands for.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_model::{ObjectKey, Protocol};
use serde::{Deserialize, Serialize};

use crate::k8s;
use crate::manifest::{FieldError, ManifestError, Object, to_yaml};
use crate::select::{address, prefix_or_address, transport};
use crate::services::ServiceView;

/// Seconds of affinity at most: a day.
const AFFINITY_S_MAX: u32 = 86_400;
/// Backends of a port at most.
const BACKENDS_MAX: usize = 10_000;

/// A service as it shall be: whole, whatever it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceUpsert {
    /// `LoadBalancer` (also if empty): for the network and for who is inside.
    /// `ClusterIP`: for who is inside.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// At which ports, and who is behind each.
    pub ports: Vec<UpsertPort>,
    /// Seconds for which a client finds the same backend; 0: it need not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session_affinity_timeout_s: u32,
    /// `random`, `maglev`; empty: as the agent is configured.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub algorithm: String,
    /// `snat`, `dsr`; empty: as the agent is configured.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub forwarding: String,
    /// Prefixes of whom it lets in, or keeps out; empty: it lets in everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// `allow` (also if empty), `deny`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_ranges_policy: String,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UpsertPort {
    /// Its name; of several ports each has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `TCP` (also if empty), `UDP`, `SCTP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Who is behind it.
    #[serde(default)]
    pub backends: Vec<UpsertBackend>,
}

/// A backend of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UpsertBackend {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// How much it takes beside the others; 0: nothing while others take something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// What has become of a service that was put.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Upserted {
    /// Whether there was none of that name before.
    pub created: bool,
    /// Its frontends.
    pub frontends: Vec<ServiceView>,
    /// What of it is not in force, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A field that is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The field.
    pub field: String,
    /// Why.
    pub reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Checks the namespace and the name of a service in a path.
///
/// # Errors
/// The one that is none.
pub fn service_key(namespace: &str, name: &str) -> Result<ObjectKey, FieldError> {
    for (text, field) in [(namespace, "namespace"), (name, "name")] {
        if text.is_empty() {
            return Err(FieldError::new(field, "is missing"));
        }
        k8s::check_namespace(text, field)?;
    }
    Ok(ObjectKey::new(namespace, name))
}

/// One of some words, or none.
fn word(text: &str, path: &str, words: [&str; 2]) -> Result<(), FieldError> {
    if text.is_empty() || words.contains(&text) {
        return Ok(());
    }
    let expected = words.join(" or ");
    Err(FieldError::new(
        path,
        format!("{text:?}; expected {expected}"),
    ))
}

/// An address that one host has.
fn host(text: &str, path: &str) -> Result<IpAddr, FieldError> {
    let addr = address(text, path)?;
    if addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() {
        let message = format!("{addr} is nobody's; expected an address that can be sent to");
        return Err(FieldError::new(path, message));
    }
    Ok(addr)
}

fn port(number: u16, path: &str) -> Result<i64, FieldError> {
    match number {
        0 => Err(FieldError::new(path, "0 is no port; expected 1 to 65535")),
        number => Ok(number.into()),
    }
}

/// Backends that are told of in one slice: of one port, family, port of theirs, and
/// weight.
type SliceKey = (usize, bool, u16, Option<u16>);

impl ServiceUpsert {
    /// The objects that it stands for: a Service that was `created` at a time in a form
    /// that sorts, and EndpointSlices. Of several that claim an address it is the first
    /// one's.
    ///
    /// # Errors
    /// The first field that is not as it must be.
    pub fn objects(&self, key: &ObjectKey, created: &str) -> Result<Vec<Object>, FieldError> {
        word(&self.kind, "type", ["LoadBalancer", "ClusterIP"])?;
        word(&self.algorithm, "algorithm", ["random", "maglev"])?;
        word(&self.forwarding, "forwarding", ["snat", "dsr"])?;
        let policy = &self.source_ranges_policy;
        word(policy, "source-ranges-policy", ["allow", "deny"])?;
        if self.session_affinity_timeout_s > AFFINITY_S_MAX {
            let message = format!(
                "{}; expected 0 to {AFFINITY_S_MAX}",
                self.session_affinity_timeout_s
            );
            return Err(FieldError::new("session-affinity-timeout-s", message));
        }
        for (n, range) in self.source_ranges.iter().enumerate() {
            prefix_or_address(range, &format!("source-ranges[{n}]"))?;
        }
        let addresses = self.checked_addresses()?;
        let mut slices: BTreeMap<SliceKey, Vec<IpAddr>> = BTreeMap::new();
        let mut ports = Vec::new();
        for (n, port) in self.ports.iter().enumerate() {
            ports.push(self.port(n, port)?);
            for (of, addr) in Self::backends(n, port, &addresses)? {
                slices.entry(of).or_default().push(addr);
            }
        }
        if ports.is_empty() {
            let message = "is empty; expected at least one port";
            return Err(FieldError::new("ports", message));
        }
        let mut service = self.service(key, &addresses, ports);
        created.clone_into(&mut service.metadata.creation_timestamp);
        let slices = slices.into_iter().enumerate();
        let slices = slices.map(|(n, (of, addrs))| self.slice(key, n, (of, &addrs)));
        Ok(std::iter::once(Object::Service(service))
            .chain(slices.map(Object::EndpointSlice))
            .collect())
    }

    /// The same as a text that a source of manifests reads.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn manifest(objects: &[Object]) -> Result<String, ManifestError> {
        let documents: Result<Vec<String>, ManifestError> = objects.iter().map(to_yaml).collect();
        Ok(documents?.join("---\n"))
    }

    /// What a field of the Service object is called here.
    #[must_use]
    pub fn field_of(field: &str) -> String {
        let list = |prefix: &str, ours: &str| {
            let rest = field.strip_prefix(prefix)?;
            let (index, rest) = rest.split_once(']')?;
            Some(format!("{ours}[{index}]{}", rest.trim_end_matches(".ip")))
        };
        list("status.loadBalancer.ingress[", "addresses")
            .or_else(|| list("spec.clusterIPs[", "addresses"))
            .or_else(|| list("spec.ports[", "ports"))
            .or_else(|| list("spec.loadBalancerSourceRanges[", "source-ranges"))
            .or_else(|| (field == "spec.clusterIP").then(|| "addresses[0]".to_owned()))
            .unwrap_or_else(|| field.to_owned())
    }

    fn checked_addresses(&self) -> Result<Vec<IpAddr>, FieldError> {
        let mut addresses = Vec::new();
        for (n, text) in self.addresses.iter().enumerate() {
            let path = format!("addresses[{n}]");
            let addr = host(text, &path)?;
            if addresses.contains(&addr) {
                return Err(FieldError::new(path, format!("{addr} is there already")));
            }
            addresses.push(addr);
        }
        if addresses.is_empty() {
            let message = "is empty; expected at least one address";
            return Err(FieldError::new("addresses", message));
        }
        Ok(addresses)
    }

    fn port(&self, n: usize, given: &UpsertPort) -> Result<k8s::ServicePort, FieldError> {
        let at = |field: &str| format!("ports[{n}].{field}");
        let number = port(given.port, &at("port"))?;
        let protocol = |given: &UpsertPort, path: &str| transport(&given.protocol, path);
        let own = protocol(given, &at("protocol"))?;
        if given.name.is_empty() && self.ports.len() > 1 {
            let message = "is missing; of several ports each has a name";
            return Err(FieldError::new(at("name"), message));
        }
        k8s::check_namespace(&given.name, &at("name"))?;
        let before = self.ports.get(..n).unwrap_or_default();
        for (m, other) in before.iter().enumerate() {
            if other.name == given.name {
                let message = format!("{:?} is the name of ports[{m}] already", given.name);
                return Err(FieldError::new(at("name"), message));
            }
            let path = format!("ports[{m}].protocol");
            if other.port == given.port && protocol(other, &path)? == own {
                let message = format!("{number} with this protocol is ports[{m}] already");
                return Err(FieldError::new(at("port"), message));
            }
        }
        if given.backends.len() > BACKENDS_MAX {
            let message = format!(
                "are {}; expected at most {BACKENDS_MAX}",
                given.backends.len()
            );
            return Err(FieldError::new(at("backends"), message));
        }
        Ok(k8s::ServicePort {
            name: given.name.clone(),
            port: number,
            protocol: name_of(own),
            ..k8s::ServicePort::default()
        })
    }

    /// Backends of a port, each with the slice that it is told of in.
    fn backends(
        n: usize,
        given: &UpsertPort,
        addresses: &[IpAddr],
    ) -> Result<Vec<(SliceKey, IpAddr)>, FieldError> {
        let mut seen = BTreeSet::new();
        let mut backends = Vec::new();
        for (m, backend) in given.backends.iter().enumerate() {
            let at = |field: &str| format!("ports[{n}].backends[{m}].{field}");
            let addr = host(&backend.address, &at("address"))?;
            port(backend.port, &at("port"))?;
            let of_family = |own: &IpAddr| own.is_ipv6() == addr.is_ipv6();
            if !addresses.iter().any(of_family) {
                let family = if addr.is_ipv6() { "IPv6" } else { "IPv4" };
                let message = format!("{addr} is {family}, and no address of the service is");
                return Err(FieldError::new(at("address"), message));
            }
            if !seen.insert((addr, backend.port)) {
                let message = format!("{addr} with port {} is there already", backend.port);
                return Err(FieldError::new(at("address"), message));
            }
            let of = (n, addr.is_ipv6(), backend.port, backend.weight);
            backends.push((of, addr));
        }
        Ok(backends)
    }

    fn service(
        &self,
        key: &ObjectKey,
        addresses: &[IpAddr],
        ports: Vec<k8s::ServicePort>,
    ) -> k8s::Service {
        let mut service = k8s::Service {
            metadata: k8s::Metadata::named(&key.namespace, &key.name),
            ..k8s::Service::default()
        };
        for (annotation, text) in [
            ("service.cilium.io/lb-algorithm", &self.algorithm),
            ("service.cilium.io/forwarding-mode", &self.forwarding),
            (
                "service.cilium.io/src-ranges-policy",
                &self.source_ranges_policy,
            ),
        ] {
            if !text.is_empty() {
                let annotations = &mut service.metadata.annotations;
                annotations.insert(annotation.to_owned(), text.clone());
            }
        }
        let spec = &mut service.spec;
        spec.ports = ports;
        spec.load_balancer_source_ranges
            .clone_from(&self.source_ranges);
        for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
            if addresses.iter().any(|addr| addr.is_ipv6() == is_v6) {
                spec.ip_families.push(family.to_owned());
            }
        }
        if self.session_affinity_timeout_s != 0 {
            "ClientIP".clone_into(&mut spec.session_affinity);
            spec.session_affinity_config.client_ip.timeout_seconds =
                Some(self.session_affinity_timeout_s.into());
        }
        let texts = addresses.iter().map(IpAddr::to_string);
        if self.kind == "ClusterIP" {
            spec.kind.clone_from(&self.kind);
            spec.cluster_ips = texts.collect();
            spec.cluster_ip = spec.cluster_ips.first().cloned().unwrap_or_default();
        } else {
            "LoadBalancer".clone_into(&mut spec.kind);
            let given = texts.map(|ip| k8s::LoadBalancerIngress {
                ip,
                ..k8s::LoadBalancerIngress::default()
            });
            service.status.load_balancer.ingress = given.collect();
        }
        service
    }

    fn slice(
        &self,
        key: &ObjectKey,
        number: usize,
        ((n, is_v6, backend_port, weight), addrs): (SliceKey, &[IpAddr]),
    ) -> k8s::EndpointSlice {
        let name = format!("{}-api-{number}", key.name);
        let mut metadata = k8s::Metadata::named(&key.namespace, &name);
        metadata
            .labels
            .insert(k8s::SERVICE_NAME.to_owned(), key.name.clone());
        if let Some(weight) = weight {
            let annotations = &mut metadata.annotations;
            annotations.insert("service.cilium.io/weight".to_owned(), weight.to_string());
        }
        let port = self.ports.get(n);
        let protocol = port.and_then(|port| transport(&port.protocol, "").ok());
        let endpoints = addrs.iter().map(|addr| k8s::Endpoint {
            addresses: vec![addr.to_string()],
            ..k8s::Endpoint::default()
        });
        k8s::EndpointSlice {
            metadata,
            address_type: if is_v6 { "IPv6" } else { "IPv4" }.to_owned(),
            endpoints: endpoints.collect(),
            ports: vec![k8s::EndpointPort {
                name: port.map_or_else(String::new, |port| port.name.clone()),
                port: Some(backend_port.into()),
                protocol: name_of(protocol.unwrap_or(Protocol::TCP)),
            }],
        }
    }
}

fn name_of(protocol: Protocol) -> String {
    crate::maps::service_protocol(protocol.0)
}
