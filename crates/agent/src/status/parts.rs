//! The parts of the status.

use std::time::Duration;

use axon_api::agent::{PartStatus, State};
use axon_control::ConditionKind;
use axon_linux::MapUse;

use super::{endpoint_state, well};
use crate::endpoints::Stage;
use crate::engine::View;
use crate::node::{Node, lock};

/// From how full on a map is worth a look, in percent.
const PRESSURE_WARNING: u64 = 80;
/// How long a loss of events is worth telling.
const LOSS_TOLD: Duration = Duration::from_secs(300);
/// How many of a kind are named; `axon` lists show the rest.
const NAMED: usize = 5;

fn bad(state: State, msg: impl Into<String>, remedy: impl Into<String>) -> PartStatus {
    PartStatus {
        state,
        msg: msg.into(),
        remedy: remedy.into(),
    }
}

/// The first few of many, and how many more there are.
fn few(mut items: Vec<String>) -> String {
    let more = items.len().saturating_sub(NAMED);
    items.truncate(NAMED);
    let mut text = items.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

pub(super) fn agent(node: &Node, view: &View) -> PartStatus {
    if let Some(error) = &view.persist_error {
        return bad(
            State::Failure,
            format!("state cannot be written, so no change reaches the kernel: {error}"),
            "see that the state-dir can be written and its disk is not full",
        );
    }
    if !node.is_ready() {
        return bad(
            State::Warning,
            "starting: what was in force before stays in force",
            "wait; if it lasts, the part sources says what is missing",
        );
    }
    well(format!("{} passes of the control loop", view.passes))
}

pub(super) fn sources(node: &Node) -> PartStatus {
    if node.config.manifests.is_empty() {
        return bad(
            State::Warning,
            "no source of manifests is configured",
            "name a directory by manifests-dir",
        );
    }
    let status = node.sources.borrow().clone();
    let mut wrong: Vec<String> = status
        .directories
        .iter()
        .map(|d| {
            format!(
                "directory {} cannot be read: {}",
                d.path.display(),
                d.reason
            )
        })
        .collect();
    for file in &status.files {
        if let Some(error) = &file.error {
            wrong.push(format!("{}: {error}", file.path.display()));
        }
    }
    for conflict in &status.conflicts {
        wrong.push(format!(
            "{} {} is defined by {} and again by {}, which does not count",
            conflict.kind,
            conflict.object,
            conflict.winner.display(),
            conflict.loser.display()
        ));
    }
    if !wrong.is_empty() {
        return bad(
            State::Warning,
            few(wrong),
            "correct the files; until then what they held before stays in force",
        );
    }
    if !status.complete {
        return bad(
            State::Warning,
            "the manifests are not read yet; nothing is removed meanwhile",
            "see that the directories of manifests-dir exist and can be read",
        );
    }
    well(format!(
        "{} objects in {} files",
        status.objects,
        status.files.len()
    ))
}

pub(super) fn policy(node: &Node, view: &View) -> PartStatus {
    let sources = node.sources.borrow().clone();
    let mut wrong: Vec<String> = sources
        .refused
        .iter()
        .map(|r| {
            let stays = if r.earlier_in_force {
                "; its earlier version stays in force"
            } else {
                ""
            };
            format!(
                "{} {} in {}: {}{stays}",
                r.kind,
                r.object,
                r.path.display(),
                r.error
            )
        })
        .collect();
    let mut remedy = String::new();
    let mut state = State::Warning;
    for condition in &view.report.conditions {
        // That sources are not complete is told where sources are.
        if condition.kind == ConditionKind::SourceIncomplete {
            continue;
        }
        if matches!(
            condition.kind,
            ConditionKind::PolicyOverflow
                | ConditionKind::RowsOverflow
                | ConditionKind::IdentitiesExhausted
        ) {
            state = State::Failure;
        }
        if remedy.is_empty() {
            remedy.clone_from(&condition.remedy);
        }
        wrong.push(condition.message.clone());
    }
    if !wrong.is_empty() {
        if remedy.is_empty() {
            remedy.push_str("correct the policies that are named");
        }
        return bad(state, few(wrong), remedy);
    }
    let policies = node.observed.policies.snapshot().len();
    let audit = if node.config.network.audit {
        ", audited only"
    } else {
        ""
    };
    well(format!(
        "{policies} policies, revision {}{audit}",
        view.report.policy_revision
    ))
}

pub(super) fn endpoints(node: &Node, view: &View) -> PartStatus {
    let records = node.endpoints.records.all();
    let mut late = Vec::new();
    let mut ready = 0;
    for record in &records {
        let id = record.endpoint.id;
        let decided = view.endpoints.get(&id);
        match (record.stage, endpoint_state(record, decided)) {
            (_, "ready") => ready += 1,
            // ADD itself tells its caller.
            (Stage::Making | Stage::Leaving, _) => {}
            (Stage::Made, state) => {
                let why = decided.and_then(|e| e.status.waiting.as_ref());
                let why = why.map(|w| format!(": {w}")).unwrap_or_default();
                late.push(format!("endpoint {id} is {state}{why}"));
            }
        }
    }
    if late.is_empty() {
        return well(format!("{ready} of {} ready", records.len()));
    }
    bad(
        State::Warning,
        few(late),
        "what was enforced stays so; the reason tells what is missing",
    )
}

pub(super) fn ipam(node: &Node) -> PartStatus {
    let this = node.observed.nodes.get(&node.config.node_name);
    let network = &node.config.network;
    let pools: Vec<_> = this
        .map(|n| n.pod_cidrs.clone())
        .unwrap_or_default()
        .into_iter()
        .filter(|net| match net {
            ipnet::IpNet::V4(_) => network.ipv4,
            ipnet::IpNet::V6(_) => network.ipv6,
        })
        .collect();
    if pools.is_empty() {
        return bad(
            State::Warning,
            format!(
                "node {} has no pod CIDR: no endpoint can be made",
                node.config.node_name
            ),
            "give the Node object spec.podCIDRs, in a directory that manifests-dir names",
        );
    }
    let ipam = lock(&node.endpoints.ipam);
    let mut texts = Vec::new();
    let mut state = State::Ok;
    for pool in &pools {
        let used = ipam.iter().filter(|(addr, _)| pool.contains(addr)).count();
        let bits = u32::from(pool.max_prefix_len() - pool.prefix_len());
        // The network's, the node's own and the broadcast address are kept.
        let size = 1_u64
            .checked_shl(bits)
            .unwrap_or(u64::MAX)
            .saturating_sub(3);
        if used as u64 >= size {
            state = state.max(State::Failure);
        } else if used as u64 * 100 >= size.saturating_mul(90) {
            state = state.max(State::Warning);
        }
        texts.push(match bits {
            0..=32 => format!("{used} of {size} of {pool}"),
            _ => format!("{used} of {pool}"),
        });
    }
    let remedy = if state > State::Ok {
        "give the node a larger pod CIDR"
    } else {
        ""
    };
    bad(state, texts.join(", "), remedy)
}

pub(super) fn devices(node: &Node) -> PartStatus {
    let uplinks = node.uplinks.borrow().clone();
    if !uplinks.missing.is_empty() {
        return bad(
            State::Warning,
            format!("device {} does not exist", uplinks.missing.join(", ")),
            "correct the devices option, or make the device",
        );
    }
    if uplinks.devices.is_empty() {
        return bad(
            State::Warning,
            "no device of the node has a default route or an address of the Node object: pods \
             reach this node only",
            "name the devices by the devices option, or set up the node's network",
        );
    }
    let down: Vec<String> = uplinks
        .devices
        .iter()
        .filter(|d| !d.up)
        .map(|d| d.name.clone())
        .collect();
    if !down.is_empty() {
        let msg = format!("device {} is down", down.join(", "));
        return bad(State::Warning, msg, "set it up (ip link set DEVICE up)");
    }
    well(format!(
        "{}, MTU {}",
        uplinks.names().join(", "),
        uplinks.mtu
    ))
}

pub(super) fn datapath(node: &Node, view: &View) -> PartStatus {
    let mut failing = Vec::new();
    for (table, report) in &view.reconcile.tables {
        for (row, error) in &report.failing {
            failing.push(format!("{table} {row}: {error}"));
        }
    }
    if !failing.is_empty() {
        return bad(
            State::Failure,
            format!("the kernel does not take rows: {}", few(failing)),
            "they are tried again; where a map is full, raise its size option and restart the agent",
        );
    }
    let datapath = lock(&node.datapath);
    let adoption = datapath.adoption();
    let lost: Vec<String> = adoption
        .recreated
        .iter()
        .filter(|map| map.carried == 0)
        .map(|map| {
            format!(
                "{} ({} {} before, {} now)",
                map.map, map.field, map.found, map.expected
            )
        })
        .collect();
    let generation = format!(
        "generation {}, {} links, {} maps adopted",
        adoption.generation,
        datapath.attached().len(),
        adoption.adopted.len()
    );
    if lost.is_empty() {
        well(generation)
    } else {
        well(format!("{generation}; made anew: {}", few(lost)))
    }
}

pub(super) fn maps(uses: &[MapUse]) -> PartStatus {
    let full: Vec<String> = uses
        .iter()
        .filter(|m| u64::from(m.entries) * 100 >= u64::from(m.capacity) * PRESSURE_WARNING)
        .map(|m| format!("{} holds {} of {}", m.map, m.entries, m.capacity))
        .collect();
    if full.is_empty() {
        return well(format!(
            "{} maps, none above {PRESSURE_WARNING} %",
            uses.len()
        ));
    }
    bad(
        State::Warning,
        few(full),
        "raise the size of the map (bpf-ct-global-tcp-max, bpf-nat-global-max, bpf-policy-map-max) \
         and restart the agent; nothing is interrupted",
    )
}

pub(super) fn conntrack(node: &Node) -> PartStatus {
    let state = lock(&node.sweeps).clone();
    if let Some(error) = state.error {
        return bad(
            State::Warning,
            format!("connections are not swept: {error}"),
            "see the agent's log",
        );
    }
    let early: u32 = state.last.maps.iter().map(|m| m.evicted_early).sum();
    let texts: Vec<String> = state
        .last
        .maps
        .iter()
        .map(|m| format!("{} {}", m.map, m.entries))
        .collect();
    if early > 0 {
        return bad(
            State::Warning,
            format!("{early} connections were removed before their time: the table is too small"),
            "raise bpf-ct-global-tcp-max, or lower the timeouts (bpf-ct-timeout-…)",
        );
    }
    well(if texts.is_empty() {
        "not swept yet".to_owned()
    } else {
        texts.join(", ")
    })
}

pub(super) fn events(node: &Node) -> PartStatus {
    let (seen, lost) = node.metrics.events();
    let (_, held) = node.flows.seen();
    let text = format!("{seen} seen, {lost} lost, {held} held");
    if node.metrics.lost_within(LOSS_TOLD) {
        return bad(
            State::Warning,
            text,
            "the agent is behind the packets: raise monitor-aggregation or its interval",
        );
    }
    well(text)
}

pub(super) fn cni(node: &Node) -> PartStatus {
    match node.queue.list(".") {
        Ok(waiting) if waiting.is_empty() => well("no deletion waits"),
        Ok(waiting) => bad(
            State::Warning,
            format!("{} queued deletions wait", waiting.len()),
            "they are tried again; see the agent's log for the reason",
        ),
        Err(error) => bad(
            State::Warning,
            crate::problem::chain(&error),
            "see that the directory of the API socket can be read",
        ),
    }
}
