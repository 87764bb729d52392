//! Policy for the node itself; [`crate::host_trial`] has its trials.

use axon_abi::{ConfigFlags, Direction, EndpointRow, HOST_DEVICE, Identity, IpcacheFlags};
use axon_control::{
    Adopted, Capacity, ConditionKind, Config, HostRows, HostTrial, Persisted, WaitReason,
};
use axon_model::{
    Action, Entity, Node, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch, PortRule,
    Protocol, Requirement, Rule, Selector, Subject, Tier,
};
use axon_policy::{Failsafe, evaluate};

use crate::world::{Cluster, config, ingress, ip};

pub(crate) fn firewall() -> Config {
    Config {
        host_firewall: true,
        ..config()
    }
}

pub(crate) fn guard_origin() -> Origin {
    Origin {
        kind: PolicyKind::CiliumClusterwideNetworkPolicy,
        namespace: String::new(),
        name: "guard".into(),
    }
}

/// A policy that lets nodes of a pool be reached on port 22 by the cluster.
pub(crate) fn guard(c: &Cluster, pool: &str) {
    guard_says(c, pool, 22, "");
}

pub(crate) fn guard_says(c: &Cluster, pool: &str, port: u16, description: &str) {
    let cluster = Peers::List(vec![Peer::Entity(Entity::Cluster)]);
    let pool = Requirement::equals("any", "pool", pool);
    let rule = Rule {
        subject: Subject::Nodes(Selector::new(vec![pool])),
        tier: Tier::Normal,
        default_deny_ingress: true,
        default_deny_egress: false,
        entries: vec![ingress(Action::Allow, cluster, port)],
        description: description.to_owned(),
        labels: Vec::new(),
        log: String::new(),
    };
    let policy = PolicyObject {
        origin: guard_origin(),
        uid: String::new(),
        staged: false,
        rules: vec![rule],
    };
    let policies = &c.observed.policies;
    policies.write(|txn| txn.insert(policy.origin.clone(), policy));
}

pub(crate) fn pool(c: &Cluster, pool: &str) {
    let own = "one".to_owned();
    let node = c.observed.nodes.get(&own).expect("the node");
    let labels = [("pool".to_owned(), pool.to_owned())].into();
    let node = Node {
        labels,
        ..(*node).clone()
    };
    c.observed.nodes.write(|txn| txn.insert(own, node));
}

/// Whether somebody may reach a port of the node.
pub(crate) fn may(c: &Cluster, from: Identity, port: u16) -> bool {
    let set = c.controller.host().policy_set;
    let rows = c.desired.policy_sets.get(&set).expect("rows of the set");
    evaluate(&rows, Direction::Ingress, from, 6, port).is_allowed()
}

#[test]
fn the_node_has_a_set_by_its_labels() {
    let mut c = Cluster::new(firewall());
    guard(&c, "edge");
    c.complete();
    c.step();
    assert!(may(&c, Identity::WORLD_IPV4, 22), "no rule is about it");
    pool(&c, "edge");
    let report = c.step();
    assert!(report.changed);
    assert_eq!(report.conditions, []);
    let world = Identity::WORLD_IPV4;
    let seen = [(world, 22), (Identity::REMOTE_NODE, 22), (world, 80)];
    let seen = seen.map(|(from, port)| may(&c, from, port));
    assert_eq!(seen, [false, true, false]);
    let uses = c.controller.policy_sets();
    let own = uses.iter().find(|set| set.host).expect("its set");
    assert_eq!(
        (own.policies.as_slice(), own.retiring),
        (&[guard_origin()][..], false)
    );
    pool(&c, "batch");
    c.step();
    assert!(may(&c, world, 80));
}

