//! [`Tables`] over the maps and helpers of the kernel.
//!
//! Map values are lent as references. Other CPUs, and user space, may write
//! them at the same time: a torn read of a row is what every BPF program lives
//! with. Sums of a flow may miss a packet when two CPUs carry one direction of
//! it; the metrics, which each CPU counts apart, miss none.

use core::arch::asm;
use core::ptr::from_ref;

use axon_abi::{
    ClassKey, CtEntry, CtKey4, CtKey6, Direction, EndpointRow, EventRecord, FragmentKey,
    FragmentPorts, Identity, IpKey, IpcacheRow, LpmKey, NatEntry, NatKey, PolicyEntry, PolicyKey,
    PolicySetRow, RuntimeConfig, ServiceFlow, ServiceFlowKey, metrics_index,
};
use axon_datapath::{NextHop, Route, RouteQuery, Tables};
use aya_ebpf::Global;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::maps::lpm_trie::Key;

use crate::services::Services;
use crate::{copies, maps, route};

/// 1 if the kernel has the coarse clock (Linux 5.11); the exact one costs ten
/// times as much.
#[unsafe(no_mangle)]
static FEATURE_COARSE_CLOCK: Global<u32> = Global::new(1);

pub const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;
/// The kernel wakes the reader by the first record that it has not seen, and no
/// more while it lingers; beside that it is woken each time that so many bytes
/// more are unread. Not by every record beyond: each wake-up costs a packet as
/// much as a whole decision.
const WAKE_BYTES: u64 = 64 * 1024;
/// Records of several CPUs may step over the very byte; one of these does not.
const WAKE_WINDOW: u64 = 1024;

/// The kernel as one packet sees it.
pub struct Kernel {
    skb: *mut __sk_buff,
    config: &'static RuntimeConfig,
    now_ns: u64,
}

impl Kernel {
    /// Reads the configuration and the clock, once per packet.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Option<Self> {
        let config = maps::CONFIG.get(0)?;
        Some(Self {
            skb,
            config,
            now_ns: now_ns(),
        })
    }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: helpers without preconditions; what the kernel lacks is pruned by the verifier.
    unsafe {
        if FEATURE_COARSE_CLOCK.load() != 0 {
            bpf_ktime_get_coarse_ns()
        } else {
            bpf_ktime_get_ns()
        }
    }
}

/// Lends a map value for reading.
#[inline(always)]
pub fn lend<'a, T>(value: Option<*const T>) -> Option<&'a T> {
    // SAFETY: map values stay readable until the program ends, even if removed meanwhile.
    value.map(|value| unsafe { &*value })
}

/// Lends a map value for writing.
#[inline(always)]
fn lend_mut<'a, T>(value: Option<*mut T>) -> Option<&'a mut T> {
    // SAFETY: as in `lend`; each program looks an entry up once at a time.
    value.map(|value| unsafe { &mut *value })
}

/// The key of a trie, as Aya has it: the same 20 bytes.
#[inline(always)]
fn lpm(key: &LpmKey) -> &Key<IpKey> {
    const _: () = assert!(size_of::<Key<IpKey>>() == size_of::<LpmKey>());
    // SAFETY: both are a `u32` and the address, without padding; `Key` is packed.
    unsafe { &*from_ref(key).cast() }
}

impl Tables for Kernel {
    type Ct<'a> = &'a mut CtEntry;
    type Nat<'a> = &'a mut NatEntry;
    type ServiceFlow<'a> = &'a mut ServiceFlow;
    type Services = Services;
    const SERVES: bool = true;

    #[inline(always)]
    fn config(&self) -> &RuntimeConfig {
        self.config
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointRow> {
        lend(maps::ENDPOINT.get_ptr(ifindex))
    }

    #[inline(always)]
    fn own_endpoint(&self, ifindex: u32) -> Option<&EndpointRow> {
        copies::by_device(ifindex)
    }

    #[inline(always)]
    fn uplink(&self, ifindex: u32) -> bool {
        maps::UPLINK.get_ptr(ifindex).is_some()
    }

    #[inline(always)]
    fn address(&self, addr: &IpKey) -> Option<&EndpointRow> {
        lend(maps::ADDRESS.get_ptr(addr))
    }

    #[inline(always)]
    fn receiver(&self, addr: &IpKey) -> Option<&EndpointRow> {
        copies::by_address(addr)
    }

    #[inline(always)]
    fn ipcache(&self, addr: &IpKey) -> Option<&IpcacheRow> {
        lend(maps::IPCACHE.get_ptr(addr))
    }

    #[inline(always)]
    fn ipcache_cidr(&self, key: &LpmKey) -> Option<&IpcacheRow> {
        maps::IPCACHE_CIDR.get(lpm(key))
    }

    #[inline(always)]
    fn identity_known(&self, identity: Identity) -> bool {
        maps::IDENTITY.get_ptr(identity.0).is_some()
    }

    #[inline(always)]
    fn policy_set(&self, set: u32) -> Option<&PolicySetRow> {
        lend(maps::POLICY_SET.get_ptr(set))
    }

    #[inline(always)]
    fn class(&self, key: &ClassKey) -> Option<u32> {
        lend(maps::CLASS.get_ptr(key)).map(|row| row.class)
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        lend(maps::POLICY.get_ptr(key))
    }

    #[inline(always)]
    fn ct4(&self, key: &CtKey4) -> Option<&mut CtEntry> {
        lend_mut(maps::CT4.get_ptr_mut(key))
    }

    #[inline(always)]
    fn ct6(&self, key: &CtKey6) -> Option<&mut CtEntry> {
        lend_mut(maps::CT6.get_ptr_mut(key))
    }

    #[inline(always)]
    fn ct4_insert(&self, key: &CtKey4, entry: &CtEntry) -> bool {
        maps::CT4.insert(key, entry, BPF_ANY).is_ok()
    }

    #[inline(always)]
    fn ct6_insert(&self, key: &CtKey6, entry: &CtEntry) -> bool {
        maps::CT6.insert(key, entry, BPF_ANY).is_ok()
    }

    #[inline(always)]
    fn ct_count(&self, owner: u16) -> u32 {
        maps::CT_COUNT.get(u32::from(owner)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn ct_count_add(&self, owner: u16) -> u32 {
        let Some(count) = maps::CT_COUNT.get_ptr_mut(u32::from(owner)) else {
            return 0;
        };
        // SAFETY: the pointer is to a live map value.
        let before = unsafe { count.read_volatile() };
        // SAFETY: the pointer is to a live map value.
        unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) count, in(wreg) 1u32) };
        before
    }

