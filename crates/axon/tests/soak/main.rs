//! The agent is killed and exchanged again and again, and nobody notices.
//!
//! ```text
//!  client ── streams, echoes, new connections ──> server, outside     all answered, in order
//!  outsider, client at a closed port ──> server                       never answered, over a
//!                                                                     downgrade of layouts too
//!  this test ── kill -9, exchange of the binary ──> the node's agent
//! ```
//!
//! `AXON_SOAK_KILLS`, `AXON_SOAK_EXCHANGES` (for a binary with other kernel
//! programs), `AXON_SOAK_LAYOUTS` (for one with other map layouts, and back)
//! and `AXON_SOAK_STREAMS` say how much of it; `make soak` does it all.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its part")]
mod common;
#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "each test uses its part")]
mod support;

mod agent;
mod traffic;

use std::time::{Duration, Instant};

use agent::{Agent, Variant};
use common::{axon, plugin};
use support::{Lab, lab_of, text};
use traffic::Traffic;

const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  containers:
  - name: c
    command: [axon, lab, serve, 'tcp:7000-7001', 'udp:7000-7001']
    readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {app: client}}, spec: {containers: [{name: c, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: outsider, labels: {app: outsider}}, spec: {containers: [{name: c, command: [sleep, infinity]}]}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: '7000', protocol: TCP}, {port: '7000', protocol: UDP}]}]
";

fn wanted(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

#[test]
fn agents_come_and_go_and_nobody_notices() {
    let kills = wanted("AXON_SOAK_KILLS", 4);
    let exchanges = wanted("AXON_SOAK_EXCHANGES", 2);
    let layouts = wanted("AXON_SOAK_LAYOUTS", 0);
    let streams = wanted("AXON_SOAK_STREAMS", 64);
    // Before anything runs: what is built takes long.
    for (wanted, variant) in [(exchanges, Variant::Other), (layouts, Variant::NextLayout)] {
        if wanted > 0 {
            variant.build();
        }
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Away from the build: what an agent is started from is exchanged.
    let plugin = plugin();
    for (from, to) in [(axon(), "axon"), (plugin, "axon-cni")] {
        std::fs::copy(&from, dir.path().join(to)).unwrap_or_else(|e| panic!("{from:?}: {e}"));
    }
    let place = dir.path().join("axon");
    let Some(lab) = lab_of(&place, "soak", CLUSTER) else {
        return;
    };
    let mut outside = lab.start(
        "node:outside",
        &["axon", "lab", "serve", "tcp:7000", "udp:7000"],
    );
    // It tells of every datagram, and would wait for somebody who listens.
    let mut told = outside.stdout.take().expect("a pipe");
    std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
    let mut agent = Agent::new(&lab, place);
    let before = agent.endpoints();
    let mut traffic = Traffic::start(&lab, streams);
    let started = Instant::now();
    let mut done = 0;
    // Exchanges are spread over the kills, so that each meets the other.
    for turn in 0..exchanges.max(1) {
        let until = kills * (turn + 1) / exchanges.max(1);
        for kill in done..until {
            agent.kill(kill);
        }
        done = until;
        if turn < exchanges {
            // Verifying the programs takes a second or several.
            let cut = [Some(300), None, Some(900), Some(1800)][turn % 4].map(Duration::from_millis);
            agent.exchange([Variant::Other, Variant::Same][turn % 2], cut);
        }
    }
    agent.settle();
    let mut report = format!(
        "{kills} kills and {exchanges} exchanges in {:.1} s; the agent answered after {}",
        started.elapsed().as_secs_f64(),
        agent.recoveries()
    );
    if layouts > 0 {
        agent.exchange(Variant::NextLayout, None);
        assert!(agent.has_pin("axon_ct4_v2") && !agent.has_pin("axon_ct4_v1"));
        report.push_str("; layouts changed");
    }
    assert_eq!(before, agent.endpoints(), "endpoints and their addresses");
    traffic.finish_answered();
    println!("{report}\n{}", traffic.counts());
    if layouts > 0 {
        back_to_the_old_layout(&lab, &mut agent, &traffic);
    }
    assert_eq!(before, agent.endpoints(), "endpoints and their addresses");
    println!("{} probes in all, all denied", traffic.finish().denied());
    outside.kill().expect("it is killed");
    outside.wait().expect("it ends");
}

/// An older version rebuilds what it can, and says what it could not take along.
/// Meanwhile connections may be forgotten, and nothing opens: `probes` go on.
fn back_to_the_old_layout(lab: &Lab, agent: &mut Agent<'_>, probes: &Traffic) {
    let before = probes.counts().denied();
    agent.exchange(Variant::Same, None);
    assert!(probes.counts().denied() > before, "nobody probed meanwhile");
    assert!(agent.has_pin("axon_ct4_v1") && !agent.has_pin("axon_ct4_v2"));
    let log = text(&lab.axon(&["logs", "n"]));
    assert!(log.contains("axon_ct4_v2"), "it says what it let go: {log}");
    let traffic = Traffic::start(lab, 4);
    std::thread::sleep(Duration::from_secs(1));
    println!("after the downgrade: {}", traffic.finish());
}
