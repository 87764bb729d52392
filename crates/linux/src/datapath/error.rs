//! Why the datapath is not as it should be.

use std::io;
use std::path::Path;

use axon_abi::Hook;

use super::{Owner, SocketHook};
use crate::maps::MapError;

/// Why the datapath is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// Another agent holds the root.
    #[error("{root} is held by the agent of node {:?} (pid {}); stop it, or use another bpf root", .owner.node, .owner.pid)]
    Held {
        /// The bpffs root.
        root: String,
        /// Who holds it.
        owner: Owner,
    },
    /// The kernel lets programs interrupt each other.
    #[error(
        "kernel {kernel} is built with PREEMPT_RT: packets' programs interrupt each other there, \
         and would mix up what they know"
    )]
    Realtime {
        /// The running kernel.
        kernel: String,
    },
    /// The kernel is too old, or built without something.
    #[error("kernel {kernel} has no {feature}, which Linux {since} and later can have")]
    Kernel {
        /// The running kernel.
        kernel: String,
        /// What it lacks.
        feature: &'static str,
        /// The least kernel that has it.
        since: &'static str,
    },
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel does not take a program.
    #[error("the kernel refuses program {program}")]
    Program {
        /// Name of the program.
        program: String,
        /// The kernel's answer, with the verifier's log.
        source: aya::programs::ProgramError,
    },
    /// The object cannot be loaded.
    #[error("the BPF object cannot be loaded")]
    Object(#[from] aya::EbpfError),
    /// A program cannot be put on a device.
    #[error("{hook:?} cannot be attached to device {device}")]
    Attach {
        /// The hook.
        hook: Hook,
        /// The device.
        device: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A program cannot be put on a cgroup.
    #[error("{hook:?} cannot be attached to cgroup {cgroup}")]
    AttachSocket {
        /// The hook.
        hook: SocketHook,
        /// The cgroup's directory.
        cgroup: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A device does not exist.
    #[error("there is no device {device}; name an existing one")]
    NoDevice {
        /// The device.
        device: String,
    },
    /// The root belongs to an agent of another network namespace.
    #[error(
        "{root} has {links} live links of node {:?} in network namespace {}; run the agent there, or clean up first",
        .owner.node, .owner.netns
    )]
    OtherNamespace {
        /// The bpffs root.
        root: String,
        /// Who held it.
        owner: Owner,
        /// Live links in it.
        links: usize,
    },
    /// A size was configured for what has none.
    #[error("{map} is no map whose size can be configured")]
    NotSizable {
        /// What was named.
        map: String,
    },
    /// A device.
    #[error(transparent)]
    Link(#[from] crate::link::LinkError),
    /// Something else is pinned where a map or a link of ours belongs.
    #[error(
        "{path} is none of this agent's; remove it, or name another bpf-root: nothing of what is \
         in force was touched"
    )]
    Foreign {
        /// The path.
        path: String,
        /// What is there, or the kernel's answer.
        source: std::io::Error,
    },
    /// A path could not be used.
    #[error("{what} {path} failed")]
    Path {
        /// What was tried (`mounting a bpffs at`).
        what: &'static str,
        /// The path.
        path: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Names a path and what was tried with it.
pub(super) fn path_error(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> DatapathError + use<> {
    let path = path.display().to_string();
    move |source| DatapathError::Path { what, path, source }
}
