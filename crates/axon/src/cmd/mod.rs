//! The verbs, one file each.

pub(crate) mod bpf;
pub(crate) mod cleanup;
pub(crate) mod cni;
pub(crate) mod completion;
pub(crate) mod config;
mod described;
mod diff;
pub(crate) mod endpoint;
mod evaluate;
pub(crate) mod explain;
mod flows;
pub(crate) mod identity;
pub(crate) mod ip;
mod lb;
mod maps;
pub(crate) mod metrics;
pub(crate) mod monitor;
pub(crate) mod policy;
pub(crate) mod run;
pub(crate) mod service;
pub(crate) mod status;
mod suggest;
pub(crate) mod sysdump;
mod traffic;
mod upsert;
mod validate;
mod verify;
pub(crate) mod version;

use std::process::ExitCode;

use crate::cli::Verb;
use crate::failure::Failure;

/// Carries out a verb.
pub(crate) fn run(verb: Verb) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Agent(args) => Ok(axon_agent::main(&args)),
        Verb::Status(args) => status::run(&args),
        Verb::Endpoint(args) => endpoint::run(&args).map(done),
        Verb::Identity(args) => identity::run(&args).map(done),
        Verb::Policy(args) => policy::run(&args),
        Verb::Service(args) => service::run(&args).map(done),
        Verb::Explain(args) => explain::run(&args),
        Verb::Ip(args) => ip::run(&args).map(done),
        Verb::Bpf(args) => bpf::run(&args),
        Verb::Monitor(args) => monitor::monitor(&args).map(done),
        Verb::Observe(args) => monitor::observe(&args).map(done),
        Verb::Config(args) => config::run(&args).map(done),
        Verb::Metrics(args) => metrics::run(&args).map(done),
        Verb::Sysdump(args) => sysdump::run(&args).map(done),
        Verb::Version(args) => version::run(&args).map(done),
        Verb::Cleanup(args) => cleanup::run(&args).map(done),
        Verb::Cni(args) => cni::run(&args).map(done),
        Verb::Run(args) => run::run(&args),
        Verb::Lab(args) => Ok(axon_lab::run(args)?),
        Verb::Completion(args) => completion::run(&args).map(done),
    }
}
