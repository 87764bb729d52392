//! A node: its namespace, its bpffs, its agent, started again whenever it dies.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::control::NodeReport;
use crate::endpoints;
use crate::enter::{Place, axon};
use crate::http;
use crate::paths::{Lab, NodePaths};
use crate::plan::NodePlan;
use crate::state::{Cluster, NodeState, Shared, Stop, log};
use crate::wire;

/// How soon a dead agent is followed by the next one, at first and at most.
const RESTART_FIRST: Duration = Duration::from_millis(50);
const RESTART_MAX: Duration = Duration::from_millis(400);
/// An agent that lived this long was well, whether it was asked or not.
const SETTLED: Duration = Duration::from_secs(5);
/// How often it is looked for news of a node's endpoints.
const LOOK: Duration = Duration::from_millis(250);
/// So many deaths in a row are a problem that somebody has to look at.
const DEATHS_MAX: u32 = 5;

/// The whole life of a node; runs on a thread of its own.
pub(crate) fn live(shared: &Shared, plan: &NodePlan, number: usize, stop: &Stop) {
    if let Err(error) = make(shared, plan, number) {
        log(&format!("node {}: {error:#}", plan.name));
        shared.node(&plan.name, |node| node.problem = Some(format!("{error:#}")));
        while !stop.sleep(Duration::from_secs(3600)) {}
    } else {
        shared.node(&plan.name, |node| node.wired = true);
        acquaint(shared);
        keep_agent(shared, &plan.name, stop);
    }
    if let Err(error) = unmake(&shared.lab, &plan.name, number) {
        log(&format!("node {}: {error:#}", plan.name));
    }
}

