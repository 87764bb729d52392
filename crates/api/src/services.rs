//! `GET /v1/service`: where services listen and who is behind them, with the
//! fields that Cilium's tools read.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A frontend, as it shall be and as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// As it shall be.
    pub spec: FrontendView,
    /// As it is.
    pub status: ServiceStatusView,
}

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatusView {
    /// The frontend, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realized: Option<FrontendView>,
}

/// A frontend for one scope: `external` is the network, and everybody where pods and
/// the node have nothing of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FrontendView {
    /// The number of the service's port; all its addresses have the same.
    pub id: u32,
    /// Where it listens.
    pub frontend_address: FrontendAddress,
    /// Whose it is, and how it is treated.
    pub flags: FrontendFlags,
    /// Who may be chosen.
    pub backend_addresses: Vec<BackendAddress>,
    /// `random` or `maglev`.
    pub algorithm: String,
    /// Seconds for which a client is remembered; 0 without affinity.
    pub session_affinity_timeout_s: u32,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `external` or `internal`.
    pub scope: String,
}

impl Default for FrontendAddress {
    fn default() -> Self {
        Self {
            ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
            protocol: String::new(),
            scope: String::new(),
        }
    }
}

/// Whose a frontend is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendFlags {
    /// The service.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// `ClusterIP`, `NodePort` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ext_traffic_policy: String,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub int_traffic_policy: String,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendAddress {
    /// Its id.
    pub id: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// `active`, `terminating`, `quarantined` or `maintenance`.
    pub state: String,
    /// Whether it is on this node.
    pub local: bool,
}
