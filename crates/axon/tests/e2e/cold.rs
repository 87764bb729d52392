//! A node that starts anew, as after a reboot: nothing is pinned, and nothing is
//! left but what is on disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::host::{
    CLUSTER, CLUSTER_CONFIG, GUARDED, INGRESS, Probe, SERVED, SHUT, SSH, Servers, WORLD, check,
    is_ready, passes, policy,
};
use crate::support::{How, Lab, eventually, lab, text, turn};

use How::{Tcp, Udp};

/// A node `a` without an agent and without anything in the kernel.
pub(crate) struct Away<'a> {
    lab: &'a Lab,
    /// The cluster's options.
    options: String,
    /// How its agent was started.
    command: Vec<String>,
}

fn path(lab: &Lab, key: &str) -> PathBuf {
    PathBuf::from(lab.node("a")[key].as_str().expect("a path"))
}

fn state(lab: &Lab) -> PathBuf {
    let socket = path(lab, "apiSocket");
    socket.parent().expect("a directory").join("state")
}

/// The file with what held the node last.
pub(crate) fn kept(lab: &Lab) -> PathBuf {
    state(lab).join("lib/host-rows.json")
}

/// Whether the first program hangs at the node's uplink.
pub(crate) fn is_attached(lab: &Lab) -> bool {
    let links = std::fs::read_dir(path(lab, "bpfRoot").join("links"));
    let mut names = links.into_iter().flatten().flatten();
    names.any(|link| link.file_name().to_string_lossy().contains("from_netdev"))
}

/// Applies manifests, and waits for nobody to carry them out.
pub(crate) fn apply(lab: &Lab, manifest: &str) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), manifest).expect("writes");
    let path = file.path().to_str().expect("UTF-8");
    let done = lab.axon(&["apply", "--no-wait", path]);
    assert!(done.status.success(), "{}", text(&done));
}

impl<'a> Away<'a> {
    /// Ends the agent, has none follow, and takes everything out of the kernel.
    pub(crate) fn begin(lab: &'a Lab, options: &str) -> Self {
        let pid = lab.node("a")["agentPid"].as_u64().expect("an agent");
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        let command = command.expect("its command");
        let command = command
            .trim_end_matches('\0')
            .split('\0')
            .map(str::to_owned);
        let away = Self {
            lab,
            options: options.to_owned(),
            command: command.collect(),
        };
        // No agent starts with such an option.
        apply(lab, &options.replace("data: {", "data: {mtu: big, "));
        eventually("the agent is away", || {
            lab.try_ask("a", "/v1/healthz").is_err()
        });
        away.forget();
        away
    }

    /// Takes everything out of the kernel, and what a reboot takes off the disk.
    pub(crate) fn forget(&self) {
        self.lab.forget("a");
    }

    /// `axon policy host-restore`, as a unit runs it before the network.
    pub(crate) fn restore(&self, more: &[&str]) -> Output {
        let (program, flags) = self.command.split_first().expect("a program");
        let flags = flags.iter().skip(1).map(String::as_str);
        let verb = [program.as_str(), "policy", "host-restore"];
        let args: Vec<&str> = verb.into_iter().chain(flags).collect();
        let args = [&args[..], &["--mtu", "0"], more].concat();
        let done = self.lab.run("node:a", &args);
        assert!(done.status.success(), "{}", text(&done));
        done
    }

    /// Lets the next agent come.
    pub(crate) fn end(self) {
        apply(self.lab, &self.options);
    }
}

/// The disk of the first node's lib-dir takes no writes; it does again when this
/// is dropped.
pub(crate) struct Spoilt(PathBuf);

impl Spoilt {
    /// By another disk in its place, which is full.
    pub(crate) fn full(lab: &Lab) -> Self {
        let lib = state(lab).join("lib");
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &lib);
        let spoilt = Self(lib);
        let full = std::fs::write(spoilt.0.join("full"), vec![0; 1 << 20]);
        full.expect_err("it is full");
        spoilt
    }

    /// Read-only, as after an error of the disk.
    pub(crate) fn read_only(lab: &Lab) -> Self {
        let lib = state(lab).join("lib");
        mount(&["--bind", lib.to_str().expect("UTF-8")], &lib);
        let spoilt = Self(lib);
        mount(&["-o", "remount,bind,ro"], &spoilt.0);
        spoilt
    }
}

