//! Connection tracking: what is known of a packet's flow, and the verdict that
//! is kept with it.
//!
//! ```text
//!  key ─> entry? ── valid, verdict still stands ──> count, refresh        (the hit path)
//!           │   └── policy or identities changed ──> decide anew, keep the entry
//!           └────── none, expired, or reopened ────> decide, make one
//! ```
//!
//! A flow that policy turns against keeps its entry, marked: without it the
//! next packet of the other side would open the flow in the other direction.

use axon_abi::{
    ConfigFlags, CtEntry, CtFlags, DropReason, FLOWS_PER_NOTICE, Identity, RuntimeConfig,
    TraceReason,
};

use crate::decide::decide;
use crate::event;
use crate::family::Family;
use crate::host;
use crate::packet::Packet;
use crate::scratch::{Flow, Judge, Kind, Scratch};
use crate::state;
use crate::tables::Tables;

/// The policy sets that the packet's ends must have been judged by; `None`
/// where this hook does not say.
#[derive(Clone, Copy)]
pub(crate) struct Sets {
    /// Of the sender; 0 if it is no endpoint of this node.
    pub(crate) sender: Option<u32>,
    /// Of the receiver; 0 if it is no endpoint of this node.
    pub(crate) receiver: u32,
}

/// Finds or makes the entry of the packet's flow, and holds the flow to
/// policy.
#[inline(always)]
pub(crate) fn track<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    sets: Sets,
) -> Result<(), DropReason> {
    if find::<F>(packet, tables, scratch, sets)? {
        return Ok(());
    }
    open::<F>(packet, tables, scratch)
}

