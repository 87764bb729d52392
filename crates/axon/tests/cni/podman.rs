//! Containers made by podman through its CNI backend, which takes a container
//! for the pod of its name in the default namespace.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::image;
use crate::machine::{Machine, Programs};

/// podman on a machine.
struct Podman {
    machine: Machine,
    program: PathBuf,
}

impl Podman {
    /// With the image loaded; none, with a message, if that takes what is not
    /// there.
    fn start() -> Option<Self> {
        let programs = Programs::of("runtimes");
        let names = [
            "podman",
            "conmon",
            "runc",
            "busybox",
            "portmap",
            "xtables-legacy-multi",
        ];
        let [program, conmon, runc, busybox, ..] = programs.need(names)?;
        let machine = Machine::start("podman", programs)?;
        let path = |name: &str| machine.node.path(name).display().to_string();
        // The event log and the cgroups as they are where no systemd is.
        let config = format!(
            "[network]
network_backend = \"cni\"
cni_plugin_dirs = [\"{}\"]
network_config_dir = \"{}\"
default_network = \"axon\"
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
conmon_path = [\"{}\"]
runtime = \"runc\"
[engine.runtimes]
runc = [\"{}\"]
",
            path("bin"),
            path("net.d"),
            conmon.display(),
            runc.display(),
        );
        fs::write(path("containers.conf"), config).expect("config");
        fs::write(
            path("policy.json"),
            r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
        )
        .expect("policy");
        let archive = machine.node.path("box.tar");
        image::write(&busybox, &archive);
        let this = Self { machine, program };
        let archive = archive.display().to_string();
        let policy = format!(
            "--signature-policy={}",
            this.machine.node.path("policy.json").display()
        );
        this.run(&["load", &policy, "--input", &archive]);
        Some(this)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(&self.program);
        let path = |name: &str| self.machine.node.path(name);
        command
            .env("CONTAINERS_CONF", path("containers.conf"))
            .arg("--root")
            .arg(path("storage"))
            .arg("--runroot")
            .arg(path("run"))
            .arg("--tmpdir")
            .arg(path("tmp"))
            .args(["--storage-driver", "vfs"])
            .args(args);
        command
    }

    fn try_run(&self, args: &[&str]) -> Result<String, String> {
        self.machine.run(self.command(args))
    }

    fn run(&self, args: &[&str]) -> String {
        self.try_run(args)
            .unwrap_or_else(|error| panic!("podman {args:?}: {error}"))
    }

    fn container(&self, name: &str, options: &[&str], command: &[&str]) {
        let mut args = vec!["run", "--detach", "--name", name];
        args.extend(["--cgroup-parent", &self.machine.group]);
        // Limits that a root may set who has not every privilege.
        args.extend([
            "--ulimit",
            "nofile=1024:20000",
            "--ulimit",
            "nproc=1000:1000",
        ]);
        args.extend(["--oom-score-adj", "0"]);
        args.extend(options);
        args.push(image::NAME);
        args.extend(command);
        self.run(&args);
    }

    /// Whether the client gets the page of a port.
    fn gets(&self, address: &str, port: u16) -> bool {
        let request = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2";
        let request = format!("{request} {address} {port}");
        self.try_run(&["exec", "p1", "sh", "-c", &request])
            .is_ok_and(|page| page.ends_with("hello from a pod\n"))
    }
}

#[test]
fn podman_makes_pods() {
    let Some(mut podman) = Podman::start() else {
        return;
    };
    let serve = "httpd -p 81 -h /www && exec httpd -f -p 80 -h /www";
    podman.container("p0", &["--publish", "18080:80"], &["sh", "-c", serve]);
    podman.container("p1", &[], &["tail", "-f", "/dev/null"]);
    let address = "{{.NetworkSettings.Networks.axon.IPAddress}}";
    let address = podman.run(&["inspect", "p0", "--format", address]);
    let address = address.trim();
    let node = &podman.machine.node;
    node.eventually("a container gets the page", |_| podman.gets(address, 80));
    assert!(
        !podman.gets(address, 81),
        "policy lets port 80 in, and no other"
    );
    assert!(
        podman.machine.node_gets(18080),
        "the node, by the mapped port"
    );
    assert!(
        podman.machine.outside_gets(18080),
        "whoever is outside, by the mapped port"
    );

    podman.machine.node.kill_agent();
    podman
        .machine
        .node
        .start_agent(Some(podman.machine.holder.id()));
    assert!(podman.gets(address, 80), "after a restart of the agent");
    assert!(podman.machine.outside_gets(18080));

    podman.run(&["rm", "--force", "--time", "0", "p0", "p1"]);
    assert!(!podman.machine.node_gets(18080));
    podman.machine.assert_clean();
}