fn make(shared: &Shared, plan: &NodePlan, number: usize) -> Result<()> {
    let lab = &shared.lab;
    let paths = lab.node(&plan.name);
    for dir in [&paths.root, &paths.state(), &paths.config()] {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    axon_linux::cgroup::create(&paths.host_cgroup())?;
    axon_linux::cgroup::create(&paths.cgroup.join("pods"))?;
    wire::make_netns(&paths.netns())?;
    wire::plug_node(lab, plan, number)?;
    axon_linux::mount::ensure_bpffs(&paths.bpf()).context("mounting its bpffs")?;
    crate::cni::write_conflist(&paths)
}

/// Tells the nodes that are wired of each other. Each does so once it is, so
/// the last one tells all.
fn acquaint(shared: &Shared) {
    let nodes: Vec<_> = shared
        .cluster()
        .nodes
        .iter()
        .filter(|(_, node)| node.wired && !node.stop.is_set())
        .map(|(name, node)| (name.clone(), node.addresses.clone()))
        .collect();
    if let Err(error) = wire::acquaint(&shared.lab, &nodes) {
        log(&format!("the nodes cannot reach each other: {error:#}"));
    }
}

fn unmake(lab: &Lab, name: &str, number: usize) -> Result<()> {
    let paths = lab.node(name);
    axon_linux::cgroup::kill(&paths.cgroup, Duration::from_secs(10))
        .context("killing its processes")?;
    axon_linux::cgroup::remove(&paths.cgroup).context("removing its cgroup")?;
    axon_linux::mount::unmount_tree(&paths.bpf()).context("unmounting its bpffs")?;
    wire::drop_netns(&paths.netns())?;
    wire::unplug_node(lab, number)?;
    std::fs::remove_dir_all(&paths.root).context("removing its directory")
}

/// Starts the agent whenever there is none, until told to stop.
fn keep_agent(shared: &Shared, name: &str, stop: &Stop) {
    let paths = shared.lab.node(name);
    let mut wait = RESTART_FIRST;
    loop {
        let started = Instant::now();
        let end = match start_agent(&shared.lab, name) {
            Ok(child) => watch_agent(shared, name, &paths, child, stop),
            Err(error) => format!("{error:#}"),
        };
        let mut well = started.elapsed() > SETTLED;
        shared.node(name, |node| {
            well |= node.answers;
            node.agent_pid = None;
            node.answers = false;
        });
        if stop.is_set() {
            return;
        }
        log(&format!("node {name}: the agent ended: {end}"));
        if well {
            wait = RESTART_FIRST;
            shared.node(name, |node| node.deaths = 0);
        }
        shared.node(name, |node| {
            node.restarts += 1;
            node.deaths += 1;
            if node.deaths >= DEATHS_MAX {
                let deaths = node.deaths;
                node.problem = Some(format!("its agent died {deaths} times in a row: {end}"));
            }
        });
        if stop.sleep(wait) {
            return;
        }
        wait = (wait * 2).min(RESTART_MAX);
    }
}

fn start_agent(lab: &Lab, name: &str) -> Result<Child> {
    let paths = lab.node(name);
    let mut program: Vec<OsString> = vec![axon()?.into(), "agent".into()];
    let mut flag = |name: &str, value: &Path| {
        program.push(format!("--{name}").into());
        program.push(value.into());
    };
    flag("node-name", Path::new(name));
    flag("config-dir", &paths.config());
    flag("manifests-dir", &lab.manifests());
    flag("state-dir", &paths.state());
    flag("lib-dir", &paths.state().join("lib"));
    flag("socket-path", &paths.socket());
    flag("bpf-root", &paths.bpf());
    flag("cgroup-root", &paths.cgroup);
    flag("devices", Path::new(wire::UPLINK));
    flag("identity-allocation-mode", Path::new("crd"));
    let place = Place {
        netns: Some(paths.netns()),
        cgroup: Some(paths.host_cgroup()),
        ..Place::default()
    };
    let out = append(&paths.log())?;
    place
        .command(&program)?
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("starting the agent")
}

/// Waits for the end of an agent, and learns when it answers.
fn watch_agent(
    shared: &Shared,
    name: &str,
    paths: &NodePaths,
    mut child: Child,
    stop: &Stop,
) -> String {
    shared.node(name, |node| node.agent_pid = Some(child.id()));
    let mut answers = false;
    let mut looked = None;
    let mut news = endpoints::News::new(paths);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Err(error) => return error.to_string(),
            Ok(None) => {}
        }
        if !answers {
            let health = http::get_json::<serde_json::Value>(&paths.socket(), "/v1/healthz");
            answers = health.is_ok();
            if let Ok(health) = health {
                let serves = serves_services(&health);
                shared.node(name, |node| {
                    node.answers = true;
                    node.problem = None;
                });
                // Names depend on it.
                let known = |c: &Cluster| c.nodes.get(name).is_some_and(|n| n.serves_services);
                if known(&shared.cluster()) != serves {
                    shared.update(|cluster| {
                        if let Some(node) = cluster.nodes.get_mut(name) {
                            node.serves_services = serves;
                        }
                    });
                }
            }
        }
        if answers && looked.is_none_or(|at: Instant| at.elapsed() > LOOK) {
            if looked.is_none() || news.are_there() {
                endpoints::follow(shared, name, paths);
            }
            looked = Some(Instant::now());
        }
        let pause = if answers { 50 } else { 20 };
        if stop.sleep(Duration::from_millis(pause)) {
            let _ = child.kill();
            let _ = child.wait();
            return "stopped".into();
        }
    }
}

/// Whether an agent that says this of itself leads addresses of services to their
/// endpoints: one that has services does, whatever it lacks of them at the moment.
fn serves_services(health: &serde_json::Value) -> bool {
    health["parts"]["services"].is_object()
}

/// Opens a log to write at its end.
pub(crate) fn append(path: &Path) -> Result<std::fs::File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// How a node is.
pub(crate) fn report(lab: &Lab, name: &str, node: &NodeState) -> NodeReport {
    NodeReport {
        name: name.to_owned(),
        addresses: node.addresses.clone(),
        agent_pid: node.agent_pid,
        answers: node.answers,
        restarts: node.restarts,
        problem: node.problem.clone(),
        log: lab.node(name).log(),
    }
}
