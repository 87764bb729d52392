//! Random worlds: few labels, names and ports, so that rules meet.

use std::sync::Arc;

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Auth, Entity, GroupKey, GroupRef, HttpRule, L7, L7Rules, Label, NamePattern, ObjectKey,
    Operator, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch, PortRule, Ports, Protocol,
    Requirement, Rule, RuleEntry, Selector, Subject, Tier, source,
};
use axon_policy::{
    Group, IdentityInfo, Members, NamedPorts, PolicyConfig, cidr_labels, named_addresses,
};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const PREFIXES: [&str; 5] = [
    "0.0.0.0/0",
    "198.51.0.0/16",
    "198.51.100.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
];
pub(crate) const PORTS: [u16; 7] = [0, 53, 80, 81, 443, 8080, 65535];
pub(crate) const PROTOCOLS: [u8; 6] = [1, 6, 17, 58, 132, 47];

pub(crate) fn prefix(n: usize) -> IpNet {
    PREFIXES[n].parse().expect("prefix")
}

pub(crate) fn label() -> impl Strategy<Value = Label> {
    prop_oneof![
        (select(vec!["app", "tier", "env"]), select(vec!["a", "b"]))
            .prop_map(|(key, value)| Label::new("k8s", key, value)),
        select(vec!["red", "blue"]).prop_map(|ns| Label::new(
            "k8s",
            "io.kubernetes.pod.namespace",
            ns
        )),
        // Only the reserved label of this name makes an API server.
        Just(Label::new("k8s", "kube-apiserver", "a")),
    ]
}

/// A workload, a prefix outside the cluster or a node, with what is known of
/// it.
pub(crate) fn identity() -> impl Strategy<Value = (Identity, IdentityInfo)> {
    let ports = prop::collection::btree_map(
        (
            select(vec!["web", "dns"]),
            select(vec![Protocol::TCP, Protocol::UDP]),
        ),
        prop::collection::btree_set(select(PORTS.to_vec()), 1..3),
        0..3,
    );
    let labels = prop::collection::vec(label(), 0..4);
    let workload =
        (256..264_u32, labels, ports, addresses()).prop_map(|(id, labels, ports, addresses)| {
            let named = |((name, protocol), ports): ((&str, Protocol), _)| {
                ((name.to_owned(), protocol), ports)
            };
            let info = IdentityInfo {
                labels: labels.into_iter().collect(),
                addresses,
                named_ports: ports.into_iter().map(named).collect::<NamedPorts>(),
                ..IdentityInfo::default()
            };
            (Identity(id), info)
        });
    let outside = (1..PREFIXES.len()).prop_map(|n| {
        let prefix = prefix(n);
        let info = IdentityInfo {
            labels: cidr_labels(&PolicyConfig::default(), prefix),
            prefix: Some(prefix),
            ..IdentityInfo::default()
        };
        (Identity(Identity::LOCAL_MIN.0 + n as u32), info)
    });
    let patterns = prop::collection::btree_set(name_pattern(), 1..4);
    let named = (0..PREFIXES.len(), patterns, 0..3_u32).prop_map(|(n, patterns, id)| {
        let info = named_addresses(&PolicyConfig::default(), prefix(n), patterns);
        (Identity(Identity::LOCAL_MIN.0 + 0x100 + id), info)
    });
    let ids = select(vec![1, 0x0200_0001, 0x0200_0002]);
    let pool = prop::option::of((select(vec!["app", "pool"]), select(vec!["a", "b"])));
    let node = (ids, any::<bool>(), pool, addresses()).prop_map(|(id, api, pool, addresses)| {
        let own = if id == 1 { "host" } else { "remote-node" };
        let names = [own].into_iter().chain(api.then_some("kube-apiserver"));
        let labels = names.map(|name| Label::new(source::RESERVED, name, ""));
        let pool = pool.map(|(key, value)| Label::new(source::NODE, key, value));
        let labels = labels.chain(pool);
        let info = IdentityInfo {
            addresses,
            ..IdentityInfo::labelled(labels.collect())
        };
        (Identity(id), info)
    });
    prop_oneof![6 => workload, 2 => outside, 2 => named, 2 => node]
}

