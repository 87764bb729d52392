//! Wire formats, and their conversions to the model.
//!
//! ```text
//! YAML, JSON ── manifest ──> k8s, cilium objects ──> model       CNI input/output ── cni
//! HTTP bodies on the agent's socket ── request ──> agent
//! ```
//!
//! Invariants: what is refused is refused with the path of the field, the
//! value and what was expected; nothing is half converted; no input panics.
//! This crate must not know: clients, files, sockets.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cilium;
pub mod cluster;
pub mod cni;
pub mod k8s;
pub mod manifest;
pub mod maps;
pub mod request;

mod select;
pub mod services;
pub mod state;
mod tree;
pub mod upsert;
