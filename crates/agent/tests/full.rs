//! Maps that are full, on a node with small ones: the status names them, the
//! metrics count them, nothing opens, and room heals it. What a full map means
//! for packets, one by one, `crates/linux/tests/full.rs` tells. Needs root.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use axon_linux::netns;
use bench::{Bench, agent_process, is_root};
use serde_json::Value;

/// Not a test of its own: the agent of the others, if they say so.
#[test]
fn agent() {
    agent_process();
}

const CLOSED: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a}}, {matchLabels: {app: d}}]
";

/// A node on which a and d may reach b, and c may not.
fn node(name: &str, options: &[(&str, &str)]) -> Option<(Bench, String)> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    let mut bench = Bench::new(name);
    for (option, value) in options {
        bench.option(option, value);
    }
    let pods: Vec<String> = ('a'..='j').map(String::from).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    bench.manifest("base.yaml", &bench.base(&pods));
    bench.manifest("closed.yaml", CLOSED);
    bench.start();
    let b = ["a", "b", "c", "d"].map(|pod| v4(&bench.add(pod)))[1].clone();
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
    assert_eq!(bench.status("maps").0, "Ok");
    Some((bench, b))
}

fn v4(endpoint: &Value) -> String {
    endpoint["ipv4"].as_str().expect("an address").to_owned()
}

/// A probe that is not to be answered, for as long as a test takes.
struct Denied(bench::Pings);

impl Denied {
    fn probe(bench: &Bench, from: &str, to: &str) -> Self {
        // Ended by SIGINT, which has ping tell what it saw.
        Self(bench.pings(from, to, 100_000, Duration::from_millis(50)))
    }

    fn finish(self) {
        let report = self.0.interrupt();
        assert!(report.contains(" 0 received"), "it opened: {report}");
    }
}

fn pressure(bench: &Bench, map: &str) -> f64 {
    let name = format!("cilium_bpf_map_pressure{{map_name=\"{map}\"}}");
    bench.metric(&name).expect(&name)
}

fn failing(bench: &Bench) -> f64 {
    let name = "cilium_controllers_failing";
    bench.metric(name).expect(name)
}

fn is_healed(bench: &Bench) -> bool {
    let parts = ["datapath", "maps", "policy", "endpoints", "conntrack"];
    parts.iter().all(|part| bench.status(part).0 == "Ok") && failing(bench) == 0.0
}

/// The part `maps` warns of this map and says which option gives it room.
fn is_told(bench: &Bench, map: &str, option: &str) -> bool {
    let (state, text) = bench.status("maps");
    let remedy = bench.remedy("maps");
    state == "Warning" && text.contains(&format!("{map} holds ")) && remedy.contains(option)
}

/// A policy for `app` of so many rules on ports that have no neighbours, which
/// no shorter prefix can stand for.
fn ports(name: &str, app: &str, rule: &str, from: &str, count: u16) -> String {
    let mut text = format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: {app}}}}}
  {rule}:
"
    );
    let all: Vec<u16> = (0..count).map(|n| 1001 + 2 * n).collect();
    for ports in all.chunks(40) {
        let list: Vec<String> = ports
            .iter()
            .map(|port| format!("{{port: '{port}', protocol: UDP}}"))
            .collect();
        text.push_str(&format!(
            "  - fromEndpoints: [{{matchLabels: {{app: {from}}}}}]\n    toPorts: [{{ports: [{}]}}]\n",
            list.join(", ")
        ));
    }
    text
}

