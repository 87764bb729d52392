//! Far sides in use, and the identities that each tells apart.
//!
//! ```text
//! far side ── pivots (a label, a scope, a declared port) ── identities
//! ```
//!
//! A far side tells an identity apart from its scope only if they share a
//! pivot. So a new far side looks at the identities under its pivots, a new
//! identity at the far sides under its own, and nobody at everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{Identity, Scope};
use axon_model::{Entity, GroupKey, NamePattern, Operator, Peer, Selector};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::few::Few;
use crate::select::Who;
use crate::{IdentityInfo, NamedPorts};

/// A far side, for this engine's life.
pub(crate) type WhoId = u32;
/// A set, for this engine's life.
pub(crate) type SetId = u32;

/// What a far side and the identities that it may tell apart have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pivot {
    /// A label's key and value, whatever its source.
    Label(String, String),
    /// A label's key, whatever its source and value.
    Key(String),
    /// A port declared under a name.
    Port(String, u8, u16),
    /// Everyone of a scope.
    Scope(Scope),
    /// An identity: a prefix that its addresses are in. A far side: everyone with
    /// a prefix within this one.
    Within(IpNet),
    /// Everyone whose addresses were given for names like this.
    Name(NamePattern),
    /// Everyone in a group.
    Group(GroupKey),
    /// Everyone in any group.
    Grouped,
}

#[derive(Debug)]
struct InUse {
    who: Arc<Who>,
    /// Scopes whose stand-in it means.
    scopes: BTreeSet<Scope>,
    pivots: Box<[Pivot]>,
    /// Identities that it means though not their scope's stand-in, or the
    /// other way round.
    told: Few<Identity>,
    /// Sets that hold it.
    users: Few<SetId>,
}

/// Every far side in use.
#[derive(Debug, Default)]
pub(crate) struct Whos {
    last: WhoId,
    ids: BTreeMap<Arc<Who>, WhoId>,
    in_use: BTreeMap<WhoId, InUse>,
    by_pivot: BTreeMap<Pivot, Few<WhoId>>,
    /// By identity, the far sides that tell it apart.
    told: BTreeMap<Identity, Few<WhoId>>,
    /// Every known identity. Who has a key is found by its values.
    identities: BTreeMap<Pivot, Few<Identity>>,
}

type Known = BTreeMap<Identity, IdentityInfo>;

impl Whos {
    /// Follows what is known of an identity, before and now.
    pub(crate) fn index(
        &mut self,
        id: Identity,
        old: Option<&IdentityInfo>,
        new: Option<&IdentityInfo>,
    ) {
        let pivots = |info: &IdentityInfo| {
            let pivots = pivots_of(id, info).into_iter();
            pivots.filter(|pivot| !matches!(pivot, Pivot::Key(_)))
        };
        for pivot in old.into_iter().flat_map(pivots) {
            if let Some(ids) = self.identities.get_mut(&pivot) {
                ids.remove(id);
                if ids.is_empty() {
                    self.identities.remove(&pivot);
                }
            }
        }
        for pivot in new.into_iter().flat_map(pivots) {
            self.identities.entry(pivot).or_default().insert(id);
        }
    }

