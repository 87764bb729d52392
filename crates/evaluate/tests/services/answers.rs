//! Who answers, and whose address he sees.

use serde_json::{Value, json};

use crate::world::{
    A, B, BALANCED, VIP, ask, ask_one, clients, node, pod, probe, probe_with, reported, service,
    state, unready, web, with,
};

fn both() -> Vec<Value> {
    with([web("a"), web("b"), service(json!({}))])
}

/// Result, who answers, and what he sees: `+` the client, `-` a node.
fn short(answer: &Value) -> String {
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let sources = answer["source"].as_object().cloned().unwrap_or_default();
    let seen = |word: &Value| if word == "preserved" { "+" } else { "-" };
    let words = sources
        .iter()
        .map(|(who, word)| format!("{who}{}", seen(word)));
    let words: Vec<String> = [answer["result"].as_str().unwrap_or("?").to_owned()]
        .into_iter()
        .chain(words)
        .collect();
    words.join(" ").replace("shop/", "")
}

#[test]
fn who_asks_is_answered_by_whom_his_node_knows() {
    let dsr = json!({"bpf-lb-mode": "dsr"});
    let hybrid = json!({"bpf-lb-mode": "hybrid"});
    let udp = json!({"protocol": "UDP"});
    for (name, config, asked, expected) in [
        (
            "a pod",
            json!({}),
            probe("", "c-a", VIP, 80),
            "answer web-a:8080+ web-b:8080+",
        ),
        (
            "a node",
            json!({}),
            probe("", "node/a", VIP, 80),
            "answer web-a:8080- web-b:8080-",
        ),
        (
            "who is outside, by a node port",
            json!({}),
            probe("", "outside/ext", B, 30_080),
            "answer web-a:8080- web-b:8080+",
        ),
        (
            "by a balanced address",
            json!({}),
            probe("", "outside/ext", BALANCED, 80),
            "answer web-a:8080+ web-b:8080-",
        ),
        (
            "by a cluster address",
            json!({}),
            probe("", "outside/ext", VIP, 80),
            "dropped",
        ),
        (
            "where that is open",
            json!({"bpf-lb-external-clusterip": true}),
            probe("", "outside/ext", VIP, 80),
            "answer web-a:8080+ web-b:8080-",
        ),
        (
            "who is answered directly",
            dsr.clone(),
            probe_with(probe("", "outside/ext", A, 30_080), udp.clone()),
            "answer web-a:8080+ web-b:8080+",
        ),
        (
            "hybrid, TCP",
            hybrid.clone(),
            probe("", "outside/ext", A, 30_080),
            "answer web-a:8080+ web-b:8080+",
        ),
        (
            "hybrid, UDP",
            hybrid.clone(),
            probe_with(probe("", "outside/ext", A, 30_080), udp.clone()),
            "answer web-a:8080+ web-b:8080-",
        ),
        (
            "a pod, by another node's port",
            json!({}),
            probe("", "c-a", B, 30_080),
            "answer web-a:8080+ web-b:8080+",
        ),
        (
            "a port that nobody has",
            json!({}),
            probe("", "c-a", B, 30_081),
            "refused",
        ),
        (
            "a port that the address has not",
            json!({}),
            probe("", "c-a", VIP, 81),
            "refused",
        ),
        (
            "a pod itself",
            json!({}),
            probe("", "c-a", "10.0.2.11", 99),
            "answer web-b:99+",
        ),
        (
            "a pod itself, of a node",
            json!({}),
            probe("", "node/a", "10.0.2.11", 99),
            "answer web-b:99-",
        ),
        (
            "the world outside",
            json!({}),
            probe("", "c-a", "198.51.100.7", 443),
            "answer outside/ext:443-",
        ),
        (
            "an address that nobody has",
            json!({}),
            probe("", "c-a", "198.51.100.8", 443),
            "none",
        ),
        (
            "a family that the client has not",
            json!({}),
            probe("", "c-a", "2001:db8::9", 443),
            "none",
        ),
    ] {
        let answer = ask_one(config, both(), asked);
        assert_eq!(short(&answer), expected, "{name}: {answer}");
    }
}

#[test]
fn what_is_asked_for_is_the_peer_and_shares_are_even() {
    let answer = ask_one(json!({}), both(), probe("x", "c-a", VIP, 80));
    assert_eq!(answer["id"], "x");
    assert_eq!(answer["peer"], format!("{VIP}:80"));
    assert_eq!(
        answer["shares"],
        json!({"shop/web-a:8080": 0.5, "shop/web-b:8080": 0.5})
    );
    assert_eq!(answer["exactly_one"], false);
    let v6 = json!({"clusterIP": "fd96::1"});
    let objects = vec![
        node("a", "2001:db8::1", "east"),
        pod("c-a", "client", "a", "fd00::1"),
        pod("web-a", "web", "a", "fd00::11"),
        service(v6),
    ];
    let answer = ask_one(json!({}), objects, probe("x", "c-a", "fd96::1", 80));
    assert_eq!(answer["peer"], "[fd96::1]:80");
    assert_eq!(answer["shares"], json!({"shop/web-a:8080": 1.0}));
    assert_eq!(answer["exactly_one"], true);
}

