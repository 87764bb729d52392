//! The configuration: every option, read and checked.

mod firewall;
mod logging;
mod network;
mod read;
mod services;
mod sizes;
mod sockets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use firewall::Firewall;
pub use logging::{LogFormat, Logging};
pub use network::{Aggregation, Allocation, Enforcement, Monitor, Network};
pub use sizes::Sizes;
pub(crate) use sizes::option_of;
pub use sockets::Sockets;

use axon_control::services::ServicesConfig;

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
    /// Policy for the node itself.
    pub firewall: Firewall,
    /// What is done with sockets.
    pub sockets: Sockets,
    /// What is reported of packets.
    pub monitor: Monitor,
    /// How services are read.
    pub services: ServicesConfig,
    /// Where it is told as by kube-proxy whether services are in force; `None` is off.
    pub kube_proxy_healthz: Option<SocketAddr>,
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
}

impl Paths {
    /// Manifests of the services that the API was told of.
    pub(crate) fn services(&self) -> PathBuf {
        self.lib.join("services")
    }
}

impl Config {
    /// Reads the options: flags, environment, config directory, defaults.
    ///
    /// # Errors
    /// Every option that cannot be used.
    pub fn load(args: &AgentArgs) -> Result<Self, Vec<OptionError>> {
        let settings =
            Settings::resolve(args, |name| std::env::var(name).ok()).map_err(|e| vec![e])?;
        Self::read(&settings)
    }

    /// Reads and checks what the settings say.
    ///
    /// # Errors
    /// Every option that cannot be used.
    pub fn read(settings: &Settings) -> Result<Self, Vec<OptionError>> {
        let mut reader = Reader::new(settings);
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
                .chain(Some(settings.text("static-cnp-path").to_owned()))
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
                .collect(),
            paths: Paths {
                state: reader.path("state-dir"),
                lib: reader.path("lib-dir"),
                socket: reader.path("socket-path"),
                socket_group: settings.text("socket-group").to_owned(),
                bpf: reader.path("bpf-root"),
            },
            network: Network::read(&mut reader),
            firewall: Firewall::read(&mut reader),
            sockets: Sockets::read(&mut reader),
            monitor: Monitor::read(&mut reader),
            services: services::read(&mut reader),
            kube_proxy_healthz: services::healthz(&mut reader),
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

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::Config;
    use crate::options::{AgentArgs, Settings};

    fn read(flags: &[&str]) -> Result<Config, Vec<crate::OptionError>> {
        let matches = AgentArgs::augment_args(Command::new("agent").no_binary_name(true))
            .try_get_matches_from(flags)
            .expect("flags");
        let args = AgentArgs::from_arg_matches(&matches).expect("args");
        let settings = Settings::resolve(&args, |_| None).map_err(|error| vec![error])?;
        Config::read(&settings)
    }

    #[test]
    fn the_defaults_are_usable() {
        let config = read(&["--node-name=n1"]).expect("defaults");
        assert!(config.network.ipv4 && config.network.ipv6 && config.network.allow_localhost);
        assert_eq!(config.sizes.timeouts.tcp_established_s, 8000);
        assert_eq!(config.monitor.tcp_flags, 0x07);
        assert_eq!(config.health_port, Some(9879));
        assert!(config.prometheus.is_none());
    }

    #[test]
    fn policies_are_followed_in_the_directory_that_cilium_has_for_them_too() {
        let flags = ["--manifests-dir=/a", "--static-cnp-path=/b"];
        let config = read(&[&["--node-name=n1"], &flags[..]].concat()).expect("paths");
        assert_eq!(config.manifests, ["/a", "/b"].map(std::path::PathBuf::from));
        assert!(
            read(&["--node-name=n1"])
                .expect("none")
                .manifests
                .is_empty()
        );
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_expected() {
        for (flag, expected) in [
            ("--enable-ipv4=maybe", "true or false"),
            ("--mtu=100", "1280"),
            ("--mtu=x", "0 to 65535"),
            ("--routing-mode=tunnel", "native"),
            ("--ipam=cluster-pool", "kubernetes"),
            ("--policy-deny-response=rst", "none, icmp"),
            ("--enable-policy=sometimes", "default, always, never"),
            ("--cluster-name=-a-", "1 to 32"),
            ("--ipv4-native-routing-cidr=fd00::/8", "IPv4 prefix"),
            ("--state-dir=relative", "absolute"),
            ("--endpoint-ready-timeout=10", "duration"),
            ("--bpf-ct-timeout-regular-tcp=0s", "at least 1s"),
            ("--bpf-map-dynamic-size-ratio=2", "0 to 1"),
            ("--prometheus-serve-addr=9962", "address and a port"),
            ("--agent-health-port=70000", "0 to 65535"),
            ("--monitor-aggregation-flags=nak", "fin, syn, rst"),
            ("--labels=k8s:[", "patterns"),
            ("--log-level=a=b=c", "debug"),
            ("--log-level=loud", "debug"),
            ("--enable-bpf-masquerade=false", "masquerad"),
            ("--identity-allocation-mode=kvstore", "local, crd"),
            ("--policy-cidr-match-mode=nodes,hosts", "not \"hosts\""),
            ("--bpf-lb-sock=tcp", "true or false"),
            ("--cgroup-root=cgroup", "absolute"),
            ("--enable-host-firewall=perhaps", "true or false"),
            ("--host-firewall-confirm-timeout=soon", "duration"),
            ("--host-firewall-failsafe-ingress=tcp/22,ssh", "not \"ssh\""),
            ("--host-firewall-failsafe-egress=udp/0", "not \"udp/0\""),
            ("--bpf-lb-mode=nat", "snat, dsr, hybrid"),
            ("--bpf-lb-algorithm=rr", "random, maglev"),
            ("--bpf-lb-maglev-table-size=1000", "one of 251"),
            ("--node-port-range=32000,31000", "30000,32767"),
            ("--node-port-range=31000", "30000,32767"),
            ("--nodeport-addresses=192.0.2.1/33", "prefixes"),
            ("--service-no-backend-response=rst", "reject, drop"),
            ("--bpf-lb-map-max=10", "256 to"),
            (
                "--kube-proxy-replacement-healthz-bind-address=10256",
                "an address and a port",
            ),
        ] {
            let errors = read(&["--node-name=n1", flag]).expect_err(flag);
            let (name, value) = flag[2..].split_once('=').expect("flag");
            assert_eq!(errors.len(), 1, "{flag}: {errors:?}");
            assert_eq!(
                (errors[0].option.as_str(), errors[0].value.as_str()),
                (name, value)
            );
            assert!(errors[0].to_string().contains(expected), "{}", errors[0]);
        }
    }

    #[test]
    fn beside_kube_proxy_nobody_else_is_asked() {
        for (replaces, expected) in [("true", true), ("false", false)] {
            let config = read(&[
                "--node-name=n1",
                &format!("--kube-proxy-replacement={replaces}"),
                "--kube-proxy-replacement-healthz-bind-address=:10256",
            ]);
            let config = config.expect("options");
            assert_eq!(config.services.health_checks, expected);
            assert_eq!(config.kube_proxy_healthz.is_some(), expected);
        }
    }

    #[test]
    fn every_bad_value_is_told_at_once() {
        let errors = read(&["--node-name=n1", "--mtu=x", "--enable-ipv4=x", "--ipam=x"]);
        assert_eq!(errors.expect_err("three").len(), 3);
    }
}
