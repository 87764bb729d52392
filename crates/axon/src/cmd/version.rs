//! `axon version`.

use axon_api::agent::Status;

use crate::client::Common;
use crate::failure::Failure;
use crate::output::{print, table};

/// Arguments of `axon version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Only this program's, without asking the agent.
    #[arg(long)]
    client: bool,
}

#[derive(Debug, serde::Serialize)]
struct Versions {
    client: &'static str,
    /// None if no agent answers, or it was not asked.
    agent: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let agent = if args.client {
        None
    } else {
        let status = args.common.client().get::<Status>("/v1/healthz");
        status.ok().map(|status| status.version)
    };
    let versions = Versions {
        client: env!("CARGO_PKG_VERSION"),
        agent,
    };
    print(args.common.output, &versions, |versions| {
        let mut rows = vec![["axon".to_owned(), versions.client.to_owned()]];
        if !args.client {
            let agent = versions.agent.as_deref().unwrap_or("no agent answers");
            rows.push(["agent".to_owned(), agent.to_owned()]);
        }
        table(["PROGRAM", "VERSION"], rows)
    })
}
