//! Policies as rules, and refusals.

use axon_abi::Direction;
use axon_api::manifest::parse;
use axon_model::{Action, Auth, Entity, Peer, Peers, PortMatch, Ports, Protocol, Rule, Subject};

mod common;

use common::{rules, text};

/// What decides nothing is kept, to be shown.
#[test]
fn labels_and_log_of_a_rule_are_kept() {
    let spec = |more: &str| format!("spec: {{endpointSelector: {{}}, ingress: [{{}}], {more}}}");
    let told = "labels: [{key: a}, {key: b, source: k8s, value: c}, 'x:y=z'], log: {value: seen}";
    let rules = rules("CiliumNetworkPolicy", &spec(told));
    assert_eq!(rules[0].labels, ["unspec:a", "k8s:b=c", "x:y=z"]);
    assert_eq!(rules[0].log, "seen");
    for (wrong, path) in [
        ("labels: a", "spec.labels"),
        ("labels: [{value: a}]", "spec.labels[0]"),
        ("labels: [{key: a}, 1]", "spec.labels[1]"),
    ] {
        let text = text("CiliumNetworkPolicy", &spec(wrong));
        let manifest = parse(text.as_bytes()).expect("form");
        assert_eq!(manifest.refused[0].error.path, path, "{wrong}");
    }
}

/// The rules in a line each: subject; default denies; entries.
fn short(rule: &Rule) -> String {
    let mut text = match &rule.subject {
        Subject::Endpoints(subject) => subject.to_string(),
        Subject::Nodes(subject) => format!("nodes {subject}"),
    };
    if rule.default_deny_ingress {
        text.push_str(" !in");
    }
    if rule.default_deny_egress {
        text.push_str(" !out");
    }
    for entry in &rule.entries {
        let direction = match entry.direction {
            Direction::Ingress => "from",
            _ => "to",
        };
        let action = match entry.action {
            Action::Allow => "",
            Action::Deny => "deny ",
            Action::Pass => "pass ",
        };
        let peers = match &entry.peers {
            Peers::Any => "any".to_owned(),
            Peers::List(list) => list.iter().map(peer).collect::<Vec<_>>().join(" or "),
        };
        let ports = match &entry.ports {
            Ports::Any => String::new(),
            Ports::List(list) => {
                let list: Vec<_> = list.iter().map(|p| port(p.protocol, &p.port)).collect();
                format!(" on {}", list.join(" "))
            }
        };
        let auth = match entry.auth {
            Auth::Unsaid => String::new(),
            auth => format!(" ({})", auth.mode()),
        };
        text.push_str(&format!("; {action}{direction} {peers}{ports}{auth}"));
    }
    text
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Endpoints(selector) => format!("[{selector}]"),
        Peer::Entity(Entity::World) => "world".to_owned(),
        Peer::Entity(entity) => format!("{entity:?}"),
        Peer::Cidr { cidr, except } if except.is_empty() => cidr.to_string(),
        Peer::Cidr { cidr, except } => format!("{cidr} but {except:?}"),
        Peer::Nodes(selector) => format!("nodes [{selector}]"),
        Peer::Name(pattern) => format!("name {pattern}"),
        Peer::Group { of, except } if except.is_empty() => of.to_string(),
        Peer::Group { of, except } => format!("{of} but {except:?}"),
    }
}

fn port(protocol: Protocol, port: &PortMatch) -> String {
    match port {
        PortMatch::Any => format!("{protocol}/*"),
        PortMatch::Range(a, b) if a == b => format!("{protocol}/{a}"),
        PortMatch::Range(a, b) => format!("{protocol}/{a}-{b}"),
        PortMatch::Named(name) => format!("{protocol}/{name}"),
    }
}

const NS: &str = "k8s:io.kubernetes.pod.namespace";

