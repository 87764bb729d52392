//! Other nodes by their labels.

use axon_abi::{Direction, Identity, Scope};
use axon_control::{ConditionKind, Config};
use axon_model::{
    Action, Node, Peer, Peers, PortMatch, PortRule, Ports, Protocol, Requirement, RuleEntry,
    Selector,
};

use crate::world::{Cluster, config, ingress};

fn labelled() -> Config {
    Config {
        node_labels: true,
        ..config()
    }
}

fn from_pool(pool: &str) -> RuleEntry {
    let pool = Requirement::equals("any", "pool", pool);
    let peers = Peers::List(vec![Peer::Nodes(Selector::new(vec![pool]))]);
    ingress(Action::Allow, peers, 80)
}

fn pool(c: &Cluster, name: &str, pool: &str) {
    let node = c.observed.nodes.get(&name.to_owned()).expect("the node");
    let labels = [("pool".to_owned(), pool.to_owned())].into();
    let node = Node {
        labels,
        ..(*node).clone()
    };
    c.observed
        .nodes
        .write(|txn| txn.insert(name.to_owned(), node));
}

fn cluster(config: Config) -> Cluster {
    let mut c = Cluster::new(config);
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    c.policy("p", "web", vec![from_pool("edge")]);
    c.complete();
    c.step();
    c
}

fn may(c: &Cluster, addr: &str) -> bool {
    let who = c.address(addr).expect("somebody").identity;
    c.allows(7, Direction::Ingress, who, 80)
}

#[test]
fn other_nodes_are_who_their_labels_say() {
    let mut c = cluster(labelled());
    assert!(!may(&c, "192.0.2.2"));
    pool(&c, "two", "edge");
    pool(&c, "one", "edge");
    c.step();
    let two = c.address("192.0.2.2").expect("row").identity;
    assert_eq!(two.scope(), Scope::RemoteNode);
    assert_eq!(c.address("2001:db8::2").expect("row").identity, two);
    assert!(may(&c, "192.0.2.2"));
    assert_eq!(c.identity("192.0.2.1"), Some(Identity::HOST.0));
    assert!(!may(&c, "192.0.2.1"), "only other nodes are meant");
    let text = c.controller.labels_of(two).expect("known").to_string();
    assert!(
        text.contains("node:pool=edge") && text.contains("reserved:remote-node"),
        "{text}"
    );

    pool(&c, "two", "core");
    c.step();
    assert!(!may(&c, "192.0.2.2"));
    assert_eq!(c.controller.labels_of(two), None, "its number is free");
}

#[test]
fn with_prefixes_that_select_nodes_each_address_is_told() {
    let mut c = cluster(Config {
        cidr_selects_nodes: true,
        ..labelled()
    });
    pool(&c, "two", "edge");
    c.step();
    assert!(may(&c, "192.0.2.2") && may(&c, "2001:db8::2"));
    assert_ne!(c.identity("192.0.2.2"), c.identity("2001:db8::2"));
}

#[test]
fn without_the_option_the_policy_is_not_in_force_and_somebody_says_so() {
    let mut c = cluster(config());
    let report = c.step();
    assert!(may(&c, "192.0.2.2"), "no policy");
    let kinds: Vec<_> = report.conditions.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ConditionKind::PolicyUnsupported]);
    let condition = &report.conditions[0];
    assert!(
        condition.remedy.contains("enable-node-selector-labels"),
        "{condition:?}"
    );
}

/// A policy for web that names a protocol without ports beside TCP.
fn names_vrrp(config: Config, action: Action) -> Cluster {
    let c = Cluster::new(config);
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    let mut entry = ingress(action, Peers::Any, 80);
    let Ports::List(rules) = &mut entry.ports else {
        panic!("no ports");
    };
    rules.push(PortRule {
        protocol: Protocol(112),
        port: PortMatch::Any,
    });
    c.policy("p", "web", vec![entry]);
    c.complete();
    c
}

#[test]
fn protocols_without_ports_are_named_where_the_option_says_so() {
    let on = Config {
        extended_protocols: true,
        ..config()
    };
    for (config, action, says) in [
        (config(), Action::Allow, "set enable-extended-ip-protocols"),
        (config(), Action::Deny, "set enable-extended-ip-protocols"),
        (on.clone(), Action::Allow, "for nodes only"),
        (on.clone(), Action::Deny, ""),
    ] {
        let is_on = config.extended_protocols;
        let mut c = names_vrrp(config, action);
        let report = c.step();
        let remedies = report.conditions.iter().map(|c| c.remedy.as_str());
        let remedies: Vec<&str> = remedies.collect();
        assert!(remedies.concat().contains(says), "{action:?}: {remedies:?}");
        assert_eq!(remedies.is_empty(), says.is_empty(), "{remedies:?}");
        let world = Identity::WORLD_IPV4;
        let may = |port| c.allows(7, Direction::Ingress, world, port);
        let expected = match (is_on, action) {
            (false, _) => [true, true],
            (true, Action::Allow) => [true, false],
            (true, _) => [false, false],
        };
        assert_eq!([may(80), may(81)], expected, "{is_on} {action:?}");
    }
}

/// What was in force before the agent was started anew nobody knows; whom it
/// had closed stays closed.
#[test]
fn an_edit_that_needs_an_option_opens_nobody_at_a_restart() {
    let mut c = names_vrrp(config(), Action::Allow);
    let open = |c: &Cluster, port| c.allows(7, Direction::Ingress, Identity::WORLD_IPV4, port);
    c.step();
    assert!(open(&c, 81), "it was never in force");
    c.policy("p", "web", vec![ingress(Action::Allow, Peers::Any, 80)]);
    c.step();
    assert_eq!([80, 81].map(|port| open(&c, port)), [true, false]);
    let mut entry = ingress(Action::Allow, Peers::Any, 443);
    if let Ports::List(rules) = &mut entry.ports {
        rules.push(PortRule {
            protocol: Protocol(112),
            port: PortMatch::Any,
        });
    }
    let deny = ingress(Action::Deny, Peers::Any, 80);
    c.policy("p", "web", vec![entry, deny]);
    c.step();
    assert_eq!(
        [80, 81].map(|port| open(&c, port)),
        [true, false],
        "as it was"
    );
    c.restart(config());
    let report = c.step();
    assert_eq!([80, 81, 443].map(|port| open(&c, port)), [false; 3]);
    assert_eq!(report.conditions.len(), 1, "{:?}", report.conditions);
}
