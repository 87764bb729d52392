//! A server behind the last of many services: at sockets, as we have it, and by
//! kube-proxy's rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::rules::{ENDPOINTS, Services};
use crate::topology::Kind;

/// Who leads the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Nobody: it is asked at its own address, on a node of ours.
    Direct,
    /// A node of ours.
    Axon,
    /// kube-proxy's rules for iptables, which nf_tables holds.
    Iptables,
    /// The same, which the kernel's older tables hold.
    Legacy,
    /// kube-proxy's table for nft.
    Nft,
}

/// A server, and how many services there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) by: By,
    pub(crate) count: usize,
}

const fn service(by: By, count: usize) -> Service {
    Service { by, count }
}

/// What all of them are held beside.
pub(crate) const DIRECT: Kind = Kind::Service(service(By::Direct, 1));

/// Every one that can be measured, with its name.
pub(crate) const SERVICES: [(Service, &str); 15] = [
    (service(By::Direct, 1), "direct"),
    (service(By::Axon, 1), "services-1"),
    (service(By::Axon, 100), "services-100"),
    (service(By::Axon, 1_000), "services-1k"),
    (service(By::Axon, 10_000), "services-10k"),
    (service(By::Axon, 60_000), "services-60k"),
    (service(By::Iptables, 1), "iptables-1"),
    (service(By::Iptables, 100), "iptables-100"),
    (service(By::Iptables, 1_000), "iptables-1k"),
    (service(By::Iptables, 10_000), "iptables-10k"),
    (service(By::Legacy, 10_000), "legacy-10k"),
    (service(By::Nft, 1), "nft-1"),
    (service(By::Nft, 100), "nft-100"),
    (service(By::Nft, 1_000), "nft-1k"),
    (service(By::Nft, 10_000), "nft-10k"),
];

/// The pods of [`crate::topology`]'s namespaces.
const PODS: &str = "10.201.0.0/16";
const PORT: u16 = 5201;
/// Services with chains of their own that nf_tables takes in seconds.
const MOST_CHAINS: usize = 1_000;

impl Service {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        let mut all = SERVICES.iter();
        let known = all.find(|(service, _)| *service == self);
        known.map_or("services", |(_, name)| name)
    }

    /// Whether a lab carries it.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self.by, By::Direct | By::Axon)
    }

    /// The address that the client asks, where kube-proxy's rules lead it.
    pub(crate) fn address(self) -> IpAddr {
        Services::address(self.count).into()
    }

    /// Puts kube-proxy's rules into a host's namespace.
    pub(crate) fn put_rules(self, host: &str, last: [Ipv4Addr; ENDPOINTS]) -> Result<()> {
        let services = Services {
            count: self.count,
            last,
            port: PORT,
            pods: PODS,
            shares_chains: self.by != By::Legacy && self.count > MOST_CHAINS,
        };
        let restore = |program, text: &str| feed(host, &[program, "--noflush"], text);
        match self.by {
            By::Iptables => restore("iptables-nft-restore", &services.iptables()),
            By::Legacy => restore("iptables-legacy-restore", &services.iptables()),
            By::Nft => feed(host, &["nft", "-f", "-"], &services.nft()),
            By::Direct | By::Axon => bail!("{} has no rules", self.name()),
        }
    }
}

/// Runs a program in a namespace with this to read.
fn feed(netns: &str, program: &[&str], text: &str) -> Result<()> {
    let name = program.first().copied().unwrap_or_default();
    let mut child = Command::new("nsenter")
        .arg(format!("--net={netns}"))
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let mut stdin = child.stdin.take().context("no way to its input")?;
    // What it does not read, it says why.
    std::io::Write::write_all(&mut stdin, text.as_bytes()).ok();
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said: String = said.chars().take(500).collect();
        bail!("{name} refuses the rules: {}", said.trim());
    }
    Ok(())
}

/// What the script of our topologies says of one that is up.
pub(crate) struct Up {
    said: BTreeMap<String, String>,
}

impl Up {
    /// Brings a lab of services up.
    pub(crate) fn of(service: Service, axon: &Path) -> Result<Self> {
        let variant = format!("service:{}", service.count);
        let output = script(axon, "up", service.name())
            .arg(variant)
            .output()
            .context("running bench/topo/axon")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let from = said.len().saturating_sub(1500);
            bail!("the lab: {}", said.get(from..).unwrap_or_default().trim());
        }
        Ok(Self::read(&String::from_utf8_lossy(&output.stdout)))
    }

    fn read(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once('='));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.replace('\'', "")));
        Self {
            said: fields.collect(),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        let said = self.said.get(name).map(String::as_str);
        said.with_context(|| format!("bench/topo/axon does not say {name}"))
    }

    /// What makes a process one of the node.
    pub(crate) fn wrap(&self) -> Vec<String> {
        let wrap = self.text("WRAP").unwrap_or_default();
        wrap.split_whitespace().map(str::to_owned).collect()
    }
}

/// Takes a lab of services away.
pub(crate) fn down(service: Service, axon: &Path) {
    script(axon, "down", service.name()).output().ok();
}

fn script(axon: &Path, verb: &str, name: &str) -> Command {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("topo/axon"));
    // It is run by others too, from wherever they are.
    let axon = std::path::absolute(axon).unwrap_or_else(|_| axon.to_owned());
    script
        .env("AXON", axon)
        .arg(verb)
        .arg(format!("axb-{name}"));
    script
}

#[cfg(test)]
mod tests {
    use super::{By, SERVICES, Up};

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = SERVICES.iter().map(|(s, _)| s.name()).collect();
        assert_eq!(names.len(), SERVICES.len());
        assert!(
            SERVICES
                .iter()
                .all(|(service, name)| service.name() == *name)
        );
    }

    #[test]
    fn what_the_script_says_is_read() {
        let up = Up::read("CLI_NS=p-a\nDST=10.96.1.1\nWRAP='axon lab enter --cgroup /x --'\n");
        assert_eq!(up.text("DST").expect("said"), "10.96.1.1");
        assert_eq!(up.wrap(), ["axon", "lab", "enter", "--cgroup", "/x", "--"]);
        assert!(up.text("POD").is_err());
        assert!(Up::read("").wrap().is_empty());
    }

    #[test]
    fn rules_are_kube_proxys_alone() {
        for (service, name) in SERVICES {
            let refused = service.put_rules("/nowhere", [[10, 0, 0, 1].into(); 3]);
            let told = refused.expect_err("there is no such place").to_string();
            let is_ours = matches!(service.by, By::Direct | By::Axon);
            assert_eq!(told.contains("has no rules"), is_ours, "{name}: {told}");
        }
    }
}
