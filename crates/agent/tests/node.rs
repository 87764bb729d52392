//! An agent on a node of its own: a network namespace, a bpffs, a directory of
//! manifests, and pods that really ping each other.
//!
//! Needs root. The agent is this very test binary, started again, so that it
//! can be killed.

mod bad;
#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::time::Duration;

use bench::{Bench, agent_process, is_root};
use serde_json::json;

/// Not a test of its own: the agent of the others, if they say so.
#[test]
fn agent() {
    agent_process();
}

const DENY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: lonely, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: nobody}}]
";

#[test]
fn endpoints_live_from_add_to_del_and_over_restarts() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("life");
    bench.manifest("base.yaml", &bench.base(&["a", "b"]));
    bench.start();
    let a = bench.add("a");
    let b = bench.add("b");
    assert_ne!(a["ipv4"], b["ipv4"]);
    let again = bench.add("a");
    assert_eq!(a, again, "the same attachment is the same endpoint");
    for family in ["ipv4", "ipv6"] {
        let address = b[family].as_str().expect("address").to_owned();
        bench.until(&format!("a reaches b by {family}"), |bench| {
            bench.ping("a", &address)
        });
    }
    policy_cuts(&mut bench, &b);
    kill_loses_nothing(&mut bench, &b);
    queued_and_half_made(&mut bench, &a);
}

/// A policy file appears, and traffic stops; it goes, and traffic flows.
fn policy_cuts(bench: &mut Bench, b: &serde_json::Value) {
    let address = b["ipv4"].as_str().expect("address").to_owned();
    bench.manifest("deny.yaml", DENY);
    bench.until("policy cuts a from b", |bench| !bench.ping("a", &address));
    let drops = bench.get("/v1/monitor?last=10&verdict=DROPPED&to-pod=default/b");
    let first = drops.lines().next().expect("a drop is told");
    let flow: serde_json::Value = serde_json::from_str(first).expect("json");
    assert_eq!(flow["flow"]["drop_reason_desc"], "POLICY_DENIED", "{flow}");
    assert_eq!(flow["flow"]["source"]["pod_name"], "a", "{flow}");
    let metrics = bench.get("/v1/metrics");
    let dropped: Vec<&str> = metrics
        .lines()
        .filter(|l| l.contains("cilium_drop_count_total"))
        .collect();
    let counted = r#"cilium_drop_count_total{reason="Policy denied",direction="#;
    assert!(
        dropped.iter().any(|line| line.starts_with(counted)),
        "{dropped:?}"
    );
    bench.remove_manifest("deny.yaml");
    bench.until("a reaches b again", |bench| bench.ping("a", &address));
}

/// While the agent dies and comes back, no packet is lost, and it knows its
/// endpoints.
fn kill_loses_nothing(bench: &mut Bench, b: &serde_json::Value) {
    let address = b["ipv4"].as_str().expect("address").to_owned();
    let before = bench.get("/v1/endpoint");
    let pings = bench.pings("a", &address, 60, Duration::from_millis(50));
    bench.kill();
    bench.start();
    let report = pings.finish();
    assert!(report.contains("60 received"), "{report}");
    let ids = |text: &str| -> Vec<(u64, u64)> {
        let list: serde_json::Value = serde_json::from_str(text).expect("json");
        let of = |e: &serde_json::Value| {
            let identity = e["status"]["identity"]["id"].as_u64();
            (e["id"].as_u64().expect("id"), identity.expect("identity"))
        };
        list.as_array().expect("list").iter().map(of).collect()
    };
    assert_eq!(ids(&before), ids(&bench.get("/v1/endpoint")));
    bench.until("restored endpoints are ready", |bench| {
        bench
            .get("/v1/endpoint")
            .matches(r#""state":"ready""#)
            .count()
            == 2
    });
}

/// What happens while no agent is there is carried out by the next; what an
/// agent has half made is undone.
fn queued_and_half_made(bench: &mut Bench, a: &serde_json::Value) {
    let address = format!("{}/32", a["ipv4"].as_str().expect("address"));
    assert!(bench.get("/v1/map/ipcache").contains(&address));
    bench.stop();
    bench.queue_delete("a");
    bench.unfinish("b");
    assert!(bench.device_of("a").is_some() && bench.device_of("b").is_some());
    bench.start();
    bench.until("both endpoints are gone", |bench| {
        bench.get("/v1/endpoint") == "[]"
            && bench.device_of("a").is_none()
            && bench.device_of("b").is_none()
    });
    assert_eq!(
        bench.get("/v1/map/endpoint"),
        "[]",
        "no row is left in the kernel"
    );
    assert_eq!(bench.delete("a"), 200, "again is no error");
    let b = bench.add("b");
    assert_eq!(b["interface"], "eth0");
    assert_eq!(bench.delete("b"), 200);
    assert_eq!(bench.get("/v1/endpoint"), "[]");
}

/// An agent may die at any moment of an ADD: the next one leaves an endpoint
/// whole or nothing of it.
#[test]
fn killed_while_it_adds_it_leaves_wholes_or_nothing() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("kill");
    let pods = ["p0", "p1", "p2", "p3", "p4", "p5"];
    bench.manifest("base.yaml", &bench.base(&pods));
    for pod in pods {
        bench.pod_netns(pod);
    }
    for round in 0..4 {
        bench.start();
        let adding = bench.start_adding(&pods);
        std::thread::sleep(Duration::from_millis(10 + 35 * round));
        bench.kill();
        drop(adding.join());
    }
    bench.start();
    for pod in pods {
        let (recorded, device) = (bench.is_recorded(pod), bench.device_of(pod));
        assert_eq!(recorded, device.is_some(), "{pod}: record and device");
    }
    assert_eq!(
        bench.addresses_in_use(),
        2 * bench.records(),
        "no address is leaked"
    );
    let added = bench.start_adding(&pods).join().expect("adding");
    assert!(added.iter().all(|status| *status == 201), "{added:?}");
    for pod in pods {
        assert_eq!(bench.delete(pod), 200);
        assert!(bench.device_of(pod).is_none(), "{pod}");
    }
    assert_eq!((bench.records(), bench.addresses_in_use()), (0, 0));
    assert_eq!(bench.get("/v1/map/endpoint"), "[]");
}

