//! Whom a peer of a rule selects.

use axon_abi::{Identity, Scope};
use axon_model::keys::{CLUSTER, NAMESPACE};
use axon_model::{Action, Entity, Label, Operator, Peer, Peers, Protocol, Selector, source};

use crate::world::is_in;
use crate::{IdentityInfo, PolicyConfig, reserved_identities};

/// The far side of an entry: peers and, where a named port narrows them, the
/// port that their pods must declare.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Who {
    peers: Peers,
    /// For whom it is in doubt, a deny counts: see [`peer_selects`].
    action: Action,
    declares: Option<(String, Protocol, u16)>,
}

impl Who {
    /// The far side of an entry, in a canonical form.
    pub(crate) fn new(peers: &Peers, action: Action) -> Self {
        let peers = match peers {
            Peers::Any => Peers::Any,
            Peers::List(list) if list.contains(&Peer::Entity(Entity::All)) => Peers::Any,
            Peers::List(list) => {
                let mut list = list.clone();
                list.sort();
                list.dedup();
                Peers::List(list)
            }
        };
        let holes = |peer: &Peer| match peer {
            Peer::Cidr { except, .. } | Peer::Group { except, .. } => !except.is_empty(),
            Peer::Endpoints(_) | Peer::Entity(_) | Peer::Nodes(_) | Peer::Name(_) => false,
        };
        let differs = match &peers {
            Peers::Any => false,
            Peers::List(list) => list.iter().any(holes),
        };
        Self {
            peers,
            // One far side where allows and denies mean the same.
            action: match action {
                Action::Deny if differs => Action::Deny,
                Action::Deny | Action::Allow | Action::Pass => Action::Allow,
            },
            declares: None,
        }
    }

    /// Of these only identities whose pods declare the port by this name.
    pub(crate) fn declaring(&self, name: &str, protocol: Protocol, port: u16) -> Self {
        Self {
            peers: self.peers.clone(),
            action: self.action,
            declares: Some((name.to_owned(), protocol, port)),
        }
    }

    /// The peers; `None` if everyone is meant.
    pub(crate) fn peers(&self) -> Option<&[Peer]> {
        match &self.peers {
            Peers::Any => None,
            Peers::List(peers) => Some(peers),
        }
    }

    /// The port that the peers must declare, if they must.
    pub(crate) fn declared_port(&self) -> Option<(&str, Protocol, u16)> {
        let (name, protocol, port) = self.declares.as_ref()?;
        Some((name, *protocol, *port))
    }

    /// Whether everyone is meant, known or not.
    pub(crate) fn is_anyone(&self) -> bool {
        self.peers == Peers::Any && self.declares.is_none()
    }

    /// Whether an identity is meant.
    pub(crate) fn selects(&self, id: Identity, info: &IdentityInfo) -> bool {
        let declared = self.declares.as_ref().is_none_or(|(name, protocol, port)| {
            info.named_ports
                .get(&(name.clone(), *protocol))
                .is_some_and(|ports| ports.contains(port))
        });
        declared
            && match &self.peers {
                Peers::Any => true,
                Peers::List(peers) => peers
                    .iter()
                    .any(|peer| peer_selects(peer, self.action, id, info)),
            }
    }
}

/// Whether a peer of a rule selects an identity.
///
/// One with several addresses of which some are in holes is allowed nothing
/// by the peer, not passed on, and denied everything: whom a deny means shall not slip
/// through by another address.
pub(crate) fn peer_selects(peer: &Peer, action: Action, id: Identity, info: &IdentityInfo) -> bool {
    match peer {
        Peer::Endpoints(selector) => endpoints_select(selector, id, info),
        Peer::Entity(entity) => entity_selects(*entity, id, info),
        // Pods and nodes have addresses here only if the configuration says so
        // (`policy-cidr-match-mode`).
        Peer::Cidr { cidr, except } => match action {
            Action::Allow | Action::Pass => info.is_within(cidr) && !info.is_in_hole(except),
            Action::Deny => {
                let mut own = info.prefixes();
                own.any(|own| cidr.contains(own) && !is_in(own, except))
            }
        },
        Peer::Group { of, except } => {
            let mut groups = info.groups.iter();
            groups.any(|(key, member)| {
                of.matches(key, &member.labels)
                    && match action {
                        Action::Allow | Action::Pass => !info.is_in_hole(except),
                        Action::Deny => {
                            let own = &member.by;
                            own.is_empty() || own.iter().any(|own| !is_in(own, except))
                        }
                    }
            })
        }
        Peer::Nodes(selector) => is_other_node(id) && selector.matches(&info.labels),
        Peer::Name(pattern) => info.names.contains(pattern),
    }
}

fn is_other_node(id: Identity) -> bool {
    matches!(id.scope(), Scope::RemoteNode | Scope::KubeApiserver)
}

