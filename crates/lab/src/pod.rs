//! A pod: its namespace, its addresses by the CNI plugin, its processes, kept
//! alive by its restart policy. No agent is needed for that.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cni::{self, Attachment};
use crate::enter::Place;
use crate::http;
use crate::names::name_servers;
use crate::paths::{Lab, NodePaths, PodPaths};
use crate::plan::{PodKey, PodPlan};
use crate::process;
use crate::resolv::{Policy, policy, resolv_conf};
use crate::state::{PodState, Shared, Stop, log};
use crate::wire;

/// The lab's name server.
pub(crate) const DNS: (&str, &str) = ("kube-system", "dns");
/// How soon a refused ADD is tried again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// So many refusals in a row are a problem that somebody has to look at.
const REFUSALS_MAX: u32 = 4;
/// How long processes have to end when asked to, at most.
const GRACE: Duration = Duration::from_secs(2);

/// What a pod's thread needs all the time.
pub(crate) struct Life<'a> {
    /// The lab.
    pub(crate) shared: &'a Shared,
    /// Which pod.
    pub(crate) key: PodKey,
    /// Its unique id.
    pub(crate) uid: String,
    /// What it shall be.
    pub(crate) plan: PodPlan,
    /// Set when it shall go.
    pub(crate) stop: Stop,
    /// Where its node keeps things.
    pub(crate) node: NodePaths,
    /// Where it keeps things.
    pub(crate) paths: PodPaths,
}

/// The first state of a pod.
pub(crate) fn born(lab: &Lab, plan: &PodPlan, uid: String) -> PodState {
    let node = lab.node(&plan.node);
    let netns = if plan.host_network {
        node.netns()
    } else {
        lab.pod(&plan.namespace, &plan.name).netns()
    };
    PodState {
        plan: plan.clone(),
        cgroup: node.pod_cgroup(&uid),
        uid,
        netns,
        ips: Vec::new(),
        endpoint: None,
        doing: "waits for its node".into(),
        problem: None,
        containers: std::collections::BTreeMap::new(),
        stop: Stop::default(),
    }
}

/// The whole life of a pod; runs on a thread of its own. When it returns,
/// nothing of the pod is left.
pub(crate) fn live(shared: &Shared, key: PodKey) {
    let Some(pod) = shared.cluster().pods.get(&key).cloned() else {
        return;
    };
    let life = Life {
        node: shared.lab.node(&pod.plan.node),
        paths: shared.lab.pod(&key.namespace, &key.name),
        shared,
        key,
        uid: pod.uid,
        plan: pod.plan,
        stop: pod.stop,
    };
    if let Err(error) = life.run() {
        log(&format!("pod {}: {error:#}", life.key));
        life.problem(Some(format!("{error:#}")));
        while !life.stop.sleep(Duration::from_secs(3600)) {}
    }
    life.leave();
}

