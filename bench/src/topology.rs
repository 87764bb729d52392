//! Two pods and what is between them; made and removed by us, in namespaces of
//! our own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::floor::{Floor, raise_aggregates};
use crate::load::Mode;
use crate::service::{self, By, Service, Up};

const PREFIX: &str = "axb";
/// The lab of [`Kind::Axon`].
pub(crate) const LAB: &str = "bench";

/// Kinds of topologies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One veth pair between two namespaces: the limit of the device.
    Raw,
    /// Two pods on a bridge whose frames pass netfilter.
    Bridge,
    /// Two veth pairs, the kernel routes between them, no rules.
    Routed,
    /// The same with connection tracking and a forward chain, as a node with
    /// kube-proxy has them at the least.
    Netfilter,
    /// Programs that do the least: an identity, a flow, one policy, a counter.
    Floor,
    /// The same with aggregates beyond 64 KiB.
    FloorBig,
    /// A lab node of ours: identities, policy, conntrack and events on.
    Axon,
    /// The same without aggregates beyond 64 KiB, beside the floor that has none.
    AxonPlain,
    /// The same with the fewest events that an agent can be told to report: a
    /// flow that is established tells nothing.
    AxonQuiet,
    /// As `axon`, and 16,384 further rules of one port and one peer each on the
    /// server's pod: who opens a flow is looked up beside them.
    #[value(name = "rules-16k")]
    Rules16k,
    /// The same with 65,536 rules.
    #[value(name = "rules-64k")]
    Rules64k,
    /// The same with 250,000 rules.
    #[value(name = "rules-250k")]
    Rules250k,
    /// A server behind a service.
    #[value(skip)]
    Service(Service),
}

impl Kind {
    /// The name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Bridge => "bridge",
            Self::Routed => "routed",
            Self::Netfilter => "netfilter",
            Self::Floor => "floor",
            Self::FloorBig => "floor-big",
            Self::Axon => "axon",
            Self::AxonPlain => "axon-plain",
            Self::AxonQuiet => "axon-quiet",
            Self::Rules16k => "rules-16k",
            Self::Rules64k => "rules-64k",
            Self::Rules250k => "rules-250k",
            Self::Service(service) => service.name(),
        }
    }

    /// Whether it tells anything under such a load that the others do not.
    pub(crate) fn measures(self, mode: Mode) -> bool {
        match self {
            Self::AxonPlain => matches!(mode, Mode::Stream | Mode::Udp),
            Self::AxonQuiet => matches!(mode, Mode::Rr | Mode::Crr | Mode::Stream),
            Self::Rules16k | Self::Rules64k | Self::Rules250k | Self::Service(_) => {
                matches!(mode, Mode::Rr | Mode::Crr)
            }
            Self::Raw
            | Self::Bridge
            | Self::Routed
            | Self::Netfilter
            | Self::Floor
            | Self::FloorBig
            | Self::Axon => true,
        }
    }

    /// The lab that carries it, and the options of its agent beside those of every lab.
    fn lab(self) -> Option<(&'static str, &'static [(&'static str, &'static str)])> {
        match self {
            Self::Axon => Some((LAB, &[])),
            Self::AxonPlain => Some((
                "bench-plain",
                &[
                    ("enable-ipv4-big-tcp", "false"),
                    ("enable-ipv6-big-tcp", "false"),
                ],
            )),
            Self::AxonQuiet => Some((
                "bench-quiet",
                &[
                    ("monitor-aggregation", "maximum"),
                    ("monitor-aggregation-interval", "24h"),
                ],
            )),
            // A place of this option is eight entries of all sets together: room for them, and more.
            Self::Rules16k => Some(("bench-16k", &[("bpf-policy-map-max", "6144")])),
            Self::Rules64k => Some(("bench-64k", &[("bpf-policy-map-max", "12288")])),
            Self::Rules250k => Some(("bench-250k", &[("bpf-policy-map-max", "35346")])),
            Self::Raw
            | Self::Bridge
            | Self::Routed
            | Self::Netfilter
            | Self::Floor
            | Self::FloorBig
            | Self::Service(_) => None,
        }
    }
}

/// How many rules of others the server's pod has.
fn further_rules(kind: Kind) -> usize {
    match kind {
        Kind::Rules16k => 16_384,
        Kind::Rules64k => 65_536,
        Kind::Rules250k => 250_000,
        _ => 0,
    }
}

