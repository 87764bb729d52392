//! The host firewall in a lab of two nodes: what policy says of the node itself,
//! with real packets, over an agent that ends, is killed, and starts from
//! nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::cold::{self, Away, Spoilt};
use crate::held::Held;
use crate::support::{How, Lab, at, eventually, lab, text, turn};

use How::{Icmp, Tcp, Udp};

pub(crate) const CLUSTER: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data: {enable-host-firewall: 'true', policy-deny-response: icmp}
---
{apiVersion: v1, kind: Node, metadata: {name: a, labels: {pool: edge}}}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: a
  containers: [{name: c, command: [axon, lab, serve, 'tcp:8001-8002', 'udp:8001']}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
  nodeName: b
  containers: [{name: c, command: [axon, lab, serve, 'tcp:8001-8002', 'udp:8001']}]
";

pub(crate) const WORLD: &str = "node:outside";
/// A port of the node, open to the cluster.
pub(crate) const SERVED: u16 = 8001;
/// A port of the node that no rule opens.
pub(crate) const SHUT: u16 = 8002;
/// An agent after a reboot.
const COLD: &str = "an agent that starts from nothing";
/// A port that no policy closes.
pub(crate) const SSH: u16 = 22;

pub(crate) fn policy(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: host}}\n\
         spec:\n  nodeSelector: {{matchLabels: {{pool: edge}}}}\n  {rules}\n"
    )
}

pub(crate) const INGRESS: &str = "ingress: [{fromEntities: [cluster], \
                       toPorts: [{ports: [{port: '8001', protocol: TCP}]}]}]";
pub(crate) const EGRESS: &str = "egress: [{toEntities: [cluster], \
                      toPorts: [{ports: [{port: '8001', protocol: TCP}]}]}]";
pub(crate) const DENY: &str = "ingressDeny: [{fromEntities: [all]}]";

/// A client, whom it calls, how, and whether it gets through.
pub(crate) type Probe = (&'static str, &'static str, How, bool);

/// What holds while [`INGRESS`] is in force.
pub(crate) const GUARDED: &[Probe] = &[
    ("node:b", "node:a", Tcp(SERVED), true),
    ("far", "node:a", Tcp(SERVED), true),
    ("web", "node:a", Tcp(SERVED), true),
    (WORLD, "node:a", Tcp(SSH), true),
    (WORLD, "node:a", Tcp(SERVED), false),
    ("node:b", "node:a", Tcp(SHUT), false),
    ("node:b", "node:a", Udp(SERVED), false),
    ("node:b", "node:a", Icmp, false),
    ("far", "node:a", Tcp(SHUT), false),
    ("web", "node:a", Tcp(SHUT), false),
    ("web", "node:a", Icmp, false),
    // What is not for the node, or not for this one.
    (WORLD, "web", Tcp(SHUT), true),
    ("far", "web", Udp(SERVED), true),
    ("web", "far", Tcp(SHUT), true),
    ("web", "node:b", Tcp(SHUT), true),
    (WORLD, "node:b", Tcp(SHUT), true),
    // What the node itself opens.
    ("node:a", "node:b", Tcp(SHUT), true),
    ("node:a", WORLD, Udp(SERVED), true),
    ("node:a", "web", Tcp(SHUT), true),
    ("node:a", "far", Icmp, true),
];

const OPEN: &[Probe] = &[
    (WORLD, "node:a", Tcp(SERVED), true),
    ("node:b", "node:a", Udp(SERVED), true),
    ("web", "node:a", Tcp(SHUT), true),
    ("node:a", "node:b", Tcp(SHUT), true),
    ("node:b", "node:a", Icmp, true),
];

