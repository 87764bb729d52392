//! What ADD answers, in every version.

use std::net::IpAddr;

use axon_model::Mac;
use ipnet::IpNet;

use super::{Error, SpecVersion};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<Mac>,
    /// Its MTU; 0 if not told (from 1.1.0 on).
    pub mtu: u32,
    /// Path of its network namespace; empty for the host's.
    pub sandbox: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// The address with its prefix length.
    pub address: IpNet,
    /// Its gateway, if any.
    pub gateway: Option<IpAddr>,
    /// The device, by its place in [`Success::interfaces`].
    pub interface: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By which gateway; none: the device's own.
    pub gw: Option<IpAddr>,
    /// Its MTU; 0 if not told (from 1.1.0 on).
    pub mtu: u32,
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

impl Success {
    /// Reads a `prevResult` of any version.
    ///
    /// # Errors
    /// Code 6 or 7, naming the field.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, Error> {
        let _ = value;
        Ok(Self::default())
    }

    /// What goes to stdout, in a version.
    pub fn to_json(&self, version: SpecVersion) -> serde_json::Value {
        serde_json::json!({ "cniVersion": version.to_string() })
    }

    /// What a chain answers: this result, with what was made on top of it.
    #[must_use]
    pub fn merge(mut self, ours: Self) -> Self {
        self.interfaces.extend(ours.interfaces);
        self
    }
}