fn name_pattern() -> impl Strategy<Value = NamePattern> {
    let texts = select(vec!["a.example", "*.example", "**.example", "*"]);
    texts.prop_map(|text| NamePattern::new(text).expect("pattern"))
}

/// Where prefixes select an identity inside the cluster; mostly nowhere.
fn addresses() -> impl Strategy<Value = std::collections::BTreeSet<IpNet>> {
    prop_oneof![
        2 => Just(Default::default()),
        1 => prop::collection::btree_set((0..PREFIXES.len()).prop_map(prefix), 1..3),
    ]
}

pub(crate) fn group_key() -> impl Strategy<Value = GroupKey> {
    select(vec![
        GroupKey::CidrGroup("one".into()),
        GroupKey::CidrGroup("two".into()),
        GroupKey::Service(ObjectKey::new("red", "one")),
        GroupKey::Service(ObjectKey::new("blue", "one")),
    ])
}

pub(crate) fn group() -> impl Strategy<Value = Group> {
    let labels = prop::collection::vec(label(), 0..3);
    let prefixes = prop::collection::btree_set((0..PREFIXES.len()).prop_map(prefix), 0..3);
    let members = prop_oneof![
        prefixes.prop_map(Members::Prefixes),
        selector().prop_map(Members::Endpoints),
    ];
    (labels, members).prop_map(|(labels, members)| Group {
        labels: Arc::new(labels.into_iter().collect()),
        members,
    })
}

