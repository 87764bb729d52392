//! What the datapath asks and writes: the maps and the kernel's helpers.

use core::ops::DerefMut;

use axon_abi::{
    ClassKey, ConfigFlags, CtEntry, CtKey4, CtKey6, Direction, EndpointRow, EventRecord,
    FragmentKey, FragmentPorts, Identity, IpKey, IpcacheRow, LpmKey, NatEntry, NatKey, PolicyEntry,
    PolicyKey, PolicySetRow, RuntimeConfig, ServiceFlow, ServiceFlowKey,
};

use crate::service::ServiceTables;

/// Index of the loopback device, in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// Where a packet to elsewhere goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of `ifindex`, by way of the next hop that was filled in.
    Via {
        /// The device.
        ifindex: u32,
    },
    /// To the node itself, or nobody knows: the stack's affair.
    Stack,
    /// The device carries only packets of `mtu` bytes.
    TooBig {
        /// Bytes of an IP packet.
        mtu: u32,
    },
    /// The routes forbid it.
    Unreachable,
}

/// The neighbour that a packet is handed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// Its address: the gateway's, or the destination's own.
    pub addr: IpKey,
}

/// What the routes are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuery<'a> {
    /// Where the packet comes in.
    pub ifindex: u32,
    /// Source address.
    pub source: &'a IpKey,
    /// Destination address.
    pub destination: &'a IpKey,
    /// Whether these are IPv6 addresses.
    pub ipv6: bool,
}

/// Whole seconds in `ns`, for clocks up to 17 years: a division would cost as
/// much as a map look-up.
#[inline(always)]
pub fn seconds(ns: u64) -> u32 {
    const SECOND_NS: i64 = 1_000_000_000;
    // 2^35 / (10^9 / 2^20), less a part in 10^9: at most one second off.
    let guess = (ns >> 20).wrapping_mul(36_028_797) >> 35;
    let rest = (ns as i64).wrapping_sub((guess as i64).wrapping_mul(SECOND_NS));
    let less = u64::from(rest < 0);
    let more = u64::from(rest >= SECOND_NS);
    guess.wrapping_sub(less).wrapping_add(more) as u32
}

/// The shared tables. Rows are lent, not copied; entries that the programs
/// write are lent for writing.
///
/// Other CPUs write the same entries at the same time: each field is a fact of
/// its own, read once and written once, and sums go through [`Tables::add`].
pub trait Tables {
    /// A conntrack entry, lent for writing.
    type Ct<'a>: DerefMut<Target = CtEntry>
    where
        Self: 'a;
    /// A translation, lent for writing.
    type Nat<'a>: DerefMut<Target = NatEntry>
    where
        Self: 'a;
    /// A flow that a service translates, lent for writing.
    type ServiceFlow<'a>: DerefMut<Target = ServiceFlow>
    where
        Self: 'a;
    /// What services are asked.
    type Services: ServiceTables;

    /// Whether services are served at all: where not, nothing of it is compiled.
    const SERVES: bool;
    /// [`Tables::SERVES`], of tables whose type nobody has named.
    #[inline(always)]
    fn can_serve(&self) -> bool {
        Self::SERVES
    }
    /// Whether there are services.
    #[inline(always)]
    fn serves(&self) -> bool {
        Self::SERVES && self.config().flags & ConfigFlags::SERVICES != 0
    }

    /// The run-time configuration.
    fn config(&self) -> &RuntimeConfig;
    /// Nanoseconds of the monotonic clock; the same all through one packet.
    fn now_ns(&self) -> u64;
    /// Seconds of the monotonic clock.
    #[inline(always)]
    fn now_s(&self) -> u32 {
        seconds(self.now_ns())
    }
    /// A random number.
    fn random(&self) -> u32;

