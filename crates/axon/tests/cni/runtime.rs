//! Pods made by containerd, asked as a kubelet asks it, while everything is
//! restarted under them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cri::{Cri, Pod};
use crate::image;
use crate::machine::{Machine, Programs};
use crate::node::Node;

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

    assert!(
        runtime.machine.outside_gets(18080),
        "the mapped port is open to others"
    );

    runtime.restart_agent();
    assert!(
        runtime.gets(&client, &address, 80),
        "after a restart of the agent"
    );
    assert!(runtime.machine.node_gets(18080));
    assert!(runtime.machine.outside_gets(18080));
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
