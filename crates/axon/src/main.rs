//! The binary; all of it is in the library, which tests build in variants too.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    axon_cli::main()
}
