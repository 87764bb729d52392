//! `axon service`.

use std::io;

use super::evaluate;
use crate::failure::Failure;

/// Arguments of `axon service`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// What would become of these connections to services? No agent is needed.
    ///
    /// Reads questions from standard input, one line of JSON each: `config` (options
    /// of agents), `outside` (hosts that are not of the cluster, and their
    /// addresses), `listeners` (processes on nodes), and `states`, one after the
    /// other, each with all its `objects` (Nodes, Pods, Services, EndpointSlices,
    /// CiliumLocalRedirectPolicies), the seconds to `wait` and `probes` (from, to,
    /// protocol). Writes an answer for each, in the same order: of every probe who
    /// may answer with what share, what address of the client he sees, and what
    /// becomes of open connections; and what is wrong with which field of an object.
    /// What is wrong with a question, or with a probe, stands in its answer under
    /// `error`.
    Evaluate,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match args.verb {
        Verb::Evaluate => evaluate::run(evaluate::SERVICE, io::stdin().lock(), io::stdout().lock()),
    }
}