/// Finds the entry of the packet's flow and holds the flow to policy; false if
/// it is not known.
#[inline(always)]
pub(crate) fn find<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    sets: Sets,
) -> Result<bool, DropReason> {
    scratch.low = F::key(scratch);
    scratch.replaces = false;
    if !matches!(scratch.flow.kind, Kind::Single)
        && let Some(mut entry) = F::entry(tables, scratch)
    {
        scratch.replaces = true;
        let config = tables.config();
        let now_s = tables.now_s();
        let forward = (entry.flags & CtFlags::OPENED_BY_LOW != 0) == scratch.low;
        let sender = if entry.flags & CtFlags::BORROWED != 0 || scratch.borrowed {
            compare(scratch, &entry, forward)
        } else {
            Sender::Same
        };
        let is_void = now_s >= entry.expires_s
            || state::reopens(&scratch.flow, &entry)
            || crosses(scratch.flow.kind, forward)
            || matches!(sender, Sender::Owner);
        if !is_void {
            scratch.forward = forward;
            if scratch.from_outside && claims_ours(&entry, forward)
                || matches!(sender, Sender::Intruder)
            {
                return Err(DropReason::InvalidSourceIp);
            }
            let other = matches!(sender, Sender::Other);
            if other || !stands(&entry, sets, config.epoch, forward) {
                renew(packet, tables, scratch, &mut entry)?;
            }
            name(scratch, &entry, forward);
            if entry.denied != 0 {
                recall(tables, scratch, &entry);
                return Err(refusal(entry.denied));
            }
            if matches!(scratch.flow.kind, Kind::Error) {
                scratch.seen = Some(TraceReason::Related);
                scratch.report = config.flags & ConfigFlags::EVENT_TRACE != 0;
                return Ok(true);
            }
            refresh(&scratch.flow, &mut entry, config, now_s, forward);
            count(tables, &mut entry, packet.len(), forward);
            scratch.seen = Some(if forward {
                TraceReason::Established
            } else {
                TraceReason::Reply
            });
            scratch.report = due(&scratch.flow, &mut entry, config, now_s, forward);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Who speaks in a flow that somebody with a borrowed address has opened, or
/// with such an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// Who opened it, or the other side.
    Same = 0,
    /// Who the address is of: that is a flow of its own.
    Owner = 1,
    /// A borrower in a flow that he has not opened: he has what he opened, and
    /// answers what was opened to the address.
    Intruder = 2,
    /// Another borrower.
    Other = 3,
}

#[inline(never)]
fn compare(scratch: &Scratch, entry: &CtEntry, forward: bool) -> Sender {
    let borrowed = entry.flags & CtFlags::BORROWED != 0;
    match (forward, borrowed, scratch.borrowed) {
        (false, ..) | (true, false, false) => Sender::Same,
        (true, true, false) => Sender::Owner,
        (true, false, true) => Sender::Intruder,
        (true, true, true) if entry.source_identity == scratch.borrower => Sender::Same,
        (true, true, true) => Sender::Other,
    }
}

/// Whether an ICMP query goes the way of the answers, or an answer that of the
/// queries: with the identifier 0 both sides' echoes have one key, and what one
/// side may ask the other may not.
#[inline(always)]
fn crosses(kind: Kind, forward: bool) -> bool {
    match kind {
        Kind::Query => !forward,
        Kind::Answer => forward,
        Kind::Single | Kind::Session | Kind::Error => false,
    }
}

/// Whether the verdict in the entry was made under what is in force now.
#[inline(always)]
fn stands(entry: &CtEntry, sets: Sets, epoch: u32, forward: bool) -> bool {
    let (sender, receiver) = if forward {
        (entry.egress_set, entry.ingress_set)
    } else {
        (entry.ingress_set, entry.egress_set)
    };
    let sender_stands = match sets.sender {
        Some(set) => set == sender,
        None => true,
    };
    sender_stands && sets.receiver == receiver && entry.epoch == epoch
}

/// Whether the side that the packet says it comes from is this node or one of
/// its endpoints.
#[inline(always)]
fn claims_ours(entry: &CtEntry, forward: bool) -> bool {
    let (set, identity) = if forward {
        (entry.egress_set, entry.source_identity)
    } else {
        (entry.ingress_set, entry.destination_identity)
    };
    set != 0 || identity == Identity::HOST
}

/// The reason kept in an entry that policy has turned against.
#[inline(always)]
fn refusal(denied: u8) -> DropReason {
    const BY_RULE: u8 = DropReason::PolicyDeny as u8;
    const UNPROVED: u8 = DropReason::AuthRequired as u8;
    match denied {
        BY_RULE => DropReason::PolicyDeny,
        UNPROVED => DropReason::AuthRequired,
        _ => DropReason::PolicyDenied,
    }
}

/// Recalls which policy refused the flow, for the event of this drop.
#[inline(never)]
fn recall(tables: &impl Tables, scratch: &mut Scratch, entry: &CtEntry) {
    if scratch.judged {
        return;
    }
    let ingress = entry.flags & CtFlags::DENIED_INGRESS != 0;
    let tuple = scratch.flow.tracked();
    let addr = if ingress == scratch.forward {
        &tuple.destination
    } else {
        &tuple.source
    };
    scratch.judge = match tables.address(addr) {
        Some(row) => row.id,
        None => scratch.endpoint,
    };
    scratch.judged = true;
    scratch.question.egress = !ingress;
    scratch.question.set = if ingress {
        entry.ingress_set
    } else {
        entry.egress_set
    };
    scratch.decision.rule = entry.rule;
    scratch.decision.match_type = entry.match_type;
    let refused = if ingress {
        entry.destination_identity
    } else {
        entry.source_identity
    };
    if refused == Identity::HOST
        && let Some(row) = host::row(tables)
    {
        scratch.judge = row.id;
        scratch.question.set = row.policy_set;
    }
}

#[inline(always)]
fn name(scratch: &mut Scratch, entry: &CtEntry, forward: bool) {
    let ends = (entry.source_identity, entry.destination_identity);
    (scratch.source_identity, scratch.destination_identity) =
        if forward { ends } else { (ends.1, ends.0) };
    scratch.flow_flags = entry.flags;
}

/// Moves the state on; writes only what changes.
#[inline(always)]
fn refresh(flow: &Flow, entry: &mut CtEntry, config: &RuntimeConfig, now_s: u32, forward: bool) {
    let state = state::next(flow, entry, forward);
    let flags = state::flags(flow, entry, forward);
    if state != entry.state {
        entry.state = state;
    }
    if flags != entry.flags {
        entry.flags = flags;
    }
    let expires_s = now_s.wrapping_add(state::lifetime_s(config, state));
    if expires_s != entry.expires_s {
        entry.expires_s = expires_s;
    }
}

#[inline(always)]
fn count<T: Tables>(_: &T, entry: &mut CtEntry, len: u32, forward: bool) {
    let [[packets, packets_back], [bytes, bytes_back]] =
        [&mut entry.packets, &mut entry.bytes].map(<[u64; 2]>::each_mut);
    if forward {
        T::add(packets, 1);
        T::add(bytes, u64::from(len));
    } else {
        T::add(packets_back, 1);
        T::add(bytes_back, u64::from(len));
    }
}

/// Whether the packet is worth a trace event: the first in a while in its
/// direction, or the first with a TCP flag that is watched.
#[inline(always)]
fn due(
    flow: &Flow,
    entry: &mut CtEntry,
    config: &RuntimeConfig,
    now_s: u32,
    forward: bool,
) -> bool {
    let [flags, flags_back] = &mut entry.tcp_flags;
    let seen = if forward { flags } else { flags_back };
    let fresh = flow.tcp_flags & !*seen;
    if fresh != 0 {
        *seen |= fresh;
    }
    if config.flags & ConfigFlags::EVENT_TRACE == 0 {
        return false;
    }
    let [reported, reported_back] = &mut entry.reported_s;
    let reported_s = if forward { reported } else { reported_back };
    let watched = u32::from(fresh) & config.trace_tcp_flags != 0;
    if !watched && now_s.wrapping_sub(*reported_s) < config.trace_interval_s {
        return false;
    }
    *reported_s = now_s;
    true
}

/// The set that an entry keeps for one of its ends: none for the node itself,
/// see [`crate::host`].
#[inline(always)]
fn kept(judge: Judge, who: Identity) -> u32 {
    if who == Identity::HOST { 0 } else { judge.set }
}

/// Decides anew on a known flow.
#[inline(never)]
fn renew(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    entry: &mut CtEntry,
) -> Result<(), DropReason> {
    if !scratch.forward {
        // Who it was that opened the flow is told by nothing else.
        scratch.borrowed = entry.flags & CtFlags::BORROWED != 0;
        scratch.borrower = entry.source_identity;
    }
    let said = decide(packet, tables, scratch);
    entry.denied = match said {
        Ok(()) => 0,
        Err(reason) if reason.is_policy() => reason as u8,
        // Nothing was decided: the next packet asks again.
        Err(reason) => return Err(reason),
    };
    entry.flags &= !CtFlags::DENIED_INGRESS;
    if entry.denied != 0 && !scratch.question.egress {
        entry.flags |= CtFlags::DENIED_INGRESS;
    }
    let agreed = &scratch.agreed;
    entry.source_identity = agreed.source;
    entry.destination_identity = agreed.destination;
    entry.egress_set = kept(agreed.egress, agreed.source);
    entry.ingress_set = kept(agreed.ingress, agreed.destination);
    entry.epoch = agreed.epoch;
    entry.rule = agreed.rule;
    entry.match_type = agreed.match_type;
    Ok(())
}

/// Decides on a flow that is not known, and makes its entry.
#[inline(never)]
pub(crate) fn open<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let flow = &mut scratch.flow;
    if matches!(flow.kind, Kind::Error) {
        // An error about nothing we know: policy decides by its own type.
        flow.kind = Kind::Single;
        flow.icmp = true;
        flow.policy_type = flow.icmp_type;
    }
    if matches!(flow.kind, Kind::Answer) {
        // Nobody asked: it is judged as the message it is.
        flow.policy_type = flow.icmp_type;
    }
    scratch.forward = true;
    decide(packet, tables, scratch)?;
    let config = tables.config();
    scratch.seen = Some(TraceReason::New);
    scratch.report = config.flags & ConfigFlags::EVENT_TRACE != 0;
    if !matches!(scratch.flow.kind, Kind::Session | Kind::Query) {
        return Ok(());
    }
    let owner = scratch.endpoint;
    // The node has no quota: what it needs is not to be used up by whoever calls it.
    let limited = config.ct_quota != 0 && !scratch.of_host;
    if !scratch.replaces && limited && tables.ct_count(owner) >= config.ct_quota {
        return Err(DropReason::CtMapInsertionFailed);
    }
    set_entry(scratch, config, tables.now_s(), packet.len());
    if !F::insert(tables, scratch) {
        return Err(DropReason::CtMapInsertionFailed);
    }
    if !scratch.replaces {
        let owned = tables.ct_count_add(owner).wrapping_add(1);
        if owned.is_multiple_of(FLOWS_PER_NOTICE) {
            event::report_flows(tables, scratch, owned);
        }
    }
    Ok(())
}

#[inline(always)]
fn set_entry(scratch: &mut Scratch, config: &RuntimeConfig, now_s: u32, len: u32) {
    let Scratch {
        flow,
        agreed,
        entry,
        endpoint,
        low,
        borrowed,
        flow_flags,
        ..
    } = scratch;
    let state = state::first(flow) as u8;
    let mut flags = if *low { CtFlags::OPENED_BY_LOW } else { 0 };
    if flow.tcp_flags & crate::header::tcp_flag::FIN != 0 {
        flags |= CtFlags::FIN_FORWARD;
    }
    if *borrowed {
        flags |= CtFlags::BORROWED;
    }
    flags |= *flow_flags & (CtFlags::BY_STACK | CtFlags::SERVICE);
    *entry = CtEntry {
        packets: [1, 0],
        bytes: [u64::from(len), 0],
        source_identity: agreed.source,
        destination_identity: agreed.destination,
        egress_set: kept(agreed.egress, agreed.source),
        ingress_set: kept(agreed.ingress, agreed.destination),
        epoch: agreed.epoch,
        expires_s: now_s.wrapping_add(state::lifetime_s(config, state)),
        created_s: now_s,
        // The reply is reported when first seen.
        reported_s: [now_s, now_s.wrapping_sub(config.trace_interval_s)],
        owner: *endpoint,
        tcp_flags: [flow.tcp_flags, 0],
        state,
        flags,
        denied: 0,
        match_type: agreed.match_type,
        rule: agreed.rule,
    };
}