/// A selector that asks for no label to be there (a wildcard, or only
/// absences) means workloads: the host and the world lack those labels too,
/// and are not meant.
fn endpoints_select(selector: &Selector, id: Identity, info: &IdentityInfo) -> bool {
    let asks_for_presence = selector
        .requirements()
        .iter()
        .any(|r| matches!(r.operator, Operator::In(_) | Operator::Exists));
    (asks_for_presence || id.scope() == Scope::Cluster) && selector.matches(&info.labels)
}

fn entity_selects(entity: Entity, id: Identity, info: &IdentityInfo) -> bool {
    let reserved = |name| info.labels.get(source::RESERVED, name).is_some();
    let scope = id.scope();
    let world_of =
        |v6: bool| scope == Scope::World && info.prefix.is_some_and(|p| p.addr().is_ipv6() == v6);
    match entity {
        Entity::All => true,
        Entity::World => scope == Scope::World,
        Entity::WorldIpv4 => world_of(false),
        Entity::WorldIpv6 => world_of(true),
        Entity::Cluster => !matches!(scope, Scope::World | Scope::Unknown),
        Entity::Host => scope == Scope::Host,
        // Cilium's identity 7 is a remote node that runs the API server.
        Entity::RemoteNode => matches!(scope, Scope::RemoteNode | Scope::KubeApiserver),
        Entity::KubeApiserver => scope == Scope::KubeApiserver || reserved("kube-apiserver"),
        Entity::Init => scope == Scope::Init,
        Entity::Health => scope == Scope::Health,
        Entity::Unmanaged => scope == Scope::Unmanaged,
        Entity::Ingress => scope == Scope::Ingress,
        Entity::None => false,
    }
}

