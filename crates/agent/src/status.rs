//! How the node is doing, part by part, and what to do where it is not well.

pub(crate) mod cluster;
mod kernel;
mod neighbours;
mod remedies;
mod services;
mod sockets;

use std::collections::BTreeMap;

use axon_api::agent::{HubbleStatus, MapUse, PartStatus, State, Status};

use crate::endpoints::{Record, Stage};
use crate::engine::Enforced;
use crate::node::Node;
use crate::problem::chain;

pub(crate) use neighbours::Neighbours;

/// How many of a kind are named; `axon` lists show the rest.
const NAMED: usize = 5;

/// The status of everything.
pub(crate) fn status(node: &Node) -> Status {
    let view = node.view();
    let uses = pressure(node);
    let parts: BTreeMap<String, PartStatus> = [
        ("agent", cluster::agent(node, &view)),
        ("sources", cluster::sources(node)),
        ("policy", cluster::policy(node, &view)),
        ("endpoints", cluster::endpoints(node, &view)),
        ("services", services::services(node, &view)),
        ("ipam", cluster::ipam(node)),
        ("devices", kernel::devices(node)),
        ("datapath", kernel::datapath(node, &view)),
        ("sockets", sockets::sockets(node)),
        ("maps", kernel::maps(&uses)),
        ("conntrack", kernel::conntrack(node)),
        ("events", kernel::events(node)),
        ("neighbours", neighbours::neighbours(node)),
        ("cni", cluster::cni(node)),
    ]
    .into_iter()
    .map(|(name, status)| (name.to_owned(), status))
    .collect();
    Status {
        cilium: whole(&parts),
        node: node.config.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        parts,
        bpf_maps: uses
            .iter()
            .map(|m| {
                let used = MapUse {
                    entries: Some(m.entries),
                    capacity: m.capacity,
                };
                (m.map.to_owned(), used)
            })
            .collect(),
        policy_revision: view.report.policy_revision,
        policy_enforced_revision: view.enforced_revision,
        hubble: HubbleStatus {
            observer: node.flows.observer(),
        },
    }
}

/// How full the maps are; none where that cannot be read.
pub(crate) fn pressure(node: &Node) -> Vec<axon_linux::MapUse> {
    node.maps.pressure().unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "use of maps cannot be read");
        Vec::new()
    })
}

/// As bad as the worst part.
fn whole(parts: &BTreeMap<String, PartStatus>) -> PartStatus {
    let worst = parts.iter().max_by_key(|(_, part)| part.state);
    match worst {
        Some((name, part)) if part.state > State::Ok => PartStatus {
            state: part.state,
            msg: format!("{name}: {}", part.msg),
            remedy: part.remedy.clone(),
        },
        _ => well("OK"),
    }
}

fn well(msg: impl Into<String>) -> PartStatus {
    PartStatus {
        state: State::Ok,
        msg: msg.into(),
        remedy: String::new(),
    }
}

fn bad(state: State, msg: impl Into<String>, remedy: impl Into<String>) -> PartStatus {
    PartStatus {
        state,
        msg: msg.into(),
        remedy: remedy.into(),
    }
}

/// The first few of many, and how many more there are.
fn few(items: Vec<String>) -> String {
    let all = items.len();
    few_of(items, all)
}

/// The first few of `all`, of which not every one is at hand.
fn few_of(mut items: Vec<String>, all: usize) -> String {
    items.truncate(NAMED);
    let more = all.saturating_sub(items.len());
    let mut text = items.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// Cilium's word for where an endpoint stands.
pub(crate) fn endpoint_state(record: &Record, decided: Option<&Enforced>) -> &'static str {
    use axon_control::WaitReason::Sources;
    use axon_model::EndpointState::WaitingForIdentity;
    match (record.stage, decided) {
        (Stage::Leaving, _) => "disconnecting",
        (_, Some(endpoint)) if endpoint.is_ready() => "ready",
        (Stage::Made, None) => "restoring",
        (Stage::Making, None) => "waiting-for-identity",
        (_, Some(endpoint)) => match (&endpoint.status.waiting, endpoint.status.state) {
            (Some(Sources { .. }), _) => "restoring",
            (_, WaitingForIdentity) => "waiting-for-identity",
            _ => "regenerating",
        },
    }
}
