//! A small cluster, and who asks in it.
//!
//! Two nodes, `a` and `b`, each with a client `c-a`, `c-b` and a pod `web-a`,
//! `web-b` behind the service `web`; a host outside.

use serde_json::{Value, json};

pub(crate) const A: &str = "192.0.2.1";
pub(crate) const B: &str = "192.0.2.2";
pub(crate) const VIP: &str = "10.96.0.1";
pub(crate) const BALANCED: &str = "203.0.113.1";

pub(crate) fn node(name: &str, addr: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": addr}]},
    })
}

pub(crate) fn pod(name: &str, app: &str, node: &str, addr: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "podIPs": [{"ip": addr}],
        },
    })
}

pub(crate) fn web(node: &str) -> Value {
    let addr = if node == "a" {
        "10.0.1.11"
    } else {
        "10.0.2.11"
    };
    pod(&format!("web-{node}"), "web", node, addr)
}

pub(crate) fn unready(mut pod: Value) -> Value {
    pod["status"]["conditions"][0]["status"] = json!("False");
    pod
}

pub(crate) fn terminating(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// A balanced service of `app: web`, with these fields of its `spec` beside.
pub(crate) fn service(fields: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": VIP, "selector": {"app": "web"},
            "ports": [
                {"name": "t", "port": 80, "targetPort": 8080, "nodePort": 30_080},
                {"name": "u", "port": 80, "protocol": "UDP", "targetPort": 8080, "nodePort": 30_080},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": BALANCED}]}},
    });
    let (Value::Object(spec), Value::Object(fields)) = (&mut service["spec"], fields) else {
        panic!("no maps");
    };
    spec.extend(fields);
    service
}

/// The nodes and their clients.
pub(crate) fn clients() -> Vec<Value> {
    vec![
        node("a", A, "east"),
        node("b", B, "west"),
        pod("c-a", "client", "a", "10.0.1.1"),
        pod("c-b", "client", "b", "10.0.2.1"),
    ]
}

/// These objects beside nodes and clients.
pub(crate) fn with(objects: impl IntoIterator<Item = Value>) -> Vec<Value> {
    clients().into_iter().chain(objects).collect()
}

pub(crate) fn probe(id: &str, from: &str, to: &str, port: u16) -> Value {
    let from = match from.split_once('/') {
        Some(("node", name)) => json!({"node": name}),
        Some(("outside", name)) => json!({"outside": name}),
        _ => json!({"pod": format!("shop/{from}")}),
    };
    // Who is outside has a way by the first node.
    let mut to = json!({"address": to, "port": port});
    if from["outside"].is_string() && to["address"] != A && to["address"] != B {
        to["via"] = json!("a");
    }
    json!({"id": id, "from": from, "to": to, "protocol": "TCP"})
}

/// A probe with fields beside or in the place of others.
pub(crate) fn probe_with(mut probe: Value, fields: Value) -> Value {
    let (Value::Object(map), Value::Object(fields)) = (&mut probe, fields) else {
        panic!("no maps");
    };
    map.extend(fields);
    probe
}

pub(crate) fn state(objects: Vec<Value>, wait: u32, probes: Vec<Value>) -> Value {
    let mut state = json!({"wait": wait});
    state["objects"] = Value::Array(objects);
    state["probes"] = Value::Array(probes);
    state
}

pub(crate) fn question(config: Value, states: Vec<Value>) -> Value {
    let outside = json!({"ext": ["198.51.100.7", "2001:db8:7::1"]});
    let mut question = json!({"outside": outside});
    question["config"] = config;
    question["states"] = Value::Array(states);
    question
}

/// The answer's states.
pub(crate) fn ask(config: Value, states: Vec<Value>) -> Vec<Value> {
    let text = question(config, states).to_string();
    let answer = axon_evaluate::service_answer(text.as_bytes());
    let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["error"], Value::Null, "{answer}");
    match answer["states"].take() {
        Value::Array(states) => states,
        other => panic!("{other}"),
    }
}

/// Asks one probe of one state.
pub(crate) fn ask_one(config: Value, objects: Vec<Value>, probe: Value) -> Value {
    let states = ask(config, vec![state(objects, 0, vec![probe])]);
    states[0]["results"][0].clone()
}

/// What is reported, as object and field.
pub(crate) fn reported(state: &Value) -> Vec<(String, String)> {
    let reports = state["reports"].as_array().expect("reports");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pairs = reports.iter();
    let pairs = pairs.inspect(|report| assert_ne!(report["reason"], "", "{report}"));
    pairs
        .map(|r| (text(&r["object"]), text(&r["field"])))
        .collect()
}
