//! All objects, one after the other: the slow and obvious way.

use std::collections::BTreeMap;

use axon_abi::{FrontendKind, ServiceEntry, ServiceFlags, ServiceKey};
use axon_model::Protocol;

use super::asked::{Asked, Claimed, Kind, Object, Over, PortRows, Rank, Step, What, taken};
use super::frontends::{Asking, Place, key};
use super::{Numbers, Report, ServiceRows};

/// What a node holds of the objects that have had their turn.
#[derive(Default)]
struct Holding {
    rows: ServiceRows,
    /// Who has what.
    owners: BTreeMap<Claimed, Object>,
    /// The port that a redirection took the place of.
    before: BTreeMap<ServiceKey, u32>,
    /// Numbers of ports in the order of their turns.
    ports: Vec<u32>,
}

pub(super) fn resolve(place: Place<'_>, numbers: &mut Numbers) -> ServiceRows {
    let mut holding = Holding::default();
    for object in in_order(place) {
        let asked = Asking::new(place, numbers).object(&object);
        holding.enter(&object, asked);
    }
    holding.stamp(numbers);
    holding.rows
}

/// Who came first keeps what he has.
fn in_order(place: Place<'_>) -> Vec<Object> {
    let cluster = place.cluster;
    let rank = |kind, key, created: &str| Rank {
        created: created.to_owned(),
        object: Object::new(kind, key),
    };
    let services = cluster.services.iter();
    let services = services.map(|(key, service)| rank(Kind::Service, key, &service.spec.created));
    let slices = cluster.slices.keys().map(|key| rank(Kind::Slice, key, ""));
    let pods = cluster.pods.keys().map(|key| rank(Kind::Pod, key, ""));
    let redirects = cluster.redirects.iter();
    let redirects = redirects.map(|(key, redirect)| rank(Kind::Redirect, key, &redirect.created));
    let mut all: Vec<Rank> = services
        .chain(slices)
        .chain(pods)
        .chain(redirects)
        .collect();
    all.sort();
    all.into_iter().map(|rank| rank.object).collect()
}

impl Holding {
    fn enter(&mut self, object: &Object, asked: Asked) {
        for step in asked.steps {
            self.step(object, step);
        }
        for (key, over) in asked.overs {
            self.over(key, &over);
        }
        self.ports.extend(asked.ports);
        self.rows.lists.extend(asked.lists);
        self.rows.maglev.extend(asked.maglev);
        self.rows.backends.extend(asked.backends);
        self.rows.ranges.extend(asked.ranges);
        self.rows.skips.extend(asked.skips);
    }

    /// Tells of a field, once: a port is claimed at several addresses.
    fn report(&mut self, object: &Object, field: &str, reason: String) {
        let name = object.name();
        let mut told = self.rows.reports.iter();
        if !told.any(|report| report.object == name && report.field == field) {
            self.rows.reports.insert(Report {
                object: name,
                field: field.to_owned(),
                reason,
            });
        }
    }

    fn step(&mut self, object: &Object, step: Step) {
        if let Some(claimed) = step.claimed() {
            let owner = self.owners.entry(claimed).or_insert_with(|| object.clone());
            if owner != object {
                let reason = taken(claimed, &owner.name());
                return self.report(object, &step.field, reason);
            }
        }
        match step.what {
            What::Wrong(reason) => self.report(object, &step.field, reason),
            What::Health { port, check } => {
                self.rows.health.entry(port).or_insert(check);
            }
            What::Frontend {
                key: at,
                entry,
                whole,
            } => {
                // An address that a service writes twice is one frontend.
                self.rows.services.entry(at).or_insert(entry);
                if let Some(closed) = whole {
                    let whole = key(at.addr.into(), 0, Protocol(0));
                    let row = self.rows.services.entry(whole).or_insert(ServiceEntry {
                        flags: FrontendKind::Address as u32 | closed,
                        ..ServiceEntry::default()
                    });
                    // It is a service's from inside if one of its ports is.
                    row.flags &= closed | !ServiceFlags::CLOSED_INSIDE;
                }
            }
        }
    }

    fn over(&mut self, key: ServiceKey, over: &Over) {
        let owner = self.owners.get(&Claimed::Frontend(key));
        if owner != Some(&Object::new(Kind::Service, &over.service)) {
            return;
        }
        if let Some(row) = self.rows.services.get_mut(&key) {
            self.before.insert(key, row.service);
            *row = over.entry(*row);
        }
    }

    /// Gives rows their generations.
    fn stamp(&mut self, numbers: &mut Numbers) {
        let mut contents: BTreeMap<u32, PortRows> = BTreeMap::new();
        for (key, entry) in &self.rows.services {
            let content = contents.entry(entry.service).or_default();
            content.frontends.push((*key, *entry, 0));
        }
        for (id, backend) in &self.rows.backends {
            let content = contents.entry(backend.service).or_default();
            content.backends.push((*id, *backend));
        }
        for port in &self.ports {
            let mut content = contents.remove(port).unwrap_or_default();
            for (key, _, before) in &mut content.frontends {
                let port = self.before.get(key);
                *before = port.map_or(0, |port| numbers.last_generation(*port));
            }
            let generation = numbers.generation(*port, &content);
            for (key, _, _) in content.frontends {
                if let Some(row) = self.rows.services.get_mut(&key) {
                    row.generation = generation;
                }
            }
        }
    }
}
