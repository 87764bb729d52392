//! [`Packet`] over the kernel's socket buffer.
//!
//! Headers at constant offsets are looked at where they lie; whatever is at a
//! varying offset goes through helpers, which need no proof of bounds.

use core::cell::UnsafeCell;
use core::ptr::{addr_of, addr_of_mut, from_ref, read_volatile, write_volatile};

use axon_datapath::{Checksum, Packet};
use aya_ebpf::Global;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{
    bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
    bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};

use crate::maps;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// 1 if `bpf_l4_csum_replace` must be told of IPv6 (Linux 6.16).
#[unsafe(no_mangle)]
static FEATURE_CSUM_IPV6: Global<u32> = Global::new(0);

const BPF_F_RECOMPUTE_CSUM: u64 = 1;
const BPF_F_PSEUDO_HDR: u64 = 1 << 4;
const BPF_F_MARK_MANGLED_0: u64 = 1 << 5;
const BPF_F_IPV6: u64 = 1 << 7;
const BPF_ADJ_ROOM_MAC: u32 = 1;
const PACKET_HOST: u32 = 0;

/// The part of the mark that says what was done to a packet, and its value where
/// its source is translated: Cilium's (`MARK_MAGIC_SNAT_DONE`).
const MARK_MASK: u32 = 0x0f00;
const MARK_SERVED: u32 = 0x0300;

/// A packet in the kernel. The reference *is* the program's context pointer;
/// the type has no size, so that nothing is ever read through the reference
/// itself.
#[repr(transparent)]
pub struct Skb(UnsafeCell<[u8; 0]>);

/// Bytes that are moved between the packet and the program in one go.
pub const WINDOW_LEN: usize = 64;

/// Room for what is moved. It is no local variable: fields of headers are not
/// aligned, and the verifier wants the stack, unlike maps and packets,
/// accessed aligned.
#[inline(always)]
pub fn window<T>() -> Option<*mut T> {
    const { assert!(size_of::<T>() <= WINDOW_LEN) };
    maps::WINDOW.get_ptr_mut(0).map(<*mut _>::cast)
}

/// Reads a field of the context: exactly one load of its own width, as the
/// verifier demands.
macro_rules! field {
    ($skb:expr, $field:ident) => {{
        let raw = $skb.raw();
        // SAFETY: the pointer is the program's context.
        let field = unsafe { addr_of!((*raw).$field) };
        // SAFETY: as above; the field is readable in tc programs.
        unsafe { read_volatile(field) }
    }};
}

impl Skb {
    /// The packet of a program's context.
    #[inline(always)]
    pub fn from_context<'a>(context: *mut __sk_buff) -> &'a mut Self {
        // SAFETY: the context lives as long as the program runs, and this is its only user.
        unsafe { &mut *context.cast::<Self>() }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        from_ref(self).cast_mut().cast()
    }

    /// Makes the headers that every packet has lie in one piece.
    #[inline(always)]
    pub fn pull_headers(&mut self) {
        const IPV6: u32 = 0x86dd_u16.to_be() as u32;
        // Ethernet, IP without options, TCP without options.
        let want = if field!(self, protocol) == IPV6 {
            74
        } else {
            54
        };
        let linear = field!(self, data_end).wrapping_sub(field!(self, data));
        let len = self.len();
        if linear < want && linear < len {
            // SAFETY: the context is the program's own; failure shows when a header is not there.
            unsafe { bpf_skb_pull_data(self.raw(), if len < want { len } else { want }) };
        }
    }

    /// Says that the packet is for whoever receives it.
    #[inline(always)]
    pub fn mark_received(&mut self) {
        // SAFETY: the context is the program's own.
        unsafe { bpf_skb_change_type(self.raw(), PACKET_HOST) };
    }

    /// The address of `len` bytes at `at`, if they are there.
    #[inline(always)]
    fn at(&self, at: usize, len: usize) -> Option<*mut u8> {
        let start = field!(self, data) as usize;
        let end = field!(self, data_end) as usize;
        if start + (at + len) > end {
            return None;
        }
        Some((start + at) as *mut u8)
    }

