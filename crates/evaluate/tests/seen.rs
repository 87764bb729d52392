//! A cluster as an agent tells of it is the one that manifests describe.

use axon_api::cluster::ClusterView;
use axon_api::manifest::{self, Object};
use axon_evaluate::{Described, End, Word, World, changes};
use axon_model::{
    CiliumEndpoint, Endpoint, IdentityRecord, Label, Labels, ObjectKey, PolicyObject, Protocol,
};

const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 172.16.0.1}]}
---
{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {team: x}}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}, annotations: {a: b}}
spec: {nodeName: n1, containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: old, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: a}]}
status: {podIP: 10.0.0.1, phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, labels: {app: agent}}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: a, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.3}
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: far}
spec: {externalCIDRs: [192.0.2.0/24]}
---
apiVersion: v1
kind: Service
metadata: {name: out}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: out-1, labels: {kubernetes.io/service-name: out}}
addressType: IPv4
endpoints: [{addresses: [198.51.100.7]}]
";

const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web, io.cilium.k8s.namespace.labels.team: x}}]
    toPorts: [{ports: [{port: sql, protocol: TCP}]}]
  egress:
  - toCIDRSet: [{cidrGroupRef: far}]
  - toServices: [{k8sService: {serviceName: out, namespace: default}}]
";

fn objects(text: &str) -> Vec<Object> {
    let manifest = manifest::parse(text.as_bytes()).expect("manifest");
    assert!(manifest.refused.is_empty(), "{:?}", manifest.refused);
    let documents = manifest.documents.into_iter();
    documents.filter_map(|document| document.object).collect()
}

fn policies(text: &str) -> Vec<PolicyObject> {
    let policy = |object| match object {
        Object::Policy(policy) => Some(policy),
        _ => None,
    };
    objects(text).into_iter().filter_map(policy).collect()
}

/// What an agent would tell that follows these manifests.
fn view(text: &str) -> ClusterView {
    let mut view = ClusterView {
        node: "n1".into(),
        ..ClusterView::default()
    };
    view.reading.enforcement = "default".into();
    view.reading.cluster_name = "default".into();
    view.reading.allow_localhost = true;
    for object in objects(text) {
        match object {
            Object::Namespace(it) => view.namespaces.push(it.to_model()),
            Object::Node(it) => view.nodes.push(it.to_model().expect("a node")),
            Object::Pod(it) => view.pods.push(it.to_model().expect("a pod")),
            Object::Service(it) => view.services.push(it.to_model()),
            Object::EndpointSlice(it) => {
                let key = ObjectKey::new(&it.metadata.namespace, &it.metadata.name);
                let slice = it.to_model();
                view.endpoint_slices.push((key, slice));
            }
            Object::CiliumCidrGroup(it) => view.cidr_groups.push(it.to_model().expect("a group")),
            Object::Policy(it) => view.policies.push(it),
            other => panic!("{other:?}"),
        }
    }
    view
}

fn labels(texts: &[&str]) -> Labels {
    let parsed = texts.iter().map(|text| text.parse::<Label>());
    parsed.map(|label| label.expect("a label")).collect()
}

fn endpoint(id: u16, name: &str, ip: &str) -> Endpoint {
    Endpoint {
        id,
        namespace: "default".into(),
        pod_name: name.into(),
        ipv4: Some(ip.parse().expect("an address")),
        ..Endpoint::default()
    }
}

fn world(described: &Described) -> World {
    let world = described.world(&described.settings());
    world.expect("a world")
}

fn word(world: &World, from: &End, to: &End, port: u16) -> Word {
    let verdict = world.connection(from, to, (Protocol::TCP, port));
    verdict.expect("a verdict").word()
}

fn pod(name: &str) -> End {
    End::Pod(name.into())
}

