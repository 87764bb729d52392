//! `axon`: the agent and every verb of the command line.
//!
//! ```text
//! arguments ── cli ──> cmd::VERB ── client ──> agent's socket
//!                         │   └── axon_linux ──> the kernel (dumps of a dead agent, run, cleanup)
//!                         └──> output: table or JSON; failure: what, remedy, exit status
//! ```
//!
//! A verb is a file in `cmd/`: its arguments, a function `run`, and pure
//! functions that render what came back. A new verb is a new file, a variant
//! of `cli::Verb` and a line in `cmd::run`.
//!
//! Invariants: what is printed on stdout is the answer and nothing else; every
//! error names the thing and, where one is known, the remedy; exit statuses
//! are those of `failure`.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod cmd;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;

/// After a hundred pods have come and gone at once the C library's allocator
/// keeps twice as much; how it is set up says `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Carries out the command line.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cmd::run(cli.verb) {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}
