//! What one object asks for, whoever else asks for the same.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::{
    Backend, FrontendKind, ListBlock, ListKey, ListRef, MaglevBlock, MaglevKey, ServiceClient,
    ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};
use axon_model::ObjectKey;

use super::HealthCheck;

/// Of which kind an object is, in the order in which they come to their turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Slice,
    Pod,
    Redirect,
}

/// An object that asks for something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
}

impl Object {
    pub(super) fn new(kind: Kind, key: &ObjectKey) -> Self {
        Self {
            kind,
            key: key.clone(),
        }
    }

    /// As reports call it.
    pub(super) fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Service => "Service",
            Kind::Slice => "EndpointSlice",
            Kind::Pod => "Pod",
            Kind::Redirect => "CiliumLocalRedirectPolicy",
        };
        format!("{kind} {}", self.key)
    }
}

/// When an object comes to its turn: of two of a kind the older one comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    /// When it was made; empty where that does not count.
    pub(super) created: String,
    pub(super) object: Object,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |rank: &Self| rank.object.kind;
        of(self).cmp(&of(other)).then_with(|| {
            (&self.created, &self.object.key).cmp(&(&other.created, &other.object.key))
        })
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Something that only one object can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimed {
    Frontend(ServiceKey),
    /// A node port where the number of backends is told.
    Health(u16),
}

/// What an object says of a field, or claims for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) field: String,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// Something is wrong.
    Wrong(String),
    /// A frontend. If somebody asks for the address as a whole too, with which
    /// flag.
    Frontend {
        key: ServiceKey,
        entry: ServiceEntry,
        whole: Option<u32>,
    },
    /// Where how many backends are told of.
    Health { port: u16, check: HealthCheck },
}

impl Step {
    /// What it claims.
    pub(super) fn claimed(&self) -> Option<Claimed> {
        match &self.what {
            What::Wrong(_) => None,
            What::Frontend { key, .. } => Some(Claimed::Frontend(*key)),
            What::Health { port, .. } => Some(Claimed::Health(*port)),
        }
    }
}

/// Why somebody does not get what is another's.
pub(super) fn taken(claimed: Claimed, owner: &str) -> String {
    match claimed {
        Claimed::Frontend(key) => format!(
            "{} with port {} is {owner}'s already",
            IpAddr::from(key.addr),
            key.port.get()
        ),
        Claimed::Health(port) => format!("{port} is {owner}'s already"),
    }
}

/// A redirection in the place of a service's frontend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Over {
    /// Whose frontend it is to be.
    pub(super) service: ObjectKey,
    /// The number of the redirection's port.
    pub(super) number: u32,
    /// Its pods.
    pub(super) list: ListRef,
    /// Whether these pass it by.
    pub(super) skips_own: bool,
}

impl Over {
    /// The row in the place of the one that was there.
    pub(super) fn entry(&self, before: ServiceEntry) -> ServiceEntry {
        redirected(
            (self.number, self.list),
            before,
            u32::from(self.skips_own) * ServiceFlags::SKIP_OWN,
        )
    }
}

/// The row of a redirection to a list.
pub(super) fn redirected(
    (service, internal): (u32, ListRef),
    before: ServiceEntry,
    skips: u32,
) -> ServiceEntry {
    ServiceEntry {
        service,
        flags: FrontendKind::LocalRedirect as u32
            | (before.flags & !ServiceFlags::KIND_MASK & !ServiceFlags::AFFINITY)
            | skips,
        internal,
        external: before.internal,
        ..before
    }
}

/// What one object asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    /// In their order.
    pub(super) steps: Vec<Step>,
    /// Redirections.
    pub(super) overs: BTreeMap<ServiceKey, Over>,
    /// The numbers of its ports; whatever else has a number is one of these'.
    pub(super) ports: BTreeSet<u32>,
    pub(super) lists: BTreeMap<ListKey, ListBlock>,
    pub(super) maglev: BTreeMap<MaglevKey, MaglevBlock>,
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) ranges: BTreeSet<SourceRangeKey>,
    pub(super) skips: BTreeSet<ServiceClient>,
}

/// What the generation of a port's rows stands for.
#[derive(Debug, Default, Hash)]
pub(super) struct PortRows {
    /// Frontends, each with the generation of what a redirection took the place of.
    pub(super) frontends: Vec<(ServiceKey, ServiceEntry, u32)>,
    pub(super) backends: Vec<(u32, Backend)>,
}
