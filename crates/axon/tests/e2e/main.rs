//! End to end: real nodes in a lab, real traffic, seen at both ends and in the
//! events. Needs root, else the tests say so and skip.
//!
//! One after the other, each with a lab of its own. `AXON_E2E_BINARY` names
//! another `axon` than the built one, `AXON_E2E_KEEP` keeps the lab of a test
//! that failed.

mod cold;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its part")]
mod common;
mod explain;
mod held;
mod host;
mod lab;
mod names;
mod policy;
mod roll;
mod rolled;
mod staged;
mod suggest;
mod support;
mod traffic;
