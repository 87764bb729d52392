//! Texts, their objects, and what is said of bad ones.

use axon_api::manifest::{Object, parse, to_yaml};

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  creationTimestamp: null
  labels: {app: web}
spec:
  nodeName: n1
  unknown: {kept: out}
  containers:
  - name: main
    image: none
    command: [python3, -m, http.server]
    env: [{name: PORT, value: \"80\"}]
    ports: [{name: http, containerPort: 80}]
    readinessProbe: {httpGet: {path: /, port: http}}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: fd00::1}]}
";

#[test]
fn a_text_may_hold_many_objects() {
    let text = format!(
        "# comment\n---\n{POD}---\n\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\n\
         ---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  \
         metadata: {{name: shop, namespace: ignored}}\n- apiVersion: v1\n  kind: Node\n  \
         metadata: {{name: n1}}\n  spec: {{podCIDRs: [10.0.0.0/24, 'fd00::/64']}}\n"
    );
    let manifest = parse(text.as_bytes()).expect("manifest");
    let found: Vec<_> = manifest
        .documents
        .iter()
        .map(|d| {
            let key = d.key.to_string();
            (d.line, d.kind.clone(), key, d.object.is_some())
        })
        .collect();
    let expected = [
        (3, "Pod", "default/web", true),
        (23, "ConfigMap", "x", false),
        (30, "Namespace", "shop", true),
        (33, "Node", "n1", true),
    ];
    let expected = expected.map(|(l, k, n, o)| (l, k.to_owned(), n.to_owned(), o));
    assert_eq!(found, expected);
    let Some(Object::Pod(pod)) = &manifest.documents[0].object else {
        panic!("no pod");
    };
    let pod = pod.to_model().expect("pod");
    assert_eq!(pod.ips.len(), 2);
    assert_eq!(pod.ports[0].name, "http");
    assert_eq!(pod.service_account, "default");
    let Some(Object::Namespace(namespace)) = &manifest.documents[2].object else {
        panic!("no namespace");
    };
    let labels = namespace.to_model().labels;
    assert_eq!(
        labels
            .get("kubernetes.io/metadata.name")
            .map(String::as_str),
        Some("shop")
    );
}

#[test]
fn json_and_a_byte_order_mark_are_read() {
    for text in [
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#,
        "\u{feff}{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n",
        "apiVersion: v1\r\nkind: Namespace\r\nmetadata:\r\n  name: a\r\n---\r\n",
        "apiVersion: v1\nkind: Namespace\nmetadata: &m {name: a}\nother: {<<: *m}\n",
    ] {
        let manifest = parse(text.as_bytes()).expect(text);
        assert_eq!(manifest.documents.len(), 1, "{text}");
    }
}

#[test]
fn what_is_written_is_read_alike() {
    let manifest = parse(POD.as_bytes()).expect("manifest");
    let object = manifest.documents[0].object.clone().expect("object");
    let again = parse(to_yaml(&object).expect("yaml").as_bytes()).expect("manifest");
    assert_eq!(again.documents[0].object, Some(object));
}

/// Each bad text: line, path, and what the message must name.
#[test]
fn errors_name_line_field_and_value() {
    let policy = |spec: &str| {
        format!(
            "# policies\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
             metadata: {{name: p}}\nspec:\n{spec}"
        )
    };
    let cases: Vec<(&str, String, usize, &str, &[&str])> = vec![
        (
            "syntax in the second document",
            format!("{POD}---\na: [1,\nb: 2\n"),
            21,
            "",
            &["no YAML", "at line 19"],
        ),
        (
            "a tab for indentation",
            "apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n".to_owned(),
            4,
            "",
            &["no YAML"],
        ),
        (
            "a key twice",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    x: '1'\n    x: '2'\n".to_owned(),
            7,
            "metadata.labels.x",
            &["\"x\"", "twice"],
        ),
        ("no object", "- a\n- b\n".to_owned(), 1, "", &["[\"a\",\"b\"]", "apiVersion"]),
        ("no kind", "apiVersion: v1\n".to_owned(), 1, "kind", &["missing"]),
        (
            "a name of a path",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: ../etc}\n".to_owned(),
            3,
            "metadata.name",
            &["../etc", "lower-case"],
        ),
        (
            "a label that lost its value",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app:\n".to_owned(),
            6,
            "metadata.labels.app",
            &["null", "string"],
        ),
        (
            "a number for a text",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    command:\n    - sleep\n    - 5\n".to_owned(),
            9,
            "spec.containers[0].command[1]",
            &["`5`", "string"],
        ),
        (
            "no prefix",
            "apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec:\n  podCIDRs:\n  - 10.0.0.0/24\n  - 10.1.0.0\n".to_owned(),
            7,
            "spec.podCIDRs[1]",
            &["10.1.0.0", "address/length"],
        ),
        (
            "a policy of an old version",
            "apiVersion: cilium.io/v1\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n".to_owned(),
            1,
            "apiVersion",
            &["cilium.io/v1", "cilium.io/v2"],
        ),
        (
            "a field misspelt",
            policy("  endpointSelector: {}\n  ingress:\n  - fromEndpoint:\n    - {}\n"),
            9,
            "spec.ingress[0].fromEndpoint",
            &["fromEndpoint`", "did you mean `fromEndpoints`"],
        ),
        (
            "a port as a number",
            policy("  endpointSelector: {}\n  ingress:\n  - toPorts:\n    - ports:\n      - port: 80\n"),
            11,
            "spec.ingress[0].toPorts[0].ports[0].port",
            &["`80`", "string"],
        ),
        (
            "a list for a selector",
            policy("  endpointSelector: []\n  ingress: []\n"),
            7,
            "spec.endpointSelector",
            &["list", "a map"],
        ),
        (
            "an unknown operator",
            policy("  endpointSelector:\n    matchExpressions:\n    - {key: a, operator: Matches}\n  ingress: []\n"),
            9,
            "spec.endpointSelector.matchExpressions[0].operator",
            &["Matches", "NotIn"],
        ),
        (
            "a tag",
            "apiVersion: v1\nkind: !secret Pod\n".to_owned(),
            2,
            "kind",
            &["tag"],
        ),
        ("no UTF-8", String::new(), 0, "", &[]),
    ];
    for (name, text, line, path, parts) in cases {
        if text.is_empty() {
            let error = parse(b"a: 1\nb: \xff\n").expect_err(name);
            assert_eq!(
                (error.line, error.message.as_str()),
                (2, "is no UTF-8 text")
            );
            continue;
        }
        let error = parse(text.as_bytes()).expect_err(name);
        assert_eq!(
            (error.line, error.path.as_str()),
            (line, path),
            "{name}: {error}"
        );
        for part in parts {
            assert!(
                error.message.contains(part),
                "{name}: {error} has no {part}"
            );
        }
    }
}

