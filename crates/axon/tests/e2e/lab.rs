//! The lab itself: bad input, an agent that is away, and what is left behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use axon_api::agent::EndpointDelete;
use serde_json::Value;

use crate::support::{How, Lab, PATIENCE, at, eventually, lab, text, turn};

const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec: {containers: [{name: c, command: [axon, lab, serve, 'tcp:80'], readinessProbe: {tcpSocket: {port: 80}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: spare, labels: {app: spare}}
spec: {containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{fromEndpoints: [{matchLabels: {app: nobody}}]}]}
";

#[test]
fn a_lab_from_up_to_down() {
    let _turn = turn();
    let host = host_devices();
    let Some(lab) = lab("lab", CLUSTER) else {
        return;
    };
    let other = crate::support::lab("other", "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, command: [sleep, infinity]}]}}")
        .expect("root has been checked");
    bad_manifests_change_nothing(&lab);
    a_process_is_somebody(&lab);
    an_endpoint_deleted_underneath_comes_back(&lab);
    a_pod_goes_while_the_agent_is_away(&lab);
    what_ends_is_started_again(&lab);
    nothing_is_left(&lab, &host);
    assert_eq!(other.pod("p")["ready"], true, "another lab is not touched");
}

/// Two who bring one lab up at the same moment both get it.
#[test]
fn a_lab_that_is_brought_up_twice_at_once_is_one() {
    let _turn = turn();
    if !crate::support::is_root() {
        println!("skipped: needs root");
        return;
    }
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, command: [sleep, infinity]}]}}";
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), pod).expect("writes");
    let name = format!("twice-{}", std::process::id());
    let axon = |args: &[&str]| {
        let mut command = Command::new(crate::common::axon());
        command.args(["lab", "-L", &name]).args(args);
        command.output().expect("axon runs")
    };
    crate::common::plugin();
    let up = || {
        axon(&[
            "up",
            "--timeout",
            "60",
            file.path().to_str().expect("UTF-8"),
        ])
    };
    let ups: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(up)).collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("it ends"))
            .collect()
    });
    let down = axon(&["down"]);
    for done in &ups {
        assert!(done.status.success(), "{}", text(done));
    }
    assert!(down.status.success(), "{}", text(&down));
}

fn reaches(lab: &Lab) -> bool {
    let ip = lab.pod_ip("server", false);
    let output = lab
        .client("client", How::Tcp(80), &ip, false)
        .wait_with_output();
    output.expect("it ends").status.success()
}

fn sources(lab: &Lab) -> String {
    let status: Value = serde_json::from_str(&lab.ask("node-1", "/v1/healthz")).expect("JSON");
    status["parts"]["sources"]["msg"]
        .as_str()
        .expect("a text")
        .to_owned()
}

fn bad_manifests_change_nothing(lab: &Lab) {
    assert!(!reaches(lab), "the policy is in force");
    let bad = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: 'http!', protocol: TCP}]}]}]}
";
    let said = lab.apply_refused(bad);
    assert!(
        said.contains("port") && said.contains("http!"),
        "field and value: {said}"
    );
    assert!(!reaches(lab), "a refused policy changes nothing");
    let said = lab.apply_refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c}]}}",
    );
    assert!(said.contains("no command"), "{said}");

    let file = lab
        .manifests()
        .join("ciliumnetworkpolicy_default_closed.yaml");
    let good = std::fs::read_to_string(&file).expect("the manifest");
    std::fs::write(&file, "kind: CiliumNetworkPolicy\nspec: [").expect("it is spoilt in place");
    eventually("the agent names the file", || {
        sources(lab).contains("closed.yaml")
    });
    assert!(!reaches(lab), "the last good content stays in force");
    std::fs::write(&file, good).expect("it is corrected");
    eventually("the agent is content", || {
        !sources(lab).contains("closed.yaml")
    });
}

/// `axon run` on a node of a lab: only the lab numbers its labels.
fn a_process_is_somebody(lab: &Lab) {
    let target = at(&lab.pod_ip("server", false), 80);
    let connect = |label: &str, wait: &str| {
        let run = ["axon", "run", "--label", label, "--"];
        let connect = [
            "axon",
            "lab",
            "connect",
            "tcp",
            &target,
            "--timeout-ms",
            wait,
        ];
        lab.run("node:node-1", &[&run[..], &connect].concat())
    };
    let allowed = connect("app=nobody", "10000");
    assert!(allowed.status.success(), "{}", text(&allowed));
    let denied = connect("app=other", "700");
    assert_eq!(denied.status.code(), Some(2), "{}", text(&denied));
    assert!(!text(&denied).contains("not ready"), "{}", text(&denied));
    eventually("what is over is forgotten", || {
        let files = std::fs::read_dir(lab.manifests()).expect("manifests");
        let mut names = files.flatten().map(|file| file.file_name());
        names.all(|name| !name.to_string_lossy().contains("_run-"))
    });
}

fn an_endpoint_deleted_underneath_comes_back(lab: &Lab) {
    let id = axon_cni::http::escape("cep-name:default/client");
    let find = || lab.try_ask("node-1", &format!("/v1/endpoint/{id}"));
    let endpoint: Value = serde_json::from_str(&find().expect("an endpoint")).expect("JSON");
    let container = &endpoint["status"]["external-identifiers"]["container-id"];
    let delete = EndpointDelete {
        container_id: container.as_str().expect("a text").to_owned(),
        interface: String::new(),
    };
    let socket = lab.node("node-1")["apiSocket"].clone();
    axon_cni::http::Client::new(socket.as_str().expect("a path"), PATIENCE)
        .done("DELETE", "/v1/endpoint", Some(&delete))
        .expect("deleted");
    eventually("the pod is made anew", || {
        find().is_ok_and(|found| !found.contains(&delete.container_id))
    });
    lab.apply("{apiVersion: v1, kind: Namespace, metadata: {name: other}}");
    assert_eq!(lab.pod("client")["ready"], true);
}

