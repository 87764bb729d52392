//! A lab for end-to-end tests: brought up by the built `axon`, looked at from
//! both ends and through the agents' events, gone when dropped.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{axon, plugin};

/// How long anything may take that is sure to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited for an answer that policy keeps back, and for one that
/// is to come.
const SILENCE_MS: &str = "700";
const ANSWER_MS: &str = "10000";

/// Waits for this test's turn: labs are not slow, but two cores are few.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lab that is up.
pub(crate) struct Lab {
    /// Its name.
    pub(crate) name: String,
    /// The `axon` that it runs on.
    axon: PathBuf,
    files: tempfile::TempDir,
}

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A TCP connection to this port.
    Tcp(u16),
    /// A datagram to this port.
    Udp(u16),
    /// An echo request.
    Icmp,
}

/// Brings a lab up; none, with a message, if that takes privileges that are
/// not there.
pub(crate) fn lab(name: &str, manifests: &str) -> Option<Lab> {
    lab_of(&axon(), name, manifests)
}

/// Whether labs can be made.
pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

/// The same with another `axon`, which has its plugin beside it.
pub(crate) fn lab_of(axon: &Path, name: &str, manifests: &str) -> Option<Lab> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    plugin();
    let lab = Lab {
        name: format!("{name}-{}", std::process::id()),
        axon: axon.to_owned(),
        files: tempfile::tempdir().expect("a temporary directory"),
    };
    let file = lab.write("cluster.yaml", manifests);
    let up = lab.axon(&["up", "--timeout", "60", &file]);
    assert!(up.status.success(), "axon lab up: {}", text(&up));
    Some(lab)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- status ---\n{}", text(&self.axon(&["status"])));
            println!("--- supervisor ---\n{}", text(&self.axon(&["logs"])));
            if std::env::var_os("AXON_E2E_KEEP").is_some() {
                println!("kept: axon lab -L {} down", self.name);
                return;
            }
        }
        let down = self.axon(&["down"]);
        if !std::thread::panicking() {
            assert!(down.status.success(), "axon lab down: {}", text(&down));
        }
    }
}

