//! Suggested policies allow what was recorded, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use axon_api::manifest;
use axon_evaluate::{Beyond, Described, End, Flows, Options, Record, Suggestion, Word, World};
use axon_model::Protocol;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A pod: namespace, labels, whether it is on the second node.
type Made = (usize, BTreeMap<&'static str, &'static str>, bool);

const NAMESPACES: [&str; 2] = ["farm", "town"];
const NODES: [&str; 2] = ["n1", "n2"];
const OUTSIDE: [&str; 3] = ["198.51.100.1", "203.0.113.9", "192.0.2.77"];
const L4: [(&str, Protocol, u16); 8] = [
    ("TCP", Protocol::TCP, 80),
    ("TCP", Protocol::TCP, 81),
    ("TCP", Protocol::TCP, 82),
    ("TCP", Protocol::TCP, 9999),
    ("UDP", Protocol::UDP, 53),
    ("SCTP", Protocol::SCTP, 80),
    ("ICMPv4", Protocol::ICMP, 8),
    ("ICMPv4", Protocol::ICMP, 13),
];

/// One end: a pod, a node, or an address outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Pod(usize),
    Node(usize),
    Outside(usize),
}

fn objects(pods: &[Made]) -> String {
    let nodes = NODES.iter().enumerate().map(|(n, name)| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.16.0.{}", n + 1)}]}})
    });
    let pods = pods.iter().enumerate().map(|(n, (namespace, labels, second))| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{n}"), "namespace": NAMESPACES[*namespace], "labels": labels},
            "spec": {"nodeName": NODES[usize::from(*second)], "containers": [{"name": "c"}]},
            "status": {"podIP": format!("10.0.0.{}", n + 1)}})
    });
    let texts: Vec<String> = nodes.chain(pods).map(|object| object.to_string()).collect();
    texts.join("\n---\n")
}

fn described(text: &str) -> Described {
    let manifest = manifest::parse(text.as_bytes()).expect("manifest");
    assert!(
        manifest.refused.is_empty(),
        "{:?}\n{text}",
        manifest.refused
    );
    let objects = manifest.documents.into_iter().filter_map(|d| d.object);
    Described::of(objects).expect("cluster")
}

/// An end as flows have it, as the other end's node sees it.
fn endpoint(who: Who, pods: &[Made], other: Who) -> (Value, String) {
    match who {
        Who::Pod(n) => {
            let (namespace, labels, _) = &pods[n];
            let namespace = NAMESPACES[*namespace];
            let own = labels
                .iter()
                .map(|(key, value)| format!("k8s:{key}={value}"));
            let labels: Vec<String> = own
                .chain([
                    format!("k8s:io.kubernetes.pod.namespace={namespace}"),
                    format!(
                        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name={namespace}"
                    ),
                    "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
                    "k8s:io.cilium.k8s.policy.serviceaccount=default".to_owned(),
                ])
                .collect();
            let end =
                json!({"namespace": namespace, "pod_name": format!("p{n}"), "labels": labels});
            (end, format!("10.0.0.{}", n + 1))
        }
        Who::Node(n) => {
            let own = matches!(other, Who::Pod(p) if usize::from(pods[p].2) == n);
            let label = if own {
                "reserved:host"
            } else {
                "reserved:remote-node"
            };
            (json!({"labels": [label]}), format!("172.16.0.{}", n + 1))
        }
        Who::Outside(n) => (json!({"labels": ["reserved:world"]}), OUTSIDE[n].to_owned()),
    }
}

fn flow(from: Who, to: Who, l4: usize, pods: &[Made], rest: &Value) -> Value {
    let (source, source_ip) = endpoint(from, pods, to);
    let (destination, destination_ip) = endpoint(to, pods, from);
    let (name, _, port) = L4[l4];
    let l4 = match name {
        "ICMPv4" => json!({name: {"type": port}}),
        _ => json!({name: {"source_port": 40000, "destination_port": port}}),
    };
    let mut flow = json!({
        "verdict": "FORWARDED", "is_reply": false, "traffic_direction": "INGRESS",
        "IP": {"source": source_ip, "destination": destination_ip},
        "l4": l4, "source": source, "destination": destination,
    });
    for (key, value) in rest.as_object().into_iter().flatten() {
        flow[key] = value.clone();
    }
    flow
}

