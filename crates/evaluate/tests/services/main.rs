//! Connections to services in clusters that are only described.

mod answers;
mod matrix;
mod questions;
mod time;
mod world;