    #[inline(always)]
    fn write<T: Immutable + IntoBytes>(&mut self, at: u32, value: &T, flags: u64) -> Option<()> {
        let window = window::<T>()?;
        // SAFETY: the window has room for a `T`, wherever it lies, and is this CPU's own.
        unsafe {
            window
                .cast::<u8>()
                .copy_from(from_ref(value).cast(), size_of::<T>())
        };
        let bytes = window.cast();
        // SAFETY: the window is readable for the size of a `T`.
        let done =
            unsafe { bpf_skb_store_bytes(self.raw(), at, bytes, size_of::<T>() as u32, flags) };
        (done == 0).then_some(())
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        field!(self, len)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        field!(self, ifindex)
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        field!(self, ingress_ifindex)
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        field!(self, gso_size)
    }

    #[inline(always)]
    fn vlan(&self) -> Option<u16> {
        const ID: u32 = 0xfff;
        if field!(self, vlan_present) == 0 {
            return None;
        }
        Some((field!(self, vlan_tci) & ID) as u16)
    }

    #[inline(always)]
    fn is_served(&self) -> bool {
        field!(self, mark) & MARK_MASK == MARK_SERVED
    }

    #[inline(always)]
    fn set_served(&mut self) {
        let mark = field!(self, mark) & !MARK_MASK | MARK_SERVED;
        let raw = self.raw();
        // SAFETY: the pointer is the program's context.
        let field = unsafe { addr_of_mut!((*raw).mark) };
        // SAFETY: as above; the field is writable in tc programs.
        unsafe { write_volatile(field, mark) };
    }

    #[inline(always)]
    fn view<T>(&self, at: usize) -> Option<&T>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        let start = self.at(at, size_of::<T>())?;
        // SAFETY: the bytes are within the packet, any bytes are a `T`, wherever they lie; the
        // borrow ends before anything can move them.
        Some(unsafe { &*start.cast::<T>() })
    }

    #[inline(always)]
    fn edit<T>(&mut self, at: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + KnownLayout + Unaligned,
    {
        let start = self.at(at, size_of::<T>())?;
        // SAFETY: as in `view`; the borrow is exclusive.
        Some(unsafe { &mut *start.cast::<T>() })
    }

    #[inline(always)]
    fn load<T>(&self, at: u32) -> Option<T>
    where
        T: FromBytes + IntoBytes,
    {
        let window = window::<T>()?;
        let skb = self.raw().cast_const().cast();
        // SAFETY: the window is writable for the size of a `T`.
        let done = unsafe { bpf_skb_load_bytes(skb, at, window.cast(), size_of::<T>() as u32) };
        if done != 0 {
            return None;
        }
        // SAFETY: the helper has filled in every byte, and any bytes are a `T`.
        Some(unsafe { window.read_unaligned() })
    }

    #[inline(always)]
    fn store<T>(&mut self, at: u32, value: &T) -> Option<()>
    where
        T: IntoBytes + Immutable,
    {
        self.write(at, value, 0)
    }

    #[inline(always)]
    fn store_uncovered<T>(&mut self, at: u32, value: &T) -> Option<()>
    where
        T: IntoBytes + Immutable,
    {
        self.write(at, value, BPF_F_RECOMPUTE_CSUM)
    }

    #[inline(always)]
    fn fix_ip_checksum(&mut self, at: u32, difference: u32) -> Option<()> {
        // SAFETY: the context is the program's own.
        let done = unsafe { bpf_l3_csum_replace(self.raw(), at, 0, u64::from(difference), 0) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn fix_l4_checksum(&mut self, at: u32, difference: u32, how: Checksum) -> Option<()> {
        let mut flags = 0;
        if how.pseudo {
            flags |= BPF_F_PSEUDO_HDR;
        }
        if how.zero_is_none {
            flags |= BPF_F_MARK_MANGLED_0;
        }
        if how.pseudo && how.ipv6 && FEATURE_CSUM_IPV6.load() != 0 {
            flags |= BPF_F_IPV6;
        }
        // SAFETY: the context is the program's own.
        let done = unsafe { bpf_l4_csum_replace(self.raw(), at, 0, u64::from(difference), flags) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn make_room(&mut self, keep: u32, room: u32) -> Option<()> {
        if keep < self.len() {
            // SAFETY: the context is the program's own.
            let done = unsafe { bpf_skb_change_tail(self.raw(), keep, 0) };
            if done != 0 {
                return None;
            }
        }
        if room == 0 {
            return Some(());
        }
        // SAFETY: the context is the program's own.
        let done = unsafe { bpf_skb_adjust_room(self.raw(), room as i32, BPF_ADJ_ROOM_MAC, 0) };
        (done == 0).then_some(())
    }
}
