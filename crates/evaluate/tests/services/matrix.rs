//! Every combination of a Service's fields beside what Kubernetes documents: an
//! oracle that reads as the documents do, and knows nothing of rows and lists.
//!
//! Where the documents leave it open, or Cilium does more than they say, it is told
//! at the place ([`Expected::any_source`], [`policy_inside`]).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::{node, pod, state};

const A: [&str; 2] = ["192.0.2.1", "2001:db8::a"];
const B: [&str; 2] = ["192.0.2.2", "2001:db8::b"];
const VIP: [&str; 2] = ["10.96.0.1", "fd96::1"];
const BALANCED: [&str; 2] = ["203.0.113.1", "2001:db8:f::1"];
const EXTERNAL: [&str; 2] = ["203.0.113.200", "2001:db8:f::200"];
const BACKEND_A: [&str; 2] = ["10.0.1.11", "fd00:1::11"];
const BACKEND_B: [&str; 2] = ["10.0.2.11", "fd00:2::11"];
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const HEALTH_PORT: u16 = 32_000;
const TARGET: u16 = 8080;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    Headless,
    ExternalName,
}

/// The state of an endpoint, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Absent,
    Ready,
    /// Neither ready nor ending.
    Unready,
    /// It ends, and still answers.
    Draining,
    /// It ends, and answers no more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    SingleV4,
    SingleV6,
    Dual,
}

/// A combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: Kind,
    external_local: bool,
    internal_local: bool,
    affinity: bool,
    families: Families,
    protocol: &'static str,
    /// The endpoint on node `a`, and the one on node `b`.
    endpoints: [Endpoint; 2],
}

const KINDS: [Kind; 5] = [
    Kind::ClusterIp,
    Kind::NodePort,
    Kind::LoadBalancer,
    Kind::Headless,
    Kind::ExternalName,
];
const FAMILIES: [Families; 3] = [Families::SingleV4, Families::SingleV6, Families::Dual];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const ENDPOINTS: [Endpoint; 5] = [
    Endpoint::Absent,
    Endpoint::Ready,
    Endpoint::Unready,
    Endpoint::Draining,
    Endpoint::Ended,
];

impl Families {
    /// Whether there is IPv4, and IPv6.
    const fn has(self) -> [bool; 2] {
        match self {
            Self::SingleV4 => [true, false],
            Self::SingleV6 => [false, true],
            Self::Dual => [true, true],
        }
    }

    /// Those of two texts, one for each family, that are wanted.
    fn of(self, both: [&str; 2]) -> Vec<String> {
        let pairs = both.into_iter().zip(self.has());
        let wanted = pairs.filter(|(_, has)| *has);
        wanted.map(|(text, _)| text.to_owned()).collect()
    }
}

/// Every combination that the API server takes.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for kind in KINDS {
        let is_plain = matches!(kind, Kind::Headless | Kind::ExternalName);
        for bits in 0..8_u8 {
            let [external_local, internal_local, affinity] = [1, 2, 4].map(|bit| bits & bit != 0);
            if is_plain && bits != 0 {
                continue;
            }
            for families in FAMILIES {
                for protocol in PROTOCOLS {
                    for here in ENDPOINTS {
                        for there in ENDPOINTS {
                            shapes.push(Shape {
                                kind,
                                external_local,
                                internal_local,
                                affinity,
                                families,
                                protocol,
                                endpoints: [here, there],
                            });
                        }
                    }
                }
            }
        }
    }
    shapes
}

// ---- as objects

