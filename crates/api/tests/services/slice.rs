//! EndpointSlices.

use axon_api::manifest::Object;
use axon_model::{EndpointSlice, Protocol};
use serde_json::{Value, json};

use crate::{merge, object, only};

fn slice(rest: Value) -> EndpointSlice {
    let mut tree = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
    });
    merge(&mut tree, rest);
    match object(&tree) {
        Object::EndpointSlice(slice) => slice.to_model(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slice_is_read_whole() {
    let read = slice(json!({
        "addressType": "IPv6",
        "metadata": {
            "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"service.cilium.io/weight": "90"},
        },
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "all"}],
        "endpoints": [
            {"addresses": ["fd00::1"]},
            {
                "addresses": ["fd00::2"], "nodeName": "n2",
                "conditions": {"ready": false, "serving": true, "terminating": true},
                "hints": {"forZones": [{"name": "za"}], "forNodes": [{"name": "n2"}]},
            },
        ],
    }));
    assert_eq!(read.faults, []);
    assert_eq!((read.service.as_str(), read.weight), ("web", Some(90)));
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.port, p.protocol))
        .collect();
    assert_eq!(
        ports,
        [("http", 8080, Protocol::TCP), ("dns", 53, Protocol::UDP)]
    );
    let [first, second] = read.endpoints.as_slice() else {
        panic!("{:?}", read.endpoints);
    };
    assert!(
        first.is_ready && first.is_serving && !first.is_terminating,
        "as Kubernetes has it"
    );
    assert!(!second.is_ready && second.is_serving && second.is_terminating);
    assert_eq!(
        (second.for_zones.as_slice(), second.for_nodes.as_slice()),
        (&["za".to_owned()][..], &["n2".to_owned()][..])
    );
    assert_eq!(read.addresses.len(), 1, "for policies: who is ready");
}

#[test]
fn what_is_wrong_with_a_slice_is_told_and_the_rest_of_it_counts() {
    let label = "metadata.labels[kubernetes.io/service-name]";
    let weight = "metadata.annotations[service.cilium.io/weight]";
    let named = |annotations: Value| {
        json!({"metadata": {
            "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}, "annotations": annotations,
        }})
    };
    for (tree, field, parts, left) in [
        (
            json!({"metadata": {"name": "a"}}),
            label,
            ["missing", "service"],
            2,
        ),
        (
            named(json!({"service.cilium.io/weight": "70000"})),
            weight,
            ["\"70000\"", "0 to 65535"],
            2,
        ),
        (
            json!({"addressType": "ipv4"}),
            "addressType",
            ["\"ipv4\"", "IPv4, IPv6 or FQDN"],
            0,
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1", "x"]}]}),
            "endpoints[0].addresses[1]",
            ["\"x\"", "address"],
            1,
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]}),
            "endpoints[1].addresses[0]",
            ["fd00::1", "addressType IPv4"],
            1,
        ),
        (
            json!({"endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": ["10.0.0.1"]}]}),
            "endpoints[0].addresses[0]",
            ["127.0.0.1", "one endpoint"],
            1,
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.1"]}]}),
            "endpoints[1].addresses[0]",
            ["10.0.0.1", "already"],
            1,
        ),
    ] {
        let read = slice(tree);
        only(&read.faults, field, &parts);
        let addresses = read
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses);
        assert_eq!(addresses.count(), left, "{field}");
    }
    for (port, field, parts) in [
        (
            json!({"port": 70_000}),
            "ports[0].port",
            ["70000", "1 to 65535"],
        ),
        (
            json!({"port": 80, "protocol": "QUIC"}),
            "ports[0].protocol",
            ["\"QUIC\"", "UDP"],
        ),
    ] {
        let read = slice(json!({"ports": [port, {"name": "b", "port": 81}]}));
        only(&read.faults, field, &parts);
        let ports: Vec<u16> = read.ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [81]);
    }
}
