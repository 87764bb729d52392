//! Waiting until a lab is as asked for: pods ready, policy enforced, every
//! node told of every pod.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axon_api::agent::{IpView, PolicyView, Status};
use axon_api::manifest;
use axon_model::PolicyObject;

use crate::control::{self, PodReport, Report};
use crate::http;
use crate::manifest::Object;
use crate::paths::Lab;
use crate::status::tell;
use crate::up::tail;

/// How often is looked.
const POLL: Duration = Duration::from_millis(25);
/// Kinds that become rules.
const POLICIES: [&str; 3] = [
    "NetworkPolicy",
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
];

/// What a policy manifest stands for, as the agents read it.
///
/// # Errors
/// Why it cannot be put in force, with the field.
pub(crate) fn policy_of(object: &Object) -> Result<Option<PolicyObject>> {
    if !POLICIES.contains(&object.id.kind.as_str()) {
        return Ok(None);
    }
    let text = serde_norway::to_string(&object.value)?;
    let found = manifest::parse(text.as_bytes()).with_context(|| object.id.to_string())?;
    if let Some(refusal) = found.refused.into_iter().next() {
        return Err(refusal.error).with_context(|| object.id.to_string());
    }
    Ok(found.documents.into_iter().find_map(|d| match d.object {
        Some(manifest::Object::Policy(policy)) => Some(policy),
        _ => None,
    }))
}

/// Waits until the lab is as asked for, telling what comes about.
///
/// # Errors
/// Something will not come about by itself, or did not in time: what, why,
/// and the end of the log that tells more.
pub(crate) fn settled(lab: &Lab, timeout: Duration, tell: bool) -> Result<Report> {
    let end = Instant::now() + timeout;
    let mut told = BTreeMap::new();
    loop {
        let report = control::report(lab)?;
        if tell {
            progress(&report, &mut told);
        }
        for node in &report.nodes {
            if let Some(problem) = &node.problem {
                bail!("node {}: {problem}\n{}", node.name, tail(&node.log, 20));
            }
        }
        for pod in &report.pods {
            if let (Some(problem), false) = (&pod.problem, pod.ready) {
                bail!(
                    "pod {}/{}: {problem}\n{}",
                    pod.namespace,
                    pod.name,
                    pod_tail(pod)
                );
            }
        }
        let Some(missing) = missing(lab, &report)? else {
            return Ok(report);
        };
        if Instant::now() > end {
            bail!(
                "{missing}, after {} s\n{}",
                timeout.as_secs(),
                why(lab, &report)
            );
        }
        std::thread::sleep(POLL);
    }
}

fn pod_tail(pod: &PodReport) -> String {
    pod.log
        .as_ref()
        .map(|log| tail(log, 20))
        .unwrap_or_default()
}

/// The log that may tell why nothing goes on.
fn why(lab: &Lab, report: &Report) -> String {
    let pod = report.pods.iter().find(|pod| !pod.ready);
    match pod {
        Some(pod) if pod.log.as_ref().is_some_and(|log| log.exists()) => pod_tail(pod),
        Some(pod) => tail(&lab.node(&pod.node).log(), 20),
        None => tail(&lab.log(), 20),
    }
}

/// Tells of pods and nodes whose state has changed since last time.
fn progress(report: &Report, told: &mut BTreeMap<String, String>) {
    let nodes = report.nodes.iter().map(|node| {
        let state = if node.agent_pid.is_some() {
            "agent runs"
        } else {
            "starts its agent"
        };
        (format!("node {}", node.name), state.to_owned())
    });
    let pods = report.pods.iter().map(|pod| {
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        let state = if pod.ready {
            format!("ready on {} at {}", pod.node, ips.join(", "))
        } else {
            pod.doing.clone()
        };
        (format!("pod {}/{}", pod.namespace, pod.name), state)
    });
    for (name, state) in nodes.chain(pods) {
        if told.get(&name) != Some(&state) {
            tell(&format!("  {name:<32} {state}"));
            told.insert(name, state);
        }
    }
}

/// What is missing, if anything.
fn missing(lab: &Lab, report: &Report) -> Result<Option<String>> {
    if report.pending.is_some() {
        return Ok(report.pending.clone());
    }
    if let Some(pod) = report.pods.iter().find(|pod| !pod.ready) {
        return Ok(Some(format!(
            "pod {}/{} is not ready: {}",
            pod.namespace, pod.name, pod.doing
        )));
    }
    if let Some(node) = report.nodes.iter().find(|node| !node.answers) {
        return Ok(Some(format!(
            "the agent of node {} does not answer",
            node.name
        )));
    }
    let policies: Vec<PolicyObject> = report
        .objects
        .iter()
        .filter_map(|object| policy_of(object).transpose())
        .collect::<Result<_>>()?;
    for node in &report.nodes {
        if let Some(missing) = missing_on(lab, &node.name, &policies, &report.pods) {
            return Ok(Some(format!("node {}: {missing}", node.name)));
        }
    }
    Ok(None)
}

fn missing_on(
    lab: &Lab,
    node: &str,
    policies: &[PolicyObject],
    pods: &[PodReport],
) -> Option<String> {
    let socket = lab.node(node).socket();
    let view: PolicyView = match http::get_json(&socket, "/v1/policy") {
        Ok(view) => view,
        Err(error) => return Some(format!("{error:#}")),
    };
    for policy in policies {
        let there = view.policies.iter().find(|p| p.origin == policy.origin);
        if there.is_none_or(|p| p.rules != policy.rules) {
            return Some(format!(
                "{} {} is not in force",
                policy.origin.kind, policy.origin
            ));
        }
    }
    let wanted: BTreeSet<_> = policies.iter().map(|p| &p.origin).collect();
    if let Some(gone) = view.policies.iter().find(|p| !wanted.contains(&p.origin)) {
        return Some(format!(
            "{} {} is still in force",
            gone.origin.kind, gone.origin
        ));
    }
    let status: Status = match http::get_json(&socket, "/v1/healthz") {
        Ok(status) => status,
        Err(error) => return Some(format!("{error:#}")),
    };
    if status.policy_enforced_revision < view.revision {
        return Some(format!(
            "policy revision {} is not enforced yet, {} is",
            view.revision, status.policy_enforced_revision
        ));
    }
    let ips: Vec<IpView> = match http::get_json(&socket, "/v1/ip") {
        Ok(ips) => ips,
        Err(error) => return Some(format!("{error:#}")),
    };
    unknown_pod(&ips, pods)
}

/// A pod whose address the node does not take for it.
fn unknown_pod(known: &[IpView], pods: &[PodReport]) -> Option<String> {
    let known: BTreeMap<&str, u32> = known
        .iter()
        .map(|ip| (ip.cidr.split('/').next().unwrap_or_default(), ip.identity))
        .collect();
    for pod in pods.iter().filter(|pod| !pod.host_network) {
        for ip in &pod.ips {
            if known.get(ip.to_string().as_str()) != Some(&pod.identity) {
                return Some(format!(
                    "{ip} is not known as {}/{} (identity {}) yet",
                    pod.namespace, pod.name, pod.identity
                ));
            }
        }
    }
    None
}