#[test]
fn endpoints_and_the_node_are_told_apart() {
    let mut c = Cluster::new(firewall());
    c.pod("web", "one", "10.0.1.7");
    c.endpoint(7, "web");
    c.policy("p", "web", vec![ingress(Action::Deny, Peers::Any, 80)]);
    guard(&c, "edge");
    pool(&c, "edge");
    c.complete();
    c.step();
    let world = Identity::WORLD_IPV4;
    let web = [80, 22].map(|port| c.allowed(world.0, 7, port));
    assert_eq!(web, [false, false], "by its own policy and default");
    assert!(may(&c, Identity::REMOTE_NODE, 22));
    let set = c.controller.endpoints()[&7].policy_set;
    assert_ne!(set, c.controller.host().policy_set);
}

#[test]
fn without_the_firewall_nothing_is_enforced_and_somebody_says_so() {
    let mut c = Cluster::ready();
    guard(&c, "edge");
    pool(&c, "edge");
    let report = c.step();
    assert_eq!(c.controller.host().policy_set, 0);
    let kinds: Vec<_> = report.conditions.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ConditionKind::PolicyUnsupported]);
    assert!(report.conditions[0].remedy.contains("enable-host-firewall"));
}

#[test]
fn the_node_waits_for_its_own_labels_and_for_all_policies() {
    let mut c = Cluster::new(firewall());
    c.observed.nodes.write(|txn| txn.remove(&"one".to_owned()));
    c.complete();
    c.step();
    let host = c.controller.host();
    assert_eq!(host.policy_set, 0, "its row stays as it is");
    assert!(matches!(
        host.waiting,
        Some(WaitReason::Sources { what: "nodes" })
    ));
}

#[test]
fn what_does_not_fit_is_not_open() {
    let capacity = Capacity {
        entries: 3,
        ..Capacity::default()
    };
    let mut c = Cluster::new(Config {
        capacity,
        ..firewall()
    });
    guard(&c, "edge");
    pool(&c, "edge");
    c.complete();
    let report = c.step();
    let kinds: Vec<_> = report.conditions.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ConditionKind::PolicyOverflow]);
    assert!(!may(&c, Identity::REMOTE_NODE, 22));
}

#[test]
fn what_closes_the_node_finds_room_among_everybody_elses_policy() {
    let port = |n: u16| PortRule {
        port: PortMatch::Range(n, n),
        protocol: Protocol::TCP,
    };
    let mut c = Cluster::new(Config {
        capacity: Capacity {
            entries: 8,
            ..Capacity::default()
        },
        failsafe: Failsafe {
            ingress: [22, 179, 6443, 10250].map(port).into(),
            egress: Vec::new(),
        },
        ..firewall()
    });
    let ports = |count: u16| -> Vec<_> {
        let ports = (0..count).map(|n| 1000 + 2 * n);
        ports
            .map(|port| ingress(Action::Allow, Peers::Any, port))
            .collect()
    };
    c.pod("web", "one", "");
    c.endpoint(5, "web");
    c.policy("p", "web", ports(6));
    c.complete();
    let report = c.step();
    let kinds: Vec<_> = report.conditions.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ConditionKind::PolicyOverflow], "four are kept free");
    c.policy("p", "web", ports(4));
    assert_eq!(c.step().conditions, []);
    guard(&c, "edge");
    pool(&c, "edge");
    let report = c.step();
    let policies: Vec<_> = report
        .conditions
        .iter()
        .map(|c| c.policies.clone())
        .collect();
    assert_eq!(policies, [[guard_origin()]]);
    let (far, near) = (Identity::WORLD_IPV4, Identity::REMOTE_NODE);
    assert!(may(&c, far, 22) && !may(&c, far, 80) && !may(&c, near, 80));
    assert!(row(&c).is_some() && c.allowed(9, 5, 1000));
}

/// The row that shall be in force for the node itself.
pub(crate) fn row(c: &Cluster) -> Option<EndpointRow> {
    c.desired.endpoints.get(&HOST_DEVICE).map(|row| *row)
}

fn epoch(c: &Cluster) -> u32 {
    c.desired.config.get(&0).map_or(0, |config| config.epoch)
}