/// Rules of one peer and one port each, 8,192 in a policy and a file: both have
/// limits. Of more than 65,536 some have a peer in common.
fn rules(count: usize) -> Vec<String> {
    let numbers: Vec<usize> = (0..count).collect();
    let policy = |numbers: &[usize]| {
        let first = numbers.first().copied().unwrap_or_default();
        let mut text = format!(
            "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: further-{first}}}
spec:
  endpointSelector: {{matchLabels: {{role: server}}}}
  ingress:
"
        );
        for n in numbers {
            let (high, low, port) = (n / 256 % 256, n % 256, 10_000 + n % 50_000);
            text += &format!(
                "    - {{fromCIDR: [172.16.{high}.{low}/32], toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]}}\n"
            );
        }
        text
    };
    numbers.chunks(8192).map(policy).collect()
}

/// What a node has by itself; a lab has less.
const OPTIONS: [(&str, &str); 2] = [
    ("bpf-ct-global-tcp-max", "262144"),
    ("bpf-ct-global-any-max", "131072"),
];

/// The options of a lab's agent, as a manifest.
fn options(further: &[(&str, &str)]) -> String {
    let mut text = "apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data:
"
    .to_owned();
    for (name, value) in OPTIONS.iter().chain(further) {
        text += &format!("  {name}: \"{value}\"\n");
    }
    text
}

/// What topologies are made of besides the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The `axon` binary.
    pub axon: PathBuf,
    /// The object with the floor's programs.
    pub floor: PathBuf,
}

/// Two namespaces that reach each other; removed when dropped.
pub(crate) struct Topology {
    pub kind: Kind,
    /// Path of the client's namespace.
    pub client: String,
    /// Path of the server's namespace.
    pub server: String,
    /// The server's address.
    pub address: IpAddr,
    /// What makes a process one of the node, if that takes more than its namespace.
    pub wrap: Vec<String>,
    axon: PathBuf,
    /// Keeps the programs on their devices.
    _floor: Option<Floor>,
}

impl Topology {
    pub(crate) fn up(kind: Kind, parts: &Parts) -> Result<Self> {
        down(kind, &parts.axon);
        let name = kind.name();
        let path = |side: &str| format!("/run/netns/{PREFIX}-{name}-{side}");
        // From here on a failure removes what was made.
        let mut topology = Self {
            kind,
            client: path("a"),
            server: path("b"),
            address: IpAddr::from([10, 201, 2, 2]),
            wrap: Vec::new(),
            axon: parts.axon.clone(),
            _floor: None,
        };
        match kind {
            Kind::Raw => raw(name)?,
            Kind::Bridge => bridge(name)?,
            Kind::Routed | Kind::Netfilter => routed(name, kind)?,
            Kind::Floor | Kind::FloorBig => {
                routed(name, kind)?;
                let host = format!("/run/netns/{PREFIX}-{name}-h");
                topology._floor = Some(Floor::attach(&parts.floor, &host)?);
                if kind == Kind::FloorBig {
                    let pods = [topology.client.as_str(), topology.server.as_str()];
                    for (netns, device) in [(&*host, "ha"), (&*host, "hb")]
                        .into_iter()
                        .chain(pods.map(|pod| (pod, "eth0")))
                    {
                        raise_aggregates(netns, device)?;
                    }
                }
            }
            Kind::Axon
            | Kind::AxonPlain
            | Kind::AxonQuiet
            | Kind::Rules16k
            | Kind::Rules64k
            | Kind::Rules250k => topology.lab()?,
            Kind::Service(service) => topology.service(service)?,
        }
        Ok(topology)
    }

    /// A server behind the last of many services.
    fn service(&mut self, service: Service) -> Result<()> {
        if service.is_ours() {
            let up = Up::of(service, &self.axon)?;
            let asked = match service.by {
                By::Direct => "POD",
                _ => "DST",
            };
            self.address = up.text(asked)?.parse()?;
            self.client = format!("/run/netns/{}", up.text("CLI_NS")?);
            self.server = format!("/run/netns/{}", up.text("SRV_NS")?);
            self.wrap = up.wrap();
            // As every topology has it, whatever the script thinks best.
            return [&self.client, &self.server]
                .into_iter()
                .try_for_each(|pod| same_tcp(pod));
        }
        let name = self.kind.name();
        routed(name, self.kind)?;
        let last = [2, 3, 4].map(|n| Ipv4Addr::new(10, 201, 2, n));
        for further in last.iter().skip(1) {
            let pod = format!("{PREFIX}-{name}-b");
            ip(&[
                "-n",
                &pod,
                "addr",
                "add",
                &format!("{further}/24"),
                "dev",
                "eth0",
            ])?;
        }
        service.put_rules(&format!("/run/netns/{PREFIX}-{name}-h"), last)?;
        self.address = service.address();
        Ok(())
    }

