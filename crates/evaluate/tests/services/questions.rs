//! Questions with which something is wrong, and large ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{
    VIP, ask, ask_one, node, pod, probe, probe_with, question, service, state, web, with,
};

fn answered(question: &[u8]) -> Value {
    let answer = axon_evaluate::service_answer(question);
    assert!(!answer.contains('\n'), "one line");
    serde_json::from_str(&answer).expect("JSON")
}

#[test]
fn what_is_wrong_with_a_question_is_named() {
    for (text, part) in [
        ("", "EOF"),
        ("{} {}", "trailing"),
        (r#"{"states": 1}"#, "states"),
        (r#"{"cluster": {}}"#, "cluster"),
        (r#"{"outside": {"ext": ["x"]}}"#, "outside.ext[0]"),
        (
            r#"{"config": {"bpf-lb-mode": "nat"}}"#,
            "config.bpf-lb-mode",
        ),
        (r#"{"states": [{"wait": -1}]}"#, "states[0].wait"),
        (r#"{"states": [{"wait": 1e300}]}"#, "states[0].wait"),
        (r#"{"states": [], "states": []}"#, "twice"),
        (
            r#"{"listeners": [{"node": "a", "protocol": "ICMP", "port": 1}]}"#,
            "listeners[0].protocol",
        ),
    ] {
        let answer = answered(text.as_bytes());
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{text}: {answer}");
        assert_eq!(answer["states"], json!([]), "{text}");
    }
    let answer = answered(br#"{"config": {"tunnel-port": 1, "routing-mode": "native"}}"#);
    assert_eq!(answer["ignored"], json!(["tunnel-port"]));
}

#[test]
fn what_is_wrong_with_a_probe_is_named_and_the_others_are_answered() {
    let good = probe("good", "c-a", VIP, 80);
    let to_use = json!({"connection": {"use": "c"}});
    for (probe, part) in [
        (
            probe("p", "nobody", VIP, 80),
            "from.pod: there is no \"shop/nobody\"",
        ),
        (probe("p", "node/z", VIP, 80), "from.node"),
        (probe("p", "outside/z", VIP, 80), "from.outside"),
        (probe("p", "c-a", "x", 80), "to.address"),
        (
            probe_with(good.clone(), json!({"id": "p", "protocol": "ICMP"})),
            "TCP, UDP or SCTP",
        ),
        (
            probe_with(good.clone(), json!({"id": "p", "port": 80})),
            "port",
        ),
        (
            probe_with(good.clone(), to_use),
            "connection.use: nothing was opened as \"c\"",
        ),
    ] {
        let objects = with([web("a"), service(json!({}))]);
        let states = ask(
            json!({}),
            vec![state(objects, 0, vec![probe.clone(), good.clone()])],
        );
        let results = &states[0]["results"];
        let error = results[0]["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{probe}: {results}");
        assert_eq!(results[0]["id"], probe["id"]);
        assert_eq!(results[0]["result"], Value::Null);
        assert_eq!(results[1]["result"], "answer");
    }
}

/// All ways in which chance may fall are gone through: not all of all pairs.
#[test]
fn ten_thousand_backends_are_answered() {
    let count = 10_000_u32;
    let endpoints: Vec<Value> = (0..count)
        .map(|n| json!({"addresses": [format!("10.1.{}.{}", n / 250, n % 250 + 1)]}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "t", "port": 8080}],
        "endpoints": endpoints,
    });
    let objects = || {
        let sticky = service(json!({"sessionAffinity": "ClientIP", "selector": {}}));
        let client = pod("c-a", "client", "a", "10.0.1.1");
        vec![
            node("a", "192.0.2.1", "east"),
            client,
            slice.clone(),
            sticky,
            pod("web-a", "web", "a", "10.1.0.1"),
        ]
    };
    let again = probe_with(
        probe("again", "c-a", VIP, 80),
        json!({"compare_with": "first"}),
    );
    let probes = vec![probe("first", "c-a", VIP, 80), again];
    let states = ask(json!({}), vec![state(objects(), 0, probes)]);
    let results = &states[0]["results"];
    assert_eq!(
        results[0]["backends"],
        json!(["shop/web-a:8080"]),
        "the one that is there"
    );
    assert_eq!(results[1]["exactly_one"], true);
    let answer = ask_one(
        json!({"bpf-lb-algorithm": "maglev"}),
        objects(),
        probe("p", "c-a", VIP, 80),
    );
    assert_eq!(answer["result"], "answer");
}

proptest! {
    /// Whatever is asked is answered.
    #[test]
    fn spoilt_questions_are_answered(at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
        let objects = with_all();
        let probes = vec![probe_with(probe("p", "c-a", VIP, 80), json!({"compare_with": "p"}))];
        let question = question(json!({"bpf-lb-mode": "dsr"}), vec![state(objects, 1, probes)]);
        let mut text = question.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = with;
        answered(&text);
        text.truncate(cut.index(text.len()));
        answered(&text);
    }
}

fn with_all() -> Vec<Value> {
    with([
        web("a"),
        web("b"),
        service(json!({"sessionAffinity": "ClientIP"})),
    ])
}