#[test]
fn ciliums_rules_are_the_models() {
    let own = format!("{NS}=shop");
    for (name, spec, expected) in [
        (
            "labels of any source, own namespace",
            "spec: {endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {k8s:app: a}}, {}]}]}",
            format!("any:app=web,{own} !in; from [k8s:app=a,{own}] or [{own}]"),
        ),
        (
            "another namespace by label, name, expression; reserved labels have none",
            "spec: {endpointSelector: {}, egress: [{toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: b}}, \
             {matchLabels: {k8s:io.cilium.k8s.namespace.labels.team: x}}, {matchLabels: {'reserved:health': ''}}, \
             {matchExpressions: [{key: k8s:io.kubernetes.pod.namespace, operator: Exists}]}]}]}",
            format!(
                "{own} !out; to [any:io.kubernetes.pod.namespace=b] or \
                 [k8s:io.cilium.k8s.namespace.labels.team=x] or [reserved:health=] or [{NS}]"
            ),
        ),
        (
            "the subject stays in its namespace",
            "spec: {endpointSelector: {matchLabels: {k8s:io.kubernetes.pod.namespace: bank}}, ingress: [{}]}",
            format!("{own} !in"),
        ),
        (
            "an empty rule denies by default, an empty list not even that",
            "specs: [{endpointSelector: {}, ingressDeny: [{}]}, {endpointSelector: {}, egress: []}]",
            format!("{own} !in\n{own}"),
        ),
        (
            "no peers are everyone, an empty list nobody",
            "spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}, \
             {fromEndpoints: [], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}, {fromEntities: [world], fromCIDR: []}]}",
            format!("{own} !in; from any on TCP/80; from  on TCP/80; from "),
        ),
        (
            "ports",
            "spec: {endpointSelector: {}, egress: [{toPorts: [{ports: [{port: '1', endPort: 9, protocol: UDP}, \
             {port: '0', protocol: sctp}, {port: HTTP, protocol: TCP}]}, {ports: [{port: '53'}]}]}]}",
            format!("{own} !out; to any on UDP/1-9 SCTP/* TCP/http TCP/53 UDP/53 SCTP/53"),
        ),
        (
            "icmp",
            "spec: {endpointSelector: {}, ingress: [{fromEntities: [world], icmps: [{fields: [{type: 8}, \
             {type: EchoRequest, family: IPv6}, {type: '3'}]}]}]}",
            format!("{own} !in; from world on ICMP/8 ICMPv6/128 ICMP/3"),
        ),
        (
            "addresses",
            "spec: {endpointSelector: {}, egress: [{toCIDR: [10.1.2.3/8, 'fd00::1']}, \
             {toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]}",
            format!("{own} !out; to 10.0.0.0/8 or fd00::1/128; to 10.0.0.0/8 but [10.1.0.0/16]"),
        ),
        (
            "groups of prefixes by name and labels",
            "spec: {endpointSelector: {}, ingress: [{fromCIDRSet: [{cidrGroupRef: a, except: [10.0.0.1/8]}]}], \
             egressDeny: [{toCIDRSet: [{cidrGroupSelector: {matchLabels: {trust: low}}}, {cidrGroupSelector: {}}]}]}",
            format!(
                "{own} !in !out; from cidrgroup a but [10.0.0.0/8]; \
                 deny to cidrgroups cidrgroup:trust=low or cidrgroups {{}}"
            ),
        ),
        (
            "services by name and labels",
            "spec: {endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: a}}, \
             {k8sService: {serviceName: a, namespace: b}, k8sServiceSelector: {selector: {matchLabels: {c: d}}}}, \
             {k8sServiceSelector: {selector: {}, namespace: e}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]}",
            format!(
                "{own} !out; to service a or service b/a or services any:c=d or services e/{{}} \
                 on TCP/80"
            ),
        ),
        (
            "names, nodes",
            "spec: {endpointSelector: {}, egress: [{toFQDNs: [{matchName: A.example.}, {matchPattern: '**.b.example'}]}, \
             {toNodes: [{matchLabels: {pool: edge}}, {}]}], ingress: [{fromNodes: []}]}",
            format!(
                "{own} !in !out; from ; to name a.example or name **.b.example; \
                 to nodes [any:pool=edge] or nodes [{{}}]"
            ),
        ),
        (
            "protocols without ports",
            "spec: {endpointSelector: {}, egress: [{toPorts: [{ports: [{protocol: VRRP}, {port: '0', protocol: gre}]}]}]}",
            format!("{own} !out; to any on VRRP/* GRE/*"),
        ),
        (
            "deny, default deny switched off, null is absent",
            "spec: {endpointSelector: {}, enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEntities: [host], fromEndpoints: null}], \
             egress: [{toEntities: [all], authentication: {mode: disabled}}], log: {value: x}, labels: [{key: a}, {key: b, source: k8s, value: c}]}",
            format!("{own} !out; deny from Host; to All (disabled)"),
        ),
        (
            "authentication, on all ports and on each of several lists",
            "spec: {endpointSelector: {}, ingress: [{fromEntities: [all], authentication: {mode: required}}, \
             {fromEntities: [host], authentication: {mode: disabled}, toPorts: [{ports: [{port: '1', protocol: TCP}]}, \
             {ports: [{port: '2', protocol: TCP}], rules: {http: [{}]}}]}, {fromEntities: [world]}], \
             egress: [{toEntities: [all], icmps: [{fields: [{type: 8}]}], authentication: {mode: test-always-fail}}]}",
            format!(
                "{own} !in !out; from All (required); from Host on TCP/1 (disabled); \
                 from Host on TCP/2 (disabled); from world; to All on ICMP/8 (test-always-fail)"
            ),
        ),
    ] {
        let found: Vec<_> = rules("CiliumNetworkPolicy", spec)
            .iter()
            .map(short)
            .collect();
        assert_eq!(found.join("\n"), expected, "{name}");
    }
}

