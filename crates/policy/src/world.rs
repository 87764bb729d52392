//! What policy is resolved against: identities and what is configured.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::Identity;
use axon_model::{
    GroupKey, GroupRef, Labels, NamePattern, Origin, Peer, Peers, PolicyObject, Protocol, RuleEntry,
};
use ipnet::IpNet;

use crate::known::whole;
use crate::{Failsafe, Group, Member};

/// Ports that the pods of an identity declare by name.
pub type NamedPorts = BTreeMap<(String, Protocol), BTreeSet<u16>>;

/// What policy knows of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityInfo {
    /// Its labels.
    pub labels: Labels,
    /// The addresses that it stands for, of identities outside the cluster.
    pub prefix: Option<IpNet>,
    /// Where prefixes select identities inside the cluster too: the prefixes
    /// that its addresses are in.
    pub addresses: BTreeSet<IpNet>,
    /// The groups that it is in. They follow from [`World::groups`]: those who
    /// resolve fill them in.
    pub groups: BTreeMap<GroupKey, Member>,
    /// Patterns of the names that its addresses, outside the cluster, were given
    /// for; of those patterns that policies ask for.
    pub names: BTreeSet<NamePattern>,
    /// The ports that its pods declare by name.
    pub named_ports: NamedPorts,
}

impl IdentityInfo {
    /// An identity that is told by its labels alone.
    pub fn labelled(labels: Labels) -> Self {
        Self {
            labels,
            ..Self::default()
        }
    }

    /// Whether an address of the identity is in a prefix.
    pub(crate) fn is_within(&self, cidr: &IpNet) -> bool {
        self.prefixes().any(|own| cidr.contains(own))
    }

    /// Whether an address of the identity is in one of these prefixes.
    pub(crate) fn is_in_hole(&self, except: &[IpNet]) -> bool {
        self.prefixes().any(|own| is_in(own, except))
    }

    /// The prefixes by which prefixes select it.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.prefix.iter().chain(&self.addresses)
    }
}

/// Whether a prefix is in one of others.
pub(crate) fn is_in(own: &IpNet, others: &[IpNet]) -> bool {
    others.iter().any(|around| around.contains(own))
}

/// Whether endpoints are enforced upon, in the words of Cilium's
/// `enable-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// What some rule selects is enforced, in that rule's directions.
    #[default]
    Default,
    /// Everything is denied that no rule allows.
    Always,
    /// Everything is allowed, whatever rules say.
    Never,
}

/// How policy is read on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Who is enforced upon.
    pub enforcement: Enforcement,
    /// The cluster's name: the label that ordinary workloads carry.
    pub cluster_name: String,
    /// IPv4 is carried.
    pub ipv4: bool,
    /// IPv6 is carried.
    pub ipv6: bool,
    /// The node reaches its endpoints unless a rule denies it
    /// (`allow-localhost: always`).
    pub allow_localhost: bool,
    /// Prefixes select pods too, by their addresses
    /// (`policy-cidr-match-mode: pods`).
    pub cidr_selects_pods: bool,
    /// Nodes have labels, by which rules mean them
    /// (`enable-node-selector-labels`).
    pub node_labels: bool,
    /// Rules may name protocols without ports
    /// (`enable-extended-ip-protocols`).
    pub extended_protocols: bool,
    /// A proxy listens to what is said. Where none does, connections of which
    /// it would be asked are dropped, unless they may pass whatever is said.
    pub proxy: bool,
    /// What is never denied to the node itself.
    pub failsafe: Failsafe,
    /// Bits of the numbers of classes. Fewer than 32 are for tests alone, in
    /// which two classes shall meet at one number.
    pub class_bits: u32,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            enforcement: Enforcement::Default,
            cluster_name: "default".to_owned(),
            ipv4: true,
            ipv6: true,
            allow_localhost: false,
            cidr_selects_pods: false,
            node_labels: false,
            extended_protocols: false,
            proxy: false,
            failsafe: Failsafe::default(),
            class_bits: 32,
        }
    }
}

