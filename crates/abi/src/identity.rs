//! Security identities: numbers that stand for sets of labels.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A security identity, with Cilium's numbers: 24 bits travel on the wire, the
/// top byte is a local scope.
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
pub struct Identity(pub u32);

impl Identity {
    /// No identity is known.
    pub const UNKNOWN: Self = Self(0);
    /// The node that the packet is seen on.
    pub const HOST: Self = Self(1);
    /// Any address outside the cluster, on a single-stack node.
    pub const WORLD: Self = Self(2);
    /// An address of the cluster that no row names.
    pub const UNMANAGED: Self = Self(3);
    /// The health endpoint of a node.
    pub const HEALTH: Self = Self(4);
    /// An endpoint whose labels are not known yet.
    pub const INIT: Self = Self(5);
    /// Another node of the cluster.
    pub const REMOTE_NODE: Self = Self(6);
    /// The Kubernetes API server.
    pub const KUBE_APISERVER: Self = Self(7);
    /// The ingress proxy.
    pub const INGRESS: Self = Self(8);
    /// Any IPv4 address outside the cluster, on a dual-stack node.
    pub const WORLD_IPV4: Self = Self(9);
    /// Any IPv6 address outside the cluster, on a dual-stack node.
    pub const WORLD_IPV6: Self = Self(10);
    /// The least identity given to a set of labels in the cluster.
    pub const CLUSTER_MIN: Self = Self(256);
    /// The greatest identity of a cluster without a cluster id.
    pub const CLUSTER_MAX: Self = Self(65535);
    /// The first identity of local scope (CIDRs and DNS names).
    pub const LOCAL_MIN: Self = Self(0x0100_0000);
    /// The last identity of local scope.
    pub const LOCAL_MAX: Self = Self(0x01ff_ffff);
    /// The first identity of remote-node scope.
    pub const REMOTE_NODE_MIN: Self = Self(0x0200_0000);

    /// Whether the number is one of the reserved ones.
    pub const fn is_reserved(self) -> bool {
        self.0 < 100
    }

    /// Whether the identity stands for addresses outside the cluster.
    #[inline(always)]
    pub const fn is_world(self) -> bool {
        matches!(self.scope(), Scope::World)
    }

    /// Which part of the world the identity belongs to, by its number alone.
    #[inline(always)]
    pub const fn scope(self) -> Scope {
        match self.0 {
            0 => Scope::Unknown,
            1 => Scope::Host,
            2 | 9 | 10 => Scope::World,
            3 => Scope::Unmanaged,
            4 => Scope::Health,
            5 => Scope::Init,
            6 => Scope::RemoteNode,
            7 => Scope::KubeApiserver,
            8 => Scope::Ingress,
            n if n >> 24 == 0 => Scope::Cluster,
            n if n >> 24 == 1 => Scope::World,
            n if n >> 24 == 2 => Scope::RemoteNode,
            _ => Scope::Unknown,
        }
    }

    /// The reserved label's key (`host` in `reserved:host`), or `None`.
    pub const fn reserved_name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "unknown",
            1 => "host",
            2 => "world",
            3 => "unmanaged",
            4 => "health",
            5 => "init",
            6 => "remote-node",
            7 => "kube-apiserver",
            8 => "ingress",
            9 => "world-ipv4",
            10 => "world-ipv6",
            _ => return None,
        })
    }
}

/// The part of the world an identity belongs to. Each scope has a default
/// class in every policy set, so that "allow the cluster" is one row at any
/// number of identities.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// No row names the identity: denies match it, allows do not.
    Unknown = 0,
    /// The node itself.
    Host = 1,
    /// Outside the cluster, including CIDR and DNS-name identities.
    World = 2,
    /// A cluster address that no row names.
    Unmanaged = 3,
    /// Health endpoints.
    Health = 4,
    /// Endpoints that wait for their labels.
    Init = 5,
    /// Other nodes.
    RemoteNode = 6,
    /// The API server.
    KubeApiserver = 7,
    /// The ingress proxy.
    Ingress = 8,
    /// Labelled workloads.
    Cluster = 9,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 10] = [
        Self::Unknown,
        Self::Host,
        Self::World,
        Self::Unmanaged,
        Self::Health,
        Self::Init,
        Self::RemoteNode,
        Self::KubeApiserver,
        Self::Ingress,
        Self::Cluster,
    ];
}
