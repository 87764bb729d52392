//! The case tables: a world, packets, what becomes of them. Each is made for
//! IPv4 and for IPv6.

mod host;
mod host_peers;
mod martians;
mod netdev;
mod node_ports;
mod parsing;
mod policy;
mod refusals;
mod safety;
mod scene;
mod senders;
mod services;
mod traces;
mod traffic;
mod vips;

pub use scene::{Net, POD_A, POD_B, POD_HERMIT, UPLINK, V4, V6};

use crate::run::Case;

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    [V4, V6]
        .iter()
        .flat_map(|net| {
            [
                traffic::cases(net),
                parsing::cases(net),
                policy::cases(net),
                netdev::cases(net),
                martians::cases(net),
                host::cases(net),
                host_peers::cases(net),
                refusals::cases(net),
                safety::cases(net),
                senders::cases(net),
                services::cases(net),
                node_ports::cases(net),
                vips::cases(net),
                traces::cases(net),
            ]
        })
        .flatten()
        .collect()
}