const KEPT_IN: &[Probe] = &[
    ("node:a", "node:b", Tcp(SERVED), true),
    ("node:a", "far", Tcp(SERVED), true),
    ("node:a", "web", Tcp(SERVED), true),
    ("node:a", WORLD, Tcp(SERVED), false),
    ("node:a", "node:b", Tcp(SHUT), false),
    ("node:a", "node:b", Icmp, false),
    ("node:a", "far", Tcp(SHUT), false),
    ("node:a", "far", Udp(SERVED), false),
    ("node:a", "web", Tcp(SHUT), false),
    ("web", WORLD, Tcp(SERVED), true),
    (WORLD, "node:a", Tcp(SHUT), true),
    ("web", "node:a", Icmp, true),
];

const DENIED: &[Probe] = &[
    (WORLD, "node:a", Tcp(SSH), true),
    (WORLD, "node:a", Tcp(SERVED), false),
    ("node:b", "node:a", Tcp(SERVED), false),
    ("web", "node:a", Tcp(SERVED), false),
    ("node:a", "node:b", Tcp(SHUT), true),
    (WORLD, "web", Tcp(SHUT), true),
];

/// A UDP port of the node that no rule opens, and that nobody else calls.
const WATCHED: u16 = 8003;

/// Servers of nodes' own; gone when dropped.
pub(crate) struct Servers {
    children: Vec<Child>,
    /// Datagrams to [`WATCHED`] from elsewhere that the first node's server has got.
    heard: Arc<AtomicUsize>,
    /// As many as that before the node's own last one, which is not counted.
    before_own: Arc<AtomicUsize>,
}

impl Servers {
    pub(crate) fn start(lab: &Lab) -> Self {
        let serve = ["axon", "lab", "serve", "tcp:8001-8002", "tcp:22"];
        let serve = [&serve[..], &["udp:8001", "udp:8003"]].concat();
        let places = ["node:a", "node:b", WORLD];
        let mut children = places.map(|place| lab.start(place, &serve));
        let (heard, before_own) = Default::default();
        let output = BufReader::new(children[0].stdout.take().expect("piped"));
        let (count, mark): (Arc<AtomicUsize>, Arc<AtomicUsize>) =
            (Arc::clone(&heard), Arc::clone(&before_own));
        std::thread::spawn(move || {
            let word = format!("udp {WATCHED} from ");
            for line in output.lines().map_while(Result::ok) {
                match line.strip_prefix(&word) {
                    Some(peer) if peer.starts_with("127.") => {
                        mark.store(count.load(Ordering::Acquire), Ordering::Release);
                    }
                    Some(_) => {
                        count.fetch_add(1, Ordering::AcqRel);
                    }
                    None => {}
                }
            }
        });
        Self {
            children: children.into(),
            heard,
            before_own,
        }
    }

