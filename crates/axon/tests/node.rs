//! The verbs against a real agent, alone in a network namespace of its own:
//! `run`, policy, what is told of it, and the end.

#[expect(dead_code, reason = "each test binary uses its part")]
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axon_linux::netns;
use axon_linux::process::{self, Place, Signal};
use serde_json::Value;

/// How long anything may take that is sure to come.
const PATIENCE: Duration = Duration::from_secs(60);

const MANIFESTS: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.77.0.0/24, 'fd77::/120']}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: rule1, namespace: default}
spec:
  endpointSelector: {matchLabels: {class: deathstar}}
  ingress:
  - fromEndpoints: [{matchLabels: {org: empire}}]
    toPorts: [{ports: [{port: '80', protocol: TCP}]}]
";

/// A node: a namespace with an uplink, and an agent in it.
struct Node {
    name: String,
    dir: tempfile::TempDir,
    agent: Child,
}

impl Node {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// A node whose agent is well; none, with a message, without root.
    fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let name = format!("axt-cli-{}", std::process::id());
        let dir = tempfile::tempdir().expect("directory");
        netns::create(&name).expect("namespace");
        for command in [
            "link add up0 type veth peer name up1",
            "address add 192.0.2.1/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "route add default via 192.0.2.254",
        ] {
            let mut words = vec!["-n", name.as_str()];
            words.extend(command.split(' '));
            let done = Command::new("ip").args(words).status().expect("ip runs");
            assert!(done.success(), "ip {command}");
        }
        fs::create_dir(dir.path().join("manifests")).expect("directory");
        fs::write(dir.path().join("manifests/all.yaml"), MANIFESTS).expect("manifests");
        let log = fs::File::create(dir.path().join("agent.log")).expect("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_axon"));
        command
            .args(["agent", "--node-name", "n1", "--devices", "up0"])
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        command.args(common::files_below(dir.path()));
        let place = Place {
            netns: Some(netns::path(&name)),
            dies_with_parent: true,
            ..Place::default()
        };
        let agent = process::spawn(command, &place).expect("agent");
        let node = Self { name, dir, agent };
        node.eventually("the agent is well", || {
            node.axon(&["status"]).status.success()
        });
        Some(node)
    }

    fn eventually(&self, what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is() {
            if Instant::now() > end {
                let log = fs::read_to_string(self.dir.path().join("agent.log"));
                panic!(
                    "not within {PATIENCE:?}: {what}\n{}",
                    log.unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_axon"));
        command
            .args(arguments)
            .env("AXON_SOCKET", self.path("axon.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn axon(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("axon runs")
    }

    /// What a verb answers in JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let output = self.axon(&all);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Something like a pod that goes on.
    fn process(&self, labels: &[&str], command: &[&str]) -> Process {
        let mut arguments = vec!["run"];
        arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
        arguments.push("--");
        arguments.extend(command);
        Process(self.command(&arguments).spawn().expect("axon runs"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let bpf_root = PathBuf::from(self.path("bpf"));
        let _ = netns::within_path(&netns::path(&self.name), || {
            axon_linux::cleanup(&bpf_root, true).map(drop)
        });
        let _ = netns::delete(&self.name);
    }
}

struct Process(Child);

impl Process {
    fn end(mut self) -> Option<i32> {
        process::signal(self.0.id(), Signal::Term).expect("signal");
        self.0.wait().expect("end").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = process::signal(self.0.id(), Signal::Term);
        let _ = self.0.wait();
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

const AXON: &str = env!("CARGO_BIN_EXE_axon");

/// A connection to port 80; whether it was let in.
fn lands(node: &Node, org: &str, address: &str) -> bool {
    let target = format!("{address}:80");
    let client = [
        AXON,
        "lab",
        "connect",
        "tcp",
        &target,
        "--timeout-ms",
        "700",
    ];
    let label = format!("org={org}");
    let mut arguments = vec!["run", "--label", &label, "--"];
    arguments.extend(client);
    node.axon(&arguments).status.success()
}

#[test]
fn a_node_and_its_processes() {
    let Some(node) = Node::start() else {
        return;
    };
    exit_statuses_are_the_commands(&node);

    let server = node.process(
        &["class=deathstar", "org=empire"],
        &[AXON, "lab", "serve", "tcp:80"],
    );
    let ready = || {
        let endpoints = node.json(&["endpoint", "list"]);
        endpoints[0]["status"]["state"] == "ready"
    };
    node.eventually("the server is ready", ready);
    let endpoint = node.json(&["endpoint", "list"])[0].take();
    let addresses = &endpoint["status"]["networking"]["addressing"][0];
    let v4 = addresses["ipv4"].as_str().expect("address").to_owned();
    let v6 = format!("[{}]", addresses["ipv6"].as_str().expect("address"));
    node.eventually("the server serves", || lands(&node, "empire", &v4));
    assert!(lands(&node, "empire", &v6), "IPv6");
    for address in [&v4, &v6] {
        assert!(!lands(&node, "alliance", address), "{address}");
    }
    drops_are_told(&node);
    services_are_balanced(&node);
    the_state_is_told(&node, &endpoint);
    the_end(node, server);
}

fn exit_statuses_are_the_commands(node: &Node) {
    for (command, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["/nonexistent"], 127),
        (&["/"], 126),
    ] {
        let mut arguments = vec!["run", "--"];
        arguments.extend(command);
        let output = node.axon(&arguments);
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{command:?}: {}",
            text(&output)
        );
    }
    let output = node.axon(&[
        "run",
        "--ip",
        "10.77.0.99",
        "--",
        "ip",
        "-4",
        "-o",
        "address",
    ]);
    assert!(text(&output).contains("10.77.0.99/32"), "{}", text(&output));
    assert_eq!(node.json(&["endpoint", "list"]), serde_json::json!([]));
}

fn drops_are_told(node: &Node) {
    let query = [
        "observe",
        "--last",
        "100",
        "--verdict",
        "dropped",
        "--to-port",
        "80",
    ];
    let output = node.axon(&query);
    let lines = text(&output);
    for words in [
        "policy-verdict:none INGRESS DENIED (TCP Flags: SYN); no rule of default/rule1 allows it",
        "Policy denied DROPPED (TCP Flags: SYN); no rule of default/rule1 allows it",
    ] {
        assert!(lines.contains(words), "{words} in\n{lines}");
    }
    let mut as_json = query.to_vec();
    as_json.extend(["--type", "policy-verdict", "-o", "json"]);
    let output = node.axon(&as_json);
    let first = output.stdout.split(|b| *b == b'\n').next().expect("a line");
    let flow = serde_json::from_slice::<Value>(first).expect("JSON")["flow"].take();
    assert_eq!(flow["drop_reason_desc"], "POLICY_DENIED");
    assert_eq!(flow["source"]["namespace"], "default");
    assert_eq!(flow["source"]["pod_name"], "axon", "named by its command");
    assert_eq!(flow["ingress_denied_by"][0]["name"], "rule1");
    let labels = flow["source"]["labels"].as_array().expect("labels");
    assert!(labels.contains(&"unspec:org=alliance".into()), "{labels:?}");
}

/// Every list has the endpoint, with and without the agent's help.
/// Services of the command line, and what is told of them.
fn services_are_balanced(node: &Node) {
    let upsert = |backends: &[&str]| {
        let words = [
            "service",
            "upsert",
            "shop/web",
            "--frontend",
            "192.0.2.80:80",
        ];
        let backends = backends.iter().flat_map(|backend| ["--backend", backend]);
        node.json(&words.into_iter().chain(backends).collect::<Vec<_>>())
    };
    assert_eq!(upsert(&["10.9.0.1:8080"])["created"], true);
    let answer = upsert(&["10.9.0.1:8080", "10.9.0.2:8080"]);
    assert_eq!(answer["created"], false);
    let spec = &answer["frontends"][0]["spec"];
    assert_eq!(spec["backend-addresses"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        node.json(&["service", "get", "shop/web"]),
        answer["frontends"]
    );

    // Several ports, by a file; what is wrong in it, and what somebody else has.
    let file = node.path("dns.json");
    let body = |port: &str, address: &str| {
        let backend = r#"{"address": "10.9.0.3", "port": 5353}"#;
        let ports = ["UDP", "TCP"].map(|protocol| {
            format!(r#"{{"name": "dns-{}", "port": {port}, "protocol": "{protocol}", "backends": [{backend}]}}"#, protocol.to_lowercase())
        });
        let ports = ports.join(", ");
        fs::write(
            &file,
            format!(r#"{{"addresses": ["{address}"], "ports": [{ports}]}}"#),
        )
        .expect("written");
    };
    let put = || node.axon(&["service", "upsert", "shop/dns", "-f", &file]);
    body("0", "192.0.2.53");
    let output = put();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("ports[0].port: 0 is no port"),
        "{}",
        text(&output)
    );
    body("80", "192.0.2.80");
    let output = put();
    let told = text(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("addresses[0]: ") && told.contains("Service shop/web"),
        "{told}"
    );
    body("53", "192.0.2.53");
    assert!(put().status.success(), "{}", text(&put()));

    let root = node.path("bpf");
    for (verb, words) in [
        (
            &["service", "list"][..],
            &[
                "192.0.2.80:80/TCP",
                "LoadBalancer",
                "shop/web",
                "10.9.0.1:8080 (active)",
                "192.0.2.53:53/UDP",
                "shop/dns:dns-udp",
            ][..],
        ),
        (
            &["service", "get", "shop/dns"],
            &["192.0.2.53:53/TCP", "10.9.0.3:5353 (active)"],
        ),
        (
            &["bpf", "lb", "list"],
            &[
                "192.0.2.80:80/TCP",
                "shop/web",
                "10.9.0.1:8080, 10.9.0.2:8080",
            ],
        ),
        (
            &["bpf", "lb", "list", "--bpf-root", &root],
            &["192.0.2.80:80/TCP", "10.9.0.2:8080"],
        ),
        (
            &["bpf", "lb", "backends"],
            &["10.9.0.1:8080/TCP", "active", "internal", "shop/web"],
        ),
        (&["bpf", "lb", "maglev"], &["TABLE"]),
        (&["bpf", "lb", "affinity"], &["CLIENT"]),
        (&["bpf", "lb", "source-ranges"], &["CIDR"]),
    ] {
        let output = node.axon(verb);
        let told = text(&output);
        println!("$ axon {}\n{told}", verb.join(" "));
        let all = words.iter().all(|words| told.contains(words));
        assert!(output.status.success() && all, "{verb:?}: {told}");
    }
    for name in ["shop/web", "shop/dns"] {
        let delete = || node.axon(&["service", "delete", name]);
        assert!(delete().status.success());
        assert_eq!(delete().status.code(), Some(4), "{name} is gone");
    }
    assert_eq!(
        node.axon(&["service", "get", "shop/web"]).status.code(),
        Some(4)
    );
    assert_eq!(node.json(&["bpf", "lb", "list"]), serde_json::json!([]));
}

fn the_state_is_told(node: &Node, endpoint: &Value) {
    let id = endpoint["id"].to_string();
    let identity = endpoint["status"]["identity"]["id"].to_string();
    let root = node.path("bpf");
    for (verb, words) in [
        (&["endpoint", "get", &id][..], "default/rule1"),
        (&["identity", "get", &identity], "unspec:class=deathstar"),
        (&["policy", "get"], "default/rule1"),
        (&["policy", "selectors"], "any:org=empire"),
        (&["ip", "list"], &identity),
        (&["config", "node-name"], "n1"),
        (
            &["metrics", "list", "-p", "^cilium_drop_count_total$"],
            "reason=Policy denied",
        ),
        (&["bpf", "endpoint", "list"], &identity),
        (&["bpf", "ipcache", "list"], &identity),
        (&["bpf", "policy", "list"], "default/rule1"),
        (&["bpf", "metrics", "list"], "Policy denied"),
        (&["bpf", "config", "list"], "masquerade-ipv4"),
        (&["bpf", "endpoint", "list", "--bpf-root", &root], &identity),
        (
            &["bpf", "policy", "list", "--bpf-root", &root],
            "tcp       80",
        ),
        (&["version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = node.axon(verb);
        let told = text(&output);
        assert!(
            output.status.success() && told.contains(words),
            "{verb:?}: {told}"
        );
    }
    for verb in [
        &["endpoint", "get", "60000"][..],
        &["identity", "get", "9999"],
    ] {
        let output = node.axon(verb);
        assert_eq!(output.status.code(), Some(4), "{verb:?}: {}", text(&output));
    }
}

/// The agent goes, the network stays; then all of it goes.
fn the_end(mut node: Node, server: Process) {
    let [root, state] = ["bpf", "state"].map(|name| node.path(name));
    let cleanup = ["cleanup", "--bpf-root", &root, "--state-dir", &state];
    let clean = |node: &Node, more: &[&str]| {
        let mut command = node.command(&[&cleanup[..], more].concat());
        command.env("AXON_SOCKET", node.path("axon.sock"));
        let place = Place {
            netns: Some(netns::path(&node.name)),
            ..Place::default()
        };
        let child = process::spawn(command, &place).expect("axon runs");
        child.wait_with_output().expect("it ends")
    };
    let output = clean(&node, &["--force"]);
    assert!(
        text(&output).contains("an agent lives"),
        "{}",
        text(&output)
    );
    process::signal(node.agent.id(), Signal::Kill).expect("signal");
    node.agent.wait().expect("end");
    assert_eq!(node.axon(&["status"]).status.code(), Some(3));
    let output = clean(&node, &[]);
    assert!(
        text(&output).contains("endpoints live"),
        "{}",
        text(&output)
    );

    // The end of a process while the agent is away is written down for it.
    assert_eq!(server.end(), Some(143));
    let queue = fs::read_dir(node.dir.path().join("deleteQueue")).expect("queue");
    assert_eq!(queue.count(), 1);

    let output = clean(&node, &["--force"]);
    assert!(output.status.success(), "{}", text(&output));
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    assert!(!mounts.contains(&root), "{mounts}");
    assert!(!fs::exists(&state).expect("state"), "{state}");
}
