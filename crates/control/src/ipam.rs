//! Node-local IPAM: addresses of both families from the node's pod CIDRs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
        if let Some(addr) = self.held_by(owner, family) {
            return match requested {
                Some(other) if other != addr => Err(IpamError::HasAnother {
                    addr,
                    owner: owner.to_owned(),
                }),
                _ => Ok(addr),
            };
        }
        let pools: Vec<Pool> = self.pools_of(family).filter_map(Pool::new).collect();
        if pools.is_empty() {
            return Err(IpamError::NoPool { family });
        }
        let addr = match requested {
            Some(addr) => self.check(addr, family)?,
            None => self.next_free(&pools, family)?,
        };
        self.owners.insert(addr, owner.to_owned());
        if requested.is_none() {
            self.last.insert(family, addr);
        }
        Ok(addr)
    }

    /// Takes in an address that an owner has, whatever the pools are now.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn adopt(&mut self, owner: &str, addr: IpAddr) -> Result<(), IpamError> {
        match self.owners.get(&addr) {
            Some(other) if other != owner => Err(IpamError::InUse {
                addr,
                owner: other.clone(),
            }),
            _ => {
                self.owners.insert(addr, owner.to_owned());
                Ok(())
            }
        }
    }

    /// Takes back every address of an owner; says which.
    pub fn release(&mut self, owner: &str) -> Vec<IpAddr> {
        let held: Vec<IpAddr> = self
            .owners
            .iter()
            .filter(|(_, o)| *o == owner)
            .map(|(addr, _)| *addr)
            .collect();
        for addr in &held {
            self.owners.remove(addr);
        }
        held
    }

    fn held_by(&self, owner: &str, family: Family) -> Option<IpAddr> {
        self.owners
            .iter()
            .find(|(addr, o)| *o == owner && Family::of(**addr) == family)
            .map(|(addr, _)| *addr)
    }

    fn pools_of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        let of_family = move |pool: &&IpNet| Family::of(pool.addr()) == family;
        self.pools.iter().filter(of_family)
    }

    fn pool_names(&self, family: Family) -> String {
        let names: Vec<String> = self.pools_of(family).map(ToString::to_string).collect();
        names.join(", ")
    }

    /// Whether an address that somebody asks for can be had.
    fn check(&self, addr: IpAddr, family: Family) -> Result<IpAddr, IpamError> {
        let Some(net) = self.pools.iter().find(|pool| pool.contains(&addr)) else {
            return Err(IpamError::OutsidePool {
                addr,
                pools: self.pool_names(family),
            });
        };
        if let Some(what) = reserved(net, addr) {
            return Err(IpamError::Reserved {
                addr,
                what,
                pool: *net,
            });
        }
        match self.owners.get(&addr) {
            Some(owner) => Err(IpamError::InUse {
                addr,
                owner: owner.clone(),
            }),
            None => Ok(addr),
        }
    }

    /// The first free address after the one given last, going round.
    fn next_free(&self, pools: &[Pool], family: Family) -> Result<IpAddr, IpamError> {
        let last = self.last.get(&family).map(|addr| number(*addr));
        let current = last.and_then(|last| pools.iter().position(|pool| pool.holds(last)));
        let (at, after) = match (current, last) {
            (Some(at), Some(last)) => (at, Some(last)),
            _ => (0, None),
        };
        let tail = pools.iter().skip(at).enumerate().map(|(n, pool)| {
            let first = after.filter(|_| n == 0).map_or(pool.first, |last| last + 1);
            (first, pool.last)
        });
        let round = pools
            .iter()
            .take(at + 1)
            .map(|pool| (pool.first, pool.last));
        tail.chain(round)
            .find_map(|(first, last)| {
                (first..=last)
                    .map(|n| address(n, family))
                    .find(|addr| !self.owners.contains_key(addr))
            })
            .ok_or_else(|| IpamError::Exhausted {
                pools: self.pool_names(family),
                in_use: self
                    .owners
                    .keys()
                    .filter(|a| Family::of(**a) == family)
                    .count(),
            })
    }

    /// Who has an address.
    pub fn owner(&self, addr: IpAddr) -> Option<&str> {
        self.owners.get(&addr).map(String::as_str)
    }

    /// Every address given out, with its owner.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.owners.iter().map(|(a, o)| (*a, o.as_str()))
    }

    /// The node's own address in the first pool of a family (its first host):
    /// the gateway's, never given out. None where the pool is too small to
    /// spare one.
    pub fn router(&self, family: Family) -> Option<IpAddr> {
        let net = self.pools_of(family).next()?;
        let first = number(net.network()).checked_add(1)?;
        let router = address(first, family);
        (reserved(net, router) == Some(ROUTER)).then_some(router)
    }
}

const ROUTER: &str = "router";

/// The addresses of a pod CIDR that may be given out, as numbers.
#[derive(Clone, Copy, Debug)]
struct Pool {
    first: u128,
    last: u128,
}

impl Pool {
    /// `None` if there is no such address.
    fn new(net: &IpNet) -> Option<Self> {
        let (network, end) = (number(net.network()), number(net.broadcast()));
        let spare = is_roomy(net);
        let pool = Self {
            first: network + if spare { 2 } else { 0 },
            last: end - u128::from(spare && matches!(net, IpNet::V4(_))),
        };
        (pool.first <= pool.last).then_some(pool)
    }

    fn holds(&self, n: u128) -> bool {
        (self.first..=self.last).contains(&n)
    }
}

/// Whether a prefix has addresses to spare for network, router and (IPv4)
/// broadcast. Point-to-point prefixes (RFC 3021, RFC 6164) and single
/// addresses have not.
fn is_roomy(net: &IpNet) -> bool {
    net.max_prefix_len() - net.prefix_len() >= 2
}

/// What an address of a pool is for, if it is not for endpoints.
fn reserved(net: &IpNet, addr: IpAddr) -> Option<&'static str> {
    if !is_roomy(net) {
        return None;
    }
    let offset = number(addr) - number(net.network());
    match offset {
        0 => Some("network"),
        1 => Some(ROUTER),
        _ if matches!(net, IpNet::V4(_)) && addr == net.broadcast() => Some("broadcast"),
        _ => None,
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(n: u128, family: Family) -> IpAddr {
    match family {
        // Numbers of IPv4 pools have 32 bits.
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(n as u32)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(n)),
    }
}
