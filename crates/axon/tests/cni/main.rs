//! The built plugin with a real agent: what the CNI specification says, many
//! calls at once, and real container runtimes. Needs root, and runtimes where
//! the tests say so, else they say so and skip.

mod churn;
#[path = "../common/mod.rs"]
mod common;
mod cri;
mod image;
mod machine;
mod node;
mod podman;
mod runtime;
mod spec;
