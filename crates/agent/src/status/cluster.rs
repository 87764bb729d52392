//! What the node is asked for: sources, policy, endpoints, addresses.

use axon_api::agent::{PartStatus, State};
use axon_control::ConditionKind;
use axon_sources::{FileStatus, PolicyRefusal, SourceStatus};

use super::{bad, endpoint_state, few, well};
use crate::endpoints::Stage;
use crate::engine::View;
use crate::node::{Node, lock};

pub(super) fn agent(node: &Node, view: &View) -> PartStatus {
    if let Some(error) = &view.persist_error {
        return bad(
            State::Failure,
            format!("state cannot be written, so no change reaches the kernel: {error}"),
            "see that the state-dir can be written and its disk is not full",
        );
    }
    if let Some(error) = &view.trial_error {
        return bad(
            State::Warning,
            format!("what became of policy for the node itself cannot be written: {error}"),
            "see that the lib-dir can be written and its disk is not full",
        );
    }
    if let Some(error) = &view.kept_error {
        return bad(
            State::Warning,
            format!("the next start of the node would begin with policy of before: {error}"),
            "see that the lib-dir can be written and its disk is not full",
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
    let status = node.sources.borrow().clone();
    // Those of the API's services are files too.
    if node.config.manifests.is_empty() && status.files.is_empty() {
        return bad(
            State::Warning,
            "no source of manifests is configured",
            "name a directory by manifests-dir, or have services by axon service upsert",
        );
    }
    let lost: Vec<String> = status.files.iter().filter_map(lost).collect();
    if !lost.is_empty() {
        return bad(
            State::Failure,
            few(lost),
            "correct the files, or remove them if their objects are to go; until then what is in the kernel stays, and no change of policy and no new endpoint comes into force",
        );
    }
    let wrong = not_in_force(&status);
    if !wrong.is_empty() {
        return bad(
            State::Warning,
            few(wrong),
            "correct the files; until then what they held before stays in force",
        );
    }
    if !status.not_kept.is_empty() {
        let files = status.not_kept.iter();
        let told = files.map(|file| format!("{}: {}", file.path.display(), file.reason));
        return bad(
            State::Warning,
            format!(
                "what is kept of manifests for a restart does not follow: {}",
                few(told.collect())
            ),
            "see that the lib-dir can be written and its disk is not full",
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

/// What a source cannot take, in a line each.
pub(crate) fn not_in_force(status: &SourceStatus) -> Vec<String> {
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
    wrong
}

/// A policy that is not in force, and why.
pub(crate) fn refusal(refused: &PolicyRefusal) -> String {
    let stays = match refused.earlier_in_force {
        true => "; its earlier version stays in force",
        false => "",
    };
    format!(
        "{} {} in {}: {}{stays}",
        refused.kind,
        refused.object,
        refused.path.display(),
        refused.error
    )
}

/// What is told of a file whose last good content should be in force, and is lost.
fn lost(file: &FileStatus) -> Option<String> {
    let lost = file.lost.as_ref()?;
    let why = match &file.error {
        Some(error) => error.to_string(),
        None => "policies of it are refused".to_owned(),
    };
    let path = file.path.display();
    Some(format!(
        "{path}: {why}; what was in force of it is lost: {lost}"
    ))
}

pub(super) fn policy(node: &Node, view: &View) -> PartStatus {
    let sources = node.sources.borrow().clone();
    let mut wrong: Vec<String> = sources.refused.iter().map(refusal).collect();
    let mut remedy = String::new();
    let mut state = State::Warning;
    for condition in &view.report.conditions {
        // That sources are not complete is told where sources are, and what is wrong with
        // services where they are.
        let is_of_others = [ConditionKind::SourceIncomplete, ConditionKind::Fault];
        if is_of_others.contains(&condition.kind) {
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
