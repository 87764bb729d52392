//! A server, its clients, and the set that its policies make.

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Auth, Label, Labels, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch,
    PortRule, Ports, Protocol, Requirement, Rule, RuleEntry, Selector, Subject, Tier,
};
use axon_policy::{
    IdentityInfo, Numbers, PolicyConfig, PolicySet, World, reserved_identities, resolve,
};

pub(crate) fn labels(texts: &[&str]) -> Labels {
    let label = |text: &&str| text.parse::<Label>().expect("label");
    texts.iter().map(label).collect()
}

pub(crate) fn pod(app: &str) -> IdentityInfo {
    let app = format!("k8s:app={app}");
    let place = [
        "k8s:io.kubernetes.pod.namespace=shop",
        "k8s:io.cilium.k8s.policy.cluster=default",
    ];
    IdentityInfo::labelled(labels(&[&app, place[0], place[1]]))
}

pub(crate) fn app(name: &str) -> Selector {
    Selector::new(vec![Requirement::equals("k8s", "app", name)])
}

pub(crate) fn policy(name: &str, subject: Selector, entries: Vec<RuleEntry>) -> PolicyObject {
    let has = |direction| entries.iter().any(|e: &RuleEntry| e.direction == direction);
    let rule = Rule {
        subject: Subject::Endpoints(subject),
        tier: Tier::Normal,
        default_deny_ingress: has(Direction::Ingress),
        default_deny_egress: has(Direction::Egress),
        entries,
        description: String::new(),
        labels: Vec::new(),
        log: String::new(),
    };
    PolicyObject {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "shop".into(),
            name: name.into(),
        },
        uid: String::new(),
        staged: false,
        rules: vec![rule],
    }
}

pub(crate) fn ingress(action: Action, peers: Peers, ports: Ports) -> RuleEntry {
    RuleEntry {
        direction: Direction::Ingress,
        action,
        peers,
        ports,
        l7: None,
        auth: Auth::Unsaid,
    }
}

pub(crate) fn from(peer: Peer) -> Peers {
    Peers::List(vec![peer])
}

pub(crate) fn tcp(first: u16, last: u16) -> Ports {
    Ports::List(vec![PortRule {
        protocol: Protocol::TCP,
        port: PortMatch::Range(first, last),
    }])
}

/// A web server (300), its clients (301 on), and the set of the server.
pub(crate) fn server_set(policies: &[PolicyObject], clients: u32) -> (PolicySet, Numbers) {
    server_set_of(&PolicyConfig::default(), policies, clients)
}

pub(crate) fn server_set_of(
    config: &PolicyConfig,
    policies: &[PolicyObject],
    clients: u32,
) -> (PolicySet, Numbers) {
    let mut world = World {
        identities: reserved_identities(config),
        ..World::default()
    };
    world.identities.insert(Identity(300), pod("web"));
    for n in 1..=clients {
        world
            .identities
            .insert(Identity(300 + n), pod(&format!("client-{n}")));
    }
    world.policies = policies
        .iter()
        .map(|p| (p.origin.clone(), p.clone()))
        .collect();
    world.subjects = [Identity(300)].into();
    let mut numbers = Numbers::default();
    let resolution = resolve(config, &world, &mut numbers);
    let set = &resolution.sets[&resolution.subjects[&Identity(300)]];
    ((**set).clone(), numbers)
}
