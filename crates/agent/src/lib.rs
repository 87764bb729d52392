//! The agent of a node: reads its options, introduces the parts to each other
//! and keeps them running.
//!
//! ```text
//!  sources ──> observed ──> control ──> desired ──> linux (kernel)
//!     CNI ──> http ──> endpoints ─┘                    │ events
//!                      monitor, metrics, health <── hubble
//! ```
//!
//! Invariants: what was in force when the agent went stays in force until the
//! new one knows better; what is written to the kernel was written to disk
//! before; nothing that can be tested without a kernel is decided here.
#![forbid(unsafe_code)]

pub mod config;
pub mod dump;
pub mod options;

use std::process::ExitCode;

pub use config::Config;
pub use options::{AgentArgs, OptionError};

/// Runs the agent until it is told to stop (SIGTERM, SIGINT). What it has put
/// into the kernel stays in force.
///
/// # Errors
/// It could not start, or a part of it broke beyond repair.
pub async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(node = %config.node_name, "agent starts");
    anyhow::bail!("the agent is not complete")
}

/// The whole life of `axon agent`: options, logging, runtime, [`run`].
///
/// Bad options are told on standard error, all at once, and nothing starts.
pub fn main(args: &AgentArgs) -> ExitCode {
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(errors) => {
            for error in errors {
                eprintln!("error: {error}");
            }
            return ExitCode::from(2);
        }
    };
    config.logging.start();
    for warning in config.settings.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
