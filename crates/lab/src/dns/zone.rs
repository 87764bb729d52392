//! What is in the zone of the cluster, by Kubernetes' DNS-based service discovery
//! 1.1.0 and, where that is open, as CoreDNS's `kubernetes` plugin has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The domain of the cluster.
pub(crate) const DOMAIN: &str = "cluster.local";
/// The version of the schema of names.
const VERSION: &str = "1.1.0";

/// Everything that names are made of. Keys are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    /// Addresses of the name server.
    pub(crate) server: Vec<IpAddr>,
    /// The namespaces that there are.
    pub(crate) namespaces: BTreeSet<String>,
    /// Services by namespace and name.
    pub(crate) services: BTreeMap<String, BTreeMap<String, Entry>>,
    /// Addresses of pods by namespace and name.
    pub(crate) pods: BTreeMap<String, BTreeMap<String, Vec<IpAddr>>>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What its name stands for.
    pub(crate) stands_for: StandsFor,
    /// Its ports.
    pub(crate) ports: Vec<Port>,
    /// Its endpoints that are ready.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What the name of a service stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StandsFor {
    /// Addresses of its own.
    Addresses(Vec<IpAddr>),
    /// Its endpoints: it is headless.
    Endpoints,
    /// Another name.
    Name(String),
}

/// A port of a service, or of an endpoint of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Port {
    /// Its name; empty if it has none.
    pub(crate) name: String,
    /// `tcp`, `udp`, `sctp`.
    pub(crate) protocol: String,
    /// Its number.
    pub(crate) port: u16,
}

/// An endpoint that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Its address.
    pub(crate) addr: IpAddr,
    /// The host name that it was given; empty for none.
    pub(crate) hostname: String,
    /// Its ports.
    pub(crate) ports: Vec<Port>,
}

impl Endpoint {
    /// Its name under that of the service.
    fn label(&self) -> String {
        if self.hostname.is_empty() {
            dashed(self.addr)
        } else {
            self.hostname.clone()
        }
    }
}

/// Something that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// An address, and whose.
    Address {
        /// The name that has it by itself, without the final dot.
        owner: String,
        /// The address.
        addr: IpAddr,
        /// A port that is served there.
        port: Option<u16>,
    },
    /// Another name.
    Alias(String),
    /// A text.
    Text(&'static str),
    /// The name server of the zone.
    Server,
}

impl Book {
    /// What a name of the zone stands for, by its labels below the domain, in
    /// lower case. None if there is no such name; nothing if there is, with
    /// nothing to tell.
    pub(crate) fn find(&self, labels: &[&str]) -> Option<Vec<Hit>> {
        let (rest, kind) = match labels {
            [] => return Some(vec![Hit::Server]),
            ["dns-version"] => return Some(vec![Hit::Text(VERSION)]),
            ["ns", "dns"] => return Some(self.server()),
            [rest @ .., kind @ ("svc" | "pod")] => (rest, *kind),
            _ => return None,
        };
        let Some((namespace, rest)) = rest.split_last() else {
            return Some(Vec::new());
        };
        if !self.namespaces.contains(*namespace) {
            return None;
        }
        match (kind, rest) {
            (_, []) => Some(Vec::new()),
            ("pod", [name]) => self.pod(namespace, name),
            ("svc", [name]) => self.service(namespace, name, None),
            ("svc", [port, protocol, name]) => {
                let bare = |label: &str| label.strip_prefix('_').unwrap_or(label).to_owned();
                let wanted = (bare(port), bare(protocol));
                self.service(namespace, name, Some(&wanted))
            }
            ("svc", [endpoint, name]) => self.endpoint(namespace, name, endpoint),
            _ => None,
        }
    }

    fn server(&self) -> Vec<Hit> {
        let hit = |addr: &IpAddr| Hit::Address {
            owner: format!("ns.dns.{DOMAIN}"),
            addr: *addr,
            port: None,
        };
        self.server.iter().map(hit).collect()
    }

