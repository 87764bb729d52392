//! The supervisor: one process per lab, which plays kubelet, container runtime
//! and API server.
//!
//! ```text
//!  CLI ── lab.sock ──> objects ──> plan ──> reconcile ──> a thread per node (node.rs)
//!                                              │      └─> a thread per pod (pod.rs)
//!                                              └──> brain ──> manifests ──> agents
//! ```

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::Absent;
use crate::control::{PodReport, Report, Request, Response};
use crate::manifest::{Id, Object};
use crate::node;
use crate::paths::{Lab, write_whole};
use crate::plan::{AGENTS, NodePlan, Plan, PodKey, plan};
use crate::pod;
use crate::services;
use crate::services_view;
use crate::state::{Cluster, NodeState, PodState, Shared, log, timestamp};
use crate::wire;

/// The longest request that is read.
const REQUEST_MAX: u64 = 64 * 1024 * 1024;

/// Runs a lab until killed.
///
/// # Errors
/// The bridge or the control socket cannot be made.
pub(crate) fn run(lab: Lab) -> Result<()> {
    let _ = nix::unistd::setsid();
    wire::make_underlay(&lab).context("making the underlay")?;
    let draft = lab.scratch().join("lab.sock");
    let listener = UnixListener::bind(&draft).context("making the control socket")?;
    let socket = lab.socket();
    let shared = Arc::new(Shared::new(lab));
    shared.cluster().objects = own(&shared)?;
    // Only now may anyone find it.
    std::fs::rename(&draft, &socket)?;
    log("the lab is ready for objects");
    for stream in listener.incoming() {
        let stream = stream?;
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            if let Err(error) = serve(&shared, stream) {
                log(&format!("a request: {error:#}"));
            }
        });
    }
    Ok(())
}

/// What is there of itself: the name server's pod and its Service.
fn own(shared: &Shared) -> Result<BTreeMap<Id, Object>> {
    let lab = &shared.lab;
    let axon = crate::enter::axon()?;
    let (namespace, name) = pod::DNS;
    let labels = json!({"k8s-app": "kube-dns"});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{
            "name": name,
            "command": [axon, "lab", "dns", "--names", lab.names()],
            "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"},
                      {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"}],
            // Once it serves it does until it ends, also where a policy for the node comes to
            // forbid the node to ask.
            "readinessProbe": {"tcpSocket": {"port": 53}, "periodSeconds": 2,
                               "failureThreshold": 1_000_000},
        }]},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": "kube-dns"},
        "spec": {"selector": labels, "ipFamilyPolicy": "PreferDualStack", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]},
    });
    let text = format!("{pod}\n---\n{service}\n");
    let objects = crate::manifest::parse(&text)?;
    Ok(objects.into_iter().map(|o| (o.id.clone(), o)).collect())
}

fn serve(shared: &Arc<Shared>, stream: UnixStream) -> Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new(std::io::Read::take(stream.try_clone()?, REQUEST_MAX));
    reader.read_line(&mut line)?;
    let response = match serde_json::from_str(&line) {
        Err(error) => refused(&error.into()),
        Ok(Request::Report) => Response::Report(report(shared)),
        Ok(Request::Apply { objects, prune }) => answer(change(shared, |all| {
            if prune {
                *all = own(shared)?;
            }
            all.extend(objects.into_iter().map(|o| (o.id.clone(), o)));
            Ok(())
        })),
        Ok(Request::Delete { ids }) => answer(change(shared, |all| {
            for id in &ids {
                if all.remove(id).is_none() {
                    return Err(Absent::error(format!("there is no {id}")));
                }
            }
            Ok(())
        })),
    };
    let mut stream = stream;
    serde_json::to_writer(&mut stream, &response)?;
    stream.write_all(b"\n")?;
    Ok(())
}

fn answer(outcome: Result<()>) -> Response {
    match outcome {
        Ok(()) => Response::Accepted,
        Err(error) => refused(&error),
    }
}

fn refused(error: &anyhow::Error) -> Response {
    Response::Refused {
        reason: format!("{error:#}"),
        absent: error.is::<Absent>(),
    }
}

