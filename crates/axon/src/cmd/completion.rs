//! `axon completion`.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::failure::Failure;

/// Arguments of `axon completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "axon", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
