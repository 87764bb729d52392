//! The way to the agent, and what all verbs that take it have in common.

use std::path::PathBuf;
use std::time::Duration;

use axon_api::agent::{DEFAULT_SOCKET, SOCKET_ENV};
use axon_cni::http::Client;

use crate::output::Format;

/// Flags of every verb that asks the agent.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Connection {
    /// The agent's Unix socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = SOCKET_ENV,
        default_value = DEFAULT_SOCKET
    )]
    pub(crate) socket: PathBuf,
    /// Seconds to wait for an answer.
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS")]
    pub(crate) timeout: u32,
}

/// Flags of every verb that prints what the agent answers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How the answer is written: table or json.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
}

/// Arguments of a verb that has verbs of its own, all of which print what the
/// agent answers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asking<V: clap::Subcommand> {
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: V,
}

impl Common {
    /// A client of the agent.
    pub(crate) fn client(&self) -> Client {
        self.connection.client()
    }
}

impl Connection {
    /// A client of the agent.
    pub(crate) fn client(&self) -> Client {
        Client::new(
            &self.socket,
            Duration::from_secs(u64::from(self.timeout.max(1))),
        )
    }
}
