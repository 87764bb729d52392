//! Observed → desired: what the kernel shall hold, from what the sources say.
//!
//! ```text
//! Observed ──> identities ──> policy (axon-policy) ──> policy sets ┐
//!     │            └──> ipcache, routes, nomasq ───────────────────┼──> Desired
//!     └──> endpoints ──────────────────────────────────────────────┘
//! ```
//!
//! Invariants: time comes in as an argument; the same history gives the same
//! rows; nothing is removed before the tables it follows from are complete;
//! an endpoint's row points to a set only when the set's rows are desired;
//! what does not fit is reported and never makes enforcement weaker.
#![forbid(unsafe_code)]

mod apiserver;
mod config;
mod controller;
mod endpoints;
mod faults;
mod follow;
mod host;
pub mod identity;
pub mod ipam;
mod ipcache;
mod kept;
pub mod labels;
mod names;
mod persisted;
mod places;
mod pods;
mod policies;
mod routes;
mod runtime;
mod seen;
pub mod services;
mod sets;
mod staged;
mod tiers;
mod trial;
mod views;
mod write;

pub use config::{Capacity, Config, IdentityMode};
pub use controller::{Adopted, Controller};
pub use ipam::{Family, Ipam, IpamError};
pub use kept::HostRows;
pub use persisted::{Persisted, PersistedChange};
pub use staged::StagedUse;
pub use trial::HostTrial;
pub use views::{
    Condition, ConditionKind, EndpointStatus, HostStatus, IpEntry, IpSource, PolicySetUse, Renamed,
    RuleView, StepReport, WaitReason,
};
