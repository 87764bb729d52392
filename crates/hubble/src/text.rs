//! A flow as one line, the way `hubble observe` prints it.
//!
//! ```text
//! Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678)
//!     policy-verdict:none INGRESS DENIED (TCP Flags: SYN); no rule of default/rule1 allows it
//! ```

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use axon_abi::{DropReason, Identity, MatchType, ObservationPoint};

use crate::{
    AuthType, Endpoint, EventType, Flow, Layer4, LostEvents, LostSource, Policy, Response, Staged,
    TrafficDirection, Verdict,
};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Colour verdicts and names, for a terminal.
    pub color: bool,
    /// Say which node tells.
    pub node: bool,
    /// Addresses instead of names of pods.
    pub numeric: bool,
}

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const MAGENTA: &str = "35";
const CYAN: &str = "36";

/// The line of a response, without a line end.
pub fn line(response: &Response, style: Style) -> String {
    let mut text = response.time.stamp();
    if style.node {
        let _ = write!(text, " [{}]", clean(&response.node_name));
    }
    text.push_str(": ");
    match (&response.flow, &response.lost_events) {
        (Some(flow), _) => flow_text(&mut text, flow, style),
        (None, Some(lost)) => text.push_str(&lost_text(lost, style)),
        (None, None) => text.push_str("neither a flow nor a loss"),
    }
    text
}

fn flow_text(text: &mut String, flow: &Flow, style: Style) {
    let (source, destination) = (source_text(flow, style), destination_text(flow, style));
    let _ = match flow.is_reply {
        Some(true) => write!(text, "{destination} <- {source}"),
        Some(false) => write!(text, "{source} -> {destination}"),
        None => write!(text, "{source} <> {destination}"),
    };
    let _ = write!(text, " {} {}", type_text(flow), verdict_text(flow, style));
    let summary = clean(&flow.summary);
    let _ = match (flow.auth_type, summary.is_empty()) {
        (AuthType::Disabled, true) => Ok(()),
        (AuthType::Disabled, false) => write!(text, " ({summary})"),
        (auth, true) => write!(text, " (Auth: {})", auth.name()),
        (auth, false) => write!(text, " ({summary}; Auth: {})", auth.name()),
    };
    if let Some(why) = policy_text(flow) {
        let _ = write!(text, "; {}", clean(&why));
    }
    for log in &flow.policy_log {
        let _ = write!(text, " [{}]", clean(log));
    }
    if let Some(staged) = &flow.staged {
        let _ = write!(text, "; staged: {}", clean(&staged_text(staged)));
    }
}

/// What staged policies would do, in a clause.
fn staged_text(staged: &Staged) -> String {
    let names: Vec<String> = staged.policies.iter().map(Policy::to_string).collect();
    let names = names.join(", ");
    let by_default = staged.drop_reason_desc == DropReason::PolicyDenied.name();
    let unproved = staged.drop_reason_desc == DropReason::AuthRequired.name();
    match (staged.verdict, names.as_str()) {
        (Verdict::Dropped, "") => "would be denied".to_owned(),
        (_, "") => "would be allowed".to_owned(),
        (Verdict::Dropped, names) if by_default => format!("no rule of {names} would allow it"),
        (Verdict::Dropped, names) if unproved => {
            format!("{names} would demand authentication")
        }
        (Verdict::Dropped, names) => format!("{names} would deny it"),
        (_, names) => format!("{names} would allow it"),
    }
}

fn lost_text(lost: &LostEvents, style: Style) -> String {
    let place = match lost.source {
        LostSource::UnknownLostEventSource => "an unknown place",
        LostSource::PerfEventRingBuffer => "the kernel's ring buffer",
        LostSource::ObserverEventsQueue => "the agent's queue",
        LostSource::HubbleRingBuffer => "the agent's history",
    };
    let count = lost.num_events_lost;
    paint(&format!("EVENTS LOST: {count} in {place}"), RED, style).into_owned()
}

/// A text without what a terminal would obey: names come from whoever may
/// make a pod.
fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

fn paint<'a>(text: &'a str, color: &str, style: Style) -> Cow<'a, str> {
    if style.color {
        Cow::Owned(format!("\x1b[{color}m{text}\x1b[0m"))
    } else {
        Cow::Borrowed(text)
    }
}

fn source_text(flow: &Flow, style: Style) -> String {
    let mac = flow.ethernet.as_ref().map(|e| e.source.to_string());
    let port = ports(flow).map(|(source, _)| source);
    side_text(
        &flow.source,
        flow.ip.as_ref().map(|ip| ip.source),
        mac,
        port,
        style,
    )
}

fn destination_text(flow: &Flow, style: Style) -> String {
    let mac = flow.ethernet.as_ref().map(|e| e.destination.to_string());
    let port = ports(flow).map(|(_, destination)| destination);
    side_text(
        &flow.destination,
        flow.ip.as_ref().map(|ip| ip.destination),
        mac,
        port,
        style,
    )
}

fn ports(flow: &Flow) -> Option<(u16, u16)> {
    match flow.l4.as_ref()? {
        Layer4::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
        Layer4::Udp(port) | Layer4::Sctp(port) => Some((port.source_port, port.destination_port)),
        Layer4::ICMPv4(_) | Layer4::ICMPv6(_) => None,
    }
}

