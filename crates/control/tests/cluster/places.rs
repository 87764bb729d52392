//! Prefixes that select nodes and pods by their addresses.

use axon_abi::{Direction, Identity};
use axon_control::{Config, IdentityMode};
use axon_model::{Action, ObjectKey, Peer, Peers, RuleEntry};

use crate::groups::may;
use crate::world::{Cluster, config, crd, ingress, ip};

fn to(cidr: &str, except: &[&str]) -> RuleEntry {
    let peers = Peers::List(vec![Peer::Cidr {
        cidr: cidr.parse().expect("prefix"),
        except: except.iter().map(|p| p.parse().expect("prefix")).collect(),
    }]);
    RuleEntry {
        direction: Direction::Egress,
        ..ingress(Action::Allow, peers, 443)
    }
}

/// A cluster with a web server on this node.
fn web(config: Config) -> Cluster {
    let mut c = Cluster::new(config);
    c.complete();
    c.cluster_identity(1000, "web");
    c.cluster_identity(1001, "cart");
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    c.step();
    c
}

/// Another pod of the same labels as `cart`.
fn carts(c: &Cluster) {
    c.pod("cart", "two", "10.0.2.7");
    let cart = c.observed.pods.get(&ObjectKey::new("shop", "cart"));
    let mut other = (*cart.expect("a pod")).clone();
    other.name = "cart-2".into();
    other.ips = vec![ip("10.0.2.9")];
    let key = ObjectKey::new("shop", "cart-2");
    c.observed.pods.write(|txn| txn.insert(key, other));
}

#[test]
fn prefixes_select_nodes_if_they_shall() {
    for (nodes, expected) in [(false, [false; 4]), (true, [true, true, false, false])] {
        let mut c = web(Config {
            cidr_selects_nodes: nodes,
            ..config()
        });
        c.pod("cart", "two", "10.0.2.7");
        c.policy(
            "p",
            "web",
            vec![to("192.0.2.0/24", &["192.0.2.3/32"]), to("10.0.0.0/8", &[])],
        );
        c.step();
        let mut node = (*c.observed.nodes.get(&"two".to_owned()).expect("a node")).clone();
        node.name = "three".into();
        node.pod_cidrs.clear();
        for (address, addr) in node.addresses.iter_mut().zip(["192.0.2.3", "2001:db8::3"]) {
            address.addr = ip(addr);
        }
        c.observed
            .nodes
            .write(|txn| txn.insert("three".into(), node));
        c.step();
        let seen = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.2.7"];
        assert_eq!(seen.map(|addr| may(&c, addr)), expected, "nodes: {nodes}");
        assert_eq!(c.identity("192.0.2.1"), Some(1), "the host has one number");
        let numbered = c.controller.persisted().node_identities.iter().count();
        assert_eq!(numbered, if nodes { 4 } else { 0 });
        c.observed
            .nodes
            .write(|txn| txn.remove(&"three".to_owned()));
        c.step();
        let numbered = c.controller.persisted().node_identities.iter().count();
        assert_eq!(numbered, if nodes { 2 } else { 0 });
    }
}

#[test]
fn prefixes_select_pods_if_they_shall() {
    for identity_mode in [IdentityMode::Local, IdentityMode::Crd] {
        let base = match identity_mode {
            IdentityMode::Local => config(),
            IdentityMode::Crd => crd(),
        };
        let modes = || Config {
            cidr_selects_pods: true,
            ..base.clone()
        };
        let mut c = web(modes());
        carts(&c);
        c.step();
        let who = |c: &Cluster| ["10.0.2.7", "10.0.2.9"].map(|a| c.identity(a).expect("a pod"));
        let look = |c: &Cluster| ["10.0.2.7", "10.0.2.9"].map(|a| may(c, a));
        let same = who(&c);
        assert_eq!(same[0], same[1]);
        c.policy("p", "web", vec![to("10.0.2.0/29", &[])]);
        c.step();
        assert_eq!(look(&c), [true, false], "{identity_mode:?}");
        let apart = who(&c);
        assert_eq!(apart[1], same[1], "nobody names where it is");
        let labels = c.controller.labels_of(Identity(apart[0])).expect("labels");
        assert!(labels.to_string().contains("cidr:10.0.2.0/29"), "{labels}");

        c.restart(modes());
        c.step();
        assert_eq!((look(&c), who(&c)), ([true, false], apart));

        c.policy("p", "web", vec![to("10.0.2.8/29", &[])]);
        c.step();
        assert_eq!(look(&c), [false, true]);
        c.policy("p", "web", vec![to("0.0.0.0/0", &["10.0.2.0/29"])]);
        c.step();
        assert_eq!(look(&c), [false, true]);
        assert!(may(&c, "198.51.100.7"), "the world is meant as ever");
        assert!(!may(&c, "192.0.2.2"), "nodes are not");
        c.no_policy("p");
        c.step();
        assert_eq!(who(&c), same);
        let placed = c.controller.persisted().placed_identities.iter().count();
        assert_eq!(placed, 0, "nobody has their numbers any more");
    }
}

/// The address counts that the node has given, whatever the pod's status says.
#[test]
fn a_pod_of_this_node_is_where_its_endpoint_is() {
    let mut c = web(Config {
        cidr_selects_pods: true,
        ..config()
    });
    c.pod("web", "one", "");
    c.policy("p", "web", vec![to("10.0.1.0/29", &[])]);
    c.step();
    let status = &c.controller.endpoints()[&7];
    assert!(
        status.labels.to_string().contains("cidr:10.0.1.0/29"),
        "{}",
        status.labels
    );
    assert_eq!(c.identity("10.0.1.7"), Some(status.identity.0));
    assert!(may(&c, "10.0.1.7"));
}
