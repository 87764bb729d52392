//! Living with others: a firewall that forwards nothing, other container
//! engines, other programs on the same device.

#[path = "../common/mod.rs"]
mod common;
mod engines;
mod firewall;
mod legacy;
mod occupied;
mod programs;
mod stage;
