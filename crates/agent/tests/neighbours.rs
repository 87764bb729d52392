//! Firewalls and programs of others on the node: `axon status` names those that
//! stand in the way of pods' traffic, and what it says to do about them helps.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::io::Write;
use std::process::{Command, Stdio};

use axon_linux::{Datapath, DatapathConfig, Features, netns};
use bench::{Bench, agent_process, is_root};
use serde_json::Value;

/// Not a test of its own: the agent of the others, if they say so.
#[test]
fn agent() {
    agent_process();
}

/// A node with pods a and b; `None` where the tests cannot run.
fn node(name: &str) -> Option<(Bench, [String; 2])> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    let mut bench = Bench::new(name);
    bench.manifest("base.yaml", &bench.base(&["a", "b"]));
    bench.start();
    let addresses = ["a", "b"].map(|pod| {
        let endpoint = bench.add(pod);
        endpoint["ipv4"].as_str().expect("an address").to_owned()
    });
    Some((bench, addresses))
}

/// Runs a line of shell in the node's namespace, as its operator would.
fn operator(bench: &Bench, line: &str) {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", bench.node_netns().display()))
        .args(["sh", "-e"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(line.as_bytes()).expect("written");
    drop(input);
    assert!(child.wait().expect("it ends").success(), "{line}");
}

/// Waits for what the status says of neighbours.
fn says(bench: &mut Bench, state: &str, texts: &[&str]) {
    bench.until(&format!("{state} with {texts:?}"), |bench| {
        let (found, text) = bench.status("neighbours");
        found == state && texts.iter().all(|part| text.contains(part))
    });
}

/// What the status says is to be done about them.
fn remedy(bench: &Bench) -> String {
    let status: Value = serde_json::from_str(&bench.get("/v1/healthz")).expect("json");
    let text = status["parts"]["neighbours"]["remedy"].as_str();
    text.unwrap_or("").to_owned()
}

/// Does what the status says.
fn obey(bench: &Bench) {
    for part in remedy(bench).split("; ") {
        let commands = part.split(", or, if").next().expect("the first");
        operator(bench, commands);
    }
}

/// A device that is no uplink, with somebody behind it.
struct Far(String);

impl Far {
    const ADDRESS: &str = "10.99.0.2";

    fn new(bench: &Bench) -> Self {
        let name = format!("axt-far-{}", std::process::id());
        netns::create(&name).expect("a namespace");
        let far = Self(name);
        operator(
            bench,
            &format!(
                "ip link add far0 type veth peer name far1 netns {0}
                 ip addr add 10.99.0.1/24 dev far0
                 ip link set far0 up
                 ip -n {0} addr add {1}/24 dev far1
                 ip -n {0} link set far1 up
                 ip -n {0} route add default via 10.99.0.1",
                far.0,
                Self::ADDRESS
            ),
        );
        far
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = netns::delete(&self.0);
    }
}

const FORWARD: &str = "table inet firewall {
    chain forward { type filter hook forward priority 0; policy drop; }
}";
const INPUT: &str = "table ip guard {
    chain input { type filter hook input priority 0; policy drop; }
}";

#[test]
fn a_firewall_that_closes_is_named_where_pods_meet_it_and_the_remedy_helps() {
    let Some((mut bench, [_, b])) = node("closed") else {
        return;
    };
    let has_nft = Command::new("nft").arg("--version").output().is_ok();
    if !has_nft {
        println!("skipped: needs nft");
        return;
    }
    says(&mut bench, "Ok", &["no firewall that closes"]);

    operator(&bench, &format!("nft '{FORWARD}'"));
    let named = "chain forward of table inet firewall drops by policy";
    says(&mut bench, "Ok", &[named, "no pod's traffic passes it"]);
    assert!(bench.ping("a", &b));
    assert_eq!(remedy(&bench), "");

    let far = Far::new(&bench);
    says(
        &mut bench,
        "Warning",
        &[named, "those behind far0 send each other"],
    );
    assert!(!bench.ping("a", Far::ADDRESS), "the status is right");
    obey(&bench);
    says(&mut bench, "Ok", &[named, "has rules for lxc*"]);
    bench.until("the remedy helps", |bench| bench.ping("a", Far::ADDRESS));
    drop(far);

    operator(&bench, &format!("nft '{INPUT}'"));
    let named = "chain input of table ip guard drops by policy";
    says(&mut bench, "Warning", &[named, "to the node itself"]);
    assert!(!bench.ping("a", "192.0.2.1") && bench.ping("a", &b));
    obey(&bench);
    says(&mut bench, "Ok", &[named]);
    assert!(bench.ping("a", "192.0.2.1"));

    operator(&bench, "nft flush ruleset");
    says(&mut bench, "Ok", &["no firewall that closes"]);
}

#[test]
fn a_program_ahead_of_ours_is_named_until_it_goes() {
    if !Features::probe().has(Features::TCX) {
        println!("skipped: needs a kernel with tcx");
        return;
    }
    let Some((mut bench, _)) = node("ahead") else {
        return;
    };
    says(&mut bench, "Ok", &["no program of others"]);
    // Programs of another product, which attaches them as we do: before all others.
    let root = bench.path("other");
    let config = DatapathConfig {
        bpf_root: root.clone(),
        node: "other".to_owned(),
        devices: vec!["up0".to_owned()],
        ..DatapathConfig::default()
    };
    let other = netns::within_path(bench.node_netns(), || Datapath::open(&config));
    let other = other.expect("entered").expect("another datapath");
    for side in ["ingress", "egress"] {
        let text = format!("ahead of ours, whatever policy says, at the {side} of up0");
        says(&mut bench, "Warning", &["tcx program", "(id ", &text]);
    }
    let remedy = remedy(&bench);
    assert!(remedy.contains("bpftool link detach id "), "{remedy}");
    // Ours are still where they were.
    assert_eq!(bench.status("datapath").0, "Ok");
    drop(other);
    let clean = || axon_linux::cleanup(&root, true).map(drop);
    let cleaned = netns::within_path(bench.node_netns(), clean);
    cleaned.expect("entered").expect("clean");
    says(&mut bench, "Ok", &["no program of others"]);
    let _ = axon_linux::mount::unmount_tree(&root);
}
