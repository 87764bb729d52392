//! A packet in memory.

use axon_datapath::{Checksum, Packet};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A packet as a vector of bytes, from the Ethernet header on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemPacket {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The device it is seen on.
    pub ifindex: u32,
    /// The device that the node got it by; 0 if it is the node's own.
    pub ingress_ifindex: u32,
    /// Payload bytes of a segment, if it is an aggregate.
    pub gso_size: u32,
    /// The VLAN ID of its tag, if it carries one.
    pub vlan: Option<u16>,
    /// Whether a service has given it the source that it has.
    pub served: bool,
}

impl MemPacket {
    /// A packet seen on a device.
    #[must_use]
    pub fn new(ifindex: u32, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ifindex,
            ingress_ifindex: 0,
            gso_size: 0,
            vlan: None,
            served: false,
        }
    }

    fn at(&self, at: usize) -> Option<&[u8]> {
        self.bytes.get(at..)
    }

    fn fix(&mut self, at: u32, difference: u32, zero_is_none: bool) -> Option<()> {
        let at = at as usize;
        let field: &mut [u8; 2] = self.bytes.get_mut(at..at + 2)?.try_into().ok()?;
        let old = u16::from_ne_bytes(*field);
        if zero_is_none && old == 0 {
            return Some(());
        }
        let mut sum = u64::from(!old) + u64::from(difference);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let mut new = !(sum as u16);
        if zero_is_none && new == 0 {
            new = 0xffff;
        }
        *field = new.to_ne_bytes();
        Some(())
    }
}

impl Packet for MemPacket {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn vlan(&self) -> Option<u16> {
        self.vlan
    }

    fn is_served(&self) -> bool {
        self.served
    }

    fn set_served(&mut self) {
        self.served = true;
    }

    fn view<T>(&self, at: usize) -> Option<&T>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        T::ref_from_prefix(self.at(at)?)
            .ok()
            .map(|(value, _)| value)
    }

    fn edit<T>(&mut self, at: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + KnownLayout + Unaligned,
    {
        T::mut_from_prefix(self.bytes.get_mut(at..)?)
            .ok()
            .map(|(value, _)| value)
    }

    fn load<T>(&self, at: u32) -> Option<T>
    where
        T: FromBytes + IntoBytes,
    {
        T::read_from_prefix(self.at(at as usize)?)
            .ok()
            .map(|(value, _)| value)
    }

    fn store<T>(&mut self, at: u32, value: &T) -> Option<()>
    where
        T: IntoBytes + Immutable,
    {
        let at = at as usize;
        self.bytes
            .get_mut(at..at + size_of::<T>())?
            .copy_from_slice(value.as_bytes());
        Some(())
    }

    fn store_uncovered<T>(&mut self, at: u32, value: &T) -> Option<()>
    where
        T: IntoBytes + Immutable,
    {
        self.store(at, value)
    }

    fn fix_ip_checksum(&mut self, at: u32, difference: u32) -> Option<()> {
        self.fix(at, difference, false)
    }

    fn fix_l4_checksum(&mut self, at: u32, difference: u32, how: Checksum) -> Option<()> {
        self.fix(at, difference, how.zero_is_none)
    }

    fn make_room(&mut self, keep: u32, room: u32) -> Option<()> {
        self.bytes.truncate(keep as usize);
        let room = vec![0xee; room as usize];
        if self.bytes.len() < 14 {
            return None;
        }
        self.bytes.splice(14..14, room);
        self.gso_size = 0;
        Some(())
    }
}