    /// A lab of one node with two pods and a policy that must be evaluated.
    fn lab(&mut self) -> Result<()> {
        let (lab, further) = self.kind.lab().context("no lab carries this")?;
        let pods = Path::new(env!("CARGO_MANIFEST_DIR")).join("pods");
        let dir = std::env::temp_dir().join(format!("axon-{lab}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let texts = std::iter::once(options(further)).chain(rules(further_rules(self.kind)));
        let written = texts.enumerate().try_for_each(|(n, text)| {
            let file = dir.join(format!("{n}.yaml"));
            std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
        });
        let up = written.and_then(|()| {
            let mut up = Command::new(&self.axon);
            run(up.args(["lab", "--name", lab, "up"]).arg(pods).arg(&dir))
        });
        std::fs::remove_dir_all(&dir).ok();
        up?;
        let output = Command::new(&self.axon)
            .args(["lab", "--name", lab, "status", "-o", "json"])
            .output()
            .context("asking the lab for its status")?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let pod = |name: &str| {
            status["pods"]
                .as_array()
                .and_then(|pods| pods.iter().find(|p| p["name"] == name))
        };
        let text = |name: &str, key: &str| {
            pod(name)
                .and_then(|p| p[key].as_str())
                .map(str::to_owned)
                .context("pod is missing")
        };
        self.client = text("client", "netns")?;
        self.server = text("server", "netns")?;
        self.address = text("server", "ipv4")?.parse()?;
        for netns in [&self.client, &self.server] {
            same_tcp(netns)?;
        }
        Ok(())
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        down(self.kind, &self.axon);
    }
}

fn down(kind: Kind, axon: &Path) {
    if let Kind::Service(service) = kind
        && service.is_ours()
    {
        return service::down(service, axon);
    }
    if let Some((lab, _)) = kind.lab() {
        Command::new(axon)
            .args(["lab", "--name", lab, "down"])
            .output()
            .ok();
        return;
    }
    let name = kind.name();
    for side in ["a", "b", "h"] {
        Command::new("ip")
            .args(["netns", "del", &format!("{PREFIX}-{name}-{side}")])
            .output()
            .ok();
    }
}

fn raw(name: &str) -> Result<()> {
    let (a, b) = (format!("{PREFIX}-{name}-a"), format!("{PREFIX}-{name}-b"));
    ip(&["netns", "add", &a])?;
    ip(&["netns", "add", &b])?;
    ip(&[
        "-n", &a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &b,
    ])?;
    for (ns, addr) in [(&a, "10.201.2.1/24"), (&b, "10.201.2.2/24")] {
        ip(&["-n", ns, "addr", "add", addr, "dev", "eth0"])?;
        ip(&["-n", ns, "link", "set", "lo", "up"])?;
        ip(&["-n", ns, "link", "set", "eth0", "up"])?;
        same_tcp(&format!("/run/netns/{ns}"))?;
    }
    Ok(())
}

fn bridge(name: &str) -> Result<()> {
    let ns = |side: &str| format!("{PREFIX}-{name}-{side}");
    let host = ns("h");
    ip(&["netns", "add", &host])?;
    ip(&["-n", &host, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", &host, "addr", "add", "10.201.2.254/24", "dev", "br0"])?;
    ip(&["-n", &host, "link", "set", "br0", "up"])?;
    for (side, addr) in [("a", "10.201.2.1/24"), ("b", "10.201.2.2/24")] {
        let (pod, device) = (ns(side), format!("h{side}"));
        ip(&["netns", "add", &pod])?;
        ip(&[
            "-n", &host, "link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns",
            &pod,
        ])?;
        ip(&["-n", &host, "link", "set", &device, "master", "br0", "up"])?;
        ip(&["-n", &pod, "addr", "add", addr, "dev", "eth0"])?;
        ip(&["-n", &pod, "link", "set", "lo", "up"])?;
        ip(&["-n", &pod, "link", "set", "eth0", "up"])?;
        same_tcp(&format!("/run/netns/{pod}"))?;
    }
    let host = format!("/run/netns/{host}");
    sysctl(&host, "net.bridge.bridge-nf-call-iptables=1")
        .context("the kernel has no br_netfilter")?;
    forward_chain(&host)
}

fn routed(name: &str, kind: Kind) -> Result<()> {
    let ns = |side: &str| format!("{PREFIX}-{name}-{side}");
    let host = ns("h");
    ip(&["netns", "add", &host])?;
    for (side, n) in [("a", "1"), ("b", "2")] {
        let (pod, device) = (ns(side), format!("h{side}"));
        ip(&["netns", "add", &pod])?;
        ip(&[
            "-n", &host, "link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns",
            &pod,
        ])?;
        ip(&[
            "-n",
            &host,
            "addr",
            "add",
            &format!("10.201.{n}.1/24"),
            "dev",
            &device,
        ])?;
        ip(&["-n", &host, "link", "set", &device, "up"])?;
        ip(&[
            "-n",
            &pod,
            "addr",
            "add",
            &format!("10.201.{n}.2/24"),
            "dev",
            "eth0",
        ])?;
        ip(&["-n", &pod, "link", "set", "lo", "up"])?;
        ip(&["-n", &pod, "link", "set", "eth0", "up"])?;
        ip(&[
            "-n",
            &pod,
            "route",
            "add",
            "default",
            "via",
            &format!("10.201.{n}.1"),
        ])?;
        same_tcp(&format!("/run/netns/{pod}"))?;
    }
    let host_path = format!("/run/netns/{host}");
    sysctl(&host_path, "net.ipv4.ip_forward=1")?;
    if kind == Kind::Netfilter {
        forward_chain(&host_path)?;
    }
    Ok(())
}

/// A chain that tracks connections, and lets through what is established or
/// between pods, after a few rules about others.
fn forward_chain(host: &str) -> Result<()> {
    let rules = "*filter\n\
                 :FORWARD DROP\n\
                 -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
                 -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A FORWARD -s 10.202.0.0/16 -j DROP\n\
                 -A FORWARD -s 10.201.0.0/16 -j ACCEPT\n\
                 COMMIT\n";
    let mut restore = Command::new("nsenter")
        .arg(format!("--net={host}"))
        .arg("iptables-restore")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .context("starting iptables-restore")?;
    if let Some(mut stdin) = restore.stdin.take() {
        std::io::Write::write_all(&mut stdin, rules.as_bytes())?;
    }
    if !restore.wait()?.success() {
        bail!("iptables-restore refused the rules");
    }
    Ok(())
}

/// The same TCP in every pod: the machine's default congestion control may pace
/// (bbr) and hide the path's cost, and a connection for each byte wants ports.
fn same_tcp(netns: &str) -> Result<()> {
    // Every kernel has reno, and lets a namespace choose it.
    sysctl(netns, "net.ipv4.tcp_congestion_control=reno")?;
    sysctl(netns, "net.ipv4.ip_local_port_range=1024 65535")?;
    sysctl(netns, "net.ipv4.tcp_tw_reuse=1")
}

fn sysctl(netns: &str, setting: &str) -> Result<()> {
    let (key, value) = setting.split_once('=').context("a setting has a value")?;
    let file = format!("/proc/sys/{}", key.replace('.', "/"));
    run(Command::new("nsenter").arg(format!("--net={netns}")).args([
        "sh",
        "-c",
        &format!("echo '{value}' > {file}"),
    ]))
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::{Kind, further_rules, options, rules};

    #[test]
    fn names_are_those_of_the_command_line() {
        for kind in Kind::value_variants() {
            let value = kind.to_possible_value().expect("a value");
            assert_eq!(value.get_name(), kind.name());
        }
    }

    #[test]
    fn labs_differ_in_their_options_and_rules_only() {
        let labs: Vec<_> = Kind::value_variants()
            .iter()
            .filter_map(|kind| kind.lab())
            .collect();
        assert_eq!(labs.len(), 6);
        for (kind, count) in [(Kind::Axon, 0), (Kind::Rules16k, 16_384)] {
            let texts = rules(further_rules(kind));
            let of = |text: &String| text.matches("fromCIDR").count();
            assert_eq!(texts.iter().map(of).sum::<usize>(), count);
        }
        for (name, further) in labs {
            let text = options(further);
            assert!(
                text.contains("  bpf-ct-global-tcp-max: \"262144\"\n"),
                "{name}"
            );
            for (option, value) in further {
                let line = format!("  {option}: \"{value}\"\n");
                assert!(text.contains(&line), "{name}: {text}");
            }
        }
    }
}