#[test]
fn the_nodes_row_follows_its_set_and_begins_an_epoch() {
    let mut c = Cluster::new(Config {
        host_id: 77,
        ..firewall()
    });
    guard(&c, "edge");
    pool(&c, "batch");
    c.complete();
    c.step();
    let open = row(&c).expect("a row");
    assert_eq!((open.id, open.identity), (77, Identity::HOST));
    assert_eq!((open.ipv4, open.ipv6), Default::default(), "no addresses");
    assert_eq!(open.policy_set, c.controller.host().policy_set);
    let flags = c.desired.config.get(&0).expect("a configuration").flags;
    assert_ne!(flags & ConfigFlags::HOST_FIREWALL, 0);
    let before = epoch(&c);
    c.step();
    assert_eq!(epoch(&c), before, "nothing has changed");
    pool(&c, "edge");
    c.step();
    let guarded = row(&c).expect("a row");
    assert_ne!(guarded.policy_set, open.policy_set);
    assert_eq!(epoch(&c), before + 1);
}

#[test]
fn without_the_firewall_there_is_no_row() {
    let mut c = Cluster::ready();
    guard(&c, "edge");
    pool(&c, "edge");
    c.controller.adopt(Adopted {
        host: Some(EndpointRow {
            policy_set: 9,
            ..EndpointRow::default()
        }),
        ..Adopted::default()
    });
    c.step();
    assert_eq!(row(&c), None);
    let flags = c.desired.config.get(&0).expect("a configuration").flags;
    assert_eq!(flags & ConfigFlags::HOST_FIREWALL, 0);
}

#[test]
fn the_row_of_another_life_stays_until_there_is_another() {
    let mut c = Cluster::new(firewall());
    let pinned = EndpointRow {
        ifindex: HOST_DEVICE,
        identity: Identity::HOST,
        policy_set: 9,
        id: 77,
        ..EndpointRow::default()
    };
    c.controller.adopt(Adopted {
        last_set: 9,
        host: Some(pinned),
        ..Adopted::default()
    });
    guard(&c, "edge");
    let own = c.observed.nodes.get(&"one".to_owned()).expect("the node");
    c.observed.nodes.write(|txn| txn.remove(&"one".to_owned()));
    c.step();
    assert_eq!(row(&c), Some(pinned), "nothing is known yet");
    c.complete();
    c.step();
    assert_eq!(row(&c), Some(pinned), "the node has no object");
    c.observed
        .nodes
        .write(|txn| txn.insert("one".to_owned(), (*own).clone()));
    c.step();
    let set = row(&c).expect("a row").policy_set;
    assert!(set > 9 && set == c.controller.host().policy_set);
}

/// The node has addresses of both families, whichever its pods have.
#[test]
fn a_family_that_is_not_carried_is_held_to_policy() {
    for v6 in [false, true] {
        let mut c = Cluster::new(Config {
            ipv4: v6,
            ipv6: !v6,
            ..firewall()
        });
        let devices = [ip("198.51.100.1"), ip("2001:db8:5::1")];
        c.controller.set_local_addresses(devices.to_vec());
        c.complete();
        c.step();
        for own in ["192.0.2.1", "2001:db8::1", "198.51.100.1", "2001:db8:5::1"] {
            assert_eq!(c.identity(own), Some(1), "{own}");
        }
        for other in ["192.0.2.2", "2001:db8::2"] {
            assert_eq!(c.identity(other), Some(6), "{other}");
        }
        let prefixes = c.prefixes();
        assert_eq!(prefixes.get("0.0.0.0/0"), Some(&Identity::WORLD_IPV4.0));
        assert_eq!(prefixes.get("::/0"), Some(&Identity::WORLD_IPV6.0));
    }
}

/// What a node is held to by rows that were kept.
fn kept_allows(rows: &HostRows, from: Identity, port: u16) -> bool {
    evaluate(&rows.set, Direction::Ingress, from, 6, port).is_allowed()
}

