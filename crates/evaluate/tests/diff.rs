//! What changes when policies do, in a small cluster.

use axon_api::manifest;
use axon_evaluate::{Change, Described, Flows, changes};

const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web, pod-template-hash: x1}}
spec: {containers: [{name: a}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, labels: {app: web, pod-template-hash: x2}}
spec: {containers: [{name: a}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec: {containers: [{name: a, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.3}
";

/// A policy about `db`.
fn policy(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: db}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: db}}}}, {rules}}}\n"
    )
}

fn described(text: &str) -> Described {
    let manifest = manifest::parse(text.as_bytes()).expect("manifest");
    assert!(manifest.refused.is_empty(), "{:?}", manifest.refused);
    let objects = manifest.documents.into_iter().filter_map(|d| d.object);
    Described::of(objects).expect("cluster")
}

fn differ(current: &str, proposed: &str, prune: bool) -> Vec<String> {
    let current = described(&format!("{CLUSTER}---\n{current}"));
    let after = current.with(&described(proposed), prune);
    let world = |described: &Described| described.world(&described.settings()).expect("world");
    let found = changes(&world(&current), &world(&after)).expect("changes");
    assert!(found.pairs > 0);
    found.changes.iter().map(line).collect()
}

fn line(change: &Change) -> String {
    let Change {
        from,
        to,
        port,
        before,
        after,
    } = change;
    format!(
        "{from} > {to} {port}: {} -> {} ({})",
        before.verdict, after.verdict, after.by
    )
}

#[test]
fn changes_are_told_in_as_few_words_as_they_take() {
    let web = "ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]";
    let sql = "ingress: [{fromEndpoints: [{matchLabels: {app: web}}], \
               toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]";
    let range = "ingress: [{fromEndpoints: [{matchLabels: {app: web}}], \
                 toPorts: [{ports: [{port: '5000', endPort: 6000, protocol: TCP}]}]}]";
    let out = "egress: [{toCIDR: [192.0.2.0/24]}]";
    let denied = "deny (ingress: no rule allows it)";
    let world = format!("world > default/db any: allow -> {denied}");
    let nodes = [format!("remote-node > default/db any: allow -> {denied}")];
    type Case = (&'static str, String, String, bool, Vec<String>);
    let cases: [Case; 6] = [
        ("the same again", policy(web), policy(web), false, vec![]),
        (
            "a first policy",
            String::new(),
            policy(web),
            false,
            vec![nodes[0].clone(), world.clone()],
        ),
        (
            "a named port",
            policy(web),
            policy(sql),
            false,
            vec![format!(
                "default/web > default/db any other: allow -> {denied}"
            )],
        ),
        (
            "a wider range",
            policy(sql),
            policy(range),
            false,
            vec![
                "default/web > default/db TCP 5000-5431: deny -> allow (ingress: default/db)"
                    .into(),
                "default/web > default/db TCP 5433-6000: deny -> allow (ingress: default/db)"
                    .into(),
            ],
        ),
        (
            "all are taken away",
            policy(web),
            String::new(),
            true,
            vec![
                "remote-node > default/db any: deny -> allow ()".into(),
                "world > default/db any: deny -> allow ()".into(),
            ],
        ),
        (
            "out to a prefix alone",
            String::new(),
            policy(out),
            false,
            ["default/web", "host", "remote-node", "world"]
                .map(|to| {
                    format!("default/db > {to} any: allow -> deny (egress: no rule allows it)")
                })
                .to_vec(),
        ),
    ];
    for (name, current, proposed, prune, expected) in cases {
        assert_eq!(differ(&current, &proposed, prune), expected, "{name}");
    }
}

#[test]
fn what_may_be_said_is_a_difference_too() {
    let web = |rules: &str| {
        policy(&format!(
            "ingress: [{{fromEndpoints: [{{matchLabels: {{app: web}}}}], \
             toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}]"
        ))
    };
    let both = "{method: GET}, {method: PUT, path: /a}";
    let turned = "{method: PUT, path: /a}, {method: GET}";
    assert!(differ(&web(both), &web(turned), false).is_empty());

    let current = described(&format!("{CLUSTER}---\n{}", web(both)));
    let after = current.with(&described(&web("{method: GET}, {path: /b}")), false);
    let world = |described: &Described| described.world(&described.settings()).expect("world");
    let found = changes(&world(&current), &world(&after)).expect("changes");
    let told: Vec<String> = found.changes.iter().map(line).collect();
    assert_eq!(
        told,
        ["default/web > default/db TCP 80: redirect -> redirect (ingress: default/db)"]
    );
    let Change { before, after, .. } = &found.changes[0];
    assert_eq!(before.said, ["PUT /a"]);
    assert_eq!(after.said, ["any method /b"]);
}

#[test]
fn flows_are_those_of_workloads() {
    let current = described(CLUSTER);
    let sql = "ingress: [{fromEndpoints: [{matchLabels: {app: web}}], \
               toPorts: [{ports: [{port: '5432'}]}]}]";
    let after = current.with(&described(&policy(sql)), false);
    let before = current.world(&current.settings()).expect("world");
    let after = after.world(&current.settings()).expect("world");
    let mut flows = Flows::new(&current, &before);
    let from = |pod: &str, port: u16, rest: &str| {
        format!(
            r#"{{"IP":{{"source":"10.0.0.1","destination":"10.0.0.3"}},
            "l4":{{"TCP":{{"source_port":40000,"destination_port":{port}}}}},
            "source":{{"namespace":"default","pod_name":"{pod}"}},
            "destination":{{"namespace":"default","pod_name":"db-0"}}{rest}}}"#
        )
    };
    let message = format!(r#"{{"flow":{},"node_name":"n"}}"#, from("web-2", 5432, ""));
    let good = [
        from("web-1", 5432, ""),
        message,
        from("web-1", 22, ""),
        from("web-1", 40000, r#","is_reply":true"#),
        from("gone", 22, ""),
        r#"{"lost_events":{"source":"x"}}"#.to_owned(),
    ];
    for line in &good {
        flows.add(line.as_bytes()).expect(line);
    }
    for (bad, path) in [
        ("{", "?"),
        (r#"{"IP":{"source":"x","destination":"::1"}}"#, "IP.source"),
        (
            r#"{"l4":{"TCP":{"destination_port":65536}}}"#,
            "l4.TCP.destination_port",
        ),
    ] {
        let problem = flows.add(bad.as_bytes()).expect_err(bad);
        assert_eq!(problem.path, path, "{problem}");
    }
    assert_eq!((flows.replies, flows.strangers, flows.others), (1, 1, 1));
    let judged = flows.judge(&before, &after).expect("verdicts");
    let told: Vec<_> = judged
        .iter()
        .map(|f| (f.port.as_str(), f.count, f.before.verdict, f.after.verdict))
        .collect();
    let expected = [
        ("TCP 22", 1, "allow", "deny"),
        ("TCP 5432", 2, "allow", "allow"),
    ];
    assert_eq!(told, expected);
}
