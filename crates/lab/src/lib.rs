//! Clusters of real nodes on one machine, from Kubernetes manifests.
//!
//! ```text
//!  axon lab up DIR ──> supervisor (one process per lab) ──> agents, one per node, each in a
//!                        │  the cluster's brain              network namespace of its own
//!                        │                                       ^ watches
//!                        ├──> manifests: Pod status, CiliumNode, ┘ CNI ADD
//!                        │    CiliumIdentity, CiliumEndpoint     ^
//!                        └──> pods: processes in namespaces ─────┘ by the real CNI plugin
//! ```
//!
//! Invariants:
//! - nothing of the host's network is touched: bridge, nodes, pods and the outside world live
//!   in namespaces made for the lab;
//! - everything a lab makes can be found again from its name alone (run directory, cgroup), so
//!   that `axon lab down` works after any crash;
//! - it decides nothing that an agent decides: it only plays kubelet, API server and wire.
#![forbid(unsafe_code)]

mod brain;
pub mod cli;
mod cni;
mod connect;
mod container;
mod control;
mod demo;
mod dns;
mod endpoints;
mod enter;
mod http;
mod manifest;
mod names;
mod netlink;
mod node;
mod paths;
mod plan;
mod pod;
mod process;
mod resolv;
mod serve;
mod services;
mod services_view;
mod state;
mod status;
mod supervisor;
mod tables;
mod up;
mod wait;
mod wire;

pub use cli::run;

/// There is no such lab, node, pod or object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent(String);

impl Absent {
    /// What there is not, in a sentence.
    pub(crate) fn error(what: impl Into<String>) -> anyhow::Error {
        Self(what.into()).into()
    }
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Absent {}