/// Weights count where flows are told apart by a table.
#[test]
fn a_table_has_the_shares_of_its_weights() {
    let slice = |name: &str, addr: &str, weight: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"service.cilium.io/weight": weight},
            },
            "ports": [{"name": "t", "port": 8080}],
            "endpoints": [{"addresses": [addr]}],
        })
    };
    let objects = with([
        pod("x", "other", "a", "10.0.1.21"),
        pod("y", "other", "b", "10.0.2.21"),
        slice("x", "10.0.1.21", "75"),
        slice("y", "10.0.2.21", "25"),
        service(json!({"selector": {}})),
    ]);
    let asked = probe("", "outside/ext", BALANCED, 80);
    let answer = ask_one(
        json!({"bpf-lb-algorithm": "maglev"}),
        objects.clone(),
        asked.clone(),
    );
    let share = answer["shares"]["shop/x:8080"].as_f64().expect("a share");
    assert!((0.73..0.77).contains(&share), "{answer}");
    // Unplaced, an endpoint is where its pod is.
    assert_eq!(
        answer["source"],
        json!({"shop/x:8080": "preserved", "shop/y:8080": "node"})
    );
    let answer = ask_one(json!({}), objects, asked);
    assert_eq!(
        answer["shares"]["shop/x:8080"], 0.5,
        "chance knows no weights"
    );
}

#[test]
fn local_policies_find_who_is_near_or_nobody() {
    let local = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 32_001});
    let objects = with([web("b"), service(local)]);
    for (asked, expected) in [
        (probe("", "c-b", VIP, 80), "answer web-b:8080+"),
        (probe("", "c-a", VIP, 80), "dropped"),
        (probe("", "outside/ext", B, 30_080), "answer web-b:8080+"),
        (probe("", "outside/ext", A, 30_080), "dropped"),
    ] {
        let answer = ask_one(json!({}), objects.clone(), asked);
        assert_eq!(short(&answer), expected, "{answer}");
    }
    for (node, code, here) in [(A, 503, 0), (B, 200, 1)] {
        let asked = probe_with(
            probe("", "outside/ext", node, 32_001),
            json!({"http": "/healthz"}),
        );
        let answer = ask_one(json!({}), objects.clone(), asked.clone());
        assert_eq!(answer["result"], "answer");
        assert_eq!(
            answer["health"],
            json!({"code": code, "local_endpoints": here})
        );
        let off = json!({"enable-health-check-nodeport": false});
        assert_eq!(ask_one(off, objects.clone(), asked)["result"], "refused");
    }
}

#[test]
fn nobody_behind_a_service_is_told_as_agents_are_told_to() {
    let objects = with([unready(web("a")), service(json!({}))]);
    for (config, expected) in [
        (json!({}), "refused"),
        (json!({"service-no-backend-response": "drop"}), "dropped"),
    ] {
        for asked in [
            probe("", "c-a", VIP, 80),
            probe("", "outside/ext", A, 30_080),
        ] {
            let answer = ask_one(config.clone(), objects.clone(), asked);
            assert_eq!(answer["result"], expected, "{answer}");
        }
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "t", "port": 8080}],
        "endpoints": [{"addresses": ["10.9.9.9"]}],
    });
    let answer = ask_one(
        json!({}),
        with([slice.clone(), service(json!({}))]),
        probe("", "c-a", VIP, 80),
    );
    assert_eq!(short(&answer), "dropped", "an endpoint that nobody is");
    let mut outside = slice.clone();
    outside["endpoints"][0]["addresses"][0] = json!("198.51.100.7");
    let answer = ask_one(
        json!({}),
        with([outside, service(json!({}))]),
        probe("", "c-a", VIP, 80),
    );
    assert_eq!(short(&answer), "answer outside/ext:8080-");
    let mut own = slice;
    own["endpoints"][0]["addresses"][0] = json!(A);
    let answer = ask_one(
        json!({}),
        with([own, service(json!({}))]),
        probe("", "c-a", VIP, 80),
    );
    assert_eq!(short(&answer), "refused", "a node at which nobody listens");
}

