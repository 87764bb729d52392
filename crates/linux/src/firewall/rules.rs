//! Tables, chains and rules of nf_tables, as far as they matter here.

use std::io;

use nix::libc;

use super::netlink::{Nfnetlink, Object, attribute, attributes, number, text};
use super::{ChainHook, Family, covers_endpoints};

// Attributes by `linux/netfilter/nf_tables.h`.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_DESTINATION: u16 = 1;
const META_KEY: u16 = 2;
const CMP_SOURCE: u16 = 1;
const CMP_OPERATOR: u16 = 2;
const CMP_DATA: u16 = 3;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const TARGET_NAME: u16 = 1;

const TABLE_DORMANT: u32 = 1;
const EQUAL: u32 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: u32 = (-3_i32).cast_unsigned();
const GOTO: u32 = (-4_i32).cast_unsigned();
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;

pub(super) struct Table {
    family: u8,
    pub(super) name: String,
    pub(super) dormant: bool,
}

impl Table {
    pub(super) fn is_of(&self, chain: &Chain) -> bool {
        self.family == chain.family && self.name == chain.table
    }
}

/// Tables of every family.
pub(super) fn tables(netlink: &mut Nfnetlink) -> io::Result<Vec<Table>> {
    let found = netlink.dump(libc::NFT_MSG_GETTABLE as u8, 0, &[])?;
    let table = |object: &Object| Table {
        family: object.family,
        name: text(attribute(&object.attributes, TABLE_NAME)),
        dormant: number(attribute(&object.attributes, TABLE_FLAGS))
            .is_some_and(|flags| flags & TABLE_DORMANT != 0),
    };
    Ok(found.iter().map(table).collect())
}

pub(super) struct Chain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    /// Of a base chain.
    number: Option<u32>,
    /// Whether its policy is to drop.
    pub(super) drops: bool,
    pub(super) devices: Vec<String>,
}

impl Chain {
    fn read(object: &Object) -> Self {
        let all = &object.attributes;
        let hook = attribute(all, CHAIN_HOOK);
        let several = attributes(attribute(hook, HOOK_DEVICES)).map(|(_, name)| name);
        let one = Some(attribute(hook, HOOK_DEVICE)).filter(|name| !name.is_empty());
        let mut devices: Vec<String> = several.chain(one).map(text).collect();
        devices.sort();
        devices.dedup();
        Self {
            family: object.family,
            table: text(attribute(all, CHAIN_TABLE)),
            name: text(attribute(all, CHAIN_NAME)),
            number: number(attribute(hook, HOOK_NUMBER)),
            drops: number(attribute(all, CHAIN_POLICY)) == Some(DROP),
            devices,
        }
    }

    /// `None` for families whose packets never are a pod's, as those of bridges.
    pub(super) fn family(&self) -> Option<Family> {
        match i32::from(self.family) {
            libc::NFPROTO_IPV4 => Some(Family::Ipv4),
            libc::NFPROTO_IPV6 => Some(Family::Ipv6),
            libc::NFPROTO_INET => Some(Family::Inet),
            libc::NFPROTO_NETDEV => Some(Family::Netdev),
            _ => None,
        }
    }

    /// `None` for a chain that is no base chain, and for hooks where nobody
    /// closes.
    pub(super) fn hook(&self) -> Option<ChainHook> {
        let hook = i32::try_from(self.number?).ok()?;
        if self.family() == Some(Family::Netdev) {
            return match hook {
                libc::NF_NETDEV_INGRESS => Some(ChainHook::Ingress),
                libc::NF_NETDEV_EGRESS => Some(ChainHook::Egress),
                _ => None,
            };
        }
        match hook {
            libc::NF_INET_LOCAL_IN => Some(ChainHook::Input),
            libc::NF_INET_FORWARD => Some(ChainHook::Forward),
            libc::NF_INET_LOCAL_OUT => Some(ChainHook::Output),
            _ => None,
        }
    }
}

/// Chains of every family and table.
pub(super) fn chains(netlink: &mut Nfnetlink) -> io::Result<Vec<Chain>> {
    let found = netlink.dump(libc::NFT_MSG_GETCHAIN as u8, 0, &[])?;
    Ok(found.iter().map(Chain::read).collect())
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Whether it matches the devices of all endpoints by name.
    pub(super) names_endpoints: bool,
    /// The chain it leads to.
    pub(super) jump: Option<String>,
    has_condition: bool,
    drops: bool,
    accepts: bool,
}

impl Rule {
    pub(super) fn drops_everything(&self) -> bool {
        self.drops && !self.has_condition
    }

    pub(super) fn accepts_everything(&self) -> bool {
        self.accepts && !self.has_condition
    }

    fn read(object: &Object) -> Self {
        let mut rule = Self::default();
        // The register with a device's name.
        let mut register = None;
        for (_, expression) in attributes(attribute(&object.attributes, RULE_EXPRESSIONS)) {
            let data = attribute(expression, EXPRESSION_DATA);
            match text(attribute(expression, EXPRESSION_NAME)).as_str() {
                "counter" | "log" => {}
                "meta" => {
                    let is_name = matches!(
                        number(attribute(data, META_KEY)),
                        Some(META_IIFNAME | META_OIFNAME)
                    );
                    register = is_name.then(|| attribute(data, META_DESTINATION).to_vec());
                }
                "cmp" => {
                    rule.has_condition = true;
                    let is_name = register.as_deref() == Some(attribute(data, CMP_SOURCE))
                        && number(attribute(data, CMP_OPERATOR)) == Some(EQUAL);
                    let value = attribute(attribute(data, CMP_DATA), DATA_VALUE);
                    rule.names_endpoints |= is_name && covers_endpoints(value);
                }
                "immediate" => {
                    rule.verdict(attribute(attribute(data, IMMEDIATE_DATA), DATA_VERDICT));
                }
                "reject" => rule.drops = true,
                "target" if text(attribute(data, TARGET_NAME)) == "REJECT" => rule.drops = true,
                _ => rule.has_condition = true,
            }
        }
        rule
    }

    fn verdict(&mut self, verdict: &[u8]) {
        match number(attribute(verdict, VERDICT_CODE)) {
            Some(DROP) => self.drops = true,
            Some(ACCEPT) => self.accepts = true,
            Some(JUMP | GOTO) => self.jump = Some(text(attribute(verdict, VERDICT_CHAIN))),
            _ => {}
        }
    }
}

/// The rules of a chain, in their order; none if it is gone.
pub(super) fn rules(
    netlink: &mut Nfnetlink,
    family: u8,
    table: &str,
    chain: &str,
) -> io::Result<Vec<Rule>> {
    let named = [(RULE_TABLE, table), (RULE_CHAIN, chain)];
    let found = netlink.dump(libc::NFT_MSG_GETRULE as u8, family, &named)?;
    Ok(found.iter().map(Rule::read).collect())
}