#[test]
fn requests_that_make_no_sense_are_refused_with_reason_and_remedy() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("bad");
    bench.manifest("base.yaml", &bench.base(&["a"]));
    bench.start();
    let netns = bench.pod_netns("a");
    let good = json!({
        "container-id": "c", "interface": "eth0", "netns": netns,
        "namespace": "default", "pod-name": "a",
    });
    for (field, value, status, named) in [
        ("container-id", json!(""), 400, "container-id"),
        ("container-id", json!("a/b"), 400, "container-id"),
        ("interface", json!("much-too-long-name"), 400, "interface"),
        ("netns", json!("relative"), 400, "netns"),
        ("netns", json!("/run/netns/axt-none"), 500, "axt-none"),
        ("netns", json!(bench.node_netns()), 400, "the node's own"),
        ("namespace", json!(""), 400, "pod-name"),
        ("pod-name", json!("unknown"), 503, "default/unknown"),
        ("ips", json!(["192.0.2.9"]), 400, "192.0.2.9"),
        ("ips", json!(["10.77.0.8", "10.77.0.9"]), 400, "10.77.0.8"),
        ("ips-only", json!(true), 400, "without ips"),
        ("mtu", json!(100), 400, "mtu"),
        ("labels", json!(["app=x"]), 400, "labels"),
        ("colour", json!("red"), 400, "colour"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let (got, problem) = bench.request("PUT", "/v1/endpoint", Some(&body));
        assert_eq!(got, status, "{body}: {problem}");
        let problem: serde_json::Value = serde_json::from_str(&problem).expect("problem");
        let error = problem["error"].as_str().expect("error");
        assert!(error.contains(named), "{body}: {error}");
        assert_ne!(problem["remedy"], "", "{body}");
    }
    assert_eq!(
        bench.get("/v1/endpoint"),
        "[]",
        "nothing is left of what was refused"
    );
    for (method, path, status) in [
        ("GET", "/v1/endpoint/9", 404),
        ("GET", "/v1/endpoint/x", 400),
        ("GET", "/v1/identity/77777", 404),
        ("GET", "/v1/map/x", 404),
        ("GET", "/v2", 404),
        ("POST", "/v1/config", 405),
        ("GET", "/v1/monitor?colour=red", 400),
        ("GET", "/v1/endpoint/%ff", 400),
        ("GET", "/v1/map/%C3%28", 400),
    ] {
        let (got, problem) = bench.request(method, path, None);
        assert_eq!(got, status, "{method} {path}: {problem}");
        assert!(problem.contains("\"error\""), "{method} {path}: {problem}");
        assert!(problem.contains("\"remedy\""), "{method} {path}: {problem}");
    }
}

#[test]
fn a_pod_has_no_address_of_a_family_that_it_does_not_want() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("only");
    bench.manifest("base.yaml", &bench.base(&["a"]));
    bench.start();
    let mut body = json!({
        "container-id": "c", "interface": "eth0", "netns": bench.pod_netns("a"),
        "namespace": "default", "pod-name": "a",
    });
    for (ips, only, in_use) in [
        (json!(["10.77.0.8"]), true, 1),
        (json!(["10.77.0.8"]), false, 2),
    ] {
        body["ips"] = ips;
        body["ips-only"] = only.into();
        let (status, made) = bench.request("PUT", "/v1/endpoint", Some(&body));
        assert_eq!(status, 201, "{made}");
        let made: serde_json::Value = serde_json::from_str(&made).expect("json");
        assert_eq!(made["ipv4"], "10.77.0.8", "{made}");
        for field in ["ipv6", "ipv6-gateway"] {
            assert_eq!(made[field].is_null(), only, "{made}");
        }
        assert_eq!(bench.addresses_in_use(), in_use, "{made}");
        let gone = json!({"container-id": "c", "interface": "eth0"});
        let (status, _) = bench.request("DELETE", "/v1/endpoint", Some(&gone));
        assert_eq!(status, 200);
    }
}

/// Whoever switches forwarding off finds it on again, without anyone looking
/// at it now and then.
#[test]
fn a_node_goes_on_forwarding() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("fwd");
    bench.manifest("base.yaml", &bench.base(&[]));
    bench.start();
    for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        assert_eq!(bench.sysctl(&[setting]), "1", "{setting}");
        bench.sysctl(&["-w", &format!("{setting}=0")]);
        bench.until(&format!("{setting} is on again"), |bench| {
            bench.sysctl(&[setting]) == "1"
        });
    }
}

#[test]
fn an_agent_that_is_refused_leaves_no_socket() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("twice");
    bench.manifest("base.yaml", &bench.base(&[]));
    bench.start();
    let (status, log) = bench.second("second");
    assert!(!status.success(), "{log}");
    assert!(log.contains("bpf"), "{log}");
    assert!(!bench.exists("second.sock"), "{log}");
    assert!(bench.get("/v1/healthz").contains("cilium"));
}
