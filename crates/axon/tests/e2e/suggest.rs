//! Least privilege, the whole way: traffic of real pods without policy, what is
//! suggested from it, what that would change, and what becomes of the same and of
//! other traffic once it is in force.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::common::axon;
use crate::support::{How, Lab, eventually, lab, text, turn};

/// The server's node sees all that is said to it; one client is on another.
const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: a}}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: a
  containers:
  - name: serve
    command: [axon, lab, serve, 'tcp:8001-8003', 'udp:8001-8003']
    readinessProbe: {tcpSocket: {port: 8003}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, labels: {app: api}}
spec: {nodeName: b, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: foe, labels: {app: foe}}
spec: {nodeName: b, containers: [{name: c, command: [sleep, infinity]}]}
";

use How::{Icmp, Tcp, Udp};

/// What is said to the server while it is recorded.
const USUAL: [(&str, How); 4] = [
    ("web", Tcp(8001)),
    ("web", Udp(8002)),
    ("api", Tcp(8002)),
    ("api", Icmp),
];

/// Another port, another protocol, another pod; each of them was answered too
/// before there was policy.
const OTHER: [(&str, How); 6] = [
    ("web", Tcp(8002)),
    ("web", Tcp(8003)),
    ("web", Icmp),
    ("api", Udp(8002)),
    ("foe", Tcp(8001)),
    ("foe", Icmp),
];

#[test]
fn what_is_suggested_allows_what_was_recorded_and_nothing_else() {
    let _turn = turn();
    let Some(lab) = lab("suggest", CLUSTER) else {
        return;
    };
    talk(&lab, &USUAL, true);
    all_is_recorded(&lab);

    // From the agent that runs, and from what agents have printed.
    let suggested = policy(&lab, &["suggest", "--last", "10m"]);
    assert_eq!(suggested.status.code(), Some(0), "{}", text(&suggested));
    let suggested = String::from_utf8(suggested.stdout).expect("UTF-8");
    let flows = lab.write("flows.json", &recorded(&lab));
    let by_file = policy(&lab, &["suggest", &flows]);
    assert_eq!(by_file.status.code(), Some(0), "{}", text(&by_file));

    let from_agent = lab.directory("agent", &suggested);
    let from_file = lab.directory("file", &String::from_utf8_lossy(&by_file.stdout));
    for proposed in [&from_agent, &from_file] {
        nothing_recorded_is_lost(&lab, proposed, &["--last", "10m"]);
        nothing_recorded_is_lost(&lab, proposed, &["--flows", &flows]);
    }
    what_would_be_lost_is_told(&lab);
    times_are_kept_to(&lab);

    // Until now nothing is in force.
    talk(&lab, &OTHER, true);
    lab.apply(&suggested);
    talk(&lab, &USUAL, true);
    talk(&lab, &OTHER, false);
    for (client, how) in OTHER {
        eventually(&format!("a denial of {client} {how:?} is told"), || {
            ["a", "b"]
                .iter()
                .any(|node| is_denied(&lab, node, client, how))
        });
    }
    let again = difference(&lab, &["--proposed", &from_agent, "--flows", &flows]);
    assert_eq!(again["changes"], Value::Array(Vec::new()), "{again}");
}

/// Runs a verb of `axon policy` with the agent of the server's node.
fn policy(lab: &Lab, args: &[&str]) -> Output {
    let node = lab.node("a");
    let socket = node["apiSocket"].as_str().expect("a path");
    let mut command = Command::new(axon());
    command.arg("policy").args(args).args(["--socket", socket]);
    command.output().expect("axon runs")
}

