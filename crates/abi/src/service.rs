//! Services: frontends, their lists of backends, and what is remembered of who
//! went where.
//!
//! ```text
//! address, port, protocol ─> ServiceEntry ┬ internal ─> list ─ slot ─┐
//!                                         └ external ─> list ─ slot ─┴─> backend id ─> Backend
//!                                                        └ Maglev: table ─ index of a slot
//! ```
//!
//! Finding a frontend is one look-up at any number of services. A list never
//! changes once a frontend points to it: a new one is written beside it under a
//! new number, the frontend flips, the old one goes after a grace period. One
//! backend's own change is one row.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Be16, IpKey};

/// Backend ids in one block of a list.
pub const LIST_BLOCK_SLOTS: u32 = 16;
/// Indexes in one block of a Maglev table.
pub const MAGLEV_BLOCK_SLOTS: u32 = 64;
/// Slots of a list at most: an index of a Maglev table has 16 bits.
pub const LIST_SLOTS_MAX: u32 = 1 << 16;

/// What a frontend listens at: the key of `axon_service_v1`.
///
/// Protocol 0 with port 0 is the address itself: it answers echo requests and
/// refuses ports that no row names. The unspecified address of a family with a
/// node port is that port on whichever node, for who asks from inside.
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
pub struct ServiceKey {
    /// The address.
    pub addr: IpKey,
    /// The port.
    pub port: Be16,
    /// IP protocol number (6, 17, 132), or 0.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<ServiceKey>() == 20);

/// Which list of backends, and by which table.
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
pub struct ListRef {
    /// The list; 0 if nobody is in it.
    pub list: u32,
    /// Its slots. A backend of greater weight has several.
    pub slots: u32,
    /// The Maglev table over it; 0 if there is none.
    pub maglev: u32,
}

const _: () = assert!(size_of::<ListRef>() == 12);

/// What a frontend is: the value of `axon_service_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ServiceEntry {
    /// The service's port that this is a frontend of: all frontends of that
    /// port have the same number.
    pub service: u32,
    /// [`ServiceFlags`] and, in the lowest bits, the [`FrontendKind`].
    pub flags: u32,
    /// For pods and the node itself.
    pub internal: ListRef,
    /// For the network.
    pub external: ListRef,
    /// Slots of its Maglev tables.
    pub maglev_slots: u32,
    /// Seconds for which a client that comes back finds the same backend.
    pub affinity_timeout_s: u32,
    /// Grows whenever a row or a backend of the service's port changes: what was
    /// chosen before is looked at again. No two ports have the same one.
    pub generation: u32,
}

const _: () = assert!(size_of::<ServiceEntry>() == 44);

impl ServiceEntry {
    /// What kind of frontend it is, or `None` for a number that none has.
    pub const fn kind(&self) -> Option<FrontendKind> {
        FrontendKind::from_bits(self.flags & ServiceFlags::KIND_MASK)
    }

    /// Whether all of these flags are set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

/// Why an address and a port are a frontend.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// The service's address inside the cluster.
    ClusterIp = 1,
    /// A port of the node, or of each node.
    NodePort = 2,
    /// An address that a load balancer's status names.
    LoadBalancer = 3,
    /// An address that is routed to the nodes by somebody else.
    ExternalIp = 4,
    /// A port of the node that leads to one pod.
    HostPort = 5,
    /// Redirected to pods of this node.
    LocalRedirect = 6,
    /// No port: the address.
    Address = 7,
}

impl FrontendKind {
    /// The kind with these bits.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            1 => Self::ClusterIp,
            2 => Self::NodePort,
            3 => Self::LoadBalancer,
            4 => Self::ExternalIp,
            5 => Self::HostPort,
            6 => Self::LocalRedirect,
            7 => Self::Address,
            _ => return None,
        })
    }
}

/// Bits of [`ServiceEntry::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceFlags;

