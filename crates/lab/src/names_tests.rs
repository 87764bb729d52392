use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::json;

use crate::brain::Brain;
use crate::dns::{Book, StandsFor};
use crate::paths::Lab;
use crate::plan::{PodKey, plan};
use crate::pod::born;
use crate::services::assign;
use crate::state::{Cluster, ContainerState, NodeState};

const OBJECTS: &str = "
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: www}]}
---
kind: Service
metadata: {name: pets}
spec: {selector: {app: web}, clusterIP: None, ipFamilyPolicy: PreferDualStack, ports: [{name: peer, port: 7000}]}
---
kind: Service
metadata: {name: early}
spec: {selector: {app: web}, clusterIP: None, publishNotReadyAddresses: true}
---
kind: Service
metadata: {name: far}
spec: {type: ExternalName, externalName: WWW.example.com.}
---
kind: Service
metadata: {name: told}
spec: {clusterIP: None, ports: [{name: x, port: 1}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: told-1, labels: {kubernetes.io/service-name: told}}
addressType: IPv4
ports: [{name: x, port: 9, protocol: TCP}]
endpoints:
- {addresses: [192.0.2.1], hostname: One}
- {addresses: [192.0.2.2], conditions: {ready: false}}
---
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {hostname: first, subdomain: pets, containers: [{name: c, command: [x], ports: [{name: www, containerPort: 8080}]}]}
---
kind: Pod
metadata: {name: b, labels: {app: web}}
spec: {containers: [{name: c, command: [x]}]}
";

fn key(name: &str) -> PodKey {
    PodKey {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn cluster() -> Cluster {
    let lab = Lab {
        name: "test".into(),
        root: PathBuf::from("/nowhere"),
        cgroup: PathBuf::from("/nowhere"),
    };
    let objects = crate::manifest::parse(OBJECTS).expect("parses");
    let objects = objects.into_iter().map(|o| (o.id.clone(), o)).collect();
    let mut cluster = Cluster {
        plan: plan(&objects, &BTreeMap::new()).expect("plans"),
        ..Cluster::default()
    };
    assign(&mut cluster.plan, &Default::default(), "").expect("fits");
    for (key, pod) in &cluster.plan.pods {
        let state = born(&lab, pod, format!("uid-{key}"));
        cluster.pods.insert(key.clone(), state);
    }
    attach(&mut cluster, "a", &["10.244.1.9", "fd00::9"], true);
    attach(&mut cluster, "b", &["10.244.1.10", "fd00::10"], false);
    cluster
}

fn attach(cluster: &mut Cluster, name: &str, ips: &[&str], ready: bool) {
    let pod = cluster.pods.get_mut(&key(name)).expect("the pod");
    pod.ips = ips
        .iter()
        .map(|ip| ip.parse().expect("an address"))
        .collect();
    let container = ContainerState {
        ready,
        ..ContainerState::default()
    };
    pod.containers.insert("c".into(), container);
}

fn think(cluster: &mut Cluster) -> BTreeMap<String, String> {
    let lab = Lab {
        name: "test".into(),
        root: PathBuf::from("/nowhere"),
        cgroup: PathBuf::from("/nowhere"),
    };
    Brain::new(&lab).think(cluster).expect("thinks")
}

/// Endpoints of a service: host name, address and ports.
fn endpoints(book: &Book, service: &str) -> Vec<String> {
    let entry = &book.services["default"][service];
    let word = |e: &crate::dns::Endpoint| {
        let ports: Vec<String> = e
            .ports
            .iter()
            .map(|p| format!("{}:{}", p.name, p.port))
            .collect();
        format!("{}@{} {}", e.hostname, e.addr, ports.join(","))
    };
    entry.endpoints.iter().map(word).collect()
}

#[test]
fn a_service_has_the_endpoints_that_slices_tell() {
    let mut cluster = cluster();
    think(&mut cluster);
    let of = |cluster: &Cluster, name: &str| endpoints(&cluster.book, name);
    assert_eq!(
        of(&cluster, "web"),
        ["@10.244.1.9 http:8080"],
        "by the pod's own port"
    );
    assert_eq!(
        of(&cluster, "pets"),
        ["first@10.244.1.9 peer:7000", "first@fd00::9 peer:7000"]
    );
    assert_eq!(of(&cluster, "early"), ["@10.244.1.9 ", "@10.244.1.10 "]);
    assert_eq!(
        of(&cluster, "told"),
        ["one@192.0.2.1 x:9"],
        "somebody's own slice"
    );
    let far = &cluster.book.services["default"]["far"].stands_for;
    assert_eq!(*far, StandsFor::Name("www.example.com".into()));
    attach(&mut cluster, "b", &["10.244.1.10", "fd00::10"], true);
    think(&mut cluster);
    assert_eq!(of(&cluster, "pets").len(), 4);
    assert_eq!(
        of(&cluster, "web").len(),
        2,
        "a pod without that port is one without a port"
    );
    let pod = cluster.pods.get_mut(&key("a")).expect("the pod");
    pod.stop.set();
    think(&mut cluster);
    assert_eq!(
        of(&cluster, "web"),
        ["@10.244.1.10 "],
        "who is to go is not ready"
    );
}

#[test]
fn names_stand_for_addresses_of_services_as_soon_as_agents_serve_them() {
    let mut cluster = cluster();
    let web = |cluster: &Cluster| cluster.book.services["default"]["web"].stands_for.clone();
    let own = |ip: &str| StandsFor::Addresses(vec![ip.parse::<IpAddr>().expect("an address")]);
    think(&mut cluster);
    assert_eq!(web(&cluster), own("10.244.1.9"));
    for (name, serves) in [("n1", true), ("n2", false)] {
        let node = NodeState {
            serves_services: serves,
            ..NodeState::default()
        };
        cluster.nodes.insert(name.into(), node);
    }
    think(&mut cluster);
    assert_eq!(web(&cluster), own("10.244.1.9"), "not on all nodes");
    let node = cluster.nodes.get_mut("n2").expect("the node");
    node.serves_services = true;
    think(&mut cluster);
    assert_eq!(web(&cluster), own("10.96.1.1"));
    assert_eq!(
        cluster.book.services["default"]["pets"].stands_for,
        StandsFor::Endpoints
    );
}

#[test]
fn slices_are_written_as_their_controller_does() {
    let mut cluster = cluster();
    let files = think(&mut cluster);
    let slice = |name: &str| -> serde_json::Value {
        let text = &files[&format!("endpointslice_default_{name}.yaml")];
        serde_norway::from_str(text).expect("YAML")
    };
    let v4 = slice("pets.v4");
    assert_eq!(
        v4["metadata"]["labels"]["kubernetes.io/service-name"],
        "pets"
    );
    assert_eq!(v4["addressType"], "IPv4");
    assert_eq!(
        v4["ports"],
        json!([{"name": "peer", "protocol": "TCP", "port": 7000}])
    );
    let first = json!({
        "addresses": ["10.244.1.9"], "hostname": "first", "nodeName": "node-1",
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-default/a"},
    });
    assert_eq!(v4["endpoints"][0], first);
    let second = json!({"ready": false, "serving": false, "terminating": false});
    assert_eq!(v4["endpoints"][1]["conditions"], second);
    assert_eq!(
        slice("pets.v6")["endpoints"][0]["addresses"],
        json!(["fd00::9"])
    );
    // A named port that one pod has and the other has not.
    assert_eq!(slice("web.v4")["ports"], json!([]));
    assert_eq!(slice("web.v4.1")["ports"][0]["port"], 8080);
    assert!(
        !files.contains_key("endpointslice_default_web.v6.yaml"),
        "it has IPv4 alone"
    );
    assert!(
        !files.contains_key("endpointslice_default_told.v4.yaml"),
        "it selects nobody"
    );
    cluster.pods.get(&key("a")).expect("the pod").stop.set();
    let files = think(&mut cluster);
    let v4: serde_json::Value =
        serde_norway::from_str(&files["endpointslice_default_pets.v4.yaml"]).expect("YAML");
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(v4["endpoints"][0]["conditions"], ending);
}

#[test]
fn a_pod_is_as_its_manifest_says_where_that_is_imposed() {
    let text = "
kind: ConfigMap
metadata: {name: axon-lab, namespace: kube-system}
data: {pod-status: as-written}
---
kind: Pod
metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec: {containers: [{name: c, command: [x]}]}
status: {phase: Running, podIP: 10.0.0.99, conditions: [{type: Ready, status: 'False'}]}
";
    let objects = crate::manifest::parse(text).expect("parses");
    let objects = objects.into_iter().map(|o| (o.id.clone(), o)).collect();
    let mut cluster = cluster();
    cluster.plan = plan(&objects, &BTreeMap::new()).expect("plans");
    let planned = cluster.plan.pods[&key("a")].clone();
    cluster.pods.get_mut(&key("a")).expect("the pod").plan = planned;
    let files = think(&mut cluster);
    let pod: serde_json::Value =
        serde_norway::from_str(&files["pod_default_a.yaml"]).expect("YAML");
    assert_eq!(pod["status"]["conditions"][0]["status"], "False");
    assert_eq!(pod["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(
        pod["status"]["podIP"], "10.244.1.9",
        "the address that it has"
    );
}
