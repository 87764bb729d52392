//! The Container Network Interface, specification 1.1 and back to 0.3.0.
//!
//! ```text
//! environment ── Invocation::from_env ──┐
//! stdin ──────── NetConf::parse ────────┴──> plugin ──> Success / Error / version_info ── to_json ──> stdout
//! ```
//!
//! Invariants: an answer is in the version that was asked for; every refusal
//! has the code that the specification gives it.

mod config;
mod error;
mod invocation;
mod result;
mod version;

pub use config::{Attachment, NetConf};
pub use error::{Error, ErrorCode};
pub use invocation::{Args, Command, Invocation};
pub use result::{Dns, Interface, Ip, Route, Success};
pub use version::{SpecVersion, VersionError, version_info};