#[test]
fn policy_that_does_not_fit_is_told_and_opens_nothing() {
    let small = [("bpf-policy-map-max", "256")];
    let Some((mut bench, b)) = node("fullpol", &small) else {
        return;
    };
    let denied = Denied::probe(&bench, "c", &b);
    bench.manifest("wide.yaml", &ports("wide", "d", "ingress", "a", 4000));
    bench.until("the maps warn", |bench| {
        is_told(bench, "axon_policy_v1", "bpf-policy-map-max")
    });
    assert!(pressure(&bench, "axon_policy_v1") > 0.9);
    bench.until("what fits is in force", |bench| {
        bench.status("policy").0 == "Ok" && bench.status("endpoints").0 == "Ok"
    });

    // More is allowed: what is in force stays.
    bench.manifest("more.yaml", &ports("more", "b", "ingress", "c", 200));
    let overflow = "axon_policy_conditions{kind=\"overflow\"}";
    bench.until("status names the policy", |bench| {
        let (state, text) = bench.status("policy");
        state == "Failure" && text.contains("does not fit") && text.contains("holds 4096")
    });
    assert!(bench.metric(overflow) >= Some(1.0));
    bench.until("the log names the policy", |bench| {
        let log = bench.log();
        log.lines()
            .any(|line| line.contains("WARN") && line.contains("does not fit"))
    });
    let (state, text) = bench.status("endpoints");
    assert!(state == "Warning" && text.contains("fit"), "{text}");
    assert!(bench.ping("a", &b) && bench.ping("d", &b));

    // More is denied: nothing passes.
    bench.manifest("more.yaml", &ports("more", "b", "ingressDeny", "a", 200));
    bench.until("nothing passes", |bench| !bench.ping("a", &b));
    assert!(!bench.ping("d", &b));
    assert_eq!(bench.status("policy").0, "Failure");

    // Room: what was wanted is in force by itself.
    bench.remove_manifest("wide.yaml");
    bench.until("a reaches b again", |bench| bench.ping("a", &b));
    bench.until("it is told no more", is_healed);
    bench.until("nor in the log", |bench| {
        let log = bench.log();
        log.lines()
            .any(|line| line.contains("no longer so") && line.contains("does not fit"))
    });
    assert_eq!(bench.metric(overflow), None);
    assert!(pressure(&bench, "axon_policy_v1") < 0.8);

    // What is refused is told as well.
    bench.manifest("bad.yaml", &CLOSED.replace("fromEndpoints", "fromEndpoint"));
    bench.until("the log names the field", |bench| {
        let log = bench.log();
        log.lines()
            .any(|line| line.contains("bad.yaml") && line.contains("fromEndpoint"))
    });
    denied.finish();
}

#[test]
fn an_endpoint_that_does_not_fit_is_refused_and_others_go_on() {
    let Some((mut bench, b)) = node("fullend", &[("bpf-endpoint-map-max", "8")]) else {
        return;
    };
    let denied = Denied::probe(&bench, "c", &b);
    let allowed = bench.pings("a", &b, 100_000, Duration::from_millis(50));
    for pod in ["e", "f", "g", "h"] {
        bench.add(pod);
    }
    bench.until("the maps warn", |bench| {
        is_told(bench, "axon_endpoint_v1", "bpf-endpoint-map-max")
            && is_told(bench, "axon_address_v1", "bpf-endpoint-map-max")
    });
    assert_eq!(pressure(&bench, "axon_endpoint_v1"), 1.0);

    // Its ADD waits in vain, is told why, and leaves nothing.
    let adding = bench.start_adding(&["i"]);
    bench.until("status names the row", |bench| {
        let (state, text) = bench.status("datapath");
        state == "Failure" && text.contains("axon_endpoint_v1 is full at 8 of 8 entries")
    });
    assert!(failing(&bench) >= 1.0);
    assert_eq!(adding.join().expect("adding"), [503]);
    assert!(!bench.is_recorded("i") && bench.device_of("i").is_none());
    bench.until("the row is wanted no more", |bench| {
        bench.status("datapath").0 == "Ok" && failing(bench) == 0.0
    });

    // Room by one that goes, and by the option.
    assert_eq!(bench.delete("h"), 200);
    let i = v4(&bench.add("i"));
    bench.until("d reaches i", |bench| bench.ping("d", &i));
    bench.kill();
    bench.option("bpf-endpoint-map-max", "16");
    bench.start();
    assert!(bench.log().contains("is made anew"), "{}", bench.log());
    let h = v4(&bench.add("h"));
    bench.until("d reaches h", |bench| bench.ping("d", &h));
    bench.until("it is told no more", is_healed);
    let report = allowed.interrupt();
    assert!(report.contains(" 0% packet loss"), "{report}");

    // Too small for those that are there: some are cut off, none is open.
    bench.kill();
    bench.option("bpf-endpoint-map-max", "8");
    bench.start_only();
    bench.until("status names rows", |bench| {
        let (status, body) = bench.request("GET", "/v1/healthz", None);
        status == 200 && body.contains("axon_endpoint_v1 is full at 8 of 8 entries")
    });
    assert!(failing(&bench) >= 1.0);
    assert!(bench.status("endpoints").1.contains("regenerating"));
    bench.kill();
    bench.option("bpf-endpoint-map-max", "16");
    bench.start();
    bench.until("it is told no more", is_healed);
    assert!(bench.ping("a", &b) && bench.ping("d", &i) && bench.ping("d", &h));
    denied.finish();
}

