//! Packets over states that policies were resolved into: who decides, where
//! that is written, and what comes closest.

mod world;

use axon_policy::Request;
use axon_replay::{
    DecidedBy, Explanation, Node, NotHere, Outcome, Packet, Said, Transport, explain,
};

use world::{DEATHSTAR, NODE, OUTSIDE, REMOTE, TIE, XWING, state};

const RULES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: rule1}
spec:
  endpointSelector: {matchLabels: {class: deathstar}}
  ingress:
  - fromEndpoints:
    - matchLabels: {org: empire}
    toPorts:
    - ports:
      - {port: '80', protocol: TCP}
    - ports:
      - {port: '443', protocol: TCP}
  - fromEndpoints:
    - matchLabels: {org: alliance}
    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {name: spy}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {org: alliance}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {}}]
  - to: [{ipBlock: {cidr: 203.0.113.0/24}}]
    ports: [{port: 443}]
";

fn node(policies: &str) -> Node {
    Node::load(state(policies)).expect("a state")
}

fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    Packet {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        transport: Transport::Tcp {
            ports: [40000, port],
            flags: Transport::SYN,
        },
    }
}

fn explained(node: &Node, packet: &Packet) -> Explanation {
    explain(node, packet, None).expect("it is of the node")
}

/// The policy set of the endpoint that has an address.
fn set_of(state: &axon_api::state::NodeState) -> impl Fn(&str) -> u32 {
    let rows = state.rows::<axon_abi::IpKey, axon_abi::EndpointRow>("axon_address_v1");
    let rows: std::collections::BTreeMap<axon_abi::IpKey, axon_abi::EndpointRow> =
        rows.expect("rows").into_iter().collect();
    move |addr| rows[&addr.parse::<std::net::IpAddr>().expect("an address").into()].policy_set
}

/// The judgement that kept the packet back, or the last one.
fn decisive(explanation: &Explanation) -> &axon_replay::JudgementView {
    let mut all = explanation.hooks.iter().flat_map(|hook| &hook.judgements);
    let denying = all.clone().find(|judgement| judgement.said == Said::Denied);
    denying.or(all.next_back()).expect("a judgement")
}

#[test]
fn the_rule_and_its_line_are_named() {
    let node = node(RULES);
    for (name, packet, verdict, direction, path, line) in [
        (
            "allowed",
            tcp(TIE, DEATHSTAR, 80),
            Outcome::Allowed,
            "ingress",
            "spec.ingress[0].toPorts[0]",
            10,
        ),
        (
            "by the next item",
            tcp(TIE, DEATHSTAR, 443),
            Outcome::Allowed,
            "ingress",
            "spec.ingress[0].toPorts[1]",
            12,
        ),
        (
            "by the next rule",
            tcp(XWING, DEATHSTAR, 8080),
            Outcome::Allowed,
            "ingress",
            "spec.ingress[1].toPorts[0]",
            16,
        ),
        (
            "of another node",
            tcp(REMOTE, DEATHSTAR, 80),
            Outcome::Allowed,
            "ingress",
            "spec.ingress[0].toPorts[0]",
            10,
        ),
        (
            "denied",
            tcp(world::SPY, DEATHSTAR, 80),
            Outcome::Denied,
            "ingress",
            "spec.ingressDeny[0]",
            18,
        ),
        (
            "egress",
            tcp(XWING, "203.0.113.9", 443),
            Outcome::Allowed,
            "egress",
            "spec.egress[1].ports[0]",
            30,
        ),
    ] {
        let explanation = explained(&node, &packet);
        assert_eq!(explanation.verdict, verdict, "{name}: {explanation:#?}");
        let judgement = decisive(&explanation);
        assert_eq!(judgement.decided_by, DecidedBy::Rule, "{name}");
        assert_eq!(judgement.direction, direction, "{name}");
        let place = judgement.place.as_ref().expect("a place");
        assert_eq!((place.path.as_str(), place.line), (path, line), "{name}");
        assert_eq!(place.file, "/etc/axon/manifests/policy.yaml", "{name}");
        let told = format!("{path} (/etc/axon/manifests/policy.yaml:{line})");
        assert!(
            explanation.reason.contains(&told),
            "{name}: {}",
            explanation.reason
        );
    }
}

