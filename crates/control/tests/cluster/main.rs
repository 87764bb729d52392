//! The controller over a small cluster.

mod cases;
mod groups;
mod histories;
mod host;
mod numbers;
mod places;
mod world;