#[test]
fn an_agent_tells_of_the_cluster_that_its_manifests_describe() {
    let all = format!("{CLUSTER}---\n{POLICY}");
    let over = |object: &Object| matches!(object, Object::Pod(pod) if pod.metadata.name == "old");
    let manifests = objects(&all).into_iter().filter(|object| !over(object));
    let written = Described::of(manifests).expect("cluster");
    let mut told = view(&all);
    told.endpoints = vec![endpoint(7, "web-1", "10.0.0.1")];
    let (seen, notes) = Described::seen(told);
    assert_eq!(notes, [""; 0]);
    let found = changes(&world(&written), &world(&seen)).expect("changes");
    assert_eq!((found.changes, found.pairs > 10), (vec![], true));
    let web = seen.cluster.pods.iter().find(|pod| pod.name == "web-1");
    let ip = web.map(|web| web.ip.to_string());
    assert_eq!(ip.as_deref(), Some("10.0.0.1"), "the endpoint's");
    let here: Vec<&str> = seen.cluster.pods.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        here,
        ["db-0", "web-1"],
        "neither what has ended nor the node"
    );

    // As another agent that has less in force.
    let (open, _) = Described::seen(view(CLUSTER));
    let found = changes(&world(&open), &world(&written)).expect("changes");
    assert!(!found.changes.is_empty());
}

#[test]
fn whom_the_agent_knows_are_whom_it_takes_them_for() {
    let mut told = view(&format!("{CLUSTER}---\n{POLICY}"));
    // By a label filter of the agent's own this pod is nobody that policy means.
    let bare = labels(&["k8s:io.kubernetes.pod.namespace=default"]);
    let mut web = endpoint(7, "web-1", "10.0.0.1");
    web.labels = bare.clone();
    let mut process = endpoint(8, "", "10.0.0.8");
    process.process_name = "curl".into();
    process.own_labels = labels(&["app=web"]);
    process.labels = labels(&[
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.team=x",
        "k8s:io.kubernetes.pod.namespace=default",
        "k8s:io.cilium.k8s.policy.cluster=default",
    ]);
    told.endpoints = vec![web, process];
    // Of another node; and one whose pod nobody tells of.
    told.cilium_endpoints = ["db-0", "gone"]
        .map(|name| CiliumEndpoint {
            namespace: "default".into(),
            name: name.into(),
            identity: 300,
            ..CiliumEndpoint::default()
        })
        .into();
    let record = |labels| IdentityRecord { id: 300, labels };
    told.identities = vec![record(labels(&[
        "k8s:app=db",
        "k8s:io.kubernetes.pod.namespace=default",
    ]))];
    let (seen, notes) = Described::seen(told.clone());
    assert!(
        notes.len() == 1 && notes[0].starts_with("1 workloads are left out"),
        "{notes:?}"
    );
    let there = world(&seen);
    let db = pod("default/db-0");
    let process = pod("default/curl (endpoint 8)");
    assert_eq!(word(&there, &pod("default/web-1"), &db, 5432), Word::Deny);
    assert_eq!(word(&there, &process, &db, 5432), Word::Allow);
    assert_eq!(word(&there, &process, &db, 5433), Word::Deny);

    told.identities = vec![record(bare)];
    let (seen, _) = Described::seen(told);
    assert_eq!(
        word(&world(&seen), &process, &db, 5433),
        Word::Allow,
        "no policy is about it"
    );
}

#[test]
fn an_agents_settings_are_those_that_count() {
    let nodes = "
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: nodes}
spec: {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}
";
    let (node, outside) = (
        End::Node("n1".into()),
        End::Ip("203.0.113.1".parse().expect("ip")),
    );
    for (firewall, expected) in [(false, Word::Allow), (true, Word::Deny)] {
        let mut told = view(CLUSTER);
        told.options.host_firewall = firewall;
        told.policies = policies(nodes);
        let (seen, _) = Described::seen(told);
        assert_eq!(
            word(&world(&seen), &outside, &node, 80),
            expected,
            "{firewall}"
        );
    }
    let mut told = view(CLUSTER);
    told.reading.enforcement = "always".into();
    let (seen, _) = Described::seen(told);
    let (web, db) = (pod("default/web-1"), pod("default/db-0"));
    assert_eq!(word(&world(&seen), &web, &db, 80), Word::Deny);
}
