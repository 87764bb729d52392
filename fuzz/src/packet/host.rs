//! What the node itself may be held to (docs/host-firewall.md): policies as
//! lists of rules.
//!
//! `scene` makes rows for the datapath of them, the judge reads the lists
//! themselves: of the rules of a direction the first that matches decides.

use axon_abi::DropReason;

/// Who is at the far end of the node's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The scene's first endpoint.
    First,
    /// Another endpoint of the node.
    Pod,
    /// A pod of another node.
    RemotePod,
    /// Another node.
    RemoteNode,
    /// A prefix that policy tells apart.
    Prefix,
    /// Anybody else.
    World,
    /// Anybody whose row has not come yet.
    Unknown,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Everything.
    Any,
    /// A protocol.
    Protocol(u8),
    /// Ports of a protocol from the first on: a power of two, in its place.
    Ports(u8, u16, u16),
    /// An ICMP type: of IPv4 and of IPv6.
    Type(u8, u8),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Allow,
    Deny,
    /// Leaves it denied, as what no rule names.
    DenyByDefault,
    /// Allows it whomever it is with, known or not.
    Failsafe,
}

/// A rule; by nobody it is about anybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) egress: bool,
    pub(super) who: Option<Who>,
    pub(super) what: What,
    pub(super) does: Does,
}

/// Whether the node is held to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// There is no host firewall.
    Off,
    /// There is one, whose policy has not come yet.
    Waits,
    /// To the policy.
    Fast,
    /// To the policy, and lets pass all the same.
    Audited,
}

/// A policy of the node.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) held: Held,
    /// Whether ingress and egress that no rule allows are denied.
    pub(super) closed: [bool; 2],
    pub(super) rules: &'static [Rule],
    /// Whether rows of who addresses are have not come yet.
    pub(super) partial: bool,
}

/// What a policy is asked about: ports and ICMP types, where there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
}

impl Policy {
    /// Whether anything of the node's own is looked at.
    pub(super) fn holds(&self) -> bool {
        matches!(self.held, Held::Fast | Held::Audited)
    }

    /// What it says of traffic that the node opens (`egress`), or others do.
    pub(super) fn says(&self, egress: bool, far: Who, asked: Asked) -> Result<(), DropReason> {
        if self.held != Held::Fast {
            return Ok(());
        }
        let mut rules = self.rules.iter().filter(|rule| rule.egress == egress);
        let named = rules.clone().next().is_some();
        match rules.find(|rule| rule.is_about(far, asked)) {
            Some(rule) => match rule.does {
                Does::Allow | Does::Failsafe => Ok(()),
                Does::Deny => Err(DropReason::PolicyDeny),
                Does::DenyByDefault => Err(DropReason::PolicyDenied),
            },
            // Any rule might be about whom nobody knows.
            None if self.closed[usize::from(egress)] || far == Who::Unknown && named => {
                Err(DropReason::PolicyDenied)
            }
            None => Ok(()),
        }
    }
}

impl Rule {
    fn is_about(&self, far: Who, asked: Asked) -> bool {
        let them = match self.who {
            Some(who) => who == far,
            None => far != Who::Unknown || self.does != Does::Allow,
        };
        let Asked { protocol, port } = asked;
        let this = match self.what {
            What::Any => true,
            What::Protocol(of) => of == protocol,
            What::Ports(of, first, count) => {
                of == protocol && port.is_some_and(|port| port >= first && port - first < count)
            }
            What::Type(v4, v6) => {
                let kind = if protocol == 1 { v4 } else { v6 };
                matches!(protocol, 1 | 58) && port == Some(u16::from(kind))
            }
        };
        them && this
    }
}

