//! Where a flow stands, and how long it is remembered.

use axon_abi::{CtEntry, CtFlags, CtState, RuntimeConfig, Timeouts};

use crate::header::{protocol, tcp_flag};
use crate::scratch::Flow;

/// The state that the first packet of a flow puts it in.
#[inline(always)]
pub(crate) fn first(flow: &Flow) -> CtState {
    if flow.tuple.protocol != protocol::TCP {
        return CtState::OneWay;
    }
    if flow.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        return CtState::Closing;
    }
    if flow.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN {
        return CtState::Opening;
    }
    // Picked up in the middle: the node was restarted, or the flow moved.
    CtState::Established
}

/// Whether the packet opens a new connection where an old one has ended.
#[inline(always)]
pub(crate) fn reopens(flow: &Flow, entry: &CtEntry) -> bool {
    entry.state == CtState::Closing as u8
        && flow.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
}

/// The state after a further packet.
#[inline(always)]
pub(crate) fn next(flow: &Flow, entry: &CtEntry, forward: bool) -> u8 {
    if flow.tuple.protocol != protocol::TCP {
        let both = !forward || entry.flags & CtFlags::REPLIED != 0;
        return if both {
            CtState::TwoWay
        } else {
            CtState::OneWay
        } as u8;
    }
    if flow.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        return CtState::Closing as u8;
    }
    if entry.state == CtState::Opening as u8 && !forward {
        return CtState::Established as u8;
    }
    entry.state
}

/// The flags after a further packet.
#[inline(always)]
pub(crate) fn flags(flow: &Flow, entry: &CtEntry, forward: bool) -> u8 {
    let mut flags = entry.flags;
    if !forward {
        flags |= CtFlags::REPLIED;
    }
    if flow.tcp_flags & tcp_flag::FIN != 0 {
        flags |= if forward {
            CtFlags::FIN_FORWARD
        } else {
            CtFlags::FIN_REPLY
        };
    }
    flags
}

/// Seconds that a flow in this state is remembered without a packet.
#[inline(always)]
pub(crate) fn lifetime_s(config: &RuntimeConfig, state: u8) -> u32 {
    // By index: of a `match` over neighbouring fields the compiler makes an
    // index that the verifier cannot follow.
    let by_state: &[u32; 6] = zerocopy::transmute_ref!(&config.timeouts);
    let state = usize::from(state.min(CtState::TwoWay as u8));
    by_state.get(state).copied().unwrap_or(0)
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Timeouts, tcp_opening_s) == 4 * CtState::Opening as usize);
    assert!(offset_of!(Timeouts, tcp_established_s) == 4 * CtState::Established as usize);
    assert!(offset_of!(Timeouts, tcp_closing_s) == 4 * CtState::Closing as usize);
    assert!(offset_of!(Timeouts, one_way_s) == 4 * CtState::OneWay as usize);
    assert!(offset_of!(Timeouts, two_way_s) == 4 * CtState::TwoWay as usize);
};