impl Drop for Spoilt {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str], at: &Path) {
    let done = Command::new("mount").args(args).arg(at).output();
    let done = done.expect("mount runs");
    assert!(done.status.success(), "{}", text(&done));
}

/// What holds of [`INGRESS`] where there are no pods yet.
const HELD: &[Probe] = &[
    ("node:b", "node:a", Tcp(SERVED), true),
    (WORLD, "node:a", Tcp(SSH), true),
    (WORLD, "node:a", Tcp(SERVED), false),
    ("node:b", "node:a", Tcp(SHUT), false),
    ("node:b", "node:a", Udp(SERVED), false),
    ("node:a", "node:b", Tcp(SHUT), true),
    ("node:a", WORLD, Udp(SERVED), true),
];

/// What holds of a node of which it is not known what held it.
const LOCKED: &[Probe] = &[
    (WORLD, "node:a", Tcp(SSH), true),
    (WORLD, "node:a", Tcp(SERVED), false),
    ("node:b", "node:a", Tcp(SERVED), false),
    ("node:b", "node:a", Udp(SERVED), false),
    ("node:a", WORLD, Udp(SERVED), false),
    ("node:a", "node:b", Tcp(SHUT), false),
];

/// With what is never denied changed to one port.
const OTHERWISE: &[Probe] = &[
    (WORLD, "node:a", Tcp(SHUT), true),
    (WORLD, "node:a", Tcp(SSH), false),
    ("node:b", "node:a", Tcp(SERVED), false),
];

#[test]
fn a_node_that_starts_anew_is_held_before_there_is_an_agent() {
    let _turn = turn();
    let Some(lab) = lab("cold", CLUSTER) else {
        return;
    };
    let _servers = Servers::start(&lab);
    let open: Probe = (WORLD, "node:a", Tcp(SERVED), true);
    eventually("the servers answer", || passes(&lab, open, false));

    let file = kept(&lab);
    let content = || std::fs::read(&file).unwrap_or_default();
    eventually("what holds the node is kept", || !content().is_empty());
    let before = content();
    lab.apply(&policy(INGRESS));
    eventually("that too", || content() != before);
    let guarded = content();

    let away = Away::begin(&lab, CLUSTER_CONFIG);
    check(&lab, "without anything", &[open]);
    away.restore(&[]);
    assert!(is_attached(&lab));
    check(&lab, "what was in force", HELD);
    away.restore(&[]);
    check(&lab, "it is in force already", HELD);

    away.forget();
    away.restore(&["--host-firewall-failsafe-ingress", "tcp/8002"]);
    check(&lab, "what is never denied has changed", OTHERWISE);

    away.forget();
    std::fs::write(&file, &guarded[..guarded.len() / 2]).expect("written");
    let said = text(&away.restore(&[]));
    assert!(said.contains("is lost"), "{said}");
    check(&lab, "what was in force is lost", LOCKED);
    assert!(!file.exists(), "it is set aside");
    away.forget();
    away.restore(&[]);
    check(&lab, "still lost", LOCKED);

    away.forget();
    away.end();
    eventually("the next agent is ready", || is_ready(&lab));
    check(&lab, "all is known again", GUARDED);
    eventually("it is kept again", || !content().is_empty());
    let aside = file.with_extension("json.corrupt");
    eventually("what was lost is forgotten", || !aside.exists());

    lab.delete(&policy(INGRESS));
    let away = Away::begin(&lab, CLUSTER_CONFIG);
    std::fs::remove_file(&file).expect("removed");
    away.restore(&[]);
    assert!(!is_attached(&lab), "there is nothing to hold it to");
    check(&lab, "nothing was ever in force", &[open]);
    away.end();
    eventually("the next agent is ready", || is_ready(&lab));
}
