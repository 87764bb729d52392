//! `axon-cni`: the CNI plugin of Axoneme.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
