use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use axon_api::manifest::{Object, parse};

use super::Brain;
use crate::paths::Lab;
use crate::plan::{PodKey, plan};
use crate::pod::born;
use crate::state::{Cluster, ContainerState, NodeState, Process};

const OBJECTS: &str = "
kind: Namespace
metadata: {name: default, labels: {team: red}}
---
kind: Service
metadata: {name: web}
spec: {selector: {app: web}}
---
kind: Pod
metadata: {name: a, labels: {app: web, pod-template-hash: x}}
spec: {containers: [{name: c, command: [x]}]}
---
kind: Pod
metadata: {name: b, labels: {app: web, pod-template-hash: y}}
spec: {containers: [{name: c, command: [x]}]}
---
kind: Pod
metadata: {name: c, labels: {app: db}}
spec: {containers: [{name: c, command: [x]}]}
";

fn lab() -> Lab {
    Lab {
        name: "test".into(),
        root: PathBuf::from("/nowhere"),
        cgroup: PathBuf::from("/nowhere"),
    }
}

fn cluster() -> Cluster {
    let objects = crate::manifest::parse(OBJECTS).expect("parses");
    let objects = objects.into_iter().map(|o| (o.id.clone(), o)).collect();
    let plan = plan(&objects, &BTreeMap::new()).expect("plans");
    let mut cluster = Cluster::default();
    for (key, pod) in &plan.pods {
        cluster
            .pods
            .insert(key.clone(), born(&lab(), pod, format!("uid-{key}")));
    }
    cluster.plan = plan;
    cluster
}