impl PolicyConfig {
    /// The identity of addresses outside the cluster: one for each family on
    /// a dual-stack node, [`Identity::WORLD`] on a single-stack one.
    pub fn world_of(&self, v6: bool) -> Identity {
        match (self.ipv4 && self.ipv6, v6) {
            (false, _) => Identity::WORLD,
            (true, false) => Identity::WORLD_IPV4,
            (true, true) => Identity::WORLD_IPV6,
        }
    }

    /// The whole of each family that is carried.
    pub fn everywhere(&self) -> BTreeSet<IpNet> {
        let families = [(self.ipv4, whole(false)), (self.ipv6, whole(true))];
        let carried = families.into_iter().filter(|(carried, _)| *carried);
        carried.map(|(_, prefix)| prefix).collect()
    }
}

/// Everything that [`crate::resolve()`] looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Every known identity, the reserved ones ([`crate::reserved_identities`]) too.
    pub identities: BTreeMap<Identity, IdentityInfo>,
    /// Every policy.
    pub policies: BTreeMap<Origin, PolicyObject>,
    /// The groups that policies refer to.
    pub groups: BTreeMap<GroupKey, Group>,
    /// The labels of the node itself.
    pub node: Labels,
    /// The identities of this node's endpoints, and [`Identity::HOST`] if policy
    /// is enforced on the node itself: those that need a set.
    pub subjects: BTreeSet<Identity>,
}

/// The prefixes that a policy names itself, holes too: each needs an identity,
/// so that addresses inside it are told from those around it. The whole of a
/// family is the world, which has one.
pub fn policy_prefixes(policy: &PolicyObject) -> BTreeSet<IpNet> {
    peers(policy)
        .flat_map(|peer| {
            let (cidr, except) = match peer {
                Peer::Cidr { cidr, except } => (Some(cidr), except.as_slice()),
                Peer::Group { except, .. } => (None, except.as_slice()),
                Peer::Endpoints(_) | Peer::Entity(_) | Peer::Nodes(_) | Peer::Name(_) => {
                    (None, &[][..])
                }
            };
            cidr.into_iter().chain(except)
        })
        .map(IpNet::trunc)
        .filter(|prefix| prefix.prefix_len() > 0)
        .collect()
}

/// The narrowest of these prefixes that an address is in, but for the whole of
/// its family.
pub fn narrowest(named: &BTreeSet<IpNet>, addr: std::net::IpAddr) -> Option<IpNet> {
    std::iter::successors(Some(IpNet::from(addr)), IpNet::supernet)
        .take_while(|prefix| prefix.prefix_len() > 0)
        .find(|prefix| named.contains(prefix))
}

/// The groups that a policy refers to.
pub fn policy_groups(policy: &PolicyObject) -> BTreeSet<GroupRef> {
    peers(policy)
        .filter_map(|peer| match peer {
            Peer::Group { of, .. } => Some(of.clone()),
            Peer::Cidr { .. }
            | Peer::Endpoints(_)
            | Peer::Entity(_)
            | Peer::Nodes(_)
            | Peer::Name(_) => None,
        })
        .collect()
}

/// The patterns of names that a policy asks for.
pub fn policy_names(policy: &PolicyObject) -> BTreeSet<NamePattern> {
    peers(policy)
        .filter_map(|peer| match peer {
            Peer::Name(pattern) => Some(pattern.clone()),
            Peer::Cidr { .. }
            | Peer::Endpoints(_)
            | Peer::Entity(_)
            | Peer::Nodes(_)
            | Peer::Group { .. } => None,
        })
        .collect()
}

/// Every entry of a policy.
pub(crate) fn entries(policy: &PolicyObject) -> impl Iterator<Item = &RuleEntry> {
    policy.rules.iter().flat_map(|rule| &rule.entries)
}

/// Every peer of a policy.
pub(crate) fn peers(policy: &PolicyObject) -> impl Iterator<Item = &Peer> {
    entries(policy)
        .filter_map(|entry| match &entry.peers {
            Peers::Any => None,
            Peers::List(peers) => Some(peers),
        })
        .flatten()
}
