//! What load balancers ask a node: health-check node ports, and kube-proxy's healthz.
//!
//! Needs root.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use axon_linux::{cgroup, netns};
use bench::{Bench, agent_process, is_root};
use serde_json::{Value, json};

/// The node's addresses, of both families.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HEALTHZ: u16 = 10_256;
/// Longer than any request may take to come.
const SOON: Duration = Duration::from_secs(60);

/// Not a test of its own: the agent of the others, if they say so.
#[test]
fn agent() {
    agent_process();
}

/// A cgroup that nobody is in: only its sockets are led, and ports kept free.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let mount = cgroup::mount_point().expect("a cgroup2 file system");
        let path = mount.join(format!("axt-{name}-{}", std::process::id()));
        cgroup::create(&path).expect("a cgroup");
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        cgroup::remove(&self.0).expect("removed");
    }
}

/// A node with a cgroup of its own, and addresses of both families.
fn begin(name: &str) -> Option<(Group, Bench)> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    let group = Group::new(name);
    let mut bench = Bench::new(name);
    bench.ip(&["addr", "add", "2001:db8::1/64", "dev", "up0", "nodad"]);
    bench.ip(&["link", "set", "lo", "up"]);
    bench.option("kube-proxy-replacement", "true");
    bench.option("cgroup-root", &group.0.display().to_string());
    bench.manifest("base.yaml", &bench.base(&[]));
    Some((group, bench))
}

