//! Pods made by container runtimes as people run them, in a mount namespace and
//! directories of their own.
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

use crate::cri::{Cri, Pod};
use crate::image;
use crate::node::{Node, manifests, plugin};

/// Where a program is: in the folder of the cache that `runtimes` fills, else
/// on the search path.
struct Programs {
    folders: Vec<PathBuf>,
    libraries: Vec<PathBuf>,
}

impl Programs {
    /// The programs of `kind`, a folder in the cache, before all others.
    fn of(kind: &str) -> Self {
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

    fn find(&self, name: &str) -> Option<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
    }

    /// The programs of these names; `None`, said aloud, if one is missing.
    fn need<const N: usize>(&self, names: [&str; N]) -> Option<[PathBuf; N]> {
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
struct Machine {
    node: Node,
    programs: Programs,
    /// Holds the mount namespace.
    holder: Child,
    /// Daemons to be ended.
    daemons: Vec<Child>,
    group: String,
}

impl Machine {
    fn start(name: &str, programs: Programs) -> Option<Self> {
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

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.programs
            .environment(&mut command, &self.node.path("bin"));
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// Starts a daemon that writes to `log`.
    fn daemon(&mut self, mut command: Command, log: &str) {
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
    fn kill_daemon(&mut self) {
        let mut daemon = self.daemons.pop().expect("a daemon");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
    }

    /// Runs a program to its end; what it printed.
    fn run(&self, mut command: Command) -> Result<String, String> {
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
    fn node_gets(&self, port: u16) -> bool {
        let mut command = self.command(Path::new("curl"));
        command.args(["-s", "--max-time", "2"]);
        command.arg(format!("http://192.0.2.1:{port}/"));
        self.run(command)
            .is_ok_and(|page| page == "hello from a pod\n")
    }

    fn log(&self, name: &str) -> String {
        let log = fs::read_to_string(self.node.path(name)).unwrap_or_default();
        let from = log.len().saturating_sub(4000);
        log.get(from..).unwrap_or(&log).to_owned()
    }

    /// Nothing of pods is left.
    fn assert_clean(&self) {
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

/// containerd on a machine.
struct Containerd {
    machine: Machine,
    program: PathBuf,
    cri: Cri,
}

impl Containerd {
    /// One whose network is ready; none, with a message, if that takes what is
    /// not there.
    fn start(name: &str, kind: &str, major: &str) -> Option<Self> {
        let programs = Programs::of(kind);
        let names = [
            "containerd",
            "ctr",
            "runc",
            "busybox",
            "portmap",
            "xtables-legacy-multi",
        ];
        let [program, ctr, _, busybox, ..] = programs.need(names)?;
        let version = Command::new(&program)
            .arg("--version")
            .output()
            .expect("containerd runs");
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        if !version
            .split(' ')
            .any(|word| word.trim_start_matches('v').starts_with(major))
        {
            println!(
                "skipped: needs containerd {major}x (cargo xtask runtimes --all), found {version}"
            );
            return None;
        }
        let mut machine = Machine::start(name, programs)?;
        let config = if major == "1." {
            config_2(&machine.node)
        } else {
            config_3(&machine.node)
        };
        fs::write(machine.node.path("containerd.toml"), config).expect("config");
        Self::launch(&mut machine, &program);
        let cri = Cri {
            socket: machine.node.path("containerd.sock"),
        };
        let this = Self {
            machine,
            program,
            cri,
        };
        this.until_ready();
        let archive = this.machine.node.path("box.tar");
        image::write(&busybox, &archive);
        let mut import = this.machine.command(&ctr);
        import
            .arg("-a")
            .arg(&this.cri.socket)
            .args(["-n", "k8s.io", "images", "import"]);
        import.arg(archive);
        let imported = this.machine.run(import);
        imported
            .unwrap_or_else(|error| panic!("ctr: {error}\n{}", this.machine.log("runtime.log")));
        Some(this)
    }

    fn launch(machine: &mut Machine, program: &Path) {
        let mut command = machine.command(program);
        command.arg("-c").arg(machine.node.path("containerd.toml"));
        machine.daemon(command, "runtime.log");
    }

    fn until_ready(&self) {
        self.machine
            .node
            .eventually("containerd is ready", |_| self.cri.is_ready());
    }

    fn restart(&mut self) {
        self.machine.kill_daemon();
        Self::launch(&mut self.machine, &self.program);
        self.until_ready();
    }

    fn restart_agent(&mut self) {
        self.machine.node.kill_agent();
        self.machine
            .node
            .start_agent(Some(self.machine.holder.id()));
    }

    fn pod(&self, name: &str, ports: &[(u32, u32)]) -> Pod {
        Pod {
            name: name.to_owned(),
            cgroup: self.machine.group.clone(),
            logs: self
                .machine
                .node
                .path("logs")
                .to_string_lossy()
                .into_owned(),
            ports: ports.to_vec(),
        }
    }

    /// A pod with one container; their ids.
    fn run(&self, pod: &Pod, command: &[&str]) -> (String, String) {
        let id = self.cri.run_pod(pod);
        let why = || {
            panic!(
                "no pod:\n{}\n{}",
                self.machine.log("runtime.log"),
                self.machine.node.log()
            )
        };
        let id = id.unwrap_or_else(why);
        let container = self.cri.run_container(&id, pod, command);
        (
            id,
            container
                .unwrap_or_else(|| panic!("no container:\n{}", self.machine.log("runtime.log"))),
        )
    }

    /// Whether a container gets the page of a port.
    fn gets(&self, container: &str, address: &str, port: u16) -> bool {
        let request = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2";
        let request = format!("{request} {address} {port}");
        let got = self.cri.exec(container, &["sh", "-c", &request]);
        got.is_some_and(|(page, _)| page.ends_with("hello from a pod\n"))
    }

    fn end(&self, pod: &str) {
        assert!(
            self.cri.stop(pod) && self.cri.remove(pod),
            "{}",
            self.machine.log("runtime.log")
        );
    }
}

/// What both versions are told alike.
fn folders(node: &Node, version: u32) -> String {
    let path = |name: &str| node.path(name).to_string_lossy().into_owned();
    format!(
        "version = {version}
root = \"{}\"
state = \"{}\"
[grpc]
  address = \"{}\"
[plugins.\"io.containerd.internal.v1.opt\"]
  path = \"{}\"
",
        path("containerd"),
        path("containerd-state"),
        path("containerd.sock"),
        path("opt"),
    )
}

/// The network's part: what it may not do without (`oom_score_adj` below 0 takes
/// a privilege that not every root has).
fn network(node: &Node, table: &str, bin: &str) -> String {
    format!(
        "[plugins.\"{table}\"]
  restrict_oom_score_adj = true
  [plugins.\"{table}\".cni]
    {bin}
    conf_dir = \"{}\"
  [plugins.\"{table}\".containerd.runtimes.runc]
    runtime_type = \"io.containerd.runc.v2\"
    [plugins.\"{table}\".containerd.runtimes.runc.options]
      SystemdCgroup = false
",
        node.path("net.d").display()
    )
}

fn config_2(node: &Node) -> String {
    let table = "io.containerd.grpc.v1.cri";
    let bin = format!("bin_dir = \"{}\"", node.path("bin").display());
    let network = network(node, table, &bin).replacen(
        "  restrict_oom",
        &format!("  sandbox_image = \"{}\"\n  restrict_oom", image::NAME),
        1,
    );
    let snapshots = format!("[plugins.\"{table}\".containerd]\n  snapshotter = \"native\"\n");
    folders(node, 2) + &network + &snapshots
}

fn config_3(node: &Node) -> String {
    let bin = format!("bin_dirs = [\"{}\"]", node.path("bin").display());
    let images = format!(
        "[plugins.\"io.containerd.cri.v1.images\"]
  snapshotter = \"native\"
  use_local_image_pull = true
  [plugins.\"io.containerd.cri.v1.images\".pinned_images]
    sandbox = \"{}\"
",
        image::NAME
    );
    folders(node, 3) + &images + &network(node, "io.containerd.cri.v1.runtime", &bin)
}

/// A life of pods with everything restarted under them.
fn pods_live(mut runtime: Containerd) {
    let web = runtime.pod("p0", &[(18080, 80)]);
    let serve = "httpd -p 81 -h /www && exec httpd -f -p 80 -h /www";
    let (web_id, _) = runtime.run(&web, &["sh", "-c", serve]);
    let (client_id, client) = runtime.run(&runtime.pod("p1", &[]), &["tail", "-f", "/dev/null"]);
    let addresses = runtime.cri.addresses(&web_id);
    assert_eq!(addresses.len(), 2, "both families: {addresses:?}");
    let address = addresses
        .iter()
        .find(|a| !a.contains(':'))
        .expect("IPv4")
        .clone();
    let node = &runtime.machine.node;
    node.eventually("a pod gets the page", |_| {
        runtime.gets(&client, &address, 80)
    });
    assert!(
        !runtime.gets(&client, &address, 81),
        "policy lets port 80 in, and no other"
    );
    node.eventually("the mapped port is open to the node", |_| {
        runtime.machine.node_gets(18080)
    });

    runtime.restart_agent();
    assert!(
        runtime.gets(&client, &address, 80),
        "after a restart of the agent"
    );
    assert!(runtime.machine.node_gets(18080));
    runtime.restart();
    assert!(
        runtime.gets(&client, &address, 80),
        "after a restart of containerd"
    );
    runtime.machine.kill_daemon();
    runtime.restart_agent();
    let program = runtime.program.clone();
    Containerd::launch(&mut runtime.machine, &program);
    runtime.until_ready();
    assert!(
        runtime.gets(&client, &address, 80),
        "after a restart of both"
    );
    assert!(!runtime.gets(&client, &address, 81), "policy outlives them");
    let (late_id, late) = runtime.run(&runtime.pod("p2", &[]), &["tail", "-f", "/dev/null"]);
    assert!(runtime.gets(&late, &address, 80), "a pod made afterwards");

    // StopPodSandbox is a DEL, RemovePodSandbox is another, without a namespace.
    runtime.end(&late_id);
    runtime.end(&web_id);
    assert!(!runtime.machine.node_gets(18080));
    runtime.machine.node.kill_agent();
    runtime.end(&client_id);
    runtime
        .machine
        .node
        .start_agent(Some(runtime.machine.holder.id()));
    runtime.machine.assert_clean();
}

#[test]
fn containerd_makes_pods() {
    if let Some(runtime) = Containerd::start("ctd", "runtimes", "1.") {
        pods_live(runtime);
    }
}

#[test]
fn containerd_2_makes_pods() {
    if let Some(runtime) = Containerd::start("ctd2", "containerd-2", "2.") {
        pods_live(runtime);
    }
}