/// Changes the objects, if what follows from them can be.
fn change(
    shared: &Arc<Shared>,
    edit: impl FnOnce(&mut BTreeMap<Id, Object>) -> Result<()>,
) -> Result<()> {
    let (old, new) = shared.update(|cluster| -> Result<_> {
        let mut objects = cluster.objects.clone();
        edit(&mut objects)?;
        let placed = cluster.pods.iter();
        let placed = placed
            .map(|(key, pod)| (key.clone(), pod.plan.node.clone()))
            .collect();
        let mut plan = plan(&objects, &placed)?;
        services::assign(&mut plan, &cluster.plan, &timestamp(SystemTime::now()))?;
        check_nodes(&cluster.plan, &plan)?;
        cluster.objects = objects;
        let outside = (cluster.plan.outside.clone(), plan.outside.clone());
        cluster.plan = plan;
        Ok(outside)
    })?;
    wire::change_outside(&shared.lab, &old, &new)?;
    configure(shared)?;
    reconcile(shared);
    Ok(())
}

/// Refuses changes that a node cannot live through.
fn check_nodes(old: &Plan, new: &Plan) -> Result<()> {
    for node in &old.nodes {
        let Some(next) = new.nodes.iter().find(|n| n.name == node.name) else {
            continue;
        };
        let of = |node: &NodePlan| {
            let NodePlan {
                addresses,
                external,
                pod_cidrs,
                ..
            } = node.clone();
            (addresses, external, pod_cidrs)
        };
        if of(next) != of(node) {
            bail!(
                "Node {}: addresses and podCIDRs cannot change while it is up; delete it first",
                node.name
            );
        }
    }
    Ok(())
}

/// Writes the options of the agents: the lab's, then those of the ConfigMap
/// `kube-system/cilium-config`. Agents whose options changed start again.
fn configure(shared: &Shared) -> Result<()> {
    let mut options: BTreeMap<String, String> = [
        ("bpf-map-dynamic-size-ratio", "0"),
        ("bpf-ct-global-tcp-max", "65536"),
        ("bpf-ct-global-any-max", "32768"),
        ("bpf-nat-global-max", "65536"),
        ("bpf-policy-map-max", "4096"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut cluster = shared.cluster();
    let given = cluster.plan.config_map(AGENTS);
    for (name, value) in given.into_iter().flatten() {
        let value = value
            .as_str()
            .with_context(|| format!("ConfigMap {AGENTS}: data.{name} is no text; quote it"))?;
        options.insert(name.clone(), value.to_owned());
    }
    let names: Vec<String> = cluster.plan.nodes.iter().map(|n| n.name.clone()).collect();
    for name in names {
        if !write_options(shared, &shared.lab.node(&name).config(), &options)? {
            continue;
        }
        let Some(node) = cluster.nodes.get_mut(&name) else {
            continue;
        };
        // What ailed the agent may be over with the old options.
        node.problem = None;
        node.deaths = 0;
        node.answers = false;
        if let Some(pid) = node.agent_pid {
            log(&format!("node {name}: new options, the agent starts again"));
            axon_linux::process::signal(pid, axon_linux::process::Signal::Term)?;
        }
    }
    Ok(())
}

/// Makes a directory hold just these options; says whether anything changed.
fn write_options(
    shared: &Shared,
    dir: &std::path::Path,
    options: &BTreeMap<String, String>,
) -> Result<bool> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut changed = false;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !options.contains_key(&*entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
            changed = true;
        }
    }
    for (name, value) in options {
        let path = dir.join(name);
        if std::fs::read_to_string(&path).ok().as_ref() != Some(value) {
            write_whole(&shared.lab.scratch(), &path, value.as_bytes())?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Starts what shall be and is not, and stops what is and shall not be.
fn reconcile(shared: &Arc<Shared>) {
    let mut new_nodes = Vec::new();
    let mut new_pods = Vec::new();
    shared.update(|cluster| {
        let plan = cluster.plan.clone();
        for node in &plan.nodes {
            if !cluster.nodes.contains_key(&node.name) {
                let state = NodeState {
                    addresses: node.addresses.clone(),
                    number: free_number(cluster),
                    ..NodeState::default()
                };
                new_nodes.push((node.clone(), state.number, state.stop.clone()));
                cluster.nodes.insert(node.name.clone(), state);
            }
        }
        reconcile_pods(&shared.lab, cluster, &plan, &mut new_pods);
        for (name, node) in &cluster.nodes {
            let planned = plan.nodes.iter().any(|n| n.name == *name);
            let busy = cluster.pods.values().any(|pod| pod.plan.node == *name);
            if !planned && !busy {
                node.stop.set();
            }
        }
    });
    for (plan, number, stop) in new_nodes {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            node::live(&shared, &plan, number, &stop);
            shared.update(|cluster| {
                cluster.nodes.remove(&plan.name);
                cluster.processes.remove(&plan.name);
            });
            reconcile(&shared);
        });
    }
    for key in new_pods {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            pod::live(&shared, key);
            reconcile(&shared);
        });
    }
}

