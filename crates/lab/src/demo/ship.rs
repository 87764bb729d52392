//! What the ships do, and what is known of it.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use axon_hubble::{Layer4, Response, Verdict};

use crate::control::{self, Report};
use crate::enter::axon;
use crate::paths::Lab;

/// The death star, as ships call it.
pub(super) const DEATH_STAR: &str = "deathstar.default.svc.cluster.local";
/// How long a ship waits for each of many answers.
const MANY_WAIT: Duration = Duration::from_secs(5);

/// How often a ship tries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Once, and waits so long for an answer.
    Once(Duration),
    /// So many times, one after the other.
    Many(u64),
}

/// How a ship fared.
#[derive(Clone, Debug)]
pub(super) struct Landing {
    /// Which ship.
    pub(super) ship: String,
    /// Over IPv6, or IPv4.
    pub(super) v6: bool,
    /// Every request was answered.
    pub(super) landed: bool,
    /// A request had no answer, not even a refusal.
    pub(super) unanswered: bool,
    /// The last line it got.
    pub(super) said: String,
}

/// Has a ship ask the death star for a landing, in its own pod, by name.
pub(super) fn land(lab: &Lab, ship: &str, v6: bool, target: Target) -> Result<Landing> {
    let axon = axon()?;
    let family = if v6 { "-6" } else { "-4" };
    let (count, wait) = match target {
        Target::Once(wait) => (1, wait),
        Target::Many(count) => (count, MANY_WAIT),
    };
    let output = Command::new(&axon)
        .args(["lab", "-L", &lab.name, "exec", ship, "--"])
        .arg(&axon)
        .args(["lab", "connect", "http", family, "--method", "POST"])
        .args(["--timeout-ms", &wait.as_millis().to_string()])
        .args(["--interval-ms", "10"])
        .args([
            "--count",
            &count.to_string(),
            &format!("{DEATH_STAR}/v1/request-landing"),
        ])
        .stdin(Stdio::null())
        .output()
        .context("starting a ship")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = text.lines().last().or_else(|| complaint.lines().last());
    Ok(Landing {
        ship: ship.to_owned(),
        v6,
        landed: output.status.success(),
        // As `axon lab connect` says it.
        unanswered: output.status.code() == Some(2),
        said: said.unwrap_or_default().to_owned(),
    })
}

/// How many connections of a pod the death star's pods have logged.
pub(super) fn sightings(lab: &Lab, report: &Report, pod: &str) -> Result<usize> {
    let ips: Vec<IpAddr> = report
        .pods
        .iter()
        .filter(|p| p.name == pod)
        .flat_map(|p| p.ips.clone())
        .collect();
    let mut count = 0;
    for pod in report
        .pods
        .iter()
        .filter(|p| p.name.starts_with("deathstar"))
    {
        let log = lab.pod(&pod.namespace, &pod.name).log("deathstar");
        let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        count += text
            .lines()
            .filter_map(|line| line.strip_prefix("tcp 80 from "))
            .filter_map(|peer| peer.parse::<std::net::SocketAddr>().ok())
            .filter(|peer| ips.contains(&peer.ip()))
            .count();
    }
    Ok(count)
}

/// The flow of a line of the monitor, if it tells that a packet of the xwing
/// to port 80 of the death star was dropped, and by which policy.
pub(super) fn dropped(line: &str, v6: bool) -> Option<Response> {
    let response: Response = serde_json::from_str(line).ok()?;
    let flow = response.flow.as_ref()?;
    let port = match flow.l4.as_ref()? {
        Layer4::Tcp(tcp) => tcp.destination_port,
        _ => return None,
    };
    let told = flow.verdict == Verdict::Dropped
        && flow.drop_reason_desc == "POLICY_DENIED"
        && &*flow.source.pod_name == "xwing"
        && flow.destination.pod_name.starts_with("deathstar")
        && port == 80
        && flow
            .ingress_denied_by
            .iter()
            .any(|policy| policy.name == "rule1".into())
        && flow.ip.as_ref()?.destination.is_ipv6() == v6;
    told.then_some(response)
}

/// The agent's process, if there is one right now.
pub(super) fn agent(lab: &Lab) -> Result<Option<u32>> {
    let report = control::report(lab)?;
    Ok(report.nodes.first().and_then(|node| node.agent_pid))
}