#[test]
fn what_comes_closest_is_told_with_what_is_lacking() {
    let node = node(RULES);
    for (name, packet, direction, closest) in [
        (
            "the label, then the port",
            tcp(XWING, DEATHSTAR, 80),
            "ingress",
            [
                "80/TCP is allowed for org=empire, namespace=default; the sender lacks org=empire \
                 (it has org=alliance)",
                "the sender is allowed on 8080/TCP, not on 80/TCP",
            ],
        ),
        (
            "only the port",
            tcp(TIE, DEATHSTAR, 22),
            "ingress",
            [
                "the sender is allowed on 80/TCP, not on 22/TCP",
                "the sender is allowed on 443/TCP, not on 22/TCP",
            ],
        ),
        (
            "from the world",
            tcp(OUTSIDE, DEATHSTAR, 80),
            "ingress",
            [
                "80/TCP is allowed for org=empire, namespace=default; the sender lacks org=empire \
                 and lacks namespace=default",
                "443/TCP is allowed",
            ],
        ),
        (
            "to the world",
            tcp(XWING, OUTSIDE, 443),
            "egress",
            ["the receiver", "the receiver"],
        ),
    ] {
        let explanation = explained(&node, &packet);
        assert_eq!(explanation.verdict, Outcome::Denied, "{name}");
        let judgement = decisive(&explanation);
        assert_eq!(judgement.decided_by, DecidedBy::Default, "{name}");
        assert_eq!(judgement.direction, direction, "{name}");
        let told: Vec<&str> = judgement
            .closest
            .iter()
            .map(|c| c.lacking.as_str())
            .collect();
        for expected in closest {
            assert!(
                told.iter().any(|t| t.contains(expected)),
                "{name}: {expected}: {told:#?}"
            );
        }
        assert!(told[0].contains(closest[0]), "{name}: {told:#?}");
        assert!(judgement.closest.len() <= 3, "{name}");
        assert_eq!(
            explanation.hooks.last().expect("a hook").drop_reason,
            Some("POLICY_DENIED")
        );
    }
}

/// The rule that demands it is told, not the one that allows.
#[test]
fn who_demands_authentication_is_told() {
    let rules = |first: &str, second: &str| {
        format!(
            "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: proofs}}
spec:
  endpointSelector: {{matchLabels: {{class: deathstar}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{org: empire}}}}]
    authentication: {{mode: {first}}}
  - fromEndpoints: [{{matchLabels: {{org: empire}}}}]
    toPorts: [{{ports: [{{port: '80', protocol: TCP}}]}}]
    {second}
"
        )
    };
    let disabled = "authentication: {mode: disabled}";
    for (first, second, verdict, reason) in [
        (
            "required",
            "",
            Outcome::Denied,
            "demands authentication on every port from org=empire",
        ),
        (
            "test-always-fail",
            "",
            Outcome::Denied,
            "which always fails (test-always-fail)",
        ),
        (
            "required",
            disabled,
            Outcome::Allowed,
            "allows 80/TCP from org=empire",
        ),
    ] {
        let node = node(&rules(first, second));
        let explanation = explained(&node, &tcp(TIE, DEATHSTAR, 80));
        assert_eq!(explanation.verdict, verdict, "{first} {second}");
        assert!(
            explanation.reason.contains(reason),
            "{}",
            explanation.reason
        );
        if verdict == Outcome::Allowed {
            continue;
        }
        let judgement = decisive(&explanation);
        assert_eq!(judgement.decided_by, DecidedBy::Rule);
        assert!(!judgement.asks);
        let place = judgement.place.as_ref().expect("a place");
        assert_eq!((place.path.as_str(), place.line), ("spec.ingress[0]", 7));
        let hook = explanation.hooks.last().expect("a hook");
        assert_eq!(hook.drop_reason, Some("AUTH_REQUIRED"));
        let steps: Vec<_> = hook.steps.iter().map(|step| format!("{step:?}")).collect();
        let met = steps.iter().any(|step| step.contains("authenticated"));
        assert!(met, "{steps:#?}");
    }
}

