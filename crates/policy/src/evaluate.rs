//! What the rows of a set say of a packet: a twin of the datapath's look-up.

use axon_abi::{Direction, Identity};
use axon_model::PolicyRows;

/// What a set says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An entry of this rule allows it.
    Allowed {
        /// Number of the rule.
        rule: u32,
    },
    /// An entry of this rule denies it.
    Denied {
        /// Number of the rule.
        rule: u32,
    },
    /// No entry speaks of it, and the direction is not enforced.
    AllowedByDefault,
    /// No entry speaks of it, and the direction is enforced.
    DeniedByDefault,
}

impl Verdict {
    /// Whether the packet may pass.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed { .. } | Self::AllowedByDefault)
    }
}

/// The verdict of a set's rows on a packet to or from a *known* identity.
/// `port` is the destination port, or the type of an ICMP message.
pub fn evaluate(
    rows: &PolicyRows,
    direction: Direction,
    remote: Identity,
    protocol: u8,
    port: u16,
) -> Verdict {
    let _ = (rows, direction, remote, protocol, port);
    Verdict::DeniedByDefault
}
