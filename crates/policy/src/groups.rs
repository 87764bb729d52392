//! Groups that rules refer to, and who is in them.
//!
//! A rule that refers to a group says the same whatever the group holds: who
//! comes into it or leaves it changes class, as by any other label.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{Identity, Scope};
use axon_model::keys::NAMESPACE;
use axon_model::{
    CidrGroup, EndpointSlice, GroupKey, GroupRef, Label, Labels, ObjectKey, Requirement, Selector,
    Service, source,
};
use ipnet::IpNet;

use crate::IdentityInfo;
use crate::whos::{Pivot, pivots_of, pivots_of_selector, supernets};

/// Who is in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Whoever prefixes select: addresses outside the cluster, and those inside
    /// it that have [`IdentityInfo::addresses`].
    Prefixes(BTreeSet<IpNet>),
    /// Workloads with these labels.
    Endpoints(Selector),
}

impl Members {
    /// By which of its addresses an identity is among them; `None` if it is not.
    pub(crate) fn hold(&self, id: Identity, info: &IdentityInfo) -> Option<BTreeSet<IpNet>> {
        match self {
            Self::Prefixes(prefixes) => {
                let inside = |own: &&IpNet| prefixes.iter().any(|p| p.contains(*own));
                let own: BTreeSet<IpNet> = info.prefixes().filter(inside).copied().collect();
                (!own.is_empty()).then_some(own)
            }
            Self::Endpoints(selector) => (id.scope() == Scope::Cluster
                && selector.matches(&info.labels))
            .then(|| info.prefixes().copied().collect()),
        }
    }
}

/// How an identity is in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The group's labels.
    pub labels: Arc<Labels>,
    /// Those of its prefixes by which it is.
    pub by: BTreeSet<IpNet>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its labels: of a CiliumCIDRGroup with the source `cidrgroup`, of a service
    /// with `k8s`.
    pub labels: Arc<Labels>,
    /// Who is in it.
    pub members: Members,
}

impl Group {
    /// What each of its members has at least one of.
    pub(crate) fn pivots(&self) -> Vec<Pivot> {
        match &self.members {
            Members::Prefixes(prefixes) => {
                prefixes.iter().map(|p| Pivot::Within(p.trunc())).collect()
            }
            Members::Endpoints(selector) => pivots_of_selector(selector),
        }
    }

    /// How an identity is in it; `None` if it is not.
    pub(crate) fn member(&self, id: Identity, info: &IdentityInfo) -> Option<Member> {
        Some(Member {
            labels: Arc::clone(&self.labels),
            by: self.members.hold(id, info)?,
        })
    }

    /// The prefixes that need identities of their own.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        let prefixes = match &self.members {
            Members::Prefixes(prefixes) => Some(prefixes),
            Members::Endpoints(_) => None,
        };
        let whole = |prefix: &&IpNet| prefix.prefix_len() == 0;
        prefixes.into_iter().flatten().filter(move |p| !whole(p))
    }
}

/// Every group, found by what its members have.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    known: BTreeMap<GroupKey, Group>,
    by_prefix: BTreeMap<IpNet, BTreeSet<GroupKey>>,
    by_pivot: BTreeMap<Pivot, BTreeSet<GroupKey>>,
}

impl Groups {
    pub(crate) fn known(&self) -> &BTreeMap<GroupKey, Group> {
        &self.known
    }

    /// Puts a group in place, or none; hands back what was there.
    pub(crate) fn replace(&mut self, key: &GroupKey, group: Option<Group>) -> Option<Group> {
        let old = self.known.remove(key);
        match old.as_ref().map(|group| &group.members) {
            Some(Members::Prefixes(prefixes)) => {
                for prefix in prefixes {
                    forget(&mut self.by_prefix, prefix, key);
                }
            }
            Some(Members::Endpoints(selector)) => {
                for pivot in pivots_of_selector(selector) {
                    forget(&mut self.by_pivot, &pivot, key);
                }
            }
            None => {}
        }
        if let Some(group) = group {
            match &group.members {
                Members::Prefixes(prefixes) => {
                    for prefix in prefixes {
                        let of_prefix = self.by_prefix.entry(*prefix).or_default();
                        of_prefix.insert(key.clone());
                    }
                }
                Members::Endpoints(selector) => {
                    for pivot in pivots_of_selector(selector) {
                        let of_pivot = self.by_pivot.entry(pivot).or_default();
                        of_pivot.insert(key.clone());
                    }
                }
            }
            self.known.insert(key.clone(), group);
        }
        old
    }

