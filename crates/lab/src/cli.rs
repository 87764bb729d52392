//! The verbs of `axon lab`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};

use crate::connect::ConnectArgs;
use crate::control::{self, Request};
use crate::enter::{self, EnterArgs, Place};
use crate::manifest::Object;
use crate::paths::Lab;
use crate::serve::Service;
use crate::{Absent, connect, demo, dns, serve, services_view, status, supervisor, up, wait};

/// Arguments of `axon lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Name of the lab; several can be up at once.
    #[arg(
        long,
        short = 'L',
        global = true,
        default_value = "default",
        env = "AXON_LAB"
    )]
    pub name: String,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Manifests, and how long to wait for what they ask.
#[derive(Debug, Args)]
pub struct Manifests {
    /// Files, or directories of .yaml, .yml and .json files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Seconds to wait.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Do not wait until it has come about.
    #[arg(long)]
    no_wait: bool,
}

/// A command to run.
#[derive(Debug, Args)]
pub struct Inside {
    /// `NAMESPACE/POD` (without a namespace it is `default`), or the node.
    target: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What `axon lab` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a cluster up from Kubernetes manifests; returns when every pod is ready and its
    /// policy enforced.
    Up(Manifests),
    /// Take a lab away: every namespace, device, cgroup, mount, pin, process and file of it.
    Down,
    /// Show nodes and pods.
    Status {
        /// Format.
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show services, with the addresses and ports that they were given.
    Services {
        /// Format.
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a command in a pod: `axon lab exec NAMESPACE/POD -- CMD...`.
    Exec(Inside),
    /// Run a command on a node: `axon lab node NODE -- CMD...`; `outside` is the world.
    Node(Inside),
    /// Create or change objects; returns when they are in force.
    Apply {
        /// Manifests.
        #[command(flatten)]
        manifests: Manifests,
        /// Delete every object that the manifests do not name.
        #[arg(long)]
        prune: bool,
    },
    /// Delete the objects that manifests name; returns when they are gone.
    Delete(Manifests),
    /// Print a log: of a pod (`NAMESPACE/POD`), a node's agent (`NODE`) or the supervisor.
    Logs {
        /// Whose; without it the supervisor's.
        of: Option<String>,
    },
    /// The Star Wars demo: a policy, its verdicts, and an agent killed under traffic.
    Demo {
        /// Directory with `pods.yaml`, `service.yaml` and `policy.yaml` [default: those of
        /// examples/star-wars, which are built in].
        dir: Option<PathBuf>,
        /// Leave the lab up to explore.
        #[arg(long)]
        keep: bool,
        /// Seconds that anything may take before it gives up; more for machines that are slow.
        #[arg(long, default_value_t = 30, value_name = "SECONDS")]
        timeout: u64,
    },
    /// A server that tells what it sees, for use in pods: `axon lab serve http:80 udp:53`.
    Serve {
        /// `http:PORT`, `tcp:PORT`, `udp:PORT`; `who:PORT`, which says its host name
        /// before it echoes, by TCP and by UDP; also `PROTOCOL:FIRST-LAST`.
        #[arg(required = true)]
        services: Vec<Service>,
    },
    /// A client that tells what it gets, for use in pods.
    Connect(ConnectArgs),
    /// The lab's name server.
    #[command(hide = true)]
    Dns {
        /// The file of names.
        #[arg(long)]
        names: PathBuf,
    },
    /// Steps into namespaces and becomes a command.
    #[command(hide = true)]
    Enter(EnterArgs),
    /// The process behind a lab.
    #[command(hide = true)]
    Supervise,
}

/// Carries out `axon lab`.
///
/// # Errors
/// Says what could not be done, and to what.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    let lab = || Lab::named(&args.name);
    match args.verb {
        Verb::Up(manifests) => bring_up(&lab()?, &manifests)?,
        Verb::Down => {
            let lab = lab()?;
            let was = up::exists(&lab);
            up::down(&lab)?;
            let what = if was { "is gone" } else { "was not up" };
            status::tell(&format!("lab {} {what}", lab.name));
        }
        Verb::Status { output } => status::run(&lab()?, output)?,
        Verb::Services { output } => services_view::run(&lab()?, output)?,
        Verb::Exec(inside) => {
            let place = pod_place(&lab()?, &inside.target)?;
            let env = [("PATH", enter::search_path()?)];
            enter::become_command(&place, &inside.command, &env)?;
        }
        Verb::Node(inside) => on_node(&lab()?, &inside)?,
        Verb::Apply { manifests, prune } => {
            let objects = read(&manifests)?;
            change(&lab()?, &manifests, &Request::Apply { objects, prune })?;
        }
        Verb::Delete(manifests) => {
            let ids = read(&manifests)?.into_iter().map(|o| o.id).collect();
            change(&lab()?, &manifests, &Request::Delete { ids })?;
        }
        Verb::Logs { of } => logs(&lab()?, of.as_deref())?,
        Verb::Demo { dir, keep, timeout } => {
            // Not in the way of a lab that somebody works in.
            let name = if args.name == "default" {
                "star-wars"
            } else {
                &args.name
            };
            let patience = Duration::from_secs(timeout);
            return demo::run(&Lab::named(name)?, dir.as_deref(), keep, patience);
        }
        Verb::Serve { services } => serve::run(&services)?,
        Verb::Connect(args) => return connect::run(&args),
        Verb::Dns { names } => dns::run(&names)?,
        Verb::Enter(args) => {
            enter::run(&args)?;
        }
        Verb::Supervise => supervisor::run(lab()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads manifests and refuses policies that no agent would put in force.
fn read(manifests: &Manifests) -> Result<Vec<Object>> {
    let objects = up::read(&manifests.paths)?;
    for object in &objects {
        wait::policy_of(object)?;
    }
    Ok(objects)
}

fn bring_up(lab: &Lab, manifests: &Manifests) -> Result<()> {
    let began = Instant::now();
    let objects = read(manifests)?;
    status::tell(&format!("lab {}: {} objects", lab.name, objects.len()));
    up::up(lab, objects)?;
    if manifests.no_wait {
        return Ok(());
    }
    let report =
        wait::settled(lab, Duration::from_secs(manifests.timeout), true).with_context(|| {
            format!(
                "lab {0} is not well; look around, or `axon lab down -L {0}`",
                lab.name
            )
        })?;
    status::tell(&format!(
        "lab {} is up after {:.1} s: {} nodes, {} pods, policy enforced",
        lab.name,
        began.elapsed().as_secs_f64(),
        report.nodes.len(),
        report.pods.len()
    ));
    Ok(())
}

fn change(lab: &Lab, manifests: &Manifests, request: &Request) -> Result<()> {
    control::ask(lab, request)?;
    if !manifests.no_wait {
        wait::settled(lab, Duration::from_secs(manifests.timeout), false)?;
    }
    match request {
        Request::Apply { objects, .. } => {
            for object in objects {
                status::tell(&format!("{} is in force", object.id));
            }
        }
        Request::Delete { ids } => {
            for id in ids {
                status::tell(&format!("{id} is gone"));
            }
        }
        Request::Report => {}
    }
    Ok(())
}

/// Where the processes of a pod live.
fn pod_place(lab: &Lab, target: &str) -> Result<Place> {
    let (namespace, name) = target.split_once('/').unwrap_or(("default", target));
    let path = lab.pod(namespace, name).place();
    let Ok(text) = std::fs::read(&path) else {
        let known: Vec<String> = control::report(lab)?
            .pods
            .iter()
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .collect();
        return Err(Absent::error(format!(
            "no pod {namespace}/{name} runs; there are: {}",
            known.join(", ")
        )));
    };
    Ok(serde_json::from_slice(&text)?)
}

/// Becomes a command on a node, with the node's agent and maps at hand.
fn on_node(lab: &Lab, inside: &Inside) -> Result<()> {
    let paths = lab.node(&inside.target);
    let place = if inside.target == "outside" {
        Place {
            netns: Some(lab.outside()),
            cgroup: Some(lab.cgroup.join("supervisor")),
            ..Place::default()
        }
    } else {
        Place {
            netns: Some(paths.netns()),
            cgroup: Some(paths.host_cgroup()),
            ..Place::default()
        }
    };
    if !place.netns.as_ref().is_some_and(|netns| netns.exists()) {
        return Err(Absent::error(format!(
            "no node {}; there are: {}, outside",
            inside.target,
            nodes_of(lab)?
        )));
    }
    let env = [
        ("PATH", enter::search_path()?),
        ("AXON_SOCKET", paths.socket().into()),
        ("AXON_BPF_ROOT", paths.bpf().into()),
        ("AXON_STATE_DIR", paths.state().into()),
    ];
    enter::become_command(&place, &inside.command, &env)?;
    Ok(())
}

/// The names of a lab's nodes, for people.
fn nodes_of(lab: &Lab) -> Result<String> {
    let nodes = control::report(lab)?.nodes;
    let names: Vec<String> = nodes.into_iter().map(|node| node.name).collect();
    Ok(names.join(", "))
}

fn logs(lab: &Lab, of: Option<&str>) -> Result<()> {
    let files = match of {
        None if !lab.log().exists() => {
            let text = format!("lab {} is not up, and has no log", lab.name);
            return Err(Absent::error(text));
        }
        None => vec![lab.log()],
        Some(pod) if pod.contains('/') => {
            let (namespace, name) = pod.split_once('/').unwrap_or_default();
            let dir = lab.pod(namespace, name).root;
            let entries = std::fs::read_dir(&dir)
                .map_err(|error| Absent::error(format!("no pod {pod}: {error}")))?;
            let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
            files.retain(|f| f.extension().is_some_and(|e| e == "log"));
            files.sort();
            files
        }
        Some(node) if !lab.node(node).log().exists() => {
            return Err(Absent::error(format!(
                "no node {node}; there are: {}",
                nodes_of(lab)?
            )));
        }
        Some(node) => vec![lab.node(node).log()],
    };
    for file in &files {
        let text = std::fs::read(file).with_context(|| file.display().to_string())?;
        if files.len() > 1 {
            status::say(&format!("--- {} ---\n", file.display()))?;
        }
        status::say(&String::from_utf8_lossy(&text))?;
    }
    Ok(())
}
