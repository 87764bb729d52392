//! Egress of an uplink: what leaves this node.

use axon_abi::{Direction, DropReason};

use crate::family::{Family, V4, V6, same};
use crate::header::{Ethernet, ethertype};
use crate::host;
use crate::masquerade::masquerade;
use crate::packet::Packet;
use crate::parse::parse;
use crate::scratch::{Scratch, Way};
use crate::serve;
use crate::tables::{LOOPBACK, Tables};
use crate::verdict::Verdict;

/// Holds what the node itself sends to its policy, if it has a firewall, and
/// gives packets of endpoints that leave the cluster the node's address.
#[inline(always)]
pub fn to_netdev(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    scratch.begin(0, Direction::Egress);
    if packet.in_vlan() || packet.is_served() {
        return Ok(Verdict::Ignore);
    }
    let Some(ethernet) = packet.view::<Ethernet>(0) else {
        return Ok(Verdict::Ignore);
    };
    match ethernet.ethertype.get() {
        ethertype::IPV4 => leave::<V4>(packet, tables, scratch)?,
        ethertype::IPV6 => leave::<V6>(packet, tables, scratch)?,
        _ => return Ok(Verdict::Ignore),
    }
    Ok(scratch.verdict())
}

#[inline(never)]
fn leave<F: Family>(
    packet: &mut impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.way = Way::Ignore;
    find_sender::<F>(packet, tables, scratch)?;
    if host::is_held(tables) {
        host::send::<F>(packet, tables, scratch)?;
    }
    let own = scratch.of_node;
    let flags = tables.config().flags;
    let serves = own && tables.serves();
    let masquerades = flags & F::MASQUERADE != 0 && (own || scratch.endpoint != 0);
    if !serves && !masquerades {
        or_held(scratch);
        return Ok(());
    }
    match parse::<F>(packet, tables, scratch) {
        Ok(()) if serves && serve::answer_of_node::<F>(packet, tables, scratch)? => {
            scratch.way = Way::Pass;
        }
        Ok(()) if !masquerades => {}
        Ok(()) => masquerade::<F>(packet, tables, scratch, own)?,
        // The node's own packets are its own affair.
        Err(_) if own => {}
        Err(reason) => return Err(reason),
    }
    or_held(scratch);
    Ok(())
}

/// What is not ours is, if the node's policy was asked.
#[inline(always)]
fn or_held(scratch: &mut Scratch) {
    if scratch.of_host && matches!(scratch.way, Way::Ignore) {
        scratch.way = Way::Pass;
    }
}

/// Finds out whether the packet is of the node itself or of which endpoint, if
/// that matters.
///
/// Other nodes know an endpoint by its address and take it for what it says:
/// what some other device has brought is not let out under it.
#[inline(never)]
fn find_sender<F: Family>(
    packet: &impl Packet,
    tables: &impl Tables,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let config = tables.config();
    let came_by = packet.ingress_ifindex();
    scratch.of_node = false;
    if config.flags & F::MASQUERADE == 0 && !tables.serves() && came_by <= LOOPBACK {
        return Ok(());
    }
    let Some(source) = F::source(packet) else {
        return Ok(());
    };
    scratch.of_node = same(&source, &F::node(config));
    if scratch.of_node {
        return Ok(());
    }
    if let Some(row) = tables.address(&source) {
        if came_by > LOOPBACK && row.ifindex != came_by {
            return Err(DropReason::InvalidSourceIp);
        }
        scratch.endpoint = row.id;
        scratch.source_identity = row.identity;
    }
    Ok(())
}
