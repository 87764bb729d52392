//! Copies of endpoints' rows, each CPU's own: found by index, without hashing.
//!
//! A copy holds for one version of the tables, an odd one. Whoever writes rows
//! makes it even before, so that nothing is copied nor asked of copies, and odd
//! after, another: what was copied under a version that is in force is what the
//! tables say. Should the writer die in between, the tables are asked until
//! somebody else has written.

use core::ptr::read_volatile;

use axon_abi::{EndpointRow, IpKey};
use aya_ebpf::Global;
use aya_ebpf::maps::{HashMap, PerCpuArray};

use crate::kernel::lend;
use crate::maps;

/// 1 if CPUs of this kind load in the order of the program. Others could find
/// the version before a change and the row after it, or the other way round: a
/// row of before would stand under the version of after.
#[unsafe(no_mangle)]
static FEATURE_ORDERED_LOADS: Global<u32> = Global::new(1);

/// Copies of each kind on each CPU. Beyond them, and where two endpoints share
/// a place, the tables are asked.
pub const COPIES: u32 = 512;

/// A row as it was under a version.
#[repr(C)]
pub struct Copied<K> {
    version: u32,
    key: K,
    row: EndpointRow,
}

/// The endpoint behind a host-side device.
#[inline(always)]
pub fn by_device<'a>(ifindex: u32) -> Option<&'a EndpointRow> {
    find(
        &maps::BY_DEVICE,
        &maps::ENDPOINT,
        ifindex,
        &ifindex,
        |a, b| a == b,
    )
}

/// The endpoint of this node that has an address.
#[inline(never)]
pub fn by_address<'a>(addr: &IpKey) -> Option<&'a EndpointRow> {
    // A node's addresses differ in what comes last; IPv4's have a half of their own.
    let [_, _, _, _, _, _, _, _, _, _, family, .., low] = addr.0;
    let index = u32::from(low) | u32::from(family & 1) << 8;
    find(&maps::BY_ADDRESS, &maps::ADDRESS, index, addr, |a, b| {
        halves(a) == halves(b)
    })
}

/// An address in two words, to be compared without a call.
#[inline(always)]
fn halves(addr: &IpKey) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
    (
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    )
}

#[inline(always)]
fn find<'a, K: Copy>(
    copies: &PerCpuArray<Copied<K>>,
    rows: &HashMap<K, EndpointRow>,
    index: u32,
    key: &K,
    same: impl Fn(&K, &K) -> bool,
) -> Option<&'a EndpointRow> {
    // Neither can be missing: the maps have these entries from the start. The version is read
    // before the row: another CPU may be changing both.
    let version = maps::ROWS_VERSION.get(0).map(|version| {
        // SAFETY: a live map value.
        unsafe { read_volatile(version) }
    })?;
    let copy = copies.get_ptr_mut(index % COPIES)?;
    // SAFETY: the CPU's own, and no other program of ours runs on it meanwhile; what an earlier
    // call lent is not asked for any more (`Tables::own_endpoint`, `Tables::receiver`).
    let copy = unsafe { &mut *copy };
    if FEATURE_ORDERED_LOADS.load() == 0
        || version & 1 == 0
        || copy.version != version
        || !same(&copy.key, key)
    {
        // An even version is noted as it is, and so is never found again. What is lent is always
        // the copy, so that the verifier walks what follows once.
        let row = lend(rows.get_ptr(key))?;
        copy.version = version;
        copy.key = *key;
        copy.row = *row;
    }
    Some(&copy.row)
}