    /// The endpoint behind a host-side device.
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointRow>;
    /// As [`Tables::endpoint`], asked once in the life of a packet: what is
    /// lent holds until it is asked again.
    #[inline(always)]
    fn own_endpoint(&self, ifindex: u32) -> Option<&EndpointRow> {
        self.endpoint(ifindex)
    }
    /// Whether a device is an uplink.
    fn uplink(&self, ifindex: u32) -> bool;
    /// The endpoint of this node that has an address.
    fn address(&self, addr: &IpKey) -> Option<&EndpointRow>;
    /// As [`Tables::address`]; what is lent holds until it is asked again.
    #[inline(always)]
    fn receiver(&self, addr: &IpKey) -> Option<&EndpointRow> {
        self.address(addr)
    }
    /// Who a single address is.
    fn ipcache(&self, addr: &IpKey) -> Option<&IpcacheRow>;
    /// Who the longest prefix is that holds an address.
    fn ipcache_cidr(&self, key: &LpmKey) -> Option<&IpcacheRow>;
    /// Whether an identity has a row.
    fn identity_known(&self, identity: Identity) -> bool;

    /// A policy set version.
    fn policy_set(&self, set: u32) -> Option<&PolicySetRow>;
    /// The class of an identity in a set, if the set tells it apart.
    fn class(&self, key: &ClassKey) -> Option<u32>;
    /// An entry of a set.
    fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry>;

    /// The entry of an IPv4 flow.
    fn ct4(&self, key: &CtKey4) -> Option<Self::Ct<'_>>;
    /// The entry of an IPv6 flow.
    fn ct6(&self, key: &CtKey6) -> Option<Self::Ct<'_>>;
    /// Writes the entry of an IPv4 flow; false if there is no room.
    fn ct4_insert(&self, key: &CtKey4, entry: &CtEntry) -> bool;
    /// Writes the entry of an IPv6 flow; false if there is no room.
    fn ct6_insert(&self, key: &CtKey6, entry: &CtEntry) -> bool;
    /// Conntrack entries that an endpoint owns.
    fn ct_count(&self, owner: u16) -> u32;
    /// One more; says how many there were before. Should two CPUs add at the
    /// same moment, both may be told the same.
    fn ct_count_add(&self, owner: u16) -> u32;

    /// A translation.
    fn nat(&self, key: &NatKey) -> Option<Self::Nat<'_>>;
    /// Writes a translation; false if there is no room.
    fn nat_insert(&self, key: &NatKey, entry: &NatEntry) -> bool;
    /// Writes a translation unless there is one; false if there was.
    fn nat_create(&self, key: &NatKey, entry: &NatEntry) -> bool;
    /// Whether pods keep their address towards this one.
    fn no_masquerade(&self, key: &LpmKey) -> bool;

    /// The tables of services.
    fn services(&self) -> &Self::Services;
    /// A flow that a service translates.
    fn service_flow(&self, key: &ServiceFlowKey) -> Option<Self::ServiceFlow<'_>>;
    /// Writes such a flow; false if there is no room.
    fn service_flow_insert(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool;
    /// Writes such a flow unless there is one; false if there was.
    fn service_flow_create(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool;

    /// What the first fragment of a datagram said.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Remembers what it said.
    fn fragment_insert(&self, key: &FragmentKey, ports: &FragmentPorts);

    /// Up to when the ICMP errors of an owner's budget are spoken for: puts what
    /// `next` makes of it in place, if it makes something; says whether it did.
    fn icmp_spoken_for(&self, owner: u16, next: impl FnOnce(u64) -> Option<u64>) -> bool;

    /// Asks the node's routes; [`Route::Via`] fills in `next_hop`.
    fn route(&self, query: &RouteQuery<'_>, next_hop: &mut NextHop) -> Route;

    /// Adds to a counter of a flow. Should two CPUs add at the same moment, one
    /// of the two may be lost.
    fn add(counter: &mut u64, n: u64);
    /// Counts a packet under a reason (0: forwarded) and direction.
    fn count(&self, reason: u8, direction: Direction, len: u32);
    /// Hands an event to user space.
    fn emit(&self, event: &EventRecord);
}
