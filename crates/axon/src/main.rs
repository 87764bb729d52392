//! `axon`: the agent and every verb of the command line.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
