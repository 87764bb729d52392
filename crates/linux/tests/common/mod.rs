//! A node of its own for a test: a network namespace, a bpffs, and endpoints.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod forged;
pub(crate) mod kernel;
pub(crate) mod monitor;
pub(crate) mod raw;
pub(crate) mod veth;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Output};

use axon_abi::{ConfigFlags, EndpointRow, Identity, IdentityRow, IpKey, IpcacheRow, MAPS};
use axon_abi::{RuntimeConfig, Timeouts};
use axon_linux::link::{self, EndpointLink, Netns};
use axon_linux::process::{self, Place};
use axon_linux::{Datapath, DatapathConfig, KernelReconciler, Maps, ReconcilerConfig, netns};
use axon_model::{Desired, Mac, PolicyRows};

/// Says so and gives `None` where the test cannot run.
pub(crate) fn root() -> Option<()> {
    if nix::unistd::geteuid().is_root() {
        Some(())
    } else {
        eprintln!("skipped: needs root");
        None
    }
}

/// A node: its namespace and its bpffs, gone when dropped.
pub(crate) struct Node {
    pub(crate) netns: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Node {
    /// `name` must be unique among the tests.
    pub(crate) fn new(name: &str) -> Self {
        let netns = format!("axt-linux-{name}-{}", std::process::id());
        netns::create(&netns).expect("a namespace");
        Self {
            netns,
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    pub(crate) fn bpf_root(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    pub(crate) fn config(&self) -> DatapathConfig {
        // Small maps: the tests are about what happens, not how much.
        let map_sizes: BTreeMap<String, u32> = MAPS
            .iter()
            .filter(|spec| spec.sizable)
            .map(|spec| (spec.name.to_owned(), 1024))
            .collect();
        DatapathConfig {
            bpf_root: self.bpf_root(),
            node: "node-1".to_owned(),
            map_sizes,
            ..DatapathConfig::default()
        }
    }

    /// Runs something in the node's namespace.
    pub(crate) fn run<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        netns::within_path(&netns::path(&self.netns), run).expect("the node's namespace")
    }

    /// Runs a program in the node's namespace.
    pub(crate) fn exec(&self, program: &str, args: &[&str]) -> Output {
        exec(&netns::path(&self.netns), program, args)
    }

    /// Starts a program in the node's namespace.
    pub(crate) fn spawn(&self, program: &str, args: &[&str]) -> std::process::Child {
        spawn(&netns::path(&self.netns), program, args)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let root = self.bpf_root();
        self.run(|| axon_linux::cleanup(&root, true).map(drop))
            .expect("a clean node");
        netns::delete(&self.netns).expect("the namespace goes");
    }
}

/// Runs a program in a namespace.
pub(crate) fn exec(netns: &std::path::Path, program: &str, args: &[&str]) -> Output {
    let child = spawn(netns, program, args);
    child.wait_with_output().expect("the program ends")
}

/// Starts a program in a namespace.
fn spawn(netns: &std::path::Path, program: &str, args: &[&str]) -> std::process::Child {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let place = Place {
        netns: Some(netns.to_owned()),
        ..Place::default()
    };
    process::spawn(command, &place).expect("the program starts")
}

/// An endpoint with its devices.
pub(crate) struct Pod {
    pub(crate) netns: std::fs::File,
    pub(crate) link: EndpointLink,
    pub(crate) ifindex: u32,
}

impl Pod {
    /// Makes endpoint number `n` on a node.
    pub(crate) fn create(node: &Node, n: u8) -> Self {
        let netns = netns::create_anonymous().expect("a namespace");
        let link = EndpointLink {
            host_name: link::host_name(&format!("container-{n}"), "eth0"),
            container_name: "eth0".to_owned(),
            host_mac: Mac([2, 0, 0, 0, 1, n]),
            container_mac: Mac([2, 0, 0, 0, 2, n]),
            mtu: 1500,
            ipv4: Some(Ipv4Addr::new(10, 7, 0, n)),
            ipv6: Some(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, u16::from(n))),
            big_tcp_ipv4: true,
            big_tcp_ipv6: true,
        };
        let fd = Netns::Fd(netns.as_fd().try_clone_to_owned().expect("a descriptor"));
        let ifindex = node.run(|| link::create(&fd, &link)).expect("devices");
        Self {
            netns,
            link,
            ifindex,
        }
    }

    pub(crate) fn fd(&self) -> Netns {
        Netns::Fd(
            self.netns
                .as_fd()
                .try_clone_to_owned()
                .expect("a descriptor"),
        )
    }

    /// Path of the namespace, through this process's descriptor.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.netns.as_raw_fd()
        ))
    }

    pub(crate) fn row(&self, identity: u32, policy_set: u32) -> EndpointRow {
        EndpointRow {
            ifindex: self.ifindex,
            identity: Identity(identity),
            policy_set,
            id: u16::from(self.link.container_mac.0[5]),
            flags: 0,
            ipv4: self.link.ipv4.map_or([0; 4], |a| a.octets()),
            ipv6: self
                .link
                .ipv6
                .map_or(IpKey::UNSPECIFIED, |a| IpKey::from_v6(a.octets())),
            mac: self.link.container_mac.0,
            node_mac: self.link.host_mac.0,
        }
    }
}

