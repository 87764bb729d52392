//! Policy in a lab of two nodes: what each kind of rule allows and denies,
//! over TCP, UDP and ICMP, both families, seen at both ends and in the events.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::held::Held;
use crate::support::{How, Lab, at, eventually, lab, text, turn};

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
    command: [axon, lab, serve, 'tcp:8001-8007', 'udp:8001-8007']
    readinessProbe: {tcpSocket: {port: 8007}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {app: friend}}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ally, labels: {app: friend}}
spec: {nodeName: b, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: foe, labels: {app: foe}}
spec: {nodeName: b, containers: [{name: c, command: [sleep, infinity]}]}
";

use How::{Icmp, Tcp, Udp};

/// A policy and what comes of it: client, protocol, whether it gets through.
struct Case {
    name: &'static str,
    rules: &'static str,
    probes: &'static [(&'static str, How, bool)],
}

/// All of them are about ingress to the server.
const CASES: &[Case] = &[
    Case {
        name: "L3: by labels, from the same and from another node",
        rules: "ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]",
        probes: &[
            ("friend", Tcp(8001), true),
            ("friend", Icmp, true),
            ("ally", Tcp(8001), true),
            ("ally", Udp(8001), true),
            ("ally", Icmp, true),
            ("foe", Tcp(8001), false),
            ("foe", Udp(8001), false),
            ("foe", Icmp, false),
        ],
    },
    Case {
        name: "L4: by port and protocol, whoever it is",
        rules: "ingress: [{toPorts: [{ports: [{port: '8001', protocol: TCP}, {port: '8002', protocol: UDP}]}]}]",
        probes: &[
            ("friend", Tcp(8001), true),
            ("foe", Tcp(8001), true),
            ("foe", Udp(8002), true),
            ("ally", Tcp(8002), false),
            ("friend", Udp(8001), false),
            ("foe", Icmp, false),
        ],
    },
    Case {
        name: "L3 and L4 with a range of ports",
        rules: "ingress: [{fromEndpoints: [{matchLabels: {app: friend}}], \
                toPorts: [{ports: [{port: '8003', endPort: 8006, protocol: TCP}]}]}]",
        probes: &[
            ("friend", Tcp(8003), true),
            ("ally", Tcp(8006), true),
            ("ally", Tcp(8002), false),
            ("friend", Tcp(8007), false),
            ("ally", Udp(8004), false),
            ("foe", Tcp(8004), false),
        ],
    },
    Case {
        name: "deny wins over allow",
        rules: "ingress: [{fromEntities: [all]}]\n  \
                ingressDeny: [{fromEndpoints: [{matchLabels: {app: foe}}], \
                toPorts: [{ports: [{port: '8001', protocol: TCP}]}]}]",
        probes: &[
            ("foe", Tcp(8002), true),
            ("foe", Icmp, true),
            ("foe", Udp(8001), true),
            ("ally", Tcp(8001), true),
            ("node:outside", Tcp(8001), true),
            ("foe", Tcp(8001), false),
        ],
    },
    Case {
        name: "deny of peers wins for every protocol",
        rules: "ingress: [{fromEntities: [all]}]\n  \
                ingressDeny: [{fromEndpoints: [{matchLabels: {app: foe}}]}, \
                {fromCIDR: [198.51.100.0/28, '2001:db8::/124']}]",
        probes: &[
            ("friend", Tcp(8001), true),
            ("ally", Udp(8001), true),
            ("ally", Icmp, true),
            ("foe", Tcp(8001), false),
            ("foe", Udp(8001), false),
            ("foe", Icmp, false),
            ("node:outside", Tcp(8001), false),
            ("node:outside", Udp(8001), false),
            ("node:outside", Icmp, false),
        ],
    },
    Case {
        name: "entities: the cluster",
        rules: "ingress: [{fromEntities: [cluster]}]",
        probes: &[
            ("foe", Tcp(8001), true),
            ("node:b", Tcp(8001), true),
            ("node:outside", Tcp(8001), false),
            ("node:outside", Udp(8001), false),
        ],
    },
    Case {
        name: "entities: the world",
        rules: "ingress: [{fromEntities: [world]}]",
        probes: &[
            ("node:outside", Tcp(8001), true),
            ("node:outside", Icmp, true),
            ("ally", Tcp(8001), false),
            ("friend", Icmp, false),
        ],
    },
    Case {
        name: "CIDR: the world by its address",
        rules: "ingress: [{fromCIDR: [198.51.100.0/28, '2001:db8::/124']}]",
        probes: &[
            ("node:outside", Tcp(8001), true),
            ("node:outside", Udp(8001), true),
            ("ally", Tcp(8001), false),
        ],
    },
    Case {
        name: "CIDR: another one, and one with an exception",
        rules: "ingress: [{fromCIDR: [192.0.2.0/24, '2001:db8:1::/48']}, \
                {fromCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.0/28]}, \
                {cidr: '2001:db8::/64', except: ['2001:db8::/124']}]}]",
        probes: &[
            ("node:outside", Tcp(8001), false),
            ("node:outside", Icmp, false),
        ],
    },
];

