//! Addresses that are nobody's but services' answer echo requests: the request
//! becomes its own reply (RFC 1122 section 3.2.2.6, RFC 4443 section 4.2).

use crate::checksum::{difference, half};
use crate::family::Family;
use crate::header::{ETHERNET_LEN, Ethernet};
use crate::packet::{Checksum, Packet};
use crate::scratch::{Fragmentation, Scratch};

const HOPS: u8 = 64;

/// Makes an echo request its reply. Of a request in fragments each becomes one of
/// the reply; the first alone says what it is.
#[inline(never)]
pub(crate) fn answer<F: Family>(packet: &mut impl Packet, scratch: &Scratch) -> Option<()> {
    let ethernet: &mut Ethernet = packet.edit(0)?;
    (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
    let flow = &scratch.flow;
    let tuple = &flow.tuple;
    // Their sum stays what it is.
    F::store_address(packet, F::SOURCE_AT, &tuple.destination)?;
    F::store_address(packet, F::SOURCE_AT + F::ADDR_LEN, &tuple.source)?;
    let at = ETHERNET_LEN as u32 + F::HOPS_AT;
    if F::VERSION == 4 {
        packet.store(at, &HOPS)?;
        let hops = difference(half([flow.hop_limit, 0]), half([HOPS, 0]));
        packet.fix_ip_checksum(24, hops)?;
    } else {
        packet.store_uncovered(at, &HOPS)?;
    }
    if matches!(flow.fragmentation, Fragmentation::Later) {
        return Some(());
    }
    let [asked, answered] = F::ECHO;
    packet.store(flow.l4_at, &answered)?;
    let how = Checksum {
        pseudo: false,
        zero_is_none: false,
        ipv6: F::VERSION == 6,
    };
    let change = difference(half([asked, 0]), half([answered, 0]));
    packet.fix_l4_checksum(flow.l4_at + 2, change, how)
}
