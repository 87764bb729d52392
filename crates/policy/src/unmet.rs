//! What policies ask for that is not switched on.

use axon_model::{Peer, PolicyObject, PortRule, Ports, Protocol};

use crate::PolicyConfig;
use crate::world::{entries, peers};

/// What a policy asks for that is not switched on: it is not enforced, not even
/// in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Nodes by their labels.
    #[error("fromNodes and toNodes need enable-node-selector-labels")]
    NodeLabels,
    /// Protocols without ports, beside ICMP.
    #[error(
        "protocols without ports (VRRP, IGMP, GRE, IPIP, IPv6, ESP, AH) need \
         enable-extended-ip-protocols"
    )]
    ExtendedProtocols,
}

/// What a policy asks for that is not switched on; the first such thing.
pub fn unmet(config: &PolicyConfig, policy: &PolicyObject) -> Option<Unmet> {
    let asks_nodes = || peers(policy).any(|peer| matches!(peer, Peer::Nodes(_)));
    let mut ports = entries(policy).flat_map(|entry| match &entry.ports {
        Ports::Any => &[][..],
        Ports::List(rules) => rules.as_slice(),
    });
    if !config.node_labels && asks_nodes() {
        Some(Unmet::NodeLabels)
    } else if !config.extended_protocols && ports.any(is_extended) {
        Some(Unmet::ExtendedProtocols)
    } else {
        None
    }
}

/// Whether a rule is about a protocol without ports, ICMP aside.
pub fn is_extended(rule: &PortRule) -> bool {
    ![
        Protocol::ANY,
        Protocol::TCP,
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::ICMP,
        Protocol::ICMPV6,
    ]
    .contains(&rule.protocol)
}
