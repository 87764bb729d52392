//! Makes the kernel match desired rows: programs, maps, devices, routes,
//! namespaces.
//!
//! ```text
//!  desired tables ── KernelReconciler ──> Maps, routes ──┐
//!  agent ── Datapath: programs, pins, stubs on devices ──┼──> kernel
//!        ── link, device: veth pairs, facts, watch ──────┘      │
//!        <── EventReader, metrics, Sweeper ─────────────────────┘
//!  status ── firewall, others: what of others may stop our packets
//!  CLI ── Maps::open_readonly (also of a dead agent), verify, cleanup
//!  lab, run ── netns, mount, cgroup, process
//! ```
//!
//! Invariants:
//! - only this crate writes BPF maps, and only from desired rows; conntrack,
//!   NAT and fragments are written by the programs and swept here;
//! - a pinned map whose layout differs is never reused: it is reported and
//!   made anew, with the entries of the one that programs in force use;
//! - nothing is detached or unpinned by stopping, only by [`cleanup`];
//! - the calling thread's namespaces never change: what happens in another
//!   one happens in a thread or a process of its own.
//!
//! This crate must not know: Kubernetes, policy, async runtimes.

pub mod cgroup;
mod datapath;
pub mod device;
mod events;
pub mod firewall;
pub mod forwarding;
pub mod link;
mod maps;
pub mod mount;
mod netlink;
pub mod netns;
mod object;
mod probe;
pub mod process;
mod reconcile;
mod routes;
mod sockets;
mod sweep;
mod sys;
pub mod verify;

pub use datapath::{
    Adoption, AttachMode, CleanupReport, Datapath, DatapathConfig, DatapathError, Hanging,
    OtherProgram, OtherSocketProgram, Owner, RecreatedMap, Repair, SocketHook, SocketMode,
    Standing, StubPlace, cleanup, maps_alone, others,
};
pub use events::{EventReader, Lost, MetricsCounter, read_metrics};
pub use maps::{Map, MapError, MapUse, Maps, PerCpuArray};
pub use probe::{Feature, Features, monotonic_s};
pub use reconcile::{
    FAILING_SHOWN, KernelReconciler, Pass, ReconcileReport, ReconcilerConfig, TableReport,
};
pub use sockets::{Terminate, Terminated, terminate_stale};
pub use sweep::{MapSweep, SweepReport, Sweeper};
pub use sys::online_cpus;
