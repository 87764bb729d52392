//! The specification's verbs and versions, one table.

use std::process::Command;

use axon_linux::netns;
use serde_json::{Value, json};

use crate::node::{Call, Node, manifests};

/// Versions with the verbs that they have beyond ADD, DEL and VERSION.
const VERSIONS: [(&str, &[&str]); 5] = [
    ("0.3.0", &[]),
    ("0.3.1", &[]),
    ("0.4.0", &["CHECK"]),
    ("1.0.0", &["CHECK"]),
    ("1.1.0", &["CHECK", "STATUS", "GC"]),
];

/// `ip` in the pod's namespace.
fn inside(call: &Call, words: &str) {
    let done = Command::new("nsenter")
        .arg(format!("--net={}", call.netns.display()))
        .arg("ip")
        .args(words.split(' '))
        .status();
    assert!(done.expect("nsenter runs").success(), "ip {words}");
}

fn valid(calls: &[&Call]) -> Value {
    let attachment = |call: &&Call| json!({"containerID": call.container, "ifname": "eth0"});
    calls.iter().map(attachment).collect()
}

#[test]
fn every_version_keeps_its_promises() {
    let Some(mut node) = Node::start("spec", &manifests(2)) else {
        return;
    };
    let before = node.traces();
    for (version, verbs) in VERSIONS {
        let call = node.call(version, "c0", "p0");
        let added = call.run("ADD").good();
        assert_eq!(added["cniVersion"], version);
        let again = call.run("ADD").good();
        assert_eq!(added, again, "{version}: the same attachment again");
        let result = call.with(|conf| conf["prevResult"] = added.clone());
        let checked = result.run("CHECK");
        assert_eq!(
            checked.ok,
            verbs.contains(&"CHECK"),
            "{version}: {checked:?}"
        );
        for verb in ["STATUS", "GC"] {
            let asked = call.with(|conf| conf["cni.dev/valid-attachments"] = valid(&[&call]));
            let done = asked.run(verb);
            assert_eq!(done.ok, verbs.contains(&verb), "{version} {verb}: {done:?}");
            assert!(
                done.ok || done.body["code"] == 1,
                "{version} {verb}: {done:?}"
            );
        }
        // With everything a runtime knows, then with what is left after a reboot.
        result.run("DEL").good();
        let mut bare = call.clone();
        bare.netns = "".into();
        bare.run("DEL").good();
        let gone = result.run("CHECK");
        assert!(!gone.ok, "{version}: {gone:?}");
        node.until_clean(&before);
    }
}

#[test]
fn check_sees_what_is_no_longer_as_it_was() {
    let Some(mut node) = Node::start("check", &manifests(1)) else {
        return;
    };
    // What somebody does to the pod, and what CHECK says of it.
    for (number, (harm, told)) in [
        ("link set eth0 down", "down"),
        ("link set eth0 mtu 1300", "MTU"),
        ("link set eth0 address 02:00:00:00:00:99", "MAC"),
        ("route del default", "route"),
        ("-6 route del default", "route"),
        ("address flush dev eth0", "address"),
        ("link set eth0 name eth7", "eth0"),
        ("link delete eth0", "eth0"),
    ]
    .into_iter()
    .enumerate()
    {
        let call = node.call("1.1.0", &format!("c{number}"), "p0");
        let added = call.run("ADD").good();
        let result = call.with(|conf| conf["prevResult"] = added.clone());
        result.run("CHECK").good();
        inside(&call, harm);
        let checked = result.run("CHECK");
        let words = checked.body["msg"].as_str().unwrap_or_default();
        assert!(!checked.ok && words.contains(told), "{harm}: {checked:?}");
        call.run("DEL").good();
        // What is no longer there at all is as good as deleted.
        netns::delete(&format!("{}-c{number}", node.name)).expect("delete");
        call.run("DEL").good();
    }
    assert_eq!(node.get("/v1/endpoint"), json!([]));
}

#[test]
fn status_and_gc_go_by_the_agent() {
    let Some(mut node) = Node::start("gc", &manifests(4)) else {
        return;
    };
    let before = node.traces();
    let calls: Vec<Call> = (0..4)
        .map(|n| node.call("1.1.0", &format!("c{n}"), &format!("p{n}")))
        .collect();
    for call in &calls {
        call.run("ADD").good();
    }
    calls[0].run("STATUS").good();
    let containers = |node: &Node| -> Vec<String> {
        let list = node.get("/v1/endpoint");
        let id = |e: &Value| e["status"]["external-identifiers"]["container-id"].clone();
        let mut ids: Vec<String> = list
            .as_array()
            .expect("list")
            .iter()
            .map(|e| id(e).to_string())
            .collect();
        ids.sort();
        ids
    };
    let kept = calls[0].with(|conf| {
        conf["cni.dev/valid-attachments"] = valid(&[&calls[1], &calls[2]]);
    });
    kept.run("GC").good();
    assert_eq!(containers(&node), [r#""c1""#, r#""c2""#]);
    kept.run("GC").good();
    node.kill_agent();
    let status = calls[0].run("STATUS");
    assert!(!status.ok && status.body["code"] == 50, "{status:?}");
    // Without an agent a DEL is written down, and GC is tried again.
    calls[1].run("DEL").good();
    let collected = kept.run("GC");
    assert!(
        !collected.ok && collected.body["code"] == 11,
        "{collected:?}"
    );
    node.start_agent(None);
    node.eventually("the DEL of c1 is carried out", |node| {
        containers(node) == [r#""c2""#]
    });
    calls[0].run("STATUS").good();
    calls[2].run("DEL").good();
    node.until_clean(&before);
}
