//! Run-time configuration of the programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::IpKey;

/// The one value of `axon_config_v1`, written by user space, read by every
/// program on every packet.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct RuntimeConfig {
    /// [`ConfigFlags`].
    pub flags: u32,
    /// Grows when what identities mean to policy may have changed: verdicts
    /// kept in conntrack under another epoch are made again.
    pub epoch: u32,
    /// Bytes of an IP packet that the underlay carries; what is larger and may
    /// not be fragmented is answered (RFC 1191, RFC 8201).
    pub mtu: u32,
    /// Seconds between two trace events of an established flow and direction.
    pub trace_interval_s: u32,
    /// Conntrack entries that one endpoint may own; 0 is no limit.
    pub ct_quota: u32,
    /// TCP flags (low byte) whose first sight in a flow is reported.
    pub trace_tcp_flags: u32,
    /// This node's IPv4 address: the source of masqueraded packets.
    pub node_ipv4: [u8; 4],
    /// First port of masquerading, native order.
    pub nat_port_min: u16,
    /// Last port of masquerading, native order.
    pub nat_port_max: u16,
    /// This node's IPv6 address.
    pub node_ipv6: IpKey,
    /// How long flows live.
    pub timeouts: Timeouts,
}

const _: () = assert!(size_of::<RuntimeConfig>() == 72);

/// Seconds after the last packet at which a flow is forgotten, by
/// [`crate::CtState`].
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Timeouts {
    /// TCP handshake not complete.
    pub tcp_opening_s: u32,
    /// TCP established.
    pub tcp_established_s: u32,
    /// TCP after FIN or RST.
    pub tcp_closing_s: u32,
    /// Other protocols, packets of one direction only.
    pub one_way_s: u32,
    /// Other protocols, both directions.
    pub two_way_s: u32,
    /// Fragments wait this long for their first one's followers.
    pub fragment_s: u32,
}

/// Bits of [`RuntimeConfig::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigFlags;

impl ConfigFlags {
    /// IPv4 is carried.
    pub const IPV4: u32 = 1 << 0;
    /// IPv6 is carried.
    pub const IPV6: u32 = 1 << 1;
    /// IPv4 of pods that leaves the cluster takes the node's address.
    pub const MASQUERADE_IPV4: u32 = 1 << 2;
    /// IPv6 of pods that leaves the cluster takes the node's address.
    pub const MASQUERADE_IPV6: u32 = 1 << 3;
    /// The node itself reaches its endpoints whatever their policy says
    /// (`allow-localhost: always`).
    pub const ALLOW_LOCALHOST: u32 = 1 << 4;
    /// Policy is evaluated and reported, but nothing is dropped by it.
    pub const AUDIT: u32 = 1 << 5;
    /// Policy verdicts of new flows are reported.
    pub const EVENT_VERDICT: u32 = 1 << 6;
    /// Forwarded packets are reported, aggregated.
    pub const EVENT_TRACE: u32 = 1 << 7;
    /// Drops are reported.
    pub const EVENT_DROP: u32 = 1 << 8;
    /// Rows of the ipcache are missing, for want of room: an address without a
    /// row of its own is nobody known, since the prefix that would tell who it
    /// is may be one of the missing. Set by the writer of the rows alone.
    pub const IPCACHE_PARTIAL: u32 = 1 << 9;
    /// Every packet is reported where it is received too, before anything is
    /// decided on it.
    pub const EVENT_RECEIVED: u32 = 1 << 10;
    /// What the node itself sends and is sent is held to its policy
    /// (`enable-host-firewall`): the row of [`crate::HOST_DEVICE`] in
    /// `axon_endpoint_v1` says to which.
    pub const HOST_FIREWALL: u32 = 1 << 11;
    /// An endpoint is told by ICMP what its own egress policy does not let out
    /// (`policy-deny-response: icmp`).
    pub const DENY_RESPONSE: u32 = 1 << 12;
    /// There are services: what is for their frontends is led to backends
    /// (`kube-proxy-replacement`).
    pub const SERVICES: u32 = 1 << 13;
}
