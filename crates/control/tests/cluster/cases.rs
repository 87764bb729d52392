//! What the desired tables say of a small cluster, and how it gets there.

use crate::world::{Cluster, cidr, config, ingress, ip, origin, pods};
use axon_abi::{ConfigFlags, Identity, IpcacheFlags};
use axon_control::{Capacity, ConditionKind, Config, RuleView, WaitReason};
use axon_model::{Action, EndpointState, Entity, Peer, Peers};

#[test]
fn nothing_is_decided_before_everything_is_known() {
    let mut c = Cluster::new(config());
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    let report = c.step();
    assert_eq!(c.row(5), None, "its pinned row stays as it is");
    assert!(matches!(
        report.waiting[..],
        [(5, WaitReason::Sources { .. })]
    ));
    let kinds: Vec<_> = report.conditions.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ConditionKind::SourceIncomplete; 9]);
    assert!(!c.desired.endpoints.snapshot().is_complete());
    assert!(!c.desired.ipcache.snapshot().is_complete());
    let found = ["192.0.2.1", "192.0.2.2"].map(|addr| c.identity(addr));
    let why = "what is known is there at once; whether another node is an API server is not";
    assert_eq!(found, [Some(1), None], "{why}");

    c.complete();
    let report = c.step();
    assert_eq!(report.waiting, []);
    assert_eq!(report.conditions, []);
    assert!(report.changed && report.persist);
    assert!(c.row(5).is_some());
    assert!(c.desired.endpoints.snapshot().is_complete());
    let again = c.step();
    assert!(!again.changed && !again.persist);
}

#[test]
fn every_address_is_somebody() {
    let mut c = Cluster::new(config());
    c.pod("web", "one", "10.0.1.5");
    c.pod("client", "two", "10.0.2.7");
    c.endpoint(5, "web");
    let outside = ingress(Action::Allow, cidr("198.51.100.0/24"), 80);
    let inside = ingress(Action::Allow, cidr("10.0.2.9/32"), 80);
    c.policy("p", "web", vec![outside, inside]);
    c.controller
        .set_local_addresses(vec![ip("10.0.1.1"), ip("169.254.7.7")]);
    c.complete();
    c.step();
    for (name, addr, identity, flags, node) in [
        ("own node", "192.0.2.1", 1, IpcacheFlags::LOCAL_HOST, ""),
        (
            "own node, by its devices",
            "10.0.1.1",
            1,
            IpcacheFlags::LOCAL_HOST,
            "",
        ),
        ("another node", "192.0.2.2", 6, 0, "192.0.2.2"),
        ("another node, IPv6", "2001:db8::2", 6, 0, "2001:db8::2"),
        ("own pod", "10.0.1.5", 256, IpcacheFlags::WORKLOAD, ""),
        (
            "own pod, IPv6",
            "fd00:0:0:1::5",
            256,
            IpcacheFlags::WORKLOAD,
            "",
        ),
        (
            "another node's pod",
            "10.0.2.7",
            257,
            IpcacheFlags::WORKLOAD,
            "192.0.2.2",
        ),
    ] {
        let row = c
            .address(addr)
            .unwrap_or_else(|| panic!("{name} has a row"));
        let via = if node.is_empty() { ip("::") } else { ip(node) };
        // Numbers of pods depend on the order of names only.
        let expected = match identity {
            256 => c.controller.endpoints()[&5].identity.0,
            257 => {
                c.controller
                    .identities()
                    .iter()
                    .find(|(id, labels)| id.0 >= 256 && labels.get("k8s", "app") == Some("client"))
                    .expect("client's identity")
                    .0
                    .0
            }
            n => n,
        };
        assert_eq!((row.identity.0, row.flags), (expected, flags), "{name}");
        assert_eq!(std::net::IpAddr::from(row.node), via, "{name}");
    }
    assert_eq!(
        c.address("10.0.2.9"),
        None,
        "a prefix within the pods' is no part of the world"
    );
    let cidr_identity = Identity::LOCAL_MIN.0 + 1;
    let expected = [
        ("0.0.0.0/0", 9),
        ("10.0.1.0/24", 3),
        ("10.0.2.0/24", 3),
        ("198.51.100.0/24", cidr_identity),
        ("::/0", 10),
        ("fd00:0:0:1::/64", 3),
        ("fd00:0:0:2::/64", 3),
    ];
    let expected = expected.map(|(prefix, id)| (prefix.to_owned(), id)).into();
    assert_eq!(c.prefixes(), expected);
    assert_eq!(c.desired.ipcache_cidrs.snapshot().len(), 7);
    let known = c.desired.identities.snapshot();
    assert!(known.get(&Identity(cidr_identity)).is_some());
    let ways = c.desired.routes.snapshot();
    assert_eq!(ways.len(), 2, "to the other node's pods, by family");
}

