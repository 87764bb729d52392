//! Fuzz targets: each a function of bytes that panics if something does not
//! hold that must.
//!
//! ```text
//!  src/bin/NAME.rs (libFuzzer) ─┐
//!                               ├─> NAME::run(bytes)
//!  the crate's tests, corpus ───┘
//! ```
//!
//! The crates' tests include these files by their path, so that the corpus is
//! replayed by every `cargo test`.

pub mod cni;
pub mod event;
pub mod flows;
pub mod manifest;
pub mod packet;
pub mod request;
