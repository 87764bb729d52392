//! What a line proves.

use axon_model::Protocol;

use crate::line::{Layer4, Line};

/// Number of policy verdicts among Cilium's events.
const POLICY_VERDICT: u8 = 5;
/// Reasons of drops that are policy's.
const BY_POLICY: [&str; 3] = ["POLICY_DENIED", "POLICY_DENY", "AUTH_REQUIRED"];

/// Which end's policy has spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The sender's.
    Egress,
    /// The receiver's.
    Ingress,
    /// It is not told.
    Unknown,
}

/// What a line proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Policy let it pass here.
    Passed(Side),
    /// Policy did not.
    Denied(Side),
    /// What it answers has passed at both ends.
    Reply,
    /// Nothing that was to be expected otherwise.
    Nothing,
    /// Nothing, for this reason.
    Unclear(&'static str),
}

/// What a line proves.
pub(crate) fn sight(line: &Line, (protocol, port): (Protocol, u16), l4: &Layer4) -> Sight {
    let side = match line.traffic_direction.as_str() {
        "EGRESS" => Side::Egress,
        "INGRESS" => Side::Ingress,
        _ => Side::Unknown,
    };
    // Seen on its way to where policy decides.
    if line.trace_observation_point.starts_with("FROM_") {
        return Sight::Nothing;
    }
    let passed = match line.verdict.as_str() {
        "FORWARDED" | "REDIRECTED" | "AUDIT" => true,
        "DROPPED" if by_policy(line) => false,
        "DROPPED" | "ERROR" => return Sight::Nothing,
        // At a socket: services are not translated yet.
        "TRACED" | "TRANSLATED" => return Sight::Nothing,
        _ => {
            return Sight::Unclear(
                "no verdict that is known; expected FORWARDED, REDIRECTED, AUDIT or DROPPED",
            );
        }
    };
    match (line.is_reply, line.trace_reason.as_str()) {
        // Errors about a connection pass with it.
        (_, "RELATED") => return Sight::Nothing,
        (Some(true), _) | (None, "REPLY") if passed => return Sight::Reply,
        (Some(true), _) | (None, "REPLY") => return Sight::Nothing,
        (None, _) if passed && !opens(line, protocol, port, l4) => {
            return Sight::Unclear(
                "whether it opens a connection or answers (is_reply) is not told",
            );
        }
        (Some(false) | None, _) => {}
    }
    let has_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol);
    if has_ports && port == 0 {
        return Sight::Unclear("no destination port (a later fragment?)");
    }
    match passed {
        true => Sight::Passed(side),
        false => Sight::Denied(side),
    }
}

fn by_policy(line: &Line) -> bool {
    line.event_type.kind == POLICY_VERDICT || BY_POLICY.contains(&line.drop_reason_desc.as_str())
}

/// Whether a packet can only be the first of its connection.
fn opens(line: &Line, protocol: Protocol, port: u16, l4: &Layer4) -> bool {
    let flag = |name: &str| l4.flags.get(name) == Some(&true);
    line.event_type.kind == POLICY_VERDICT
        || (protocol == Protocol::TCP && flag("SYN") && !flag("ACK"))
        || (protocol, port) == (Protocol::ICMP, 8)
        || (protocol, port) == (Protocol::ICMPV6, 128)
}