fn group_ref() -> impl Strategy<Value = GroupRef> {
    let name = || select(vec!["one", "two"]).prop_map(str::to_owned);
    let namespace = || select(vec!["", "red", "blue"]).prop_map(str::to_owned);
    prop_oneof![
        name().prop_map(GroupRef::CidrGroup),
        selector().prop_map(GroupRef::CidrGroups),
        (namespace(), name()).prop_map(|(n, name)| GroupRef::Service(ObjectKey::new(&n, &name))),
        (namespace(), selector()).prop_map(|(namespace, selector)| GroupRef::Services {
            namespace,
            selector,
        }),
    ]
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let key = select(vec![
        "app",
        "tier",
        "env",
        "io.kubernetes.pod.namespace",
        "kube-apiserver",
        "remote-node",
        "pool",
    ]);
    let values = || prop::collection::btree_set(select(vec!["a", "b", "red"]), 1..3);
    let owned = |v: std::collections::BTreeSet<&str>| v.into_iter().map(str::to_owned).collect();
    let operator = prop_oneof![
        3 => values().prop_map(move |v| Operator::In(owned(v))),
        1 => values().prop_map(move |v| Operator::NotIn(owned(v))),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    (select(vec!["k8s", "any"]), key, operator).prop_map(|(source, key, operator)| Requirement {
        source: source.into(),
        key: key.into(),
        operator,
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    prop::collection::vec(requirement(), 0..3).prop_map(Selector::new)
}

fn peer() -> impl Strategy<Value = Peer> {
    let entity = select(vec![
        Entity::All,
        Entity::World,
        Entity::WorldIpv4,
        Entity::WorldIpv6,
        Entity::Cluster,
        Entity::Host,
        Entity::RemoteNode,
        Entity::KubeApiserver,
        Entity::Init,
        Entity::Health,
        Entity::Unmanaged,
        Entity::Ingress,
        Entity::None,
    ]);
    let cidr = (
        0..PREFIXES.len(),
        prop::collection::vec(0..PREFIXES.len(), 0..2),
    )
        .prop_map(|(cidr, except)| Peer::Cidr {
            cidr: prefix(cidr),
            except: except.into_iter().map(prefix).collect(),
        });
    let except = prop::collection::vec((0..PREFIXES.len()).prop_map(prefix), 0..2);
    let group = (group_ref(), except).prop_map(|(of, except)| Peer::Group { of, except });
    prop_oneof![
        3 => selector().prop_map(Peer::Endpoints),
        1 => entity.prop_map(Peer::Entity),
        1 => cidr,
        1 => group,
        1 => name_pattern().prop_map(Peer::Name),
        1 => selector().prop_map(Peer::Nodes),
    ]
}

fn port_rule() -> impl Strategy<Value = PortRule> {
    let protocols = [0]
        .into_iter()
        .chain(PROTOCOLS)
        .map(Protocol)
        .collect::<Vec<_>>();
    let port = prop_oneof![
        1 => Just(PortMatch::Any),
        3 => (select(PORTS.to_vec()), select(PORTS.to_vec()))
            .prop_map(|(a, b)| PortMatch::Range(a, b)),
        1 => select(vec!["web", "dns"]).prop_map(|n| PortMatch::Named(n.into())),
    ];
    (select(protocols), port).prop_map(|(protocol, port)| PortRule { protocol, port })
}

fn entry() -> impl Strategy<Value = RuleEntry> {
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        4 => prop::collection::vec(peer(), 0..3).prop_map(Peers::List),
    ];
    let ports = prop_oneof![
        1 => Just(Ports::Any),
        2 => prop::collection::vec(port_rule(), 0..3).prop_map(Ports::List),
    ];
    let direction = select(vec![Direction::Ingress, Direction::Egress]);
    let said = prop_oneof![
        3 => auth().prop_map(|auth| (Action::Allow, None, auth)),
        1 => auth().prop_map(|auth| (Action::Allow, Some(Arc::new(get())), auth)),
        2 => Just((Action::Deny, None, Auth::Unsaid)),
        2 => Just((Action::Pass, None, Auth::Unsaid)),
    ];
    (direction, said, peers, ports).prop_map(|(direction, (action, l7, auth), peers, ports)| {
        RuleEntry {
            direction,
            action,
            peers,
            ports,
            l7,
            auth,
        }
    })
}

/// As often said as not.
fn auth() -> impl Strategy<Value = Auth> {
    prop_oneof![
        3 => Just(Auth::Unsaid),
        1 => Just(Auth::Disabled),
        2 => Just(Auth::Required),
        1 => Just(Auth::AlwaysFail),
    ]
}

fn get() -> L7 {
    L7 {
        rules: L7Rules::Http(vec![HttpRule::default()]),
        ..L7::default()
    }
}

/// Mostly the Normal tier; few priorities, so that some are equal.
fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![
        3 => Just(Tier::Normal),
        2 => (0..3_u16).prop_map(Tier::Admin),
        1 => (0..3_u16).prop_map(Tier::Baseline),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let subject = prop_oneof![
        3 => Just(Subject::Endpoints(Selector::default())),
        5 => selector().prop_map(Subject::Endpoints),
        1 => selector().prop_map(Subject::Nodes),
    ];
    let entries = prop::collection::vec(entry(), 0..4);
    // Of rules in the ordered tiers what they say here counts for nothing.
    let closed = prop_oneof![2 => Just((false, false)), 3 => any::<(bool, bool)>()];
    (subject, tier(), closed, entries).prop_map(|(subject, tier, (ingress, egress), entries)| {
        Rule {
            subject,
            tier,
            default_deny_ingress: ingress,
            default_deny_egress: egress,
            entries,
            description: String::new(),
            labels: Vec::new(),
            log: String::new(),
        }
    })
}

pub(crate) fn origin(n: u8) -> Origin {
    Origin {
        kind: PolicyKind::CiliumClusterwideNetworkPolicy,
        namespace: String::new(),
        name: format!("policy-{n}"),
    }
}

pub(crate) fn policy() -> impl Strategy<Value = PolicyObject> {
    let rules = prop::collection::vec(rule(), 0..3);
    let staged = prop::bool::weighted(0.2);
    (0..4_u8, rules, staged).prop_map(|(n, rules, staged)| PolicyObject {
        origin: origin(n),
        uid: String::new(),
        staged,
        rules,
    })
}
