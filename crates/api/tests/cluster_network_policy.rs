//! ClusterNetworkPolicy as rules, and what is refused of it.

use axon_abi::Direction;
use axon_api::manifest::{Manifest, Object, judge, parse};
use axon_model::{Action, Peer, Peers, PolicyKind, PortMatch, Ports, Protocol, Subject, Tier};

/// A policy in Admin, about everybody, with these further fields.
fn text(more: &str) -> String {
    with("tier: Admin, priority: 5, subject: {namespaces: {}}", more)
}

fn with(head: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: p, namespace: ignored}}\nspec: {{{head}{comma}{more}}}\n"
    )
}

fn policy(text: &str) -> axon_model::PolicyObject {
    let manifest = parse(text.as_bytes()).expect(text);
    assert_eq!(manifest.refused, [], "{text}");
    match manifest.documents.into_iter().next().and_then(|d| d.object) {
        Some(Object::Policy(policy)) => policy,
        other => panic!("{text}: {other:?}"),
    }
}

/// The path and the message of the one thing that is wrong.
fn wrong(text: &str) -> (String, String) {
    let (
        Manifest {
            documents, refused, ..
        },
        malformed,
    ) = judge(text.as_bytes()).expect(text);
    assert_eq!(documents, [], "{text}");
    let refused = refused.into_iter().map(|refusal| refusal.error);
    let errors: Vec<_> = refused.chain(malformed).collect();
    assert_eq!(errors.len(), 1, "{text}: {errors:?}");
    (errors[0].path.clone(), errors[0].message.clone())
}

#[test]
fn each_rule_is_one_of_the_models() {
    let policy = policy(&with(
        "tier: Baseline, priority: 1000, subject: {pods: {namespaceSelector: {matchLabels: \
         {team: a}}, podSelector: {matchLabels: {app: web}}}}",
        "ingress: [{name: first, action: Pass, from: [{namespaces: {matchLabels: {team: b}}}], \
         protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: \
         {start: 1, end: 9}}}}, {destinationNamedPort: DNS}]}, {action: Deny, from: [{pods: \
         {podSelector: {}}}]}], egress: [{action: Accept, to: [{networks: [10.0.0.0/8, \
         'fd00::/8']}, {nodes: {}}, {namespaces: {}}]}]",
    ));
    assert_eq!(policy.origin.kind, PolicyKind::ClusterNetworkPolicy);
    assert_eq!(policy.origin.to_string(), "p");
    let labels = "k8s:io.cilium.k8s.namespace.labels.team";
    let namespace = "k8s:io.kubernetes.pod.namespace";
    for rule in &policy.rules {
        assert_eq!(rule.tier, Tier::Baseline(1000));
        assert!(!rule.default_deny_ingress && !rule.default_deny_egress);
        let Subject::Endpoints(subject) = &rule.subject else {
            panic!("{rule:?}");
        };
        let expected = [
            format!("{labels}=a"),
            "k8s:app=web".into(),
            namespace.into(),
        ];
        let text = subject.to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    }
    let entries: Vec<_> = policy.rules.iter().map(|rule| &rule.entries[0]).collect();
    let said: Vec<_> = entries.iter().map(|e| (e.direction, e.action)).collect();
    let expected = [
        (Direction::Ingress, Action::Pass),
        (Direction::Ingress, Action::Deny),
        (Direction::Egress, Action::Allow),
    ];
    assert_eq!(said, expected);
    assert_eq!(policy.rules[0].description, "first");
    let Ports::List(ports) = &entries[0].ports else {
        panic!("{:?}", entries[0]);
    };
    let ports: Vec<_> = ports.iter().map(|p| (p.protocol, p.port.clone())).collect();
    let expected = [
        (Protocol::TCP, PortMatch::Range(80, 80)),
        (Protocol::UDP, PortMatch::Range(1, 9)),
        (Protocol::ANY, PortMatch::Named("dns".into())),
    ];
    assert_eq!(ports, expected);
    assert_eq!(entries[1].ports, Ports::Any);
    let Peers::List(peers) = &entries[2].peers else {
        panic!("{:?}", entries[2]);
    };
    assert_eq!(peers.len(), 5, "two prefixes, two kinds of nodes, pods");
    // "Every pod" is who has a namespace: no node, nothing outside.
    let Peer::Endpoints(pods) = &peers[4] else {
        panic!("{:?}", peers[4]);
    };
    assert!(!pods.is_wildcard(), "{pods}");
}