impl ServiceFlags {
    /// Bits that hold the [`FrontendKind`].
    pub const KIND_MASK: u32 = 0x7;
    /// A client that comes back finds the same backend.
    pub const AFFINITY: u32 = 1 << 3;
    /// Who asks from the network is looked up in the source ranges.
    pub const SOURCE_RANGES: u32 = 1 << 4;
    /// The ranges name who is kept out, not who is let in.
    pub const SOURCE_DENY: u32 = 1 << 5;
    /// Backends answer the client themselves (TCP).
    pub const DSR_TCP: u32 = 1 << 6;
    /// The same for UDP and SCTP.
    pub const DSR_OTHER: u32 = 1 << 7;
    /// Not for who asks from the network.
    pub const CLOSED_OUTSIDE: u32 = 1 << 8;
    /// Not for who asks from inside: for him there is no service here.
    pub const CLOSED_INSIDE: u32 = 1 << 9;
    /// Inside, nobody in the list: dropped, where it is refused without this.
    pub const DROP_INSIDE: u32 = 1 << 10;
    /// The same for who asks from the network.
    pub const DROP_OUTSIDE: u32 = 1 << 11;
    /// Clients with a row in `axon_service_skip_v1` get the external list.
    pub const SKIP_OWN: u32 = 1 << 12;
    /// For clients with a row in `axon_service_skip_v1` there is no service here.
    pub const SKIP_AWAY: u32 = 1 << 13;
}

/// A block of a list: the key of `axon_service_list_v1`.
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
pub struct ListKey {
    /// Number of the list.
    pub list: u32,
    /// Number of the block, from 0.
    pub block: u32,
}

/// Backend ids, in the order of slots: the value of `axon_service_list_v1`.
/// Behind the last slot there are zeros.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ListBlock {
    /// The ids.
    pub backends: [u32; LIST_BLOCK_SLOTS as usize],
}

const _: () = assert!(size_of::<ListKey>() == 8 && size_of::<ListBlock>() == 64);

/// A block of a Maglev table: the key of `axon_maglev_v1`.
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
pub struct MaglevKey {
    /// Number of the table.
    pub table: u32,
    /// Number of the block, from 0.
    pub block: u32,
}

/// Indexes into the list of the same frontend: the value of `axon_maglev_v1`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MaglevBlock {
    /// The indexes.
    pub slots: [u16; MAGLEV_BLOCK_SLOTS as usize],
}

impl Default for MaglevBlock {
    fn default() -> Self {
        Self {
            slots: [0; MAGLEV_BLOCK_SLOTS as usize],
        }
    }
}

const _: () = assert!(size_of::<MaglevKey>() == 8 && size_of::<MaglevBlock>() == 128);

/// Where connections go: the value of `axon_backend_v1`, whose key is the
/// backend's id (never 0). An id belongs to one port of one service, and is not
/// given to another while a list or a connection may name it.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Backend {
    /// The address.
    pub addr: IpKey,
    /// The port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`BackendState`].
    pub state: u8,
    /// The port of a service that it is a backend of.
    pub service: u32,
    /// [`BackendFlags`].
    pub flags: u32,
    /// Grows when the backend comes back: somebody else may be behind the id.
    pub generation: u32,
}

const _: () = assert!(size_of::<Backend>() == 32);

/// Bits of [`Backend::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFlags;

impl BackendFlags {
    /// It is in the list for who asks from inside.
    pub const IN_INTERNAL: u32 = 1 << 0;
    /// It is in the list for the network.
    pub const IN_EXTERNAL: u32 = 1 << 1;
    /// It is on this node.
    pub const LOCAL: u32 = 1 << 2;
}

/// What may be sent to a backend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// Everything.
    #[default]
    Active = 0,
    /// What is open; what is new if nobody is active.
    Terminating = 1,
    /// What is open: it failed health checks.
    Quarantined = 2,
    /// What is open: it is not ready.
    Maintenance = 3,
}

impl BackendState {
    /// The state with this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Active,
            1 => Self::Terminating,
            2 => Self::Quarantined,
            3 => Self::Maintenance,
            _ => return None,
        })
    }
}

/// A client of a service's port: the key of `axon_service_affinity_v1` and of
/// `axon_service_skip_v1`.
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
pub struct ServiceClient {
    /// Its address, or the cookie of its network namespace in the last eight
    /// bytes and zeros before.
    pub client: IpKey,
    /// The port of a service.
    pub service: u32,
    /// 0: asked from inside, 1: from the network.
    pub external: u32,
}

const _: () = assert!(size_of::<ServiceClient>() == 24);

impl ServiceClient {
    /// The client that is everybody of a network namespace.
    #[inline(always)]
    pub const fn namespace(cookie: u64) -> IpKey {
        IpKey(zerocopy::transmute!([[0; 8], cookie.to_be_bytes()]))
    }
}

