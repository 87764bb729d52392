//! The kernel programs: wrap the context, call the datapath, turn its verdict
//! into an action.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod kernel;
mod maps;
mod stub;

use aya_ebpf::{macros::classifier, programs::TcContext};

/// Let the next program or the stack see the packet.
const TC_NEXT: i32 = -1;
const TC_DROP: i32 = 2;

#[classifier]
pub fn from_endpoint(_ctx: TcContext) -> i32 {
    TC_NEXT
}
#[classifier]
pub fn to_endpoint(_ctx: TcContext) -> i32 {
    TC_NEXT
}
#[classifier]
pub fn from_netdev(_ctx: TcContext) -> i32 {
    TC_NEXT
}
#[classifier]
pub fn to_netdev(_ctx: TcContext) -> i32 {
    TC_NEXT
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: no panic is reachable; the build checks that this is not linked in.
    unsafe { core::hint::unreachable_unchecked() }
}
