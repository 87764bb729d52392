//! Packets, fake tables and the case tables of the datapath.
//!
//! ```text
//!  build ─> packet ─┐                    ┌─> native: datapath over MemPacket and World
//!                   ├─> cases ─ Backend ─┤
//!  World (rows) ────┘                    └─> kernel: the loaded programs (crates/linux/tests)
//! ```
//!
//! Invariants:
//! - the scratch of every run is poisoned before it: what a hook reads without
//!   having set it is wrong;
//! - the checksum oracle shares no code with the datapath.
//!
//! This crate must not know: BPF, the agent.
#![forbid(unsafe_code)]

mod build;
pub mod cases;
mod corpus;
mod manifests;
mod oracle;
mod run;
mod services;
mod socket;
mod world;

pub use axon_frame::MemPacket;
pub use build::{Build, arp_request, neighbour_solicitation};
pub use corpus::{keep, replay};
pub use manifests::{NodeOfPods, node_manifests};
pub use oracle::{check, sum};
pub use run::{Action, Backend, Case, Native, Outcome, Step, run_case};
pub use services::{Listens, ServiceRows};
pub use socket::MemSocket;
pub use world::{FakeRoute, NO_RULES, Rule, World};