#[test]
fn ports_of_the_node_lead_to_the_pod_that_asks_for_them() {
    let host_port = |name: &str, addr: &str, created: &str| {
        let mut pod = pod(name, "agent", "a", addr);
        pod["metadata"]["creationTimestamp"] = json!(created);
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": 8088}]);
        pod
    };
    let objects = with([host_port("one", "10.0.1.31", "")]);
    for (asked, expected) in [
        (probe("", "outside/ext", A, 8088), "answer one:8080+"),
        (probe("", "outside/ext", B, 8088), "refused"),
        (probe("", "c-a", A, 8088), "answer one:8080+"),
        (probe("", "c-b", A, 8088), "answer one:8080+"),
        (
            probe_with(
                probe("", "outside/ext", A, 8088),
                json!({"protocol": "UDP"}),
            ),
            "refused",
        ),
    ] {
        let answer = ask_one(json!({}), objects.clone(), asked);
        assert_eq!(short(&answer), expected, "{answer}");
    }
    let both = with([
        host_port("one", "10.0.1.31", ""),
        host_port("two", "10.0.1.32", ""),
    ]);
    let states = ask(
        json!({}),
        vec![state(both, 0, vec![probe("", "outside/ext", A, 8088)])],
    );
    assert_eq!(short(&states[0]["results"][0]), "answer one:8080+");
    let field = "spec.containers[0].ports[0].hostPort";
    let expected = [("Pod shop/two".to_owned(), field.to_owned())];
    assert_eq!(reported(&states[0]), expected);
    // A pod in the node's own namespace has the node's ports without our doing.
    let mut own = host_port("own", A, "");
    own["spec"]["hostNetwork"] = json!(true);
    let answer = ask_one(json!({}), with([own]), probe("", "outside/ext", A, 8080));
    assert_eq!(short(&answer), "answer own:8080+");
}

#[test]
fn redirections_lead_to_the_pods_of_the_node() {
    let redirect = |skips: bool, front: Value| {
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumLocalRedirectPolicy",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "redirectFrontend": front, "skipRedirectFromBackend": skips,
                "redirectBackend": {
                    "localEndpointSelector": {"matchLabels": {"app": "cache"}},
                    "toPorts": [{"port": "9090"}],
                },
            },
        })
    };
    let of_service = json!({"serviceMatcher": {"serviceName": "web", "namespace": "shop"}});
    let of_address = json!({"addressMatcher": {"ip": "169.254.0.1", "toPorts": [{"port": "80"}]}});
    let cache = || pod("cache", "cache", "a", "10.0.1.41");
    let on = || json!({"enable-local-redirect-policy": true});
    let objects = |policy: Value, cache: Value| with([web("b"), service(json!({})), cache, policy]);
    for (name, config, policy, cache, asked, expected) in [
        (
            "here",
            on(),
            redirect(false, of_service.clone()),
            cache(),
            probe("", "c-a", VIP, 80),
            "answer cache:9090+",
        ),
        (
            "elsewhere",
            on(),
            redirect(false, of_service.clone()),
            cache(),
            probe("", "c-b", VIP, 80),
            "answer web-b:8080+",
        ),
        (
            "not ready",
            on(),
            redirect(false, of_service.clone()),
            unready(cache()),
            probe("", "c-a", VIP, 80),
            "answer web-b:8080+",
        ),
        (
            "itself",
            on(),
            redirect(false, of_service.clone()),
            cache(),
            probe("", "cache", VIP, 80),
            "answer cache:9090+",
        ),
        (
            "itself, passing by",
            on(),
            redirect(true, of_service.clone()),
            cache(),
            probe("", "cache", VIP, 80),
            "answer web-b:8080+",
        ),
        (
            "off",
            json!({}),
            redirect(false, of_service.clone()),
            cache(),
            probe("", "c-a", VIP, 80),
            "answer web-b:8080+",
        ),
        (
            "an address",
            on(),
            redirect(false, of_address.clone()),
            cache(),
            probe("", "c-a", "169.254.0.1", 80),
            "answer cache:9090+",
        ),
        (
            "itself, from an address",
            on(),
            redirect(true, of_address.clone()),
            cache(),
            probe("", "cache", "169.254.0.1", 80),
            "none",
        ),
        (
            "from outside",
            on(),
            redirect(false, of_address.clone()),
            cache(),
            probe("", "outside/ext", "169.254.0.1", 80),
            "dropped",
        ),
    ] {
        let answer = ask_one(config, objects(policy, cache), asked);
        assert_eq!(short(&answer), expected, "{name}: {answer}");
    }
}

#[test]
fn objects_that_cannot_be_read_are_reported_and_the_others_count() {
    let mut bad = service(json!({"ports": [{"port": "http"}]}));
    bad["metadata"]["name"] = json!("bad");
    let objects = with([bad, web("a"), service(json!({"externalIPs": ["x"]}))]);
    let states = ask(
        json!({}),
        vec![state(objects, 0, vec![probe("", "c-a", VIP, 80)])],
    );
    assert_eq!(short(&states[0]["results"][0]), "answer web-a:8080+");
    let expected = [
        ("Service shop/bad", "spec.ports[0].port"),
        ("Service shop/web", "spec.externalIPs[0]"),
    ];
    let expected = expected.map(|(object, field)| (object.to_owned(), field.to_owned()));
    assert_eq!(reported(&states[0]), expected);
    let nothing = ask(json!({}), vec![state(clients(), 0, Vec::new())]);
    assert_eq!(reported(&nothing[0]), []);
}
