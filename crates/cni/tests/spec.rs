//! The built plugin against the tables of the CNI specification.
//!
//! The agent is a double (`agent`); the plugin is the real binary.

mod agent;

use std::fs;
use std::path::Path;

use agent::{Outcome, Request, place, plugin, serve};
use serde_json::{Value, json};

const NETNS: &str = "/run/netns/pod-a";

/// The variables of a call about a container.
fn environment(command: &str) -> Vec<(&str, &str)> {
    vec![
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", NETNS),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=xwing;K8S_POD_UID=u-1",
        ),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
}

fn conf(version: &str, socket: &Path) -> Value {
    json!({"cniVersion": version, "name": "axon", "type": "axon-cni", "api-socket": socket})
}

fn run(command: &str, conf: &Value) -> Outcome {
    plugin(&environment(command), conf.to_string().as_bytes())
}

/// What the agent answers to a request for an endpoint.
fn created() -> Value {
    json!({
        "id": 12, "identity": 5678,
        "ipv4": "10.0.0.2", "ipv6": "fd00::2",
        "ipv4-gateway": "169.254.1.1", "ipv6-gateway": "fe80::1",
        "host-interface": "axon000c", "host-mac": "02:00:00:00:00:01",
        "interface": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450,
    })
}

fn refused(outcome: &Outcome, code: u64, words: &str) {
    assert_eq!(outcome.body["code"], code, "{outcome:?}");
    assert_ne!(outcome.status, 0, "{outcome:?}");
    let text = format!("{} {}", outcome.body["msg"], outcome.body["details"]);
    assert!(text.contains(words), "{words:?} in {text}");
}

fn asked(requests: &std::sync::mpsc::Receiver<Request>) -> Request {
    requests.try_recv().expect("the agent was asked")
}

#[test]
fn add_asks_the_agent_and_answers_in_every_version() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let (_dir, socket) = place();
        let requests = serve(&socket, vec![(201, created())]);
        let mut conf = conf(version, &socket);
        conf["mtu"] = 1450.into();
        let outcome = run("ADD", &conf);
        assert_eq!(outcome.status, 0, "{version}: {outcome:?}");
        let request = asked(&requests);
        assert_eq!(request.line, "PUT /v1/endpoint");
        assert_eq!(
            request.body,
            json!({
                "container-id": "c1", "interface": "eth0", "netns": NETNS,
                "namespace": "default", "pod-name": "xwing", "pod-uid": "u-1",
                "labels": [], "ips": [], "mtu": 1450,
            })
        );
        let body = &outcome.body;
        assert_eq!(body["cniVersion"], version);
        assert_eq!(body["interfaces"][0]["name"], "axon000c");
        assert_eq!(body["interfaces"][1]["sandbox"], NETNS);
        assert_eq!(body["ips"][0]["address"], "10.0.0.2/32");
        assert_eq!(body["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(body["ips"][0]["interface"], 1);
        assert_eq!(body["ips"][1]["address"], "fd00::2/128");
        assert_eq!(
            body["routes"][0],
            json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"})
        );
        assert_eq!(body["routes"][1], json!({"dst": "::/0", "gw": "fe80::1"}));
        // What only some versions have.
        let old = version.starts_with("0.");
        assert_eq!(body["ips"][0].get("version").is_some(), old, "{version}");
        let new = version == "1.1.0";
        assert_eq!(body["interfaces"][1].get("mtu").is_some(), new, "{version}");
    }
}

#[test]
fn addresses_asked_for_are_passed_on() {
    let (_dir, socket) = place();
    let requests = serve(&socket, vec![(201, created())]);
    let mut environment = environment("ADD");
    environment.push(("CNI_ARGS", "IP=10.0.0.9,fd00::9"));
    let conf = conf("1.1.0", &socket).to_string();
    assert_eq!(plugin(&environment, conf.as_bytes()).status, 0);
    assert_eq!(asked(&requests).body["ips"], json!(["10.0.0.9", "fd00::9"]));
}

