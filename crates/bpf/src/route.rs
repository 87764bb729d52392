//! The node's routes, asked through the kernel's own look-up.

use core::ffi::c_int;

use crate::entry::TC_DROP;
use crate::skb::window;
use axon_abi::IpKey;
use axon_datapath::{NextHop, Route, RouteQuery};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Results of the look-up (`BPF_FIB_LKUP_RET_*`). A neighbour that is not
/// known yet is no obstacle: it is resolved when the packet is sent.
mod found {
    pub const SUCCESS: i64 = 0;
    pub const BLACKHOLE: i64 = 1;
    pub const UNREACHABLE: i64 = 2;
    pub const PROHIBIT: i64 = 3;
    pub const NO_NEIGH: i64 = 7;
    pub const FRAG_NEEDED: i64 = 8;
}

/// `struct bpf_fib_lookup` in whole words.
#[repr(C)]
struct Params {
    /// Address family, protocol, source port.
    family: u32,
    /// Destination port; in the upper half, in: 0, so that the device's own
    /// limit is checked, out: that limit.
    mtu: u32,
    ifindex: u32,
    tos: u32,
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    macs: [u32; 3],
}

const _: () = assert!(size_of::<Params>() == 64);

/// An address in four words as they stand in memory.
#[inline(always)]
fn words(addr: &IpKey) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// Asks the routes; a next hop is left in `next_hop`.
#[inline(never)]
pub fn look_up(skb: *mut __sk_buff, query: &RouteQuery<'_>, next_hop: &mut NextHop) -> Route {
    let Some(params) = window::<Params>() else {
        return Route::Stack;
    };
    // SAFETY: the window has room for `Params`, is aligned, and is this CPU's own.
    let params = unsafe { &mut *params };
    let (source, destination) = (words(query.source), words(query.destination));
    *params = Params {
        family: AF_INET6,
        mtu: 0,
        ifindex: query.ifindex,
        tos: 0,
        source,
        destination,
        vlan: 0,
        macs: [0; 3],
    };
    if !query.ipv6 {
        params.family = AF_INET;
        params.source = [source[3], 0, 0, 0];
        params.destination = [destination[3], 0, 0, 0];
    }
    let len = size_of::<Params>() as c_int;
    let pointer = (&raw mut *params).cast();
    // SAFETY: `params` has the size and layout of `struct bpf_fib_lookup`.
    let result = unsafe { bpf_fib_lookup(skb.cast(), pointer, len, 0) };
    match result {
        found::SUCCESS | found::NO_NEIGH => {
            next_hop.addr = hop(params);
            Route::Via {
                ifindex: params.ifindex,
            }
        }
        found::FRAG_NEEDED => Route::TooBig {
            mtu: params.mtu >> 16,
        },
        found::BLACKHOLE | found::UNREACHABLE | found::PROHIBIT => Route::Unreachable,
        _ => Route::Stack,
    }
}

/// The next hop's address: an IPv4 route may go through an IPv6 neighbour.
#[inline(always)]
fn hop(params: &Params) -> IpKey {
    let [a, b, c, d] = params.destination.map(u32::to_ne_bytes);
    if params.family & 0xff == AF_INET {
        return IpKey::from_v4(a);
    }
    let [a0, a1, a2, a3] = a;
    let [b0, b1, b2, b3] = b;
    let [c0, c1, c2, c3] = c;
    let [d0, d1, d2, d3] = d;
    IpKey([
        a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
    ])
}

/// Sends the packet out of a device, towards a neighbour.
#[inline(never)]
pub fn send(ifindex: u32, next_hop: &NextHop) -> i32 {
    let Some(params) = window::<[u32; 5]>() else {
        return TC_DROP;
    };
    // SAFETY: the window has room for `struct bpf_redir_neigh`, is aligned, and is this CPU's own.
    let params = unsafe { &mut *params };
    // The family, then the address.
    let [a, b, c, d] = words(&next_hop.addr);
    *params = if next_hop.addr.is_v4() {
        [AF_INET, d, 0, 0, 0]
    } else {
        [AF_INET6, a, b, c, d]
    };
    let len = size_of_val(params) as c_int;
    let pointer = (&raw mut *params).cast();
    // SAFETY: `params` has the size and layout of `struct bpf_redir_neigh`.
    unsafe { bpf_redirect_neigh(ifindex, pointer, len, 0) as i32 }
}