const fn rule(egress: bool, who: Option<Who>, what: What, does: Does) -> Rule {
    Rule {
        egress,
        who,
        what,
        does,
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const VRRP: u8 = 112;
const IN: bool = false;
const OUT: bool = true;

/// By port, by identity, by both; ranges, ICMP, protocols without ports.
const BY_RULES: &[Rule] = &[
    rule(IN, None, What::Ports(TCP, 22, 1), Does::Allow),
    rule(IN, Some(Who::First), What::Ports(TCP, 80, 1), Does::Allow),
    rule(
        IN,
        Some(Who::RemotePod),
        What::Ports(TCP, 8000, 64),
        Does::Allow,
    ),
    rule(IN, Some(Who::RemoteNode), What::Protocol(TCP), Does::Allow),
    rule(IN, Some(Who::Prefix), What::Type(8, 128), Does::Allow),
    rule(IN, Some(Who::World), What::Type(5, 137), Does::Allow),
    rule(IN, None, What::Ports(UDP, 53, 1), Does::Allow),
    rule(IN, None, What::Protocol(VRRP), Does::Allow),
    rule(OUT, None, What::Ports(TCP, 443, 1), Does::Allow),
    rule(OUT, Some(Who::First), What::Ports(TCP, 80, 1), Does::Allow),
    rule(OUT, Some(Who::RemoteNode), What::Any, Does::Allow),
    rule(OUT, Some(Who::World), What::Ports(UDP, 53, 1), Does::Allow),
    rule(OUT, None, What::Type(8, 128), Does::Allow),
    rule(OUT, None, What::Protocol(VRRP), Does::Allow),
];

const DENIES: &[Rule] = &[
    rule(
        IN,
        Some(Who::RemoteNode),
        What::Ports(TCP, 80, 1),
        Does::Allow,
    ),
    rule(IN, None, What::Ports(TCP, 80, 1), Does::DenyByDefault),
    rule(IN, Some(Who::World), What::Ports(TCP, 0, 1024), Does::Deny),
    rule(IN, Some(Who::Prefix), What::Any, Does::Deny),
    rule(IN, None, What::Protocol(UDP), Does::Deny),
    rule(OUT, None, What::Ports(UDP, 53, 1), Does::Deny),
    rule(OUT, Some(Who::Prefix), What::Any, Does::Deny),
    rule(OUT, Some(Who::First), What::Ports(TCP, 80, 1), Does::Deny),
];

/// What no policy closes, above what denies everything.
const FAILSAFE: &[Rule] = &[
    rule(IN, None, What::Ports(TCP, 22, 1), Does::Failsafe),
    rule(OUT, None, What::Ports(UDP, 53, 1), Does::Failsafe),
    rule(OUT, None, What::Ports(TCP, 53, 1), Does::Failsafe),
    rule(IN, None, What::Any, Does::Deny),
    rule(OUT, None, What::Any, Does::Deny),
];

/// Of whom nobody knows, denies count and what no policy closes.
const OF_UNKNOWN: &[Rule] = &[
    FAILSAFE[0],
    FAILSAFE[1],
    BY_RULES[7],
    BY_RULES[6],
    DENIES[4],
];

const fn held(closed: [bool; 2], rules: &'static [Rule]) -> Policy {
    Policy {
        held: Held::Fast,
        closed,
        rules,
        partial: false,
    }
}

const BOTH: [bool; 2] = [true, true];

/// The policies; the first is none.
pub(super) static POLICIES: [Policy; 12] = [
    Policy {
        held: Held::Off,
        ..held(BOTH, &[])
    },
    Policy {
        held: Held::Waits,
        ..held(BOTH, &[])
    },
    held([false, false], &[]),
    held(BOTH, &[]),
    held(BOTH, FAILSAFE.split_at(3).0),
    held(BOTH, BY_RULES),
    held([true, false], BY_RULES),
    held([false, true], BY_RULES),
    held([false, false], DENIES),
    held([false, false], FAILSAFE),
    Policy {
        held: Held::Audited,
        ..held(BOTH, DENIES)
    },
    Policy {
        partial: true,
        ..held(BOTH, OF_UNKNOWN)
    },
];

/// The policy of the cases: by rules.
pub(super) const OF_CASES: usize = 5;