fn suggest(lines: &[Value], options: Options, current: Option<(&Described, &World)>) -> Suggestion {
    let mut record = Record::new(options, current);
    for (n, line) in (1..).zip(lines) {
        record.add(n, line.to_string().as_bytes()).expect("a flow");
    }
    record.suggest()
}

fn end(who: Who) -> End {
    match who {
        Who::Pod(n) => End::Ip(format!("10.0.0.{}", n + 1).parse().expect("address")),
        Who::Node(n) => End::Node(NODES[n].to_owned()),
        Who::Outside(n) => End::Ip(OUTSIDE[n].parse().expect("address")),
    }
}

fn pod() -> impl Strategy<Value = Made> {
    let label = |key: &'static str, values: &'static [&'static str]| {
        let value = proptest::option::of(proptest::sample::select(values));
        value.prop_map(move |value| value.map(|value| (key, value)))
    };
    let labels = (
        label("app", &["web", "db", "true"]),
        label("tier", &["a", "b"]),
        label("team.example/owner", &["1", "x_y"]),
    );
    let labels = labels.prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect());
    (0..2_usize, labels, any::<bool>())
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        6 => (0..6_usize).prop_map(Who::Pod),
        1 => (0..2_usize).prop_map(Who::Node),
        // The third is never spoken to.
        1 => (0..2_usize).prop_map(Who::Outside),
    ]
}

/// What policy cannot tell apart: pods by namespace and labels, other nodes.
fn known(who: Who, other: Who, pods: &[Made]) -> (Value, String) {
    let (mut end, ip) = endpoint(who, pods, other);
    let pod = matches!(who, Who::Pod(_));
    if let (true, Some(end)) = (pod, end.as_object_mut()) {
        end.remove("pod_name");
    }
    let ip = if matches!(who, Who::Outside(_)) {
        ip
    } else {
        String::new()
    };
    (end, ip)
}

/// All that holds of the policies that these flows suggest.
fn holds(pods: &[Made], spoken: &[(Who, Who, usize)], described_too: bool) {
    let lines: Vec<Value> = spoken
        .iter()
        .map(|(from, to, l4)| flow(*from, *to, *l4, pods, &json!({})))
        .collect();
    let current = described(&objects(pods));
    let settings = current.settings();
    let before = current.world(&settings).expect("world");
    let known_world = described_too.then_some((&current, &before));
    let suggestion = suggest(&lines, Options::default(), known_world);
    assert_eq!(suggestion.notes, Vec::<String>::new());
    let reversed: Vec<Value> = lines.iter().rev().cloned().collect();
    let again = suggest(&reversed, Options::default(), known_world);
    assert_eq!(suggestion.yaml(), again.yaml(), "in whatever order");

    let text = suggestion.yaml();
    let after = current.with(&described(&text), true);
    let listed = current.with(&described(&suggestion.list().to_string()), true);
    assert_eq!(after.policies.len(), suggestion.len());
    let rules = |d: &Described| {
        d.policies
            .values()
            .map(|p| p.rules.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&after), rules(&listed));
    let after = after.world(&settings).expect("world");

    let mut flows = Flows::new(&current, &before);
    for line in &lines {
        flows.add(line.to_string().as_bytes()).expect("a flow");
    }
    for judged in flows.judge(&before, &after).expect("verdicts") {
        assert_eq!(judged.after.verdict, "allow", "{judged:?}\n{text}");
    }

    let key = |from: Who, to: Who| (known(from, to, pods), known(to, from, pods));
    let allowed: BTreeSet<(String, usize)> = spoken
        .iter()
        .map(|(from, to, l4)| (format!("{:?}", key(*from, *to)), *l4))
        .collect();
    let alone = |n: usize| known(Who::Pod(n), Who::Pod(n), pods);
    let met: BTreeSet<String> = spoken
        .iter()
        .flat_map(|(from, to, _)| [*from, *to])
        .filter_map(|who| match who {
            Who::Pod(n) => Some(format!("{:?}", alone(n))),
            Who::Node(_) | Who::Outside(_) => None,
        })
        .collect();
    let selected = |who: Who| match who {
        Who::Pod(n) => met.contains(&format!("{:?}", alone(n))),
        Who::Node(_) | Who::Outside(_) => false,
    };
    let everybody = (0..pods.len()).map(Who::Pod);
    let everybody = everybody
        .chain([0, 1].map(Who::Node))
        .chain([0, 1, 2].map(Who::Outside));
    // Who is in no flow and not described cannot be told from who is.
    let everybody: Vec<Who> = everybody
        .filter(|who| described_too || selected(*who) || !matches!(who, Who::Pod(_)))
        .collect();
    for from in &everybody {
        for to in &everybody {
            let policed = selected(*from) || selected(*to);
            let own_host = matches!((from, to), (Who::Node(n), Who::Pod(p))
                if usize::from(pods[*p].2) == *n);
            for (l4, (_, protocol, port)) in L4.iter().enumerate() {
                let expected = from == to
                    || !policed
                    || own_host
                    || allowed.contains(&(format!("{:?}", key(*from, *to)), l4));
                let found = after
                    .connection(&end(*from), &end(*to), (*protocol, *port))
                    .expect("verdict");
                assert_eq!(
                    found.word() == Word::Allow,
                    expected,
                    "{from:?} > {to:?} {protocol} {port}: {found:?}\n{text}"
                );
            }
        }
    }
}

