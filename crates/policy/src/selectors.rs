//! The selectors in use, for people.

use std::collections::BTreeMap;

use axon_abi::Identity;
use axon_model::{Action, Entity, Peer, Peers, Subject};
use ipnet::IpNet;

use crate::Engine;
use crate::select::peer_selects;

/// A selector in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorUse {
    /// The selector, for people.
    pub selector: String,
    /// The identities it selects.
    pub identities: Vec<Identity>,
    /// How many rules use it.
    pub users: usize,
}

impl Engine {
    /// The selectors of all policies, subjects and peers, and the known
    /// identities that they select.
    pub fn selectors(&self) -> Vec<SelectorUse> {
        let mut uses: BTreeMap<Named, usize> = BTreeMap::new();
        for rule in self.policies().values().flat_map(|policy| &policy.rules) {
            let mut named: Vec<Named> = rule
                .entries
                .iter()
                .flat_map(|entry| match &entry.peers {
                    Peers::Any => vec![Named::Peer(Peer::Entity(Entity::All))],
                    Peers::List(peers) => peers.iter().cloned().map(Named::Peer).collect(),
                })
                .collect();
            named.push(Named::Subject(rule.subject.clone()));
            named.sort();
            named.dedup();
            for name in named {
                *uses.entry(name).or_default() += 1;
            }
        }
        uses.into_iter()
            .map(|(named, users)| SelectorUse {
                selector: named.text(),
                identities: self.selected(&named),
                users,
            })
            .collect()
    }

    fn selected(&self, named: &Named) -> Vec<Identity> {
        self.identities()
            .iter()
            .filter(|(id, info)| match named {
                Named::Peer(peer) => peer_selects(peer, Action::Allow, **id, info),
                Named::Subject(Subject::Endpoints(selector)) => selector.matches(&info.labels),
                Named::Subject(Subject::Nodes(selector)) => {
                    **id == Identity::HOST && selector.matches(self.node())
                }
            })
            .map(|(id, _)| *id)
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Subject(Subject),
    Peer(Peer),
}

impl Named {
    fn text(&self) -> String {
        match self {
            Self::Subject(Subject::Endpoints(selector)) => format!("subject {selector}"),
            Self::Subject(Subject::Nodes(selector)) => format!("subject nodes {selector}"),
            Self::Peer(Peer::Endpoints(selector)) => selector.to_string(),
            Self::Peer(Peer::Entity(entity)) => format!("entity {}", entity_name(*entity)),
            Self::Peer(Peer::Cidr { cidr, except }) => format!("cidr {cidr}{}", holes(except)),
            Self::Peer(Peer::Nodes(selector)) => format!("nodes {selector}"),
            Self::Peer(Peer::Name(pattern)) => format!("fqdn {pattern}"),
            Self::Peer(Peer::Group { of, except }) => format!("{of}{}", holes(except)),
        }
    }
}

/// A peer, for people.
pub(crate) fn peer_text(peer: &Peer) -> String {
    Named::Peer(peer.clone()).text()
}

fn holes(except: &[IpNet]) -> String {
    if except.is_empty() {
        return String::new();
    }
    let holes: Vec<String> = except.iter().map(ToString::to_string).collect();
    format!(" except {}", holes.join(","))
}

fn entity_name(entity: Entity) -> &'static str {
    match entity {
        Entity::All => "all",
        Entity::World => "world",
        Entity::WorldIpv4 => "world-ipv4",
        Entity::WorldIpv6 => "world-ipv6",
        Entity::Cluster => "cluster",
        Entity::Host => "host",
        Entity::RemoteNode => "remote-node",
        Entity::KubeApiserver => "kube-apiserver",
        Entity::Init => "init",
        Entity::Health => "health",
        Entity::Unmanaged => "unmanaged",
        Entity::Ingress => "ingress",
        Entity::None => "none",
    }
}