fn side_text(
    endpoint: &Endpoint,
    address: Option<IpAddr>,
    mac: Option<String>,
    port: Option<u16>,
    style: Style,
) -> String {
    let name = match address {
        Some(_) if !style.numeric && !endpoint.pod_name.is_empty() => match &*endpoint.namespace {
            "" => endpoint.pod_name.to_string(),
            namespace => format!("{namespace}/{}", endpoint.pod_name),
        },
        Some(IpAddr::V6(address)) if port.is_some() => format!("[{address}]"),
        Some(address) => address.to_string(),
        None => mac.unwrap_or_else(|| "?".to_owned()),
    };
    let mut text = paint(&clean(&name), CYAN, style).into_owned();
    if let Some(port) = port {
        let _ = write!(text, ":{}", paint(&port.to_string(), YELLOW, style));
    }
    if address.is_some() {
        let identity = Identity(endpoint.identity);
        let name = match identity.reserved_name() {
            Some(name) => name.to_owned(),
            None => match cidr_label(endpoint) {
                Some(label) => clean(label).into_owned(),
                None => format!("ID:{}", identity.0),
            },
        };
        let _ = write!(text, " ({})", paint(&name, MAGENTA, style));
    }
    text
}

/// The prefix that an identity of local scope stands for, as its label says.
fn cidr_label(endpoint: &Endpoint) -> Option<&str> {
    let label = endpoint.labels.iter().find(|l| l.starts_with("cidr:"))?;
    Some(label)
}

/// The kind of event in Hubble's words.
fn type_text(flow: &Flow) -> String {
    match flow.event_type.kind {
        EventType::DROP => reason_text(flow.drop_reason),
        EventType::TRACE => ObservationPoint::from_u8(flow.event_type.sub_type).map_or_else(
            || format!("trace:{}", flow.event_type.sub_type),
            |point| point_name(point).to_owned(),
        ),
        EventType::POLICY_VERDICT => {
            let direction = match flow.traffic_direction {
                TrafficDirection::Unknown => "TRAFFIC_DIRECTION_UNKNOWN",
                TrafficDirection::Ingress => "INGRESS",
                TrafficDirection::Egress => "EGRESS",
            };
            format!(
                "policy-verdict:{} {direction}",
                match_text(flow.policy_match_type)
            )
        }
        other => format!("event:{other}"),
    }
}

fn reason_text(reason: u32) -> String {
    u8::try_from(reason)
        .ok()
        .and_then(DropReason::from_u8)
        .map_or_else(
            || format!("unknown reason {reason}"),
            |r| r.text().to_owned(),
        )
}

fn match_text(number: u32) -> String {
    let name = match u8::try_from(number).ok().and_then(MatchType::from_u8) {
        Some(MatchType::None) => "none",
        Some(MatchType::L3Only) => "L3-Only",
        Some(MatchType::L3L4) => "L3-L4",
        Some(MatchType::L4Only) => "L4-Only",
        Some(MatchType::All) => "all",
        Some(MatchType::L3Proto) => "L3-Proto",
        Some(MatchType::ProtoOnly) => "Proto-Only",
        None => return number.to_string(),
    };
    name.to_owned()
}

/// An observation point in Hubble's words.
pub(crate) fn point_name(point: ObservationPoint) -> &'static str {
    match point {
        ObservationPoint::ToEndpoint => "to-endpoint",
        ObservationPoint::ToProxy => "to-proxy",
        ObservationPoint::ToHost => "to-host",
        ObservationPoint::ToStack => "to-stack",
        ObservationPoint::ToOverlay => "to-overlay",
        ObservationPoint::FromEndpoint => "from-endpoint",
        ObservationPoint::FromProxy => "from-proxy",
        ObservationPoint::FromHost => "from-host",
        ObservationPoint::FromStack => "from-stack",
        ObservationPoint::FromOverlay => "from-overlay",
        ObservationPoint::FromNetwork => "from-network",
        ObservationPoint::ToNetwork => "to-network",
    }
}

fn verdict_text(flow: &Flow, style: Style) -> Cow<'static, str> {
    let of_policy = flow.event_type.kind == EventType::POLICY_VERDICT;
    let (word, color) = match flow.verdict {
        Verdict::Forwarded if of_policy => ("ALLOWED", GREEN),
        Verdict::Forwarded => ("FORWARDED", GREEN),
        Verdict::Dropped if of_policy => ("DENIED", RED),
        Verdict::Dropped => ("DROPPED", RED),
        Verdict::Audit => ("AUDITED", YELLOW),
        Verdict::Redirected => ("REDIRECTED", YELLOW),
        Verdict::Traced => ("TRACED", YELLOW),
        Verdict::Translated => ("TRANSLATED", YELLOW),
        Verdict::Error => ("ERROR", RED),
        Verdict::VerdictUnknown => ("VERDICT_UNKNOWN", RED),
    };
    paint(word, color, style)
}

/// Which policies it was, in a clause; `None` if policy had no part in it.
fn policy_text(flow: &Flow) -> Option<String> {
    let denied = [&flow.ingress_denied_by, &flow.egress_denied_by];
    let allowed = [&flow.ingress_allowed_by, &flow.egress_allowed_by];
    let names = |lists: [&Vec<Policy>; 2]| {
        let names: Vec<String> = lists.into_iter().flatten().map(Policy::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let is = |reason: DropReason| flow.drop_reason == u32::from(reason as u8);
    match names(denied) {
        Some(policies) if is(DropReason::PolicyDenied) => {
            Some(format!("no rule of {policies} allows it"))
        }
        Some(policies) if is(DropReason::AuthRequired) => {
            Some(format!("{policies} demands authentication"))
        }
        Some(policies) => Some(format!("denied by {policies}")),
        None => names(allowed).map(|policies| format!("allowed by {policies}")),
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