impl Shape {
    fn service(&self) -> Value {
        let families = self.families;
        let vips = families.of(VIP);
        let policy = |is_local| if is_local { "Local" } else { "Cluster" };
        let mut spec = json!({
            "clusterIP": vips[0], "clusterIPs": vips,
            "ipFamilies": families.of(["IPv4", "IPv6"]),
            "ipFamilyPolicy": match families {
                Families::Dual => "RequireDualStack",
                Families::SingleV4 | Families::SingleV6 => "SingleStack",
            },
            "externalIPs": families.of(EXTERNAL),
            "externalTrafficPolicy": policy(self.external_local),
            "internalTrafficPolicy": policy(self.internal_local),
            "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
            "ports": [{"port": PORT, "targetPort": TARGET, "protocol": self.protocol}],
            "type": match self.kind {
                Kind::ClusterIp | Kind::Headless => "ClusterIP",
                Kind::NodePort => "NodePort",
                Kind::LoadBalancer => "LoadBalancer",
                Kind::ExternalName => "ExternalName",
            },
        });
        if matches!(self.kind, Kind::NodePort | Kind::LoadBalancer) {
            spec["ports"][0]["nodePort"] = json!(NODE_PORT);
        }
        if self.kind == Kind::LoadBalancer && self.external_local {
            spec["healthCheckNodePort"] = json!(HEALTH_PORT);
        }
        if self.kind == Kind::Headless {
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
        }
        if self.kind == Kind::ExternalName {
            spec = json!({"type": "ExternalName", "externalName": "web.example"});
        }
        let balanced = families.of(BALANCED).into_iter();
        let ingress: Vec<Value> = balanced.map(|ip| json!({"ip": ip})).collect();
        let mut service = json!({"apiVersion": "v1", "kind": "Service"});
        service["metadata"] = json!({"name": "web", "namespace": "shop"});
        service["spec"] = spec;
        if self.kind == Kind::LoadBalancer {
            service["status"] = json!({"loadBalancer": {"ingress": ingress}});
        }
        service
    }

    fn slices(&self) -> Vec<Value> {
        let families = [("IPv4", 0), ("IPv6", 1)]
            .into_iter()
            .zip(self.families.has());
        let families = families.filter(|(_, has)| *has);
        let slice = |((family, n), _): ((&str, usize), bool)| {
            let places = [("a", BACKEND_A[n]), ("b", BACKEND_B[n])];
            let endpoints = places.into_iter().zip(self.endpoints);
            let endpoints = endpoints.filter(|(_, endpoint)| *endpoint != Endpoint::Absent);
            let endpoints = endpoints.map(|((node, addr), endpoint)| {
                let (ready, serving, terminating) = match endpoint {
                    Endpoint::Absent | Endpoint::Unready => (false, false, false),
                    Endpoint::Ready => (true, true, false),
                    Endpoint::Draining => (false, true, true),
                    Endpoint::Ended => (false, false, true),
                };
                json!({
                    "addresses": [addr], "nodeName": node,
                    "conditions": {
                        "ready": ready, "serving": serving, "terminating": terminating,
                    },
                })
            });
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("web-{n}"), "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "endpoints": endpoints.collect::<Vec<_>>(),
                "ports": [{"port": TARGET, "protocol": self.protocol}],
            })
        };
        families.map(slice).collect()
    }

    fn objects(&self) -> Vec<Value> {
        let mut objects = cluster();
        objects.push(self.service());
        objects.extend(self.slices());
        objects
    }
}

/// Two nodes, each with a client and a pod that may be a backend.
fn cluster() -> Vec<Value> {
    let dual = |mut object: Value, addr: &str, v6: &str| {
        object["status"]["podIPs"] = json!([{"ip": addr}, {"ip": v6}]);
        object
    };
    let both = |name: &str, addrs: [&str; 2], zone: &str| {
        let mut object = node(name, addrs[0], zone);
        object["status"]["addresses"] = json!([
            {"type": "InternalIP", "address": addrs[0]},
            {"type": "InternalIP", "address": addrs[1]},
        ]);
        object
    };
    vec![
        both("a", A, "east"),
        both("b", B, "west"),
        dual(
            pod("c-a", "client", "a", "10.0.1.1"),
            "10.0.1.1",
            "fd00:1::1",
        ),
        dual(
            pod("web-a", "web", "a", BACKEND_A[0]),
            BACKEND_A[0],
            BACKEND_A[1],
        ),
        dual(
            pod("web-b", "web", "b", BACKEND_B[0]),
            BACKEND_B[0],
            BACKEND_B[1],
        ),
    ]
}