    /// Has the node call itself, and tells how many datagrams from elsewhere it had
    /// got by then: what comes later is sent later.
    fn mark(&self, lab: &Lab) -> usize {
        self.before_own.store(usize::MAX, Ordering::Release);
        let script = format!("echo x > /dev/udp/127.0.0.1/{WATCHED}");
        let done = lab.run("node:a", &["bash", "-c", &script]);
        assert!(done.status.success(), "{}", text(&done));
        let marked = || self.before_own.load(Ordering::Acquire);
        eventually("the node hears itself", || marked() != usize::MAX);
        marked()
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::Acquire)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn policy_holds_for_the_node_itself() {
    let _turn = turn();
    let Some(lab) = lab("host", CLUSTER) else {
        return;
    };
    let servers = Servers::start(&lab);
    eventually("the servers of the nodes answer", || {
        ["node:b", WORLD]
            .iter()
            .all(|place| passes(&lab, (*place, "node:a", Tcp(SHUT), true), false))
    });
    check(&lab, "without a policy", OPEN);
    lab.apply(&policy(INGRESS));
    check(&lab, "ingress", GUARDED);
    the_node_is_shown(&lab);
    it_is_told(&lab);
    for (name, end) in [
        ("an agent that ends", Some(end as fn(&Lab))),
        ("an agent that is killed", Some(kill)),
        (COLD, None),
    ] {
        no_window(&lab, &servers, name, end);
        check(&lab, name, GUARDED);
    }
    lab.apply(&policy(EGRESS));
    check(&lab, "egress", KEPT_IN);
    a_connection_is_cut(&lab);
    check(&lab, "a deny of everybody", DENIED);
    lab.delete(&policy(DENY));
    check(&lab, "without a policy again", OPEN);
    a_pod_is_told_of_its_policy(&lab);
    what_is_not_confirmed_is_taken_back(&lab);
}

/// The address by which a place is called.
fn address(lab: &Lab, place: &str, v6: bool) -> String {
    match place.strip_prefix("node:") {
        Some("outside") if v6 => "2001:db8::1".to_owned(),
        Some("outside") => "198.51.100.1".to_owned(),
        Some(node) => lab.node_ip(node, v6),
        None => lab.pod_ip(place, v6),
    }
}

pub(crate) fn passes(lab: &Lab, (from, to, how, expected): Probe, v6: bool) -> bool {
    let client = lab.client(from, how, &address(lab, to, v6), expected);
    client.wait_with_output().expect("it ends").status.success()
}

/// Tries everything over both families, at once.
pub(crate) fn check(lab: &Lab, name: &str, probes: &[Probe]) {
    let mut running = Vec::new();
    for (from, to, how, expected) in probes {
        for v6 in [false, true] {
            let ip = address(lab, to, v6);
            let client = lab.client(from, *how, &ip, *expected);
            running.push((
                format!("{name}: {from} {how:?} to {to} ({ip})"),
                client,
                expected,
            ));
        }
    }
    for (what, client, expected) in running {
        let output = client.wait_with_output().expect("it ends");
        assert_eq!(
            output.status.success(),
            *expected,
            "{what}: {}",
            text(&output)
        );
    }
}

fn json(lab: &Lab, path: &str) -> Value {
    serde_json::from_str(&lab.ask("a", path)).expect("JSON")
}

/// The node is among its endpoints, and its policy among the policies.
fn the_node_is_shown(lab: &Lab) {
    let endpoints = json(lab, "/v1/endpoint");
    let all = endpoints.as_array().expect("a list").iter();
    let hosts: Vec<&Value> = all.filter(|e| e["status"]["identity"]["id"] == 1).collect();
    let [host] = hosts.as_slice() else {
        panic!("one endpoint is the node: {endpoints}");
    };
    let status = &host["status"];
    assert_eq!(status["state"], "ready", "{host}");
    assert_eq!(status["policy"]["ingress-enforced"], true, "{host}");
    assert_eq!(status["policy"]["egress-enforced"], false, "{host}");
    let labels = status["identity"]["labels"].to_string();
    assert!(
        labels.contains("reserved:host") && labels.contains("pool"),
        "{labels}"
    );
    let one = json(lab, &format!("/v1/endpoint/{}", host["id"]));
    assert_eq!(one, **host);
    let policy = json(lab, "/v1/policy");
    let sets = policy["sets"].as_array().expect("a list");
    let of_host = sets.iter().any(|set| {
        let endpoints = set["endpoints"].as_array().expect("a list");
        endpoints.contains(&host["id"]) && set["policies"].to_string().contains("host")
    });
    assert!(of_host, "{policy}");
}

/// Drops and verdicts name the node, and the counters have them.
fn it_is_told(lab: &Lab) {
    let flows = lab.flows("a");
    let of_port = |flow: &&Value| flow["l4"]["TCP"]["destination_port"] == SHUT;
    let dropped = flows.iter().filter(of_port).any(|flow| {
        flow["verdict"] == "DROPPED"
            && flow["drop_reason_desc"] == "POLICY_DENIED"
            && flow["destination"]["identity"] == 1
            && flow["traffic_direction"] == "INGRESS"
    });
    assert!(dropped, "no drop names the node: {flows:#?}");
    let allowed = flows.iter().any(|flow| {
        flow["event_type"]["type"] == 5
            && flow["verdict"] == "FORWARDED"
            && flow["destination"]["identity"] == 1
            && flow["l4"]["TCP"]["destination_port"] == SERVED
    });
    assert!(allowed, "no verdict names the node: {flows:#?}");
    let metrics = lab.ask("a", "/v1/metrics");
    let counted = metrics.lines().any(|line| {
        line.starts_with("cilium_drop_count_total")
            && line.contains("INGRESS")
            && line.contains("Policy denied")
    });
    assert!(counted, "{metrics}");
}

fn pid(lab: &Lab) -> Option<u64> {
    lab.node("a")["agentPid"].as_u64()
}

fn signal(lab: &Lab, signal: &str) {
    let old = pid(lab).expect("an agent");
    let done = Command::new("kill")
        .args([signal, &old.to_string()])
        .status();
    assert!(done.expect("kill runs").success());
    eventually("the next agent", || pid(lab).is_some_and(|new| new != old));
}

fn end(lab: &Lab) {
    signal(lab, "-TERM");
}

fn kill(lab: &Lab) {
    signal(lab, "-KILL");
}

pub(crate) const CLUSTER_CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data: {enable-host-firewall: 'true', policy-deny-response: icmp}
";

pub(crate) fn is_ready(lab: &Lab) -> bool {
    let status = lab.try_ask("a", "/v1/healthz").ok();
    let status: Option<Value> = status.and_then(|text| serde_json::from_str(&text).ok());
    status.is_some_and(|status| status["parts"]["agent"]["state"] == "Ok")
}

/// Sends datagrams to [`WATCHED`], two hundred a second, until it is killed.
fn shower(lab: &Lab, v6: bool) -> Child {
    let to = address(lab, "node:a", v6);
    let script = format!("while :; do echo x > /dev/udp/{to}/{WATCHED}; sleep 0.005; done");
    lab.start("node:b", &["bash", "-c", &script])
}

/// What is shut stays shut, and what is open stays open, all the while: of a node
/// that starts anew from when it has programs at its devices.
fn no_window(lab: &Lab, servers: &Servers, name: &str, end: Option<fn(&Lab)>) {
    let ssh = [false, true].map(|v6| {
        let to = at(&address(lab, "node:a", v6), SSH);
        Held::open(lab, WORLD, &to, "10000")
    });
    let mut senders = [false, true].map(|v6| shower(lab, v6));
    let mut before = servers.heard();
    if let Some(end) = end {
        end(lab);
    } else {
        let away = Away::begin(lab, CLUSTER_CONFIG);
        eventually("nobody guards the node", || servers.heard() != before);
        away.end();
        eventually("the programs are at the uplink", || cold::is_attached(lab));
        before = servers.mark(lab);
    }
    eventually("the next agent is ready", || is_ready(lab));
    for held in ssh {
        held.goes_on();
        held.close();
    }
    // Connections to what is shut, meanwhile: there is time for a hundred datagrams.
    check(lab, name, &[(WORLD, "node:a", Tcp(SERVED), false)]);
    let after = servers.heard();
    for sender in &mut senders {
        let running = sender.try_wait().expect("it is a child");
        assert!(running.is_none(), "{name}: the sender has ended");
        sender.kill().expect("it is killed");
        sender.wait().expect("it ends");
    }
    assert_eq!(before, after, "{name}: what is shut was open");
}

/// A connection that the node's policy turns against is cut, another is not.
fn a_connection_is_cut(lab: &Lab) {
    let cut = [false, true].map(|v6| {
        let to = at(&address(lab, "node:a", v6), SERVED);
        Held::open(lab, WORLD, &to, "2000")
    });
    let stay = [false, true].map(|v6| {
        let to = at(&address(lab, "node:a", v6), SSH);
        Held::open(lab, WORLD, &to, "10000")
    });
    for held in cut.iter().chain(&stay) {
        held.goes_on();
    }
    lab.apply(&policy(DENY));
    for held in cut {
        held.last_answer();
    }
    for held in stay {
        held.goes_on();
        held.close();
    }
}

/// A policy on trial is taken back by an agent that did not begin the trial; one
/// that is confirmed is kept.
fn what_is_not_confirmed_is_taken_back(lab: &Lab) {
    lab.apply(&CLUSTER_CONFIG.replace("data: {", "data: {host-firewall-confirm-timeout: 10s, "));
    let told = |word: &str| {
        json(lab, "/v1/healthz")["parts"]["policy"]
            .to_string()
            .contains(word)
    };
    eventually("changes are tried", || {
        json(lab, "/v1/config")
            .to_string()
            .contains("\"host-firewall-confirm-timeout\":\"10s\"")
            && is_ready(lab)
    });
    let served: Probe = (WORLD, "node:a", Tcp(SERVED), false);
    lab.apply(&policy(DENY));
    check(lab, "on trial", &[served]);
    assert!(told("on trial"));
    kill(lab);
    eventually("it is taken back", || passes(lab, served, false));
    assert!(told("was not confirmed in time"));
    lab.apply(&policy(INGRESS));
    let socket = lab.node("a")["apiSocket"].clone();
    let confirm = || {
        let socket = socket.as_str().expect("a path");
        let args = ["axon", "policy", "host-confirm", "--socket", socket];
        lab.run("node:a", &args)
    };
    let confirmed = confirm();
    assert!(confirmed.status.success(), "{}", text(&confirmed));
    eventually("nothing is on trial any more", || !told("on trial"));
    let again = confirm();
    assert!(
        text(&again).contains("no policy for the node itself is on trial"),
        "{}",
        text(&again)
    );
    kill(lab);
    eventually("the next agent is ready", || is_ready(lab));
    check(lab, "confirmed", GUARDED);
    for spoil in [Spoilt::full, Spoilt::read_only] {
        no_disk_is_waited_for(lab, spoil);
    }
}

/// What is on trial is taken back though it cannot be written that it was; and what
/// cannot be written does not go on trial.
fn no_disk_is_waited_for(lab: &Lab, spoil: fn(&Lab) -> Spoilt) {
    let agent = |word: &str| {
        json(lab, "/v1/healthz")["parts"]["agent"]
            .to_string()
            .contains(word)
    };
    let served: Probe = ("node:b", "node:a", Tcp(SERVED), false);
    lab.apply(&policy(DENY));
    check(lab, "on trial", &[served]);
    let spoilt = spoil(lab);
    eventually("it is taken back", || passes(lab, served, false));
    eventually("the disk is told of", || agent("see that the lib-dir"));
    cold::apply(lab, &policy(EGRESS));
    eventually("no trial begins", || agent("no change reaches the kernel"));
    check(lab, "without a disk", GUARDED);
    cold::apply(lab, &policy(INGRESS));
    drop(spoilt);
    eventually("all is well again", || is_ready(lab));
    check(lab, "with a disk again", GUARDED);
}

/// `policy-deny-response: icmp`: what a pod's own policy does not let out ends at
/// once, by ICMP; what another's keeps away is silence.
fn a_pod_is_told_of_its_policy(lab: &Lab) {
    let policy = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: told}
spec:
  endpointSelector: {matchLabels: {app: far}}
  ingress: [{}]
  egress: [{toPorts: [{ports: [{port: '8001', protocol: TCP}]}]}]
";
    lab.apply(policy);
    let ends = |from: &str, to: &str, port: u16, v6: bool| {
        // Patience for an answer: only one ends it early.
        let client = lab.client(from, Tcp(port), &address(lab, to, v6), true);
        client.wait_with_output().expect("it ends").status.code()
    };
    for v6 in [false, true] {
        assert_eq!(
            ends("far", WORLD, SERVED, v6),
            Some(0),
            "allowed, IPv6: {v6}"
        );
        assert_eq!(ends("far", WORLD, SHUT, v6), Some(1), "refused, IPv6: {v6}");
        let kept_away: Probe = (WORLD, "far", Tcp(SERVED), false);
        assert!(!passes(lab, kept_away, v6), "silence, IPv6: {v6}");
    }
    lab.delete(policy);
}