/// A policy by which c may talk to the world, but not to these.
fn keep_from(addresses: &[String]) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: world, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: c}}}}
  egress:
  - toEntities: [world]
  egressDeny:
  - toCIDR: [{}]
",
        addresses.join(", ")
    )
}

#[test]
fn an_ipcache_without_room_makes_others_unknown_and_nobody_known() {
    let Some((mut bench, b)) = node("fullip", &[("bpf-ipcache-map-max", "256")]) else {
        return;
    };
    let denied = Denied::probe(&bench, "c", &b);
    // The world is at the other end of the uplink.
    let beyond = bench.pod_netns("world");
    bench.ip(&["link", "set", "up1", "netns", &bench.netns_name("world")]);
    for args in [
        &["addr", "add", "192.0.2.100/24", "dev", "up1"][..],
        &["addr", "add", "192.0.2.101/24", "dev", "up1"],
        &["addr", "add", "192.0.2.102/24", "dev", "up1"],
        &["link", "set", "up1", "up"],
    ] {
        let netns = format!("--net={}", beyond.display());
        let mut command = Command::new("nsenter");
        let done = command.arg(netns).arg("ip").args(args).status();
        assert!(done.expect("ip runs").success(), "{args:?}");
    }
    let (first, free, last) = ("192.0.2.100", "192.0.2.101", "192.0.2.102");
    bench.manifest("world.yaml", &keep_from(&[format!("{first}/32")]));
    bench.until("one of the world is out of reach", |bench| {
        !bench.ping("c", first) && bench.ping("c", free) && bench.ping("c", last)
    });
    let kept = Denied::probe(&bench, "c", first);

    // Three hundred more of which the last was open.
    let many: Vec<String> = (0..300)
        .map(|n| format!("198.51.{}.{}/32", 100 + n / 200, 1 + n % 200))
        .chain([first, last].map(|addr| format!("{addr}/32")))
        .collect();
    bench.manifest("world.yaml", &keep_from(&many));
    bench.until("status tells of rows", |bench| {
        let (state, text) = bench.status("datapath");
        let full = "axon_ipcache_v1 is full at 256 of 256 entries";
        state == "Failure" && text.contains(full) && text.contains("no row of its own")
    });
    assert!(is_told(&bench, "axon_ipcache_v1", "bpf-ipcache-map-max"));
    assert_eq!(pressure(&bench, "axon_ipcache_v1"), 1.0);
    assert_eq!(bench.metric("axon_ipcache_partial"), Some(1.0));
    // All of them, not just those that are named.
    assert!(failing(&bench) > 40.0, "{}", failing(&bench));
    let (state, text) = bench.status("policy");
    assert!(
        state == "Failure" && text.contains("the kernel's map holds 256"),
        "{text}"
    );
    assert!(!bench.ping("c", last), "what is to be denied is");
    assert!(!bench.ping("c", free), "without a row it is unknown");
    assert!(bench.ping("a", free), "without policy nobody asks");
    assert!(bench.ping("a", &b) && bench.ping("d", &b));

    bench.kill();
    bench.option("bpf-ipcache-map-max", "1024");
    bench.start();
    bench.until("the world is known again", |bench| bench.ping("c", free));
    assert!(!bench.ping("c", last));
    bench.until("it is told no more", is_healed);
    assert_eq!(bench.metric("axon_ipcache_partial"), Some(0.0));
    kept.finish();
    denied.finish();
}

