//! Options of sockets whose addresses are services'.

use std::path::{Path, PathBuf};

use super::read::Reader;

/// Where cgroups usually are, for the report if none are found.
const USUAL_CGROUP: &str = "/sys/fs/cgroup";

/// What is done with sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// Lead them from services to backends.
    pub enabled: bool,
    /// Whose processes' sockets; none is the cgroup2 file system's root.
    pub cgroup: Option<PathBuf>,
    /// Only those in the node's own network namespace.
    pub host_only: bool,
    /// Let nobody on the node bind to a port of a service.
    pub bind_protection: bool,
    /// End those in pods that are connected to a backend that is gone.
    pub terminate_in_pods: bool,
    /// End TCP's too.
    pub terminate_all: bool,
}

impl Sockets {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let replaces_kube_proxy = reader.boolean("kube-proxy-replacement");
        let asked_for = reader.boolean("bpf-lb-sock");
        let cgroup = match reader.settings.text("cgroup-root") {
            "" => None,
            _ => Some(reader.path("cgroup-root")),
        };
        Self {
            enabled: replaces_kube_proxy || asked_for,
            cgroup,
            host_only: reader.boolean("bpf-lb-sock-hostns-only"),
            // Beside kube-proxy, that is who binds to them.
            bind_protection: reader.boolean("node-port-bind-protection") && replaces_kube_proxy,
            terminate_in_pods: reader.boolean("bpf-lb-sock-terminate-pod-connections"),
            terminate_all: reader.boolean("lb-sock-terminate-all-protos"),
        }
    }

    /// The directory of the cgroup.
    pub(crate) fn cgroup(&self) -> PathBuf {
        let found = || axon_linux::cgroup::mount_point().ok();
        let cgroup = self.cgroup.clone().or_else(found);
        cgroup.unwrap_or_else(|| Path::new(USUAL_CGROUP).to_owned())
    }
}