    #[inline(always)]
    fn nat(&self, key: &NatKey) -> Option<&mut NatEntry> {
        lend_mut(maps::NAT.get_ptr_mut(key))
    }

    #[inline(always)]
    fn nat_insert(&self, key: &NatKey, entry: &NatEntry) -> bool {
        maps::NAT.insert(key, entry, BPF_ANY).is_ok()
    }

    #[inline(always)]
    fn nat_create(&self, key: &NatKey, entry: &NatEntry) -> bool {
        maps::NAT.insert(key, entry, BPF_NOEXIST).is_ok()
    }

    #[inline(always)]
    fn no_masquerade(&self, key: &LpmKey) -> bool {
        maps::NOMASQ.get(lpm(key)).is_some()
    }

    #[inline(always)]
    fn services(&self) -> &Services {
        &Services
    }

    #[inline(always)]
    fn service_flow(&self, key: &ServiceFlowKey) -> Option<&mut ServiceFlow> {
        lend_mut(maps::SERVICE_FLOW.get_ptr_mut(key))
    }

    #[inline(always)]
    fn service_flow_insert(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool {
        maps::SERVICE_FLOW.insert(key, flow, BPF_ANY).is_ok()
    }

    #[inline(always)]
    fn service_flow_create(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool {
        maps::SERVICE_FLOW.insert(key, flow, BPF_NOEXIST).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        lend(maps::FRAGMENT.get_ptr(key)).copied()
    }

    #[inline(always)]
    fn fragment_insert(&self, key: &FragmentKey, ports: &FragmentPorts) {
        // A full map evicts; a datagram that loses its place is sent again.
        let _ = maps::FRAGMENT.insert(key, ports, BPF_ANY);
    }

    #[inline(always)]
    fn icmp_spoken_for(&self, owner: u16, next: impl FnOnce(u64) -> Option<u64>) -> bool {
        let Some(time) = maps::ICMP_LIMIT.get_ptr_mut(u32::from(owner)) else {
            return false;
        };
        // SAFETY: the pointer is to a live map value. Two CPUs at once may count one error.
        let time = unsafe { &mut *time };
        match next(*time) {
            Some(next) => {
                *time = next;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery<'_>, next_hop: &mut NextHop) -> Route {
        route::look_up(self.skb, query, next_hop)
    }

    #[inline(always)]
    fn add(counter: &mut u64, n: u64) {
        // Not atomic, which would cost an established flow a twentieth: one direction of a flow
        // is nearly always one CPU's, and these sums are shown, never decided by. What must be
        // exact (the metrics) is counted for each CPU apart.
        *counter = counter.wrapping_add(n);
    }

    #[inline(always)]
    fn count(&self, reason: u8, direction: Direction, len: u32) {
        count(metrics_index(reason, direction), len);
    }

    #[inline(always)]
    fn emit(&self, event: &EventRecord) {
        let unread = maps::EVENTS.query(BPF_RB_AVAIL_DATA);
        let wake = if unread >= WAKE_BYTES && unread % WAKE_BYTES < WAKE_WINDOW {
            BPF_RB_FORCE_WAKEUP
        } else {
            0
        };
        if maps::EVENTS.output::<EventRecord>(event, wake).is_err()
            && let Some(lost) = maps::LOST.get_ptr_mut(0)
        {
            // SAFETY: a per-CPU value, and nothing else runs on this CPU meanwhile.
            unsafe { *lost += 1 };
        }
    }
}

/// Counts one packet of `len` bytes.
#[inline(always)]
pub fn count(index: u32, len: u32) {
    let index = opaque(index, len);
    if let Some(row) = maps::METRICS.get_ptr_mut(index) {
        // SAFETY: a per-CPU value, and nothing else runs on this CPU meanwhile.
        let row = unsafe { &mut *row };
        row.packets = row.packets.wrapping_add(1);
        row.bytes = row.bytes.wrapping_add(u64::from(len));
    }
}

/// Counts something without bytes, where a program may be interrupted by one that
/// counts the same.
#[inline(always)]
pub fn count_whole(index: u32) {
    if let Some(row) = maps::METRICS.get_ptr_mut(index) {
        // SAFETY: the pointer is to a live map value, of which the field is a part.
        let packets = unsafe { &raw mut (*row).packets };
        // SAFETY: the pointer is to a live map value.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) packets, in(reg) 1u64) };
    }
}

/// A number of which the verifier knows nothing any more: else it walks what
/// follows once for each value that the number may have.
#[inline(always)]
fn opaque(n: u32, unknown: u32) -> u32 {
    let mut n = n;
    // SAFETY: arithmetic on registers; `unknown` less itself is 0, which the verifier cannot tell.
    unsafe {
        asm!(
            "{t} -= {t}",
            "{n} += {t}",
            t = inout(wreg) unknown => _,
            n = inout(wreg) n,
            options(pure, nomem, nostack)
        );
    }
    n
}
