//! Node-local IPAM: addresses of both families from the node's pod CIDRs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv6() {
            Self::Ipv6
        } else {
            Self::Ipv4
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// Why no address was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The node has no pod CIDR of the family (yet).
    #[error("the node has no {family} pod CIDR")]
    NoPool {
        /// The family asked for.
        family: Family,
    },
    /// Every address is in use.
    #[error("pool {pools} has no free address: all {in_use} are in use")]
    Exhausted {
        /// The node's pod CIDRs of the family.
        pools: String,
        /// How many addresses are in use.
        in_use: usize,
    },
    /// The address asked for is outside the node's pod CIDRs.
    #[error("address {addr} is not in the node's pod CIDRs ({pools})")]
    OutsidePool {
        /// The address.
        addr: IpAddr,
        /// The node's pod CIDRs of the family.
        pools: String,
    },
    /// The address asked for is the network's, the broadcast or the router's.
    #[error("address {addr} is reserved: it is the {what} address of {pool}")]
    Reserved {
        /// The address.
        addr: IpAddr,
        /// What it is.
        what: &'static str,
        /// The pool.
        pool: IpNet,
    },
    /// The address asked for has another owner.
    #[error("address {addr} is in use by {owner}")]
    InUse {
        /// The address.
        addr: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// The owner has another address of the family already.
    #[error("{owner} has the address {addr} already")]
    HasAnother {
        /// The address.
        addr: IpAddr,
        /// Who has it.
        owner: String,
    },
}

/// Addresses with their owners. An owner is a text that names an attachment
/// (`container:interface`) and has at most one address of each family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    pools: Vec<IpNet>,
    owners: BTreeMap<IpAddr, String>,
    /// The address given last in each family: the next search begins after
    /// it, so that an address is used again as late as possible.
    last: BTreeMap<Family, IpAddr>,
}

impl Ipam {
    /// Sets the node's pod CIDRs. Addresses given out stay with their owners,
    /// also where their pool is gone.
    pub fn set_pools(&mut self, pools: &[IpNet]) {
        self.pools = pools.iter().map(IpNet::trunc).collect();
    }

    /// Gives an owner an address: the one it has already, the one it asks
    /// for, or the next free one.
    ///
    /// # Errors
    /// None is free, or the one asked for cannot be had.
    pub fn allocate(
        &mut self,
        owner: &str,
        family: Family,
        requested: Option<IpAddr>,
    ) -> Result<IpAddr, IpamError> {
        let _ = (owner, requested);
        Err(IpamError::NoPool { family })
    }

    /// Takes back every address of an owner; says which.
    pub fn release(&mut self, owner: &str) -> Vec<IpAddr> {
        let _ = owner;
        Vec::new()
    }

    /// Who has an address.
    pub fn owner(&self, addr: IpAddr) -> Option<&str> {
        self.owners.get(&addr).map(String::as_str)
    }

    /// Every address given out, with its owner.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.owners.iter().map(|(a, o)| (*a, o.as_str()))
    }

    /// The node's own address in a pool (its first): the gateway's, never
    /// given out.
    pub fn router(&self, family: Family) -> Option<IpAddr> {
        let _ = family;
        None
    }
}