    /// The groups that an identity is in.
    pub(crate) fn of(&self, id: Identity, info: &IdentityInfo) -> BTreeMap<GroupKey, Member> {
        let mut within: BTreeSet<&GroupKey> = BTreeSet::new();
        if !self.by_prefix.is_empty() {
            let around = info.prefixes().copied().flat_map(supernets);
            let named = around.filter_map(|prefix| self.by_prefix.get(&prefix));
            within.extend(named.flatten());
        }
        if !self.by_pivot.is_empty() && id.scope() == Scope::Cluster {
            let pivots = pivots_of(id, info);
            let candidates = pivots.iter().filter_map(|pivot| self.by_pivot.get(pivot));
            within.extend(candidates.flatten());
        }
        let member = |key: &GroupKey| {
            let group = self.known.get(key)?;
            Some((key.clone(), group.member(id, info)?))
        };
        within.into_iter().filter_map(member).collect()
    }
}

fn forget<K: Ord>(index: &mut BTreeMap<K, BTreeSet<GroupKey>>, at: &K, key: &GroupKey) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

/// The groups that some rule refers to, from the objects that make them.
///
/// A service with a selector is its pods; one without is the addresses in its
/// slices. What does not exist has no members: a rule that refers to it selects
/// nobody by it.
pub fn groups_in_use<'a>(
    refs: &BTreeSet<GroupRef>,
    cidr_groups: impl Iterator<Item = &'a CidrGroup>,
    services: impl Iterator<Item = &'a Service>,
    slices: impl Iterator<Item = (&'a ObjectKey, &'a EndpointSlice)>,
) -> BTreeMap<GroupKey, Group> {
    let mut groups = BTreeMap::new();
    if refs.is_empty() {
        return groups;
    }
    let mut add = |key: GroupKey, labels: Labels, members: Members| {
        if refs.iter().any(|of| of.matches(&key, &labels)) {
            let labels = Arc::new(labels);
            groups.insert(key, Group { labels, members });
        }
    };
    for group in cidr_groups {
        let prefixes = group.cidrs.iter().map(IpNet::trunc).collect();
        let labels = labels(source::CIDR_GROUP, &group.labels);
        let key = GroupKey::CidrGroup(group.name.clone());
        add(key, labels, Members::Prefixes(prefixes));
    }
    for service in services {
        let members = match service.selector.is_empty() {
            true => Members::Prefixes(BTreeSet::new()),
            false => Members::Endpoints(pods_of(service)),
        };
        let labels = labels(source::K8S, &service.labels);
        let key = ObjectKey::new(&service.namespace, &service.name);
        add(GroupKey::Service(key), labels, members);
    }
    for (key, slice) in slices {
        let service = GroupKey::Service(ObjectKey::new(&key.namespace, &slice.service));
        if let Some(Members::Prefixes(prefixes)) =
            groups.get_mut(&service).map(|group| &mut group.members)
        {
            prefixes.extend(slice.addresses.iter().copied().map(IpNet::from));
        }
    }
    groups
}

fn labels(source: &str, labels: &BTreeMap<String, String>) -> Labels {
    let label = |(key, value): (&String, &String)| Label::new(source, key, value);
    labels.iter().map(label).collect()
}

/// The pods of a service with a selector.
fn pods_of(service: &Service) -> Selector {
    let wanted = service.selector.iter();
    let wanted = wanted.map(|(key, value)| Requirement::equals(source::K8S, key, value));
    let namespace = Requirement::equals(source::K8S, NAMESPACE, &service.namespace);
    Selector::new(wanted.chain([namespace]).collect())
}
