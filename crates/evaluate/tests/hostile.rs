//! Whatever is asked, an answer comes, and it says what is wrong.

use proptest::prelude::*;
use serde_json::{Value, json};

fn question() -> Value {
    json!({
        "case": "c",
        "step": 0,
        "config": {"enforcement": "default", "hostFirewall": true},
        "cluster": {
            "name": "home",
            "namespaces": [{"name": "farm", "labels": {"team": "green"}}],
            "nodes": [{"name": "n1", "ip": "192.0.2.1", "labels": {"pool": "edge"}}],
            "pods": [
                {"namespace": "farm", "name": "cow", "ip": "10.0.1.2", "node": "n1",
                 "labels": {"app": "cow"}, "ports": [{"name": "milk", "port": 80, "protocol": "TCP"}]},
                {"namespace": "farm", "name": "hen", "ip": "10.0.1.3", "node": "n1",
                 "extraLabels": ["container:a=b"]},
            ],
            "specials": [{"name": "s", "reserved": ["init"], "ip": "10.0.1.9", "node": "n1"}],
            "externalApiservers": ["203.0.113.5"],
            "services": [{"name": "v", "namespace": "farm", "endpoints": ["198.51.100.7"]}],
            "cidrGroups": [{"name": "g", "labels": {}, "cidrs": ["198.51.100.0/24"]}],
            "dns": [{"name": "shop.example", "ips": ["198.51.100.1"]}],
        },
        "policies": [{
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "farm"},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": "cow"}},
                "egress": [
                    {"toFQDNs": [{"matchName": "shop.example"}]},
                    {"toCIDRSet": [{"cidrGroupRef": "g"}]},
                    {"toServices": [{"k8sService": {"serviceName": "v"}}]},
                ],
            },
        }],
        "probes": [
            {"id": 0, "from": {"pod": "farm/cow"}, "to": {"ip": "198.51.100.1"},
             "protocol": "TCP", "port": 443, "tls": {"sni": "x"}},
            {"id": 1, "from": {"node": "n1"}, "to": {"special": "s"},
             "protocol": "ICMP", "icmp_type": 8},
        ],
    })
}

fn ask(question: &Value) -> Value {
    let line = axon_evaluate::answer(question.to_string().as_bytes());
    assert!(!line.contains('\n'), "one line: {line}");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let text = question().to_string();
    for (once, twice) in [
        ("\"egress\":[", "\"egress\":[],\"egress\":["),
        ("\"app\":\"cow\"", "\"app\":\"hen\",\"app\":\"cow\""),
        ("\"port\":443", "\"port\":443,\"port\":444"),
    ] {
        let twice = text.replacen(once, twice, 1);
        assert_ne!(twice, text);
        let answer: Value =
            serde_json::from_str(&axon_evaluate::answer(twice.as_bytes())).expect("JSON");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains("stands here twice"), "{answer}");
    }
}

#[test]
fn without_a_proxy_nobody_is_to_listen() {
    let mut asked = question();
    let rules = json!([{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]}]);
    asked["policies"][0]["spec"]["egress"] = rules;
    assert_eq!(ask(&asked)["policies"][0]["accepted"], true);
    asked["config"]["l7Proxy"] = json!(false);
    let refused = &ask(&asked)["policies"][0];
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("enable-l7-proxy"), "{refused}");
}

