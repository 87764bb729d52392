//! [`Tables`](axon_datapath::Tables) over the maps and helpers of the kernel.

use crate::maps;

/// Adds `n` to a counter that other CPUs add to as well.
#[inline(always)]
pub fn add(counter: *mut u64, n: u64) {
    // SAFETY: the pointer is to a live map value; a non-fetching atomic add is one instruction.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n);
    }
}

/// Counts one packet of `len` bytes.
#[inline(always)]
pub fn count(index: u32, len: u32) {
    if let Some(row) = maps::METRICS.get_ptr_mut(index) {
        // SAFETY: a per-CPU value, and nothing else runs on this CPU meanwhile.
        let row = unsafe { &mut *row };
        row.packets = row.packets.wrapping_add(1);
        row.bytes = row.bytes.wrapping_add(u64::from(len));
    }
}
