//! The configuration: every option, read and checked.

mod logging;
mod network;
mod read;
mod sizes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use logging::{LogFormat, Logging};
pub use network::{Aggregation, Allocation, Enforcement, Monitor, Network};
pub use sizes::Sizes;

use crate::options::{AgentArgs, OptionError, Settings};
use read::Reader;

/// The configuration of an agent. Unchangeable after start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Directories of manifests to follow.
    pub manifests: Vec<PathBuf>,
    /// Where things are kept.
    pub paths: Paths,
    /// Addresses, devices, policy.
    pub network: Network,
    /// What is reported of packets.
    pub monitor: Monitor,
    /// Sizes and lives of kernel tables.
    pub sizes: Sizes,
    /// How long CNI ADD waits for a pod's labels and policy.
    pub ready_timeout: Duration,
    /// Port of `/healthz` on the loopback; `None` is off.
    pub health_port: Option<u16>,
    /// Where metrics are served; `None` is off.
    pub prometheus: Option<SocketAddr>,
    /// The log.
    pub logging: Logging,
    /// The texts all this was read from.
    pub settings: Settings,
}

/// Where things are kept.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What must survive the agent.
    pub state: PathBuf,
    /// What must survive a reboot.
    pub lib: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Who may use it beside root.
    pub socket_group: String,
    /// Pinned maps and links.
    pub bpf: PathBuf,
    /// The cgroup2 hierarchy; `None` is the one of the mount table.
    pub cgroup: Option<PathBuf>,
}

impl Config {
    /// Reads the options: flags, environment, config directory, defaults.
    ///
    /// # Errors
    /// Every option that cannot be used.
    pub fn load(args: &AgentArgs) -> Result<Self, Vec<OptionError>> {
        let settings =
            Settings::resolve(args, |name| std::env::var(name).ok()).map_err(|e| vec![e])?;
        Self::read(settings)
    }

    /// Reads and checks what the settings say.
    ///
    /// # Errors
    /// Every option that cannot be used.
    pub fn read(settings: Settings) -> Result<Self, Vec<OptionError>> {
        let mut reader = Reader::new(&settings);
        let node_name = match settings.text("node-name") {
            "" => host_name(),
            name => name.to_owned(),
        };
        if node_name.is_empty() {
            reader.refuse("node-name", "a name, as this machine has no host name");
        }
        let config = Self {
            node_name,
            cluster_name: reader.cluster_name(),
            manifests: settings
                .list("manifests-dir")
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            paths: Paths {
                state: reader.path("state-dir"),
                lib: reader.path("lib-dir"),
                socket: reader.path("socket-path"),
                socket_group: settings.text("socket-group").to_owned(),
                bpf: reader.path("bpf-root"),
                cgroup: Some(settings.text("cgroup-root"))
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
            },
            network: Network::read(&mut reader),
            monitor: Monitor::read(&mut reader),
            sizes: Sizes::read(&mut reader),
            ready_timeout: reader.duration("endpoint-ready-timeout"),
            health_port: Some(reader.number("agent-health-port", 0..=65535))
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            prometheus: reader.listen_address("prometheus-serve-addr"),
            logging: Logging::read(&mut reader),
            settings: settings.clone(),
        };
        let errors = reader.finish();
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(errors)
        }
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
