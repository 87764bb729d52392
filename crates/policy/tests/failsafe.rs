//! What is never denied to the node itself.

use axon_abi::{Direction, Identity, PolicySetFlags};
use axon_model::{
    Action, Auth, Lookup, Origin, Peers, PolicyKind, PolicyObject, PolicyRows, PortMatch, PortRule,
    Ports, Protocol, Rule, RuleEntry, Selector, Subject, Tier,
};
use axon_policy::{
    Enforcement, Failsafe, IdentityInfo, Numbers, PolicyConfig, PolicySet, World, evaluate,
    reserved_identities, resolve,
};

const POD: Identity = Identity(300);
const WORLD: Identity = Identity::WORLD_IPV4;

fn config() -> PolicyConfig {
    let port = |protocol, port| PortRule {
        port: PortMatch::Range(port, port),
        protocol,
    };
    PolicyConfig {
        failsafe: Failsafe {
            ingress: vec![port(Protocol::TCP, 22), port(Protocol::UDP, 68)],
            egress: vec![port(Protocol::UDP, 53)],
        },
        ..PolicyConfig::default()
    }
}

/// A policy for every node, and for every pod.
fn policy(entries: &[(Direction, Action)], deny_by_default: bool) -> PolicyObject {
    let entries = entries.iter().map(|(direction, action)| RuleEntry {
        direction: *direction,
        action: *action,
        peers: Peers::Any,
        ports: Ports::Any,
        l7: None,
        auth: Auth::Unsaid,
    });
    let entries: Vec<RuleEntry> = entries.collect();
    let has = |direction| entries.iter().any(|e| e.direction == direction);
    let rule = |subject| Rule {
        subject,
        tier: Tier::Normal,
        default_deny_ingress: deny_by_default && has(Direction::Ingress),
        default_deny_egress: deny_by_default && has(Direction::Egress),
        entries: entries.clone(),
        description: String::new(),
        labels: Vec::new(),
        log: String::new(),
    };
    PolicyObject {
        origin: Origin {
            kind: PolicyKind::CiliumClusterwideNetworkPolicy,
            namespace: String::new(),
            name: "all".into(),
        },
        uid: String::new(),
        staged: false,
        rules: vec![
            rule(Subject::Nodes(Selector::default())),
            rule(Subject::Endpoints(Selector::default())),
        ],
    }
}

fn rows(config: &PolicyConfig, policies: Vec<PolicyObject>) -> [PolicyRows; 2] {
    let mut world = World {
        identities: reserved_identities(config),
        subjects: [Identity::HOST, POD].into(),
        ..World::default()
    };
    world.identities.insert(POD, IdentityInfo::default());
    world.policies = policies
        .into_iter()
        .map(|p| (p.origin.clone(), p))
        .collect();
    let resolution = resolve(config, &world, &mut Numbers::default());
    [Identity::HOST, POD].map(|id| resolution.sets[&resolution.subjects[&id]].rows.clone())
}

fn allows(rows: &PolicyRows, direction: Direction, who: Identity, protocol: u8, port: u16) -> bool {
    evaluate(rows, direction, who, protocol, port).is_allowed()
}

#[test]
fn a_deny_of_everything_leaves_the_failsafe_ports_of_the_node() {
    use Direction::{Egress, Ingress};
    let both = [(Ingress, Action::Deny), (Egress, Action::Deny)];
    let [host, pod] = rows(&config(), vec![policy(&both, true)]);
    for (direction, who, protocol, port, open) in [
        (Ingress, WORLD, 6, 22, true),
        (Ingress, POD, 6, 22, true),
        (Ingress, WORLD, 17, 68, true),
        (Ingress, WORLD, 17, 22, false),
        (Ingress, WORLD, 6, 23, false),
        (Egress, WORLD, 17, 53, true),
        (Egress, WORLD, 6, 22, false),
        (Egress, WORLD, 6, 6443, false),
        (Egress, Identity::KUBE_APISERVER, 6, 6443, true),
        (Ingress, Identity::KUBE_APISERVER, 6, 6443, false),
    ] {
        let what = format!("{direction:?} {who:?} {protocol}/{port}");
        assert_eq!(
            allows(&host, direction, who, protocol, port),
            open,
            "{what}"
        );
        assert!(
            !allows(&pod, direction, who, protocol, port),
            "a pod: {what}"
        );
    }
    // Also for whom nobody knows.
    let host = Lookup::new(&host);
    assert!(host.of_unknown(Ingress, 6, 22).is_allowed());
    assert!(!host.of_unknown(Ingress, 6, 23).is_allowed());
}

#[test]
fn where_nothing_may_be_denied_nothing_is_added() {
    let [host, _] = rows(&config(), Vec::new());
    assert!(host.entries.is_empty(), "{:?}", host.entries);
    let unknown = Lookup::new(&host).of_unknown(Direction::Ingress, 6, 80);
    assert!(unknown.is_allowed(), "a node without policy is open");
    let ingress = [(Direction::Ingress, Action::Allow)];
    let [host, _] = rows(&config(), vec![policy(&ingress, true)]);
    assert_eq!(host.set.egress_prefixes, 0, "egress is not asked");
    let never = PolicyConfig {
        enforcement: Enforcement::Never,
        ..config()
    };
    let [host, _] = rows(&never, vec![policy(&ingress, true)]);
    assert!(host.entries.is_empty());
}

#[test]
fn a_node_that_is_locked_down_is_reached() {
    let mut numbers = Numbers::default();
    let set = PolicySet::lockdown_of_host(&config(), &mut numbers);
    let both = PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS;
    assert_eq!(set.rows.set.flags, both);
    use Direction::{Egress, Ingress};
    let open = |direction, who, protocol, port| allows(&set.rows, direction, who, protocol, port);
    assert!(open(Ingress, WORLD, 6, 22) && open(Egress, WORLD, 17, 53));
    assert!(open(Egress, Identity::KUBE_APISERVER, 6, 6443));
    assert!(!open(Ingress, WORLD, 6, 80) && !open(Egress, WORLD, 6, 80));
    // Without a failsafe it allows nothing.
    let nothing = PolicySet::lockdown_of_host(&PolicyConfig::default(), &mut numbers);
    assert!(nothing.rows.entries.is_empty());
}