#[test]
fn each_kind_of_rule_at_both_ends_and_in_the_events() {
    let _turn = turn();
    let Some(lab) = lab("policy", CLUSTER) else {
        return;
    };
    let world = "node:outside";
    let open = [
        ("foe", Tcp(8001), true),
        ("ally", Icmp, true),
        (world, Udp(8001), true),
    ];
    check(&lab, "without any policy", &open);
    for case in CASES {
        lab.apply(&policy(case.rules));
        check(&lab, case.name, case.probes);
    }
    lab.delete(&policy(CASES[0].rules));
    check(&lab, "without any policy again", &open);
    kubernetes_policy(&lab);
    egress(&lab);
    established_connections_are_cut(&lab);
}

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: e2e}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: server}}}}\n  {rules}\n"
    )
}

fn kubernetes_policy(lab: &Lab) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: k8s}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 8003, endPort: 8004}]
";
    lab.apply(policy);
    let probes = [
        ("ally", Tcp(8004), true),
        ("ally", Tcp(8005), false),
        ("foe", Tcp(8003), false),
        ("friend", Udp(8003), false),
    ];
    check(lab, "a NetworkPolicy", &probes);
    lab.delete(policy);
}

/// Egress of a client, decided on its own node.
fn egress(lab: &Lab) {
    let policy = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: egress}
spec:
  endpointSelector: {matchLabels: {app: foe}}
  egress:
  - toEndpoints: [{matchLabels: {app: server}}]
    toPorts: [{ports: [{port: '8001', protocol: ANY}]}]
";
    lab.apply(policy);
    let probes = [
        ("foe", Tcp(8001), true),
        ("foe", Udp(8001), true),
        ("foe", Tcp(8002), false),
        ("foe", Icmp, false),
        ("ally", Tcp(8002), true),
    ];
    check(lab, "egress", &probes);
    lab.delete(policy);
}

/// Tries everything over both families, at once, and compares what the client
/// got, what the server saw, and what the events tell.
fn check(lab: &Lab, name: &str, probes: &[(&str, How, bool)]) {
    let mut running = Vec::new();
    let seen_before = lab.log("server");
    for (client, how, expected) in probes {
        for v6 in [false, true] {
            let to = lab.pod_ip("server", v6);
            let what = format!("{name}: {client} {how:?} to {to}");
            running.push((
                what,
                lab.client(client, *how, &to, *expected),
                *client,
                *how,
                v6,
                *expected,
            ));
        }
    }
    let mut flows_wanted = Vec::new();
    for (what, child, client, how, v6, expected) in running {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(
            output.status.success(),
            expected,
            "{what}: {}",
            text(&output)
        );
        flows_wanted.push((what, client, how, v6, expected));
    }
    let log = lab.log("server");
    let log = log.strip_prefix(&seen_before).expect("logs only grow");
    for (what, client, how, v6, expected) in &flows_wanted {
        if let Some(word) = log_word(*how) {
            let ips = addresses(lab, client, *v6);
            let seen = log.lines().filter_map(|line| line.strip_prefix(&word));
            let seen = seen
                .filter(|peer| ips.iter().any(|ip| peer.starts_with(ip)))
                .count();
            assert_eq!(seen > 0, *expected, "{what}: the server's log:\n{log}");
        }
        eventually(&format!("{what}: an event"), || {
            ["a", "b"].iter().any(|node| {
                let flows = lab.flows(node);
                flows
                    .iter()
                    .any(|flow| tells(flow, client, *how, *v6, *expected))
            })
        });
    }
}

