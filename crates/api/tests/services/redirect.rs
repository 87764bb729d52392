//! CiliumLocalRedirectPolicies.

use axon_api::manifest::{Object, parse};
use axon_model::{LocalRedirect, ObjectKey, Protocol, RedirectFrontend};
use serde_json::{Value, json};

use crate::object;

fn redirect_tree(front: Value, back: Value) -> Value {
    let mut tree = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumLocalRedirectPolicy",
        "metadata": {"name": "dns", "namespace": "kube-system"},
    });
    tree["spec"]["redirectFrontend"] = front;
    tree["spec"]["redirectBackend"] = back;
    tree
}

fn redirect(front: Value, back: Value) -> LocalRedirect {
    match object(&redirect_tree(front, back)) {
        Object::CiliumLocalRedirectPolicy(policy) => policy.to_model().expect("a redirection"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_redirection_is_read_whole() {
    let back = json!({
        "localEndpointSelector": {"matchLabels": {"app": "cache"}},
        "toPorts": [
            {"port": "5353", "protocol": "UDP", "name": "DNS"}, {"port": "5354", "name": "dns-tcp"},
        ],
    });
    let front = json!({"addressMatcher": {"ip": "169.254.20.10", "toPorts": [
        {"port": "53", "protocol": "UDP", "name": "dns"}, {"port": "53", "protocol": "TCP", "name": "dns-tcp"},
    ]}});
    let read = redirect(front, back.clone());
    let RedirectFrontend::Address(addr, ports) = &read.frontend else {
        panic!("{read:?}");
    };
    assert_eq!(addr.to_string(), "169.254.20.10");
    let numbers = |ports: &[axon_model::RedirectPort]| -> Vec<(String, u16, Protocol)> {
        let ports = ports.iter();
        ports
            .map(|p| (p.name.clone(), p.port, p.protocol))
            .collect()
    };
    let named = |name: &str, port, protocol| (name.to_owned(), port, protocol);
    let (udp, tcp) = (Protocol::UDP, Protocol::TCP);
    assert_eq!(
        numbers(ports),
        [named("dns", 53, udp), named("dns-tcp", 53, tcp)]
    );
    assert_eq!(
        numbers(&read.ports),
        [named("dns", 5353, udp), named("dns-tcp", 5354, tcp)]
    );
    assert!(!read.skips_own);
    let front = json!({"serviceMatcher": {"serviceName": "kube-dns", "namespace": "kube-system"}});
    let read = redirect(front, back);
    let service = ObjectKey::new("kube-system", "kube-dns");
    assert_eq!(
        read.frontend,
        RedirectFrontend::Service(service, Vec::new())
    );
}

#[test]
fn a_redirection_with_which_something_is_wrong_is_refused_by_its_path() {
    let matcher = json!({"addressMatcher": {"ip": "169.254.20.10", "toPorts": [{"port": "53"}]}});
    let front = "spec.redirectFrontend";
    let back = |ports: Value| json!({"localEndpointSelector": {"matchLabels": {"a": "b"}}, "toPorts": ports});
    let good = back(json!([{"port": "53"}]));
    let address = |ip: &str, ports: Value| json!({"addressMatcher": {"ip": ip, "toPorts": ports}});
    let service =
        |namespace: &str| json!({"serviceMatcher": {"serviceName": "a", "namespace": namespace}});
    for (redirected, answers, path, part) in [
        (
            json!({}),
            &good,
            front.to_owned(),
            "addressMatcher or serviceMatcher",
        ),
        (
            json!({"addressMatcher": matcher["addressMatcher"], "serviceMatcher": service("kube-system")["serviceMatcher"]}),
            &good,
            front.to_owned(),
            "either",
        ),
        (
            address("x", json!([{"port": "53"}])),
            &good,
            format!("{front}.addressMatcher.ip"),
            "\"x\"",
        ),
        (
            address("10.0.0.1", json!([])),
            &good,
            format!("{front}.addressMatcher.toPorts"),
            "at least one",
        ),
        (
            address("10.0.0.1", json!([{"port": "0"}])),
            &good,
            format!("{front}.addressMatcher.toPorts[0].port"),
            "1 to 65535",
        ),
        (
            address(
                "10.0.0.1",
                json!([{"port": "1", "name": "a"}, {"port": "2"}]),
            ),
            &good,
            format!("{front}.addressMatcher.toPorts[1].name"),
            "each of several",
        ),
        (
            service("default"),
            &good,
            format!("{front}.serviceMatcher.namespace"),
            "kube-system",
        ),
        (
            matcher.clone(),
            &back(json!([])),
            "spec.redirectBackend.toPorts".to_owned(),
            "at least one",
        ),
        (
            matcher.clone(),
            &back(json!([{"port": "http"}])),
            "spec.redirectBackend.toPorts[0].port".to_owned(),
            "\"http\"",
        ),
        (
            matcher.clone(),
            &back(json!([{"port": "53", "protocol": "ANY"}])),
            "spec.redirectBackend.toPorts[0].protocol".to_owned(),
            "TCP, UDP or SCTP",
        ),
    ] {
        let tree = redirect_tree(redirected, answers.clone());
        let error = parse(tree.to_string().as_bytes()).expect_err(&path);
        assert_eq!(error.path, path, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}