/// A service for load balancers, with so many backends on the nodes n1 and n2.
fn service(name: &str, (policy, port): (&str, u16), backends: [usize; 2]) -> String {
    let mut endpoints = String::new();
    for (node, count) in ["n1", "n2"].into_iter().zip(backends) {
        for n in 1..=count {
            endpoints.push_str(&format!(
                "- {{addresses: [10.78.{}.{n}], nodeName: {node}}}\n",
                usize::from(node == "n2")
            ));
        }
    }
    let last = port % 100;
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.{last}
  clusterIPs: [10.96.0.{last}]
  externalTrafficPolicy: {policy}
  healthCheckNodePort: {port}
  ports: [{{name: http, port: 80, targetPort: 8080, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

/// What is answered at a port of the node: the status, the head and the body; none:
/// nobody listens there.
fn asked(bench: &Bench, address: &str, port: u16, path: &str) -> Option<(u16, String, Value)> {
    let to = SocketAddr::new(address.parse().expect("an address"), port);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\n\r\n")?;
        let mut text = String::new();
        // To its end: no connection stays.
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = netns::within_path(bench.node_netns(), ask)
        .expect("the node")
        .ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((
        code,
        head.to_owned(),
        serde_json::from_str(body).unwrap_or_default(),
    ))
}

/// The status and the number of backends that is told at a health-check node port, at
/// every address of the node.
fn told(bench: &Bench, port: u16) -> Option<(u16, u64)> {
    let told = NODE.map(|address| {
        let (code, head, body) = asked(bench, address, port, "/healthz")?;
        let here = body["localEndpoints"].as_u64()?;
        let weight = format!("x-load-balancing-endpoint-weight: {here}");
        assert!(head.contains(&weight), "{head}");
        Some((code, here))
    });
    assert_eq!(told[0], told[1], "one family says what the other does");
    told[0]
}

fn until_told(bench: &mut Bench, what: &str, port: u16, expected: Option<(u16, u64)>) {
    // One family may be asked before a change, the other after it.
    let is = |bench: &Bench, address| {
        let told = asked(bench, address, port, "/healthz");
        let told = told.map(|(code, _, body)| (code, body["localEndpoints"].as_u64()));
        told == expected.map(|(code, here)| (code, Some(here)))
    };
    bench.until(what, |bench| NODE.iter().all(|address| is(bench, address)));
    assert_eq!(told(bench, port), expected, "{what}");
}

#[test]
fn nodes_tell_how_many_backends_they_have() {
    let Some((_group, mut bench)) = begin("checks") else {
        return;
    };
    bench.manifest("web.yaml", &service("web", ("Local", 32_001), [1, 1]));
    bench.manifest("api.yaml", &service("api", ("Local", 32_002), [0, 2]));
    bench.start();
    until_told(&mut bench, "one is here", 32_001, Some((200, 1)));
    until_told(&mut bench, "none is here", 32_002, Some((503, 0)));
    let (_, head, body) = asked(&bench, NODE[0], 32_001, "/any/path").expect("an answer");
    let name = json!({"namespace": "default", "name": "web"});
    assert_eq!(body, json!({"service": name, "localEndpoints": 1}));
    assert!(head.contains("content-type: application/json"), "{head}");
    let (state, text) = bench.status("services");
    assert_eq!(state, "Ok", "{text}");
    assert!(text.ends_with("; 2 health-check node ports"), "{text}");

    bench.manifest("web.yaml", &service("web", ("Local", 32_001), [3, 1]));
    until_told(&mut bench, "more are here", 32_001, Some((200, 3)));
    bench.manifest("web.yaml", &service("web", ("Local", 32_001), [0, 1]));
    until_told(&mut bench, "they have gone", 32_001, Some((503, 0)));
    bench.manifest("web.yaml", &service("web", ("Local", 32_003), [2, 0]));
    until_told(&mut bench, "another port", 32_003, Some((200, 2)));
    until_told(&mut bench, "the port before is closed", 32_001, None);

    bench.kill();
    assert_eq!(told(&bench, 32_003), None, "nobody is there");
    bench.start();
    until_told(&mut bench, "the next agent", 32_003, Some((200, 2)));
    bench.manifest("web.yaml", &service("web", ("Cluster", 32_003), [2, 0]));
    until_told(&mut bench, "every node will do", 32_003, None);
    bench.remove_manifest("api.yaml");
    until_told(&mut bench, "the service is gone", 32_002, None);
    bench.stop();

    bench.manifest("web.yaml", &service("web", ("Local", 32_001), [1, 1]));
    for option in ["enable-health-check-nodeport", "kube-proxy-replacement"] {
        bench.option(option, "false");
        bench.start();
        assert_eq!(told(&bench, 32_001), None, "{option}");
        bench.stop();
        bench.option(option, "true");
    }
}

#[test]
fn a_port_that_somebody_has_is_told_and_tried_again() {
    let Some((_group, mut bench)) = begin("checks-taken") else {
        return;
    };
    bench.option("kube-proxy-replacement-healthz-bind-address", ":10256");
    let hold = |bench: &Bench, address: &'static str| {
        let held = netns::within_path(bench.node_netns(), || TcpListener::bind(address));
        held.expect("the node").expect("a listener")
    };
    // Also who is there for one family alone.
    let held = [hold(&bench, "0.0.0.0:32001"), hold(&bench, "[::1]:10256")];
    bench.manifest("web.yaml", &service("web", ("Local", 32_001), [1, 1]));
    bench.manifest("api.yaml", &service("api", ("Local", 32_002), [0, 2]));
    bench.start();
    until_told(&mut bench, "the other port", 32_002, Some((503, 0)));
    let own = format!("(process {}) listens there", std::process::id());
    bench.until("who has the ports is told", |bench| {
        let (state, text) = bench.status("services");
        let check = "health-check node port of Service default/web [::]:32001: ";
        let healthz = "kube-proxy-replacement-healthz-bind-address 0.0.0.0:10256: ";
        let both = text.contains(check) && text.contains(healthz);
        state == "Warning" && both && text.matches(&own).count() == 2
    });
    assert_eq!(bench.status("agent").0, "Ok");
    bench.manifest("api.yaml", &service("api", ("Local", 32_002), [1, 1]));
    until_told(&mut bench, "others go on", 32_002, Some((200, 1)));
    drop(held);
    until_told(&mut bench, "it is free", 32_001, Some((200, 1)));
    bench.until("all are open", |bench| bench.status("services").0 == "Ok");
    let (code, ..) = asked(&bench, NODE[1], HEALTHZ, "/healthz").expect("an answer");
    assert_eq!(code, 200);
    bench.stop();
}

#[test]
fn who_says_nothing_does_not_stay() {
    let Some((_group, mut bench)) = begin("checks-silent") else {
        return;
    };
    bench.manifest("web.yaml", &service("web", ("Local", 32_001), [1, 1]));
    bench.start();
    until_told(&mut bench, "it is told", 32_001, Some((200, 1)));
    // More than are let in at a time.
    let to = (NODE[0], 32_001);
    let silent = || {
        (0..300)
            .map(|_| TcpStream::connect(to))
            .collect::<Result<Vec<_>, _>>()
    };
    let silent = netns::within_path(bench.node_netns(), silent);
    let mut silent = silent.expect("the node").expect("connected");
    assert_eq!(told(&bench, 32_001), Some((200, 1)), "they make room");
    for stream in &mut silent {
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        // Ended, or reset.
        let ended = stream.read(&mut [0; 64]);
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|e| e.raw_os_error() == Some(104)));
    }
    bench.stop();
}

#[test]
fn healthz_is_as_kube_proxys() {
    let Some((_group, mut bench)) = begin("checks-healthz") else {
        return;
    };
    bench.option(
        "kube-proxy-replacement-healthz-bind-address",
        "0.0.0.0:10256",
    );
    bench.manifest("web.yaml", &service("web", ("Cluster", 32_001), [1, 1]));
    bench.start();
    let healthz = |bench: &Bench, address| asked(bench, address, HEALTHZ, "/healthz");
    for address in NODE {
        let (code, head, body) = healthz(&bench, address).expect("an answer");
        assert_eq!(code, 200, "{body}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let of = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        assert!(of("currentTime").ends_with(" +0000 UTC"), "{body}");
        assert_eq!(of("lastUpdated"), of("currentTime"));
        let (code, ..) = asked(&bench, address, HEALTHZ, "/").expect("an answer");
        assert_eq!(code, 404);
    }
    // The disk takes no numbers: changes do not reach the kernel.
    let paths = ["services.json", "services.changes"].map(|file| bench.path("state").join(file));
    for path in &paths {
        if path.exists() {
            fs::remove_file(path).expect("removed");
        }
        fs::create_dir_all(path.join("in-the-way")).expect("a directory");
    }
    bench.manifest("api.yaml", &service("api", ("Cluster", 32_002), [1, 1]));
    let is = |bench: &Bench, code| {
        NODE.iter()
            .all(|at| healthz(bench, at).is_some_and(|a| a.0 == code))
    };
    bench.until("services are behind", |bench| is(bench, 503));
    let (_, _, body) = healthz(&bench, NODE[0]).expect("an answer");
    let of = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    assert!(of("lastUpdated") < of("currentTime"), "{body}");
    for path in &paths {
        fs::remove_dir_all(path).expect("out of the way");
    }
    bench.until("they are in force", |bench| is(bench, 200));
    bench.stop();
}
