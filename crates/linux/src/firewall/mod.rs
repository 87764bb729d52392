//! Firewalls of others in a network namespace: which of their chains let
//! through only what a rule of theirs accepts.
//!
//! ```text
//!  nf_tables (nft, iptables-nft, firewalld, ufw) ── netlink ──┐
//!                                                             ├──> Firewall
//!  ip_tables (iptables-legacy) ───────────── getsockopt ──────┘
//! ```
//!
//! Only read, and only when asked: nothing is kept. Rules are not evaluated;
//! what counts is whether a chain that closes names the devices of endpoints in
//! any rule that it leads to, for whoever wrote that has thought of them.

mod legacy;
mod netlink;
mod rules;

use std::io;
use std::time::Instant;

use netlink::Nfnetlink;

use crate::link::HOST_PREFIX;

/// Chains that are read to find a rule for endpoints' devices.
const CHAINS_MAX: usize = 128;

/// Which packets a chain sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Both.
    Inet,
    /// Whatever passes a device.
    Netdev,
}

impl Family {
    /// As `nft` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

/// Where a chain sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainHook {
    /// Bound for the node itself.
    Input,
    /// Through the node's stack, from device to device.
    Forward,
    /// From the node itself.
    Output,
    /// Before the stack, after tcx.
    Ingress,
    /// At the end, before tcx.
    Egress,
}

/// Who has made a chain, and changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `nft`, or whatever uses nf_tables.
    Nft,
    /// `iptables` over nf_tables.
    Iptables,
    /// `iptables-legacy`.
    IptablesLegacy,
}

/// A base chain that drops what no rule of it accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClosedChain {
    /// Which packets it sees.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Where it sees them.
    pub hook: ChainHook,
    /// The devices it is bound to, if the family is [`Family::Netdev`].
    pub devices: Vec<String>,
    /// What changes it.
    pub tool: Tool,
    /// Whether its last rule drops everything, not its policy.
    pub by_rule: bool,
    /// Whether a rule that it leads to names the devices of all endpoints.
    pub names_endpoints: bool,
    /// The chain where rules are to be put instead, as Docker has one for others.
    pub rules_go_to: Option<String>,
}

/// Firewalls of a network namespace, of those that nf_tables or ip_tables hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// The chains that close.
    pub closed: Vec<ClosedChain>,
    /// Whose rules lead ports and addresses of the node to pods, through
    /// `FORWARD`.
    pub mappers: Vec<&'static str>,
}

/// What tells of somebody whose rules lead to pods: a chain of iptables, a
/// table of nftables.
const MAPPERS: [(&str, &str, &str); 2] = [
    ("CNI-HOSTPORT-DNAT", "cni_hostport", "CNI's portmap"),
    ("KUBE-SERVICES", "kube-proxy", "kube-proxy"),
];

/// Docker's chain for rules of others, which it goes to first.
const DOCKER_USER: &str = "DOCKER-USER";

impl Firewall {
    /// What ip_tables and ip6_tables hold of the calling thread's network namespace;
    /// no table whose turn has not come by `until`, which is an error.
    ///
    /// # Errors
    /// The kernel's answer; [`io::ErrorKind::TimedOut`] after `until`.
    pub fn ip_tables(until: Instant) -> io::Result<Self> {
        let mut firewall = Self::default();
        legacy::look(&mut firewall, until)?;
        firewall.closed.sort();
        Ok(firewall)
    }

    /// What nf_tables holds of the calling thread's network namespace, read until
    /// then at the latest.
    ///
    /// # Errors
    /// The kernel's answer; [`io::ErrorKind::TimedOut`] after `until`.
    pub fn nf_tables(until: Instant) -> io::Result<Self> {
        let mut firewall = Self::default();
        firewall.read_nf_tables(until)?;
        firewall.closed.sort();
        Ok(firewall)
    }

    fn read_nf_tables(&mut self, until: Instant) -> io::Result<()> {
        let Some(mut netlink) = Nfnetlink::open(until)? else {
            return Ok(());
        };
        let tables = rules::tables(&mut netlink)?;
        for table in &tables {
            self.mapper(|(_, name, _)| *name == table.name);
        }
        let chains = rules::chains(&mut netlink)?;
        for chain in &chains {
            self.mapper(|(name, ..)| *name == chain.name);
        }
        let dormant = |chain: &rules::Chain| {
            let of = tables.iter().find(|t| t.is_of(chain));
            of.is_some_and(|table| table.dormant)
        };
        for chain in chains.iter().filter(|chain| !dormant(chain)) {
            let (Some(hook), Some(family)) = (chain.hook(), chain.family()) else {
                continue;
            };
            let found = closed(&mut netlink, chain, (family, hook), &chains)?;
            self.closed.extend(found);
        }
        Ok(())
    }

    fn mapper(&mut self, is: impl Fn(&(&str, &str, &'static str)) -> bool) {
        if let Some((.., who)) = MAPPERS.iter().find(|mapper| is(mapper))
            && !self.mappers.contains(who)
        {
            self.mappers.push(*who);
        }
    }
}

/// What a base chain of a table that is awake does with what no rule accepts.
fn closed(
    netlink: &mut Nfnetlink,
    chain: &rules::Chain,
    (family, hook): (Family, ChainHook),
    all: &[rules::Chain],
) -> io::Result<Option<ClosedChain>> {
    let own = rules::rules(netlink, chain.family, &chain.table, &chain.name)?;
    let by_rule = !chain.drops;
    let is_open = own.iter().any(rules::Rule::accepts_everything);
    if is_open || by_rule && !own.last().is_some_and(rules::Rule::drops_everything) {
        return Ok(None);
    }
    // In the tables of iptables too, chains of others have other names.
    let is_iptables =
        family < Family::Inet && ["INPUT", "FORWARD", "OUTPUT"].contains(&chain.name.as_str());
    let for_others = |c: &&rules::Chain| {
        c.family == chain.family && c.table == chain.table && c.name == DOCKER_USER
    };
    let docker = all
        .iter()
        .find(for_others)
        .filter(|_| chain.name == "FORWARD");
    Ok(Some(ClosedChain {
        family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        hook,
        devices: chain.devices.clone(),
        tool: if is_iptables {
            Tool::Iptables
        } else {
            Tool::Nft
        },
        by_rule,
        names_endpoints: names_endpoints(netlink, chain, own)?,
        rules_go_to: docker.map(|chain| chain.name.clone()),
    }))
}

/// Whether a rule names endpoints' devices, of those that a chain has and leads
/// to.
fn names_endpoints(
    netlink: &mut Nfnetlink,
    chain: &rules::Chain,
    own: Vec<rules::Rule>,
) -> io::Result<bool> {
    let mut seen = vec![chain.name.clone()];
    let mut waiting = own;
    let mut next = 0;
    loop {
        if waiting.iter().any(|rule| rule.names_endpoints) {
            return Ok(true);
        }
        for target in waiting.drain(..).filter_map(|rule| rule.jump) {
            if !seen.contains(&target) && seen.len() < CHAINS_MAX {
                seen.push(target);
            }
        }
        next += 1;
        let Some(name) = seen.get(next) else {
            return Ok(false);
        };
        waiting = rules::rules(netlink, chain.family, &chain.table, name)?;
    }
}

/// Whether all names that begin so are matched, and those of endpoints' devices
/// are among them.
fn covers_endpoints(beginning: &[u8]) -> bool {
    !beginning.is_empty() && HOST_PREFIX.as_bytes().starts_with(beginning)
}
