//! Policy that is only tried, on a real node: staged policies, whose verdicts are
//! told and nothing becomes of them; and audit mode, which lets pass and tells.

use std::process::Command;

use serde_json::Value;

use crate::common::axon;
use crate::support::{How, Lab, eventually, lab, text, turn};

const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: a
  containers:
  - name: serve
    command: [axon, lab, serve, 'tcp:8001-8002']
    readinessProbe: {tcpSocket: {port: 8002}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {app: friend}}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: foe, labels: {app: foe}}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
";

/// A policy about ingress to the server.
fn policy(name: &str, staged: bool, rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {name}\n  \
         annotations: {{policy.axoneme.io/staged: '{staged}'}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: server}}}}\n  {rules}\n"
    )
}

const FRIENDS: &str = "ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]";
const NOT_FRIENDS: &str = "ingressDeny: [{fromEndpoints: [{matchLabels: {app: friend}}]}]";

/// What becomes of a connection, and what the server's end tells that staged
/// policies would have done: `VERDICT NAME...`, or nothing.
fn connects(lab: &Lab, client: &str, passes: bool, would: &str) {
    let verdict = if passes { "FORWARDED" } else { "DROPPED" };
    connects_as(lab, client, verdict, would);
}

fn connects_as(lab: &Lab, client: &str, verdict: &str, would: &str) {
    let passes = verdict != "DROPPED";
    let before = lab.flows("a").len();
    let to = lab.pod_ip("server", false);
    let child = lab.client(client, How::Tcp(8001), &to, passes);
    let output = child.wait_with_output().expect("it ends");
    let done = text(&output);
    assert_eq!(output.status.success(), passes, "{client}: {done}");
    eventually(&format!("{client}: {verdict}, staged: {would:?}"), || {
        let flows = lab.flows("a");
        let new = flows.iter().skip(before);
        let mut told = new.filter(|flow| {
            flow["event_type"]["type"] == 5
                && flow["traffic_direction"] == "INGRESS"
                && flow["source"]["pod_name"] == client
                && flow["destination"]["pod_name"] == "server"
        });
        told.any(|flow| flow["verdict"] == verdict && staged(flow) == would)
    });
}

fn staged(flow: &Value) -> String {
    let staged = &flow["extensions"]["value"]["staged"];
    let mut words = vec![staged["verdict"].as_str().unwrap_or_default()];
    let policies = staged["policies"].as_array().into_iter().flatten();
    words.extend(policies.filter_map(|policy| policy["name"].as_str()));
    words.join(" ")
}

#[test]
fn staged_policies_are_told_of_and_not_enforced() {
    let _turn = turn();
    let Some(lab) = lab("staged", CLUSTER) else {
        return;
    };
    connects(&lab, "foe", true, "");
    // A default deny and a deny that would close, and do not.
    lab.apply(&policy("closing", true, FRIENDS));
    connects(&lab, "friend", true, "FORWARDED closing");
    connects(&lab, "foe", true, "DROPPED closing");
    lab.apply(&policy("denying", true, NOT_FRIENDS));
    connects(&lab, "friend", true, "DROPPED denying");
    // Staged allows beside a policy that is enforced open nothing.
    lab.apply(&policy(
        "strict",
        false,
        "ingress: [{fromEntities: [host]}]",
    ));
    lab.apply(&policy("denying", true, "ingress: [{fromEntities: [all]}]"));
    connects(&lab, "foe", false, "FORWARDED denying");
    let metrics = lab.ask("a", "/v1/metrics");
    let counted = metrics.lines().any(|line| {
        line.starts_with("axon_policy_staged_verdicts_total{")
            && line.contains("policy=\"denying\"")
            && line.contains("action=\"forwarded\",enforced=\"dropped\"")
    });
    assert!(counted, "{metrics}");
    let shown: Value = serde_json::from_str(&lab.ask("a", "/v1/policy")).expect("json");
    let policies = shown["policies"].as_array().expect("policies").iter();
    let mut states = policies.map(|p| (p["origin"]["name"].as_str(), p["staged"].as_bool()));
    assert!(states.any(|state| state == (Some("closing"), Some(true))));
    selected_by_staged_policies_is_told(&lab);
    // Enforced it does what was told.
    lab.delete(&policy("strict", false, "ingress: []"));
    lab.delete(&policy("denying", true, "ingress: []"));
    lab.apply(&policy("closing", false, FRIENDS));
    connects(&lab, "friend", true, "");
    connects(&lab, "foe", false, "");
    // And back.
    lab.apply(&policy("closing", true, FRIENDS));
    connects(&lab, "foe", true, "DROPPED closing");
}