#[test]
fn a_single_stack_node_has_one_world() {
    let mut c = Cluster::new(Config {
        ipv6: false,
        ..config()
    });
    c.endpoint(5, "web");
    c.pod("web", "one", "");
    c.complete();
    c.step();
    let mut prefixes: Vec<_> = c.prefixes().into_iter().collect();
    prefixes.retain(|(_, id)| *id != 3);
    assert_eq!(prefixes, [("0.0.0.0/0".to_owned(), 2)]);
    assert_eq!(c.address("2001:db8::2"), None);
    assert_eq!(c.address("fd00:0:0:1::5"), None);
    let row = c.desired.config.get(&0).expect("configuration");
    assert_eq!(row.flags & ConfigFlags::IPV6, 0);
    assert_eq!(row.node_ipv4, [192, 0, 2, 1]);
}

#[test]
fn a_node_whose_object_tells_no_address_has_that_of_its_devices() {
    let mut c = Cluster::new(config());
    let mut node = (*c.observed.nodes.get(&"one".to_owned()).expect("own node")).clone();
    node.addresses.retain(|address| address.addr.is_ipv4());
    c.observed.nodes.write(|txn| txn.insert("one".into(), node));
    let leaving = vec![ip("192.0.2.99"), ip("2001:db8::99")];
    let mut present = leaving.clone();
    present.push(ip("192.0.2.1"));
    c.controller.set_leaving_addresses(leaving.clone(), present);
    c.complete();
    c.step();
    let row = c.desired.config.get(&0).expect("configuration");
    assert_eq!(row.node_ipv4, [192, 0, 2, 1], "what the object says counts");
    assert_eq!(row.node_ipv6, axon_abi::IpKey::from(ip("2001:db8::99")));
    c.controller
        .set_leaving_addresses(leaving.clone(), leaving.clone());
    c.step();
    let row = c.desired.config.get(&0).expect("configuration");
    assert_eq!(row.node_ipv4, [192, 0, 2, 99], "no device has it any more");
    c.controller
        .set_leaving_addresses(Vec::new(), vec![ip("10.9.9.9")]);
    c.step();
    let row = c.desired.config.get(&0).expect("configuration");
    assert_eq!(row.node_ipv4, [192, 0, 2, 1], "there is none else");
}

#[test]
fn policy_reaches_endpoints_by_a_set_that_is_there_first() {
    let mut c = Cluster::ready();
    c.pod("web", "one", "");
    c.pod("client", "two", "10.0.2.7");
    c.endpoint(5, "web");
    c.step();
    let client = c.identity("10.0.2.7").expect("the client");
    let open = c.row(5).expect("a row").policy_set;
    assert!(
        c.allowed(client, 5, 80) && c.allowed(client, 5, 81),
        "nothing selects it"
    );

    c.policy("p", "web", vec![ingress(Action::Allow, pods("client"), 80)]);
    let report = c.step();
    let closed = c.row(5).expect("a row").policy_set;
    assert_ne!(open, closed);
    assert!(c.allowed(client, 5, 80) && !c.allowed(client, 5, 81));
    assert_eq!(report.policy_revision, 1);
    assert!(
        c.desired.policy_sets.get(&open).is_some(),
        "packets in flight still find it"
    );
    let used = c.controller.policy_sets();
    let set = used.iter().find(|s| s.set == closed).expect("the set");
    assert_eq!(
        (&*set.policies, &*set.endpoints),
        (&[origin("p")][..], &[5][..])
    );
    let rows = c.desired.policy_sets.get(&closed).expect("rows");
    let rule = c
        .controller
        .rule(rows.entries.values().next().expect("an entry").rule);
    let expected = RuleView {
        origin: origin("p"),
        index: 0,
        description: "says p".into(),
        labels: Vec::new(),
        log: String::new(),
    };
    assert_eq!(rule, Some(expected));

    let due = report.next_step_ms.expect("something is due");
    c.now_ms = due.max(c.now_ms + 5_000);
    c.step();
    assert!(
        c.desired.policy_sets.get(&open).is_none(),
        "nobody needs it any more"
    );
    c.no_policy("p");
    c.step();
    assert!(c.allowed(client, 5, 81));
}

