//! Names of services and pods, asked for from a pod: by the C library's resolver
//! and, for what that does not ask for, by messages of our own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use axon_linux::netns;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::Value;

use crate::support::{Lab, eventually, lab, text, turn};

const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: a}}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: a, containers: [{name: c, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: apart, namespace: shop}
spec:
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [a.test], options: [{name: ndots, value: '1'}]}
  containers: [{name: c, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, command: [axon, lab, serve, 'http:8080']}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pet}
spec:
  replicas: 3
  serviceName: pets
  template:
    metadata: {labels: {app: pet}}
    spec: {containers: [{name: c, command: [axon, lab, serve, 'tcp:7000']}]}
---
apiVersion: v1
kind: Service
metadata: {name: pets}
spec: {selector: {app: pet}, clusterIP: None, ipFamilyPolicy: PreferDualStack, ports: [{name: peer, port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: late}
spec: {selector: {app: late}, clusterIP: None, ports: [{name: peer, port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
";

/// A pod that is ready when somebody listens in it.
const LATE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late}}
spec: {nodeName: b, containers: [{name: c, command: [sleep, infinity], readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1, failureThreshold: 1}}]}
";

#[test]
fn names_are_found_from_pods() {
    let _turn = turn();
    let Some(lab) = lab("names", CLUSTER) else {
        return;
    };
    services_have_names(&lab);
    headless_services_name_their_pods(&lab);
    ports_are_told(&lab);
    long_answers_come_whole(&lab);
    what_is_not_there_is_told_so(&lab);
    resolvers_are_told_what_pods_ask_for(&lab);
    addresses_are_given_once(&lab);
    a_pod_has_a_name_while_it_is_ready(&lab);
}

/// What the C library finds for a name, in a family.
fn found(lab: &Lab, name: &str, v6: bool) -> BTreeSet<IpAddr> {
    let database = if v6 { "ahostsv6" } else { "ahostsv4" };
    let output = lab.run("client", &["getent", database, name]);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = lines.lines().filter_map(|line| line.split(' ').next());
    let ips = words.map(|word| word.parse().unwrap_or_else(|e| panic!("{lines}: {e}")));
    // Where there is none of that family it maps those of the other.
    let own = |ip: &IpAddr| ip.to_canonical() == *ip;
    ips.filter(own).collect()
}

/// What somebody who is asked says, over UDP.
fn ask(lab: &Lab, name: &str, kind: RecordType) -> Message {
    let server = lab.pod_ip("dns", false);
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    let query = query.to_vec().expect("a query");
    let pod = lab.pod("client");
    let netns = Path::new(pod["netns"].as_str().expect("a path")).to_owned();
    let asked = netns::within_path(&netns, || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(server)?;
        let mut buffer = [0; 4096];
        let mut tries = 0;
        loop {
            socket.send(&query)?;
            tries += 1;
            match socket.recv(&mut buffer) {
                Ok(length) => return Ok(buffer[..length].to_vec()),
                Err(error) if tries == 5 => return Err(error),
                Err(_) => {}
            }
        }
    });
    let answer = asked.expect("a namespace").expect("an answer");
    Message::from_vec(&answer).expect("a message")
}

/// `axon lab services -o json`.
fn services(lab: &Lab) -> Value {
    let output = lab.axon(&["services", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

/// Addresses of a service: its own, or those of its endpoints.
fn addresses(lab: &Lab, name: &str, key: &str, v6: bool) -> BTreeSet<IpAddr> {
    let services = services(lab);
    let mut all = services["services"].as_array().expect("a list").iter();
    let service = all
        .find(|service| service["name"] == name)
        .expect("the service");
    let ips = service[key].as_array().expect("a list").iter();
    let ips = ips.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    ips.filter(|ip| ip.is_ipv6() == v6).collect()
}

fn services_have_names(lab: &Lab) {
    let is_served = services(lab)["servedByAgents"] == true;
    let key = if is_served { "clusterIPs" } else { "endpoints" };
    for v6 in [false, true] {
        let own = addresses(lab, "web", "clusterIPs", v6);
        assert_eq!(own.len(), 1, "an address of each family");
        let expected = addresses(lab, "web", key, v6);
        assert!(!expected.is_empty());
        for name in [
            "web",
            "web.default",
            "web.default.svc",
            "web.default.svc.cluster.local",
            "WEB.default.svc.cluster.local.",
            "elsewhere",
        ] {
            assert_eq!(found(lab, name, v6), expected, "{name}");
        }
    }
}

fn headless_services_name_their_pods(lab: &Lab) {
    for v6 in [false, true] {
        let pods = ["pet-1", "pet-2", "pet-3"].map(|pod| lab.pod_ip(pod, v6));
        let pods = pods.map(|ip| ip.parse::<IpAddr>().expect("an address"));
        assert_eq!(found(lab, "pets", v6), pods.into());
        assert_eq!(found(lab, "pet-2.pets", v6), [pods[1]].into());
        let dashed = pods[0].to_string().replace(['.', ':'], "-");
        let by_address = format!("{dashed}.default.pod.cluster.local");
        assert_eq!(found(lab, &by_address, v6), [pods[0]].into());
        let output = lab.run("client", &["getent", "hosts", &pods[2].to_string()]);
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            line.contains("pet-3.pets.default.svc.cluster.local"),
            "{line}"
        );
    }
}

fn ports_are_told(lab: &Lab) {
    let answer = ask(
        lab,
        "_peer._tcp.pets.default.svc.cluster.local.",
        RecordType::SRV,
    );
    let targets = answer.answers.iter().map(|record| match &record.data {
        RData::SRV(srv) => format!("{} {}", srv.port, srv.target),
        other => panic!("{other}"),
    });
    let expected = [1, 2, 3].map(|n| format!("7000 pet-{n}.pets.default.svc.cluster.local."));
    assert_eq!(targets.collect::<BTreeSet<_>>(), expected.into());
    let answer = ask(
        lab,
        "_http._tcp.web.default.svc.cluster.local.",
        RecordType::SRV,
    );
    let [record] = &answer.answers[..] else {
        panic!("{answer}")
    };
    let RData::SRV(srv) = &record.data else {
        panic!("{record}")
    };
    let target = "web.default.svc.cluster.local.";
    assert_eq!((srv.port, srv.target.to_string().as_str()), (80, target));
}

fn long_answers_come_whole(lab: &Lab) {
    let ips: Vec<String> = (1..=60).map(|n| format!("198.18.0.{n}")).collect();
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| serde_json::json!({"addresses": [ip]}))
        .collect();
    let slice = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 1, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    let service = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "many"},
        "spec": {"clusterIP": "None", "ports": [{"name": "p", "port": 1}]},
    });
    lab.apply(&format!("{service}\n---\n{slice}\n"));
    let cut = ask(lab, "many.default.svc.cluster.local.", RecordType::A);
    assert!(cut.metadata.truncation && !cut.answers.is_empty());
    let expected = ips
        .iter()
        .map(|ip| ip.parse().expect("an address"))
        .collect();
    assert_eq!(found(lab, "many", false), expected, "by TCP");
}

