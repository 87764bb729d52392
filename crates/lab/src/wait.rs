//! Waiting until a lab is as asked for: pods ready, policy enforced, every
//! node told of every pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axon_api::agent::{EndpointView, IdentityView, IpView, PolicyView, Status};
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
const POLICIES: [&str; 4] = [
    "NetworkPolicy",
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "ClusterNetworkPolicy",
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

/// What a node is still to come to. An agent that does not say so has it yet
/// to come.
fn missing_on(
    lab: &Lab,
    node: &str,
    policies: &[PolicyObject],
    pods: &[PodReport],
) -> Option<String> {
    look(lab, node, policies, pods).unwrap_or_else(|error| Some(format!("{error:#}")))
}

fn look(
    lab: &Lab,
    node: &str,
    policies: &[PolicyObject],
    pods: &[PodReport],
) -> Result<Option<String>> {
    let socket = lab.node(node).socket();
    let view: PolicyView = http::get_json(&socket, "/v1/policy")?;
    for policy in policies {
        let there = view.policies.iter().find(|p| p.origin == policy.origin);
        let is_it = |p: &PolicyObject| p.rules == policy.rules && p.staged == policy.staged;
        if !there.is_some_and(is_it) {
            let PolicyObject { origin, .. } = policy;
            return Ok(Some(format!("{} {origin} is not in force", origin.kind)));
        }
    }
    let wanted: BTreeSet<_> = policies.iter().map(|p| &p.origin).collect();
    if let Some(gone) = view.policies.iter().find(|p| !wanted.contains(&p.origin)) {
        let PolicyObject { origin, .. } = gone;
        return Ok(Some(format!("{} {origin} is still in force", origin.kind)));
    }
    let status: Status = http::get_json(&socket, "/v1/healthz")?;
    if status.policy_enforced_revision < view.revision {
        return Ok(Some(format!(
            "policy revision {} is not enforced yet, {} is",
            view.revision, status.policy_enforced_revision
        )));
    }
    let known = Known {
        ips: http::get_json(&socket, "/v1/ip")?,
        endpoints: http::get_json(&socket, "/v1/endpoint")?,
        identities: http::get_json(&socket, "/v1/identity")?,
    };
    let pods = || pods.iter().filter(|pod| !pod.host_network);
    let own = pods().filter(|pod| pod.node == node);
    let missing = known.without_address(pods());
    Ok(missing.or_else(|| known.without_identity(own)))
}

/// What a node knows of pods.
struct Known {
    ips: Vec<IpView>,
    endpoints: Vec<EndpointView>,
    identities: Vec<IdentityView>,
}

impl Known {
    /// Whether a number stands for who has another in the cluster: where
    /// prefixes select pods, a node tells pods of one identity apart by the
    /// prefix that they are in.
    fn is(&self, found: Option<u32>, wanted: u32) -> bool {
        let labels = |id: u32| {
            let identity = self.identities.iter().find(|i| i.id == id)?;
            let all = identity.labels.iter();
            let own = all.filter(|(of, ..)| *of != axon_model::source::CIDR);
            Some(own.collect::<Vec<_>>())
        };
        found.is_some_and(|found| {
            let of_found = labels(found);
            found == wanted || (of_found.is_some() && of_found == labels(wanted))
        })
    }

    /// A pod whose address is not taken for it.
    fn without_address<'p>(&self, mut pods: impl Iterator<Item = &'p PodReport>) -> Option<String> {
        let host = |ip: &IpView| ip.cidr.split('/').next().unwrap_or_default().to_owned();
        let ips: BTreeMap<String, u32> =
            self.ips.iter().map(|ip| (host(ip), ip.identity)).collect();
        pods.find_map(|pod| {
            let found = |ip: &IpAddr| ips.get(&ip.to_string()).copied();
            let ip = pod
                .ips
                .iter()
                .find(|ip| !self.is(found(ip), pod.identity))?;
            Some(format!(
                "{ip} is not known as {}/{} (identity {}) yet",
                pod.namespace, pod.name, pod.identity
            ))
        })
    }

    /// A pod of this node whose endpoint has another identity.
    fn without_identity<'p>(
        &self,
        mut pods: impl Iterator<Item = &'p PodReport>,
    ) -> Option<String> {
        let pod = pods.find(|pod| {
            let of_pod = |e: &&EndpointView| e.status.external_identifiers.container_id == pod.uid;
            let endpoint = self.endpoints.iter().find(of_pod);
            !self.is(endpoint.map(|e| e.status.identity.id), pod.identity)
        })?;
        Some(format!(
            "the endpoint of {}/{} has not got identity {} yet",
            pod.namespace, pod.name, pod.identity
        ))
    }
}

#[cfg(test)]
mod tests {
    use axon_api::agent::{EndpointView, IdentityView, IpView};
    use axon_model::Label;

    use super::Known;
    use crate::control::PodReport;

    fn identity(id: u32, labels: &[&str]) -> IdentityView {
        let label = |text: &&str| text.parse::<Label>().expect("a label");
        IdentityView {
            id,
            labels: labels.iter().map(label).collect(),
        }
    }

    fn endpoint(uid: &str, identity: u32) -> EndpointView {
        let mut view = EndpointView::default();
        view.status.external_identifiers.container_id = uid.into();
        view.status.identity.id = identity;
        view
    }

    #[test]
    fn a_pod_is_known_by_its_number_or_by_one_of_its_place() {
        let pod = PodReport {
            uid: "u".into(),
            ips: vec!["10.0.0.9".parse().expect("an address")],
            identity: 300,
            ..PodReport::default()
        };
        for (number, expected) in [
            (Some(300), true),
            (Some(400), true),
            (Some(301), false),
            (Some(999), false),
            (None, false),
        ] {
            let ip = |identity| IpView {
                cidr: "10.0.0.9/32".into(),
                identity,
                ..IpView::default()
            };
            let known = Known {
                ips: number.map(ip).into_iter().collect(),
                endpoints: number.map(|n| endpoint("u", n)).into_iter().collect(),
                identities: vec![
                    identity(300, &["k8s:app=a"]),
                    identity(301, &["k8s:app=b"]),
                    identity(400, &["k8s:app=a", "cidr:10.0.0.0/24="]),
                ],
            };
            let pods = || std::iter::once(&pod);
            let found = known.without_address(pods());
            assert_eq!(found.is_none(), expected, "{number:?}: {found:?}");
            let found = known.without_identity(pods());
            assert_eq!(found.is_none(), expected, "{number:?}: {found:?}");
        }
    }
}
