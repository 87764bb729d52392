//! `axon` with other kernel programs, for tests that exchange it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    axon_cli::main()
}
