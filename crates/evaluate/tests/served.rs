//! Connections to services in a cluster with policies: policy is asked about the
//! backends, at their ports.

use serde_json::{Value, json};

/// Two nodes; a client on the one, of `web` a pod on each, of `lone` none.
fn question(probes: &Value) -> Value {
    let pod = |name: &str, node: &str, ip: &str, labels: Value| {
        let mut pod = json!({"namespace": "shop", "name": name, "node": node, "ip": ip});
        pod["labels"] = labels;
        pod
    };
    json!({
        "cluster": {
            "nodes": [{"name": "n1", "ip": "192.0.2.1"}, {"name": "n2", "ip": "192.0.2.2"}],
            "namespaces": [{"name": "shop"}],
            "pods": [
                pod("client", "n1", "10.0.1.1", json!({"app": "client"})),
                pod("one", "n1", "10.0.1.11", json!({"app": "web", "open": "yes"})),
                pod("two", "n2", "10.0.2.11", json!({"app": "web"})),
            ],
            "services": [
                {
                    "namespace": "shop", "name": "web", "clusterIP": "10.96.0.1",
                    "selector": {"app": "web"},
                    "ports": [
                        {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
                        {"name": "open", "port": 81, "targetPort": 8081, "protocol": "TCP"},
                    ],
                },
                {
                    "namespace": "shop", "name": "lone", "clusterIP": "10.96.0.2",
                    "selector": {"app": "nobody"},
                    "ports": [{"port": 80, "protocol": "TCP"}],
                },
                {
                    "namespace": "shop", "name": "outside", "clusterIP": "10.96.0.3",
                    "endpoints": ["198.51.100.7"],
                    "ports": [{"port": 443, "targetPort": 8443, "protocol": "TCP"}],
                },
            ],
        },
        "policies": [
            {
                "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                "metadata": {"namespace": "shop", "name": "guard"},
                "spec": {
                    "endpointSelector": {"matchLabels": {"app": "web"}},
                    "ingress": [{"toPorts": [{"ports": [{"port": "8081", "protocol": "TCP"}]}]}],
                },
            },
            {
                "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                "metadata": {"namespace": "shop", "name": "open"},
                "spec": {
                    "endpointSelector": {"matchLabels": {"open": "yes"}},
                    "ingress": [{"fromEntities": ["cluster"]}],
                },
            },
            {
                "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                "metadata": {"namespace": "shop", "name": "out"},
                "spec": {
                    "endpointSelector": {"matchLabels": {"app": "client"}},
                    "egress": [
                        {"toEntities": ["cluster"]},
                        {
                            "toCIDR": ["198.51.100.7/32"],
                            "toPorts": [{"ports": [{"port": "8443", "protocol": "TCP"}]}],
                        },
                    ],
                },
            },
        ],
        "probes": probes,
    })
}

fn asked(from: &Value, ip: &str, port: u16) -> Value {
    let probes = json!([
        {"id": 1, "from": from, "to": {"ip": ip}, "protocol": "TCP", "port": port},
    ]);
    let answer = axon_evaluate::answer(question(&probes).to_string().as_bytes());
    let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["error"], Value::Null, "{answer}");
    answer["results"][0].take()
}

fn client() -> Value {
    json!({"pod": "shop/client"})
}

fn backends(result: &Value) -> Vec<(&str, &str)> {
    let backends = result["backends"].as_array().into_iter().flatten();
    backends
        .map(|backend| {
            let text = |field: &str| backend[field].as_str().expect("a text");
            (text("backend"), text("verdict"))
        })
        .collect()
}

#[test]
fn policy_is_asked_about_backends_at_their_ports() {
    let node = || json!({"node": "n1"});
    for (name, from, (ip, port), verdict, expected) in [
        (
            "one of two",
            client(),
            ("10.96.0.1", 80),
            "deny",
            vec![("10.0.1.11:8080", "allow"), ("10.0.2.11:8080", "deny")],
        ),
        (
            "the port behind the service's",
            client(),
            ("10.96.0.1", 81),
            "allow",
            vec![("10.0.1.11:8081", "allow"), ("10.0.2.11:8081", "allow")],
        ),
        (
            "an endpoint outside, by its own address and port",
            client(),
            ("10.96.0.3", 443),
            "allow",
            vec![("198.51.100.7:8443", "allow")],
        ),
        (
            "a node's process",
            node(),
            ("10.96.0.1", 81),
            "allow",
            vec![("10.0.1.11:8081", "allow"), ("10.0.2.11:8081", "allow")],
        ),
        (
            "to itself by its own service",
            json!({"pod": "shop/two"}),
            ("10.96.0.1", 80),
            "allow",
            vec![("10.0.1.11:8080", "allow"), ("10.0.2.11:8080", "allow")],
        ),
    ] {
        let result = asked(&from, ip, port);
        assert_eq!(result["verdict"], verdict, "{name}: {result}");
        assert_eq!(backends(&result), expected, "{name}: {result}");
        assert_eq!(result["refused"], Value::Null, "{name}: {result}");
    }
}

/// What leads to nobody does not pass, and no policy has said so.
#[test]
fn a_service_that_leads_to_nobody_does_not_pass() {
    for (ip, port, told) in [
        ("10.96.0.2", 80, "no backend"),
        ("10.96.0.1", 82, "no service listens at 10.96.0.1:82/TCP"),
    ] {
        let result = asked(&client(), ip, port);
        assert_eq!(result["verdict"], "deny", "{result}");
        assert_eq!(result["egress"], "allow", "{result}");
        assert_eq!(result["ingress"], "allow", "{result}");
        let refused = result["refused"].as_str().expect("why");
        assert!(refused.contains(told), "{result}");
    }
}

/// Who is no service's is asked about as before, and without new fields.
#[test]
fn other_addresses_are_what_they_were() {
    for (from, ip, port, verdict) in [
        (client(), "10.0.1.11", 8080, "allow"),
        (client(), "10.0.2.11", 8080, "deny"),
        (client(), "10.96.0.9", 80, "deny"),
        (json!({"ip": "203.0.113.9"}), "10.96.0.1", 80, "allow"),
    ] {
        let result = asked(&from, ip, port);
        assert_eq!(result["verdict"], verdict, "{ip}: {result}");
        for field in ["backends", "refused"] {
            assert_eq!(result[field], Value::Null, "{ip}: {result}");
        }
    }
}