#[test]
fn hooks_come_in_the_order_of_the_way() {
    let node = node(RULES);
    let host = NODE;
    for (name, packet, hooks) in [
        (
            "between two of them",
            tcp(TIE, DEATHSTAR, 80),
            vec!["from_endpoint"],
        ),
        (
            "to the world",
            tcp(TIE, OUTSIDE, 80),
            vec!["from_endpoint", "to_netdev"],
        ),
        ("from the world", tcp(OUTSIDE, TIE, 80), vec!["from_netdev"]),
        ("from the node", tcp(host, TIE, 80), vec!["to_endpoint"]),
        ("to the node", tcp(TIE, host, 80), vec!["from_endpoint"]),
        ("of the node", tcp(host, OUTSIDE, 80), vec!["to_netdev"]),
        (
            "to the node from outside",
            tcp(OUTSIDE, host, 80),
            vec!["from_netdev"],
        ),
    ] {
        let explanation = explained(&node, &packet);
        let met: Vec<&str> = explanation.hooks.iter().map(|hook| hook.hook).collect();
        assert_eq!(met, hooks, "{name}");
        assert_eq!(
            explanation.verdict,
            Outcome::Allowed,
            "{name}: {explanation:#?}"
        );
    }
    let explanation = explained(&node, &tcp(TIE, REMOTE, 80));
    assert_eq!(
        explanation.elsewhere.len(),
        1,
        "{:?}",
        explanation.elsewhere
    );
    assert!(
        explanation.elsewhere[0].contains("node n2"),
        "{:?}",
        explanation.elsewhere
    );
    let steps = &explanation.hooks[0].steps;
    let tables: Vec<&str> = steps.iter().map(|step| step.table).collect();
    for table in ["endpoint", "address", "ct", "ipcache", "policy_set"] {
        assert!(tables.contains(&table), "{table}: {tables:?}");
    }
    let error = explain(&node, &tcp(OUTSIDE, REMOTE, 80), None).expect_err("of others");
    assert!(matches!(error, NotHere::Elsewhere { .. }), "{error}");
    let error = explain(&node, &tcp(OUTSIDE, "fd00::1", 80), None).expect_err("of two families");
    assert!(matches!(error, NotHere::Packet(_)), "{error}");
    let other = Packet {
        transport: Transport::Icmp {
            kind: 8,
            code: 0,
            id: 1,
        },
        ..tcp(XWING, DEATHSTAR, 0)
    };
    let explanation = explained(&node, &other);
    let lacking = &decisive(&explanation).closest[0].lacking;
    assert!(lacking.contains("type 8 of ICMP"), "{lacking}");
}

#[test]
fn rules_of_other_tiers_are_named() {
    const ADMIN: &str = "\
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: admin}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - name: from rebels
    action: Deny
    from:
    - pods: {namespaceSelector: {}, podSelector: {matchLabels: {org: alliance}}}
";
    let node = node(&format!("{RULES}{ADMIN}"));
    let explanation = explained(&node, &tcp(XWING, DEATHSTAR, 8080));
    assert_eq!(explanation.verdict, Outcome::Denied, "{explanation:#?}");
    let place = decisive(&explanation).place.as_ref().expect("a place");
    assert_eq!(
        (place.policy.as_str(), place.path.as_str(), place.line),
        ("admin", "spec.ingress[0]", 40)
    );
    let explanation = explained(&node, &tcp(TIE, DEATHSTAR, 80));
    assert_eq!(explanation.verdict, Outcome::Allowed, "{explanation:#?}");
}

/// A connection that is known is not judged again, whatever rules say; what
/// only looks like one is judged as new.
#[test]
fn what_was_decided_stands() {
    let mut state = state(RULES);
    let (low, high) = ([10, 0, 0, 11], [10, 0, 0, 13]);
    let key = axon_abi::CtKey4 {
        low,
        high,
        low_port: 40000.into(),
        high_port: 80.into(),
        protocol: 6,
        pad: [0; 3],
    };
    let sets = [XWING, DEATHSTAR].map(set_of(&state));
    let entry = axon_abi::CtEntry {
        source_identity: axon_abi::Identity(300),
        destination_identity: axon_abi::Identity(302),
        egress_set: sets[0],
        ingress_set: sets[1],
        epoch: 1,
        expires_s: 2000,
        state: axon_abi::CtState::Established as u8,
        flags: axon_abi::CtFlags::OPENED_BY_LOW,
        rule: 1,
        ..axon_abi::CtEntry::default()
    };
    let rows = state.maps.get_mut(axon_abi::CT4).expect("rows");
    rows.push(&key, &entry);
    let node = Node::load(state).expect("a state");
    let ack = |port: u16| Packet {
        transport: Transport::Tcp {
            ports: [port, 80],
            flags: 16,
        },
        ..tcp(XWING, DEATHSTAR, 80)
    };
    let explanation = explained(&node, &ack(40000));
    assert_eq!(explanation.verdict, Outcome::Allowed, "{explanation:#?}");
    assert!(
        explanation.reason.contains("is known"),
        "{}",
        explanation.reason
    );
    let explanation = explained(&node, &ack(40001));
    assert_eq!(explanation.verdict, Outcome::Denied);
    assert!(
        explanation.elsewhere[0].contains("its connection"),
        "{explanation:#?}"
    );
    let source = XWING.parse().expect("an address");
    assert_eq!(node.free_port(source), 32768);
}