    /// A pod by its address or, beyond what Kubernetes has, by its name.
    fn pod(&self, namespace: &str, name: &str) -> Option<Vec<Hit>> {
        let pods = self.pods.get(namespace)?;
        let by_name = pods.get(name).cloned();
        let by_address = || -> Vec<IpAddr> {
            let ips = pods.values().flatten().copied();
            ips.filter(|ip| dashed(*ip) == name).take(1).collect()
        };
        let ips = by_name.unwrap_or_else(by_address);
        let owner = || format!("{name}.{namespace}.pod.{DOMAIN}");
        let hits = ips.into_iter().map(|addr| Hit::Address {
            owner: owner(),
            addr,
            port: None,
        });
        let hits: Vec<Hit> = hits.collect();
        (!hits.is_empty()).then_some(hits)
    }

    /// A service, or one port of it by name and protocol.
    fn service(
        &self,
        namespace: &str,
        name: &str,
        wanted: Option<&(String, String)>,
    ) -> Option<Vec<Hit>> {
        let entry = self.services.get(namespace)?.get(name)?;
        let owner = format!("{name}.{namespace}.svc.{DOMAIN}");
        let is_wanted = |port: &&Port| {
            wanted.is_none_or(|(name, protocol)| port.name == *name && port.protocol == *protocol)
        };
        match &entry.stands_for {
            StandsFor::Name(name) => wanted.is_none().then(|| vec![Hit::Alias(name.clone())]),
            StandsFor::Endpoints => {
                let hits = entry.endpoints.iter().flat_map(|endpoint| {
                    let owner = format!("{}.{owner}", endpoint.label());
                    let ports = endpoint.ports.iter().filter(is_wanted);
                    hits(&owner, endpoint.addr, ports, wanted.is_none())
                });
                let hits: Vec<Hit> = hits.collect();
                // So the specification has it for a service that nobody is behind.
                (!hits.is_empty()).then_some(hits)
            }
            StandsFor::Addresses(ips) => {
                let ports = || entry.ports.iter().filter(is_wanted);
                if wanted.is_some() && ports().next().is_none() {
                    return None;
                }
                let of = |ip: &IpAddr| hits(&owner, *ip, ports(), wanted.is_none());
                Some(ips.iter().flat_map(of).collect())
            }
        }
    }

    /// One endpoint of a service.
    fn endpoint(&self, namespace: &str, name: &str, endpoint: &str) -> Option<Vec<Hit>> {
        let entry = self.services.get(namespace)?.get(name)?;
        let owner = format!("{endpoint}.{name}.{namespace}.svc.{DOMAIN}");
        let are = entry.endpoints.iter().filter(|e| e.label() == endpoint);
        let hits = are.flat_map(|e| hits(&owner, e.addr, e.ports.iter(), true));
        let hits: Vec<Hit> = hits.collect();
        (!hits.is_empty()).then_some(hits)
    }

    /// The names that an address has: of the service whose it is, or else of
    /// endpoints that were given a host name.
    pub(crate) fn names_of(&self, addr: IpAddr) -> Vec<String> {
        let all = || {
            self.services.iter().flat_map(|(namespace, services)| {
                let named =
                    move |(name, entry)| (format!("{name}.{namespace}.svc.{DOMAIN}"), entry);
                services.iter().map(named)
            })
        };
        let has = |entry: &Entry| match &entry.stands_for {
            StandsFor::Addresses(ips) => ips.contains(&addr),
            StandsFor::Endpoints | StandsFor::Name(_) => false,
        };
        if let Some((name, _)) = all().find(|(_, entry)| has(entry)) {
            return vec![name];
        }
        let of = |(name, entry): (String, &Entry)| {
            let endpoints = entry.endpoints.iter();
            let is = |e: &&Endpoint| e.addr == addr && !e.hostname.is_empty();
            let endpoint = endpoints
                .filter(is)
                .map(|e| format!("{}.{name}", e.hostname));
            endpoint.collect::<BTreeSet<_>>()
        };
        all().flat_map(of).collect()
    }
}

/// An address once for each port; also if there is none, where that does not
/// count.
fn hits<'a>(
    owner: &str,
    addr: IpAddr,
    ports: impl Iterator<Item = &'a Port>,
    even_none: bool,
) -> Vec<Hit> {
    let hit = |port: Option<u16>| Hit::Address {
        owner: owner.to_owned(),
        addr,
        port,
    };
    let mut hits: Vec<Hit> = ports.map(|port| hit(Some(port.port))).collect();
    if hits.is_empty() && even_none {
        hits.push(hit(None));
    }
    hits
}

/// An address as a label.
fn dashed(addr: IpAddr) -> String {
    addr.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(super) mod tests;
