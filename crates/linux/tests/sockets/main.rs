//! Sockets of real processes in a cgroup, whose addresses are services'.

mod bind;
#[path = "../common/mod.rs"]
mod common;
mod connect;
mod datagrams;
mod exchange;
mod stage;
mod stale;
