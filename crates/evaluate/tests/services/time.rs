//! What becomes of clients and connections from one state to the next.

use serde_json::{Value, json};

use crate::world::{
    A, BALANCED, VIP, ask, pod, probe, probe_with, service, state, terminating, unready, web, with,
};

fn sticky(seconds: u32) -> Value {
    service(json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
    }))
}

fn compared(id: &str, with: &str) -> Value {
    probe_with(probe(id, "c-a", VIP, 80), json!({"compare_with": with}))
}

/// What is said of the last probe of each state.
fn last(states: &[Value], field: &str) -> Vec<Value> {
    let lasts = states.iter().map(|state| {
        let results = state["results"].as_array().expect("results");
        let last = results.last().cloned().unwrap_or_default();
        assert_eq!(last["error"], Value::Null, "{last}");
        last[field].clone()
    });
    lasts.collect()
}

#[test]
fn affinity_lasts_while_its_backend_does_and_its_time() {
    let objects = || with([web("a"), web("b"), sticky(4)]);
    let first = || probe("first", "c-a", VIP, 80);
    for (name, wait, objects_then, expected) in [
        ("in time", 4, objects(), "must"),
        ("too late", 5, objects(), "may"),
        (
            "one more",
            0,
            with([
                web("a"),
                web("b"),
                pod("more", "web", "a", "10.0.1.50"),
                sticky(4),
            ]),
            "must",
        ),
        (
            "one of the two is gone",
            0,
            with([web("a"), sticky(4)]),
            "may",
        ),
        (
            "both are gone",
            0,
            with([pod("more", "web", "a", "10.0.1.50"), sticky(4)]),
            "must_not",
        ),
    ] {
        let then = state(objects_then, wait, vec![compared("then", "first")]);
        let states = ask(json!({}), vec![state(objects(), 0, vec![first()]), then]);
        assert_eq!(last(&states, "same_as")[1], expected, "{name}");
        assert_eq!(last(&states, "exactly_one"), [true, true], "{name}");
        let off = json!({"enable-session-affinity": false});
        let then = state(objects(), wait, vec![compared("then", "first")]);
        let states = ask(off, vec![state(objects(), 0, vec![first()]), then]);
        assert_eq!(
            last(&states, "same_as")[1],
            "may",
            "{name}, without affinity"
        );
        assert_eq!(last(&states, "exactly_one"), [false, false], "{name}");
    }
}

/// What one client does says nothing of another.
#[test]
fn affinity_is_each_clients_own() {
    let objects = || {
        with([
            web("a"),
            web("b"),
            pod("c-c", "client", "a", "10.0.1.2"),
            sticky(60),
        ])
    };
    let other = probe_with(
        probe("other", "c-c", VIP, 80),
        json!({"compare_with": "first"}),
    );
    let probes = vec![probe("first", "c-a", VIP, 80), other];
    let states = ask(json!({}), vec![state(objects(), 0, probes)]);
    assert_eq!(last(&states, "same_as"), ["may"]);
}

#[test]
fn nodes_agree_on_a_flow_by_its_hash_and_not_by_chance() {
    let on = |id: &str, node: &str, fields: Value| {
        let mut asked = probe_with(probe(id, "outside/ext", BALANCED, 80), fields);
        asked["to"]["via"] = json!(node);
        asked
    };
    for (algorithm, port, expected) in [
        ("maglev", json!(41_000), "must"),
        ("maglev", Value::Null, "may"),
        ("random", json!(41_000), "may"),
    ] {
        let probes = vec![
            on("one", "a", json!({"same_source_port": port})),
            on(
                "two",
                "b",
                json!({"same_source_port": port, "compare_with": "one"}),
            ),
        ];
        let objects = with([web("a"), web("b"), service(json!({}))]);
        let states = ask(
            json!({"bpf-lb-algorithm": algorithm}),
            vec![state(objects, 0, probes)],
        );
        assert_eq!(last(&states, "same_as"), [expected], "{algorithm} {port}");
        let both = ["shop/web-a:8080", "shop/web-b:8080"];
        assert_eq!(last(&states, "backends"), [json!(both)], "of all flows");
    }
}

#[test]
fn open_connections_go_on_while_their_backend_does() {
    let open = |from: &str, to: &str, port, protocol: &str, how: &str| {
        let fields = json!({"protocol": protocol, "connection": {how: "c"}});
        probe_with(probe(how, from, to, port), fields)
    };
    let before = || with([web("a"), service(json!({}))]);
    let web_b = || web("b");
    for (name, after, tcp, udp, who) in [
        ("nothing changes", before(), "yes", "yes", "web-a"),
        (
            "not ready",
            with([unready(web("a")), web_b(), service(json!({}))]),
            "yes",
            "yes",
            "web-a",
        ),
        (
            "terminating",
            with([terminating(web("a")), web_b(), service(json!({}))]),
            "yes",
            "yes",
            "web-a",
        ),
        (
            "gone, another is there",
            with([web_b(), service(json!({}))]),
            "no",
            "moves",
            "web-b",
        ),
        (
            "gone, nobody is there",
            with([service(json!({}))]),
            "no",
            "no",
            "",
        ),
        (
            "no longer the service's",
            with([
                web("a"),
                web_b(),
                service(json!({"selector": {"app": "x"}})),
            ]),
            "yes",
            "no",
            "web-a",
        ),
        (
            "the service is gone",
            with([web("a")]),
            "yes",
            "no",
            "web-a",
        ),
    ] {
        for (from, to, port) in [("c-a", VIP, 80), ("outside/ext", A, 30_080)] {
            for (protocol, expected) in [("TCP", tcp), ("UDP", udp)] {
                let states = ask(
                    json!({}),
                    vec![
                        state(before(), 0, vec![open(from, to, port, protocol, "open")]),
                        state(
                            after.clone(),
                            0,
                            vec![open(from, to, port, protocol, "use")],
                        ),
                    ],
                );
                let name = format!("{name}: {from} {protocol} {}", states[1]);
                assert_eq!(last(&states, "continues")[1], expected, "{name}");
                let backends = match expected {
                    "no" => Value::Null,
                    _ => json!([format!("shop/{who}:8080")]),
                };
                assert_eq!(last(&states, "backends")[1], backends, "{name}");
            }
        }
    }
}
