//! Tables with snapshots, watches and revisions, and a generic reconciler.
//!
//! ```text
//! writer ── Table::write ──> Table ── snapshot / changes ──> Reconciler ──> Target
//!                              └── on_change ──> whoever waits
//! ```
//!
//! Invariants: a snapshot never changes; a revision grows with every change
//! and with nothing else; what was not changed is not written to a target
//! again; a target row is removed only by name, or by a full pass over a
//! table that is complete.
//!
//! This crate must not know any noun of ours, a clock or a runtime.
#![forbid(unsafe_code)]

mod reconcile;
mod table;

pub use reconcile::{Backoff, Reconciler, Report, RowFailure, Target};
pub use table::{Changes, Snapshot, Table, Txn};
