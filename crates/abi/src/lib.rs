//! Every byte that the kernel programs and user space share.
//!
//! Map keys and values, event records, drop reasons, reserved identities and
//! the run-time configuration. One definition serves both sides:
//!
//! ```text
//!   desired rows ── linux ──> BPF maps <── bpf (datapath) ──> ring buffer ── linux ──> flows
//!                        \________ axon-abi: the layouts ________/
//! ```
//!
//! Invariants:
//! - every shared type is `#[repr(C)]` and free of padding, by proof
//!   (`zerocopy`'s `IntoBytes`), with its size asserted;
//! - byte order is in the type: [`U16`]`<NetworkEndian>` for what is on the
//!   wire, native integers for the rest;
//! - a map's name carries the version of its layout: a changed layout is a new
//!   name and a migration, never a silent reuse.
//!
//! This crate must not know: allocation, any BPF library, any decision.
#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod config;
mod conntrack;
mod endpoint;
mod event;
mod identity;
mod ipcache;
mod maps;
mod metrics;
mod migrate;
mod nat;
#[cfg(feature = "next-layout")]
mod next;
mod policy;
mod reason;
mod service;
mod service_flow;

pub use addr::{IpKey, LpmKey};
pub use config::{ConfigFlags, RuntimeConfig, Timeouts};
pub use conntrack::{CtEntry, CtFlags, CtKey4, CtKey6, CtState, FragmentKey, FragmentPorts};
pub use endpoint::{EndpointFlags, EndpointRow, HOST_DEVICE};
pub use event::{
    EVENT_LEN, EventFlags, EventKind, EventRecord, FLOWS_PER_NOTICE, MatchType, ObservationPoint,
    TraceReason,
};
pub use identity::{Identity, Scope};
pub use ipcache::{IpcacheFlags, IpcacheRow};
pub use maps::{
    CT4, CT6, GENERATIONS, HOOKS, Hook, MAPS, MapKind, MapSpec, NAT, SERVICE_FLOW, program_slot,
};
pub use metrics::{Direction, METRICS_ENTRIES, MetricsRow, metrics_index};
pub use migrate::{Convert, MIGRATIONS, Migration};
pub use nat::{NatEntry, NatKey, NatOwner};
pub use policy::{
    ClassKey, ClassRow, IdentityRow, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetFlags,
    PolicySetRow, class,
};
pub use reason::DropReason;
pub use service::{
    AffinityEntry, Backend, BackendFlags, BackendState, FrontendKind, LIST_BLOCK_SLOTS,
    LIST_SLOTS_MAX, ListBlock, ListKey, ListRef, MAGLEV_BLOCK_SLOTS, MaglevBlock, MaglevKey,
    ServiceClient, ServiceEntry, ServiceFlags, ServiceKey, SocketEntry, SocketKey, SourceRangeKey,
};
pub use service_flow::{ServiceFlow, ServiceFlowFlags, ServiceFlowKey};
pub use zerocopy::{NetworkEndian, U16, U32};

/// A 16-bit number as it stands on the wire.
pub type Be16 = U16<NetworkEndian>;
/// A 32-bit number as it stands on the wire.
pub type Be32 = U32<NetworkEndian>;
