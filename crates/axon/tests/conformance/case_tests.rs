use super::{Case, End, Word};

fn case(text: &str) -> Case {
    let tree: serde_json::Value = serde_norway::from_str(text).expect("YAML");
    serde_json::from_value(tree).expect("a case")
}

#[test]
fn groups_are_names_without_numbers_and_parts() {
    for (name, group) in [
        ("cnp-cidr-002", "cnp-cidr"),
        ("k8s-peers-2-039", "k8s-peers"),
        ("k8s-ports-named-007", "k8s-ports"),
    ] {
        let case = case(&format!("{{name: {name}, title: t}}"));
        assert_eq!(case.group(), group);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let skipped = |live: &str| case(&format!("{{name: a, title: t, live: {live}}}")).skipped();
    assert_eq!(skipped("{possible: true, needs: [two-nodes, sctp]}"), None);
    for (live, reason) in [
        ("{possible: false}", "says itself"),
        ("{possible: true, needs: [clustermesh]}", "second cluster"),
        ("{possible: false, needs: [kafka-proxy]}", "Kafka"),
    ] {
        let found = skipped(live).expect(live);
        assert!(found.contains(reason), "{live}: {found}");
    }
}

#[test]
fn matrices_stand_for_probes() {
    let case = case(
        "
name: a
title: t
expect:
  grid:
    order: [x/a, x/b]
    probes: [{port: 80, protocol: TCP, ingress: -A A-, egress: -D A-, both: -D A-}]
  external: [{ip: 192.0.2.1, port: 81, protocol: UDP, from_ip_to_pods: AD, from_pods_to_ip: DA}]
  nodes: [{node: n1, port: 82, protocol: SCTP, from_node_to_pods: DA}]
expect_ipblock_covers_pods:
  grid:
    order: [x/a, x/b]
    probes: [{port: 80, protocol: TCP, ingress: -A A-, egress: -A A-, both: -A A-}]
",
    );
    let told = |literal| -> Vec<String> {
        let probes = case.states()[0].probes(literal);
        let told = probes
            .iter()
            .map(|p| format!("{p} {:?} {:?}", p.egress, p.ingress));
        told.collect()
    };
    let (allow, deny) = ("Some(Allow)", "Some(Deny)");
    let expected = [
        format!("x/a -> x/b TCP 80 {deny} {allow}"),
        format!("x/b -> x/a TCP 80 {allow} {allow}"),
        format!("192.0.2.1 -> x/a UDP 81 None {allow}"),
        format!("192.0.2.1 -> x/b UDP 81 None {deny}"),
        format!("x/a -> 192.0.2.1 UDP 81 {deny} None"),
        format!("x/b -> 192.0.2.1 UDP 81 {allow} None"),
        format!("n1 -> x/a SCTP 82 None {deny}"),
        format!("n1 -> x/b SCTP 82 None {allow}"),
    ];
    assert_eq!(told(false), expected);
    assert!(case.has_literal_reading());
    let literal = case.states()[0].probes(true);
    assert_eq!(
        literal.len(),
        2,
        "the other reading has matrices of its own"
    );
    assert!(literal.iter().all(|probe| probe.expect == Word::Allow));
    assert_eq!(literal[0].from, End::Pod("x/a".to_owned()));
}
