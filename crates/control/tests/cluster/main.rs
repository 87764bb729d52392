//! The controller over a small cluster.

mod cases;
mod histories;
mod world;
