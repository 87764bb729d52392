//! What a packet costs at the least: programs that do as little as a design
//! like ours can do, and no more. Benchmarks hold the real ones against them;
//! nothing else loads them.
//!
//! They are no datapath: IPv4 without options only, one policy look-up, and no
//! bytes are checked that need not be.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_redirect_peer};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;

const PASS: i32 = 0;
const DROP: i32 = 2;
const IPV4: u16 = 0x0800_u16.to_be();
/// Identity of whom no row names.
const STRANGER: u32 = 2;
/// Addresses of the look-up measurements.
const SPREAD: u32 = 250_000;

/// Where an address is reached.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    ifindex: u32,
    mac: [u8; 6],
    gateway: [u8; 6],
}

/// A flow in one direction.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tuple {
    source: u32,
    destination: u32,
    ports: [u16; 2],
    protocol: u32,
}

/// What is kept of a flow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seen {
    packets: u64,
    bytes: u64,
    last_ns: u64,
}

/// Whom to which port.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rule {
    identity: u32,
    port: u16,
    direction: u16,
}

/// An IPv4 header behind its Ethernet header, and the ports.
#[repr(C, packed)]
struct Frame {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    ethertype: u16,
    version_ihl: u8,
    tos: u8,
    len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    ports: [u16; 2],
}

#[map(name = "floor_place")]
static PLACE: HashMap<u32, Place> = HashMap::with_max_entries(1024, 0);
#[map(name = "floor_identity")]
static IDENTITY: HashMap<u32, u32> = HashMap::with_max_entries(65_536, 0);
#[map(name = "floor_flow")]
static FLOW: LruHashMap<Tuple, Seen> = LruHashMap::with_max_entries(524_288, 0);
#[map(name = "floor_rule")]
static RULE: HashMap<Rule, u64> = HashMap::with_max_entries(16_384, 0);
#[map(name = "floor_count")]
static COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(4, 0);
#[map(name = "floor_exact")]
static EXACT: HashMap<[u32; 4], [u32; 6]> = HashMap::with_max_entries(524_288, BPF_F_NO_PREALLOC);
#[map(name = "floor_local")]
static LOCAL: HashMap<[u32; 4], [u32; 12]> = HashMap::with_max_entries(8192, 0);
#[map(name = "floor_key")]
static KEY: PerCpuArray<[u32; 5]> = PerCpuArray::with_max_entries(1, 0);
/// Without preallocation, as tries are.
#[map(name = "floor_trie")]
static TRIE: LpmTrie<[u32; 4], [u32; 6]> = LpmTrie::with_max_entries(524_288, 1);

/// The headers, if the packet has them.
#[inline(always)]
fn frame<'a>(ctx: &TcContext) -> Option<&'a mut Frame> {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context, its fields read once and whole.
    let start = unsafe { read_volatile(addr_of!((*skb).data)) } as usize;
    // SAFETY: as above.
    let end = unsafe { read_volatile(addr_of!((*skb).data_end)) } as usize;
    if start + size_of::<Frame>() > end {
        return None;
    }
    // SAFETY: within the packet; the type is packed, and any bytes are one.
    let frame = unsafe { &mut *(start as *mut Frame) };
    (frame.ethertype == IPV4 && frame.version_ihl == 0x45).then_some(frame)
}

#[inline(always)]
fn deliver(frame: &mut Frame, place: &Place) -> i32 {
    frame.destination_mac = place.mac;
    frame.source_mac = place.gateway;
    // SAFETY: a helper without preconditions.
    unsafe { bpf_redirect_peer(place.ifindex, 0) as i32 }
}

#[inline(always)]
fn place<'a>(destination: u32) -> Option<&'a Place> {
    // SAFETY: rows are written before packets run.
    PLACE.get_ptr(destination).map(|place| unsafe { &*place })
}

/// Nothing: what the harness itself costs.
#[classifier]
pub fn floor_empty(_: TcContext) -> i32 {
    PASS
}

/// One look-up, and into the peer.
#[classifier]
pub fn floor_peer(ctx: TcContext) -> i32 {
    let Some(frame) = frame(&ctx) else {
        return PASS;
    };
    let destination = frame.destination;
    match place(destination) {
        Some(place) => deliver(frame, place),
        None => PASS,
    }
}

