//! The policy look-up: what a set version says of a remote, protocol and port.

use axon_abi::{
    Be16, ClassKey, DropReason, Identity, MatchType, PolicyEntryFlags, PolicyKey, PolicySetFlags,
    Scope, class,
};

use crate::scratch::Scratch;
use crate::tables::Tables;

/// What policy is asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The policy set version.
    pub set: u32,
    /// The far end.
    pub remote: Identity,
    /// Destination port; of ICMP the type.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether the set's endpoint opened the flow.
    pub egress: bool,
}

/// What the set says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Precedence of the entry that decided; 0 if none.
    pub precedence: u32,
    /// Its rule; 0 if none.
    pub rule: u32,
    /// Class in its key.
    class: u32,
    /// Its flags.
    pub flags: u16,
    /// Protocol in its key.
    protocol: u8,
    /// Port prefix in its key.
    prefix: u8,
    /// How it matched ([`MatchType`]).
    pub match_type: u8,
}

/// Asks `scratch.question`; the entry that decided is in `scratch.decision`.
///
/// Of all entries that match, the one with the highest precedence decides; if
/// none does, the set's default. An unknown remote is denied then, unless the
/// set has no entry at all: any entry might be about the remote.
#[inline(always)]
pub fn evaluate(tables: &impl Tables, scratch: &mut Scratch) -> Result<(), DropReason> {
    scratch.decision = Decision::default();
    let question = scratch.question;
    let row = tables
        .policy_set(question.set)
        .ok_or(DropReason::NoPolicyConfiguration)?;
    let (prefixes, closed, no_anyone) = if question.egress {
        (
            row.egress_prefixes,
            PolicySetFlags::DEFAULT_DENY_EGRESS,
            PolicySetFlags::NO_ANYONE_PORTS_EGRESS,
        )
    } else {
        (
            row.ingress_prefixes,
            PolicySetFlags::DEFAULT_DENY_INGRESS,
            PolicySetFlags::NO_ANYONE_PORTS_INGRESS,
        )
    };
    classify(tables, scratch);
    probe_all(tables, scratch, prefixes, row.flags & no_anyone == 0);
    let decision = &mut scratch.decision;
    if decision.precedence != 0 {
        decision.match_type = match_type(decision) as u8;
        return says(decision.flags);
    }
    if row.flags & closed != 0 || prefixes != 0 && scratch.class == class::ANY {
        Err(DropReason::PolicyDenied)
    } else {
        Ok(())
    }
}

/// What an entry of these flags says.
#[inline(always)]
fn says(flags: u16) -> Result<(), DropReason> {
    if flags & PolicyEntryFlags::DENY == 0 {
        Ok(())
    } else if flags & PolicyEntryFlags::DEFAULT != 0 {
        Err(DropReason::PolicyDenied)
    } else if flags & PolicyEntryFlags::AUTH != 0 {
        // Nothing that anybody has proved is on record here.
        Err(DropReason::AuthRequired)
    } else {
        Err(DropReason::PolicyDeny)
    }
}

/// Fills in the remote's class, or [`class::ANY`] if the remote is unknown:
/// then only denies of any remote count.
///
/// The class goes through memory, and the functions here are out of line, so
/// that the verifier walks the look-up once and not once per scope.
#[inline(never)]
fn classify(tables: &impl Tables, scratch: &mut Scratch) {
    let Question { set, remote, .. } = scratch.question;
    let scope = remote.scope();
    // Numbers of prefixes and of nodes have a scope of their own in the upper byte.
    let needs_row = matches!(scope, Scope::Cluster) || remote.0 >> 24 != 0;
    scratch.class = class::ANY;
    if matches!(scope, Scope::Unknown) || needs_row && !tables.identity_known(remote) {
        return;
    }
    scratch.class_key = ClassKey {
        set,
        identity: remote,
    };
    scratch.class = match tables.class(&scratch.class_key) {
        Some(class) => class,
        None => class::default_of(scope),
    };
}

/// Probes every port prefix that the set uses, then "any protocol". With
/// `anyone`, entries of any remote may have port prefixes too.
#[inline(never)]
fn probe_all(tables: &impl Tables, scratch: &mut Scratch, prefixes: u32, anyone: bool) {
    let question = scratch.question;
    scratch.policy_key.set = question.set;
    scratch.policy_key.protocol = question.protocol;
    let mut prefix = 17u32;
    while prefix > 0 {
        prefix -= 1;
        if prefixes >> prefix & 1 == 0 {
            continue;
        }
        // A shift by 16 would be none at all.
        let mask = (0xffff_0000_u32 >> prefix) as u16;
        aim(scratch, question.port & mask, prefix as u8);
        probe_own(tables, scratch);
        if anyone || prefix == 0 {
            probe_anyone(tables, scratch);
        }
    }
    if prefixes & 1 != 0 {
        scratch.policy_key.protocol = 0;
        aim(scratch, 0, 0);
        probe_own(tables, scratch);
        probe_anyone(tables, scratch);
    }
}

/// Makes the key, but for the class.
#[inline(always)]
fn aim(scratch: &mut Scratch, port: u16, prefix: u8) {
    let direction = u8::from(scratch.question.egress) * PolicyKey::EGRESS;
    scratch.policy_key.port = Be16::new(port);
    scratch.policy_key.direction_prefix = prefix | direction;
}

/// Looks for the entry of the remote's class.
#[inline(always)]
fn probe_own(tables: &impl Tables, scratch: &mut Scratch) {
    scratch.policy_key.class = scratch.class;
    probe(tables, scratch);
}

/// Looks for the entry of any remote.
#[inline(always)]
fn probe_anyone(tables: &impl Tables, scratch: &mut Scratch) {
    scratch.policy_key.class = class::ANY;
    probe(tables, scratch);
}

/// Looks for one entry, and keeps it if it is above what was found before.
#[inline(always)]
fn probe(tables: &impl Tables, scratch: &mut Scratch) {
    let Some(entry) = tables.policy(&scratch.policy_key) else {
        return;
    };
    let of_unknown = PolicyEntryFlags::DENY | PolicyEntryFlags::UNKNOWN_TOO;
    let unknown = scratch.class == class::ANY;
    if entry.precedence <= scratch.decision.precedence || unknown && entry.flags & of_unknown == 0 {
        return;
    }
    let key = &scratch.policy_key;
    scratch.decision = Decision {
        precedence: entry.precedence,
        rule: entry.rule,
        class: key.class,
        flags: entry.flags,
        protocol: key.protocol,
        prefix: key.direction_prefix & PolicyKey::PREFIX_MASK,
        match_type: 0,
    };
}

/// Which parts of the entry's key were more than wildcards.
fn match_type(decision: &Decision) -> MatchType {
    match (
        decision.class != class::ANY,
        decision.protocol != 0,
        decision.prefix != 0,
    ) {
        (true, true, true) => MatchType::L3L4,
        (true, true, false) => MatchType::L3Proto,
        (true, false, _) => MatchType::L3Only,
        (false, true, true) => MatchType::L4Only,
        (false, true, false) => MatchType::ProtoOnly,
        (false, false, _) => MatchType::All,
    }
}
