//! The controller over a small cluster.

mod cases;
mod histories;
mod numbers;
mod world;
