//! What ADD answers, in every version.

use std::net::IpAddr;

use axon_model::Mac;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Error, ErrorCode, SpecVersion};
use crate::tree::from_tree;

/// What ADD answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// The devices made.
    pub interfaces: Vec<Interface>,
    /// The addresses given.
    pub ips: Vec<Ip>,
    /// The routes made inside.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Dns,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address (of whatever length); empty if it has none.
    pub mac: String,
    /// Its MTU; 0 if not told (from 1.1.0 on).
    pub mtu: u32,
    /// Path of its network namespace; empty for the host's.
    pub sandbox: String,
    /// What else an earlier plugin told of it (from 1.1.0 on).
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Interface {
    /// A device with a name and a MAC address.
    pub fn new(name: &str, mac: Mac, sandbox: &str, mtu: u32) -> Self {
        Self {
            name: name.to_owned(),
            mac: mac.to_string(),
            mtu,
            sandbox: sandbox.to_owned(),
            others: Map::new(),
        }
    }
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ip {
    /// The address with its prefix length.
    pub address: IpNet,
    /// Its gateway, if any.
    pub gateway: Option<IpAddr>,
    /// The device, by its place in [`Success::interfaces`].
    pub interface: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By which gateway; none: the device's own.
    pub gw: Option<IpAddr>,
    /// Its MTU; 0 if not told (from 1.1.0 on).
    #[serde(default)]
    pub mtu: u32,
    /// What else an earlier plugin told of it (from 1.1.0 on).
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Route {
    /// A route without a gateway.
    pub fn new(dst: IpNet) -> Self {
        Self {
            dst,
            gw: None,
            mtu: 0,
            others: Map::new(),
        }
    }
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to try.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// As it is written, in every version: what a version lacks is absent, and
/// the `version` beside each address, up to 0.4.0, says what the address says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
    routes: Option<Vec<Route>>,
    dns: Option<Dns>,
}

impl Success {
    /// Reads a `prevResult` of any version.
    ///
    /// # Errors
    /// Code 6, naming the field.
    pub fn from_json(value: &Value) -> Result<Self, Error> {
        let wire: Wire = from_tree(value.clone()).map_err(|error| {
            Error::new(
                ErrorCode::DecodingFailure,
                format!("prevResult cannot be read at {}", error.path),
            )
            .with_details(error.message)
        })?;
        Ok(Self {
            interfaces: wire.interfaces.unwrap_or_default(),
            ips: wire.ips.unwrap_or_default(),
            routes: wire.routes.unwrap_or_default(),
            dns: wire.dns.unwrap_or_default(),
        })
    }

    /// What goes to stdout, in a version.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        let interfaces = self.interfaces.iter().map(|i| interface_json(i, version));
        let ips = self.ips.iter().map(|ip| ip_json(ip, version));
        let routes = self.routes.iter().map(|route| route_json(route, version));
        json!({
            "cniVersion": version.to_string(),
            "interfaces": interfaces.collect::<Vec<_>>(),
            "ips": ips.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "dns": self.dns,
        })
    }

    /// What a chain answers: this result, and what was made on top of it.
    #[must_use]
    pub fn merge(mut self, ours: Self) -> Self {
        let before = self.interfaces.len();
        self.interfaces.extend(ours.interfaces);
        self.ips.extend(ours.ips.into_iter().map(|mut ip| {
            ip.interface = ip.interface.map(|place| place + before);
            ip
        }));
        for route in ours.routes {
            if !self.routes.contains(&route) {
                self.routes.push(route);
            }
        }
        if self.dns == Dns::default() {
            self.dns = ours.dns;
        }
        self
    }
}

fn interface_json(interface: &Interface, version: SpecVersion) -> Value {
    let mut body = match version >= SpecVersion::V1_1_0 {
        true => interface.others.clone(),
        false => Map::new(),
    };
    body.insert("name".to_owned(), interface.name.clone().into());
    for (field, text) in [("mac", &interface.mac), ("sandbox", &interface.sandbox)] {
        if !text.is_empty() {
            body.insert(field.to_owned(), text.clone().into());
        }
    }
    if interface.mtu > 0 && version >= SpecVersion::V1_1_0 {
        body.insert("mtu".to_owned(), interface.mtu.into());
    }
    body.into()
}

fn ip_json(ip: &Ip, version: SpecVersion) -> Value {
    let mut body = Map::new();
    if version < SpecVersion::V1_0_0 {
        let family = match ip.address {
            IpNet::V4(_) => "4",
            IpNet::V6(_) => "6",
        };
        body.insert("version".to_owned(), family.into());
    }
    body.insert("address".to_owned(), ip.address.to_string().into());
    if let Some(gateway) = ip.gateway {
        body.insert("gateway".to_owned(), gateway.to_string().into());
    }
    if let Some(place) = ip.interface {
        body.insert("interface".to_owned(), place.into());
    }
    body.into()
}

fn route_json(route: &Route, version: SpecVersion) -> Value {
    let mut body = match version >= SpecVersion::V1_1_0 {
        true => route.others.clone(),
        false => Map::new(),
    };
    body.insert("dst".to_owned(), route.dst.to_string().into());
    if let Some(gw) = route.gw {
        body.insert("gw".to_owned(), gw.to_string().into());
    }
    if route.mtu > 0 && version >= SpecVersion::V1_1_0 {
        body.insert("mtu".to_owned(), route.mtu.into());
    }
    body.into()
}