#[test]
fn what_is_wrong_is_told_by_its_path() {
    let good = ask(&question());
    assert!(good["error"].is_null(), "{good}");
    assert_eq!(good["results"][0]["verdict"], "allow");
    for (pointer, value, part) in [
        (
            "/config/enforcement",
            json!("sometimes"),
            "config.enforcement: \"sometimes\"",
        ),
        ("/config/hostFirewall", json!("on"), "config.hostFirewall: "),
        ("/config", json!({"hostfirewall": true}), "hostfirewall"),
        (
            "/cluster/pods/1/extraLabels/0",
            json!("cidr:10.0.0.0/8"),
            "cluster.pods[1].extraLabels[0]: \"cidr:10.0.0.0/8\"; expected no label of source cidr",
        ),
        (
            "/cluster/pods/0/ip",
            json!("10.0.1"),
            "cluster.pods[0].ip: ",
        ),
        (
            "/cluster/pods/1/ip",
            json!("10.0.1.2"),
            "cluster.pods[1].ip: 10.0.1.2 is",
        ),
        (
            "/cluster/pods/0/node",
            json!("n9"),
            "cluster.pods[0].node: \"n9\"",
        ),
        (
            "/cluster/pods/0/ports/0/port",
            json!(70000),
            "cluster.pods[0].ports[0].port: ",
        ),
        (
            "/cluster/pods/0/ports/0/protocol",
            json!("TPC"),
            "cluster.pods[0].ports[0].protocol: ",
        ),
        (
            "/cluster/pods/1/extraLabels/0",
            json!(""),
            "cluster.pods[1].extraLabels[0]: ",
        ),
        (
            "/cluster/specials/0/reserved/0",
            json!("host"),
            "cluster.specials[0].reserved: ",
        ),
        ("/cluster/dns/0/name", json!("a b"), "cluster.dns[0].name: "),
        ("/cluster/nodes", json!([]), "is no node"),
    ] {
        let mut question = question();
        *question.pointer_mut(pointer).expect(pointer) = value;
        let answer = ask(&question);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{pointer}: {answer}");
    }
    for (pointer, value, part) in [
        (
            "/probes/0/from/pod",
            json!("farm/cat"),
            "from.pod: \"farm/cat\" is no pod",
        ),
        ("/probes/0/to", json!({"pod": "a", "ip": "b"}), "to"),
        ("/probes/0/to/ip", json!("x"), "to.ip: "),
        ("/probes/0/protocol", json!("TPC"), "protocol: "),
        ("/probes/0/protocol", json!("ANY"), "protocol: "),
        ("/probes/0/protocol", json!("ICMP"), "icmp_type: "),
        ("/probes/0/port", json!(65536), "port: "),
        ("/probes/0/port", Value::Null, "port: "),
    ] {
        let mut question = question();
        *question.pointer_mut(pointer).expect(pointer) = value;
        let answer = ask(&question);
        let error = answer["results"][0]["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{pointer}: {answer}");
        assert_eq!(answer["results"][0]["id"], 0);
        assert_eq!(
            answer["results"][1]["verdict"], "allow",
            "the others are answered"
        );
    }
}

#[test]
fn what_is_no_policy_is_refused_and_the_rest_is_answered() {
    for (object, part) in [
        (json!(7), "no object"),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
            "no policy",
        ),
        (
            json!({"apiVersion": "v1", "kind": "List", "items": []}),
            "no policy",
        ),
        (
            json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}),
            "name",
        ),
    ] {
        let mut question = question();
        question["policies"][0] = object.clone();
        let answer = ask(&question);
        let policy = &answer["policies"][0];
        assert_eq!(policy["accepted"], false, "{object}");
        let reason = policy["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(part), "{object}: {reason}");
        assert_eq!(answer["results"][0]["verdict"], "allow");
    }
}

/// Something else in place of a value.
fn other() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "::/0",
            "0.0.0.0/0",
            "::ffff:10.0.0.1",
            "*",
            "**.",
            "n1"
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[], {}])),
    ]
}

/// The n-th value of a tree, counted from its root.
fn nth<'a>(tree: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(tree);
    }
    *n -= 1;
    match tree {
        Value::Array(list) => list.iter_mut().find_map(|item| nth(item, n)),
        Value::Object(map) => map.values_mut().find_map(|item| nth(item, n)),
        _ => None,
    }
}

proptest! {
    #[test]
    fn anything_in_place_of_anything_has_an_answer(
        edits in prop::collection::vec((0..110_usize, other()), 1..4),
    ) {
        let mut question = question();
        for (n, value) in edits {
            if let Some(place) = nth(&mut question, &mut { n }) {
                *place = value;
            }
        }
        let answer = ask(&question);
        if answer["error"].is_null() {
            let count = |tree: &Value, field: &str| tree[field].as_array().map(Vec::len);
            prop_assert_eq!(count(&answer, "results"), count(&question, "probes").or(Some(0)));
            prop_assert_eq!(count(&answer, "policies"), count(&question, "policies").or(Some(0)));
        }
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let line = axon_evaluate::answer(&bytes);
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        prop_assert!(answer["policies"].is_array());
    }
}