#[test]
fn clusterwide_peers_have_some_namespace() {
    for (spec, expected) in [
        (
            "spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}",
            format!("{{}} !in; from [{NS}]"),
        ),
        (
            "spec: {nodeSelector: {matchLabels: {pool: edge}}, ingress: [{fromEndpoints: [{matchLabels: {a: b}}]}]}",
            format!("nodes any:pool=edge !in; from [any:a=b,{NS}]"),
        ),
        (
            "spec: {endpointSelector: {matchLabels: {'reserved:init': ''}}, ingress: [{fromEndpoints: [{matchLabels: {a: b}}]}]}",
            "reserved:init= !in; from [any:a=b]".to_owned(),
        ),
    ] {
        let found = rules("CiliumClusterwideNetworkPolicy", spec);
        assert_eq!(short(&found[0]), expected, "{spec}");
    }
}

#[test]
fn network_policies_are_rules() {
    let own = format!("{NS}=shop");
    for (name, spec, expected) in [
        (
            "nothing said",
            "spec: {podSelector: {}}",
            format!("{own} !in"),
        ),
        (
            "types follow the rules",
            "spec: {podSelector: {matchLabels: {app: a}}, egress: [{}]}",
            format!("k8s:app=a,{own} !in !out; to any"),
        ),
        (
            "types named",
            "spec: {podSelector: {}, policyTypes: [Egress], ingress: [{}], egress: []}",
            format!("{own} !out"),
        ),
        (
            "peers",
            "spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, \
             {namespaceSelector: {matchLabels: {t: x}}, podSelector: {matchLabels: {a: b}}}, \
             {ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}]}]}",
            format!(
                "{own} !in; from [{own}] or [{NS}] or \
                 [k8s:a=b,k8s:io.cilium.k8s.namespace.labels.t=x,{NS}] or 10.0.0.0/8 but [10.9.0.0/16]"
            ),
        ),
        (
            "ports",
            "spec: {podSelector: {}, ingress: [{from: [], ports: [{port: 80}, {port: 1, endPort: 9, protocol: UDP}, \
             {port: Web}, {protocol: SCTP}]}]}",
            format!("{own} !in; from any on TCP/80 UDP/1-9 TCP/web SCTP/*"),
        ),
    ] {
        assert_eq!(short(&rules("NetworkPolicy", spec)[0]), expected, "{name}");
    }
}

