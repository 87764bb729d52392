//! A packet over the state of a node: every row that it meets, what becomes of
//! it, and the rule that decides.
//!
//! ```text
//! NodeState (a live agent's, or a sysdump's) ── Node ── Recorder: Tables
//!                                                           │
//!  Packet ── choose: a service? who may be its backend? ── for each of them:
//!            frame ── run: the socket, then the hooks of axon-datapath, in the order of
//!                      │   the way: steps, judgements
//!                      └── why: rule, entry, line; or what comes closest ──> Explanation
//! ```
//!
//! Invariants: what decides is the datapath's own code; a state is read as a
//! stranger's: whatever is in it, nothing panics, and what cannot be read is
//! refused by its place; what only another node can tell is said to be its.
//!
//! This crate must not know: files, sockets, clocks, the kernel.
#![forbid(unsafe_code)]

mod choose;
mod explain;
mod known;
mod node;
mod packet;
mod record;
mod run;
mod serve;
mod service_view;
mod services;
mod socket;
mod why;
mod words;

pub use explain::{End, Explanation, HookView, Outcome, RequestView, explain, explain_new};
pub use known::{identity_row, policy_reading};
pub use node::{Node, StateError};
pub use packet::{Packet, PacketError, Transport};
pub use record::Step;
pub use run::NotHere;
pub use service_view::{BackendView, ServiceView};
pub use services::ServiceError;
pub use why::{Closest, DecidedBy, JudgementView, PlaceView, Said};