/// Whoever can write one could make his pods an address, a node or a name.
#[test]
fn an_identity_claims_nothing_that_only_agents_know() {
    let identity = |label: &str| {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: '300'}}\n\
             security-labels: {{'k8s:app': web, '{label}': ''}}\n"
        );
        parse(text.as_bytes()).map(|_| ())
    };
    assert_eq!(identity("container:build"), Ok(()));
    for claimed in [
        "cidr:10.0.0.0/8",
        "cidrgroup:a",
        "fqdn:a.b",
        "node:a",
        "reserved:host",
    ] {
        let error = identity(claimed).expect_err(claimed);
        assert_eq!(error.path, format!("security-labels.{claimed}"), "{error}");
        assert!(error.message.contains("no label of source"), "{error}");
    }
}

/// Whoever may write a manifest chooses these: what terminals, files and
/// metrics would obey is in none of them.
#[test]
fn names_and_labels_are_words() {
    let pod = |name: &str, namespace: &str, key: &str, value: &str| {
        let text = |text: &str| serde_json::to_string(text).expect("a string");
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n  labels: {{{}: {}}}\n",
            text(name),
            text(namespace),
            text(key),
            text(value)
        )
    };
    let read = |text: String| parse(text.as_bytes());
    assert!(read(pod("web", "shop", "app", "web")).is_ok());
    for evil in [
        "../../etc/shadow",
        "/run/axon/axon.sock",
        "..",
        "a\u{1b}[2J",
        "a\u{9b}1m",
        "a\nmetric{x=\"y\"} 1",
        "a\"} 1",
        "a\\",
        "a\0b",
        "a\rb",
        "\u{202e}bew",
        "a b",
        "$(id)",
        "-rf",
    ] {
        for text in [
            pod(evil, "shop", "app", "web"),
            pod("web", evil, "app", "web"),
            pod("web", "shop", evil, "web"),
            pod("web", "shop", "app", evil),
        ] {
            let error = read(text.clone()).expect_err(&text);
            let obeyed = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!error.to_string().contains(obeyed), "{error:?}");
        }
    }
}

#[test]
fn bounds_are_refused_and_said() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let list = [format!("*a{}", n - 1).as_str(); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        text
    };
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(1 << 20),
        ["*a"; 40].join(", ")
    );
    for (name, text, part) in [
        ("aliases", bomb, "aliases"),
        ("long aliases", long, "aliases"),
        ("depth, flow", "[".repeat(100_000), "deeper than 64"),
        (
            "depth",
            format!("{}1{}", "[".repeat(70), "]".repeat(70)),
            "deeper than 64",
        ),
        ("size", " ".repeat((4 << 20) + 1), "4194305 bytes"),
    ] {
        let error = parse(text.as_bytes()).expect_err(name);
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[test]
fn unknown_fields_can_be_left_out_and_told() {
    use axon_api::manifest::{UnknownFields, judge_with};
    let text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  \
        endpointSelector: {}\n  ingres: []\n  ingress:\n  - toPorts:\n    - ports: [{port: '80', \
        prot: TCP}]\n";
    let (manifest, malformed) = judge_with(text.as_bytes(), UnknownFields::Refuse).expect("text");
    assert_eq!((manifest.documents.len(), malformed.len()), (0, 1));
    assert_eq!(manifest.unknown, []);
    let (manifest, malformed) = judge_with(text.as_bytes(), UnknownFields::Warn).expect("text");
    assert_eq!(
        (manifest.documents.len(), malformed.len()),
        (1, 0),
        "{malformed:?}"
    );
    let told: Vec<_> = manifest
        .unknown
        .iter()
        .map(|e| (e.line, e.path.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (6, "spec.ingres"),
            (9, "spec.ingress[0].toPorts[0].ports[0].prot")
        ]
    );
    // What else is wrong stays so, and many fields are told up to a bound.
    let text = text.replace("'80'", "'x y'");
    let (manifest, _) = judge_with(text.as_bytes(), UnknownFields::Warn).expect("text");
    assert_eq!((manifest.refused.len(), manifest.unknown.len()), (1, 2));
    let many: String = (0..200).map(|n| format!(", f{n}: 1")).collect();
    let text = text.replace(
        "endpointSelector: {}",
        &format!("endpointSelector: {{a: 1{many}}}"),
    );
    let (manifest, malformed) = judge_with(text.as_bytes(), UnknownFields::Warn).expect("text");
    assert_eq!((manifest.unknown.len(), malformed.len()), (100, 1));
}
