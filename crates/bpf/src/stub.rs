//! The stubs: the only programs that hang on devices. They call the program
//! of the generation in force, so that one write to `axon_generation_v1`
//! switches every device at once.

use axon_abi::{Direction, DropReason, Hook, metrics_index, program_slot};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::entry::{TC_DROP, TC_NEXT};
use crate::{kernel, maps};

/// What a stub does with a packet when the hook has no program.
#[derive(Clone, Copy)]
enum Missing {
    /// An endpoint without its program is cut off: nobody else enforces.
    Drop(Direction),
    /// The uplink stays open: endpoints' policy is enforced at their devices, and
    /// a node that nobody could reach could not be mended.
    Next,
}

#[inline(always)]
fn call(ctx: &TcContext, hook: Hook, missing: Missing) -> i32 {
    let generation = maps::GENERATION.get(0).copied().unwrap_or(0);
    // SAFETY: the context is the program's own.
    unsafe { maps::PROGRAMS.tail_call(ctx, program_slot(generation, hook)) };
    match missing {
        Missing::Drop(direction) => {
            kernel::count(
                metrics_index(DropReason::MissedTailCall as u8, direction),
                ctx.len(),
            );
            TC_DROP
        }
        Missing::Next => TC_NEXT,
    }
}

#[classifier]
pub fn stub_from_endpoint(ctx: TcContext) -> i32 {
    call(&ctx, Hook::FromEndpoint, Missing::Drop(Direction::Egress))
}

#[classifier]
pub fn stub_to_endpoint(ctx: TcContext) -> i32 {
    call(&ctx, Hook::ToEndpoint, Missing::Drop(Direction::Ingress))
}

#[classifier]
pub fn stub_from_netdev(ctx: TcContext) -> i32 {
    call(&ctx, Hook::FromNetdev, Missing::Next)
}

#[classifier]
pub fn stub_to_netdev(ctx: TcContext) -> i32 {
    call(&ctx, Hook::ToNetdev, Missing::Next)
}
