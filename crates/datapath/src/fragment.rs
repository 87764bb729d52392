//! Fragments: the later ones learn their ports from the first.
//!
//! A fragment that overtakes the first is dropped; its sender repeats the
//! datagram. Holding fragments back would be a queue that anybody can fill.

use axon_abi::{DropReason, FragmentPorts};

use crate::family::Family;
use crate::icmp::Message;
use crate::scratch::{Kind, Scratch};
use crate::tables::Tables;

fn set_key(scratch: &mut Scratch) {
    let Scratch {
        flow,
        fragment_key: key,
        endpoint,
        ..
    } = scratch;
    key.source = flow.tuple.source;
    key.destination = flow.tuple.destination;
    key.id = flow.fragment_id;
    key.protocol = flow.tuple.protocol;
    key.pad = 0;
    key.endpoint = *endpoint;
}

/// Remembers the ports of a datagram's first fragment.
#[inline(never)]
pub(crate) fn remember(tables: &impl Tables, scratch: &mut Scratch) {
    set_key(scratch);
    let Scratch {
        flow,
        fragment_key,
        fragment_ports,
        ..
    } = scratch;
    *fragment_ports = FragmentPorts {
        source: flow.tuple.source_port,
        destination: flow.tuple.destination_port,
        icmp_type: flow.icmp_type,
        icmp_code: flow.icmp_code,
        pad: 0,
        seen_s: tables.now_s(),
    };
    tables.fragment_insert(fragment_key, fragment_ports);
}

/// Fills in the ports of a datagram's later fragment.
#[inline(never)]
pub(crate) fn recall<F: Family>(
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let missing = if scratch.from_outside {
        DropReason::FragmentNotFoundWorld
    } else {
        DropReason::FragmentNotFound
    };
    set_key(scratch);
    let ports = tables.fragment(&scratch.fragment_key).ok_or(missing)?;
    let lifetime = tables.config().timeouts.fragment_s;
    // Another CPU's clock may be a second ahead.
    if tables.now_s() > ports.seen_s.saturating_add(lifetime) {
        return Err(missing);
    }
    let flow = &mut scratch.flow;
    flow.tuple.source_port = ports.source;
    flow.tuple.destination_port = ports.destination;
    flow.kind = Kind::Session;
    if flow.tuple.protocol == F::ICMP {
        flow.icmp = true;
        flow.icmp_type = ports.icmp_type;
        flow.icmp_code = ports.icmp_code;
        flow.policy_type = ports.icmp_type;
        flow.kind = match F::icmp(ports.icmp_type, ports.icmp_code) {
            Message::Query => Kind::Query,
            Message::Answer { asked } => {
                flow.policy_type = asked;
                Kind::Answer
            }
            Message::Error | Message::Other | Message::Forbidden(_) => Kind::Single,
        };
    }
    Ok(())
}
