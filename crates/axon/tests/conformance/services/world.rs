//! A state of a case as the manifests of a lab.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::case::{Case, From, State};
use crate::case::Protocol;

/// What the Service is called whose port tells how far a node has come.
pub(crate) const MARKER: &str = "zz-state";

/// That Service.
pub(crate) fn marker(number: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": MARKER, "namespace": "default"},
        "spec": {"ports": [{"port": number}]},
    })
}

/// The objects of a state, with the Service of this number.
pub(crate) fn manifests(case: &Case, state: &State<'_>, number: u16) -> String {
    let mut objects = vec![
        config_map("cilium-config", &options(&case.config)),
        config_map("axon-lab", &own(case)),
    ];
    objects.extend(state.objects.iter().cloned().map(placed));
    objects.push(marker(number));
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    documents.join("\n---\n")
}

fn config_map(name: &str, data: &Map<String, Value>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "kube-system"},
        "data": data,
    })
}

/// The agents' options, as texts.
fn options(config: &Map<String, Value>) -> Map<String, Value> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let list = list.iter();
            let words = list.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            words.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let pairs = config.iter();
    pairs
        .map(|(name, value)| (name.clone(), text(value).into()))
        .collect()
}

/// What the lab is to leave as it is written.
fn own(case: &Case) -> Map<String, Value> {
    let ips = case.outside.iter().flat_map(|host| &host.addresses);
    let ips: Vec<String> = ips.map(ToString::to_string).collect();
    let mut data = Map::new();
    data.insert("outside-addresses".into(), ips.join(" ").into());
    data.insert("pod-status".into(), "as-written".into());
    data.insert("service-conflicts".into(), "allow".into());
    data
}

/// Pods with something to run: their sockets are those of the test.
fn placed(mut object: Value) -> Value {
    if object["kind"] == "Pod" {
        for container in object["spec"]["containers"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            container["command"] = json!(["sleep", "infinity"]);
        }
        for container in object["spec"]["initContainers"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            // The lab waits for the end of each; what listens in a pod is ours.
            container["command"] = json!(["true"]);
        }
    }
    object
}

/// The ports of a pod's manifest.
pub(crate) fn declared(pod: &Value) -> BTreeSet<(Protocol, u16)> {
    let of = |kind: &str| pod["spec"][kind].as_array().into_iter().flatten();
    let containers = of("containers").chain(of("initContainers"));
    let ports =
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let port = |port: &Value| {
        let protocol = match port["protocol"].as_str() {
            Some("UDP") => Protocol::Udp,
            None | Some("TCP") => Protocol::Tcp,
            Some(_) => return None,
        };
        let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
        Some((protocol, number))
    };
    ports.filter_map(port).collect()
}

/// Every port that backends of a case are asked at.
pub(crate) fn asked(case: &Case) -> BTreeSet<(Protocol, u16)> {
    let mut ports = BTreeSet::new();
    for state in case.states() {
        for probe in state.probes {
            ports.insert((probe.protocol, probe.to.port));
            let expected = probe.expected().unwrap_or_default();
            for backend in expected.backends.into_iter().flatten() {
                let port = backend
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse().ok());
                ports.extend(port.map(|port| (probe.protocol, port)));
            }
        }
    }
    ports
}

/// Why a case cannot be asked by these clients.
pub(crate) fn unasked(case: &Case) -> Option<String> {
    let states = case.states();
    let mut probes = states.iter().flat_map(|state| state.probes);
    let sctp = probes.any(|probe| !matches!(probe.protocol, Protocol::Tcp | Protocol::Udp));
    sctp.then(|| "needs a client of SCTP".to_owned())
}

/// Whoever asks, in words.
pub(crate) fn name(from: &From) -> String {
    match from {
        From::Pod(name) | From::Outside(name) => name.clone(),
        From::Node(name) => format!("node {name}"),
    }
}

#[test]
fn options_are_texts() {
    let config =
        json!({"a": true, "b": [30_000, 32_767], "c": ["10.0.0.0/8", "fd00::/8"], "d": "x"});
    let Value::Object(config) = config else {
        panic!("a map")
    };
    let expected = json!({"a": "true", "b": "30000,32767", "c": "10.0.0.0/8,fd00::/8", "d": "x"});
    assert_eq!(Value::from(options(&config)), expected);
}