fn what_is_not_there_is_told_so(lab: &Lab) {
    let no = ResponseCode::NXDomain;
    let none = ResponseCode::NoError;
    for (name, kind, code) in [
        ("nowhere.default.svc.cluster.local.", RecordType::A, no),
        ("late.default.svc.cluster.local.", RecordType::A, no),
        ("web.default.svc.cluster.local.", RecordType::MX, none),
        ("default.svc.cluster.local.", RecordType::A, none),
        ("web.nowhere.svc.cluster.local.", RecordType::A, no),
    ] {
        let answer = ask(lab, name, kind);
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities.len(), 1, "how long that may be kept");
    }
    assert!(found(lab, "nowhere", false).is_empty());
}

fn resolvers_are_told_what_pods_ask_for(lab: &Lab) {
    let of = |pod: &str| {
        let output = lab.run(pod, &["cat", "/etc/resolv.conf"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let usual = of("client");
    for part in [
        "search default.svc.cluster.local svc.cluster.local cluster.local\n",
        "ndots:5",
        "nameserver ",
    ] {
        assert!(usual.contains(part), "{usual}");
    }
    let own = "nameserver 192.0.2.53\nsearch a.test\noptions ndots:1\n";
    assert_eq!(of("shop/apart"), own);
}

fn addresses_are_given_once(lab: &Lab) {
    let taken = addresses(lab, "web", "clusterIPs", false);
    let taken = taken.first().expect("an address");
    let said = lab.apply_refused(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: thief}}, spec: {{clusterIP: {taken}, ports: [{{port: 80}}]}}}}"
    ));
    let expected =
        format!("Service default/thief: spec.clusterIPs: {taken} is Service default/web's already");
    assert!(said.contains(&expected), "{said}");
    lab.apply("{apiVersion: v1, kind: Service, metadata: {name: door}, spec: {type: LoadBalancer, clusterIP: 10.96.3.3, ports: [{port: 80}]}}");
    assert_eq!(
        addresses(lab, "door", "clusterIPs", false),
        ["10.96.3.3".parse().expect("an address")].into()
    );
    assert_eq!(addresses(lab, "door", "external", false).len(), 1);
    let table = text(&lab.axon(&["services"]));
    assert!(
        table.contains("default/door") && table.contains("80:30000/TCP"),
        "{table}"
    );
    let file = lab.manifests().join("service_default_door.yaml");
    let written = std::fs::read_to_string(&file).expect("what agents are told");
    assert!(
        written.contains("nodePort: 30000") && written.contains("10.96.3.3"),
        "{written}"
    );
}

fn a_pod_has_a_name_while_it_is_ready(lab: &Lab) {
    let file = lab.write("late.yaml", LATE);
    let done = lab.axon(&["apply", "--no-wait", &file]);
    assert!(done.status.success(), "{}", text(&done));
    // What agents are told of the pod is written after what the name server is told.
    let told = lab.manifests().join("pod_default_late.yaml");
    let is_ready = |word: &str| {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        text.contains(&format!("status: '{word}'")) && text.contains("podIP:")
    };
    eventually("the pod has its address", || is_ready("False"));
    assert!(found(lab, "late", false).is_empty(), "it is not ready");
    let mut server = lab.start("late", &["axon", "lab", "serve", "tcp:7000"]);
    eventually("the pod is ready", || is_ready("True"));
    let ip: IpAddr = lab.pod_ip("late", false).parse().expect("an address");
    assert_eq!(found(lab, "late", false), [ip].into(), "at once");
    server.kill().expect("it is killed");
    server.wait().expect("it ends");
    eventually("the pod is not ready", || is_ready("False"));
    assert!(found(lab, "late", false).is_empty(), "at once");
}