#[test]
fn what_a_plugin_before_made_is_passed_through() {
    let (_dir, socket) = place();
    let requests = serve(&socket, vec![(201, created())]);
    let mut conf = conf("1.0.0", &socket);
    conf["prevResult"] = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "lo", "sandbox": NETNS}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["10.0.0.10"]},
    });
    let outcome = run("ADD", &conf);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    asked(&requests);
    let names: Vec<&Value> = (0..3)
        .map(|n| &outcome.body["interfaces"][n]["name"])
        .collect();
    assert_eq!(names, ["lo", "axon000c", "eth0"]);
    assert_eq!(outcome.body["ips"][0]["interface"], 0);
    assert_eq!(outcome.body["ips"][1]["interface"], 2);
    assert_eq!(outcome.body["dns"]["nameservers"][0], "10.0.0.10");

    // But not a device of the same name: two cannot be.
    conf["prevResult"]["interfaces"][0]["name"] = "eth0".into();
    refused(&run("ADD", &conf), 7, "eth0");
}

/// As the plugins of a chain behind us see it: our whole result is theirs.
#[test]
fn our_answer_is_a_prev_result() {
    let (_dir, socket) = place();
    let requests = serve(&socket, vec![(201, created()), (200, json!({}))]);
    let mut conf = conf("1.1.0", &socket);
    let added = run("ADD", &conf);
    asked(&requests);
    conf["prevResult"] = added.body;
    // Another plugin's device and address.
    let mut push = |list: &str, item: Value| {
        let list = conf["prevResult"][list].as_array_mut().expect("list");
        list.push(item);
    };
    push("interfaces", json!({"name": "ifb0"}));
    push("ips", json!({"address": "192.0.2.1/24", "interface": 2}));
    let checked = run("CHECK", &conf);
    assert_eq!(
        (checked.status, &checked.body),
        (0, &Value::Null),
        "{checked:?}"
    );
    let request = asked(&requests);
    assert_eq!(request.line, "POST /v1/endpoint/check");
    assert_eq!(
        request.body,
        json!({
            "container-id": "c1", "interface": "eth0", "netns": NETNS,
            "ips": ["10.0.0.2", "fd00::2"],
        })
    );
}

#[test]
fn check_tells_the_difference() {
    let (_dir, socket) = place();
    let problem = json!({"error": "eth0 has no address 10.0.0.2", "remedy": "recreate the pod"});
    let _requests = serve(
        &socket,
        vec![(409, problem), (404, json!({"error": "no c1"}))],
    );
    let mut conf = conf("1.0.0", &socket);
    refused(&run("CHECK", &conf), 7, "prevResult");
    conf["prevResult"] = json!({"interfaces": [], "ips": []});
    refused(&run("CHECK", &conf), 101, "recreate the pod");
    refused(&run("CHECK", &conf), 3, "no c1");
}

#[test]
fn environment_is_checked() {
    let (_dir, socket) = place();
    let conf = conf("1.1.0", &socket).to_string();
    for (command, variable, value, code) in [
        ("ADD", "CNI_COMMAND", "", 4),
        ("ADD", "CNI_COMMAND", "add", 4),
        ("ADD", "CNI_CONTAINERID", "", 4),
        ("ADD", "CNI_CONTAINERID", "-c1", 4),
        ("ADD", "CNI_CONTAINERID", "a/b", 4),
        ("ADD", "CNI_NETNS", "", 4),
        ("ADD", "CNI_IFNAME", "", 4),
        ("ADD", "CNI_IFNAME", "a-name-that-is-too-long", 4),
        ("ADD", "CNI_IFNAME", "eth/0", 4),
        ("ADD", "CNI_IFNAME", "..", 4),
        ("ADD", "CNI_ARGS", "IP", 4),
        ("ADD", "CNI_ARGS", "IP=10.0.0.256", 4),
        ("CHECK", "CNI_NETNS", "", 4),
        ("DEL", "CNI_CONTAINERID", "", 4),
        ("DEL", "CNI_IFNAME", "", 4),
    ] {
        let mut environment = environment(command);
        environment.push((variable, value));
        let outcome = plugin(&environment, conf.as_bytes());
        refused(&outcome, code, variable);
    }
    let outcome = plugin(&[], b"");
    refused(&outcome, 4, "CNI_COMMAND");
}

