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

mod checks;
mod clock;
pub mod config;
pub mod dump;
mod endpoints;
mod engine;
mod flows;
mod guard;
mod health;
mod http;
mod journal;
mod keeper;
mod kept;
mod metrics;
mod names;
mod node;
pub mod options;
mod problem;
mod queue;
mod readiness;
mod run;
mod services;
mod settle;
mod setup;
mod sockets;
mod staged;
mod state;
mod status;
mod store;
mod sweep;
mod told;
mod trials;
mod uplinks;

use std::process::ExitCode;

use axon_control::services::Mode;
pub use config::Config;
pub use options::{AgentArgs, OptionError, parse_duration};

/// Threads for what blocks: the kernel makes one device at a time however many
/// ask, and each thread costs memory that it may never give back.
const BLOCKING_THREADS_MAX: usize = 16;

/// Runs the agent until it is told to stop (SIGTERM, SIGINT). What it has put
/// into the kernel stays in force.
///
/// # Errors
/// It could not start, or a part of it broke beyond repair.
pub async fn run(config: Config) -> anyhow::Result<()> {
    run::run(config).await
}

/// The whole life of `axon policy host-restore`: holds a node that was started anew
/// to the policy that was in force on it last, and ends. It goes on to hold, for
/// the agent.
pub fn restore(args: &AgentArgs) -> ExitCode {
    let config = match configure(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match run::restore(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the options and starts the log.
fn configure(args: &AgentArgs) -> Result<Config, ExitCode> {
    let config = Config::load(args).map_err(|errors| {
        for error in errors {
            eprintln!("error: {error}");
        }
        ExitCode::from(2)
    })?;
    config.logging.start();
    for warning in config.settings.warnings() {
        tracing::warn!("{warning}");
    }
    if config.services.mode != Mode::Snat || config.services.mode_annotation {
        tracing::warn!(
            "backends do not answer clients themselves yet (DSR): answers come back by way of \
             the node that was asked, as with bpf-lb-mode snat"
        );
    }
    Ok(config)
}

/// Tells systemd how the agent is doing, where it was started by it.
fn notify_systemd(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "systemd is not told");
    }
}

/// The whole life of `axon agent`: options, logging, runtime, [`run()`].
///
/// Bad options are told on standard error, all at once, and nothing starts.
pub fn main(args: &AgentArgs) -> ExitCode {
    let config = match configure(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
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