impl Lab {
    /// Runs `axon lab` with this lab's name.
    pub(crate) fn axon(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("axon runs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.axon);
        command.args(["lab", "-L", &self.name]).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Writes a file outside the lab; its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).expect("writes a manifest");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Makes a directory outside the lab with one manifest in it; its path.
    pub(crate) fn directory(&self, name: &str, manifest: &str) -> String {
        let path = self.files.path().join(name);
        std::fs::create_dir_all(&path).expect("makes a directory");
        std::fs::write(path.join("manifest.yaml"), manifest).expect("writes a manifest");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Applies manifests; they are in force when it returns.
    pub(crate) fn apply(&self, manifests: &str) {
        let file = self.write("apply.yaml", manifests);
        let done = self.axon(&["apply", &file]);
        assert!(
            done.status.success(),
            "axon lab apply: {}\n{manifests}",
            text(&done)
        );
    }

    /// Applies manifests that shall be refused; gives back what was said.
    pub(crate) fn apply_refused(&self, manifests: &str) -> String {
        let file = self.write("refused.yaml", manifests);
        let done = self.axon(&["apply", &file]);
        assert!(!done.status.success(), "accepted:\n{manifests}");
        text(&done)
    }

    /// Deletes what manifests name.
    pub(crate) fn delete(&self, manifests: &str) {
        let file = self.write("delete.yaml", manifests);
        let done = self.axon(&["delete", &file]);
        assert!(done.status.success(), "axon lab delete: {}", text(&done));
    }

    /// `axon lab status -o json`.
    pub(crate) fn status(&self) -> Value {
        let output = self.axon(&["status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
    }

    /// One node of the status.
    pub(crate) fn node(&self, name: &str) -> Value {
        find(&self.status()["nodes"], name)
    }

    /// One pod of the status.
    pub(crate) fn pod(&self, name: &str) -> Value {
        find(&self.status()["pods"], name)
    }

    /// An address of a pod.
    pub(crate) fn pod_ip(&self, name: &str, v6: bool) -> String {
        let key = if v6 { "ipv6" } else { "ipv4" };
        let pod = self.pod(name);
        pod[key].as_str().expect("an address").to_owned()
    }

    /// An address of a node.
    pub(crate) fn node_ip(&self, name: &str, v6: bool) -> String {
        let node = self.node(name);
        let ips = node["addresses"].as_array().expect("addresses").iter();
        let ip = ips
            .filter_map(Value::as_str)
            .find(|ip| ip.contains(':') == v6);
        ip.expect("an address").to_owned()
    }

    /// Starts a command in a pod (`NAME`), on a node (`node:NAME`) or in the
    /// world (`node:outside`).
    pub(crate) fn start(&self, place: &str, command: &[&str]) -> Child {
        let mut args = match place.strip_prefix("node:") {
            Some(node) => vec!["node", node, "--"],
            None => vec!["exec", place, "--"],
        };
        args.extend(command);
        let mut command = self.command(&args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("axon runs")
    }

    /// Runs a command as [`Lab::start`] does.
    pub(crate) fn run(&self, place: &str, command: &[&str]) -> Output {
        self.start(place, command)
            .wait_with_output()
            .expect("it ends")
    }

    /// Starts a client that waits for an answer as long as one is expected.
    pub(crate) fn client(&self, place: &str, how: How, to: &str, expected: bool) -> Child {
        let (word, target) = match how {
            How::Tcp(port) => ("tcp", at(to, port)),
            How::Udp(port) => ("udp", at(to, port)),
            How::Icmp => ("icmp", to.to_owned()),
        };
        let wait = if expected { ANSWER_MS } else { SILENCE_MS };
        let args = [
            "axon",
            "lab",
            "connect",
            word,
            &target,
            "--timeout-ms",
            wait,
        ];
        self.start(place, &args)
    }

    /// The log of a pod.
    pub(crate) fn log(&self, pod: &str) -> String {
        let pod = if pod.contains('/') {
            pod.to_owned()
        } else {
            format!("default/{pod}")
        };
        text(&self.axon(&["logs", &pod]))
    }

    /// What an agent answers to `GET path`.
    pub(crate) fn ask(&self, node: &str, path: &str) -> String {
        self.try_ask(node, path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// What an agent answers, if there is one.
    pub(crate) fn try_ask(&self, node: &str, path: &str) -> Result<String, axon_cni::http::Error> {
        let node = self.node(node);
        let socket = node["apiSocket"].as_str().expect("a path");
        axon_cni::http::Client::new(socket, PATIENCE).get_text(path)
    }

    /// The last flows that a node has seen.
    pub(crate) fn flows(&self, node: &str) -> Vec<Value> {
        let lines = self.ask(node, "/v1/monitor?last=4000&follow=false");
        let flows = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        flows
            .map(|mut line| line["flow"].take())
            .filter(|flow| !flow.is_null())
            .collect()
    }

    /// Takes everything that a node without an agent has pinned, and what it has on
    /// disk only until it is started anew. The pods live on here: what is known of
    /// them stays.
    pub(crate) fn forget(&self, node: &str) {
        let node = self.node(node);
        let path = |key: &str| PathBuf::from(node[key].as_str().expect("a path"));
        empty(&path("bpfRoot"));
        let socket = path("apiSocket");
        let state = socket.parent().expect("a directory").join("state");
        for file in ["control.json", "control.changes", "host.json"] {
            let _ = std::fs::remove_file(state.join(file));
        }
    }

    /// Where the agents' manifests are.
    pub(crate) fn manifests(&self) -> PathBuf {
        Path::new("/run/axon-lab")
            .join(&self.name)
            .join("manifests")
    }
}

fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        } else if !entry.file_name().to_string_lossy().ends_with(".debug") {
            // The kernel's own cannot be removed.
            std::fs::remove_file(entry.path()).expect("unpinned");
        }
    }
}

/// `ADDRESS:PORT`.
pub(crate) fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// What a command printed, both ways.
pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn find(list: &Value, name: &str) -> Value {
    let list = list.as_array().expect("a list");
    let found = list.iter().find(|item| item["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {list:?}"))
        .clone()
}
