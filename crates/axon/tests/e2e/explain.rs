//! `axon explain` beside the wire: what it says of a packet is what becomes of
//! it, and the line that it names is where the rule is written; on live nodes,
//! of a flow that was seen, and from a sysdump when the lab is gone.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::axon;
use crate::support::{How, Lab, eventually, lab, text, turn};

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
    command: [axon, lab, serve, 'tcp:8001-8003', 'udp:8001-8003']
    readinessProbe: {tcpSocket: {port: 8003}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {app: friend}}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: spy, labels: {app: friend, name: spy}}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: foe, labels: {app: foe}}
spec: {nodeName: b, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: guard}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: friend}}]
    toPorts:
    - ports: [{port: '8001', protocol: TCP}]
    - ports: [{port: '8001', protocol: UDP}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {name: spy}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out}
spec:
  endpointSelector: {matchLabels: {name: spy}}
  egress:
  - toEntities: [cluster]
  - toCIDR: [198.51.100.1/32]
    toPorts: [{ports: [{port: '7001', protocol: TCP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: door}
spec:
  type: NodePort
  clusterIP: 10.96.7.1
  selector: {app: server}
  ports:
  - {name: open, port: 80, targetPort: 8001, nodePort: 30081}
  - {name: shut, port: 81, targetPort: 8002}
  - {name: said, port: 82, targetPort: 8001, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  clusterIP: 10.96.7.2
  selector: {app: server}
  internalTrafficPolicy: Local
  ports: [{port: 80, targetPort: 8001}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.96.7.3, selector: {app: nobody}, ports: [{port: 80}]}
";

/// A connection to a service, asked about on its client's node: who and how, what
/// becomes of it, and what tells why.
struct Served {
    from: &'static str,
    node: &'static str,
    service: &'static str,
    how: How,
    allowed: bool,
    told: &'static str,
}

const fn served(
    (from, node): (&'static str, &'static str),
    service: &'static str,
    how: How,
    allowed: bool,
    told: &'static str,
) -> Served {
    Served {
        from,
        node,
        service,
        how,
        allowed,
        told,
    }
}

const FRIEND: (&str, &str) = ("friend", "a");

const SERVED: [Served; 8] = [
    served(FRIEND, "door", Tcp(80), true, "spec.ingress[0].toPorts[0]"),
    served(FRIEND, "door", Udp(82), true, "spec.ingress[0].toPorts[1]"),
    served(
        FRIEND,
        "door",
        Tcp(81),
        false,
        "the sender is allowed on 8001/TCP, not on 8002/TCP",
    ),
    served(("spy", "a"), "door", Tcp(80), false, "spec.ingressDeny[0]"),
    served(FRIEND, "near", Tcp(80), true, "spec.ingress[0].toPorts[0]"),
    served(
        ("foe", "b"),
        "near",
        Tcp(80),
        false,
        "internalTrafficPolicy is Local, and the one behind it is not on this node",
    ),
    served(FRIEND, "empty", Tcp(80), false, "no endpoint is ready"),
    served(FRIEND, "door", Tcp(30_081), true, "NodePort "),
];

const OUTSIDE: &str = "198.51.100.1";
const GUARD: &str = "CiliumNetworkPolicy default/guard ";
const OUT: &str = "CiliumNetworkPolicy default/out ";

use How::{Tcp, Udp};

/// A connection, what becomes of it, and what tells why: a part of the deciding
/// line, or of what comes closest.
struct Case {
    from: &'static str,
    to: &'static str,
    how: How,
    allowed: bool,
    told: &'static str,
}

const fn case(
    from: &'static str,
    to: &'static str,
    how: How,
    allowed: bool,
    told: &'static str,
) -> Case {
    Case {
        from,
        to,
        how,
        allowed,
        told,
    }
}

/// All of them are decided on node `a`.
const CASES: [Case; 8] = [
    case(
        "friend",
        "server",
        Tcp(8001),
        true,
        "spec.ingress[0].toPorts[0]",
    ),
    case(
        "friend",
        "server",
        Udp(8001),
        true,
        "spec.ingress[0].toPorts[1]",
    ),
    case("spy", "server", Tcp(8001), false, "spec.ingressDeny[0]"),
    case(
        "friend",
        "server",
        Tcp(8002),
        false,
        "the sender is allowed on 8001/TCP, not on 8002/TCP",
    ),
    case(
        "foe",
        "server",
        Tcp(8001),
        false,
        "the sender lacks app=friend (it has app=foe)",
    ),
    case("spy", OUTSIDE, Tcp(7001), true, "spec.egress[1].toPorts[0]"),
    case(
        "spy",
        OUTSIDE,
        Tcp(7002),
        false,
        "the receiver is allowed on 7001/TCP, not on 7002/TCP",
    ),
    case(
        "friend",
        OUTSIDE,
        Tcp(7002),
        true,
        "restricts this direction",
    ),
];

#[test]
fn what_is_explained_is_what_happens() {
    let _turn = turn();
    let Some(lab) = lab("explain", CLUSTER) else {
        return;
    };
    let serve = ["axon", "lab", "serve", "tcp:7001-7002"];
    let mut outside = lab.start("node:outside", &serve);
    let node = lab.node("a");
    let socket = node["apiSocket"].as_str().expect("a path");
    for case in &CASES {
        let told = explain(&["--socket", socket], case);
        lines_are_where_rules_are(&told);
        let to = match case.to {
            OUTSIDE => OUTSIDE.to_owned(),
            pod => lab.pod_ip(pod, false),
        };
        let client = lab.client(case.from, case.how, &to, case.allowed);
        let output = client.wait_with_output().expect("it ends");
        let what = format!("{} {:?} to {}", case.from, case.how, case.to);
        assert_eq!(
            output.status.success(),
            case.allowed,
            "{what}: {}",
            text(&output)
        );
    }
    for case in &SERVED {
        let address = explain_served(&["--socket", &socket_of(&lab, case.node)], case);
        let client = lab.client(case.from, case.how, &address, case.allowed);
        let output = client.wait_with_output().expect("it ends");
        let what = format!("{} {:?} to {}", case.from, case.how, case.service);
        let answered = output.status.success();
        assert_eq!(answered, case.allowed, "{what}: {}", text(&output));
    }
    what_cannot_be_asked_for(&["--socket", socket]);
    connections_are_found(socket);
    the_senders_node_knows_its_own_part(&lab);
    let uuid = flows_that_were_seen(&lab, socket);
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("dump.tar.gz");
    let archive = archive.to_str().expect("UTF-8");
    let dumped = run(&["sysdump", "--socket", socket, "--output-file", archive]);
    assert_eq!(dumped.0, 0, "{}", dumped.1);
    outside.kill().expect("it is killed");
    outside.wait().expect("it ends");
    drop(lab);
    for case in &CASES {
        explain(&["--dump", archive], case);
    }
    for case in SERVED.iter().filter(|case| case.node == "a") {
        explain_served(&["--dump", archive], case);
    }
    let (code, told) = run(&["explain", "--dump", archive, "--flow", &uuid]);
    assert_eq!(code, 1, "{told}");
    let (code, error) = run(&[
        "explain", "--dump", archive, "--from", "nobody", "--to", "server",
    ]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("default/nobody"), "{error}");
}

/// Runs `axon`; its exit status and what it printed.
fn run(args: &[&str]) -> (i32, String) {
    let output = Command::new(axon()).args(args).output().expect("axon runs");
    (output.status.code().unwrap_or(-1), text(&output))
}

/// Explains a case, as data; what it says is checked.
fn explain(over: &[&str], case: &Case) -> Value {
    let port = match case.how {
        Tcp(port) => format!("{port}/tcp"),
        Udp(port) => format!("{port}/udp"),
        How::Icmp => "icmp".to_owned(),
    };
    let mut args = vec!["explain", "--from", case.from, "--to", case.to];
    args.extend(["--port", &port]);
    args.extend(over);
    let (code, people) = run(&args);
    let what = format!("{} to {} {port}", case.from, case.to);
    assert_eq!(code, i32::from(!case.allowed), "{what}: {people}");
    assert!(
        people.contains(case.told),
        "{what}: {}: {people}",
        case.told
    );
    let policy = if case.to == OUTSIDE { OUT } else { GUARD };
    if case.told.starts_with("spec.") {
        let last = people.lines().last().expect("a line");
        assert!(
            last.contains(policy) && last.contains(case.told),
            "{what}: {last}"
        );
    }
    args.extend(["-o", "json"]);
    let (_, data) = run(&args);
    serde_json::from_str(&data).unwrap_or_else(|error| panic!("{what}: {error}: {data}"))
}

fn socket_of(lab: &Lab, node: &str) -> String {
    let node = lab.node(node);
    node["apiSocket"].as_str().expect("a path").to_owned()
}

/// Explains a connection to a service by its name, and by the address that was found
/// for that, which is given back.
fn explain_served(over: &[&str], case: &Served) -> String {
    let port = match case.how {
        Tcp(port) => format!("{port}/tcp"),
        Udp(port) => format!("{port}/udp"),
        How::Icmp => "icmp".to_owned(),
    };
    let service = format!("service:default/{}", case.service);
    let ask = |to: &str| {
        let args = ["explain", "--from", case.from, "--to", to, "--port", &port];
        let args: Vec<&str> = args.into_iter().chain(over.iter().copied()).collect();
        let (code, people) = run(&args);
        let what = format!("{} to {to} {port}", case.from);
        assert_eq!(code, i32::from(!case.allowed), "{what}: {people}");
        assert!(
            people.contains(case.told),
            "{what}: {}: {people}",
            case.told
        );
        let (_, data) = run(&[&args[..], &["-o", "json"]].concat());
        let data: Value =
            serde_json::from_str(&data).unwrap_or_else(|error| panic!("{what}: {error}: {data}"));
        data
    };
    let data = ask(&service);
    let told = &data["service"];
    let name = told["service"].as_str().expect("a service");
    assert!(
        name.starts_with(&format!("default/{}", case.service)),
        "{told}"
    );
    let backends = told["backends"].as_array().expect("backends").iter();
    let chosen: Vec<&Value> = backends.filter(|b| b["may-be-chosen"] == true).collect();
    // Of the one that is chosen everything is told; who is refused has none.
    assert_eq!(chosen.is_empty(), told["refused"].is_string(), "{told}");
    for backend in &chosen {
        assert_eq!(backend["name"], "default/server", "{told}");
        assert_eq!(backend["state"], "active", "{told}");
    }
    let address = data["destination"]["address"].as_str().expect("an address");
    assert_eq!(&ask(address)["service"], told, "by its address");
    address.to_owned()
}

fn what_cannot_be_asked_for(over: &[&str]) {
    for (to, port, code, told) in [
        (
            "service:default/nobody",
            "80",
            4,
            "no service default/nobody is known",
        ),
        ("service:door", "99", 2, "30081/TCP, 80/TCP, 81/TCP, 82/UDP"),
    ] {
        let args = ["explain", "--from", "friend", "--to", to, "--port", port];
        let (found, error) = run(&[&args[..], over].concat());
        assert_eq!(found, code, "{error}");
        assert!(error.contains(told), "{error}");
    }
}

/// The connections that were made are among those that filters mean.
fn connections_are_found(socket: &str) {
    let asked = |args: &[&str]| {
        let args = [&["bpf"], args, &["--socket", socket, "-o", "json"]].concat();
        let (code, rows) = run(&args);
        assert_eq!(code, 0, "{args:?}: {rows}");
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        rows.as_array().expect("rows").clone()
    };
    let of_service = asked(&["ct", "list", "--service", "default/door:open"]);
    assert!(!of_service.is_empty());
    let is_his = |row: &Value| row["protocol"] == "tcp" && row["destination-port"] == 8001;
    assert!(of_service.iter().all(is_his), "{of_service:?}");
    let others = asked(&["ct", "list", "--port", "8001", "--protocol", "udp"]);
    assert!(
        others.iter().all(|row| row["protocol"] == "udp"),
        "{others:?}"
    );
    assert!(!others.is_empty());
    let top = asked(&["ct", "top", "--service", "default/door", "--count", "1"]);
    assert!(
        top[0]["bytes"].as_u64().is_some_and(|bytes| bytes > 0),
        "{top:?}"
    );
    let pressure = asked(&["ct", "pressure"]);
    assert_eq!(pressure.len(), 2, "{pressure:?}");
    // Sockets were led: their answers are known.
    let revnat = asked(&["lb", "revnat"]);
    let named = |row: &Value| row["service"] == "default/door:open" && row["by"] == "socket";
    assert!(
        revnat.iter().all(|row| row["backend"].is_string()),
        "{revnat:?}"
    );
    assert!(revnat.is_empty() || revnat.iter().any(named), "{revnat:?}");
    for (args, code) in [
        (["ct", "list", "--address", "10.0.0"], 2),
        (["nat", "list", "--protocol", "tpc"], 2),
        (["ct", "top", "--service", "default/nobody"], 4),
    ] {
        let (found, error) = run(&[&["bpf"], &args[..], &["--socket", socket]].concat());
        assert_eq!(found, code, "{args:?}: {error}");
    }
}

/// Every line that is named holds the beginning of what its path names.
fn lines_are_where_rules_are(told: &Value) {
    let hooks = told["hooks"].as_array().expect("hooks");
    let judgements = hooks
        .iter()
        .flat_map(|h| h["judgements"].as_array().expect("a list"));
    for place in judgements.map(|judgement| &judgement["place"]) {
        let Some(file) = place["file"].as_str() else {
            continue;
        };
        let content = std::fs::read_to_string(Path::new(file)).expect(file);
        let number = place["line"].as_u64().expect("a number");
        let number = usize::try_from(number).expect("small");
        let line = content.lines().nth(number - 1).unwrap_or_default();
        let path = place["path"].as_str().expect("a path");
        let first = if path.contains("toPorts") {
            "- ports:"
        } else {
            "- "
        };
        assert!(
            line.trim_start().starts_with(first),
            "{file}:{number} {path}: {line}"
        );
    }
}

fn the_senders_node_knows_its_own_part(lab: &Lab) {
    let node = lab.node("b");
    let socket = node["apiSocket"].as_str().expect("a path");
    let ask = [
        "explain", "--socket", socket, "--from", "foe", "--to", "server",
    ];
    let (code, told) = run(&[&ask[..], &["--port", "8001"]].concat());
    assert_eq!(code, 0, "{told}");
    assert!(
        told.contains("Not known here: what default/server receives"),
        "{told}"
    );
    assert!(told.contains("on node a"), "{told}");
    let (code, told) = run(&[
        "explain", "--socket", socket, "--from", "friend", "--to", "server",
    ]);
    assert_eq!(code, 4, "of another node: {told}");
}

/// A drop is explained from its event; the uuid of that.
fn flows_that_were_seen(lab: &Lab, socket: &str) -> String {
    let dropped = |flow: &&Value| {
        flow["verdict"] == "DROPPED" && flow["l4"]["TCP"]["destination_port"] == 8002
    };
    eventually("the drop is told", || {
        lab.flows("a").iter().any(|f| dropped(&f))
    });
    let flows = lab.flows("a");
    let flow = flows.iter().find(dropped).expect("a drop");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), flow.to_string()).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let (code, told) = run(&["explain", "--socket", socket, "--flow", path]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("not on 8002/TCP"), "{told}");
    let uuid = flow["uuid"].as_str().expect("a uuid");
    let by_name = run(&["explain", "--socket", socket, "--flow", uuid]);
    assert_eq!(by_name, (code, told), "the same by its uuid");
    uuid.to_owned()
}