fn two() -> Vec<Made> {
    vec![
        (0, BTreeMap::from([("app", "web")]), false),
        (0, BTreeMap::from([("app", "db"), ("tier", "a")]), true),
    ]
}

/// The policies' rules in short, and the notes, of flows from `web` to `db`.
fn told(lines: &[Value], options: Options) -> (usize, Vec<String>) {
    let suggestion = suggest(lines, options, None);
    (suggestion.len(), suggestion.notes)
}

#[test]
fn lines_prove_what_they_can() {
    let pods = two();
    let line = |rest: Value| flow(Who::Pod(0), Who::Pod(1), 0, &pods, &rest);
    let egress = || line(json!({"traffic_direction": "EGRESS"}));
    let denied = |side: &str| {
        line(
            json!({"verdict": "DROPPED", "is_reply": null, "traffic_direction": side,
            "drop_reason_desc": "POLICY_DENIED"}),
        )
    };
    let mut reply = flow(
        Who::Pod(1),
        Who::Pod(0),
        3,
        &pods,
        &json!({"is_reply": true}),
    );
    reply["l4"]["TCP"] = json!({"source_port": 80, "destination_port": 40000});
    let alone = "line 1: seen at its sender alone: that its receiver took it is assumed";
    let kept_out = |n: usize| format!("line {n}: left out: policy denies it");
    let answers =
        "line 1: left out: whether it opens a connection or answers (is_reply) is not told";
    type Case<'a> = (&'a str, Vec<Value>, usize, Vec<String>);
    let cases: [Case<'_>; 17] = [
        ("received", vec![line(json!({}))], 2, vec![]),
        ("sent", vec![egress()], 2, vec![alone.into()]),
        (
            "sent and answered",
            vec![egress(), reply.clone()],
            2,
            vec![],
        ),
        ("an answer alone", vec![reply], 0, vec![]),
        ("kept in", vec![denied("EGRESS")], 0, vec![kept_out(1)]),
        (
            "sent, but kept out",
            vec![egress(), denied("INGRESS")],
            0,
            vec![kept_out(2)],
        ),
        (
            "kept out, then sent",
            vec![denied("INGRESS"), egress()],
            0,
            vec![kept_out(1)],
        ),
        (
            "kept out, then let in",
            vec![denied("INGRESS"), line(json!({}))],
            2,
            vec![
                "line 1: policy denies it here, and lets it pass in a later line: it is allowed"
                    .into(),
            ],
        ),
        (
            "let in, then kept out",
            vec![line(json!({})), denied("INGRESS")],
            0,
            vec![kept_out(2)],
        ),
        (
            "lost for another reason",
            vec![line(
                json!({"verdict": "DROPPED", "drop_reason_desc": "CT_MAP_INSERTION_FAILED"}),
            )],
            0,
            vec![],
        ),
        (
            "before policy",
            vec![line(json!({"trace_observation_point": "FROM_ENDPOINT"}))],
            0,
            vec![],
        ),
        (
            "an error about it",
            vec![line(json!({"trace_reason": "RELATED"}))],
            0,
            vec![],
        ),
        (
            "who knows",
            vec![line(json!({"is_reply": null}))],
            0,
            vec![answers.into()],
        ),
        (
            "a first packet",
            vec![line(json!({"is_reply": null,
                "l4": {"TCP": {"destination_port": 80, "flags": {"SYN": true}}}}))],
            2,
            vec![],
        ),
        (
            "a first answer",
            vec![line(json!({"is_reply": null,
                "l4": {"TCP": {"destination_port": 80, "flags": {"SYN": true, "ACK": true}}}}))],
            0,
            vec![answers.into()],
        ),
        (
            "audited",
            vec![line(json!({"verdict": "AUDIT"}))],
            2,
            vec![],
        ),
        (
            "a pod without labels",
            vec![line(
                json!({"source": {"namespace": "farm", "pod_name": "p0"}}),
            )],
            0,
            vec![
                "line 1: left out: pod farm/p0 has no labels of Kubernetes in it (described pods \
                 are known by name: --current)"
                    .into(),
            ],
        ),
    ];
    for (name, lines, policies, notes) in cases {
        assert_eq!(
            told(&lines, Options::default()),
            (policies, notes),
            "{name}"
        );
    }
    let options = Options {
        denied: true,
        ..Options::default()
    };
    assert_eq!(
        told(&[denied("INGRESS")], options),
        (2, vec![]),
        "asked for"
    );
    let current = described(&objects(&pods));
    let world = current.world(&current.settings()).expect("world");
    let nameless = [line(
        json!({"source": {"namespace": "farm", "pod_name": "p0"}}),
    )];
    let suggestion = suggest(&nameless, Options::default(), Some((&current, &world)));
    assert_eq!(
        (suggestion.len(), suggestion.notes),
        (2, vec![]),
        "known by name"
    );
}