    /// The identities under any of these pivots.
    pub(crate) fn under<'a>(
        &self,
        pivots: impl IntoIterator<Item = &'a Pivot>,
    ) -> BTreeSet<Identity> {
        let mut under = BTreeSet::new();
        for pivot in pivots {
            let from = match pivot {
                Pivot::Within(around) => Pivot::Within(within(around).0),
                Pivot::Key(key) => Pivot::Label(key.clone(), String::new()),
                one => {
                    under.extend(self.identities.get(one).into_iter().flat_map(Few::iter));
                    continue;
                }
            };
            let may_be = |own: &Pivot| match (pivot, own) {
                (Pivot::Within(around), Pivot::Within(own)) => *own <= within(around).1,
                (Pivot::Key(key), Pivot::Label(own, _)) => own == key,
                _ => false,
            };
            let is = |own: &Pivot| match (pivot, own) {
                (Pivot::Within(around), Pivot::Within(own)) => around.contains(own),
                _ => true,
            };
            let near = self.identities.range(from..);
            let near = near.take_while(|(own, _)| may_be(own));
            let inside = near.filter(|(own, _)| is(own));
            under.extend(inside.flat_map(|(_, ids)| ids.iter()));
        }
        under
    }

    /// The far sides that may tell an identity apart.
    fn candidates(&self, id: Identity, info: &IdentityInfo) -> BTreeSet<WhoId> {
        let mut candidates = BTreeSet::new();
        let mut add = |pivot: &Pivot| {
            candidates.extend(self.by_pivot.get(pivot).into_iter().flat_map(Few::iter));
        };
        for pivot in pivots_of(id, info) {
            match pivot {
                Pivot::Within(own) if self.asks_for_prefixes() => {
                    supernets(own).map(Pivot::Within).for_each(|p| add(&p));
                }
                pivot => add(&pivot),
            }
        }
        candidates
    }

    fn asks_for_prefixes(&self) -> bool {
        let every = [
            IpNet::from(Ipv4Net::default()),
            IpNet::from(Ipv6Net::default()),
        ];
        let [first, _] = every.map(|whole| within(&whole).0);
        let [_, last] = every.map(|whole| within(&whole).1);
        let mut all = self
            .by_pivot
            .range(Pivot::Within(first)..=Pivot::Within(last));
        all.next().is_some()
    }

    /// The ports that any identity declares by name.
    pub(crate) fn declared(&self) -> NamedPorts {
        let mut declared = NamedPorts::new();
        let from = Pivot::Port(String::new(), 0, 0);
        for pivot in self.identities.range(from..).map(|(pivot, _)| pivot) {
            let Pivot::Port(name, protocol, port) = pivot else {
                break;
            };
            let key = (name.clone(), axon_model::Protocol(*protocol));
            declared.entry(key).or_default().insert(*port);
        }
        declared
    }

    /// Whether any identity declares a port by this name.
    pub(crate) fn is_declared(&self, name: &str, protocol: u8, port: u16) -> bool {
        let pivot = Pivot::Port(name.to_owned(), protocol, port);
        self.identities.contains_key(&pivot)
    }

    /// Has a set hold a far side, which is then the one that others share.
    pub(crate) fn hold(
        &mut self,
        who: &mut Arc<Who>,
        set: SetId,
        known: &Known,
        stand_ins: &[(Scope, Identity, IdentityInfo)],
    ) -> WhoId {
        let id = match self.ids.get(who) {
            Some(id) => *id,
            None => self.add(Arc::clone(who), known, stand_ins),
        };
        if let Some(in_use) = self.in_use.get_mut(&id) {
            in_use.users.insert(set);
            who.clone_from(&in_use.who);
        }
        id
    }

    fn add(
        &mut self,
        who: Arc<Who>,
        known: &Known,
        stand_ins: &[(Scope, Identity, IdentityInfo)],
    ) -> WhoId {
        let scopes: BTreeSet<Scope> = stand_ins
            .iter()
            .filter(|(_, id, info)| who.selects(*id, info))
            .map(|(scope, _, _)| *scope)
            .collect();
        let pivots = pivots_of_who(&who, &scopes);
        let mut told = self.under(&*pivots);
        told.retain(|id| {
            let info = known.get(id);
            info.is_some_and(|info| who.selects(*id, info) != scopes.contains(&id.scope()))
        });
        // After 2^32 far sides numbers begin again.
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.in_use.contains_key(&self.last) {
                break;
            }
        }
        let id = self.last;
        for pivot in &pivots {
            self.by_pivot.entry(pivot.clone()).or_default().insert(id);
        }
        for identity in &told {
            self.told.entry(*identity).or_default().insert(id);
        }
        let in_use = InUse {
            who: Arc::clone(&who),
            scopes,
            pivots,
            told: told.into_iter().collect(),
            users: Few::default(),
        };
        self.in_use.insert(id, in_use);
        self.ids.insert(who, id);
        id
    }

    /// Says that a set does not hold a far side any more.
    pub(crate) fn release(&mut self, id: WhoId, set: SetId) {
        let Some(in_use) = self.in_use.get_mut(&id) else {
            return;
        };
        in_use.users.remove(set);
        if !in_use.users.is_empty() {
            return;
        }
        let Some(gone) = self.in_use.remove(&id) else {
            return;
        };
        self.ids.remove(&gone.who);
        for pivot in &gone.pivots {
            if let Some(ids) = self.by_pivot.get_mut(pivot) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_pivot.remove(pivot);
                }
            }
        }
        for identity in gone.told.iter() {
            self.untell(identity, id);
        }
    }

    fn untell(&mut self, identity: Identity, id: WhoId) {
        if let Some(told) = self.told.get_mut(&identity) {
            told.remove(id);
            if told.is_empty() {
                self.told.remove(&identity);
            }
        }
    }

    /// Looks again at whom an identity is told apart by; hands back the sets
    /// for which that has changed.
    pub(crate) fn follow(&mut self, id: Identity, info: Option<&IdentityInfo>) -> BTreeSet<SetId> {
        let old = self.told.get(&id).into_iter().flat_map(Few::iter);
        let old: BTreeSet<WhoId> = old.collect();
        let tells = |who: &WhoId| {
            self.in_use.get(who).is_some_and(|in_use| {
                info.is_some_and(|info| {
                    in_use.who.selects(id, info) != in_use.scopes.contains(&id.scope())
                })
            })
        };
        let mut new = info.map_or_else(BTreeSet::new, |info| self.candidates(id, info));
        new.retain(tells);
        let mut sets = BTreeSet::new();
        for who in old.symmetric_difference(&new) {
            let Some(in_use) = self.in_use.get_mut(who) else {
                continue;
            };
            sets.extend(in_use.users.iter());
            if new.contains(who) {
                in_use.told.insert(id);
            } else {
                in_use.told.remove(id);
            }
        }
        if new.is_empty() {
            self.told.remove(&id);
        } else {
            self.told.insert(id, new.into_iter().collect());
        }
        sets
    }

    /// The far sides that tell an identity apart from its scope.
    pub(crate) fn telling(&self, id: Identity) -> impl Iterator<Item = WhoId> {
        self.told.get(&id).into_iter().flat_map(Few::iter)
    }

    /// The identities that a far side tells apart from their scopes.
    pub(crate) fn told(&self, id: WhoId) -> impl Iterator<Item = Identity> {
        let in_use = self.in_use.get(&id);
        in_use.into_iter().flat_map(|w| w.told.iter())
    }

    /// The scopes whose stand-in a far side means.
    pub(crate) fn scopes(&self, id: WhoId) -> impl Iterator<Item = Scope> {
        let in_use = self.in_use.get(&id);
        in_use.into_iter().flat_map(|w| &w.scopes).copied()
    }
}