// ---- who asks, and for what

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// A pod of node `a`.
    Pod,
    /// A process of node `a`.
    Node,
    /// A host outside, whose packets come to node `a`.
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    /// `spec.clusterIPs`
    Cluster,
    /// The node port, at node `a`.
    NodePort,
    /// `status.loadBalancer.ingress`
    Balanced,
    /// `spec.externalIPs`
    External,
    /// The health-check node port, at node `a`.
    Health,
}

const CLIENTS: [Client; 3] = [Client::Pod, Client::Node, Client::Outside];
const ADDRESSES: [Address; 5] = [
    Address::Cluster,
    Address::NodePort,
    Address::Balanced,
    Address::External,
    Address::Health,
];

/// Every question about a shape.
fn asked() -> Vec<(Client, Address, usize)> {
    let mut asked = Vec::new();
    for client in CLIENTS {
        for address in ADDRESSES {
            // Kubernetes says nothing of external addresses that are asked for from
            // inside: Cilium leaves them alone (CVE-2020-8554).
            if address == Address::External && client != Client::Outside {
                continue;
            }
            asked.extend([0, 1].map(|family| (client, address, family)));
        }
    }
    asked
}

fn probe(shape: &Shape, n: usize, (client, address, family): (Client, Address, usize)) -> Value {
    let (at, port) = match address {
        Address::Cluster => (VIP, PORT),
        Address::NodePort => (A, NODE_PORT),
        Address::Balanced => (BALANCED, PORT),
        Address::External => (EXTERNAL, PORT),
        Address::Health => (A, HEALTH_PORT),
    };
    let mut to = json!({"address": at[family], "port": port});
    let from = match client {
        Client::Pod => json!({"pod": "shop/c-a"}),
        Client::Node => json!({"node": "a"}),
        Client::Outside => {
            to["via"] = json!("a");
            json!({"outside": "ext"})
        }
    };
    let is_health = address == Address::Health;
    json!({
        "id": n.to_string(), "from": from, "to": to,
        "protocol": if is_health { "TCP" } else { shape.protocol },
    })
}

// ---- the oracle

/// What is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// One of these pods answers.
    Answer(BTreeSet<String>),
    /// So many endpoints are told of, with this code.
    Health(u64, u64),
    /// At once.
    Refused,
    /// Nobody says anything.
    Dropped,
    /// There is nobody with the address.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    result: Fate,
    /// Whether all connections of the client go to one backend.
    is_one: bool,
    /// Whether the backend may see another address than the client's: what is not
    /// `externalTrafficPolicy: Local` may be given another, and need not.
    any_source: bool,
}

/// Which endpoints traffic may go to.
///
/// "Service.spec.internalTrafficPolicy: how nodes distribute service traffic they
/// receive on the ClusterIP. If set to Local, the proxy will assume that pods only
/// want to talk to endpoints of the service on the same node as the pod, dropping the
/// traffic if there are no local endpoints." Cilium holds all that comes from inside
/// to it, whichever of the service's addresses is asked for; so do we.
fn policy_inside(shape: &Shape) -> bool {
    shape.internal_local
}

/// "Service.spec.externalTrafficPolicy: how nodes distribute service traffic they
/// receive on one of the Service's externally-facing addresses (NodePorts,
/// ExternalIPs, and LoadBalancer IPs). If set to Local, the proxy will configure the
/// service in a way that assumes that external load balancers will take care of
/// balancing the service traffic between nodes [...] (Traffic mistakenly sent to a
/// node with no endpoints will be dropped.) [...] traffic sent to an External IP or
/// LoadBalancer IP from within the cluster will always get Cluster semantics".
fn policy_outside(shape: &Shape) -> bool {
    shape.external_local
}

