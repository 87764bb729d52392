//! Talking with a lab's supervisor: a line of JSON each way.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::Absent;
use crate::manifest::{Id, Object};
use crate::paths::Lab;
use crate::services_view::ServiceReport;

/// What a supervisor is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// How is the lab?
    Report,
    /// Create or change objects.
    Apply {
        /// The objects.
        objects: Vec<Object>,
        /// Every other object goes.
        #[serde(default)]
        prune: bool,
    },
    /// Delete objects; those that do not exist are named in the error.
    Delete {
        /// Which.
        ids: Vec<Id>,
    },
}

/// What a supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Response {
    /// How the lab is.
    Report(Report),
    /// Accepted; it happens now.
    Accepted,
    /// Refused, with everything as before.
    Refused {
        /// Why.
        reason: String,
        /// It is because there is no such thing.
        #[serde(default)]
        absent: bool,
    },
}

/// How a lab is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its nodes.
    pub(crate) nodes: Vec<NodeReport>,
    /// Its pods.
    pub(crate) pods: Vec<PodReport>,
    /// What is still to come or to go, beside what the pods tell.
    pub(crate) pending: Option<String>,
    /// Policies and other objects handed to the agents.
    pub(crate) objects: Vec<Object>,
    /// Its services.
    #[serde(default)]
    pub(crate) services: Vec<ServiceReport>,
    /// Whether all agents lead addresses of services to their endpoints.
    #[serde(default)]
    pub(crate) serves_services: bool,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its agent's process; none between two of them.
    pub(crate) agent_pid: Option<u32>,
    /// Its agent answers.
    pub(crate) answers: bool,
    /// How often its agent was started again.
    pub(crate) restarts: u32,
    /// Why it has no agent.
    pub(crate) problem: Option<String>,
    /// Its agent's log.
    pub(crate) log: PathBuf,
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodReport {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its node.
    pub(crate) node: String,
    /// Its unique id.
    pub(crate) uid: String,
    /// Its network namespace.
    pub(crate) netns: PathBuf,
    /// Its processes.
    pub(crate) pids: Vec<u32>,
    /// Its addresses.
    pub(crate) ips: Vec<IpAddr>,
    /// Its identity.
    pub(crate) identity: u32,
    /// It is ready, or has done its work.
    pub(crate) ready: bool,
    /// It lives in the node's own network namespace.
    pub(crate) host_network: bool,
    /// What it is doing, in a few words.
    pub(crate) doing: String,
    /// What keeps it from being ready, if it will not pass by itself.
    pub(crate) problem: Option<String>,
    /// The log to look at.
    pub(crate) log: Option<PathBuf>,
}

/// Asks a supervisor.
///
/// # Errors
/// It is not there, or refuses.
pub(crate) fn ask(lab: &Lab, request: &Request) -> Result<Response> {
    let socket = lab.socket();
    let mut stream = UnixStream::connect(&socket).map_err(|error| {
        Absent::error(format!(
            "lab {0} is not up; bring it up with `axon lab -L {0} up DIR`, or clear a crashed one \
             away with `axon lab -L {0} down`: {error}",
            lab.name
        ))
    })?;
    serde_json::to_writer(&mut stream, request)?;
    stream.write_all(b"\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let response = serde_json::from_str(&line).context("the supervisor went away")?;
    match response {
        Response::Refused {
            reason,
            absent: true,
        } => Err(Absent::error(reason)),
        Response::Refused { reason, .. } => bail!("{reason}"),
        response => Ok(response),
    }
}

/// Asks how the lab is.
///
/// # Errors
/// As [`ask`].
pub(crate) fn report(lab: &Lab) -> Result<Report> {
    match ask(lab, &Request::Report)? {
        Response::Report(report) => Ok(report),
        other => bail!("the supervisor answered {other:?}"),
    }
}
