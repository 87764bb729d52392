//! What policies ask for that is not switched on.

use axon_model::{Action, Peer, Peers, PolicyObject, PortRule, Ports, Protocol, RuleEntry};

use crate::PolicyConfig;
use crate::world::entries;

/// What a policy asks for that is not switched on: it is not enforced, not even
/// in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Nodes by their labels.
    #[error("fromNodes and toNodes need enable-node-selector-labels")]
    NodeLabels,
    /// Protocols without ports, beside ICMP.
    #[error(
        "protocols without ports ({}) need enable-extended-ip-protocols",
        Protocol::names(Protocol::is_extended)
    )]
    ExtendedProtocols,
}

/// What a policy asks for that is not switched on; the first such thing.
pub fn unmet(config: &PolicyConfig, policy: &PolicyObject) -> Option<Unmet> {
    entries(policy).find_map(|entry| lacking(config, entry))
}

fn lacking(config: &PolicyConfig, entry: &RuleEntry) -> Option<Unmet> {
    let nodes = match &entry.peers {
        Peers::Any => false,
        Peers::List(peers) => peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))),
    };
    let extended = match &entry.ports {
        Ports::Any => false,
        Ports::List(rules) => rules.iter().any(is_extended),
    };
    if nodes && !config.node_labels {
        Some(Unmet::NodeLabels)
    } else if extended && !config.extended_protocols {
        Some(Unmet::ExtendedProtocols)
    } else {
        None
    }
}

/// What is at least as strict as a policy that asks for what is not switched
/// on: whom it selects is closed as it says, and but for its denies that can be
/// enforced it says nothing.
pub fn closed(config: &PolicyConfig, policy: &PolicyObject) -> PolicyObject {
    let mut closed = policy.clone();
    for rule in &mut closed.rules {
        rule.entries
            .retain(|entry| entry.action == Action::Deny && lacking(config, entry).is_none());
    }
    closed
}

/// Whether a rule is about a protocol without ports, ICMP aside.
pub fn is_extended(rule: &PortRule) -> bool {
    rule.protocol.is_extended()
}