/// A socket in a namespace.
fn socket(netns: &Path, address: &str) -> UdpSocket {
    let bound = netns::within_path(netns, || UdpSocket::bind((address, 0)));
    let socket = bound.expect("entered").expect("a socket");
    socket.set_nonblocking(true).expect("it does not wait");
    socket
}

/// Opens as many flows as there are ports.
fn flood(socket: &UdpSocket, to: &str) {
    let to: IpAddr = to.parse().expect("an address");
    for port in 2000..8000 {
        // No room in the device's queue is no room.
        let _ = socket.send_to(b"flow", SocketAddr::new(to, port));
    }
}

#[test]
fn connections_without_room_go_early_and_policy_stays() {
    let options = [
        ("bpf-ct-global-tcp-max", "1024"),
        ("bpf-ct-global-any-max", "1024"),
        ("bpf-ct-timeout-one-way-any", "5s"),
        ("conntrack-gc-interval", "1s"),
    ];
    let Some((mut bench, b)) = node("fullct", &options) else {
        return;
    };
    let denied = Denied::probe(&bench, "c", &b);
    let [a, c] = ["a", "c"].map(|pod| socket(&bench.pod_netns(pod), "0.0.0.0"));
    let server = socket(&bench.pod_netns("b"), &b);
    let probe = server.local_addr().expect("its address");
    let is_silent = || server.recv(&mut [0; 64]).is_err();

    // A quarter of the table is one endpoint's share.
    let refused = |bench: &Bench| {
        let text = bench.get("/v1/metrics");
        let reason = axon_abi::DropReason::CtMapInsertionFailed.text();
        text.lines()
            .any(|line| line.starts_with("cilium_drop_count") && line.contains(reason))
    };
    assert!(!refused(&bench));
    bench.until("new flows are refused", |bench| {
        flood(&a, &b);
        refused(bench)
    });
    assert!(pressure(&bench, "axon_ct4_v1") <= 0.5);
    assert!(bench.ping("d", &b), "others have their share");

    bench.kill();
    bench.option("bpf-ct-endpoint-max", "1000000");
    bench.start();
    let began = Instant::now();
    let mut opened = 0;
    bench.until("status tells that flows go early", |bench| {
        flood(&a, &b);
        let _ = c.send_to(b"probe", probe);
        opened += usize::from(!is_silent());
        let (state, text) = bench.status("conntrack");
        state == "Warning" && text.contains("axon_ct4_v1") && began.elapsed().as_secs() > 2
    });
    assert_eq!(opened, 0, "a probe of c came through");
    let remedy = bench.remedy("conntrack");
    assert!(remedy.contains("bpf-ct-global-tcp-max"), "{remedy}");
    let early = "axon_flows_removed_early_total{map_name=\"axon_ct4_v1\"}";
    assert!(bench.metric(early) > Some(0.0));
    bench.until("the table is nearly full", |bench| {
        flood(&a, &b);
        pressure(bench, "axon_ct4_v1") > 0.8
    });
    let capacity = "cilium_bpf_map_capacity{map_name=\"axon_ct4_v1\"}";
    assert_eq!(bench.metric(capacity), Some(2048.0));
    assert!(!bench.ping("c", &b) && bench.ping("d", &b));

    bench.until("it is told no more", is_healed);
    bench.until("the table has room", |bench| {
        pressure(bench, "axon_ct4_v1") < 0.2
    });
    let _ = a.send_to(b"probe", probe);
    bench.until("a is heard", |_| !is_silent());
    denied.finish();
}
