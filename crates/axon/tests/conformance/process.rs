//! Pods with labels that Kubernetes cannot give: plain processes in their
//! place, which `axon run` gives any label, and the pod's address.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use axon_api::agent::{IdentityView, IpView};
use axon_cni::http::Client;
use serde_json::Value;

use crate::case::Pod;
use crate::support::{Lab, PATIENCE};

/// A plain process with an endpoint, until dropped.
pub(crate) struct Process {
    run: Child,
    /// Its network namespace.
    pub(crate) netns: PathBuf,
}

impl Process {
    /// Starts one in a pod's place; every node knows it when this returns.
    pub(crate) fn start(lab: &Lab, status: &Value, pod: &Pod) -> Result<Self, String> {
        let mut command: Vec<String> = ["axon", "run", "--namespace", &pod.namespace]
            .into_iter()
            .chain(["--name", &pod.name, "--ip", &pod.ip])
            .map(str::to_owned)
            .collect();
        let own = pod
            .labels
            .iter()
            .map(|(key, value)| format!("k8s:{key}={value}"));
        for label in own.chain(pod.extra_labels.iter().cloned()) {
            command.extend(["--label".to_owned(), label]);
        }
        command.extend(["--", "sleep", "infinity"].map(str::to_owned));
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let run = lab.start(&format!("node:{}", pod.node), &words);
        let mut process = Self {
            run,
            netns: PathBuf::new(),
        };
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(exit)) = process.run.try_wait() {
                return Err(format!("axon run in the place of {}: {exit}", pod.name));
            }
            match process.look(status, pod) {
                Ok(()) => return Ok(process),
                Err(missing) if Instant::now() > end => return Err(missing),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Whether it runs and is known.
    fn look(&mut self, status: &Value, pod: &Pod) -> Result<(), String> {
        let pid = self.run.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.map_err(|error| error.to_string())?;
        let child = children
            .split_whitespace()
            .next()
            .ok_or("it does not run yet")?;
        self.netns = format!("/proc/{child}/ns/net").into();
        let ip: IpAddr = pod
            .ip
            .parse()
            .map_err(|_| format!("{} is no address", pod.ip))?;
        for node in status["nodes"].as_array().into_iter().flatten() {
            let socket = node["apiSocket"].as_str().unwrap_or_default();
            if !is_known(socket, ip, &pod.extra_labels).map_err(|error| error.to_string())? {
                return Err(format!(
                    "{} does not know {}/{}",
                    node["name"], pod.namespace, pod.name
                ));
            }
        }
        Ok(())
    }
}

/// Whether an agent takes an address for somebody with these labels.
fn is_known(socket: &str, ip: IpAddr, labels: &[String]) -> Result<bool, axon_cni::http::Error> {
    let client = Client::new(socket, PATIENCE);
    let ips: Vec<IpView> = client.get("/v1/ip")?;
    let identities: Vec<IdentityView> = client.get("/v1/identity")?;
    let prefix = ipnet_of(ip);
    let Some(found) = ips.iter().find(|row| row.cidr == prefix) else {
        return Ok(false);
    };
    let identity = identities
        .iter()
        .find(|identity| identity.id == found.identity);
    Ok(identity.is_some_and(|identity| {
        let has = |text: &String| {
            identity
                .labels
                .iter()
                .any(|(of, key, value)| *text == format!("{of}:{key}={value}"))
        };
        labels.iter().all(has)
    }))
}

fn ipnet_of(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

impl Drop for Process {
    fn drop(&mut self) {
        // It takes its endpoint away when asked to end, not when killed.
        let pid = self.run.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.run.wait();
    }
}
