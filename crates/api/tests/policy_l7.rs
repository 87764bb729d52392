//! What policies ask of what is said: as rules, and refusals.

mod common;

use axon_api::manifest::parse;
use common::{rules, text};

/// What must be said: in JSON, of each entry in the order of the rule.
#[test]
fn what_must_be_said_is_kept() {
    let item = |beside: &str| {
        let ports = "ports: [{port: '80', protocol: TCP}]";
        let spec = format!(
            "spec: {{endpointSelector: {{}}, egress: [{{toPorts: [{{{ports}, {beside}}}]}}]}}"
        );
        let entries = rules("CiliumNetworkPolicy", &spec).remove(0).entries;
        let said = entries
            .iter()
            .map(|entry| serde_json::to_value(&entry.l7).expect("JSON"));
        said.collect::<Vec<_>>()
    };
    for (beside, field, expected) in [
        ("rules: {http: [{}]}", "/rules/http/0/method", "null"),
        (
            "rules: {http: [{method: GET}]}",
            "/rules/http/0/method",
            "\"GET\"",
        ),
        (
            "rules: {http: [{headers: ['A: b']}]}",
            "/rules/http/0/headers/0/value",
            r#"{"text":"b"}"#,
        ),
        (
            "rules: {http: [{headers: [A]}]}",
            "/rules/http/0/headers/0/value",
            "null",
        ),
        (
            "rules: {http: [{headerMatches: [{name: A, value: b, mismatch: LOG}]}]}",
            "/rules/http/0/headers/0/mismatch",
            "\"LOG\"",
        ),
        (
            "rules: {dns: [{matchName: A.b.}]}",
            "/rules/dns/0",
            "\"a.b\"",
        ),
        (
            "rules: {dns: [{matchPattern: '*.b'}]}",
            "/rules/dns/0",
            "\"*.b\"",
        ),
        (
            "rules: {http: [{headerMatches: [{name: a, value: b, secret: {name: c}}]}]}",
            "/rules/http/0/headers/0/value/secretor",
            r#"[{"name":"c","namespace":""},"b"]"#,
        ),
        (
            "rules: {kafka: [{role: produce, topic: t}]}",
            "/rules/kafka/0/api_keys",
            "[0,3,18]",
        ),
        (
            "rules: {kafka: [{apiKey: Fetch}]}",
            "/rules/kafka/0/api_keys",
            "[1]",
        ),
        (
            "rules: {l7proto: r, l7: [{a: b}]}",
            "/rules/parser",
            r#"["r",[{"a":"b"}]]"#,
        ),
        ("serverNames: [a.b]", "/server_names/0", "\"a.b\""),
        (
            "serverNames: [a.b], terminatingTLS: {secret: {name: s}}, rules: {http: [{}]}",
            "/terminates_tls/secret/name",
            "\"s\"",
        ),
        (
            "listener: {envoyConfig: {kind: CiliumEnvoyConfig, name: c}, name: l}",
            "/listener/config",
            "\"c\"",
        ),
    ] {
        let said = item(beside);
        assert_eq!(said.len(), 1, "{beside}");
        let found = said[0].pointer(field).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some(expected), "{beside}: {}", said[0]);
    }
    for nothing in ["rules: {http: []}", "rules: {}", "serverNames: []"] {
        assert!(item(nothing)[0].is_null(), "{nothing}");
    }
    let beside = "rules: {http: [{path: /a}]}}, {ports: [{port: '81'}]}, {ports: [{port: '82'}]";
    let said = item(beside);
    assert_eq!(said.len(), 2, "what is only allowed comes together");
    assert!(said[0].is_null() && said[1].is_object());
}

