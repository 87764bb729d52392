//! The verbs of `axon lab`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

/// Arguments of `axon lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Name of the lab; several can be up at once.
    #[arg(long, short = 'L', global = true, default_value = "default", env = "AXON_LAB")]
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

/// What `axon lab` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a cluster up from directories (or files) of Kubernetes manifests.
    Up {
        /// Directories or files.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Take a lab away: every namespace, device, cgroup, mount, pin, process and file of it.
    Down,
    /// Show nodes and pods.
    Status {
        /// Format.
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a command in a pod.
    Exec {
        /// `NAMESPACE/POD`; without a namespace it is `default`.
        pod: String,
        /// The command and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Run a command on a node.
    Node {
        /// The node.
        node: String,
        /// The command and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Create or change objects.
    Apply {
        /// Files or directories.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Delete objects.
    Delete {
        /// Files or directories that name them.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Print a log: of a pod (`NAMESPACE/POD`), a node's agent (`NODE`) or the supervisor.
    Logs {
        /// Whose.
        of: Option<String>,
    },
    /// The Star Wars demo: policy, its verdicts, and an agent killed under traffic.
    Demo {
        /// Directory with `pods.yaml`, `service.yaml` and `policy.yaml`.
        dir: Option<PathBuf>,
        /// Leave the lab up to explore.
        #[arg(long)]
        keep: bool,
    },
}

/// Carries out `axon lab`.
///
/// # Errors
/// Says what could not be done, and to what.
pub fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("lab {}: {:?} is not available", args.name, args.verb)
}
