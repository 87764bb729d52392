//! Policy in the kernel: sets, classes and their entries.
//!
//! ```text
//! endpoint row ──policy_set──> PolicySetRow     which directions are enforced, port prefixes in use
//!                    │
//!    remote identity ┴─> ClassKey{set, identity} ─ hit ─> class
//!                                                └ miss ─> default class of the identity's scope
//!                    class, protocol, port ─> PolicyKey ─> PolicyEntry   highest precedence wins
//! ```
//!
//! What a set *version* says never changes once an endpoint row points to it:
//! a new version is written beside it under a new number, the endpoint row
//! flips, the old one goes after a grace period. Which identities it tells
//! apart does change: an identity's class row is there before the identity is
//! known and goes after it, the entries of a class outlive its last row.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Be16, Identity, Scope};

/// A version of a policy set: the value of `axon_policy_set_v1`, whose key is
/// the version's number (never 0).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PolicySetRow {
    /// Bit `n` is set if some ingress entry has a port prefix of `n` bits
    /// (0 to 16).
    pub ingress_prefixes: u32,
    /// The same for egress entries.
    pub egress_prefixes: u32,
    /// [`PolicySetFlags`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<PolicySetRow>() == 16);

/// Bits of [`PolicySetRow::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySetFlags;

impl PolicySetFlags {
    /// Ingress that no entry allows is denied.
    pub const DEFAULT_DENY_INGRESS: u32 = 1 << 0;
    /// Egress that no entry allows is denied.
    pub const DEFAULT_DENY_EGRESS: u32 = 1 << 1;
    /// No ingress entry of [`class::ANY`] has a port prefix of more than 0 bits:
    /// nobody need look for one. Where it is not set there may be such entries or not.
    pub const NO_ANYONE_PORTS_INGRESS: u32 = 1 << 2;
    /// The same for egress.
    pub const NO_ANYONE_PORTS_EGRESS: u32 = 1 << 3;
}

/// Asks for the class of an identity in a set version: the key of
/// `axon_class_v1`.
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
pub struct ClassKey {
    /// Number of the set version.
    pub set: u32,
    /// The remote identity.
    pub identity: Identity,
}

const _: () = assert!(size_of::<ClassKey>() == 8);

/// The class of an identity that some rule of the set tells apart from the
/// rest of its scope: the value of `axon_class_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ClassRow {
    /// The class; at least [`class::FIRST`].
    pub class: u32,
}

/// The numbers of classes.
pub mod class {
    use super::Scope;

    /// In a [`super::PolicyKey`]: whoever the remote is, known or not.
    pub const ANY: u32 = 0;
    /// The first class that a set gives out; those below are [`ANY`] and the
    /// default classes of the scopes.
    pub const FIRST: u32 = 16;

    /// The class of an identity of `scope` that has no row in the set.
    #[inline(always)]
    pub const fn default_of(scope: Scope) -> u32 {
        scope as u32 + 1
    }

    const _: () = assert!(default_of(Scope::Cluster) < FIRST);
}

/// One entry of a set version: the key of `axon_policy_v1`.
///
/// The look-up probes, for each prefix length in use by the set, the masked
/// port with the remote's class and (unless the set's row says that there is
/// none) with [`class::ANY`], with the packet's protocol; then protocol 0 (any)
/// with port 0 and prefix 0. Of all hits the one with the highest precedence
/// decides.
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
pub struct PolicyKey {
    /// Number of the set version.
    pub set: u32,
    /// The remote's class, or [`class::ANY`].
    pub class: u32,
    /// Destination port (ICMP: the type), bits beyond the prefix zero.
    pub port: Be16,
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// [`PolicyKey::INGRESS`] or [`PolicyKey::EGRESS`], plus the port prefix
    /// in bits (0 to 16).
    pub direction_prefix: u8,
}

const _: () = assert!(size_of::<PolicyKey>() == 12);

impl PolicyKey {
    /// Towards the endpoint.
    pub const INGRESS: u8 = 0;
    /// From the endpoint.
    pub const EGRESS: u8 = 0x80;
    /// Bits of `direction_prefix` that hold the prefix.
    pub const PREFIX_MASK: u8 = 0x1f;
}

/// What an entry says: the value of `axon_policy_v1`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PolicyEntry {
    /// The higher wins; a deny is above every allow of its tier. Never 0.
    pub precedence: u32,
    /// Number of the rule that the entry comes from, for people.
    pub rule: u32,
    /// Port of the proxy that the flow is redirected to; 0 for none.
    pub proxy_port: Be16,
    /// [`PolicyEntryFlags`].
    pub flags: u16,
}

const _: () = assert!(size_of::<PolicyEntry>() == 12);

/// Bits of [`PolicyEntry::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEntryFlags;

impl PolicyEntryFlags {
    /// The entry denies.
    pub const DENY: u16 = 1 << 0;
    /// What is said is to be asked about by the proxy. Beside [`Self::DENY`]
    /// nothing brings it there: it is dropped.
    pub const REDIRECT: u16 = 1 << 1;
    /// The entry counts for unknown remotes too, though it allows: what keeps
    /// the node from being locked out.
    pub const UNKNOWN_TOO: u16 = 1 << 2;
    /// The entry stands for what the set does where no entry matches: what it
    /// denies is denied by no rule.
    pub const DEFAULT: u16 = 1 << 3;
    /// What the entry allows is allowed to those alone who have proved who they
    /// are. Always beside [`Self::DENY`]: nobody has, and programs that do not
    /// know this bit drop it too.
    pub const AUTH: u16 = 1 << 4;
    /// Beside [`Self::AUTH`]: no proof is good enough (`test-always-fail`).
    pub const AUTH_FAIL: u16 = 1 << 5;
}

/// A known identity: the value of `axon_identity_v1`, whose key is the
/// identity. What has no row here is unknown: denies of [`class::ANY`] match
/// it, allows do not. Reserved identities need no row.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct IdentityRow {
    /// Zero today.
    pub flags: u32,
}