#[test]
fn who_is_not_known_is_init_and_closed() {
    let mut c = Cluster::ready();
    c.endpoint(5, "web");
    let report = c.step();
    assert!(matches!(report.waiting[..], [(5, WaitReason::Pod { .. })]));
    let row = c.row(5).expect("a row");
    assert_eq!(row.identity, Identity::INIT);
    assert!(!c.allowed(1, 5, 80) && !c.allowed(9, 5, 80));
    assert_eq!(
        c.controller.endpoints()[&5].state,
        EndpointState::WaitingForIdentity
    );
    assert_eq!(c.identity("10.0.1.5"), Some(5));

    c.pod("web", "one", "");
    let report = c.step();
    assert_eq!(report.waiting, []);
    assert!(c.row(5).expect("a row").identity >= Identity::CLUSTER_MIN);
    assert!(c.allowed(9, 5, 80));
    assert_eq!(
        c.controller.endpoints()[&5].state,
        EndpointState::Regenerating
    );
}

#[test]
fn what_is_gone_goes() {
    let mut c = Cluster::ready();
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    c.policy(
        "p",
        "web",
        vec![ingress(Action::Allow, cidr("198.51.100.0/24"), 80)],
    );
    c.step();
    c.no_endpoint(5);
    c.no_pod("web");
    c.no_policy("p");
    c.observed.nodes.write(|txn| txn.remove(&"two".to_owned()));
    c.step();
    c.now_ms += 10_000;
    c.step();
    assert_eq!(c.row(5), None);
    assert_eq!(c.address("10.0.1.5"), None);
    assert_eq!(c.address("192.0.2.2"), None);
    assert_eq!(c.desired.identities.snapshot().len(), 0);
    assert_eq!(c.desired.policy_sets.snapshot().len(), 0);
    assert_eq!(c.desired.routes.snapshot().len(), 0);
    let mut prefixes: Vec<String> = c.prefixes().into_keys().collect();
    prefixes.sort();
    assert_eq!(
        prefixes,
        ["0.0.0.0/0", "10.0.1.0/24", "::/0", "fd00:0:0:1::/64"]
    );
    c.endpoint(5, "web");
    c.pod("web", "one", "");
    c.step();
    let status = &c.controller.endpoints()[&5];
    assert!(
        status.identity > Identity::CLUSTER_MIN,
        "a number comes back late"
    );
}

#[test]
fn what_does_not_fit_is_told_and_never_more_open() {
    let small = |entries| Config {
        capacity: Capacity {
            entries,
            ..Capacity::default()
        },
        ..config()
    };
    let many = |action| -> Vec<_> {
        (0..8)
            .map(|n| ingress(action, Peers::Any, 80 + 2 * n))
            .collect()
    };
    for (name, entries, expected) in [
        (
            "more allowed: what is in force stays",
            many(Action::Allow),
            (true, false),
        ),
        (
            "more denied: nothing passes",
            many(Action::Deny),
            (false, false),
        ),
    ] {
        let mut c = Cluster::new(small(4));
        c.complete();
        c.pod("web", "one", "");
        c.endpoint(5, "web");
        c.policy("p", "web", vec![ingress(Action::Allow, Peers::Any, 80)]);
        let report = c.step();
        assert_eq!(report.waiting, [], "{name}");
        c.policy("p", "web", entries);
        let report = c.step();
        let condition = &report.conditions[0];
        assert_eq!(condition.kind, ConditionKind::PolicyOverflow, "{name}");
        assert_eq!(condition.policies, [origin("p")], "{name}");
        assert!(
            condition.message.contains("the map holds 4"),
            "{}",
            condition.message
        );
        assert!(
            matches!(report.waiting[..], [(5, WaitReason::Capacity(_))]),
            "{name}"
        );
        assert_eq!(
            (c.allowed(9, 5, 80), c.allowed(9, 5, 82)),
            expected,
            "{name}"
        );

        c.policy("p", "web", vec![ingress(Action::Allow, Peers::Any, 82)]);
        let report = c.step();
        assert_eq!(
            (report.waiting, report.conditions),
            (vec![], vec![]),
            "{name}"
        );
        assert!(c.allowed(9, 5, 82) && !c.allowed(9, 5, 80), "{name}");
    }
}