/// Which of the endpoints in these places are used: "ready" ones; "if all endpoints
/// are terminating, those that are serving" (KEP-1669), of those that the policy
/// leaves.
fn used(shape: &Shape, only_local: bool) -> BTreeSet<String> {
    let places = [("web-a", true), ("web-b", false)];
    let places: Vec<(&str, Endpoint)> = places
        .into_iter()
        .zip(shape.endpoints)
        .filter(|((_, is_local), _)| *is_local || !only_local)
        .map(|((name, _), endpoint)| (name, endpoint))
        .collect();
    let of = |wanted: Endpoint| -> BTreeSet<String> {
        let of = places.iter().filter(|(_, endpoint)| *endpoint == wanted);
        of.map(|(name, _)| format!("shop/{name}:{TARGET}"))
            .collect()
    };
    let ready = of(Endpoint::Ready);
    match ready.is_empty() {
        true => of(Endpoint::Draining),
        false => ready,
    }
}

fn expected(shape: &Shape, (client, address, family): (Client, Address, usize)) -> Expected {
    let nobody = |result| Expected {
        result,
        is_one: true,
        any_source: true,
    };
    let is_outside = client == Client::Outside;
    let has_family = shape.families.has()[family];
    // "NodePort builds on top of ClusterIP, LoadBalancer on top of NodePort."
    let (is_there, absent) = match (address, shape.kind) {
        (_, Kind::Headless | Kind::ExternalName) => (false, Fate::None),
        (Address::Cluster | Address::External, _) => (has_family, Fate::None),
        (Address::NodePort, Kind::NodePort | Kind::LoadBalancer) => (has_family, Fate::Refused),
        (Address::NodePort, Kind::ClusterIp) => (false, Fate::Refused),
        (Address::Balanced, kind) => (has_family && kind == Kind::LoadBalancer, Fate::None),
        // "healthCheckNodePort [...] only has effect when type is set to LoadBalancer and
        // externalTrafficPolicy is set to Local." It is a port of the node: each family
        // of its addresses has it.
        (Address::Health, kind) => (
            kind == Kind::LoadBalancer && shape.external_local,
            Fate::Refused,
        ),
    };
    if !is_there {
        // A port of the node that nobody listens at is a closed port.
        let is_port = matches!(address, Address::NodePort | Address::Health);
        return nobody(if is_port { Fate::Refused } else { absent });
    }
    if address == Address::Health {
        let here = u64::from(shape.endpoints[0] == Endpoint::Ready);
        let code = if here > 0 { 200 } else { 503 };
        return nobody(Fate::Health(code, here));
    }
    // "ClusterIP [...] makes the Service only reachable from within the cluster."
    if address == Address::Cluster && is_outside {
        return nobody(Fate::Dropped);
    }
    let only_local = match is_outside {
        true => policy_outside(shape),
        false => policy_inside(shape),
    };
    let backends = used(shape, only_local);
    if backends.is_empty() {
        // Refused where there is nobody at all; where others have endpoints, dropped.
        let is_elsewhere = !used(shape, false).is_empty();
        return nobody(if is_elsewhere {
            Fate::Dropped
        } else {
            Fate::Refused
        });
    }
    Expected {
        // "sessionAffinity: ClientIP: connections from a particular client are passed to
        // the same Pod each time."
        is_one: shape.affinity || backends.len() == 1,
        // "Local preserves the client source IP."
        any_source: !is_outside || !only_local,
        result: Fate::Answer(backends),
    }
}

// ---- beside the engine

/// The engine's answers to all questions about a service of these objects.
fn answers(shape: &Shape, objects: Vec<Value>) -> Vec<Value> {
    let probes = asked().into_iter().enumerate();
    let probes = probes
        .map(|(n, question)| probe(shape, n, question))
        .collect();
    let mut states = crate::world::ask(json!({}), vec![state(objects, 0, probes)]);
    // Else it would be another service that is asked.
    assert_eq!(states[0]["reports"], json!([]), "{shape:?}");
    match states[0]["results"].take() {
        Value::Array(results) => results,
        other => panic!("{other}"),
    }
}

/// What an answer says, in the oracle's words.
fn heard(answer: &Value) -> Fate {
    if let Value::Object(health) = &answer["health"] {
        let number = |field: &str| health[field].as_u64().expect("a number");
        return Fate::Health(number("code"), number("local_endpoints"));
    }
    match answer["result"].as_str() {
        Some("answer") => {
            let backends = answer["backends"].as_array().expect("backends").iter();
            Fate::Answer(
                backends
                    .map(|name| name.as_str().expect("a name").to_owned())
                    .collect(),
            )
        }
        Some("refused") => Fate::Refused,
        Some("dropped") => Fate::Dropped,
        Some("none") => Fate::None,
        _ => panic!("{answer}"),
    }
}

