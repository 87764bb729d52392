//! Rows of the kernel's maps as people and programs read them:
//! `GET /v1/map/{name}` and `axon bpf … list`.
//!
//! Names (pods, labels, policies) are filled in where they are known, and
//! empty where they are not: an agent that is gone cannot be asked.

mod address;
mod flow;
mod name;
mod node;
mod policy;
mod service;
mod service_flow;

pub use address::{EndpointMapRow, IpcacheMapRow};
pub use flow::{CtMapRow, NatMapRow};
pub use name::{MapName, MapNameError};
pub use node::{ConfigMapRow, MetricsMapRow};
pub use policy::{PolicyMapEntry, PolicyMapSet};
pub use service::{
    LbAffinityRow, LbBackendRow, LbList, LbMaglevRow, LbRow, LbSourceRangeRow, backend_state,
    frontend_kind, service_protocol,
};
pub use service_flow::{LbRevnatRow, LbSnatRow, PressureRow};

use axon_abi::DropReason;

/// The name of an IP protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

fn reason_text(reason: u8) -> String {
    DropReason::from_u8(reason).map_or_else(|| reason.to_string(), |r| r.text().to_owned())
}