#[test]
fn a_suggestion_reads_well() {
    let mut pods = two();
    pods.push((1, BTreeMap::from([("app", "db")]), false));
    pods.push((0, BTreeMap::from([("app", "db")]), false));
    let to = |from, to, l4| flow(from, to, l4, &pods, &json!({}));
    let named = json!({"destination_names": ["Shop.Example."], "traffic_direction": "EGRESS"});
    let lines = [
        to(Who::Pod(0), Who::Pod(1), 0),
        to(Who::Pod(0), Who::Pod(1), 0),
        to(Who::Pod(0), Who::Pod(1), 1),
        to(Who::Pod(0), Who::Pod(1), 2),
        to(Who::Pod(0), Who::Pod(3), 3),
        to(Who::Pod(0), Who::Pod(2), 4),
        to(Who::Pod(0), Who::Pod(2), 6),
        flow(Who::Pod(0), Who::Outside(0), 0, &pods, &named),
        flow(Who::Pod(0), Who::Outside(1), 0, &pods, &json!({})),
        to(Who::Node(0), Who::Pod(0), 0),
    ];
    let suggestion = suggest(&lines, Options::default(), None);
    let expected = include_str!("suggested.yaml");
    let text = suggestion.yaml();
    let web = text.find("---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: suggested-web");
    let end = text.find("---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: suggested-db\n  namespace: town");
    assert_eq!(
        &text[web.expect("web")..end.expect("town")],
        expected,
        "{text}"
    );
    described(&text);
    let world = Options {
        beyond: Beyond::World,
        ..Options::default()
    };
    let text = suggest(&lines, world, None).yaml();
    assert!(text.contains("toEntities:\n    - world\n"), "{text}");
    assert!(!text.contains("toFQDNs"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_recorded_is_allowed_and_nothing_else(
        pods in proptest::collection::vec(pod(), 6),
        spoken in proptest::collection::vec((who(), who(), 0..7_usize), 0..20),
        described_too in any::<bool>(),
    ) {
        let spoken: Vec<_> = spoken.into_iter().filter(|(from, to, _)| from != to).collect();
        holds(&pods, &spoken, described_too);
    }

    #[test]
    fn whatever_the_line_says_nothing_breaks(
        text in "[ -~]{0,80}",
        label in "\\PC{0,20}",
        name in "\\PC{0,20}",
    ) {
        let mut record = Record::new(Options::default(), None);
        let _ = record.add(1, text.as_bytes());
        let pods = [(0, BTreeMap::new(), false), (1, BTreeMap::new(), false)];
        for rest in [
            json!({"source": {"labels": ["k8s:io.kubernetes.pod.namespace=a", label]}}),
            json!({"source": {"labels": [format!("k8s:io.kubernetes.pod.namespace={label}")]}}),
            json!({"destination": {"labels": ["reserved:world"]}, "destination_names": [name]}),
            json!({"verdict": label, "source": {"pod_name": name}}),
        ] {
            let line = flow(Who::Pod(0), Who::Pod(1), 0, &pods, &rest);
            let _ = record.add(2, line.to_string().as_bytes());
        }
        described(&record.suggest().yaml());
    }
}
