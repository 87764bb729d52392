//! Both ends of a packet at once: what a service makes of it, and back.

use axon_abi::DropReason;

use crate::family::{Family, same};
use crate::nat::{End, rewrite};
use crate::packet::Packet;
use crate::scratch::{Scratch, Translated};
use crate::tables::Tables;

/// Gives the packet the ends in `scratch.service_flow`.
#[inline(never)]
pub(crate) fn translate<F: Family>(packet: &mut impl Packet, scratch: &mut Scratch) -> Option<()> {
    scratch.translated = Translated::Served;
    let Scratch {
        flow,
        service_flow: new,
        nat_entry,
        ..
    } = scratch;
    let old = flow.tracked();
    let is_source = !same(&old.source, &new.source) || old.source_port != new.source_port;
    let is_destination =
        !same(&old.destination, &new.destination) || old.destination_port != new.destination_port;
    if is_source {
        (nat_entry.addr, nat_entry.port) = (new.source, new.source_port);
        rewrite::<F>(packet, scratch, End::Source)?;
    }
    if is_destination {
        let new = &scratch.service_flow;
        (scratch.nat_entry.addr, scratch.nat_entry.port) = (new.destination, new.destination_port);
        rewrite::<F>(packet, scratch, End::Destination)?;
    }
    Some(())
}

/// Gives a packet that a service has translated the ends again that it came
/// with: its sender, who is to be told of it, knows no others.
#[inline(never)]
pub(crate) fn undo<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if !tables.can_serve() || !matches!(scratch.translated, Translated::Served) {
        return Ok(());
    }
    let Scratch {
        before,
        service_flow: new,
        ..
    } = scratch;
    (new.source, new.source_port) = (before.source, before.source_port);
    (new.destination, new.destination_port) = (before.destination, before.destination_port);
    translate::<F>(packet, scratch).ok_or(DropReason::PacketWrite)?;
    scratch.translated = Translated::Not;
    Ok(())
}