/// `axon policy get` says whom each policy selects, and what is only staged.
fn selected_by_staged_policies_is_told(lab: &Lab) {
    let shown = server(lab).expect("an endpoint");
    let number = &shown["id"];
    let node = lab.node("a");
    let socket = node["apiSocket"].as_str().expect("a path");
    let get = |more: &[&str]| {
        let mut command = Command::new(axon());
        command
            .args(["policy", "get", "--socket", socket])
            .args(more);
        text(&command.output().expect("axon runs"))
    };
    let told = get(&[]);
    for (name, is) in [
        ("closing", format!("{number} (staged)")),
        ("strict", format!("{number}  ")),
    ] {
        let line = told.lines().find(|line| line.contains(name));
        assert!(
            line.is_some_and(|line| line.contains(&is)),
            "{name}: {told}"
        );
    }
    let json: Value = serde_json::from_str(&get(&["-o", "json", "default/closing"])).expect("json");
    let staged = &json["staged"][0];
    assert_eq!(staged["policy"]["name"], "closing", "{json}");
    assert_eq!(staged["endpoints"], serde_json::json!([number]), "{json}");
    assert_eq!(json["staged"].as_array().map(Vec::len), Some(1), "{json}");
}

/// The server's endpoint as its agent shows it, once there is one.
fn server(lab: &Lab) -> Option<Value> {
    let shown = lab
        .try_ask("a", "/v1/endpoint/cep-name:default%2Fserver")
        .ok()?;
    serde_json::from_str(&shown).ok()
}

fn audited(lab: &Lab, expected: bool) {
    eventually(&format!("audited: {expected}"), || {
        server(lab).is_some_and(|server| {
            server["status"]["state"] == "ready" && server["status"]["policy"]["audit"] == expected
        })
    });
}

/// Switches the server's endpoint by the command.
fn switch(lab: &Lab, option: &str) {
    let node = lab.node("a");
    let socket = node["apiSocket"].as_str().expect("a path");
    let done = Command::new(axon())
        .args([
            "endpoint",
            "config",
            "default/server",
            option,
            "--socket",
            socket,
        ])
        .output()
        .expect("axon runs");
    assert!(done.status.success(), "{}", text(&done));
    let (_, value) = option.split_once('=').expect("an option");
    assert!(text(&done).contains(value), "{}", text(&done));
}

#[test]
fn what_is_audited_passes_and_is_told() {
    let _turn = turn();
    let Some(lab) = lab("audit", CLUSTER) else {
        return;
    };
    lab.apply(&policy("strict", false, FRIENDS));
    connects(&lab, "foe", false, "");
    switch(&lab, "PolicyAuditMode=Enabled");
    audited(&lab, true);
    connects_as(&lab, "foe", "AUDIT", "");
    connects(&lab, "friend", true, "");
    // The next agent knows.
    let old = lab.node("a")["agentPid"].as_u64().expect("a number");
    let killed = Command::new("kill").args(["-9", &old.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    eventually("another agent", || {
        lab.node("a")["agentPid"]
            .as_u64()
            .is_some_and(|pid| pid != old)
    });
    audited(&lab, true);
    connects_as(&lab, "foe", "AUDIT", "");
    switch(&lab, "PolicyAuditMode=Disabled");
    audited(&lab, false);
    connects(&lab, "foe", false, "");
    let namespace = |audit: bool| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: default, \
             annotations: {{policy.axoneme.io/audit: '{audit}'}}}}}}"
        )
    };
    lab.apply(&namespace(true));
    audited(&lab, true);
    connects_as(&lab, "foe", "AUDIT", "");
    lab.apply(&namespace(false));
    audited(&lab, false);
    connects(&lab, "foe", false, "");
}