#[test]
fn names_are_those_of_all_depths() {
    let names = "[example.com, '*.Example.com', a_b.c.]";
    let policy = policy(&text(&format!(
        "egress: [{{action: Accept, to: [{{domainNames: {names}}}]}}]"
    )));
    let Peers::List(peers) = &policy.rules[0].entries[0].peers else {
        panic!("{policy:?}");
    };
    let matches = |name: &str| {
        let meant = |peer: &Peer| matches!(peer, Peer::Name(pattern) if pattern.matches(name));
        peers.iter().any(meant)
    };
    for name in ["example.com", "a.example.com", "a.b.example.com", "a_b.c"] {
        assert!(matches(name), "{name}");
    }
    for name in ["com", "myexample.com", "x.a_b.c"] {
        assert!(!matches(name), "{name}");
    }
}

#[test]
fn a_policy_without_rules_says_nothing() {
    assert_eq!(policy(&text("")).rules, []);
    assert_eq!(policy(&text("ingress: [], egress: null")).rules, []);
}

#[test]
fn refusals_name_the_field_and_what_is_expected() {
    let from = "from: [{namespaces: {}}]";
    let ingress = |rule: &str| text(&format!("ingress: [{{{rule}}}]"));
    let deny = |more: &str| ingress(&format!("action: Deny, {from}, {more}"));
    let egress = |rule: &str| text(&format!("egress: [{{{rule}}}]"));
    let to = |peer: &str| egress(&format!("action: Accept, to: [{peer}]"));
    let many = |one: &str, n: usize| vec![one; n].join(", ");
    let head = |head: &str| with(head, "");
    let long = "x".repeat(101);
    for (text, path, expected) in [
        (
            head("priority: 1, subject: {namespaces: {}}"),
            "spec",
            "missing field `tier`",
        ),
        (
            head("tier: Normal, priority: 1, subject: {namespaces: {}}"),
            "spec.tier",
            "`Admin` or `Baseline`",
        ),
        (
            head("tier: Admin, priority: 1001, subject: {namespaces: {}}"),
            "spec.priority",
            "1001; expected 0 to 1000",
        ),
        (
            head("tier: Admin, priority: -1, subject: {namespaces: {}}"),
            "spec.priority",
            "-1; expected 0 to 1000",
        ),
        (
            head("tier: Admin, subject: {namespaces: {}}"),
            "spec",
            "missing field `priority`",
        ),
        (
            head("tier: Admin, priority: 1"),
            "spec",
            "missing field `subject`",
        ),
        (
            head("tier: Admin, priority: 1, subject: {}"),
            "spec.subject",
            "expected one of namespaces, pods",
        ),
        (
            head("tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}"),
            "spec.subject.pods",
            "stands beside namespaces",
        ),
        (
            head("tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}}}"),
            "spec.subject.pods",
            "missing field `podSelector`",
        ),
        (text("ingres: []"), "spec", "did you mean `ingress`?"),
        (ingress(from), "spec.ingress[0]", "missing field `action`"),
        (
            ingress(&format!("action: Allow, {from}")),
            "spec.ingress[0].action",
            "expected one of `Accept`, `Deny`, `Pass`",
        ),
        (
            ingress("action: Deny"),
            "spec.ingress[0]",
            "missing field `from`",
        ),
        (
            ingress("action: Deny, from: []"),
            "spec.ingress[0].from",
            "0 items; expected 1 to 25",
        ),
        (
            ingress(&format!(
                "action: Deny, from: [{}]",
                many("{namespaces: {}}", 26)
            )),
            "spec.ingress[0].from",
            "26 items",
        ),
        (
            ingress("action: Deny, from: [{}]"),
            "spec.ingress[0].from[0]",
            "is empty",
        ),
        (
            ingress("action: Deny, from: [{networks: [10.0.0.0/8]}]"),
            "spec.ingress[0].from[0]",
            "unknown field `networks`",
        ),
        (
            text(&format!(
                "ingress: [{}]",
                many(&format!("{{action: Deny, {from}}}"), 26)
            )),
            "spec.ingress",
            "26 items; expected 0 to 25",
        ),
        (
            deny(&format!("name: {long}")),
            "spec.ingress[0].name",
            "101 letters",
        ),
        (
            deny("protocols: []"),
            "spec.ingress[0].protocols",
            "0 items",
        ),
        (
            deny("protocols: [{}]"),
            "spec.ingress[0].protocols[0]",
            "is empty",
        ),
        (
            deny("protocols: [{tcp: {}}]"),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
            "is missing",
        ),
        (
            deny("protocols: [{tcp: {destinationPort: {}}}]"),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
            "expected number or range",
        ),
        (
            deny("protocols: [{udp: {destinationPort: {number: 0}}}]"),
            "spec.ingress[0].protocols[0].udp.destinationPort.number",
            "0; expected 1 to 65535",
        ),
        (
            deny("protocols: [{udp: {destinationPort: {range: {start: 9, end: 9}}}}]"),
            "spec.ingress[0].protocols[0].udp.destinationPort.range.end",
            "expected more than the start, 9",
        ),
        (
            deny("protocols: [{sctp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}]"),
            "spec.ingress[0].protocols[0].sctp.destinationPort.range",
            "stands beside number",
        ),
        (
            deny("protocols: [{destinationNamedPort: '80'}]"),
            "spec.ingress[0].protocols[0].destinationNamedPort",
            "is no name of a port",
        ),
        (
            to("{networks: [10.0.0.0]}"),
            "spec.egress[0].to[0].networks[0]",
            "is no prefix",
        ),
        (
            to("{networks: [10.0.0.0/8, 10.0.0.0/8]}"),
            "spec.egress[0].to[0].networks[1]",
            "there twice",
        ),
        (
            to("{networks: []}"),
            "spec.egress[0].to[0].networks",
            "0 items",
        ),
        (
            to("{networks: [10.0.0.0/8], nodes: {}}"),
            "spec.egress[0].to[0].networks",
            "stands beside nodes",
        ),
        (
            to("{nodes: {matchLabels: {a: b}}}"),
            "spec.egress[0].to[0].nodes",
            "not supported",
        ),
        (
            to("{domainNames: [example.com, 'a.*.com']}"),
            "spec.egress[0].to[0].domainNames[1]",
            "is no domain name",
        ),
        (
            to("{domainNames: [com]}"),
            "spec.egress[0].to[0].domainNames[0]",
            "is no domain name",
        ),
        (
            egress("action: Deny, to: [{domainNames: [example.com]}]"),
            "spec.egress[0].to[0].domainNames",
            "expected Accept",
        ),
        (
            egress("action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: dns}]"),
            "spec.egress[0].protocols[0].destinationNamedPort",
            "expected pods only",
        ),
        (
            text("").replace("v1alpha2", "v1alpha1"),
            "apiVersion",
            "expected \"policy.networking.k8s.io/v1alpha2\"",
        ),
    ] {
        let (at, message) = wrong(&text);
        let at_field = at == path || at.starts_with(&format!("{path}."));
        assert!(
            at_field && message.contains(expected),
            "{text}\n{at}: {message}"
        );
    }
}
