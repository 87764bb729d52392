//! Addresses as map keys.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv4 or IPv6 address as a map key: 16 bytes in network order, IPv4 as
/// `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct IpKey(pub [u8; 16]);

const _: () = assert!(size_of::<IpKey>() == 16);

impl IpKey {
    /// The unspecified address: "none" where a row has an optional address.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// The key of an IPv4 address, given in network order.
    #[inline(always)]
    pub const fn from_v4(addr: [u8; 4]) -> Self {
        // In whole words: what is written in pieces and read at once waits for the pieces.
        let low = 0xffff_0000 | (u32::from_le_bytes(addr) as u64) << 32;
        let halves = [[0; 8], low.to_le_bytes()];
        Self(zerocopy::transmute!(halves))
    }

    /// The key of an IPv6 address, given in network order.
    #[inline(always)]
    pub const fn from_v6(addr: [u8; 16]) -> Self {
        Self(addr)
    }

    /// Whether this is the key of an IPv4 address.
    pub const fn is_v4(&self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }

    /// The IPv4 address, or `None` for an IPv6 one.
    pub const fn to_v4(&self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }
}

impl From<core::net::IpAddr> for IpKey {
    fn from(addr: core::net::IpAddr) -> Self {
        match addr {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

impl From<IpKey> for core::net::IpAddr {
    fn from(key: IpKey) -> Self {
        match key.to_v4() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(key.0.into()),
        }
    }
}

/// The key of a longest-prefix-match trie over [`IpKey`]: an IPv4 prefix of
/// `n` bits has `96 + n` bits here.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct LpmKey {
    /// Bits of `addr` that count, in native order (0 to 128).
    pub prefix_bits: u32,
    /// The address; bits beyond the prefix are zero.
    pub addr: IpKey,
}

const _: () = assert!(size_of::<LpmKey>() == 20);

impl LpmKey {
    /// The key that asks for the longest prefix that holds `addr`.
    #[inline(always)]
    pub const fn host(addr: IpKey) -> Self {
        Self {
            prefix_bits: 128,
            addr,
        }
    }
}