/// What of a shape's answers is not as documented.
fn differences(shape: &Shape, answers: &[Value]) -> Vec<String> {
    let questions = asked();
    assert_eq!(answers.len(), questions.len());
    let mut wrong = Vec::new();
    for (question, answer) in questions.into_iter().zip(answers) {
        let expected = expected(shape, question);
        let heard = heard(answer);
        let mut differs = heard != expected.result;
        if matches!(expected.result, Fate::Answer(_)) {
            differs |= answer["exactly_one"] != expected.is_one;
            let sources = answer["source"].as_object().into_iter().flatten();
            differs |= !expected.any_source && sources.into_iter().any(|(_, s)| s != "preserved");
        }
        if differs {
            wrong.push(format!(
                "{shape:?} {question:?}: {answer}, expected {expected:?}"
            ));
        }
    }
    wrong
}

fn wrong(shape: &Shape) -> Vec<String> {
    differences(shape, &answers(shape, shape.objects()))
}

#[test]
fn every_combination_is_as_documented() {
    let shapes = shapes();
    let mut wrong_ones = Vec::new();
    for shape in &shapes {
        wrong_ones.extend(wrong(shape));
    }
    let told = wrong_ones.iter().take(10).cloned().collect::<Vec<_>>();
    assert!(
        wrong_ones.is_empty(),
        "{} of {} answers differ:\n{}",
        wrong_ones.len(),
        shapes.len() * asked().len(),
        told.join("\n")
    );
}

/// For each field: an engine that takes it for another is found out.
#[test]
fn a_field_that_is_not_heeded_is_noticed() {
    let shape = Shape {
        kind: Kind::LoadBalancer,
        external_local: true,
        internal_local: true,
        affinity: true,
        families: Families::Dual,
        protocol: "TCP",
        endpoints: [Endpoint::Ready, Endpoint::Ready],
    };
    assert_eq!(wrong(&shape), Vec::<String>::new());
    let none = Endpoint::Absent;
    for (field, is, seen) in [
        (
            "type",
            shape,
            Shape {
                kind: Kind::NodePort,
                ..shape
            },
        ),
        (
            "externalTrafficPolicy",
            shape,
            Shape {
                external_local: false,
                ..shape
            },
        ),
        (
            "internalTrafficPolicy",
            shape,
            Shape {
                internal_local: false,
                ..shape
            },
        ),
        (
            "sessionAffinity",
            Shape {
                external_local: false,
                ..shape
            },
            Shape {
                external_local: false,
                affinity: false,
                ..shape
            },
        ),
        (
            "ipFamilies",
            shape,
            Shape {
                families: Families::SingleV4,
                ..shape
            },
        ),
        (
            "protocol",
            shape,
            Shape {
                protocol: "UDP",
                ..shape
            },
        ),
        (
            "an endpoint here",
            shape,
            Shape {
                endpoints: [none, Endpoint::Ready],
                ..shape
            },
        ),
        (
            "serving",
            Shape {
                endpoints: [Endpoint::Draining, none],
                ..shape
            },
            Shape {
                endpoints: [Endpoint::Ended, none],
                ..shape
            },
        ),
        (
            "terminating",
            Shape {
                endpoints: [Endpoint::Ready, none],
                ..shape
            },
            Shape {
                endpoints: [Endpoint::Draining, none],
                ..shape
            },
        ),
        (
            "ready",
            Shape {
                endpoints: [Endpoint::Draining, Endpoint::Ready],
                ..shape
            },
            Shape {
                endpoints: [Endpoint::Ready, Endpoint::Ready],
                ..shape
            },
        ),
    ] {
        let answers = answers(&is, seen.objects());
        assert_ne!(differences(&is, &answers), Vec::<String>::new(), "{field}");
    }
}