/// What is refused: kind, spec, path, part of the message. Refusals leave the
/// rest of a text alone.
#[test]
fn refusals_name_the_field() {
    const CNP: &str = "CiliumNetworkPolicy";
    const CCNP: &str = "CiliumClusterwideNetworkPolicy";
    let item = |item: &str| format!("spec: {{endpointSelector: {{}}, egress: [{{{item}}}]}}");
    let at = |path: &str| format!("spec.egress[0].{path}");
    let later = "not supported yet";
    for (kind, spec, path, part) in [
        (CNP, "status: {}".to_owned(), "spec".to_owned(), "missing"),
        (CNP, "spec: {endpointSelector: {}}".to_owned(), "spec".to_owned(), "says nothing"),
        (CNP, "spec: {ingress: [{}]}".to_owned(), "spec.endpointSelector".to_owned(), "missing"),
        (CCNP, "spec: {nodeSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]}".to_owned(), "spec.ingress[0].toPorts[0].rules".to_owned(), "nodeSelector"),
        (CCNP, "spec: {nodeSelector: {}, endpointSelector: {}, ingress: [{}]}".to_owned(), "spec.nodeSelector".to_owned(), "endpointSelector"),
        (CNP, "spec: {nodeSelector: {}, ingress: [{}]}".to_owned(), "spec.nodeSelector".to_owned(), "Clusterwide"),
        (CNP, item("toFQDNs: [{matchName: a..b}]"), at("toFQDNs[0].matchName"), "a..b"),
        (CNP, item("toFQDNs: [{matchName: '*.b'}]"), at("toFQDNs[0].matchName"), "matchPattern"),
        (CNP, item("toFQDNs: [{matchName: a, matchPattern: a}]"), at("toFQDNs[0]"), "one of them"),
        (CNP, item("toFQDNs: [{}]"), at("toFQDNs[0]"), "matchPattern"),
        (CNP, item("toFQDNs: [{matchName: a}], toCIDR: [10.0.0.0/8]"), at("toFQDNs"), "toCIDR"),
        (CNP, "spec: {endpointSelector: {}, egressDeny: [{toFQDNs: [{matchName: a}]}]}".to_owned(), "spec.egressDeny[0].toFQDNs".to_owned(), "denied"),
        (CNP, item("toGroups: [{}]"), at("toGroups"), later),
        (CNP, item("toNodes: [{matchLabels: {a: b c}}]"), at("toNodes[0].matchLabels.a"), "b c"),
        (CNP, item("toCIDRSet: [{cidrGroupRef: A}]"), at("toCIDRSet[0].cidrGroupRef"), "\"A\""),
        (CNP, item("toCIDRSet: [{cidrGroupRef: a, cidr: 10.0.0.0/8}]"), at("toCIDRSet[0]"), "one of cidr"),
        (CNP, item("toCIDRSet: [{cidrGroupRef: a, cidrGroupSelector: {}}]"), at("toCIDRSet[0]"), "one of cidr"),
        (CNP, item("toCIDRSet: [{cidrGroupRef: a, except: [10.0.0.1]}]"), at("toCIDRSet[0].except[0]"), "address/length"),
        (CNP, item("toCIDRSet: [{cidrGroupSelector: {matchLabels: {a: b c}}}]"), at("toCIDRSet[0].cidrGroupSelector.matchLabels.a"), "b c"),
        (CNP, item("toEntities: [all], authentication: {mode: Required}"), at("authentication.mode"), "test-always-fail"),
        (
            CNP,
            "spec: {endpointSelector: {}, egressDeny: [{toEntities: [all], authentication: {mode: disabled}}]}".to_owned(),
            "spec.egressDeny[0].authentication".to_owned(),
            "a deny rule",
        ),
        (CNP, item("toPorts: [{ports: [{port: '80', protocol: VRRP}]}]"), at("toPorts[0].ports[0].port"), "VRRP"),
        (CNP, item("toEntities: [World]"), at("toEntities[0]"), "\"World\""),
        (CNP, item("toCIDR: [10.0.0.0/33]"), at("toCIDR[0]"), "10.0.0.0/33"),
        (CNP, item("toCIDRSet: [{cidr: 10.0.0.1}]"), at("toCIDRSet[0].cidr"), "address/length"),
        (CNP, item("toCIDRSet: [{}]"), at("toCIDRSet[0]"), "cidr"),
        (CNP, item("toCIDRSet: [{cidr: 10.0.0.0/8, except: ['fd00::/8']}]"), at("toCIDRSet[0].except[0]"), "within"),
        (CNP, item("toEndpoints: [{}], toCIDR: [10.0.0.0/8]"), at("toCIDR"), "toEndpoints"),
        (CNP, item("toPorts: [{ports: [{port: '65536'}]}]"), at("toPorts[0].ports[0].port"), "65536"),
        (CNP, item("toPorts: [{ports: [{port: '080'}]}]"), at("toPorts[0].ports[0].port"), "080"),
        (CNP, item("toPorts: [{ports: [{port: '90', endPort: 80}]}]"), at("toPorts[0].ports[0].endPort"), "from 90"),
        (CNP, item("toPorts: [{ports: [{port: web, endPort: 80}]}]"), at("toPorts[0].ports[0].endPort"), "by name"),
        (CNP, item("toPorts: [{}]"), at("toPorts[0].ports"), "1 to 40"),
        (CNP, item("icmps: [{fields: [{type: Shout}]}]"), at("icmps[0].fields[0].type"), "Shout"),
        (CNP, item("icmps: [{fields: [{type: 256}]}]"), at("icmps[0].fields[0].type"), "256"),
        (CNP, item("icmps: [{}], toPorts: [{ports: [{port: '1'}]}]"), at("icmps"), "toPorts"),
        (CNP, item("toEndpoints: [{matchExpressions: [{key: a, operator: In}]}]"), at("toEndpoints[0].matchExpressions[0].values"), "In"),
        (CNP, item("toEndpoints: [{matchLabels: {a: 'x y'}}]"), at("toEndpoints[0].matchLabels.a"), "x y"),
        (CNP, item("toEndpoints: [{matchLabels: {':a': x}}]"), at("toEndpoints[0].matchLabels.:a"), "source:key"),
        (
            CNP,
            "spec: {endpointSelector: {}, egressDeny: [{toPorts: [{ports: [{port: '1'}], rules: {http: [{}]}}]}]}".to_owned(),
            "spec.egressDeny[0].toPorts[0]".to_owned(),
            "ports only",
        ),
        ("NetworkPolicy", "spec: {ingress: [{from: [{}]}]}".to_owned(), "spec.ingress[0].from[0]".to_owned(), "no peer"),
        ("NetworkPolicy", "spec: {ingress: [{ports: [{port: 0}]}]}".to_owned(), "spec.ingress[0].ports[0].port".to_owned(), "65535"),
        ("NetworkPolicy", "spec: {ingress: [{ports: [{endPort: 9}]}]}".to_owned(), "spec.ingress[0].ports[0].endPort".to_owned(), "without"),
        (
            "NetworkPolicy",
            "spec: {egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}".to_owned(),
            "spec.egress[0].to[0].ipBlock.except[0]".to_owned(),
            "smaller",
        ),
    ] {
        let two = format!(
            "{}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: beside}}\n",
            text(kind, &spec)
        );
        let manifest = parse(two.as_bytes()).expect(&spec);
        assert_eq!(manifest.documents.len(), 1, "{spec}");
        let [refusal] = manifest.refused.as_slice() else {
            panic!("{spec}: {:?}", manifest.refused);
        };
        assert_eq!(refusal.error.path, path, "{spec}: {}", refusal.error);
        assert!(refusal.error.message.contains(part), "{spec}: {}", refusal.error);
        assert!(refusal.error.line >= 1, "{spec}: {}", refusal.error);
    }
}

