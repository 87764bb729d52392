//! The programs of the hooks.

use axon_abi::{Direction, DropReason};
use axon_datapath::{Packet, Scratch, Tables, Verdict, report_drop};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_peer};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::kernel::Kernel;
use crate::skb::Skb;
use crate::{maps, route};

/// Let the next program, or else the stack, have the packet.
pub const TC_NEXT: i32 = -1;
/// The packet is gone.
pub const TC_DROP: i32 = 2;

/// Where an answer goes that a packet has turned into.
#[derive(Clone, Copy)]
enum Back {
    /// Into the endpoint behind the device, past the device's egress.
    Peer,
    /// Out of the device.
    Device,
}

#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    run(
        ctx.skb.skb,
        Direction::Egress,
        Back::Peer,
        axon_datapath::from_endpoint,
    )
}

#[classifier]
pub fn to_endpoint(ctx: TcContext) -> i32 {
    run(
        ctx.skb.skb,
        Direction::Ingress,
        Back::Device,
        axon_datapath::to_endpoint,
    )
}

#[classifier]
pub fn from_netdev(ctx: TcContext) -> i32 {
    run(
        ctx.skb.skb,
        Direction::Ingress,
        Back::Device,
        axon_datapath::from_netdev,
    )
}

#[classifier]
pub fn to_netdev(ctx: TcContext) -> i32 {
    run(
        ctx.skb.skb,
        Direction::Egress,
        Back::Device,
        axon_datapath::to_netdev,
    )
}

/// Runs a hook over the packet of `context`.
#[inline(always)]
fn run(
    context: *mut __sk_buff,
    direction: Direction,
    back: Back,
    hook: impl FnOnce(&mut Skb, &Kernel, &mut Scratch) -> Result<Verdict, DropReason>,
) -> i32 {
    let skb = Skb::from_context(context);
    // Neither can be missing: both maps have their one entry from the start.
    let (Some(kernel), Some(scratch)) = (Kernel::new(context), maps::SCRATCH.get_ptr_mut(0)) else {
        return TC_DROP;
    };
    // SAFETY: the CPU's own, and no other program of ours runs on it meanwhile.
    let scratch = unsafe { &mut *scratch };
    skb.pull_headers();
    let len = skb.len();
    // An instruction more, for tests of exchanging programs: no packet is that long.
    if cfg!(feature = "other-programs") && len == u32::MAX {
        return TC_DROP;
    }
    let mut direction = direction;
    let (action, reason) = match hook(skb, &kernel, scratch) {
        Ok(Verdict::Ignore) => return TC_NEXT,
        Ok(Verdict::Pass) => (TC_NEXT, 0),
        // SAFETY: helpers without preconditions.
        Ok(Verdict::RedirectPeer { ifindex }) => {
            (unsafe { bpf_redirect_peer(ifindex, 0) } as i32, 0)
        }
        Ok(Verdict::RedirectNeigh { ifindex }) => (route::send(ifindex, &scratch.next_hop), 0),
        Ok(Verdict::Reflect { dropped }) => {
            skb.mark_received();
            (reflect(skb, back), dropped.map_or(0, |reason| reason as u8))
        }
        Err(reason) => {
            direction = report_drop(skb, &kernel, scratch, reason);
            (TC_DROP, reason as u8)
        }
    };
    kernel.count(reason, direction, len);
    action
}

#[inline(always)]
fn reflect(skb: &Skb, back: Back) -> i32 {
    let ifindex = skb.ifindex();
    // SAFETY: helpers without preconditions.
    let action = unsafe {
        match back {
            Back::Peer => bpf_redirect_peer(ifindex, 0),
            Back::Device => bpf_redirect(ifindex, 0),
        }
    };
    action as i32
}
