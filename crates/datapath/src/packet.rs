//! A packet, as the datapath sees it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How a checksum reacts to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The changed bytes are part of the pseudo header (RFC 9293 section 3.1).
    pub pseudo: bool,
    /// Zero means "none" and must neither be changed nor come out (RFC 768).
    pub zero_is_none: bool,
    /// The packet is IPv6.
    pub ipv6: bool,
}

/// A packet from its Ethernet header on. Offsets count from there.
///
/// Views borrow the packet, so none outlives a change of its layout.
pub trait Packet {
    /// Bytes, from the Ethernet header on.
    fn len(&self) -> u32;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device the packet is seen on.
    fn ifindex(&self) -> u32;

    /// The device that the node got the packet by; 0 if it is the node's own.
    fn ingress_ifindex(&self) -> u32;

    /// Payload bytes of each segment, if this is an aggregate of several.
    fn gso_size(&self) -> u32;

    /// The VLAN ID of the packet's tag, if it carries one; 0 tells a priority alone
    /// (IEEE 802.1Q section 9.6), and the packet is in no VLAN.
    fn vlan(&self) -> Option<u16>;

    /// Whether the packet is one of a VLAN.
    #[inline(always)]
    fn in_vlan(&self) -> bool {
        self.vlan().is_some_and(|id| id != 0)
    }

    /// Whether a service has given the packet the source that it has: then nobody
    /// else gives it another, or holds it to what is asked of the node.
    fn is_served(&self) -> bool;

    /// Says so, to the hook of the device that the packet leaves by.
    fn set_served(&mut self);

    /// The header at `at`, in place. `at` must be a constant; the kernel
    /// verifies access at constant offsets only.
    fn view<T>(&self, at: usize) -> Option<&T>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned;

    /// As [`Packet::view`], for writing. Checksums are the caller's affair.
    fn edit<T>(&mut self, at: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + KnownLayout + Unaligned;

    /// A copy of what is at `at`, which may vary.
    fn load<T>(&self, at: u32) -> Option<T>
    where
        T: FromBytes + IntoBytes;

    /// Overwrites what is at `at`; some checksum field of the packet is
    /// changed along with it.
    fn store<T>(&mut self, at: u32, value: &T) -> Option<()>
    where
        T: IntoBytes + Immutable;

    /// Overwrites what is at `at`, where no checksum field makes up for it
    /// (the hop limit of IPv6): what the device has summed up changes.
    fn store_uncovered<T>(&mut self, at: u32, value: &T) -> Option<()>
    where
        T: IntoBytes + Immutable;

    /// Adjusts the IPv4 header checksum at `at` by a difference of
    /// `checksum::difference`.
    fn fix_ip_checksum(&mut self, at: u32, difference: u32) -> Option<()>;

    /// Adjusts the transport checksum at `at`.
    fn fix_l4_checksum(&mut self, at: u32, difference: u32, how: Checksum) -> Option<()>;

    /// Cuts the packet to `keep` bytes and opens `room` bytes behind the
    /// Ethernet header.
    fn make_room(&mut self, keep: u32, room: u32) -> Option<()>;
}
