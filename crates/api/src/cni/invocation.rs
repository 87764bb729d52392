//! What the runtime says through the environment.

use std::collections::BTreeMap;

use super::{Error, ErrorCode};

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it still as it was connected?
    Check,
    /// Could ADD be served?
    Status,
    /// Remove what no container needs any more.
    Gc,
    /// Which versions are spoken?
    Version,
}

/// `CNI_ARGS`: what the runtime says beyond the specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`.
    pub pod_uid: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: String,
    /// `IP`: addresses asked for, separated by commas.
    pub ips: Vec<std::net::IpAddr>,
    /// The rest.
    pub others: BTreeMap<String, String>,
}

/// One call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS, GC, VERSION.
    pub container_id: String,
    /// `CNI_NETNS`; empty where it may be (DEL, STATUS, GC, VERSION).
    pub netns: String,
    /// `CNI_IFNAME`; empty for STATUS, GC, VERSION.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`, by directory.
    pub path: Vec<String>,
}

impl Invocation {
    /// Reads the variables.
    ///
    /// # Errors
    /// Code 4, naming the variable.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let _ = var("CNI_COMMAND");
        Err(Error::new(ErrorCode::InvalidEnvironment, "not read yet"))
    }
}
