//! Drives the CNI plugin as a container runtime does: a configuration list, a
//! plugin by its name in `CNI_PATH`, an environment, an answer.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::enter::{Place, axon};
use crate::paths::NodePaths;

/// The plugin's type, which is the name of its executable.
const PLUGIN: &str = "axon-cni";
const VERSION: &str = "1.1.0";
/// Name of the device inside.
const INTERFACE: &str = "eth0";

/// A pod to be attached.
#[derive(Clone, Debug)]
pub(crate) struct Attachment<'a> {
    /// Namespace of the pod.
    pub(crate) namespace: &'a str,
    /// Name of the pod.
    pub(crate) name: &'a str,
    /// Unique id of the pod; here also that of its container.
    pub(crate) uid: &'a str,
    /// Its network namespace.
    pub(crate) netns: &'a Path,
    /// Addresses that it asks for.
    pub(crate) ips: &'a [IpAddr],
    /// Whether it is to have no others.
    pub(crate) ips_only: bool,
}

/// Writes a node's network configuration list.
pub(crate) fn write_conflist(paths: &NodePaths) -> Result<()> {
    let list = json!({
        "cniVersion": VERSION,
        "name": "axon",
        "plugins": [{
            "type": PLUGIN,
            "api-socket": paths.socket(),
            "log-file": paths.root.join("cni.log"),
        }],
    });
    let text = serde_json::to_string_pretty(&list)?;
    std::fs::write(paths.conflist(), text).context("writing the network configuration")
}

/// Attaches a pod; gives back its addresses.
///
/// # Errors
/// What the plugin says, with its code.
pub(crate) fn add(paths: &NodePaths, pod: &Attachment<'_>) -> Result<Vec<IpAddr>> {
    let answer = call(paths, "ADD", pod)?;
    let answer: Value = serde_json::from_slice(&answer).context("the plugin's answer")?;
    let ips = answer["ips"].as_array();
    let ips: Vec<IpAddr> = ips
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str()?.parse::<IpNet>().ok())
        .map(|net| net.addr())
        .collect();
    if ips.is_empty() {
        bail!("the plugin's answer has no addresses: {answer}");
    }
    Ok(ips)
}

/// Detaches a pod.
///
/// # Errors
/// What the plugin says, with its code.
pub(crate) fn del(paths: &NodePaths, pod: &Attachment<'_>) -> Result<()> {
    call(paths, "DEL", pod).map(drop)
}

fn call(paths: &NodePaths, command: &str, pod: &Attachment<'_>) -> Result<Vec<u8>> {
    let config = plugin_config(&paths.conflist())?;
    let axon = axon()?;
    let dir = axon
        .parent()
        .context("our own executable has no directory")?;
    let plugin = dir.join(PLUGIN);
    if !plugin.exists() {
        bail!(
            "{} is missing; build it with `make build`",
            plugin.display()
        );
    }
    let place = Place {
        netns: Some(paths.netns()),
        cgroup: Some(paths.host_cgroup()),
        ..Place::default()
    };
    let mut child = place
        .command(&[plugin.into_os_string()])?
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", pod.uid)
        .env("CNI_NETNS", pod.netns)
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_ARGS", args(pod))
        .env("CNI_PATH", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting the CNI plugin")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that refuses early does not read: its answer says why.
        let _ = stdin.write_all(config.to_string().as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        bail!("CNI {command}: {}", complaint(&output))
    }
}

fn args(pod: &Attachment<'_>) -> String {
    let mut args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};\
         K8S_POD_UID={}",
        pod.namespace, pod.name, pod.uid, pod.uid
    );
    if !pod.ips.is_empty() {
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        args.push_str(&format!(";IP={}", ips.join(",")));
        if pod.ips_only {
            args.push_str(";IP_ONLY=true");
        }
    }
    args
}

/// The configuration of the first plugin of a list, as a runtime hands it over.
fn plugin_config(conflist: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(conflist)
        .with_context(|| format!("reading {}", conflist.display()))?;
    let list: Value = serde_json::from_str(&text)?;
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    Ok(plugin)
}

/// What a plugin that failed said, in a line.
fn complaint(output: &Output) -> String {
    if let Ok(error) = serde_json::from_slice::<Value>(&output.stdout)
        && error["code"].is_u64()
    {
        let (msg, details) = (text(&error["msg"]), text(&error["details"]));
        let details = if details.is_empty() {
            String::new()
        } else {
            format!(" ({details})")
        };
        return format!("code {}: {msg}{details}", error["code"]);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}: {}", output.status, stderr.trim())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
