//! The built plugin with a real agent: what the CNI specification says, many
//! calls at once, and real container runtimes. Needs root, and runtimes where
//! the tests say so, else they say so and skip.

mod churn;
mod cri;
mod image;
mod node;
mod runtime;
mod spec;
