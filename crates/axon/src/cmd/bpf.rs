//! `axon bpf`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axon_api::agent::DEFAULT_BPF_ROOT;
use axon_api::maps::{
    ConfigMapRow, EndpointMapRow, IpcacheMapRow, LbAffinityRow, LbBackendRow, LbMaglevRow,
    LbRevnatRow, LbRow, LbSnatRow, LbSourceRangeRow, MapName, MetricsMapRow, PolicyMapSet,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::traffic::{self, Traffic};
use super::{lb, maps};
use crate::client::Common;
use crate::failure::Failure;
use crate::output::print;

/// Arguments of `axon bpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Read the maps pinned here instead of asking an agent.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) bpf_root: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Workloads of this node as the programs know them.
    #[command(subcommand)]
    Endpoint(List),
    /// Address to identity.
    #[command(subcommand)]
    Ipcache(List),
    /// Policy sets: who may speak to whom on which port.
    #[command(subcommand)]
    Policy(List),
    /// Connections.
    #[command(subcommand)]
    Ct(Traffic),
    /// Translated connections.
    #[command(subcommand)]
    Nat(Traffic),
    /// Packets and bytes by reason and direction.
    #[command(subcommand)]
    Metrics(List),
    /// The programs' configuration.
    #[command(subcommand)]
    Config(List),
    /// Services: where they listen, and who is behind them.
    #[command(subcommand)]
    Lb(Lb),
    /// Load every program on this kernel, attach none, and tell what the
    /// verifier made of it.
    ///
    /// Exit status 1 if a program is refused or over its budget.
    Verify(super::verify::Args),
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum List {
    /// Every row.
    List,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Lb {
    /// Frontends with their backends.
    List,
    /// Backends with their states.
    Backends,
    /// Maglev tables, and how evenly they choose.
    Maglev,
    /// Clients that find the same backend again.
    Affinity,
    /// Prefixes that services let in, or keep out.
    SourceRanges,
    /// Whose address the answers of backends get.
    Revnat,
    /// Clients that backends know by the node's address.
    Snat,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match args.what {
        What::Endpoint(List::List) => list(args, MapName::Endpoint, |r: &Vec<EndpointMapRow>| {
            maps::endpoints(r)
        }),
        What::Ipcache(List::List) => list(args, MapName::Ipcache, |r: &Vec<IpcacheMapRow>| {
            maps::ipcache(r)
        }),
        What::Policy(List::List) => list(args, MapName::Policy, |r: &Vec<PolicyMapSet>| {
            maps::policy(r)
        }),
        What::Ct(ref verb) => traffic::connections(args, verb),
        What::Nat(ref verb) => traffic::translations(args, verb),
        What::Metrics(List::List) => list(args, MapName::Metrics, |r: &Vec<MetricsMapRow>| {
            maps::metrics(r)
        }),
        What::Config(List::List) => list(args, MapName::Config, |r: &Vec<ConfigMapRow>| {
            maps::config(r)
        }),
        What::Lb(what) => balancing(args, what),
        What::Verify(ref verify) => return super::verify::run(verify, args.common.output),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn balancing(args: &Args, what: Lb) -> Result<(), Failure> {
    match what {
        Lb::List => list(args, MapName::Lb, |r: &Vec<LbRow>| lb::frontends(r)),
        Lb::Backends => list(args, MapName::LbBackend, |r: &Vec<LbBackendRow>| {
            lb::backends(r)
        }),
        Lb::Maglev => list(args, MapName::LbMaglev, |r: &Vec<LbMaglevRow>| {
            lb::maglev(r)
        }),
        Lb::Affinity => list(args, MapName::LbAffinity, |r: &Vec<LbAffinityRow>| {
            lb::affinity(r)
        }),
        Lb::SourceRanges => list(args, MapName::LbSourceRange, |r: &Vec<LbSourceRangeRow>| {
            lb::source_ranges(r)
        }),
        Lb::Revnat => list(args, MapName::LbRevnat, |r: &Vec<LbRevnatRow>| {
            lb::revnat(r)
        }),
        Lb::Snat => list(args, MapName::LbSnat, |r: &Vec<LbSnatRow>| lb::snat(r)),
    }
}

fn list<T: Serialize + DeserializeOwned>(
    args: &Args,
    name: MapName,
    render: impl FnOnce(&Vec<T>) -> String,
) -> Result<(), Failure> {
    print(args.common.output, &rows(args, name)?, render)
}

/// The rows of a name: the agent's, or those of the pinned maps.
pub(super) fn rows<T: DeserializeOwned>(args: &Args, name: MapName) -> Result<Vec<T>, Failure> {
    Ok(match &args.bpf_root {
        Some(root) => direct(root, name)?,
        None => match args.common.client().get(&format!("/v1/map/{name}")) {
            Ok(rows) => rows,
            Err(error) => {
                let failure = Failure::from(error);
                if !failure.is_unreachable() {
                    return Err(failure);
                }
                let rows = direct(Path::new(DEFAULT_BPF_ROOT), name).map_err(|_| {
                    failure.remedy(format!(
                        "start one; or as root name what it has pinned with --bpf-root \
                         ({DEFAULT_BPF_ROOT} holds nothing to read)"
                    ))
                })?;
                eprintln!("note: no agent answers; read from {DEFAULT_BPF_ROOT}");
                rows
            }
        },
    })
}

/// Reads the pinned maps themselves.
fn direct<T: DeserializeOwned>(root: &Path, name: MapName) -> Result<Vec<T>, Failure> {
    let rows = dump(root, name)?;
    Ok(serde_json::from_value(rows)?)
}

/// The rows of a name from the pinned maps, without names.
pub(crate) fn dump(root: &Path, name: MapName) -> Result<serde_json::Value, Failure> {
    let failed = |error: axon_linux::MapError| {
        Failure::new(format!("{:#}", anyhow::Error::new(error)))
            .remedy("run as root, and name the agent's --bpf-root")
    };
    let maps = axon_linux::Maps::open_readonly(root).map_err(failed)?;
    let nobody = axon_hubble::NameTable::default();
    let rows = axon_agent::dump::rows(&maps, name, &nobody, monotonic_s()).map_err(failed)?;
    Ok(serde_json::to_value(&rows)?)
}

/// Seconds of the kernel's monotonic clock.
fn monotonic_s() -> u32 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|now| u32::try_from(now.tv_sec()).ok())
        .unwrap_or(0)
}