impl Life<'_> {
    fn run(&self) -> Result<()> {
        let node = &self.plan.node;
        let ready = |c: &crate::state::Cluster| c.nodes.get(node).is_some_and(|n| n.answers);
        if !self.shared.wait_until(&self.stop, ready) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.paths.root)
            .with_context(|| self.paths.root.display().to_string())?;
        axon_linux::cgroup::create(&self.cgroup())?;
        if self.plan.host_network {
            let addresses = |n: &crate::state::NodeState| n.addresses.clone();
            let ips = self.shared.cluster().nodes.get(node).map(addresses);
            self.set(|pod| pod.ips = ips.unwrap_or_default());
        } else if !self.attach()? {
            return Ok(());
        }
        if !self.name_server()? {
            return Ok(());
        }
        let place = self.place();
        std::fs::write(self.paths.place(), serde_json::to_vec(&place)?)?;
        process::run_all(self, &place)
    }

    /// Makes the namespace and attaches it; false if the pod is to go before
    /// that is done.
    fn attach(&self) -> Result<bool> {
        wire::make_netns(&self.paths.netns())?;
        self.doing("is given addresses");
        let mut wait = RETRY_FIRST;
        let mut refusals = 0;
        let ips = loop {
            match cni::add(&self.node, &self.attachment(&self.paths.netns())) {
                Ok(ips) => break ips,
                Err(error) => {
                    refusals += 1;
                    log(&format!("pod {}: {error:#}", self.key));
                    if refusals >= REFUSALS_MAX {
                        self.problem(Some(format!("{error:#}")));
                    }
                }
            }
            if self.stop.sleep(wait) {
                return Ok(false);
            }
            wait = (wait * 2).min(RETRY_MAX);
        };
        let endpoint = self.endpoint_id();
        self.set(|pod| {
            pod.ips = ips;
            pod.endpoint = endpoint;
            pod.problem = None;
        });
        Ok(true)
    }

    /// The pod's number on its node, for its CiliumEndpoint.
    fn endpoint_id(&self) -> Option<u16> {
        let path = format!("/v1/endpoint/cni-attachment-id:{}:eth0", self.uid);
        let view: serde_json::Value = http::get_json(&self.node.socket(), &path).ok()?;
        u16::try_from(view["id"].as_u64()?).ok()
    }

    /// Writes resolv.conf and hosts, as soon as the name server has its
    /// addresses; false if the pod is to go before that.
    fn name_server(&self) -> Result<bool> {
        let key = PodKey {
            namespace: DNS.0.into(),
            name: DNS.1.into(),
        };
        let spec = &self.plan.value["spec"];
        let mut servers = Vec::new();
        if self.key != key && policy(spec) == Policy::Cluster {
            self.doing("waits for the name server");
            let known = |c: &crate::state::Cluster| {
                !name_servers(c).is_empty() || !c.pods.contains_key(&key)
            };
            if !self.shared.wait_until(&self.stop, known) {
                return Ok(false);
            }
            servers = name_servers(&self.shared.cluster());
        }
        let node = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolv = resolv_conf((spec, &self.key.namespace), &servers, &node);
        std::fs::write(self.paths.resolv_conf(), resolv)?;
        std::fs::write(self.paths.hosts(), self.hosts())?;
        Ok(true)
    }

    fn hosts(&self) -> String {
        let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
        let spec = &self.plan.value["spec"];
        for ip in self.ips() {
            hosts.push_str(&format!("{ip}\t{}\n", self.hostname()));
        }
        for alias in spec["hostAliases"].as_array().into_iter().flatten() {
            let names = alias["hostnames"].as_array().into_iter().flatten();
            let names: Vec<&str> = names.filter_map(|n| n.as_str()).collect();
            let ip = alias["ip"].as_str().unwrap_or_default();
            hosts.push_str(&format!("{ip}\t{}\n", names.join(" ")));
        }
        hosts
    }

    fn hostname(&self) -> String {
        let given = self.plan.value["spec"]["hostname"].as_str();
        given.unwrap_or(&self.key.name).to_owned()
    }

    fn place(&self) -> Place {
        Place {
            netns: Some(if self.plan.host_network {
                self.node.netns()
            } else {
                self.paths.netns()
            }),
            cgroup: Some(self.cgroup()),
            hostname: (!self.plan.host_network).then(|| self.hostname()),
            resolv_conf: Some(self.paths.resolv_conf()),
            hosts: Some(self.paths.hosts()),
        }
    }

    fn attachment<'b>(&'b self, netns: &'b std::path::Path) -> Attachment<'b> {
        Attachment {
            namespace: &self.key.namespace,
            name: &self.key.name,
            uid: &self.uid,
            netns,
            ips: &self.plan.ips,
            ips_only: self.plan.ips_only,
        }
    }

    /// Takes everything of the pod away. What cannot be done is logged, and
    /// the rest is done.
    fn leave(&self) {
        self.doing("ends");
        process::end_all(&self.cgroup(), self.grace());
        self.set(|pod| pod.containers.values_mut().for_each(|c| c.ready = false));
        let mut steps = vec![(
            "removing its cgroup",
            axon_linux::cgroup::remove(&self.cgroup()).map_err(Into::into),
        )];
        if !self.plan.host_network {
            let netns = self.paths.netns();
            steps.push((
                "detaching it",
                cni::del(&self.node, &self.attachment(&netns)),
            ));
            steps.push(("dropping its namespace", wire::drop_netns(&netns)));
        }
        let removed = std::fs::remove_dir_all(&self.paths.root);
        let removed = removed.or_else(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        });
        steps.push(("removing its directory", removed.map_err(Into::into)));
        for (what, outcome) in steps {
            if let Err(error) = outcome {
                log(&format!("pod {}: {what}: {error:#}", self.key));
            }
        }
        self.shared.update(|cluster| {
            cluster.pods.remove(&self.key);
        });
    }

    /// How long its processes have to end when asked to.
    pub(crate) fn grace(&self) -> Duration {
        let given = self.plan.value["spec"]["terminationGracePeriodSeconds"].as_u64();
        given.map_or(GRACE, Duration::from_secs).min(GRACE)
    }

    /// Its cgroup.
    pub(crate) fn cgroup(&self) -> PathBuf {
        self.node.pod_cgroup(&self.uid)
    }

    /// Its addresses.
    pub(crate) fn ips(&self) -> Vec<std::net::IpAddr> {
        let cluster = self.shared.cluster();
        cluster
            .pods
            .get(&self.key)
            .map(|p| p.ips.clone())
            .unwrap_or_default()
    }

    /// Changes its state.
    pub(crate) fn set(&self, change: impl FnOnce(&mut PodState)) {
        self.shared.pod(&self.key, change);
    }

    /// Says what it is doing.
    pub(crate) fn doing(&self, what: &str) {
        self.set(|pod| pod.doing = what.into());
    }

    fn problem(&self, problem: Option<String>) {
        self.set(|pod| pod.problem = problem);
    }
}
