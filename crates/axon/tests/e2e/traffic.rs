//! Packets between pods, nodes and the world, in a lab of two nodes.

use std::time::{Duration, Instant};

use crate::support::{How, Lab, PATIENCE, at, eventually, lab, text, turn};

const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: a}
spec: {podCIDRs: [10.77.1.0/24, 'fd77:1::/64']}
status: {addresses: [{type: InternalIP, address: 192.168.77.11}, {type: InternalIP, address: 'fd77::11'}]}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: serve
        command: [axon, lab, serve, 'http:80', 'tcp:7000', 'udp:7000']
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pa, labels: {app: client}}
spec: {nodeName: a, containers: [{name: c, command: [axon, lab, serve, 'tcp:7000', 'udp:7000']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pb, labels: {app: client}}
spec: {nodeName: b, containers: [{name: c, command: [axon, lab, serve, 'tcp:7000', 'udp:7000']}]}
";

#[test]
fn packets_find_their_way() {
    let _turn = turn();
    let Some(lab) = lab("traffic", CLUSTER) else {
        return;
    };
    assert!(
        lab.pod_ip("pa", false).starts_with("10.77.1."),
        "addresses come from the Node"
    );
    let mut hosts = Vec::new();
    for node in ["a", "b", "outside"] {
        let place = format!("node:{node}");
        hosts.push(lab.start(&place, &["axon", "lab", "serve", "tcp:7000", "udp:7000"]));
    }
    everyone_reaches_everyone(&lab);
    names(&lab);
    the_world_sees_the_node(&lab);
    the_agent_is_killed_under_traffic(&lab);
    for mut host in hosts {
        host.kill().expect("it is killed");
        host.wait().expect("it ends");
    }
}

/// The address of a place; the world has one of its own.
fn address(lab: &Lab, place: &str, v6: bool) -> String {
    match (place, v6) {
        ("node:outside", false) => "198.51.100.1".into(),
        ("node:outside", true) => "2001:db8::1".into(),
        _ => match place.strip_prefix("node:") {
            Some(node) => lab.node_ip(node, v6),
            None => lab.pod_ip(place, v6),
        },
    }
}

fn everyone_reaches_everyone(lab: &Lab) {
    let places = ["pa", "pb", "node:a", "node:b", "node:outside"];
    let mut running = Vec::new();
    for from in places {
        for to in places.into_iter().filter(|to| *to != from) {
            for v6 in [false, true] {
                for how in [How::Tcp(7000), How::Udp(7000), How::Icmp] {
                    running.push((from, to, v6, how));
                }
            }
        }
    }
    // The servers on nodes and outside have no probe: they are given time to start.
    for (from, to, v6, how) in running {
        let ip = address(lab, to, v6);
        eventually(&format!("{from} reaches {to} at {ip} by {how:?}"), || {
            let output = lab.client(from, how, &ip, false).wait_with_output();
            output.expect("it ends").status.success()
        });
    }
}

fn names(lab: &Lab) {
    for v6 in ["-4", "-6"] {
        for name in [
            "web",
            "web.default.svc.cluster.local",
            "web-1.default.pod.cluster.local",
        ] {
            let output = lab.run("pb", &["axon", "lab", "connect", "http", v6, name]);
            assert!(output.status.success(), "{name} {v6}: {}", text(&output));
            assert!(text(&output).starts_with("web-"), "{}", text(&output));
        }
    }
    let output = lab.run("pb", &["axon", "lab", "connect", "http", "nowhere"]);
    assert!(
        !output.status.success(),
        "a name that nobody has: {}",
        text(&output)
    );
}

/// Outside, a pod is its node; within configured prefixes it is itself.
fn the_world_sees_the_node(lab: &Lab) {
    let seen = |v6: bool| {
        let target = at(&address(lab, "node:outside", v6), 7100);
        let output = lab.run("pb", &["axon", "lab", "connect", "http", &target]);
        text(&output)
    };
    let mut server = lab.start("node:outside", &["axon", "lab", "serve", "http:7100"]);
    let sees = |v6: bool, ip: &str| {
        eventually(&format!("the world sees {ip}"), || {
            seen(v6).contains(&at(ip, 0)[..ip.len()])
        });
    };
    for v6 in [false, true] {
        sees(v6, &lab.node_ip("b", v6));
    }
    let config = "
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data: {ipv4-native-routing-cidr: 198.51.100.0/24, ipv6-native-routing-cidr: '2001:db8::/32'}
";
    lab.apply(config);
    for v6 in [false, true] {
        sees(v6, &lab.pod_ip("pb", v6));
    }
    lab.delete(config);
    server.kill().expect("it is killed");
    server.wait().expect("it ends");
}

/// No request fails while both agents are killed, and they come back at once.
fn the_agent_is_killed_under_traffic(lab: &Lab) {
    let mut clients = Vec::new();
    for (from, to) in [("pa", "pb"), ("pb", "pa"), ("pa", "node:outside")] {
        for v6 in [false, true] {
            let target = at(&address(lab, to, v6), 7000);
            for how in ["tcp", "udp"] {
                let args = ["axon", "lab", "connect", how, &target, "--count", "60"];
                let more = ["--interval-ms", "25", "--timeout-ms", "5000"];
                clients.push(lab.start(from, &[&args[..], &more[..]].concat()));
            }
            let args = [
                "axon", "lab", "connect", "tcp", &target, "--hold", "--count", "60",
            ];
            let more = ["--interval-ms", "25", "--timeout-ms", "5000"];
            clients.push(lab.start(from, &[&args[..], &more[..]].concat()));
        }
    }
    for _ in 0..2 {
        for node in ["a", "b"] {
            kill_agent(lab, node);
        }
    }
    for client in clients {
        let output = client.wait_with_output().expect("it ends");
        assert!(
            output.status.success(),
            "a request failed: {}",
            text(&output)
        );
    }
}

pub(crate) fn kill_agent(lab: &Lab, node: &str) {
    let pid = |lab: &Lab| lab.node(node)["agentPid"].as_u64();
    let old = pid(lab).expect("an agent");
    let killed = std::process::Command::new("kill")
        .args(["-9", &old.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let began = Instant::now();
    while pid(lab).is_none_or(|new| new == old) {
        assert!(began.elapsed() < PATIENCE, "node {node} has no new agent");
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("node {node}: a new agent after {:?}", began.elapsed());
    eventually("the agent answers", || {
        lab.try_ask(node, "/v1/healthz").is_ok()
    });
}
