//! The agent of the node: killed, exchanged, looked at.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::axon;
use crate::support::{Lab, is_root};

/// Machines under load are slow; an agent that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A build of `axon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The one that is tested.
    Same,
    /// With other kernel programs.
    Other,
    /// With other layouts of conntrack and NAT.
    NextLayout,
}

impl Variant {
    /// Name of the binary, and the feature that makes it so.
    fn binary(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Same => None,
            Self::Other => Some(("axon-other", "other-programs")),
            Self::NextLayout => Some(("axon-next", "next-layout")),
        }
    }

    /// Has it built, as root alone needs it.
    pub(crate) fn build(self) {
        let Some((name, feature)) = self.binary().filter(|_| is_root()) else {
            return;
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let args = [
            "build",
            "--quiet",
            "-p",
            "axon",
            "--bin",
            name,
            "--features",
            feature,
        ];
        let built = Command::new(cargo).args(args).status();
        assert!(built.expect("cargo runs").success(), "{args:?}");
    }

    fn path(self) -> PathBuf {
        let name = self.binary().map_or("axon", |(name, _)| name);
        axon().with_file_name(name)
    }
}

/// The node's agent.
pub(crate) struct Agent<'a> {
    lab: &'a Lab,
    /// What it is started from.
    place: PathBuf,
    /// How long it was until an agent answered.
    took: Vec<Duration>,
    programs: String,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(lab: &'a Lab, place: PathBuf) -> Self {
        let mut agent = Self {
            lab,
            place,
            took: Vec::new(),
            programs: String::new(),
        };
        agent.settle();
        agent
    }

    fn pid(&self) -> Option<u64> {
        self.lab.node("n")["agentPid"].as_u64()
    }

    fn signal(&self, pid: u64, signal: &str) {
        // It may have ended by itself.
        let _ = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
    }

    /// Waits for another process than this one.
    fn next(&self, old: u64) -> u64 {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.pid() {
                Some(new) if new != old => return new,
                _ => assert!(Instant::now() < end, "no agent after {PATIENCE:?}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn part(&self, name: &str) -> Option<Value> {
        let status = self.lab.try_ask("n", "/v1/healthz").ok()?;
        let mut status: Value = serde_json::from_str(&status).ok()?;
        Some(status["parts"][name].take())
    }

    /// Waits until the agent is ready, and notes which programs are in force.
    pub(crate) fn settle(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self
            .part("agent")
            .is_none_or(|agent| agent["state"] != "Ok")
        {
            assert!(Instant::now() < end, "no agent is ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let datapath = self.part("datapath").unwrap_or_default();
        let text = datapath["msg"].as_str().unwrap_or_default().to_owned();
        let tag = text.split("(programs ").nth(1);
        self.programs = tag.unwrap_or_default().chars().take(16).collect();
    }

    /// Ends the agent as a power cut would: at any moment of its life.
    pub(crate) fn kill(&mut self, turn: usize) {
        let old = self.next(0);
        let began = Instant::now();
        self.signal(old, "-9");
        self.next(old);
        match turn % 4 {
            // Only now and then it may come so far.
            3 => {
                self.settle();
                self.took.push(began.elapsed());
            }
            early => std::thread::sleep(Duration::from_millis([0, 30, 120][early])),
        }
    }

    /// Has another build take over, as an upgrade does; the first of its agents
    /// is killed while it exchanges the programs, if that is `cut`.
    pub(crate) fn exchange(&mut self, variant: Variant, cut: Option<Duration>) {
        self.settle();
        let (before, built) = (self.programs.clone(), variant.path());
        let draft = self.place.with_extension("new");
        std::fs::copy(&built, &draft).unwrap_or_else(|e| panic!("{built:?}: {e}"));
        std::fs::rename(&draft, &self.place).expect("renamed");
        let old = self.next(0);
        let began = Instant::now();
        self.signal(old, "-TERM");
        let mut new = self.next(old);
        if let Some(after) = cut {
            std::thread::sleep(after);
            self.signal(new, "-9");
            new = self.next(new);
        }
        self.settle();
        self.took.push(began.elapsed());
        let inode = |path: &Path| std::fs::metadata(path).map(|m| m.ino()).ok();
        let running = inode(Path::new(&format!("/proc/{new}/exe")));
        assert_eq!(running, inode(&self.place), "the new binary runs");
        assert_ne!(self.programs, before, "{variant:?} has other programs");
    }

    /// Whether something is pinned in the node's bpffs.
    pub(crate) fn has_pin(&self, name: &str) -> bool {
        let node = Path::new("/run/axon-lab")
            .join(&self.lab.name)
            .join("nodes/n");
        node.join("bpf").join(name).exists()
    }

    /// Number, identity and addresses of every endpoint.
    pub(crate) fn endpoints(&mut self) -> Vec<String> {
        self.settle();
        let list: Value = serde_json::from_str(&self.lab.ask("n", "/v1/endpoint")).expect("JSON");
        let of = |e: &Value| {
            let identity = &e["status"]["identity"]["id"];
            format!("{} {identity} {}", e["id"], e["status"]["networking"])
        };
        list.as_array().expect("a list").iter().map(of).collect()
    }

    /// How long it took until an agent was ready: the median and the longest.
    pub(crate) fn recoveries(&self) -> String {
        let mut took = self.took.clone();
        took.sort();
        let [.., longest] = took[..] else {
            return "none was waited for".to_owned();
        };
        format!("{:.2?} ({:.2?} at most)", took[took.len() / 2], longest)
    }
}