/// The same with an identity, a flow, a policy for new ones, and a counter.
#[classifier]
pub fn floor_full(ctx: TcContext) -> i32 {
    let Some(frame) = frame(&ctx) else {
        return PASS;
    };
    let tuple = Tuple {
        source: frame.source,
        destination: frame.destination,
        ports: frame.ports,
        protocol: u32::from(frame.protocol),
    };
    let Some(place) = place(tuple.destination) else {
        return PASS;
    };
    // SAFETY: a row is one word.
    let identity = IDENTITY.get_ptr(tuple.source).map(|row| unsafe { *row });
    let len = u64::from(ctx.len());
    if !known(&tuple, len) && !admit(&tuple, identity.unwrap_or(STRANGER), len) {
        return DROP;
    }
    if let Some(count) = COUNT.get_ptr_mut(1) {
        // SAFETY: the CPU's own.
        unsafe { *count += 1 };
    }
    deliver(frame, place)
}

#[inline(always)]
fn known(tuple: &Tuple, len: u64) -> bool {
    let back = Tuple {
        source: tuple.destination,
        destination: tuple.source,
        ports: [tuple.ports[1], tuple.ports[0]],
        protocol: tuple.protocol,
    };
    let Some(seen) = FLOW.get_ptr_mut(tuple).or_else(|| FLOW.get_ptr_mut(&back)) else {
        return false;
    };
    // SAFETY: a live map value; sums may race, they are only a price here.
    let seen = unsafe { &mut *seen };
    seen.packets += 1;
    seen.bytes += len;
    // SAFETY: a helper without preconditions.
    seen.last_ns = unsafe { bpf_ktime_get_ns() };
    true
}

#[inline(always)]
fn admit(tuple: &Tuple, identity: u32, len: u64) -> bool {
    let mut rule = Rule {
        identity,
        port: tuple.ports[1],
        direction: 0,
    };
    if RULE.get_ptr(rule).is_none() {
        rule.port = 0;
        if RULE.get_ptr(rule).is_none() {
            rule.identity = 0;
            if RULE.get_ptr(rule).is_none() {
                return false;
            }
        }
    }
    let seen = Seen {
        packets: 1,
        bytes: len,
        // SAFETY: a helper without preconditions.
        last_ns: unsafe { bpf_ktime_get_ns() },
    };
    FLOW.insert(tuple, seen, 0).is_ok()
}

/// One of many addresses, as the benchmark has written them, behind the bits
/// of a prefix: the key of a trie, and without its first word that of a hash.
/// Not on the stack, where half words may not be stored across.
#[inline(always)]
fn address() -> Option<&'static mut [u32; 5]> {
    // SAFETY: a helper without preconditions.
    let n = unsafe { bpf_get_prandom_u32() } % SPREAD;
    let key = KEY.get_ptr_mut(0)?;
    // SAFETY: the CPU's own.
    let key = unsafe { &mut *key };
    let last = n.wrapping_add(1).wrapping_mul(0x9e37_79b1);
    *key = [128, 0, 0, 0xffff_0000, last];
    Some(key)
}

/// The key of a hash in that of a trie.
#[inline(always)]
fn exact(key: &[u32; 5]) -> &[u32; 4] {
    // SAFETY: the last four of five words.
    unsafe { &*key.as_ptr().add(1).cast() }
}

/// Making the address, without a look-up.
#[classifier]
pub fn look_base(_: TcContext) -> i32 {
    address().map_or(DROP, |key| i32::from(key[4] == 0))
}

/// As the datapath asks who an address is: no endpoint here, but a row.
#[classifier]
pub fn look_exact(_: TcContext) -> i32 {
    let Some(key) = address() else {
        return DROP;
    };
    let key = exact(key);
    i32::from(LOCAL.get_ptr(key).is_some() || EXACT.get_ptr(key).is_none())
}

/// The same of one trie.
#[classifier]
pub fn look_trie(_: TcContext) -> i32 {
    let Some(key) = address() else {
        return DROP;
    };
    // SAFETY: `Key` is packed: the bits, then the address.
    let key = unsafe { &*key.as_ptr().cast::<Key<[u32; 4]>>() };
    i32::from(TRIE.get(key).is_none())
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
