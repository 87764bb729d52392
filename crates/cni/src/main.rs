//! `axon-cni`: the CNI plugin of Axoneme.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use axon_cni::{Plugin, Waiting};

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    if variable("CNI_COMMAND").is_none() {
        // A person, not a runtime: the answer on stdout stays for programs.
        eprintln!(
            "axon-cni {}: a CNI plugin, run by container runtimes; see `axon cni install --help`",
            env!("CARGO_PKG_VERSION")
        );
    }
    let answer = Plugin::new(variable, Waiting::default()).run(std::io::stdin().lock());
    let mut stdout = std::io::stdout().lock();
    let written = match &answer.body {
        Some(body) => writeln!(stdout, "{body:#}").and_then(|()| stdout.flush()),
        None => Ok(()),
    };
    if written.is_ok() && answer.success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
