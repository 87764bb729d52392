//! A node for a test: its namespaces, its directories, its agent.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axon_agent::{AgentArgs, Config};
use axon_linux::netns;
use clap::{Args, FromArgMatches};
use serde_json::{Value, json};

const FLAGS: &str = "AXON_TEST_AGENT_FLAGS";
/// Machines under load are slow; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// In a process that a [`Bench`] has started: an agent, until it is stopped.
pub(crate) fn agent_process() {
    let Ok(flags) = std::env::var(FLAGS) else {
        return;
    };
    let matches = AgentArgs::augment_args(clap::Command::new("agent").no_binary_name(true))
        .try_get_matches_from(flags.split('\n'))
        .expect("flags");
    let args = AgentArgs::from_arg_matches(&matches).expect("args");
    Config::load(&args).expect("config");
    let code = axon_agent::main(&args);
    assert_eq!(
        format!("{code:?}"),
        format!("{:?}", std::process::ExitCode::SUCCESS)
    );
}

pub(crate) struct Bench {
    name: String,
    dir: tempfile::TempDir,
    node: PathBuf,
    pods: Vec<String>,
    options: Vec<String>,
    agent: Option<Child>,
}

fn run(program: &[&str]) -> std::process::Output {
    let output = Command::new(program[0]).args(&program[1..]).output();
    output.unwrap_or_else(|error| panic!("{program:?}: {error}"))
}

fn must(program: &[&str]) {
    let output = run(program);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {error}");
}