/// Who stands for a whole scope: identities that are selected alike need no
/// class row. A workload's stand-in is a pod of some namespace of this
/// cluster, so that "every pod" is told by the scope alone; where prefixes
/// select pods, it is in none but the whole of each family.
pub(crate) fn stand_ins(config: &PolicyConfig) -> Vec<(Scope, Identity, IdentityInfo)> {
    let labels = [
        // No namespace has this name.
        Label::new(source::K8S, NAMESPACE, "\0"),
        Label::new(source::K8S, CLUSTER, &config.cluster_name),
    ];
    let mut pod = IdentityInfo::labelled(labels.into_iter().collect());
    if config.cidr_selects_pods {
        pod.addresses = config.everywhere();
    }
    let reserved = reserved_identities(config);
    Scope::ALL
        .into_iter()
        .filter_map(|scope| {
            let id = match scope {
                Scope::Unknown => return None,
                Scope::Host => Identity::HOST,
                Scope::World => Identity::WORLD,
                Scope::Unmanaged => Identity::UNMANAGED,
                Scope::Health => Identity::HEALTH,
                Scope::Init => Identity::INIT,
                Scope::RemoteNode => Identity::REMOTE_NODE,
                Scope::KubeApiserver => Identity::KUBE_APISERVER,
                Scope::Ingress => Identity::INGRESS,
                Scope::Cluster => return Some((scope, Identity::CLUSTER_MAX, pod.clone())),
            };
            reserved.get(&id).map(|info| (scope, id, info.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use axon_abi::Identity;
    use axon_model::{
        Action, Entity, GroupKey, GroupRef, Label, Labels, Operator, Peer, Requirement, Selector,
    };

    use super::peer_selects;
    use crate::{IdentityInfo, Member, PolicyConfig, cidr_labels, reserved_identities};

    const POD: Identity = Identity(300);
    const CIDR4: Identity = Identity(0x0100_0001);
    const CIDR6: Identity = Identity(0x0100_0002);

    fn world(config: &PolicyConfig) -> std::collections::BTreeMap<Identity, IdentityInfo> {
        let mut world = reserved_identities(config);
        let labels: Labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]
            .iter()
            .map(|t| t.parse::<Label>().expect("label"))
            .collect();
        world.insert(POD, IdentityInfo::labelled(labels));
        for (id, prefix) in [(CIDR4, "198.51.100.0/24"), (CIDR6, "2001:db8::/32")] {
            let prefix = prefix.parse().expect("prefix");
            let info = IdentityInfo {
                labels: cidr_labels(config, prefix),
                prefix: Some(prefix),
                ..IdentityInfo::default()
            };
            world.insert(id, info);
        }
        world
    }

    fn selected(config: &PolicyConfig, peer: &Peer) -> Vec<u32> {
        world(config)
            .iter()
            .filter(|(id, info)| peer_selects(peer, Action::Allow, **id, info))
            .map(|(id, _)| id.0)
            .collect()
    }

    #[test]
    fn entities_select_what_cilium_says() {
        let config = PolicyConfig::default();
        for (entity, expected) in [
            (
                Entity::All,
                vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 300, CIDR4.0, CIDR6.0],
            ),
            (Entity::World, vec![2, 9, 10, CIDR4.0, CIDR6.0]),
            (Entity::WorldIpv4, vec![9, CIDR4.0]),
            (Entity::WorldIpv6, vec![10, CIDR6.0]),
            (Entity::Cluster, vec![1, 3, 4, 5, 6, 7, 8, 300]),
            (Entity::Host, vec![1]),
            (Entity::RemoteNode, vec![6, 7]),
            (Entity::KubeApiserver, vec![7]),
            (Entity::Init, vec![5]),
            (Entity::Health, vec![4]),
            (Entity::Unmanaged, vec![3]),
            (Entity::Ingress, vec![8]),
            (Entity::None, vec![]),
        ] {
            assert_eq!(
                selected(&config, &Peer::Entity(entity)),
                expected,
                "{entity:?}"
            );
        }
    }

    #[test]
    fn one_world_on_a_single_stack_node() {
        let config = PolicyConfig {
            ipv6: false,
            ..PolicyConfig::default()
        };
        let peer = Peer::Entity(Entity::WorldIpv4);
        assert_eq!(selected(&config, &peer), vec![2, 9, CIDR4.0]);
        let everywhere = Peer::Cidr {
            cidr: "0.0.0.0/0".parse().expect("prefix"),
            except: vec![],
        };
        assert_eq!(selected(&config, &everywhere), vec![2, 9, CIDR4.0]);
    }

    #[test]
    fn prefixes_select_prefixes_inside_them_and_nothing_of_the_cluster() {
        let config = PolicyConfig::default();
        let cidr = |cidr: &str, except: &[&str]| Peer::Cidr {
            cidr: cidr.parse().expect("prefix"),
            except: except.iter().map(|e| e.parse().expect("prefix")).collect(),
        };
        for (name, peer, expected) in [
            ("all of IPv4", cidr("0.0.0.0/0", &[]), vec![9, CIDR4.0]),
            ("all of IPv6", cidr("::/0", &[]), vec![10, CIDR6.0]),
            ("around it", cidr("198.51.0.0/16", &[]), vec![CIDR4.0]),
            ("the same", cidr("198.51.100.0/24", &[]), vec![CIDR4.0]),
            ("within it", cidr("198.51.100.0/25", &[]), vec![]),
            (
                "a hole that is it",
                cidr("198.51.0.0/16", &["198.51.100.0/24"]),
                vec![],
            ),
            (
                "a hole in it",
                cidr("198.51.0.0/16", &["198.51.100.8/32"]),
                vec![CIDR4.0],
            ),
        ] {
            assert_eq!(selected(&config, &peer), expected, "{name}");
        }
    }

    /// One address in a hole takes a pod out of what is allowed, and another
    /// outside of it keeps the pod in what is denied.
    #[test]
    fn a_hole_is_no_way_out_of_a_deny() {
        let prefix = |text: &str| text.parse::<ipnet::IpNet>().expect("prefix");
        let (inside, hole, outside) = (
            prefix("10.1.0.0/24"),
            prefix("10.1.9.0/24"),
            prefix("fd00::/64"),
        );
        let cidr = Peer::Cidr {
            cidr: prefix("10.1.0.0/16"),
            except: vec![hole],
        };
        let group = GroupKey::CidrGroup("g".to_owned());
        let grouped = Peer::Group {
            of: GroupRef::CidrGroup("g".to_owned()),
            except: vec![hole],
        };
        for (addresses, allowed, denied) in [
            (vec![inside], true, true),
            (vec![hole], false, false),
            (vec![outside], false, false),
            (vec![inside, hole], false, true),
            (vec![inside, outside], true, true),
            (vec![hole, outside], false, false),
        ] {
            let by = addresses.iter().filter(|own| **own != outside);
            let member = Member {
                by: by.copied().collect(),
                ..Member::default()
            };
            let mut info = IdentityInfo {
                addresses: addresses.iter().copied().collect(),
                ..IdentityInfo::default()
            };
            if !member.by.is_empty() {
                info.groups.insert(group.clone(), member);
            }
            for peer in [&cidr, &grouped] {
                let selects = |action| peer_selects(peer, action, POD, &info);
                let found = (selects(Action::Allow), selects(Action::Deny));
                assert_eq!(found, (allowed, denied), "{peer:?} {addresses:?}");
            }
        }
    }

    #[test]
    fn selectors_without_presence_mean_workloads() {
        let config = PolicyConfig::default();
        let absent = Requirement {
            source: "any".into(),
            key: "app".into(),
            operator: Operator::NotIn(["db".to_owned()].into()),
        };
        for (name, selector, expected) in [
            ("wildcard", Selector::default(), vec![300]),
            ("absence", Selector::new(vec![absent]), vec![300]),
            (
                "presence",
                Selector::new(vec![Requirement::exists("any", "app")]),
                vec![300],
            ),
            (
                "the host",
                Selector::new(vec![Requirement::exists("reserved", "host")]),
                vec![1],
            ),
        ] {
            assert_eq!(
                selected(&config, &Peer::Endpoints(selector)),
                expected,
                "{name}"
            );
        }
    }
}
