//! A node of its own: a namespace with an uplink and an outside, an agent that
//! can be killed, and the built plugin, called as a container runtime calls it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axon_cni::http::Client;
use axon_linux::netns;
use axon_linux::process::{self, Place, Signal};
use axon_linux::{MapError, Maps, device};
use axon_testkit::{NodeOfPods, node_manifests};
use serde_json::{Value, json};

use crate::common::{axon, files_below, plugin};

/// How long anything may take that is sure to come, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a plugin answered.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    /// Null if nothing was printed.
    pub(crate) body: Value,
}

impl Outcome {
    /// What a call that must succeed has answered.
    pub(crate) fn good(self) -> Value {
        assert!(self.ok, "{:#}", self.body);
        self.body
    }
}

/// One call of the plugin. `container` names the pod's network namespace too.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) plugin: PathBuf,
    pub(crate) conf: Value,
    pub(crate) container: String,
    pub(crate) netns: PathBuf,
    pub(crate) pod: String,
}

impl Call {
    /// Runs it to its end.
    pub(crate) fn run(&self, command: &str) -> Outcome {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            self.pod, self.container
        );
        let mut child = Command::new(&self.plugin)
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the plugin");
        let stdin = child
            .stdin
            .take()
            .expect("stdin")
            .write_all(self.conf.to_string().as_bytes());
        let output = child.wait_with_output().expect("output");
        stdin.expect("the plugin reads its configuration");
        let body = match output.stdout.as_slice() {
            [] => Value::Null,
            text => serde_json::from_slice(text).expect("one JSON text on stdout"),
        };
        Outcome {
            ok: output.status.success(),
            body,
        }
    }

    /// The same with another configuration.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Value)) -> Self {
        let mut call = self.clone();
        change(&mut call.conf);
        call
    }
}

/// Runs a command of calls all at once; the outcomes in their order.
pub(crate) fn at_once(calls: &[(Call, &'static str)]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let started: Vec<_> = calls
            .iter()
            .map(|(call, command)| scope.spawn(move || call.run(command)))
            .collect();
        started
            .into_iter()
            .map(|call| call.join().expect("a call"))
            .collect()
    })
}

/// A node.
pub(crate) struct Node {
    pub(crate) name: String,
    dir: tempfile::TempDir,
    agent: Option<Child>,
    pods: BTreeSet<String>,
}

/// What endpoints leave behind, if anything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    devices: Vec<String>,
    routes: usize,
    /// Rows of every map but counters, by map.
    rows: Vec<(&'static str, usize)>,
    files: Vec<String>,
    addresses: usize,
}

/// How many rows the maps have that change with endpoints.
fn rows(maps: &Maps) -> Result<Vec<(&'static str, usize)>, MapError> {
    macro_rules! count {
        ($($map:ident)*) => {
            vec![$({
                let mut rows = 0;
                maps.$map.for_each(|_, _| rows += 1)?;
                (maps.$map.name(), rows)
            }),*]
        };
    }
    Ok(count!(endpoint address ipcache identity policy_set class policy ct4 ct6 nat))
}