/// Where a client went last: the value of `axon_service_affinity_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct AffinityEntry {
    /// The backend's id.
    pub backend: u32,
    /// Second (monotonic clock) of its last connection.
    pub last_s: u32,
}

const _: () = assert!(size_of::<AffinityEntry>() == 8);

/// A prefix that a service's port knows: the key of `axon_source_range_v1`, a
/// trie over service and address.
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
pub struct SourceRangeKey {
    /// Bits that count: the 32 of `service` and those of the prefix (an IPv4
    /// prefix of `n` bits has `96 + n`).
    pub prefix_bits: u32,
    /// The port of a service.
    pub service: u32,
    /// The address; bits beyond the prefix are zero.
    pub addr: IpKey,
}

const _: () = assert!(size_of::<SourceRangeKey>() == 24);

impl SourceRangeKey {
    /// Bits of `service`.
    pub const SERVICE_BITS: u32 = 32;

    /// The key that asks whether a prefix of the service's port holds `addr`.
    #[inline(always)]
    pub const fn host(service: u32, addr: IpKey) -> Self {
        Self {
            prefix_bits: Self::SERVICE_BITS + 128,
            service,
            addr,
        }
    }
}

/// What a socket that speaks to a frontend really speaks to: the value of
/// `axon_socket_v1`, whose key is a [`SocketKey`].
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketEntry {
    /// The frontend's address, which the socket's owner is told.
    pub addr: IpKey,
    /// The frontend's port.
    pub port: Be16,
    /// The lower half of the backend's generation when it was chosen.
    pub backend_generation: u16,
    /// The port of a service.
    pub service: u32,
    /// The backend's id.
    pub backend: u32,
    /// The generation of the frontend when it was chosen.
    pub generation: u32,
}

const _: () = assert!(size_of::<SocketEntry>() == 32);

impl SocketEntry {
    /// Whether a backend is still the one that was chosen.
    #[inline(always)]
    pub const fn means(&self, now: &Backend) -> bool {
        now.service == self.service && now.generation as u16 == self.backend_generation
    }
}

/// A socket and whom it speaks to: the key of `axon_socket_v1`.
///
/// There are two kinds of rows. By an [answer](Self::answer)'s sender the
/// frontend is found that the socket's owner knows. By a [choice](Self::choice)
/// datagrams that name the frontend each time find the backend of those before.
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
pub struct SocketKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address, or the frontend's.
    pub addr: IpKey,
    /// Its port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// 1 for a choice, 0 for an answer.
    pub choice: u8,
    /// Zero.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<SocketKey>() == 32);

impl SocketKey {
    /// What a backend sends to a socket.
    #[inline(always)]
    pub const fn answer(cookie: u64, addr: IpKey, port: Be16, protocol: u8) -> Self {
        Self {
            cookie,
            addr,
            port,
            protocol,
            choice: 0,
            pad: [0; 4],
        }
    }

    /// Where datagrams of a socket go that name a frontend.
    #[inline(always)]
    pub const fn choice(cookie: u64, addr: IpKey, port: Be16, protocol: u8) -> Self {
        Self {
            choice: 1,
            ..Self::answer(cookie, addr, port, protocol)
        }
    }

    /// The choice for the first frontend that a socket's datagrams name; its row
    /// tells which. Most have no other, and so it is found where the socket is
    /// all that is known.
    #[inline(always)]
    pub const fn first_choice(cookie: u64, protocol: u8) -> Self {
        Self::choice(cookie, IpKey::UNSPECIFIED, Be16::ZERO, protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::{BackendState, FrontendKind, ServiceFlags};

    #[test]
    fn kinds_and_states_round_trip_and_kinds_stay_in_their_bits() {
        for bits in 0..=ServiceFlags::KIND_MASK {
            let kind = FrontendKind::from_bits(bits);
            assert_eq!(kind.map_or(0, |kind| kind as u32), bits);
        }
        assert_eq!(FrontendKind::from_bits(ServiceFlags::AFFINITY), None);
        for number in 0..=u8::MAX {
            let state = BackendState::from_u8(number);
            assert_eq!(state.is_some(), number < 4);
            assert!(state.is_none_or(|state| state as u8 == number));
        }
    }
}