/// A prefix and every prefix around it.
pub(crate) fn supernets(prefix: IpNet) -> impl Iterator<Item = IpNet> {
    std::iter::successors(Some(prefix.trunc()), IpNet::supernet)
}

/// Between which prefixes, in order, all are that are within one.
fn within(around: &IpNet) -> (IpNet, IpNet) {
    let (first, last) = (around.network(), around.broadcast());
    (IpNet::new_assert(first, 0), IpNet::from(last))
}

pub(crate) fn pivots_of(id: Identity, info: &IdentityInfo) -> BTreeSet<Pivot> {
    let labels = info.labels.iter().flat_map(|(_, key, value)| {
        let key = key.to_owned();
        [Pivot::Label(key.clone(), value.to_owned()), Pivot::Key(key)]
    });
    let ports = info
        .named_ports
        .iter()
        .flat_map(|((name, protocol), ports)| {
            let pivot = |port: &u16| Pivot::Port(name.clone(), protocol.0, *port);
            ports.iter().map(pivot)
        });
    let scope = [Pivot::Scope(id.scope())];
    let prefixes = info.prefixes().map(|own| Pivot::Within(own.trunc()));
    let names = info.names.iter().cloned().map(Pivot::Name);
    let groups = info.groups.keys().cloned().map(Pivot::Group);
    let grouped = (!info.groups.is_empty()).then_some(Pivot::Grouped);
    labels
        .chain(ports)
        .chain(scope)
        .chain(prefixes)
        .chain(names)
        .chain(groups)
        .chain(grouped)
        .collect()
}

