//! A node on which a container runtime runs as people run it, in a mount
//! namespace and directories of its own.
//!
//! The programs are the system's, or those that `cargo xtask runtimes` puts
//! into the cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axon_linux::process::{self, Place};
use axon_linux::{device, link, netns};
use serde_json::json;

use crate::common::plugin;
use crate::node::{Node, manifests};

/// Where a program is: in the folder of the cache that `runtimes` fills, else
/// on the search path.
pub(super) struct Programs {
    folders: Vec<PathBuf>,
    libraries: Vec<PathBuf>,
}

impl Programs {
    /// The programs of `kind`, a folder in the cache, before all others.
    pub(super) fn of(kind: &str) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = set("AXON_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            let base = set("XDG_CACHE_HOME").map(PathBuf::from);
            let home = || set("HOME").map(|home| Path::new(&home).join(".cache"));
            base.or_else(home)
                .unwrap_or_else(std::env::temp_dir)
                .join("axoneme")
        });
        let roots = [cache.join(kind), cache.join("runtimes")]
            .into_iter()
            .filter(|r| r.exists());
        let roots: Vec<PathBuf> = roots.chain(["/".into()]).collect();
        let folders = roots.iter().flat_map(|root| {
            [
                "usr/bin",
                "usr/sbin",
                "bin",
                "sbin",
                "usr/lib/cni",
                "opt/cni/bin",
            ]
            .map(|f| root.join(f))
        });
        let libraries = roots
            .iter()
            .filter(|root| **root != Path::new("/"))
            .flat_map(|root| {
                fs::read_dir(root.join("usr/lib"))
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|e| e.path())
            });
        Self {
            folders: folders.collect(),
            libraries: libraries
                .filter(|dir| dir.to_string_lossy().ends_with("-gnu"))
                .collect(),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
    }

    /// The programs of these names; `None`, said aloud, if one is missing.
    pub(super) fn need<const N: usize>(&self, names: [&str; N]) -> Option<[PathBuf; N]> {
        let mut found = Vec::new();
        for name in names {
            let Some(path) = self.find(name) else {
                println!("skipped: needs {name} (cargo xtask runtimes)");
                return None;
            };
            found.push(path);
        }
        found.try_into().ok()
    }

    fn environment(&self, command: &mut Command, first: &Path) {
        let folders = std::iter::once(first.to_owned()).chain(self.folders.iter().cloned());
        let join = |paths: Vec<PathBuf>| std::env::join_paths(paths).expect("paths");
        command.env("PATH", join(folders.collect()));
        if !self.libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", join(self.libraries.clone()));
            let extensions = self.libraries.iter().map(|dir| dir.join("xtables"));
            command.env("XTABLES_LIBDIR", join(extensions.collect()));
        }
    }
}

/// A node with a place in which runtimes leave nothing on the machine.
pub(super) struct Machine {
    pub(super) node: Node,
    programs: Programs,
    /// Holds the mount namespace.
    pub(super) holder: Child,
    /// Daemons to be ended.
    daemons: Vec<Child>,
    pub(super) group: String,
}

