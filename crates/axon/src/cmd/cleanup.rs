//! `axon cleanup`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axon_api::agent::{DEFAULT_BPF_ROOT, DEFAULT_STATE_DIR};
use serde::Serialize;

use crate::client::Common;
use crate::failure::Failure;
use crate::output::{print, table};

/// Arguments of `axon cleanup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Also while endpoints live; their devices are deleted.
    #[arg(long)]
    force: bool,
    /// Where maps and links are pinned.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    bpf_root: PathBuf,
    /// The agent's directory of run-time state.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// The agent's directory of lasting state (address and identity numbers);
    /// kept unless it is named here.
    #[arg(long, value_name = "PATH")]
    lib_dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    kernel: axon_linux::CleanupReport,
    directories: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    refuse_under_an_agent(&args.common)?;
    if !args.force {
        refuse_with_endpoints(&args.bpf_root)?;
    }
    let kernel = axon_linux::cleanup(&args.bpf_root, args.force).map_err(|error| {
        Failure::new(format!("{:#}", anyhow::Error::new(error)))
            .remedy("run as root, with the agent stopped")
    })?;
    let mut directories = Vec::new();
    for directory in [Some(&args.state_dir), args.lib_dir.as_ref()]
        .into_iter()
        .flatten()
    {
        match fs::remove_dir_all(directory) {
            Ok(()) => directories.push(directory.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::new(format!("{}: {error}", directory.display())));
            }
        }
    }
    let report = Report {
        kernel,
        directories,
    };
    print(args.common.output, &report, render)
}

fn refuse_under_an_agent(common: &Common) -> Result<(), Failure> {
    let answer = common
        .client()
        .get_text("/v1/healthz")
        .map_err(Failure::from);
    match answer {
        Err(failure) if failure.is_unreachable() => Ok(()),
        Ok(_) | Err(_) => Err(Failure::new(format!(
            "an agent lives at {}",
            common.connection.socket.display()
        ))
        .remedy("stop it first (`systemctl stop axon-agent`)")),
    }
}

fn refuse_with_endpoints(bpf_root: &Path) -> Result<(), Failure> {
    let pinned = axon_abi::MAPS
        .iter()
        .any(|map| bpf_root.join(map.name).exists());
    if !pinned {
        return Ok(());
    }
    let rows =
        super::bpf::dump(bpf_root, axon_api::maps::MapName::Endpoint).map_err(|failure| {
            let what = format!("it is not known whether endpoints live: {}", failure.text());
            Failure::new(what).remedy("--force takes everything away all the same")
        })?;
    match rows.as_array().map_or(0, Vec::len) {
        0 => Ok(()),
        n => Err(
            Failure::new(format!("{n} endpoints live and would lose their network"))
                .remedy("remove them first, or use --force"),
        ),
    }
}

fn render(report: &Report) -> String {
    let kernel = &report.kernel;
    let directories: Vec<String> = report
        .directories
        .iter()
        .map(|d| d.display().to_string())
        .collect();
    let rows = [
        ["links".to_owned(), kernel.links.to_string()],
        ["maps".to_owned(), kernel.maps.to_string()],
        ["devices".to_owned(), kernel.devices.to_string()],
        ["routes".to_owned(), kernel.routes.to_string()],
        ["bpffs".to_owned(), u8::from(kernel.unmounted).to_string()],
        [
            "directories".to_owned(),
            crate::output::or_dash(&directories.join(", ")),
        ],
    ];
    table(["WHAT", "REMOVED"], rows)
}
