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
`axon run`, `axon lab exec` and `axon lab node` end with the exit status of
their command, `axon lab connect` with one that its own help tells.

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
    ///
    /// The exit status is 1 if a part does not work, and 3 if no agent answers.
    Status(cmd::status::Args),
    /// The workloads of this node.
    #[command(visible_alias = "ep")]
    Endpoint(cmd::endpoint::Args),
    /// Identities: what labels are as a number.
    Identity(cmd::identity::Args),
    /// Policies in force, and whether files would be accepted.
    Policy(cmd::policy::Args),
    /// What becomes of connections to services.
    Service(cmd::service::Args),
    /// Why a packet is let through or dropped, and which rule decides.
    ///
    /// The packet is run through the code that runs in the kernel, over the rows
    /// that the node's kernel holds, or held when a sysdump was taken. Every
    /// look-up is told with the row that it met; then the policy, the rule and the
    /// line that decided. Of what is denied because no rule allows it, the rules
    /// are told that come closest, and what is lacking.
    ///
    /// The exit status is 0 if the packet is let through, and 1 if it is not; 2 if
    /// the dump is none, 4 if an end is not known or neither is of the node.
    ///
    /// Example: axon explain --from xwing --to deathstar --port 80/tcp
    Explain(cmd::explain::Args),
    /// Who an address is: identity, pod, node, and where that is known from.
    Ip(cmd::ip::Args),
    /// What stands in the kernel: maps and programs.
    ///
    /// Maps are listed through the agent, with names. If none answers they are
    /// read from the kernel itself, which takes root and knows no names.
    Bpf(cmd::bpf::Args),
    /// Follow what packets do, as they do it.
    ///
    /// A line for each event: policy verdicts on new flows, drops with their
    /// reason and policy, and traces of what is forwarded (of an established flow
    /// one per interval and whenever new TCP flags are seen). Events that were
    /// lost are counted in the stream. With `-o json`, a JSON object a line, with
    /// Hubble's fields.
    Monitor(cmd::monitor::MonitorArgs),
    /// The last flows of this node, and on with --follow.
    Observe(cmd::monitor::ObserveArgs),
    /// The agent's configuration in force, and where each value comes from.
    Config(cmd::config::Args),
    /// The agent's metrics.
    Metrics(cmd::metrics::Args),
    /// Put the state, maps and logs of this node into one archive.
    ///
    /// What cannot be had (because the agent is away, say) is noted in `errors.txt`
    /// of the archive, and tools that are not installed are told; the rest is there. Maps of an agent
    /// that is away are read from the kernel.
    Sysdump(cmd::sysdump::Args),
    /// Versions of this program and of the agent.
    Version(cmd::version::Args),
    /// Take everything of ours out of the kernel.
    ///
    /// Stopping the agent leaves everything in force: pods go on talking under
    /// their policy. This takes it away: programs, maps, devices of endpoints,
    /// routes and the agent's state. It refuses while an agent lives, and while
    /// endpoints do unless --force is given: they lose their network.
    Cleanup(cmd::cleanup::Args),
    /// Put the CNI plugin in its place, or take it away.
    Cni(cmd::cni::Args),
    /// Run a command as a workload: own namespace, address, identity, policy.
    ///
    /// The command gets a network namespace of its own with an address of this
    /// node, an identity made from its labels, and the policy that selects them:
    /// what a pod has. All of it goes when the command ends, which SIGTERM and
    /// SIGHUP to this program make it do. The exit status is the command's: 128
    /// and the signal's number if a signal ended it, 126 or 127 if it cannot be
    /// started.
    ///
    /// Example: axon run --label org=empire -- curl http://10.0.0.7/
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
