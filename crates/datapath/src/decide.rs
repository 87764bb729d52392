//! Whether a flow may be: the egress policy of the endpoint that opens it,
//! then the ingress policy of the one it is opened to.
//!
//! The steps hand on what they find through [`Agreed`], in memory: the
//! verifier then walks each of them once, whatever the one before has found.

use axon_abi::{
    ConfigFlags, Direction, DropReason, EndpointFlags, EndpointRow, HOST_DEVICE, Identity,
};

use crate::event;
use crate::family::{is_hairpin, is_martian};
use crate::identity::{Who, peer, who};
use crate::packet::Packet;
use crate::policy::{Question, evaluate};
use crate::scratch::{Agreed, Judge, Scratch};
use crate::tables::Tables;

/// Decides on the tracked flow in its forward orientation, whichever way the
/// packet goes (`scratch.forward` says which). What was found is in
/// `scratch.agreed`.
#[inline(always)]
pub(crate) fn decide(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    resolve(tables, scratch)?;
    ask(packet, tables, scratch, true)?;
    ask(packet, tables, scratch, false)
}

/// Finds out who the ends are, and whose policy is to be asked.
#[inline(never)]
fn resolve(tables: &impl Tables, scratch: &mut Scratch) -> Result<(), DropReason> {
    let config = tables.config();
    let epoch = config.epoch;
    let borrower = scratch.borrowed.then_some(scratch.borrower);
    let Scratch { flow, lpm, .. } = scratch;
    let tuple = flow.tracked();
    // What hangs on the device is its endpoint, whatever address it uses.
    let own = tables.endpoint(scratch.device).map(|row| Who {
        identity: row.identity,
        endpoint: Some(row),
        host: false,
    });
    let (sender, receiver) = match (own, scratch.direction) {
        // Through a service to itself, see `hairpin`.
        (Some(own), Direction::Egress) if is_hairpin(&tuple.destination) => (own, own),
        (Some(own), Direction::Egress) => (own, peer(tables, &tuple.destination, lpm, borrower)),
        (Some(own), Direction::Ingress | Direction::Unknown) => {
            (peer(tables, &tuple.source, lpm, borrower), own)
        }
        // It is going, and with it who judges.
        (None, _) if scratch.device != 0 => return Err(DropReason::EndpointNotReady),
        (None, Direction::Egress) if scratch.of_host => {
            (the_host(), who(tables, &tuple.destination, lpm))
        }
        (None, _) if scratch.of_host => (who(tables, &tuple.source, lpm), the_host()),
        (None, _) => {
            let sender = who(tables, &tuple.source, lpm);
            (sender, who(tables, &tuple.destination, lpm))
        }
    };
    scratch.source_identity = sender.identity;
    scratch.destination_identity = receiver.identity;
    // Nobody out there has an address of ours. The node's own stack judges for itself whom it
    // hears: its neighbours and routers have addresses of the link, or none yet.
    if scratch.from_outside {
        let forged = sender.endpoint.is_some() || sender.host;
        if forged || !scratch.of_host && is_martian(&tuple.source) {
            return Err(DropReason::InvalidSourceIp);
        }
        if receiver.endpoint.is_none() && !scratch.of_host {
            return Err(DropReason::EndpointNotReady);
        }
    }
    let forward = scratch.forward;
    let (from, to) = if forward {
        (sender, receiver)
    } else {
        (receiver, sender)
    };
    let audits = config.flags & ConfigFlags::AUDIT != 0;
    scratch.agreed = Agreed {
        source: from.identity,
        destination: to.identity,
        egress: judge(from.endpoint, audits),
        ingress: judge(to.endpoint, audits),
        epoch,
        rule: 0,
        match_type: 0,
    };
    if config.flags & ConfigFlags::HOST_FIREWALL != 0 {
        have_host_asked(tables, scratch, audits);
    }
    let agreed = &mut scratch.agreed;
    let alone = agreed.egress.endpoint == agreed.ingress.endpoint;
    let trusted =
        from.identity == Identity::HOST && config.flags & ConfigFlags::ALLOW_LOCALHOST != 0;
    agreed.egress.silent |= alone;
    agreed.ingress.silent |= alone || trusted;
    set_port(scratch, forward);
    Ok(())
}

/// The node itself, whichever of its addresses it uses.
#[inline(always)]
fn the_host<'a>() -> Who<'a> {
    Who {
        identity: Identity::HOST,
        endpoint: None,
        host: true,
    }
}

/// Where the node has a firewall, it is asked as endpoints are, but not about
/// what others send by its address.
#[inline(never)]
fn have_host_asked(tables: &impl Tables, scratch: &mut Scratch, audits: bool) {
    let Some(row) = tables.endpoint(HOST_DEVICE) else {
        return;
    };
    let host = judge(Some(row), audits);
    let silent = scratch.borrowed;
    let agreed = &mut scratch.agreed;
    if agreed.source == Identity::HOST {
        agreed.egress = Judge { silent, ..host };
    }
    if agreed.destination == Identity::HOST {
        agreed.ingress = host;
    }
}

/// Whose policy is asked at one end of a flow.
#[inline(always)]
fn judge(row: Option<&EndpointRow>, audits: bool) -> Judge {
    match row {
        Some(row) => Judge {
            set: row.policy_set,
            endpoint: row.id,
            audits: audits || row.flags & EndpointFlags::AUDIT != 0,
            silent: false,
        },
        None => Judge {
            set: 0,
            endpoint: 0,
            audits,
            silent: true,
        },
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
    egress: bool,
) -> Result<(), DropReason> {
    let agreed = &scratch.agreed;
    let (judge, remote) = if egress {
        (agreed.egress, agreed.destination)
    } else {
        (agreed.ingress, agreed.source)
    };
    if judge.silent {
        return Ok(());
    }
    if judge.set == 0 {
        return Err(DropReason::EndpointNotReady);
    }
    scratch.audit = judge.audits;
    scratch.judge = judge.endpoint;
    scratch.judged = true;
    scratch.question = Question {
        set: judge.set,
        remote,
        egress,
        ..scratch.question
    };
    let said = evaluate(tables, scratch);
    scratch.agreed.rule = scratch.decision.rule;
    scratch.agreed.match_type = scratch.decision.match_type;
    if tables.config().flags & ConfigFlags::EVENT_VERDICT != 0 {
        event::report_verdict(packet, tables, scratch, said);
    }
    // Without its set an endpoint has no policy to audit.
    if scratch.audit && said != Err(DropReason::NoPolicyConfiguration) {
        Ok(())
    } else {
        said
    }
}