impl Bench {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("axt-{name}-{}", std::process::id());
        let dir = tempfile::tempdir().expect("tempdir");
        let node = netns::create(&name).expect("netns");
        // An uplink, whose other end nobody listens at.
        must(&[
            "ip", "-n", &name, "link", "add", "up0", "type", "veth", "peer", "name", "up1",
        ]);
        must(&[
            "ip",
            "-n",
            &name,
            "addr",
            "add",
            "192.0.2.1/24",
            "dev",
            "up0",
        ]);
        for device in ["up0", "up1"] {
            must(&["ip", "-n", &name, "link", "set", device, "up"]);
        }
        for sub in ["manifests", "state", "bpf"] {
            fs::create_dir(dir.path().join(sub)).expect("directory");
        }
        Self {
            name,
            dir,
            node,
            pods: Vec::new(),
            options: Vec::new(),
            agent: None,
        }
    }

    /// A path in the node's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A node, a namespace and pods with the label `app`.
    pub(crate) fn base(&self, pods: &[&str]) -> String {
        let mut text = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.77.0.0/24, podCIDRs: [10.77.0.0/24, 'fd77::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: default}
"
        .to_owned();
        for pod in pods {
            text.push_str(&format!(
                "---
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: default, labels: {{app: {pod}}}}}
spec: {{nodeName: n1, containers: [{{name: c, image: none}}]}}
"
            ));
        }
        text
    }

    pub(crate) fn manifest(&self, name: &str, text: &str) {
        let aside = self.path("manifests").join(format!(".{name}"));
        fs::write(&aside, text).expect("write");
        fs::rename(&aside, self.path("manifests").join(name)).expect("rename");
    }

    pub(crate) fn remove_manifest(&self, name: &str) {
        fs::remove_file(self.path("manifests").join(name)).expect("remove");
    }

    fn flags(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let usual = [
            "--node-name=n1".to_owned(),
            format!("--manifests-dir={}", path("manifests")),
            format!("--state-dir={}", path("state")),
            format!("--lib-dir={}", path("state/lib")),
            format!("--socket-path={}", path("axon.sock")),
            format!("--bpf-root={}", path("bpf")),
            "--devices=up0".to_owned(),
            "--endpoint-ready-timeout=2s".to_owned(),
            "--bpf-ct-global-tcp-max=4096".to_owned(),
            "--bpf-nat-global-max=4096".to_owned(),
            "--log-level=debug".to_owned(),
            // The machine's own sockets are nobody's here.
            "--kube-proxy-replacement=false".to_owned(),
        ];
        [&usual, self.options.as_slice()].concat().join("\n")
    }

    /// Gives the next agents an option, in place of an earlier value.
    pub(crate) fn option(&mut self, name: &str, value: &str) {
        self.options.push(format!("--{name}={value}"));
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.start_only();
        self.until_ready();
    }

    /// Starts the agent.
    pub(crate) fn start_only(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .expect("log");
        let myself = std::env::current_exe().expect("path of this test");
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.node.display()))
            .arg(myself)
            .args(["--exact", "agent", "--nocapture"])
            .env(FLAGS, self.flags())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("agent");
        self.agent = Some(child);
    }

    /// Waits until the agent is ready.
    pub(crate) fn until_ready(&mut self) {
        self.until("the agent is ready", |bench| {
            let (status, body) = bench.request("GET", "/v1/healthz", None);
            status == 200 && !body.contains("starting")
        });
    }

    /// Runs another agent, with a state and a socket of its own, that wants the
    /// same pins; how it ended, and what it said.
    pub(crate) fn second(&self, name: &str) -> (std::process::ExitStatus, String) {
        let flags = self
            .flags()
            .replace("state", name)
            .replace("axon.sock", &format!("{name}.sock"))
            + "\n--agent-health-port=0";
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.node.display()))
            .arg(std::env::current_exe().expect("path of this test"))
            .args(["--exact", "agent", "--nocapture"])
            .env(
                FLAGS,
                flags.replace(&format!("--{name}-dir"), "--state-dir"),
            )
            .output()
            .expect("agent");
        let said = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&said).into_owned())
    }

    /// Whether there is such a file of the node.
    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Reads or writes a setting of the node's kernel.
    pub(crate) fn sysctl(&self, arguments: &[&str]) -> String {
        let netns = format!("--net={}", self.node.display());
        let output = run(&[&["nsenter", &netns, "sysctl", "-n"], arguments].concat());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Ends the agent as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.agent.take().expect("an agent");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Asks the agent to go, however far it has come.
    pub(crate) fn terminate(&mut self) {
        let mut child = self.agent.take().expect("an agent");
        // It may have ended already.
        let _ = run(&["kill", "-TERM", &child.id().to_string()]);
        child.wait().expect("wait");
    }

    /// Asks the agent to go.
    pub(crate) fn stop(&mut self) {
        let mut child = self.agent.take().expect("an agent");
        must(&["kill", "-TERM", &child.id().to_string()]);
        let status = child.wait().expect("wait");
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// The end of the agents' log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        let from = log.len().saturating_sub(6000);
        log.get(from..).unwrap_or(&log).to_owned()
    }

    /// Waits until something holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            if let Some(status) = self
                .agent
                .as_mut()
                .and_then(|a| a.try_wait().ok().flatten())
            {
                panic!("{what}: the agent has ended ({status}): {}", self.log());
            }
            if start.elapsed() > DEADLINE {
                let (_, status) = self.request("GET", "/v1/healthz", None);
                panic!("{what}: waited for {DEADLINE:?}: {status}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One request; status 0 if nobody answers.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let body = body.map(Value::to_string).unwrap_or_default();
        request(&self.path("axon.sock"), method, path, &body).unwrap_or_default()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let (status, body) = self.request("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {body}\n{}", self.log());
        body
    }

    /// The same, as JSON.
    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).expect("json")
    }

    pub(crate) fn netns_name(&self, pod: &str) -> String {
        format!("{}-{pod}", self.name)
    }

    /// The node's own namespace.
    pub(crate) fn node_netns(&self) -> &Path {
        &self.node
    }

    /// The pod's namespace, made if need be.
    pub(crate) fn pod_netns(&mut self, pod: &str) -> PathBuf {
        let name = self.netns_name(pod);
        if !self.pods.contains(&name) {
            netns::create(&name).expect("netns");
            self.pods.push(name.clone());
        }
        netns::path(&name)
    }

    fn container(&self, pod: &str) -> String {
        format!("container-{pod}")
    }

    fn create(&mut self, pod: &str) -> Value {
        json!({
            "container-id": self.container(pod),
            "interface": "eth0",
            "netns": self.pod_netns(pod),
            "namespace": "default",
            "pod-name": pod,
        })
    }

    /// CNI ADD.
    pub(crate) fn add(&mut self, pod: &str) -> Value {
        let body = self.create(pod);
        let (status, answer) = self.request("PUT", "/v1/endpoint", Some(&body));
        assert_eq!(status, 201, "{answer}\n{}", self.log());
        serde_json::from_str(&answer).expect("json")
    }

    /// CNI ADD of many pods at once; the statuses, 0 where nobody answered.
    pub(crate) fn start_adding(&mut self, pods: &[&str]) -> JoinHandle<Vec<u16>> {
        let bodies: Vec<Value> = pods.iter().map(|pod| self.create(pod)).collect();
        let socket = self.path("axon.sock");
        std::thread::spawn(move || {
            let one = |body: Value| {
                let socket = socket.clone();
                std::thread::spawn(move || {
                    request(&socket, "PUT", "/v1/endpoint", &body.to_string()).map_or(0, |a| a.0)
                })
            };
            let threads: Vec<_> = bodies.into_iter().map(one).collect();
            threads.into_iter().map(|t| t.join().unwrap_or(0)).collect()
        })
    }

    /// Runs `ip` in the node's namespace.
    pub(crate) fn ip(&self, args: &[&str]) {
        must(&[&["ip", "-n", &self.name], args].concat());
    }

    /// What a part of the status says: its state and its message.
    pub(crate) fn status(&self, part: &str) -> (String, String) {
        let status: Value = serde_json::from_str(&self.get("/v1/healthz")).expect("json");
        let text = |key: &str| status["parts"][part][key].as_str().unwrap_or("").to_owned();
        (text("state"), text("msg"))
    }

    /// What a part of the status says is to be done.
    pub(crate) fn remedy(&self, part: &str) -> String {
        let status: Value = serde_json::from_str(&self.get("/v1/healthz")).expect("json");
        let remedy = status["parts"][part]["remedy"].as_str();
        remedy.unwrap_or("").to_owned()
    }

    /// A metric by its name with its labels; `None` if it is not told.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/v1/metrics");
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value)
    }

    /// The file of a pod's endpoint.
    pub(crate) fn record_file(&self, pod: &str) -> PathBuf {
        self.record_of(pod).expect("record").0
    }

    /// What a reboot leaves: no bpffs, no devices, no namespaces of pods.
    pub(crate) fn reboot(&mut self) {
        if let Some(mut child) = self.agent.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        axon_linux::mount::unmount_tree(&self.path("bpf")).expect("unmounted");
        fs::remove_file(self.path("axon.sock")).expect("removed");
        for pod in std::mem::take(&mut self.pods) {
            netns::delete(&pod).expect("the namespace goes");
        }
        let own = || {
            for device in axon_linux::device::list().expect("devices") {
                if device.name.starts_with("lxc") {
                    axon_linux::link::delete(&device.name).expect("deleted");
                }
            }
        };
        netns::within_path(&self.node, own).expect("the node's namespace");
    }

    /// How many endpoints have a file.
    pub(crate) fn records(&self) -> usize {
        fs::read_dir(self.path("state/endpoints")).map_or(0, Iterator::count)
    }

    pub(crate) fn is_recorded(&self, pod: &str) -> bool {
        self.record_of(pod).is_some()
    }

    /// Addresses of both families that are given out.
    pub(crate) fn addresses_in_use(&self) -> usize {
        let metrics = self.get("/v1/metrics");
        let lines = metrics
            .lines()
            .filter(|l| l.starts_with("cilium_ip_addresses{"));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .map(|n| n as usize)
            .sum()
    }

    /// CNI DEL.
    pub(crate) fn delete(&self, pod: &str) -> u16 {
        let body = json!({"container-id": self.container(pod)});
        self.request("DELETE", "/v1/endpoint", Some(&body)).0
    }

    /// CNI DEL as the plugin asks for it, with the name of the device inside.
    pub(crate) fn delete_attachment(&self, pod: &str) -> u16 {
        let body = json!({"container-id": self.container(pod), "interface": "eth0"});
        self.request("DELETE", "/v1/endpoint", Some(&body)).0
    }

    /// CNI DEL while no agent is there.
    pub(crate) fn queue_delete(&self, pod: &str) {
        let container = self.container(pod);
        let dir = self.path("deleteQueue");
        fs::create_dir_all(&dir).expect("directory");
        let order = json!({"container-id": container, "interface": "eth0"});
        fs::write(
            dir.join(format!("{container}-eth0.json")),
            order.to_string(),
        )
        .expect("write");
    }

    fn record_of(&self, pod: &str) -> Option<(PathBuf, Value)> {
        let files = fs::read_dir(self.path("state/endpoints")).ok()?;
        files.filter_map(Result::ok).find_map(|file| {
            let text = fs::read(file.path()).ok()?;
            let record: Value = serde_json::from_slice(&text).ok()?;
            (record["endpoint"]["pod_name"] == pod).then(|| (file.path(), record))
        })
    }

    /// Has an endpoint look as if its agent had died before it answered.
    pub(crate) fn unfinish(&self, pod: &str) {
        let (path, mut record) = self.record_of(pod).expect("record");
        assert_eq!(record["stage"], "made");
        record["stage"] = json!("making");
        fs::write(path, record.to_string()).expect("write");
    }

    /// Name of the host-side device of a pod's endpoint, if it is there.
    pub(crate) fn device_of(&self, pod: &str) -> Option<String> {
        let name = axon_linux::link::host_name(&self.container(pod), "eth0");
        self.has_device(&name).then_some(name)
    }

    /// Whether the node has such a device.
    pub(crate) fn has_device(&self, name: &str) -> bool {
        let shown = run(&["ip", "-n", &self.name, "link", "show", name]);
        shown.status.success()
    }

    /// Whether one of a pod's pings is answered.
    pub(crate) fn ping(&self, pod: &str, address: &str) -> bool {
        let netns = format!("--net={}", netns::path(&self.netns_name(pod)).display());
        run(&["nsenter", &netns, "ping", "-c", "1", "-W", "1", address])
            .status
            .success()
    }

    /// Pings on and on.
    pub(crate) fn pings(&self, pod: &str, address: &str, count: u32, every: Duration) -> Pings {
        let netns = netns::path(&self.netns_name(pod));
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns.display()))
            .args(["ping", "-W", "1", "-c", &count.to_string()])
            .args(["-i", &every.as_secs_f64().to_string(), address])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ping");
        Pings(Some(child))
    }
}

/// Pings that go on; ended with the test at the latest.
pub(crate) struct Pings(Option<Child>);

impl Pings {
    /// Ends it at once; what ping says then.
    pub(crate) fn interrupt(self) -> String {
        let id = self.0.as_ref().expect("a ping").id();
        must(&["kill", "-INT", &id.to_string()]);
        self.finish()
    }

    /// What ping says at its end.
    pub(crate) fn finish(mut self) -> String {
        let child = self.0.take().expect("a ping");
        let output = child.wait_with_output().expect("ping");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn request(socket: &Path, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = if head.contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Ok((status.unwrap_or(0), body))
}

fn unchunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent of {} said:\n{}", self.name, self.log());
        }
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let root = self.path("bpf");
        let clean = || axon_linux::cleanup(Path::new(&root), true);
        match netns::within_path(&self.node, clean) {
            Ok(Ok(_)) => {}
            failed => eprintln!("{}: {failed:?}", self.name),
        }
        if let Err(error) = axon_linux::mount::unmount_tree(&root) {
            eprintln!("{}: {error}", root.display());
        }
        for pod in &self.pods {
            let _ = netns::delete(pod);
        }
        let _ = netns::delete(&self.name);
    }
}
