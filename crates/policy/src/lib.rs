//! Rules × identities → policy sets: what the kernel's look-up finds.
//!
//! ```text
//! rules that select an identity ──> policy set ──> terms (who, protocol, ports, action)
//!                                                    │
//! identities × terms ──> selection vectors ──> classes (a row only for who differs from its scope)
//!                                                    │
//!                              PolicyRows: set row, class rows, entries
//! ```
//!
//! The number of a set version stands for what its rules say. Which identities
//! it tells apart may change under it, row by row; what a class means may not.
//!
//! [`resolve()`] is the slow, obvious function; [`Engine`] gives the same answer
//! incrementally, tested against it.
//!
//! A staged policy is known and selects nobody; [`Rehearsal`] resolves as if it
//! did.
//!
//! Invariants: pure logic without clock or I/O; the same input and numbers
//! give the same rows; one number never stands for two meanings; a deny
//! outranks every allow of its tier.
#![forbid(unsafe_code)]

mod auth;
mod compile;
mod engine;
mod failsafe;
mod few;
mod fit;
mod groups;
mod known;
mod l7;
mod lockdown;
mod numbers;
mod order;
mod pass;
mod ports;
mod rehearsal;
mod resolve;
mod rows;
mod select;
mod selectors;
mod state;
mod tiers;
mod unmet;
mod version;
mod whos;
mod world;

pub use axon_model::{Lookup, Packet, Verdict, at_least_as_strict, evaluate};
pub use engine::Engine;
pub use failsafe::Failsafe;
pub use fit::{Fit, fit, peers_words, ports_words};
pub use groups::{Group, Member, Members, groups_in_use};
pub use known::{
    cidr_label, cidr_labels, named_addresses, named_by, node_labels, other_node_labels, places,
    prefixes_of, reserved_identities, whole,
};
pub use l7::{Connection, Request, demands, passes};
pub use numbers::{Numbers, RuleNumbers, RuleRef, SetNumbers};
pub use rehearsal::{Rehearsal, Staged};
pub use resolve::{PolicySet, Resolution, is_about, resolve};
pub use rows::RowCount;
pub use selectors::SelectorUse;
pub use tiers::{Crowd, crowds};
pub use unmet::{Unmet, closed, is_extended, unmet};
pub use world::{
    Enforcement, IdentityInfo, NamedPorts, PolicyConfig, World, narrowest, policy_groups,
    policy_names, policy_prefixes,
};