impl Machine {
    pub(super) fn start(name: &str, programs: Programs) -> Option<Self> {
        let mut node = Node::start(name, &manifests(4))?;
        node.stop_agent();
        let bin = node.path("bin");
        let conf = node.path("net.d");
        for dir in [&bin, &conf, &node.path("logs")] {
            fs::create_dir(dir).expect("directory");
        }
        symlink(plugin(), bin.join("axon-cni")).expect("link");
        for name in ["portmap", "loopback"] {
            symlink(programs.find(name)?, bin.join(name)).expect("link");
        }
        if let Some(tables) = programs.find("xtables-legacy-multi") {
            for name in ["iptables", "ip6tables"] {
                symlink(&tables, bin.join(name)).expect("link");
            }
        }
        let list = json!({
            "cniVersion": "1.0.0", "name": "axon",
            "plugins": [
                {"type": "axon-cni", "api-socket": node.path("axon.sock")},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        fs::write(conf.join("10-axon.conflist"), list.to_string()).expect("conflist");
        // What runtimes keep beside their own folders goes with the mount namespace.
        let script = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && echo ready && exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut ready = [0; 6];
        let stdout = holder.stdout.as_mut().expect("output");
        std::io::Read::read_exact(stdout, &mut ready).expect("a mount namespace");
        node.start_agent(Some(holder.id()));
        Some(Self {
            group: format!("/{}", node.name),
            node,
            programs,
            holder,
            daemons: Vec::new(),
        })
    }

    fn place(&self) -> Place {
        Place {
            netns: Some(netns::path(&self.node.name)),
            mntns: Some(format!("/proc/{}/ns/mnt", self.holder.id()).into()),
            ..Place::default()
        }
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.programs
            .environment(&mut command, &self.node.path("bin"));
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// Starts a daemon that writes to `log`.
    pub(super) fn daemon(&mut self, mut command: Command, log: &str) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.node.path(log));
        let log = log.expect("log");
        command.stdout(log.try_clone().expect("log")).stderr(log);
        let place = Place {
            session: true,
            ..self.place()
        };
        self.daemons
            .push(process::spawn(command, &place).expect("daemon"));
    }

    /// Ends the daemon that was started last, as a power cut would.
    pub(super) fn kill_daemon(&mut self) {
        let mut daemon = self.daemons.pop().expect("a daemon");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
    }

    /// Runs a program to its end; what it printed.
    pub(super) fn run(&self, mut command: Command) -> Result<String, String> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process::spawn(command, &self.place()).expect("it starts");
        let output = child.wait_with_output().expect("it ends");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(out)
        } else {
            Err(format!("{out}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Whether the node gets the page behind a mapped port.
    pub(super) fn node_gets(&self, port: u16) -> bool {
        self.gets_from(&self.node.name, port)
    }

    /// Whether somebody outside gets it, by the node's address.
    pub(super) fn outside_gets(&self, port: u16) -> bool {
        self.gets_from(&format!("{}-out", self.node.name), port)
    }

    fn gets_from(&self, namespace: &str, port: u16) -> bool {
        let mut command = Command::new("curl");
        command.args(["-s", "--max-time", "2"]);
        command.arg(format!("http://192.0.2.1:{port}/"));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let place = Place {
            netns: Some(netns::path(namespace)),
            ..Place::default()
        };
        let child = process::spawn(command, &place).expect("curl starts");
        let output = child.wait_with_output().expect("curl ends");
        output.stdout == b"hello from a pod\n"
    }

    pub(super) fn log(&self, name: &str) -> String {
        let log = fs::read_to_string(self.node.path(name)).unwrap_or_default();
        let from = log.len().saturating_sub(4000);
        log.get(from..).unwrap_or(&log).to_owned()
    }

    /// Nothing of pods is left.
    pub(super) fn assert_clean(&self) {
        self.node.eventually("no endpoint is left", |node| {
            node.get("/v1/endpoint") == json!([])
        });
        let (devices, routes) = self
            .node
            .within(|| (device::list(), link::endpoint_routes()));
        let names: Vec<String> = devices
            .expect("devices")
            .into_iter()
            .map(|d| d.name)
            .collect();
        assert!(
            names.iter().all(|name| !link::is_host_name(name)),
            "{names:?}"
        );
        assert!(routes.expect("routes").is_empty());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- runtime ---\n{}", self.log("runtime.log"));
        }
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // What the runtime has left running or lying about: its processes are those of our group
        // and those that were told our folder.
        let ours = self.node.path("");
        let ours = ours.to_string_lossy();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let is = |bytes: Vec<u8>, words: &str| String::from_utf8_lossy(&bytes).contains(words);
            let shim = is(read("cmdline"), &ours) && is(read("comm"), "shim");
            if shim || is(read("cgroup"), &self.group) {
                let _ = process::signal(pid, process::Signal::Kill);
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for mount in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_groups(&mount.path().join(&self.group[1..]));
        }
        remove_groups(&Path::new("/sys/fs/cgroup").join(&self.group[1..]));
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    for _ in 0..20 {
        if !group.exists() || fs::remove_dir(group).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