fn a_pod_goes_while_the_agent_is_away(lab: &Lab) {
    let known = |endpoints: &str| endpoints.contains("default/spare");
    assert!(
        known(&lab.ask("node-1", "/v1/endpoint")),
        "the agent knows the pod"
    );
    // No agent starts with such an option.
    let config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: cilium-config, namespace: kube-system}, data: {mtu: big}}";
    let no_wait = |verb: &str, manifest: &str| {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), manifest).expect("writes");
        let done = lab.axon(&[verb, "--no-wait", file.path().to_str().expect("UTF-8")]);
        assert!(done.status.success(), "{}", text(&done));
    };
    no_wait("apply", config);
    eventually("the agent is away", || {
        lab.try_ask("node-1", "/v1/healthz").is_err()
    });
    no_wait(
        "delete",
        "{apiVersion: v1, kind: Pod, metadata: {name: spare}}",
    );
    eventually("the pod is gone although the agent is away", || {
        !lab.status()["pods"].to_string().contains("\"spare\"")
    });
    eventually("the log names option and value", || {
        let log = text(&lab.axon(&["logs", "node-1"]));
        log.contains("option mtu: \"big\"")
    });
    no_wait("delete", config);
    eventually("the agent carries the deletion out later", || {
        lab.try_ask("node-1", "/v1/endpoint")
            .is_ok_and(|endpoints| !known(&endpoints))
    });
}

fn what_ends_is_started_again(lab: &Lab) {
    let broken = "{apiVersion: v1, kind: Pod, metadata: {name: broken}, spec: {containers: [{name: c, command: [/no/such/program]}]}}";
    let said = lab.apply_refused(broken);
    assert!(
        said.contains("/no/such/program"),
        "the end of its log: {said}"
    );
    lab.apply(&broken.replace("/no/such/program", "sleep, infinity"));
    assert_eq!(lab.pod("broken")["ready"], true, "the corrected pod");
    let pid = |lab: &Lab| lab.pod("server")["pids"][0].as_u64();
    let old = pid(lab).expect("a process");
    let killed = Command::new("kill").args(["-9", &old.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    eventually("a new process serves", || {
        pid(lab).is_some_and(|new| new != old) && lab.pod("server")["ready"] == true
    });
}

/// `axon lab down` after everything was killed, and once more.
fn nothing_is_left(lab: &Lab, host: &BTreeSet<String>) {
    let run = Path::new("/run/axon-lab").join(&lab.name);
    let namespaces = namespaces_of(lab);
    assert!(
        namespaces.len() >= 5,
        "nodes, pods, underlay, outside: {namespaces:?}"
    );
    let cgroup = lab.node("node-1")["cgroup"]
        .as_str()
        .expect("a path")
        .to_owned();
    let cgroup = Path::new(&cgroup).parent().expect("the lab's").to_owned();
    for dir in ["supervisor", "node-1/host"] {
        let pids = std::fs::read_to_string(cgroup.join(dir).join("cgroup.procs"));
        for pid in pids.expect("a cgroup").lines() {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
    }
    for again in ["a crash", "nothing"] {
        let down = lab.axon(&["down"]);
        assert!(down.status.success(), "down after {again}: {}", text(&down));
    }
    assert!(!run.exists(), "files are left in {}", run.display());
    assert!(!cgroup.exists(), "a cgroup is left: {}", cgroup.display());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(
        !mounts.contains(run.to_str().expect("UTF-8")),
        "mounts are left:\n{mounts}"
    );
    eventually("no process and no namespace is left", || {
        let alive = processes();
        let of_the_lab = |p: &&(String, Option<u64>)| {
            p.0.contains(run.to_str().expect("UTF-8"))
                || p.1.is_some_and(|ns| namespaces.contains(&ns))
        };
        let left: Vec<_> = alive.iter().filter(of_the_lab).collect();
        left.is_empty()
    });
    assert_eq!(&host_devices(), host, "devices of the host");
}

/// Inodes of the lab's network namespaces.
fn namespaces_of(lab: &Lab) -> BTreeSet<u64> {
    use std::os::unix::fs::MetadataExt;
    let status = lab.status();
    let lists = [&status["nodes"], &status["pods"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    let paths = all.filter_map(|item| item["netns"].as_str().map(str::to_owned));
    let run = format!("/run/axon-lab/{}/netns", lab.name);
    let own = ["underlay", "outside"].map(|name| format!("{run}/{name}"));
    paths
        .chain(own)
        .map(|path| {
            std::fs::metadata(&path)
                .unwrap_or_else(|e| panic!("{path}: {e}"))
                .ino()
        })
        .collect()
}

/// Command line and network namespace of every process.
fn processes() -> Vec<(String, Option<u64>)> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let dirs = entries.filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok());
    dirs.map(|dir| {
        let command = std::fs::read(dir.path().join("cmdline")).unwrap_or_default();
        let netns = std::fs::metadata(dir.path().join("ns/net"))
            .ok()
            .map(|m| m.ino());
        (String::from_utf8_lossy(&command).into_owned(), netns)
    })
    .collect()
}

/// The host's own network devices.
fn host_devices() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/net/dev").expect("/proc/net/dev");
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}
