//! Endpoints and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axon_abi::{EndpointFlags, EndpointRow, IpKey, IpcacheFlags, IpcacheRow};
use axon_model::Mac;
use serde::{Deserialize, Serialize};

/// An endpoint as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointMapRow {
    /// Its number.
    pub id: u16,
    /// `namespace/name`; empty if not known.
    pub pod: String,
    /// Index of its host-side device.
    pub ifindex: u32,
    /// Name of that device; empty if not known.
    pub interface: String,
    /// Its identity.
    pub identity: u32,
    /// The policy set version in force.
    pub policy_set: u32,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// MAC address inside.
    pub mac: Mac,
    /// MAC address of the host-side device.
    pub node_mac: Mac,
    /// Policy is only audited.
    pub audit: bool,
    /// It may send from any address.
    pub no_source_check: bool,
}

impl From<&EndpointRow> for EndpointMapRow {
    fn from(row: &EndpointRow) -> Self {
        let ipv6 = Ipv6Addr::from(row.ipv6.0);
        Self {
            id: row.id,
            ifindex: row.ifindex,
            identity: row.identity.0,
            policy_set: row.policy_set,
            ipv4: (row.ipv4 != [0; 4]).then(|| row.ipv4.into()),
            ipv6: (!ipv6.is_unspecified()).then_some(ipv6),
            mac: Mac(row.mac),
            node_mac: Mac(row.node_mac),
            audit: row.flags & EndpointFlags::AUDIT != 0,
            no_source_check: row.flags & EndpointFlags::NO_SOURCE_CHECK != 0,
            ..Self::default()
        }
    }
}

/// Who an address is, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IpcacheMapRow {
    /// The prefix.
    pub cidr: String,
    /// Its identity.
    pub identity: u32,
    /// The identity's labels, as far as they are known.
    pub labels: Vec<String>,
    /// `namespace/name`; empty if it is none or not known.
    pub pod: String,
    /// The node that serves it; none if that is this one or none.
    pub node: Option<IpAddr>,
    /// It belongs to this node.
    pub local_host: bool,
    /// It belongs to a workload.
    pub workload: bool,
}

impl IpcacheMapRow {
    /// The row of an address; `prefix_bits` are those of the key (of 128).
    pub fn new(addr: IpKey, prefix_bits: u32, row: &IpcacheRow) -> Self {
        let bits = if addr.is_v4() {
            prefix_bits.saturating_sub(96)
        } else {
            prefix_bits
        };
        Self {
            cidr: format!("{}/{bits}", IpAddr::from(addr)),
            identity: row.identity.0,
            node: (row.node != IpKey::UNSPECIFIED).then(|| row.node.into()),
            local_host: row.flags & IpcacheFlags::LOCAL_HOST != 0,
            workload: row.flags & IpcacheFlags::WORKLOAD != 0,
            ..Self::default()
        }
    }
}