fn reconcile_pods(lab: &Lab, cluster: &mut Cluster, plan: &Plan, new_pods: &mut Vec<PodKey>) {
    for (key, pod) in &mut cluster.pods {
        match plan.pods.get(key) {
            Some(planned) if planned.runs_like(&pod.plan) => pod.plan = planned.clone(),
            _ => pod.stop.set(),
        }
    }
    for (key, planned) in &plan.pods {
        let node_stays = |c: &Cluster| c.nodes.get(&planned.node).is_some_and(|n| !n.stop.is_set());
        if !cluster.pods.contains_key(key) && node_stays(cluster) {
            let state = pod::born(lab, planned, new_uid());
            cluster.pods.insert(key.clone(), state);
            new_pods.push(key.clone());
        }
    }
}

/// The least number that no node has: it names the node's port of the bridge.
fn free_number(cluster: &Cluster) -> usize {
    let taken = |n: usize| cluster.nodes.values().any(|node| node.number == n);
    (1..).find(|n| !taken(*n)).unwrap_or(0)
}

/// A unique id, in the form of a UUID.
fn new_uid() -> String {
    let uid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    uid.trim().to_owned()
}

fn report(shared: &Shared) -> Report {
    let cluster = shared.cluster();
    let nodes = cluster
        .nodes
        .iter()
        .map(|(name, state)| node::report(&shared.lab, name, state));
    let others = cluster.plan.others.iter();
    let objects = others.map(|(id, value)| Object {
        id: id.clone(),
        value: value.clone(),
    });
    let pods = cluster
        .pods
        .iter()
        .map(|(key, pod)| pod_report(shared, &cluster, key, pod));
    Report {
        nodes: nodes.collect(),
        pods: pods.collect(),
        pending: pending(&cluster),
        objects: objects.collect(),
        services: services_view::report(&cluster),
        serves_services: cluster.serves_services(),
    }
}

/// What is asked for and not there, or there and not asked for.
fn pending(cluster: &Cluster) -> Option<String> {
    let plan = &cluster.plan;
    let planned_node = |name: &String| plan.nodes.iter().any(|node| node.name == *name);
    let coming = plan.pods.keys().find(|key| !cluster.pods.contains_key(key));
    let going = cluster.pods.iter().find(|(_, pod)| pod.stop.is_set());
    let going = going.map(|(key, _)| key);
    let leaving = cluster.nodes.keys().find(|name| !planned_node(name));
    coming
        .map(|key| format!("pod {key} is to come"))
        .or_else(|| going.map(|key| format!("pod {key} is to go")))
        .or_else(|| leaving.map(|name| format!("node {name} is to go")))
}

fn pod_report(shared: &Shared, cluster: &Cluster, key: &PodKey, pod: &PodState) -> PodReport {
    let paths = shared.lab.pod(&key.namespace, &key.name);
    let last = pod.containers.values().find(|c| !c.ready);
    let last = last.or_else(|| pod.containers.values().next());
    PodReport {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        node: pod.plan.node.clone(),
        uid: pod.uid.clone(),
        netns: pod.netns.clone(),
        pids: axon_linux::cgroup::processes(&pod.cgroup).unwrap_or_default(),
        ips: pod.ips.clone(),
        identity: cluster.numbers.get(key).copied().unwrap_or_default(),
        ready: pod.ready(),
        host_network: pod.plan.host_network,
        doing: pod.doing.clone(),
        problem: pod.problem.clone().filter(|_| !pod.stop.is_set()),
        log: last.map_or_else(
            || pod.plan.init.last().map(|c| paths.log(&c.name)),
            |c| Some(c.log.clone()),
        ),
    }
}
