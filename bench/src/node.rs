//! A node of its own for a benchmark: a namespace with an uplink, an agent, and
//! the CNI plugin called as a runtime would.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A namespace with an uplink, and a folder for the agent's files. All of it
/// goes with this, and with the next one of the name.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    axon: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Node {
    /// Makes the node; its pods' namespaces must have names that begin with its own.
    pub(crate) fn make(name: &'static str, axon: &Path, manifests: &str) -> Result<Self> {
        clean_up(name);
        // Where an agent's state is by default, memory; the reference plugins' is there too.
        let base = Path::new("/dev/shm");
        let base = if base.exists() {
            base.to_owned()
        } else {
            std::env::temp_dir()
        };
        let node = Self {
            name,
            axon: axon.to_owned(),
            dir: base.join(format!("{name}-{}", std::process::id())),
        };
        for sub in ["manifests", "bpf"] {
            fs::create_dir_all(node.dir.join(sub))?;
        }
        fs::write(node.dir.join("manifests/all.yaml"), manifests)?;
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&[
            "-n", name, "link", "add", "up0", "type", "veth", "peer", "name", "up1",
        ])?;
        ip(&["-n", name, "addr", "add", "192.0.2.1/24", "dev", "up0"])?;
        ip(&["-n", name, "link", "set", "up0", "up"])?;
        ip(&["-n", name, "link", "set", "up1", "up"])?;
        Ok(node)
    }

    /// A program in the node's namespace.
    pub(crate) fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program);
        command
    }

    /// Starts the agent.
    pub(crate) fn start_agent(&self) -> Result<Child> {
        let mut agent = self.enter(&self.axon);
        agent.args(["agent", "--node-name", "n1", "--devices", "up0"]);
        for (option, file) in [
            ("--manifests-dir", "manifests"),
            ("--state-dir", "state"),
            ("--lib-dir", "lib"),
            ("--socket-path", "axon.sock"),
            ("--bpf-root", "bpf"),
        ] {
            agent.arg(option).arg(self.dir.join(file));
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("agent.log"))?;
        let agent = agent.stdout(log.try_clone()?).stderr(log).spawn();
        agent.with_context(|| format!("starting {}", self.axon.display()))
    }

    /// The end of the agent's log, for errors.
    pub(crate) fn told(&self) -> String {
        let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let from = log.len().saturating_sub(2000);
        format!("the agent said:\n{}", log.get(from..).unwrap_or_default())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let bpf = self.dir.join("bpf");
        let mut cleanup = Command::new(&self.axon);
        cleanup
            .args(["cleanup", "--force", "--bpf-root"])
            .arg(&bpf)
            .stdout(Stdio::null());
        cleanup.stderr(Stdio::null()).status().ok();
        let mut unmount = Command::new("umount");
        unmount.arg(&bpf).stderr(Stdio::null()).status().ok();
        fs::remove_dir_all(&self.dir).ok();
        clean_up(self.name);
    }
}

/// Deletes the namespaces of a benchmark, also of one that was killed.
fn clean_up(prefix: &str) {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            ip(&["netns", "del", &name]).ok();
        }
    }
}

/// A document of manifests.
pub(crate) fn document(kind: &str, group: &str, name: &str, rest: &Value) -> String {
    let mut object = json!({"apiVersion": group, "kind": kind, "metadata": {"name": name}});
    for (field, value) in rest.as_object().into_iter().flatten() {
        match field.as_str() {
            "labels" => object["metadata"]["labels"] = value.clone(),
            field => object[field] = value.clone(),
        }
    }
    format!("{object}\n---\n")
}

/// The node itself, its namespace of objects, and pods of twenty kinds.
pub(crate) fn manifests(pods: usize) -> String {
    let node = json!({
        "spec": {"podCIDRs": ["10.77.0.0/16", "fd77::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    });
    let mut text = document("Node", "v1", "n1", &node);
    text += &document("Namespace", "v1", "default", &Value::Null);
    for pod in 0..pods {
        let rest = json!({
            "labels": {"kind": format!("k{}", pod % 20)},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
        });
        text += &document("Pod", "v1", &format!("p{pod}"), &rest);
    }
    text
}

/// Calls a plugin for a pod; hands back what it said.
pub(crate) fn call_plugin(
    mut plugin: Command,
    conf: &Value,
    command: &str,
    (netns, pod): (&str, usize),
) -> Result<Vec<u8>> {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p{pod}");
    let program = plugin.get_program().to_string_lossy().into_owned();
    let mut child = plugin
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", netns)
        .env("CNI_NETNS", format!("/run/netns/{netns}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}"))?;
    let conf = conf.to_string();
    let mut stdin = child.stdin.take().context("the plugin has no input")?;
    stdin.write_all(conf.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program} {command}: {}", String::from_utf8_lossy(&said));
    }
    Ok(output.stdout)
}

/// The configuration of axon's plugin.
pub(crate) fn axon_conf(dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "axon", "type": "axon-cni",
        "api-socket": dir.join("axon.sock"),
    })
}

/// Runs `ip`.
pub(crate) fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("running ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("ip {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}