/// What an identity must have in common with a far side that tells it apart.
///
/// Either the far side means the identity and not its scope's stand-in: then
/// one of its peers selects it, by something that the identity has (a label
/// asked for, a prefix, a declared port). Or it means the stand-in: then the
/// identity is of one of those scopes. What a peer says of whole scopes tells
/// nobody apart.
fn pivots_of_who(who: &Who, scopes: &BTreeSet<Scope>) -> Box<[Pivot]> {
    if let Some((name, protocol, port)) = who.declared_port() {
        // Stand-ins declare nothing.
        return [Pivot::Port(name.to_owned(), protocol.0, port)].into();
    }
    let Some(peers) = who.peers() else {
        return Box::default();
    };
    let whole: BTreeSet<Scope> = peers.iter().flat_map(whole_scopes).collect();
    let of_scopes = scopes.difference(&whole).map(|scope| Pivot::Scope(*scope));
    let pivots = peers.iter().flat_map(pivots_of_peer).chain(of_scopes);
    let once: BTreeSet<Pivot> = pivots.collect();
    once.into_iter().collect()
}

/// The scopes of which a peer selects everyone.
fn whole_scopes(peer: &Peer) -> Vec<Scope> {
    match peer {
        Peer::Endpoints(selector) if selector.is_wildcard() => vec![Scope::Cluster],
        Peer::Entity(Entity::All) => Scope::ALL.into(),
        Peer::Entity(Entity::World) => vec![Scope::World],
        Peer::Entity(Entity::Cluster) => Scope::ALL
            .into_iter()
            .filter(|scope| !matches!(scope, Scope::World | Scope::Unknown))
            .collect(),
        Peer::Entity(_)
        | Peer::Endpoints(_)
        | Peer::Cidr { .. }
        | Peer::Nodes(_)
        | Peer::Name(_)
        | Peer::Group { .. } => Vec::new(),
    }
}

fn pivots_of_peer(peer: &Peer) -> Vec<Pivot> {
    match peer {
        Peer::Endpoints(selector) => pivots_of_selector(selector),
        Peer::Nodes(selector) => asked_label(selector).unwrap_or_else(|| {
            [Scope::RemoteNode, Scope::KubeApiserver]
                .map(Pivot::Scope)
                .into()
        }),
        Peer::Name(pattern) => vec![Pivot::Name(pattern.clone())],
        Peer::Entity(Entity::WorldIpv4 | Entity::WorldIpv6) => vec![Pivot::Scope(Scope::World)],
        Peer::Cidr { cidr, .. } => vec![Pivot::Within(cidr.trunc())],
        Peer::Group { of, .. } => vec![of.only().map_or(Pivot::Grouped, Pivot::Group)],
        Peer::Entity(Entity::KubeApiserver) => vec![Pivot::Key("kube-apiserver".to_owned())],
        // Told by the scope alone.
        Peer::Entity(_) => Vec::new(),
    }
}

/// The labels of which every identity that the selector means has one. Without
/// such a requirement it means the stand-in of workloads, or no workload that
/// the stand-in is not like.
pub(crate) fn pivots_of_selector(selector: &Selector) -> Vec<Pivot> {
    asked_label(selector).unwrap_or_else(|| vec![Pivot::Scope(Scope::Cluster)])
}

/// A label that the selector asks for, if it asks for one to be there.
fn asked_label(selector: &Selector) -> Option<Vec<Pivot>> {
    let asked = |common: bool| {
        selector.requirements().iter().find_map(|r| {
            // Nearly everyone has these: the other labels are the better ones.
            let is_common = r.key.starts_with("io.kubernetes.") || r.key.starts_with("io.cilium.");
            match &r.operator {
                _ if is_common != common => None,
                Operator::In(values) => {
                    let label = |v: &String| Pivot::Label(r.key.clone(), v.clone());
                    Some(values.iter().map(label).collect())
                }
                Operator::Exists => Some(vec![Pivot::Key(r.key.clone())]),
                Operator::NotIn(_) | Operator::DoesNotExist => None,
            }
        })
    };
    asked(false).or_else(|| asked(true))
}