fn key(name: &str) -> PodKey {
    PodKey {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn attach(cluster: &mut Cluster, name: &str, ip: &str, ready: bool) {
    let pod = cluster.pods.get_mut(&key(name)).expect("the pod");
    pod.ips = vec![ip.parse().expect("an address")];
    let container = ContainerState {
        ready,
        ..ContainerState::default()
    };
    pod.containers.insert("c".into(), container);
}

#[test]
fn pods_of_the_same_labels_share_a_number_that_stays() {
    let brain = Brain::new(&lab());
    let mut cluster = cluster();
    brain.think(&mut cluster).expect("thinks");
    let before = cluster.numbers.clone();
    assert_eq!(
        before[&key("a")],
        before[&key("b")],
        "the hash makes no identity"
    );
    assert_ne!(before[&key("a")], before[&key("c")]);
    let pod = cluster.pods.get_mut(&key("a")).expect("the pod");
    pod.plan.value["metadata"]["labels"]["app"] = "other".into();
    brain.think(&mut cluster).expect("thinks");
    assert_ne!(
        cluster.numbers[&key("a")],
        before[&key("a")],
        "other labels"
    );
    assert_eq!(cluster.numbers[&key("b")], before[&key("b")]);
    cluster.pods.remove(&key("c"));
    let pod = cluster.pods.get_mut(&key("b")).expect("the pod");
    pod.plan.value["metadata"]["labels"]["app"] = "new".into();
    brain.think(&mut cluster).expect("thinks");
    let used = [
        before[&key("a")],
        before[&key("c")],
        cluster.numbers[&key("a")],
    ];
    assert!(
        !used.contains(&cluster.numbers[&key("b")]),
        "no number is used again"
    );
}

#[test]
fn the_cluster_has_the_name_that_agents_are_told() {
    let brain = Brain::new(&lab());
    let name_of = |options: &str| {
        let objects = crate::manifest::parse(&format!("{OBJECTS}{options}")).expect("parses");
        let objects = objects.into_iter().map(|o| (o.id.clone(), o)).collect();
        let mut cluster = cluster();
        cluster.plan = plan(&objects, &BTreeMap::new()).expect("plans");
        let files = brain.think(&mut cluster).expect("thinks");
        let file = format!("ciliumidentity_{}.yaml", cluster.numbers[&key("a")]);
        let mut found = parse(files[&file].as_bytes()).expect("agents read it");
        let Some(Object::CiliumIdentity(identity)) = found.documents.remove(0).object else {
            panic!("no CiliumIdentity")
        };
        let labels = identity.to_model().expect("fits").labels;
        let name = labels.get("k8s", "io.cilium.k8s.policy.cluster");
        name.map(str::to_owned)
    };
    assert_eq!(name_of("").as_deref(), Some("default"));
    let options = "---
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data: {cluster-name: alpha}
";
    assert_eq!(name_of(options).as_deref(), Some("alpha"));
}

#[test]
fn agents_read_what_is_written() {
    let brain = Brain::new(&lab());
    let mut cluster = cluster();
    let files = brain.think(&mut cluster).expect("thinks");
    assert!(
        !files.contains_key("ciliumendpoint_default_a.yaml"),
        "no address yet"
    );
    attach(&mut cluster, "a", "10.244.1.9", true);
    let files = brain.think(&mut cluster).expect("thinks");
    let read = |name: &str| {
        let found = parse(files[name].as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let first = found.documents.into_iter().next().expect("a document");
        first.object.expect("an object that agents know")
    };
    let Object::CiliumEndpoint(endpoint) = read("ciliumendpoint_default_a.yaml") else {
        panic!("no CiliumEndpoint")
    };
    let endpoint = endpoint.to_model().expect("fits").expect("is complete");
    assert_eq!(endpoint.identity, cluster.numbers[&key("a")]);
    assert_eq!(
        endpoint.ips,
        ["10.244.1.9".parse::<IpAddr>().expect("an address")]
    );
    let Object::CiliumIdentity(identity) =
        read(&format!("ciliumidentity_{}.yaml", endpoint.identity))
    else {
        panic!("no CiliumIdentity")
    };
    let labels = identity.to_model().expect("fits").labels;
    assert_eq!(labels.get("k8s", "app"), Some("web"));
    let of_namespace = "io.cilium.k8s.namespace.labels.team";
    assert_eq!(labels.get("k8s", of_namespace), Some("red"));
    let Object::Pod(pod) = read("pod_default_a.yaml") else {
        panic!("no Pod")
    };
    let pod = pod.to_model().expect("fits");
    assert_eq!(
        (pod.node.as_str(), pod.uid.as_str()),
        ("node-1", "uid-default/a")
    );
    let Object::Node(node) = read("node_node-1.yaml") else {
        panic!("no Node")
    };
    assert_eq!(node.to_model().expect("fits").pod_cidrs.len(), 2);
}

#[test]
fn a_plain_process_is_announced_as_pods_are() {
    let brain = Brain::new(&lab());
    let mut cluster = cluster();
    let node = NodeState {
        addresses: vec!["172.31.0.1".parse().expect("an address")],
        ..NodeState::default()
    };
    cluster.nodes.insert("node-1".into(), node);
    let process = Process {
        name: "run-db-1".into(),
        namespace: "default".into(),
        labels: ["app=db".parse().expect("a label")].into_iter().collect(),
        ips: vec!["10.244.1.9".parse().expect("an address")],
        endpoint: 9,
    };
    cluster.processes.insert("node-1".into(), vec![process]);
    let files = brain.think(&mut cluster).expect("thinks");
    let text = &files["ciliumendpoint_default_run-db-1.yaml"];
    let mut found = parse(text.as_bytes()).expect("agents read it");
    let Some(Object::CiliumEndpoint(endpoint)) = found.documents.remove(0).object else {
        panic!("no CiliumEndpoint")
    };
    let endpoint = endpoint.to_model().expect("fits").expect("is complete");
    assert_eq!(endpoint.node_ip, "172.31.0.1".parse().ok());
    let file = format!("ciliumidentity_{}.yaml", endpoint.identity);
    let mut found = parse(files[&file].as_bytes()).expect("agents read it");
    let Some(Object::CiliumIdentity(identity)) = found.documents.remove(0).object else {
        panic!("no CiliumIdentity")
    };
    let labels = identity.to_model().expect("fits").labels;
    // As the agent, which looks for their number, makes them.
    let own = ["app=db".parse().expect("a label")].into_iter().collect();
    let filter = axon_control::labels::LabelFilter::default();
    let expected = axon_control::labels::process_labels(&own, "default", "default", &filter);
    assert_eq!(labels, expected);
    cluster.processes.clear();
    let files = brain.think(&mut cluster).expect("thinks");
    assert!(
        files
            .keys()
            .all(|name| !name.contains("run-db-1") && *name != file)
    );
}
