//! The kernel programs: wrap the context, call the datapath, turn its verdict
//! into an action, a counter and an event. No decision is made here.
//!
//! ```text
//!  device ── stub_<hook> ── tail call by generation ──> <hook> ── datapath ──> action
//! ```
//!
//! What the verifier wants to see is the business of `skb` (packet access) and
//! `kernel` (maps); see docs/decisions/0001.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![deny(unsafe_op_in_unsafe_fn)]

mod copies;
mod entry;
mod kernel;
mod maps;
mod route;
mod services;
mod skb;
mod socket;
mod stub;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Said to be unreachable, a panic that is reachable would be compiled away, and the check of
    // the build, which looks for what calls this, would find nothing.
    loop {}
}