/// Desired tables with everything allowed: an empty policy set denies nothing.
pub(crate) fn desired(pods: &[&Pod]) -> Desired {
    let desired = Desired::default();
    desired.config.replace([(
        0,
        RuntimeConfig {
            flags: ConfigFlags::IPV4 | ConfigFlags::IPV6 | ConfigFlags::ALLOW_LOCALHOST,
            mtu: 1500,
            node_ipv4: [192, 0, 2, 1],
            nat_port_min: 32768,
            nat_port_max: 65535,
            timeouts: Timeouts {
                tcp_opening_s: 60,
                tcp_established_s: 8000,
                tcp_closing_s: 10,
                one_way_s: 60,
                two_way_s: 60,
                fragment_s: 10,
            },
            ..RuntimeConfig::default()
        },
    )]);
    desired
        .identities
        .replace([(Identity(1000), IdentityRow::default())]);
    desired.policy_sets.replace([(1, PolicyRows::default())]);
    desired
        .endpoints
        .replace(pods.iter().map(|pod| (pod.ifindex, pod.row(1000, 1))));
    desired.ipcache.replace(pods.iter().flat_map(|pod| {
        let row = IpcacheRow {
            identity: Identity(1000),
            flags: axon_abi::IpcacheFlags::WORKLOAD,
            ..IpcacheRow::default()
        };
        let keys = [pod.link.ipv4.map(Into::into), pod.link.ipv6.map(Into::into)];
        keys.into_iter()
            .flatten()
            .map(move |ip: std::net::IpAddr| (IpKey::from(ip), row))
    }));
    complete(&desired);
    desired
}

/// Says of every table that absence means something.
pub(crate) fn complete(desired: &Desired) {
    desired.identities.mark_complete();
    desired.policy_sets.mark_complete();
    desired.ipcache.mark_complete();
    desired.ipcache_cidrs.mark_complete();
    desired.endpoints.mark_complete();
    desired.nomasq.mark_complete();
    desired.routes.mark_complete();
    desired.config.mark_complete();
}

/// A reconciler in the node's namespace.
pub(crate) fn reconciler(node: &Node, maps: &Maps) -> KernelReconciler {
    let maps = maps.clone();
    node.run(move || KernelReconciler::new(maps, ReconcilerConfig::default()))
}

/// Opens the datapath in the node's namespace.
pub(crate) fn open(node: &Node, config: &DatapathConfig) -> Datapath {
    node.run(|| Datapath::open(config))
        .unwrap_or_else(|error| panic!("{}", whole(&error)))
}

/// The node's maps without programs, for what is about rows: no packet meets them, and the
/// kernel takes seconds to verify the programs.
pub(crate) fn maps_alone(node: &Node, config: &DatapathConfig) -> Maps {
    node.run(|| axon_linux::maps_alone(config))
        .unwrap_or_else(|error| panic!("{}", whole(&error)))
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Opens the datapath in the node's namespace, and attaches it to pods.
pub(crate) fn attached<'a>(
    node: &Node,
    config: &DatapathConfig,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Datapath {
    let mut datapath = open(node, config);
    for pod in pods {
        node.run(|| datapath.attach_endpoint(pod.ifindex))
            .expect("attached");
    }
    datapath
}
