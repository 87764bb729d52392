//! The arguments.

use clap::{Parser, Subcommand};

use crate::cmd;

const EXIT: &str = "\
Exit status:
  0  done, and well
  1  failed, or what was asked about is not well
  2  the arguments are wrong
  3  no agent answers at the socket
  4  there is no such thing
`axon run` ends with the exit status of its command.

Environment:
  AXON_SOCKET  the agent's socket, as --socket
  NO_COLOR     no colours
";

/// Networking, policy and observability for workloads on Linux, in eBPF.
///
/// `axon agent` runs a node. Most other verbs ask the agent of this node, over
/// its Unix socket, and print a table or, with `-o json`, what the agent says.
#[derive(Debug, Parser)]
#[command(name = "axon", version, after_help = EXIT, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the agent of this node.
    ///
    /// Options come from flags, from the environment (AXON_NODE_NAME) and from
    /// a directory with one file per option (--config-dir), in this order.
    /// Stopping the agent takes nothing out of force; `axon cleanup` does.
    Agent(Box<axon_agent::AgentArgs>),
    /// How the node is doing, and what to do where it is not well.
    Status(cmd::status::Args),
    /// The workloads of this node.
    #[command(visible_alias = "ep")]
    Endpoint(cmd::endpoint::Args),
    /// Identities: what labels are as a number.
    Identity(cmd::identity::Args),
    /// Policies in force, and whether files would be accepted.
    Policy(cmd::policy::Args),
    /// Who an address is.
    Ip(cmd::ip::Args),
    /// What stands in the kernel: maps and programs.
    Bpf(cmd::bpf::Args),
    /// Follow what packets do, as they do it.
    Monitor(cmd::monitor::MonitorArgs),
    /// The last flows of this node, and on with --follow.
    Observe(cmd::monitor::ObserveArgs),
    /// The agent's configuration in force, and where each value comes from.
    Config(cmd::config::Args),
    /// The agent's metrics.
    Metrics(cmd::metrics::Args),
    /// Put the state, maps and logs of this node into one archive.
    Sysdump(cmd::sysdump::Args),
    /// Versions of this program and of the agent.
    Version(cmd::version::Args),
    /// Take everything of ours out of the kernel.
    Cleanup(cmd::cleanup::Args),
    /// Put the CNI plugin in its place, or take it away.
    Cni(cmd::cni::Args),
    /// Run a command as a workload: own namespace, address, identity, policy.
    Run(cmd::run::Args),
    /// A cluster of real nodes on this machine.
    Lab(axon_lab::cli::LabArgs),
    /// Print a completion script for a shell.
    ///
    /// For bash: `source <(axon completion bash)`.
    Completion(cmd::completion::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