#[test]
fn what_holds_the_node_for_good_is_kept() {
    const LOCAL: u32 = IpcacheFlags::LOCAL_HOST;
    let mut c = Cluster::new(firewall());
    guard(&c, "edge");
    pool(&c, "edge");
    c.step();
    assert!(
        c.controller.host_rows(&c.desired).is_none(),
        "not all is known"
    );
    c.complete();
    c.step();
    let rows = c.controller.host_rows(&c.desired).expect("rows");
    let may = [Identity::REMOTE_NODE, Identity::WORLD_IPV4].map(|id| kept_allows(&rows, id, 22));
    assert_eq!(may, [true, false]);
    assert_eq!(Some(rows.endpoint), row(&c));
    assert_eq!(&rows.persisted, c.controller.persisted());
    // The devices have another address by then, and may get those of before.
    let own = c.desired.ipcache.snapshot();
    let own = own.iter().filter(|(_, row)| row.identity == Identity::HOST);
    let own: Vec<_> = own.map(|(addr, _)| *addr).collect();
    assert!(!own.is_empty());
    let now = ip("192.0.2.200");
    let desired = rows.desired(&firewall(), &[now]);
    let is_own = |addr| {
        desired
            .ipcache
            .get(addr)
            .is_some_and(|row| row.flags & LOCAL != 0)
    };
    assert!(own.iter().all(is_own));
    let row = desired.ipcache.get(&now.into()).expect("its own");
    assert_eq!(row.identity, Identity::HOST);
    let config = desired.config.get(&0).expect("a configuration");
    assert_ne!(config.flags & ConfigFlags::HOST_FIREWALL, 0);
    let masquerade = ConfigFlags::MASQUERADE_IPV4 | ConfigFlags::MASQUERADE_IPV6;
    assert_eq!(config.flags & masquerade, 0, "towards whom is not known");
    assert_eq!(config.epoch, c.controller.persisted().epoch);
}

#[test]
fn what_is_on_trial_is_not_kept() {
    let mut c = Cluster::new(firewall());
    let nothing = Some(HostTrial::default());
    c.controller.have_host_policy_confirmed(10_000, 0, nothing);
    guard(&c, "edge");
    pool(&c, "edge");
    c.complete();
    c.step();
    assert!(c.controller.host_rows(&c.desired).is_none(), "on trial");
    assert!(c.controller.confirm_host_policy());
    c.step();
    let rows = c.controller.host_rows(&c.desired).expect("rows");
    assert!(!kept_allows(&rows, Identity::WORLD_IPV4, 22));
}

#[test]
fn without_a_firewall_nothing_is_kept() {
    let mut c = Cluster::ready();
    c.step();
    assert!(c.controller.host_rows(&c.desired).is_none());
}

#[test]
fn what_is_lost_lets_through_what_is_never_denied() {
    let ssh = PortRule {
        port: PortMatch::Range(22, 22),
        protocol: Protocol::TCP,
    };
    let config = Config {
        failsafe: Failsafe {
            ingress: vec![ssh],
            egress: Vec::new(),
        },
        ..firewall()
    };
    let rows = HostRows::lockdown(&config, Persisted::default());
    let may = |from, way, port| evaluate(&rows.set, way, from, 6, port).is_allowed();
    for from in [Identity::UNKNOWN, Identity::WORLD_IPV4, Identity(70_000)] {
        assert!(may(from, Direction::Ingress, 22));
        assert!(!may(from, Direction::Ingress, 23));
        assert!(!may(from, Direction::Egress, 22));
    }
    let desired = rows.desired(&config, &[ip("192.0.2.1")]);
    let row = desired.endpoints.get(&HOST_DEVICE).expect("its row");
    assert!(desired.policy_sets.get(&row.policy_set).is_some());
    assert_eq!(rows.persisted.numbers.sets.last(), row.policy_set);
}