#[test]
fn configurations_are_checked() {
    let (_dir, socket) = place();
    let good = conf("1.1.0", &socket);
    let with = |field: &str, value: Value| {
        let mut conf = good.clone();
        conf[field] = value;
        conf.to_string()
    };
    for (name, text, code) in [
        ("nothing", String::new(), 6),
        ("no JSON", "{".to_owned(), 6),
        ("no object", "[1]".to_owned(), 6),
        ("no version", json!({"name": "axon"}).to_string(), 1),
        ("an old version", with("cniVersion", "0.2.0".into()), 1),
        ("a new version", with("cniVersion", "2.0.0".into()), 1),
        ("a version that is none", with("cniVersion", 1.into()), 6),
        ("no name", with("name", "".into()), 7),
        ("a bad name", with("name", "a b".into()), 7),
        ("a bad MTU", with("mtu", 20.into()), 7),
        ("an MTU that is no number", with("mtu", "big".into()), 6),
        (
            "a bad prevResult",
            with("prevResult", json!({"ips": [{"address": "x"}]})),
            6,
        ),
        (
            "addresses from a plugin",
            with("ipam", json!({"type": "host-local"})),
            2,
        ),
        ("too long", " ".repeat(1 << 21), 6),
    ] {
        let outcome = plugin(&environment("ADD"), text.as_bytes());
        assert_eq!(outcome.body["code"], code, "{name}: {outcome:?}");
        assert_ne!(outcome.status, 0, "{name}");
    }
    // Errors are told in the version asked for.
    let old = run("ADD", &json!({"cniVersion": "0.4.0", "name": "a b"}));
    assert_eq!(old.body["cniVersion"], "0.4.0");
}

#[test]
fn commands_have_versions() {
    let (_dir, socket) = place();
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        refused(&run(command, &conf(version, &socket)), 1, version);
    }
}

