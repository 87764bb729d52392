//! `axon lab status`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::cli::Output;
use crate::control::{self, Report};
use crate::paths::Lab;

/// What `axon lab status -o json` prints.
#[derive(Debug, Serialize)]
struct View {
    nodes: Vec<NodeView>,
    pods: Vec<PodView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    name: String,
    netns: PathBuf,
    agent_pid: Option<u32>,
    api_socket: PathBuf,
    hubble_socket: PathBuf,
    bpf_root: PathBuf,
    cgroup: PathBuf,
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize)]
struct PodView {
    namespace: String,
    name: String,
    node: String,
    netns: PathBuf,
    pids: Vec<u32>,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
    identity: u32,
    ready: bool,
}

/// Shows a lab.
pub(crate) fn run(lab: &Lab, output: Output) -> Result<()> {
    let report = control::report(lab)?;
    let text = match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&view(lab, &report))?;
            text + "\n"
        }
        Output::Table => table(lab, &report)?,
    };
    say(&text)
}

/// Prints a line of progress. Nobody reading on is no reason to stop: what is
/// being made is made.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints; a reader who has seen enough is no error.
pub(crate) fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn view(lab: &Lab, report: &Report) -> View {
    let nodes = report.nodes.iter().map(|node| {
        let paths = lab.node(&node.name);
        NodeView {
            name: node.name.clone(),
            netns: paths.netns(),
            agent_pid: node.agent_pid,
            api_socket: paths.socket(),
            hubble_socket: paths.hubble(),
            bpf_root: paths.bpf(),
            cgroup: paths.cgroup,
            addresses: node.addresses.clone(),
        }
    });
    let pods = report.pods.iter().map(|pod| PodView {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        node: pod.node.clone(),
        netns: pod.netns.clone(),
        pids: pod.pids.clone(),
        ipv4: pod.ips.iter().find(|ip| ip.is_ipv4()).copied(),
        ipv6: pod.ips.iter().find(|ip| ip.is_ipv6()).copied(),
        identity: pod.identity,
        ready: pod.ready,
    });
    View {
        nodes: nodes.collect(),
        pods: pods.collect(),
    }
}

fn table(lab: &Lab, report: &Report) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "lab {}  ({})", lab.name, lab.root.display())?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<16} {:<10} {:<9} ADDRESSES",
        "NODE", "AGENT", "RESTARTS"
    )?;
    for node in &report.nodes {
        let pid = node.agent_pid.map_or("none".into(), |pid| pid.to_string());
        let ips = join(&node.addresses);
        writeln!(
            out,
            "{:<16} {pid:<10} {:<9} {ips}",
            node.name, node.restarts
        )?;
        if let Some(problem) = &node.problem {
            writeln!(out, "    {problem}; see {}", node.log.display())?;
        }
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:<32} {:<12} {:<9} {:<22} ADDRESSES",
        "POD", "NODE", "IDENTITY", "STATE"
    )?;
    for pod in &report.pods {
        let state = if pod.ready { "ready" } else { &pod.doing };
        let name = format!("{}/{}", pod.namespace, pod.name);
        let ips = join(&pod.ips);
        writeln!(
            out,
            "{name:<32} {:<12} {:<9} {state:<22} {ips}",
            pod.node, pod.identity
        )?;
        if let (Some(problem), false) = (&pod.problem, pod.ready) {
            writeln!(out, "    {problem}")?;
        }
    }
    Ok(out)
}

fn join(ips: &[IpAddr]) -> String {
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    ips.join(" ")
}