impl Node {
    /// A node whose agent is well; none, with a message, without root.
    pub(crate) fn start(name: &str, manifests: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let name = format!("axt-{name}-{}", std::process::id());
        let outside = format!("{name}-out");
        let node = Self {
            dir: tempfile::tempdir().expect("directory"),
            agent: None,
            pods: BTreeSet::new(),
            name,
        };
        netns::create(&node.name).expect("namespace");
        netns::create(&outside).expect("namespace");
        for (place, words) in [
            (
                &node.name,
                format!("link add up0 type veth peer name up0 netns {outside}"),
            ),
            (&node.name, "address add 192.0.2.1/24 dev up0".to_owned()),
            (&node.name, "link set up0 up".to_owned()),
            (&outside, "address add 192.0.2.254/24 dev up0".to_owned()),
            (&outside, "link set up0 up".to_owned()),
            (&node.name, "route add default via 192.0.2.254".to_owned()),
        ] {
            let done = Command::new("ip")
                .args(["-n", place])
                .args(words.split(' '))
                .status();
            assert!(done.expect("ip runs").success(), "ip -n {place} {words}");
        }
        for sub in ["manifests", "bpf"] {
            fs::create_dir(node.path(sub)).expect("directory");
        }
        fs::write(node.path("manifests/all.yaml"), manifests).expect("manifests");
        let mut node = node;
        node.start_agent(None);
        Some(node)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the agent, in the mount namespace of a process if one is named,
    /// and waits until it is well.
    pub(crate) fn start_agent(&mut self, beside: Option<u32>) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("agent.log"));
        let log = log.expect("log");
        let mut command = Command::new(axon());
        command
            .args(["agent", "--node-name", "n1", "--devices", "up0"])
            .args([
                "--bpf-ct-global-tcp-max",
                "16384",
                "--bpf-nat-global-max",
                "16384",
            ])
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        command.args(files_below(self.dir.path()));
        let place = Place {
            netns: Some(netns::path(&self.name)),
            mntns: beside.map(|pid| format!("/proc/{pid}/ns/mnt").into()),
            ..Place::default()
        };
        self.agent = Some(process::spawn(command, &place).expect("agent"));
        self.eventually("the agent is well", |node| {
            node.try_get("/v1/healthz")
                .is_some_and(|status| status["cilium"]["state"] == "Ok")
        });
    }

    /// Ends the agent as a power cut would.
    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("an agent");
        agent.kill().expect("kill");
        agent.wait().expect("wait");
    }

    /// Asks the agent to go.
    pub(crate) fn stop_agent(&mut self) {
        let mut agent = self.agent.take().expect("an agent");
        process::signal(agent.id(), Signal::Term).expect("signal");
        assert!(agent.wait().expect("wait").success(), "{}", self.log());
    }

    /// Bytes of memory that the agent has, and files it has open.
    pub(crate) fn weight(&self) -> (usize, usize) {
        let pid = self.agent.as_ref().expect("an agent").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().split(' ').next()?.parse::<usize>().ok());
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("files")
            .count();
        (kib.expect("VmRSS") * 1024, files)
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        let from = log.len().saturating_sub(6000);
        log.get(from..).unwrap_or(&log).to_owned()
    }

    /// Waits until something holds.
    pub(crate) fn eventually(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(
                Instant::now() < end,
                "not within {PATIENCE:?}: {what}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the agent answers, if there is one.
    pub(crate) fn try_get(&self, path: &str) -> Option<Value> {
        Client::new(self.path("axon.sock"), PATIENCE).get(path).ok()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let client = Client::new(self.path("axon.sock"), PATIENCE);
        client
            .get(path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()))
    }

    /// The network configuration that a runtime hands to the plugin.
    pub(crate) fn conf(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "axon", "type": "axon-cni",
            "api-socket": self.path("axon.sock"),
        })
    }

    /// A call for a container of a pod, in a namespace that is made if need be.
    pub(crate) fn call(&mut self, version: &str, container: &str, pod: &str) -> Call {
        let netns = format!("{}-{container}", self.name);
        if self.pods.insert(netns.clone()) {
            netns::create(&netns).expect("namespace");
        }
        Call {
            plugin: plugin(),
            conf: self.conf(version),
            container: container.to_owned(),
            netns: netns::path(&netns),
            pod: pod.to_owned(),
        }
    }

    /// Runs something inside the node.
    pub(crate) fn within<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        netns::within_path(&netns::path(&self.name), run).expect("the node's namespace")
    }

    /// What there is of endpoints.
    pub(crate) fn traces(&self) -> Traces {
        let devices = self.within(|| device::list().expect("devices"));
        let routes = self.within(|| axon_linux::link::endpoint_routes().expect("routes").len());
        let list = |sub: &str| -> Vec<String> {
            let entries = fs::read_dir(self.path(sub)).into_iter().flatten().flatten();
            entries
                .map(|e| format!("{sub}/{}", e.file_name().to_string_lossy()))
                .collect()
        };
        let pins = list("bpf/links")
            .into_iter()
            .filter(|name| name.ends_with("endpoint"));
        let mut files: Vec<String> = list("state/endpoints");
        files.extend(pins);
        files.extend(list("deleteQueue"));
        files.sort();
        let mut devices: Vec<String> = devices.into_iter().map(|device| device.name).collect();
        devices.sort();
        let maps = Maps::open_readonly(&self.path("bpf")).expect("maps");
        Traces {
            devices,
            routes,
            rows: rows(&maps).expect("rows"),
            files,
            addresses: self.addresses(),
        }
    }

    /// Addresses that are given out.
    fn addresses(&self) -> usize {
        let text = Client::new(self.path("axon.sock"), PATIENCE).get_text("/v1/metrics");
        let text = text.expect("metrics");
        let lines = text
            .lines()
            .filter(|line| line.starts_with("cilium_ip_addresses{"));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as usize
    }

    /// Waits until nothing more is left than there was.
    pub(crate) fn until_clean(&self, before: &Traces) {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.traces();
            if now == *before {
                return;
            }
            assert!(
                Instant::now() < end,
                "left: {now:#?}, expected {before:#?}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if thread::panicking() {
            println!("--- agent ---\n{}", self.log());
        }
        let root = self.path("bpf");
        let _ = netns::within_path(&netns::path(&self.name), || {
            axon_linux::cleanup(&root, true).map(drop)
        });
        let _ = axon_linux::mount::unmount_tree(&root);
        for netns in &self.pods {
            let _ = netns::delete(netns);
        }
        let _ = netns::delete(&format!("{}-out", self.name));
        let _ = netns::delete(&self.name);
    }
}

/// Manifests of a node with pods `p0`, `p1`, … of ten kinds, the first of
/// which takes connections to one port alone.
pub(crate) fn manifests(pods: usize) -> String {
    node_manifests(&NodeOfPods {
        pods,
        kinds: 10,
        pod_cidrs: ["10.77.0.0/22", "fd77::/112"],
        policy: "{endpointSelector: {matchLabels: {kind: k0}}, ingress: [{fromEntities: [all], \
                 toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]}",
    })
}