/// What `axon policy diff` finds against what the agent has in force.
fn difference(lab: &Lab, args: &[&str]) -> Value {
    let output = policy(lab, &[&["diff", "-o", "json"], args].concat());
    let code = output.status.code();
    assert!(code == Some(0) || code == Some(1), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

/// Speaks to the server over both families, and expects answers or none.
fn talk(lab: &Lab, said: &[(&str, How)], answered: bool) {
    let families = said.iter().flat_map(|one| [(one, false), (one, true)]);
    let running: Vec<_> = families
        .map(|((client, how), v6)| {
            let to = lab.pod_ip("server", v6);
            (
                format!("{client} {how:?} to {to}"),
                lab.client(client, *how, &to, answered),
            )
        })
        .collect();
    for (what, child) in running {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(
            output.status.success(),
            answered,
            "{what}: {}",
            text(&output)
        );
    }
}

fn is(flow: &Value, client: &str, how: How) -> bool {
    let l4 = &flow["l4"];
    let same = match how {
        Tcp(port) => l4["TCP"]["destination_port"] == port,
        Udp(port) => l4["UDP"]["destination_port"] == port,
        Icmp => !l4["ICMPv4"].is_null() || !l4["ICMPv6"].is_null(),
    };
    same && flow["source"]["pod_name"] == client && flow["destination"]["pod_name"] == "server"
}

fn is_denied(lab: &Lab, node: &str, client: &str, how: How) -> bool {
    let flows = lab.flows(node);
    let mut denied = flows.iter().filter(|flow| is(flow, client, how));
    denied.any(|flow| flow["verdict"] == "DROPPED" && flow["drop_reason_desc"] == "POLICY_DENIED")
}

/// Waits until both families of all that was said are among the flows.
fn all_is_recorded(lab: &Lab) {
    for (client, how) in USUAL {
        for version in ["IPv4", "IPv6"] {
            eventually(
                &format!("{client} {how:?} by {version} is recorded"),
                || {
                    let flows = lab.flows("a");
                    let mut told = flows.iter().filter(|flow| is(flow, client, how));
                    told.any(|flow| flow["IP"]["ipVersion"] == version)
                },
            );
        }
    }
}

/// What both agents have seen, as `axon observe -o json` prints it.
fn recorded(lab: &Lab) -> String {
    let path = "/v1/monitor?last=4000&follow=false&background=false";
    ["a", "b"].map(|node| lab.ask(node, path)).concat()
}

fn nothing_recorded_is_lost(lab: &Lab, proposed: &str, flows: &[&str]) {
    let found = difference(lab, &[&["--proposed", proposed], flows].concat());
    let of_flows = &found["flows"];
    assert_eq!(of_flows["denied"], 0, "{proposed}, {flows:?}: {found}");
    assert_eq!(of_flows["changes"], Value::Array(Vec::new()), "{found}");
    assert!(of_flows["stay"].as_u64().is_some_and(|n| n >= 8), "{found}");
    let changes = found["changes"].as_array().expect("changes");
    let closed = changes.iter().any(|change| {
        change["from"] == "default/foe"
            && change["to"] == "default/server"
            && change["after"]["verdict"] == "deny"
    });
    assert!(closed, "what nobody recorded is closed: {found}");
}

/// A policy that the traffic does not fit is found out.
fn what_would_be_lost_is_told(lab: &Lab) {
    let strict = lab.directory(
        "strict",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: strict}\nspec:\n  \
         endpointSelector: {matchLabels: {app: server}}\n  ingress:\n  - fromEndpoints: \
         [{matchLabels: {app: web}}]\n",
    );
    let found = difference(lab, &["--proposed", &strict, "--last", "10m"]);
    let changes = found["flows"]["changes"].as_array().expect("changes");
    let lost: Vec<_> = changes
        .iter()
        .map(|flow| (&flow["from"], &flow["port"]))
        .collect();
    let of_api = |port: &str| {
        lost.iter()
            .any(|(from, p)| *from == "default/api" && *p == port)
    };
    assert!(of_api("TCP 8002"), "{found}");
    assert!(
        lost.iter().all(|(from, _)| *from == "default/api"),
        "{found}"
    );
}

/// What was said longer ago does not count, and what is asked for from before the
/// agent is told not to be there.
fn times_are_kept_to(lab: &Lab) {
    std::thread::sleep(Duration::from_millis(1500));
    let late = policy(lab, &["suggest", "--last", "1s"]);
    assert!(!text(&late).contains("8001"), "{}", text(&late));
    let long = policy(lab, &["suggest", "--last", "1000h"]);
    assert!(text(&long).contains("8001"), "{}", text(&long));
    assert!(
        text(&long).contains("less far than asked"),
        "{}",
        text(&long)
    );
}
