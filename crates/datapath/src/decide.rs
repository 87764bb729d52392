//! Whether a flow may be: the egress policy of the endpoint that opens it,
//! then the ingress policy of the one it is opened to.

use axon_abi::{ConfigFlags, Direction, DropReason, EndpointFlags, EndpointRow, Identity};

use crate::event;
use crate::identity::{Who, who};
use crate::packet::Packet;
use crate::policy::{Question, evaluate};
use crate::scratch::{Agreed, Scratch};
use crate::tables::Tables;

/// Decides on the tracked flow in its forward orientation, whichever way the
/// packet goes (`forward` says which). What was found is in `scratch.agreed`.
#[inline(never)]
pub(crate) fn decide(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    forward: bool,
) -> Result<(), DropReason> {
    let epoch = tables.config().epoch;
    let Scratch { flow, lpm, .. } = scratch;
    let tuple = flow.tracked();
    let (opener, other) = if forward {
        (&tuple.source, &tuple.destination)
    } else {
        (&tuple.destination, &tuple.source)
    };
    let mut from = who(tables, opener, lpm);
    let mut to = who(tables, other, lpm);
    if let Some(row) = tables.endpoint(scratch.device) {
        // What hangs on the device is its endpoint, whatever address it uses.
        let sends = matches!(scratch.direction, Direction::Egress);
        let own = if sends == forward { &mut from } else { &mut to };
        *own = Who { identity: row.identity, endpoint: Some(row), host: false };
    }
    let (sender, receiver) = if forward { (&from, &to) } else { (&to, &from) };
    scratch.source_identity = sender.identity;
    scratch.destination_identity = receiver.identity;
    // Nobody out there has an address of ours.
    if scratch.from_outside && (sender.endpoint.is_some() || sender.host) {
        return Err(DropReason::InvalidSourceIp);
    }
    scratch.agreed = Agreed {
        source: from.identity,
        destination: to.identity,
        egress_set: from.endpoint.map_or(0, |row| row.policy_set),
        ingress_set: to.endpoint.map_or(0, |row| row.policy_set),
        epoch,
        rule: 0,
        match_type: 0,
        forward,
    };
    set_port(scratch, forward);
    if let (Some(from), Some(to)) = (from.endpoint, to.endpoint)
        && from.id == to.id
    {
        return Ok(());
    }
    if let Some(row) = from.endpoint {
        ask(packet, tables, scratch, row, true)?;
    }
    let trusted = from.identity == Identity::HOST
        && tables.config().flags & ConfigFlags::ALLOW_LOCALHOST != 0;
    match to.endpoint {
        Some(row) if !trusted => ask(packet, tables, scratch, row, false),
        Some(_) | None => Ok(()),
    }
}

/// The port that policy is asked about: the opened one, or the ICMP type.
#[inline(always)]
fn set_port(scratch: &mut Scratch, forward: bool) {
    let Scratch { flow, question, .. } = scratch;
    let tuple = flow.tracked();
    question.protocol = tuple.protocol;
    question.port = if flow.icmp {
        u16::from(flow.policy_type)
    } else if forward {
        tuple.destination_port.get()
    } else {
        tuple.source_port.get()
    };
}

/// Asks the policy of one end, reports what it says, and lets through what is
/// only audited.
#[inline(never)]
fn ask(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
    row: &EndpointRow,
    egress: bool,
) -> Result<(), DropReason> {
    if row.policy_set == 0 {
        return Err(DropReason::EndpointNotReady);
    }
    let agreed = &scratch.agreed;
    scratch.question = Question {
        set: row.policy_set,
        remote: if egress { agreed.destination } else { agreed.source },
        egress,
        ..scratch.question
    };
    let said = evaluate(tables, scratch);
    scratch.agreed.rule = scratch.decision.rule;
    scratch.agreed.match_type = scratch.decision.match_type;
    let config = tables.config();
    scratch.audit = row.flags & EndpointFlags::AUDIT != 0 || config.flags & ConfigFlags::AUDIT != 0;
    if config.flags & ConfigFlags::EVENT_VERDICT != 0 {
        event::report_verdict(packet, tables, scratch, row.id, said);
    }
    // Without its set an endpoint has no policy to audit.
    if scratch.audit && said != Err(DropReason::NoPolicyConfiguration) { Ok(()) } else { said }
}