#[test]
fn without_a_policy_nothing_is_denied() {
    let explanation = explained(&node(""), &tcp(XWING, DEATHSTAR, 80));
    assert_eq!(explanation.verdict, Outcome::Allowed);
    assert_eq!(decisive(&explanation).decided_by, DecidedBy::Default);
}

#[test]
fn without_its_text_a_rule_is_still_named() {
    let mut state = state(RULES);
    for policy in &mut state.policies {
        policy.text.clear();
    }
    let node = Node::load(state).expect("a state");
    let explanation = explained(&node, &tcp(TIE, DEATHSTAR, 80));
    let place = decisive(&explanation).place.as_ref().expect("a place");
    assert_eq!(
        place.to_string(),
        "CiliumNetworkPolicy default/rule1 rule 0 (/etc/axon/manifests/policy.yaml:1)"
    );
    let explanation = explained(&node, &tcp(XWING, DEATHSTAR, 80));
    assert!(!decisive(&explanation).closest.is_empty());
}

#[test]
fn requests_are_asked_of_the_rules() {
    const HTTP: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: http}
spec:
  endpointSelector: {matchLabels: {class: deathstar}}
  ingress:
  - fromEndpoints: [{matchLabels: {org: empire}}]
    toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules: {http: [{method: POST, path: /v1/request-landing}]}
";
    let get = |path: &str| Request::Http {
        method: "POST".to_owned(),
        path: path.to_owned(),
        host: String::new(),
        headers: Vec::new(),
    };
    let packet = tcp(TIE, DEATHSTAR, 80);
    let mut config = world::config();
    config.proxy = true;
    let mut state = world::state_of(HTTP, &config);
    // As if the proxy took what the rows redirect to it.
    let entries = state.maps.get_mut("axon_policy_v1").expect("rows");
    for (_, value) in &mut entries.rows {
        assert_eq!(value.split_off(20), "0300", "flags: deny, redirect");
        value.push_str("0200");
    }
    let node = Node::load(state).expect("a state");
    for (path, verdict) in [
        ("/v1/request-landing", Outcome::Allowed),
        ("/v1/exhaust-port", Outcome::Denied),
    ] {
        let explanation = explain(&node, &packet, Some(&get(path))).expect("explained");
        assert_eq!(explanation.verdict, verdict, "{path}: {explanation:#?}");
        assert!(decisive(&explanation).asks, "{path}");
    }
    // Nobody is there to ask.
    let node = self::node(HTTP);
    let explanation =
        explain(&node, &packet, Some(&get("/v1/request-landing"))).expect("explained");
    assert_eq!(explanation.verdict, Outcome::Denied);
    let judgement = decisive(&explanation);
    assert_eq!(judgement.request_passes, Some(true));
    assert!(judgement.words.contains("no proxy"), "{}", judgement.words);
}

/// Whatever is in a state, it is refused or replayed over.
#[test]
fn hostile_states_do_no_harm() {
    let whole = serde_json::to_string(&state(RULES)).expect("json");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut text = whole.clone().into_bytes();
        for _ in 0..8 {
            // Marsaglia's xorshift.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = usize::try_from(random >> 8).expect("64 bits") % text.len();
            // Digits for digits, so that most of it still is JSON.
            if text[at].is_ascii_hexdigit() {
                text[at] = b"0123456789abcdef"[usize::try_from(random & 15).expect("small")];
            }
        }
        let Ok(state) = serde_json::from_slice(&text) else {
            refused += 1;
            continue;
        };
        let Ok(node) = Node::load(state) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        for packet in [
            tcp(XWING, DEATHSTAR, 80),
            tcp(OUTSIDE, DEATHSTAR, 80),
            tcp(XWING, OUTSIDE, 443),
        ] {
            let _ = explain(&node, &packet, None);
        }
    }
    assert!(
        loaded > 50 && refused > 5,
        "{loaded} loaded, {refused} refused"
    );
}
