//! The CNI plugin: asks the agent, answers the runtime, touches nothing itself.
//!
//! ```text
//! runtime ── environment, stdin ──> Plugin ── HTTP on a Unix socket ──> agent
//!         <── stdout, exit status ──┘    └──> deleteQueue/ (DEL while the agent is away)
//! ```
//!
//! The HTTP client is a module of its own: `axon`'s verbs use it too.
//!
//! Invariants:
//! - one answer on stdout for every call, in the version that was asked for;
//! - what comes in is bounded in size, what is waited for in time;
//! - DEL succeeds whatever is gone already, and nothing that it was told is
//!   forgotten: with the agent away it is written down for the agent.
//!
//! This crate must not know: async runtimes, Kubernetes clients, netlink.
#![forbid(unsafe_code)]

pub mod http;
mod log;
mod plugin;
mod queue;

pub use plugin::{Answer, Plugin, Waiting};
pub use queue::postpone;

/// The plugin's type: the name of its binary and of its `type` in a network
/// configuration.
pub const PLUGIN_TYPE: &str = "axon-cni";