#[test]
fn room_is_made_by_what_is_no_longer_in_force() {
    let allow = |ports: &[u16]| -> Vec<_> {
        ports
            .iter()
            .map(|port| ingress(Action::Allow, Peers::Any, *port))
            .collect()
    };
    let deny = |ports: &[u16]| -> Vec<_> {
        ports
            .iter()
            .map(|port| ingress(Action::Deny, Peers::Any, *port))
            .collect()
    };
    for (name, entries, first, second, third) in [
        (
            "a set that waits to go",
            5,
            allow(&[80, 81]),
            allow(&[82, 83]),
            allow(&[84, 85]),
        ),
        (
            "a set that was locked down",
            4,
            allow(&[80, 81, 82]),
            deny(&[80, 81]),
            deny(&[80, 81]),
        ),
    ] {
        let mut c = Cluster::new(Config {
            capacity: Capacity {
                entries,
                ..Capacity::default()
            },
            ..config()
        });
        c.complete();
        c.pod("web", "one", "");
        c.endpoint(5, "web");
        c.policy("p", "web", first);
        assert_eq!(c.step().conditions, [], "{name}");
        c.policy("p", "web", second.clone());
        let report = c.step();
        if second == third {
            assert_eq!(
                report.conditions[0].kind,
                ConditionKind::PolicyOverflow,
                "{name}"
            );
            c.now_ms = report.next_step_ms.expect("a set goes");
            while let Some(due) = c.step().next_step_ms.filter(|due| *due <= c.now_ms + 5_000) {
                c.now_ms = due;
            }
        }
        c.policy("p", "web", third);
        let report = c.step();
        assert_eq!(
            (report.conditions, report.waiting),
            (vec![], vec![]),
            "{name}"
        );
        let set = c.row(5).expect("a row").policy_set;
        let rows = c.desired.policy_sets.get(&set).expect("rows");
        assert_eq!(rows.entries.len(), 2, "{name}");
    }
}

#[test]
fn a_prefix_is_the_worlds_when_no_pods_are_in_it() {
    let mut c = Cluster::ready();
    c.policy(
        "p",
        "web",
        vec![ingress(Action::Allow, cidr("10.0.2.0/28"), 80)],
    );
    c.step();
    assert_eq!(c.prefixes().get("10.0.2.0/28"), None);
    let two = "two".to_owned();
    let mut node = (*c.observed.nodes.get(&two).expect("node")).clone();
    node.pod_cidrs.clear();
    c.observed.nodes.write(|txn| txn.insert(two, node));
    c.step();
    assert_eq!(
        c.prefixes().get("10.0.2.0/28"),
        Some(&(Identity::LOCAL_MIN.0 + 1))
    );
}

#[test]
fn the_node_reaches_its_endpoints_unless_denied() {
    let entity = |entity| Peers::List(vec![Peer::Entity(entity)]);
    for (name, allow_localhost, action, expected) in [
        ("always", true, Action::Allow, true),
        ("always, but denied", true, Action::Deny, false),
        ("as policy says", false, Action::Allow, false),
    ] {
        let mut c = Cluster::new(Config {
            allow_localhost,
            ..config()
        });
        c.complete();
        c.pod("web", "one", "");
        c.endpoint(5, "web");
        let peer = if action == Action::Deny {
            Entity::Host
        } else {
            Entity::World
        };
        c.policy("p", "web", vec![ingress(action, entity(peer), 80)]);
        c.step();
        assert_eq!(c.allowed(1, 5, 80), expected, "{name}");
        assert!(!c.allowed(6, 5, 80), "{name}: other nodes are no exception");
    }
}