#[test]
fn version_needs_nothing() {
    for (stdin, answer) in [("", "1.1.0"), (r#"{"cniVersion": "0.4.0"}"#, "0.4.0")] {
        let outcome = plugin(&[("CNI_COMMAND", "VERSION")], stdin.as_bytes());
        assert_eq!(outcome.status, 0);
        assert_eq!(outcome.body["cniVersion"], answer);
        assert_eq!(
            outcome.body["supportedVersions"],
            json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    }
}

#[test]
fn del_is_idempotent() {
    let (_dir, socket) = place();
    let gone = json!({"error": "no such endpoint"});
    let requests = serve(&socket, vec![(200, Value::Null), (404, gone)]);
    let mut environment = environment("DEL");
    environment.retain(|(name, _)| *name != "CNI_NETNS" && *name != "CNI_ARGS");
    for _ in 0..2 {
        // No namespace, no prevResult: the container may be gone already.
        let outcome = plugin(&environment, conf("1.1.0", &socket).to_string().as_bytes());
        assert_eq!(
            (outcome.status, &outcome.body),
            (0, &Value::Null),
            "{outcome:?}"
        );
        let request = asked(&requests);
        assert_eq!(request.line, "DELETE /v1/endpoint");
        assert_eq!(
            request.body,
            json!({"container-id": "c1", "interface": "eth0"})
        );
    }
}

#[test]
fn del_is_carried_out_later_if_the_agent_is_away() {
    let (dir, socket) = place();
    for _ in 0..2 {
        let outcome = run("DEL", &conf("1.1.0", &socket));
        assert_eq!(outcome.status, 0, "{outcome:?}");
    }
    let queue = dir.path().join("deleteQueue");
    let names: Vec<_> = fs::read_dir(&queue)
        .expect("queue")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(names, ["c1-eth0.json"]);
    let text = fs::read(queue.join("c1-eth0.json")).expect("order");
    let order: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(order, json!({"container-id": "c1", "interface": "eth0"}));

    // An agent that is not ready is as good as away.
    let (dir, socket) = place();
    let _requests = serve(&socket, vec![(503, json!({"error": "restoring"}))]);
    assert_eq!(run("DEL", &conf("1.1.0", &socket)).status, 0);
    assert!(dir.path().join("deleteQueue/c1-eth0.json").exists());

    // So is one that hangs: runtimes do not wait for ever for a DEL.
    let (dir, socket) = place();
    let hangs = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    let began = std::time::Instant::now();
    assert_eq!(run("DEL", &conf("1.1.0", &socket)).status, 0);
    assert!(dir.path().join("deleteQueue/c1-eth0.json").exists());
    assert!(began.elapsed() < std::time::Duration::from_secs(25));
    drop(hangs);

    // What cannot even be written down is an error.
    let outcome = run("DEL", &conf("1.1.0", Path::new("/proc/nowhere/axon.sock")));
    refused(&outcome, 5, "deleteQueue");
}

#[test]
fn add_waits_for_the_agent_and_gives_up() {
    let (_dir, socket) = place();
    refused(&run("ADD", &conf("1.1.0", &socket)), 11, "axon.sock");

    // It comes back while the plugin waits.
    let busy = json!({"error": "restoring"});
    let _requests = serve(
        &socket,
        vec![(503, busy.clone()), (503, busy), (201, created())],
    );
    assert_eq!(run("ADD", &conf("1.1.0", &socket)).status, 0);
}

#[test]
fn refusals_of_the_agent_have_codes() {
    for (status, code) in [(400, 7), (404, 3), (409, 100), (429, 11), (500, 100)] {
        let (_dir, socket) = place();
        let problem = json!({"error": "what is wrong", "remedy": "what to do"});
        let _requests = serve(&socket, vec![(status, problem)]);
        let outcome = run("ADD", &conf("1.1.0", &socket));
        refused(&outcome, code, "what is wrong");
        assert_eq!(outcome.body["details"], "what to do");
    }
    let (_dir, socket) = place();
    let _requests = serve(&socket, vec![(200, json!({"id": "twelve"}))]);
    refused(
        &run("ADD", &conf("1.1.0", &socket)),
        100,
        "different versions",
    );
}

#[test]
fn status_tells_whether_add_would_work() {
    let status = |state: &str, remedy: &str| {
        json!({
            "cilium": {"state": state, "msg": "datapath", "remedy": remedy},
            "node": "n1", "version": "0", "pid": 1, "parts": {}, "bpf-maps": {},
            "policy-revision": 0, "policy-enforced-revision": 0,
        })
    };
    let (_dir, socket) = place();
    refused(&run("STATUS", &conf("1.1.0", &socket)), 50, "axon.sock");
    let answers = ["Ok", "Warning", "Failure"].map(|state| (200, status(state, "do this")));
    let _requests = serve(&socket, answers.to_vec());
    for state in ["Ok", "Warning"] {
        let outcome = run("STATUS", &conf("1.1.0", &socket));
        assert_eq!(
            (outcome.status, &outcome.body),
            (0, &Value::Null),
            "{state}: {outcome:?}"
        );
    }
    refused(&run("STATUS", &conf("1.1.0", &socket)), 50, "do this");
}

#[test]
fn gc_names_what_stays() {
    let (_dir, socket) = place();
    let requests = serve(&socket, vec![(200, json!([])), (200, json!([]))]);
    let mut conf = conf("1.1.0", &socket);
    // No list is not an empty list.
    refused(&run("GC", &conf), 7, "valid-attachments");
    conf["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(run("GC", &conf).status, 0);
    let request = asked(&requests);
    assert_eq!(request.line, "POST /v1/endpoint/gc");
    assert_eq!(request.body, json!({"valid": []}));
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c2", "ifname": "net1"}]);
    assert_eq!(run("GC", &conf).status, 0);
    assert_eq!(
        asked(&requests).body,
        json!({"valid": [{"container-id": "c2", "interface": "net1"}]})
    );
}

#[test]
fn the_log_has_a_line_for_each_call() {
    let (dir, socket) = place();
    let log = dir.path().join("cni.log");
    let mut conf = conf("1.1.0", &socket);
    conf["log-file"] = log.to_str().into();
    assert_eq!(run("DEL", &conf).status, 0);
    assert!(!log.exists(), "what works is not logged");
    conf["enable-debug"] = true.into();
    assert_eq!(run("DEL", &conf).status, 0);
    refused(&run("STATUS", &conf), 50, "");
    let text = fs::read_to_string(&log).expect("log");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("Del container=c1") && lines[0].ends_with("done"),
        "{text}"
    );
    assert!(lines[1].contains("error 50"), "{text}");
}