/// A policy of each kind is staged by the same annotation, and by no other.
#[test]
fn policies_of_every_kind_may_be_staged() {
    let kinds = [
        ("networking.k8s.io/v1", "NetworkPolicy", "{podSelector: {}}"),
        (
            "cilium.io/v2",
            "CiliumNetworkPolicy",
            "{endpointSelector: {}, ingress: [{}]}",
        ),
        (
            "cilium.io/v2",
            "CiliumClusterwideNetworkPolicy",
            "{endpointSelector: {}, ingress: [{}]}",
        ),
        (
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            "{tier: Admin, priority: 1, subject: {namespaces: {}}}",
        ),
    ];
    for (version, kind, spec) in kinds {
        let staged = |annotation: &str| {
            let text = format!(
                "{{apiVersion: {version}, kind: {kind}, spec: {spec}, \
                 metadata: {{name: a, annotations: {{{annotation}}}}}}}"
            );
            let manifest = parse(text.as_bytes()).expect("form");
            if let Some(refusal) = manifest.refused.first() {
                return Err(refusal.error.path.clone());
            }
            match &manifest.documents[0].object {
                Some(axon_api::manifest::Object::Policy(policy)) => Ok(policy.staged),
                other => panic!("{other:?}"),
            }
        };
        let path = |key: &str| Err(format!("metadata.annotations.{key}"));
        for (annotation, expected) in [
            ("staged: 'true'", Ok(false)),
            ("policy.axoneme.io/staged: 'true'", Ok(true)),
            ("policy.axoneme.io/staged: 'false'", Ok(false)),
            (
                "policy.axoneme.io/staged: ''",
                path("policy.axoneme.io/staged"),
            ),
            (
                "policy.axoneme.io/staged: 'True'",
                path("policy.axoneme.io/staged"),
            ),
            (
                "policy.axoneme.io/stage: 'true'",
                path("policy.axoneme.io/stage"),
            ),
        ] {
            assert_eq!(staged(annotation), expected, "{kind}: {annotation}");
        }
    }
}