/// What of the proxy's rules is refused: item of `toPorts`, path in it, part
/// of the message.
#[test]
fn refusals_of_what_must_be_said_name_the_field() {
    let tcp = "ports: [{port: '80', protocol: TCP}]";
    let dns = "rules: {dns: [{matchName: a}]}";
    for (direction, item, path, part) in [
        (
            "egress",
            format!("{tcp}, rules: {{http: [{{method: '('}}]}}"),
            "rules.http[0].method",
            "regular expression",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{http: [{{path: '(a{{1000}}){{1000}}'}}]}}"),
            "rules.http[0].path",
            "size limit",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{http: [{{headers: ['a b c', ' : x']}}]}}"),
            "rules.http[0].headers[1]",
            "header",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{http: [{{headerMatches: [{{name: a, mismatch: SHOUT}}]}}]}}"),
            "rules.http[0].headerMatches[0].mismatch",
            "SHOUT",
        ),
        (
            "egress",
            format!(
                "{tcp}, rules: {{http: [{{headerMatches: [{{name: a, value: b, secret: {{namespace: c}}}}]}}]}}"
            ),
            "rules.http[0].headerMatches[0].secret.name",
            "missing",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{http: [{{}}], dns: [{{matchName: a}}]}}"),
            "rules",
            "several",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{l7: [{{a: b}}]}}"),
            "rules.l7",
            "l7proto",
        ),
        (
            "egress",
            "ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}".to_owned(),
            "ports[0].protocol",
            "expected TCP",
        ),
        (
            "egress",
            "ports: [{port: '80'}], rules: {http: [{}]}".to_owned(),
            "ports[0].protocol",
            "expected TCP",
        ),
        (
            "egress",
            "ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}".to_owned(),
            "ports[0].port",
            "one port",
        ),
        (
            "egress",
            format!("ports: [{{port: '53', protocol: SCTP}}], {dns}"),
            "ports[0].protocol",
            "UDP",
        ),
        (
            "egress",
            format!("ports: [{{port: '53', endPort: 54}}], {dns}"),
            "ports[0].endPort",
            "54",
        ),
        (
            "ingress",
            format!("ports: [{{port: '53'}}], {dns}"),
            "rules.dns",
            "egress",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{dns: [{{}}]}}"),
            "rules.dns[0]",
            "matchName",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{dns: [{{matchName: 'a*'}}]}}"),
            "rules.dns[0].matchName",
            "pattern",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{dns: [{{matchPattern: 'a b'}}]}}"),
            "rules.dns[0].matchPattern",
            "a b",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{kafka: [{{role: shout}}]}}"),
            "rules.kafka[0].role",
            "produce",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{kafka: [{{apiKey: shout}}]}}"),
            "rules.kafka[0].apiKey",
            "shout",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{kafka: [{{apiVersion: '-1'}}]}}"),
            "rules.kafka[0].apiVersion",
            "number",
        ),
        (
            "egress",
            format!("{tcp}, rules: {{kafka: [{{topic: 'a b'}}]}}"),
            "rules.kafka[0].topic",
            "a b",
        ),
        (
            "egress",
            format!("{tcp}, serverNames: [a], rules: {{http: [{{}}]}}"),
            "serverNames",
            "terminatingTLS",
        ),
        (
            "egress",
            format!("{tcp}, serverNames: ['a b']"),
            "serverNames[0]",
            "a b",
        ),
        (
            "egress",
            format!("{tcp}, terminatingTLS: {{}}"),
            "terminatingTLS.secret.name",
            "missing",
        ),
        (
            "ingress",
            format!("{tcp}, listener: {{envoyConfig: {{name: c}}, name: l}}"),
            "listener",
            "ingress",
        ),
        (
            "egress",
            format!(
                "{tcp}, listener: {{envoyConfig: {{name: c}}, name: l}}, rules: {{http: [{{}}]}}"
            ),
            "listener",
            "rules",
        ),
        (
            "egress",
            format!("{tcp}, listener: {{envoyConfig: {{kind: Pod, name: c}}, name: l}}"),
            "listener.envoyConfig.kind",
            "Pod",
        ),
        (
            "egress",
            format!("{tcp}, listener: {{envoyConfig: {{name: c}}, name: l, priority: 101}}"),
            "listener.priority",
            "101",
        ),
    ] {
        let spec =
            format!("spec: {{endpointSelector: {{}}, {direction}: [{{toPorts: [{{{item}}}]}}]}}");
        let manifest = parse(text("CiliumNetworkPolicy", &spec).as_bytes()).expect(&spec);
        let [refusal] = manifest.refused.as_slice() else {
            panic!("{spec}: {:?}", manifest.refused);
        };
        let path = format!("spec.{direction}[0].toPorts[0].{path}");
        assert_eq!(refusal.error.path, path, "{spec}: {}", refusal.error);
        assert!(
            refusal.error.message.contains(part),
            "{spec}: {}",
            refusal.error
        );
    }
}

#[test]
fn a_policy_asks_for_so_many_expressions_and_no_more() {
    let of = |count: usize| {
        let rules = "{path: /a}, ".repeat(count);
        let ports = "ports: [{port: '80', protocol: TCP}]";
        let spec = format!(
            "spec: {{endpointSelector: {{}}, ingress: [{{toPorts: [{{{ports}, rules: {{http: [{rules}]}}}}]}}]}}"
        );
        parse(text("CiliumNetworkPolicy", &spec).as_bytes()).expect("form")
    };
    assert_eq!(of(1024).refused.len(), 0);
    let refused = of(1025).refused;
    assert_eq!(refused[0].error.path, "spec");
    assert!(
        refused[0].error.message.contains("1025"),
        "{}",
        refused[0].error
    );
}