/// How the server's log tells of a client; it knows nothing of ICMP.
fn log_word(how: How) -> Option<String> {
    match how {
        Tcp(port) => Some(format!("tcp {port} from ")),
        Udp(port) => Some(format!("udp {port} from ")),
        Icmp => None,
    }
}

/// How addresses of a client begin in a log, with the port after it.
fn addresses(lab: &Lab, client: &str, v6: bool) -> Vec<String> {
    let end = |ip: String| {
        if v6 {
            format!("[{ip}]:")
        } else {
            format!("{ip}:")
        }
    };
    match client {
        "node:outside" if v6 => (1..=4).map(|n| end(format!("2001:db8::{n}"))).collect(),
        "node:outside" => [
            "198.51.100.1",
            "198.51.100.2",
            "198.51.100.3",
            "198.51.100.4",
        ]
        .iter()
        .chain(&["203.0.113.1"])
        .map(|ip| end((*ip).to_owned()))
        .collect(),
        _ => match client.strip_prefix("node:") {
            Some(node) => vec![end(lab.node_ip(node, v6))],
            None => vec![end(lab.pod_ip(client, v6))],
        },
    }
}

/// Whether a flow tells of a probe and its verdict.
fn tells(flow: &Value, client: &str, how: How, v6: bool, expected: bool) -> bool {
    let from = &flow["source"];
    let from_client = match client {
        "node:outside" => is_labelled(from, "reserved:world"),
        _ if client.starts_with("node:") => {
            is_labelled(from, "reserved:remote-node") || is_labelled(from, "reserved:host")
        }
        _ => from["pod_name"] == client,
    };
    let l4 = &flow["l4"];
    let same = match how {
        Tcp(port) => l4["TCP"]["destination_port"] == port,
        Udp(port) => l4["UDP"]["destination_port"] == port,
        Icmp => !l4["ICMPv4"].is_null() || !l4["ICMPv6"].is_null(),
    };
    let verdict = &flow["verdict"];
    let judged = if expected {
        verdict == "FORWARDED"
    } else {
        let reason = &flow["drop_reason_desc"];
        verdict == "DROPPED" && (reason == "POLICY_DENIED" || reason == "POLICY_DENY")
    };
    let version = if v6 { "IPv6" } else { "IPv4" };
    from_client
        && flow["destination"]["pod_name"] == "server"
        && same
        && judged
        && flow["IP"]["ipVersion"] == version
}

fn is_labelled(endpoint: &Value, label: &str) -> bool {
    let labels = endpoint["labels"].as_array();
    labels
        .into_iter()
        .flatten()
        .any(|l| l.as_str().is_some_and(|l| l.starts_with(label)))
}

/// Connections that policy no longer allows end, those that it does stay.
/// What is asserted is the order of things; how long it took is printed.
fn established_connections_are_cut(lab: &Lab) {
    let families = [false, true];
    let to = |v6| at(&lab.pod_ip("server", v6), 8001);
    let cut = families.map(|v6| Held::open(lab, "foe", &to(v6), "2000"));
    let stay = families.map(|v6| Held::open(lab, "ally", &to(v6), "10000"));
    for held in cut.iter().chain(&stay) {
        held.goes_on();
    }
    lab.apply(&policy(
        "ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]",
    ));
    let enforced = Instant::now();
    for held in cut {
        let what = held.what().to_owned();
        let over = held.last_answer().map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(enforced)
        });
        println!("{what}: last answer {over:?} after enforcement");
    }
    for held in stay {
        held.goes_on();
        held.close();
    }
}
