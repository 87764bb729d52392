//! `axon` with other layouts of conntrack and NAT, for tests of upgrades.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    axon_cli::main()
}
