//! How the node is doing, part by part, and what to do where it is not well.

mod parts;

use std::collections::BTreeMap;

use axon_api::agent::{MapUse, PartStatus, State, Status};

use crate::endpoints::{Record, Stage};
use crate::engine::Enforced;
use crate::node::Node;
use crate::problem::chain;

/// The status of everything.
pub(crate) fn status(node: &Node) -> Status {
    let view = node.view();
    let uses = pressure(node);
    let parts: BTreeMap<String, PartStatus> = [
        ("agent", parts::agent(node, &view)),
        ("sources", parts::sources(node)),
        ("policy", parts::policy(node, &view)),
        ("endpoints", parts::endpoints(node, &view)),
        ("ipam", parts::ipam(node)),
        ("devices", parts::devices(node)),
        ("datapath", parts::datapath(node, &view)),
        ("maps", parts::maps(&uses)),
        ("conntrack", parts::conntrack(node)),
        ("events", parts::events(node)),
        ("cni", parts::cni(node)),
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

pub(crate) fn well(msg: impl Into<String>) -> PartStatus {
    PartStatus {
        state: State::Ok,
        msg: msg.into(),
        remedy: String::new(),
    }
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
