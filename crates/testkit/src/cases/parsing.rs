//! Packets that are not what they should be.

use axon_abi::{DropReason, Hook};

use super::scene::{Net, POD_A, POD_B, arrives, sends, step, to};
use crate::Build;
use crate::run::{Case, Step};

const ACK: u8 = 16;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    let mut steps = lengths(net);
    steps.extend(headers(net));
    vec![net.case("absurd packets", Net::scene(), steps)]
}

fn changed(packet: &Build, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = packet.frame();
    change(&mut frame);
    frame
}

fn lengths(net: &Net) -> Vec<Step> {
    let from = (Hook::FromEndpoint, POD_A);
    let tcp = Build::tcp(net.a, net.b, (40000, 80), ACK);
    let udp = Build::udp(net.a, net.b, (40000, 80), 8);
    let header = if net.version == 4 { 34 } else { 54 };
    let len_at = if net.version == 4 { 16 } else { 18 };
    let invalid = Err(DropReason::InvalidPacket);
    let truncated = Err(DropReason::CtInvalidHeader);
    let longer = changed(&tcp, |frame| frame[len_at + 1] += 1);
    let none = changed(&tcp, |frame| frame[len_at..len_at + 2].fill(0));
    let mut aggregate = step("a length of 0, an aggregate", from, none.clone(), to(POD_B));
    aggregate.packet.gso_size = 1000;
    let short_udp = changed(&udp, |frame| frame[header + 5] = 7);
    let long_udp = changed(&udp, |frame| frame[header + 5] = 99);
    let offset = changed(&tcp, |frame| frame[header + 12] = 0x60);
    let small_offset = changed(&tcp, |frame| frame[header + 12] = 0x40);
    vec![
        step("no IP header", from, tcp.frame()[..20].to_vec(), invalid),
        step(
            "no Ethernet header",
            from,
            tcp.frame()[..13].to_vec(),
            Err(DropReason::UnsupportedL2Protocol),
        ),
        step("longer than it is", from, longer, invalid),
        step(
            "a length of 0",
            from,
            none,
            if net.version == 4 { invalid } else { truncated },
        ),
        aggregate,
        step(
            "cut in the IP payload",
            from,
            tcp.frame()[..header + 10].to_vec(),
            invalid,
        ),
        step("a UDP length too small", from, short_udp, truncated),
        step("a UDP length too large", from, long_udp, truncated),
        step("TCP options beyond the end", from, offset, truncated),
        step("a TCP header too small", from, small_offset, truncated),
    ]
}

fn headers(net: &Net) -> Vec<Step> {
    let from = (Hook::FromEndpoint, POD_A);
    let ports = (40000, 80);
    let truncated = Err(DropReason::CtInvalidHeader);
    let tcp = |flags| Build::tcp(net.a, net.b, ports, flags);
    let wrong = changed(&tcp(ACK), |frame| frame[14] ^= 0x30);
    let mut unknown = Build::udp(net.a, net.b, ports, 8);
    unknown.protocol = 99;
    let mut ethertype = tcp(ACK).frame();
    ethertype[12] = 0x88;
    let mut tagged = sends(
        "a VLAN tag",
        POD_A,
        &tcp(ACK),
        Err(DropReason::VlanFiltered),
    );
    tagged.packet.vlan = Some(0);
    let mut steps = vec![
        sends("no TCP flags", POD_A, &tcp(0), truncated),
        sends("SYN and FIN", POD_A, &tcp(3), truncated),
        sends("SYN and RST", POD_A, &tcp(6), truncated),
        step(
            "another IP version",
            from,
            wrong,
            Err(DropReason::InvalidPacket),
        ),
        sends(
            "an unknown protocol",
            POD_A,
            &unknown,
            Err(DropReason::CtUnknownL4Protocol),
        ),
        step(
            "an unknown EtherType",
            from,
            ethertype,
            Err(DropReason::UnsupportedL3Protocol),
        ),
    ];
    let invalid = Err(DropReason::InvalidIpv6ExtensionHeader);
    if net.version == 4 {
        let overrun = changed(&tcp(ACK), |frame| frame[14] = 0x4f);
        steps.push(step(
            "IP options beyond the end",
            from,
            overrun,
            Err(DropReason::InvalidPacket),
        ));
    } else {
        let mut many = tcp(ACK);
        many.extensions = vec![(60, vec![0, 1, 4, 0, 0, 0, 0]); 7];
        steps.push(sends("seven extension headers", POD_A, &many, invalid));
        many.extensions.truncate(6);
        steps.push(sends("six extension headers", POD_A, &many, to(POD_B)));
        let mapped = Build::tcp("::ffff:10.0.1.21", net.a, (40000, 80), ACK);
        steps.push(arrives(
            "an IPv4 address in an IPv6 header",
            &mapped,
            Err(DropReason::InvalidPacket),
        ));
        many.extensions = vec![(60, vec![0; 7]), (0, vec![0; 7])];
        steps.push(sends(
            "hop-by-hop options in second place",
            POD_A,
            &many,
            invalid,
        ));
        many.extensions = vec![(43, vec![0; 7])];
        steps.push(sends("routing header of type 0", POD_A, &many, invalid));
        many.extensions = vec![(60, vec![200, 0, 0, 0, 0, 0, 0])];
        steps.push(sends(
            "an extension header beyond the end",
            POD_A,
            &many,
            invalid,
        ));
        many.extensions = vec![(51, vec![0; 7])];
        steps.push(sends(
            "an authentication header of eight bytes",
            POD_A,
            &many,
            invalid,
        ));
        many.extensions = vec![(51, vec![2, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 1, 2, 3, 4])];
        steps.push(sends("an authentication header", POD_A, &many, to(POD_B)));
    }
    steps
}
