//! Endpoints of this node: identity, policy set, row.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::{EndpointFlags, EndpointRow, HOST_DEVICE, Identity, IpKey, IpcacheFlags};
use axon_model::{Desired, Endpoint, EndpointState, Labels, ObjectKey};
use axon_policy::{PolicySet, Resolution, at_least_as_strict};

use crate::controller::Controller;
use crate::ipcache::{Claim, single};
use crate::labels::process_labels;
use crate::places::addresses;
use crate::pods::Unnumbered;
use crate::seen::View;
use crate::views::{Condition, ConditionKind, EndpointStatus, IpSource, WaitReason};

impl Controller {
    /// Decides who each endpoint is. Until that is known an endpoint is
    /// reserved:init, whose policy allows nothing that no rule allows.
    /// Says whether anything about one has changed.
    pub(crate) fn identify_endpoints(&mut self, view: &View) -> bool {
        let missing = view.endpoints_wait_for();
        let mut old_statuses = std::mem::take(&mut self.statuses);
        let mut news = false;
        let mut statuses = BTreeMap::new();
        for (id, endpoint) in view.endpoints.rows.iter() {
            let old = old_statuses.remove(id);
            let (policy_set, before) = match old {
                Some(old) => (old.policy_set, Some((old.labels, old.identity, old.state))),
                None => (0, None),
            };
            let known = match missing {
                Some(what) => Err(WaitReason::Sources { what }),
                None => self.identify(endpoint),
            };
            let (labels, identity, waiting) = match known {
                Ok((labels, identity)) => (labels, identity, None),
                Err(reason) => (Labels::default(), Identity::INIT, Some(reason)),
            };
            let state = match (endpoint.state, waiting.is_some()) {
                (EndpointState::Disconnecting, _) => EndpointState::Disconnecting,
                (_, true) => EndpointState::WaitingForIdentity,
                (_, false) => EndpointState::Regenerating,
            };
            let same = before
                .as_ref()
                .is_some_and(|(l, i, s)| (l, *i, *s) == (&labels, identity, state));
            if !same {
                news = true;
                self.touched.insert(identity);
                self.touched.extend(before.map(|(_, identity, _)| identity));
            }
            let status = EndpointStatus {
                id: *id,
                labels,
                identity,
                policy_set,
                state,
                waiting,
            };
            statuses.insert(*id, status);
        }
        self.touched
            .extend(old_statuses.values().map(|old| old.identity));
        self.statuses = statuses;
        news || !old_statuses.is_empty()
    }

    fn identify(&mut self, endpoint: &Endpoint) -> Result<(Labels, Identity), WaitReason> {
        let persisted = &mut self.persisted;
        let (labels, identity) = if endpoint.pod_name.is_empty() {
            let config = &self.config;
            let base = process_labels(
                &endpoint.own_labels,
                &endpoint.namespace,
                &config.cluster_name,
                &config.label_filter,
            );
            let labels = match config.cidr_selects_pods {
                true => {
                    let addresses: Vec<IpAddr> = addresses(endpoint).collect();
                    self.places.labels(&base, &addresses)
                }
                false => base.clone(),
            };
            let identity = self.numbering.number_placed(&base, &labels, persisted);
            (labels, identity)
        } else {
            let key = ObjectKey::new(&endpoint.namespace, &endpoint.pod_name);
            let facts = self.pods.get(&key).ok_or(WaitReason::Pod {
                namespace: key.namespace,
                name: key.name,
            })?;
            (facts.labels.clone(), facts.identity.clone())
        };
        match identity {
            Ok(identity) => Ok((labels, identity)),
            Err(Unnumbered::Unknown) => Err(WaitReason::Identity),
            Err(Unnumbered::Exhausted(error)) => Err(error.into()),
        }
    }

    /// Claims the addresses of endpoints that have rows.
    pub(crate) fn claims_of_endpoints(&mut self, view: &View) {
        for (id, endpoint) in view.endpoints.rows.iter() {
            let Some(status) = self.statuses.get(id).filter(|s| may_have_row(endpoint, s)) else {
                continue;
            };
            let claim = Claim {
                flags: IpcacheFlags::WORKLOAD,
                pod: pod_text(endpoint),
                ..Claim::of(status.identity)
            };
            let claims = addresses(endpoint)
                .filter(|addr| self.knows(addr.is_ipv6()))
                .map(|addr| (single(addr), claim.clone()));
            let claims = claims.collect();
            self.claims.set(&(IpSource::Local, id.to_string()), claims);
        }
        let statuses = &self.statuses;
        self.claims.retain(IpSource::Local, |name| {
            let status = name.parse().ok().and_then(|id: u16| statuses.get(&id));
            status.is_some_and(|s| s.state != EndpointState::Disconnecting)
        });
    }

    /// Gives each endpoint its set: the rows of the set are desired first,
    /// then the endpoint's row points to it.
    pub(crate) fn place_endpoints(
        &mut self,
        view: &View,
        resolution: &Resolution,
        desired: &Desired,
    ) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut overflown: BTreeSet<u32> = BTreeSet::new();
        for (id, endpoint) in view.endpoints.rows.iter() {
            let Some(status) = self.statuses.get(id).cloned() else {
                continue;
            };
            if !may_have_row(endpoint, &status) {
                continue;
            }
            let wanted = resolution.subjects.get(&status.identity);
            let Some(wanted) = wanted.and_then(|number| resolution.sets.get(number)) else {
                continue;
            };
            let mut waiting = status.waiting;
            let mut number = wanted.number;
            if let Err(message) = self.sets.admit(wanted, &self.policy_capacity) {
                number = self.stricter(status.policy_set, wanted);
                if overflown.insert(wanted.number) {
                    conditions.push(self.overflow(wanted, &message));
                }
                waiting = Some(WaitReason::Capacity(message));
            }
            if endpoint.ifindex == 0 {
                waiting = Some(WaitReason::Device);
            }
            if let Some(status) = self.statuses.get_mut(id) {
                status.policy_set = number;
                status.waiting = waiting;
            }
        }
        let changed = self.sets.take_changed();
        desired.policy_sets.write(|txn| {
            for number in changed {
                if let Some(set) = self.sets.get(number) {
                    txn.insert(number, set.rows.clone());
                }
            }
        });
        conditions
    }

    /// What an endpoint gets whose set does not fit: the set it has, if that
    /// allows nothing that the wanted one denies, else the set that allows
    /// nothing.
    fn stricter(&mut self, current: u32, wanted: &Arc<PolicySet>) -> u32 {
        if self.may_keep(current, wanted) {
            return current;
        }
        let lockdown = Arc::new(PolicySet::lockdown(&mut self.persisted.numbers));
        // A row is kept free for it; where a capacity has none, the endpoint
        // has no set, and the programs drop what has none.
        match self.sets.admit(&lockdown, &self.policy_capacity) {
            Ok(()) => lockdown.number,
            Err(_) => 0,
        }
    }

    /// Whether a set fits that allows nothing that the wanted one denies.
    pub(crate) fn may_keep(&mut self, current: u32, wanted: &PolicySet) -> bool {
        let identities = || self.engine.identities().keys().copied();
        self.sets.get(current).cloned().is_some_and(|set| {
            at_least_as_strict(&set.rows, &wanted.rows, identities())
                && self.sets.admit(&set, &self.policy_capacity).is_ok()
        })
    }

    pub(crate) fn overflow(&self, wanted: &PolicySet, message: &str) -> Condition {
        Condition {
            kind: ConditionKind::PolicyOverflow,
            policies: self.policies_of(&wanted.rules),
            message: format!("policy does not fit into the kernel's maps: {message}"),
            remedy: "raise the sizes of the policy maps, or name fewer peers and ports".to_owned(),
        }
    }

    /// The rows of endpoints, as decided.
    pub(crate) fn write_endpoints(&mut self, view: &View, desired: &Desired, complete: bool) {
        let mut rows: BTreeMap<u32, EndpointRow> = view
            .endpoints
            .rows
            .iter()
            .filter_map(|(id, endpoint)| {
                let status = self.statuses.get(id)?;
                let placed = may_have_row(endpoint, status) && endpoint.ifindex != 0;
                let namespace = view.namespaces.rows.get(&endpoint.namespace);
                let audit = endpoint.audit || namespace.is_some_and(|namespace| namespace.audit);
                (placed && status.policy_set != 0)
                    .then(|| (endpoint.ifindex, endpoint_row(endpoint, status, audit)))
            })
            .collect();
        // What was let through to be audited is judged again.
        let audited = |row: &EndpointRow| row.flags & EndpointFlags::AUDIT;
        let turned = |(ifindex, row): (&u32, &EndpointRow)| {
            let old = desired.endpoints.get(ifindex);
            old.is_some_and(|old| audited(&old) != audited(row))
        };
        if rows.iter().any(turned) {
            self.epoch.note_change();
        }
        let host = self.host_row();
        rows.extend(host.map(|row| (HOST_DEVICE, row)));
        let old = desired.endpoints.get(&HOST_DEVICE);
        let says = |row: EndpointRow| (row.policy_set, row.flags);
        if old.map(|row| says(*row)) != host.map(says) {
            // Flows keep no number of the node's set.
            self.epoch.note_change();
        }
        // A device's row goes as soon as the node says that the endpoint is
        // gone: that is a local fact.
        desired.endpoints.write(|txn| {
            let stale: Vec<u32> = txn
                .iter()
                .map(|(ifindex, _)| *ifindex)
                .filter(|ifindex| !rows.contains_key(ifindex))
                .collect();
            for (ifindex, row) in &rows {
                txn.insert(*ifindex, *row);
            }
            for ifindex in stale {
                txn.remove(&ifindex);
            }
        });
        if complete {
            desired.endpoints.mark_complete();
        }
    }
}

impl EndpointStatus {
    /// Its row, if it has one from an earlier life, must stay as it is.
    fn is_held(&self) -> bool {
        matches!(self.waiting, Some(WaitReason::Sources { .. }))
    }
}

fn may_have_row(endpoint: &Endpoint, status: &EndpointStatus) -> bool {
    endpoint.state != EndpointState::Disconnecting && !status.is_held()
}

fn pod_text(endpoint: &Endpoint) -> String {
    if endpoint.pod_name.is_empty() {
        String::new()
    } else {
        format!("{}/{}", endpoint.namespace, endpoint.pod_name)
    }
}

/// The flag of a row whose policy is only audited.
pub(crate) fn audit_flag(audit: bool) -> u16 {
    if audit { EndpointFlags::AUDIT } else { 0 }
}

fn endpoint_row(endpoint: &Endpoint, status: &EndpointStatus, audit: bool) -> EndpointRow {
    EndpointRow {
        ifindex: endpoint.ifindex,
        identity: status.identity,
        policy_set: status.policy_set,
        id: endpoint.id,
        flags: audit_flag(audit),
        ipv4: endpoint.ipv4.map(|addr| addr.octets()).unwrap_or_default(),
        ipv6: endpoint
            .ipv6
            .map(|addr| IpKey::from_v6(addr.octets()))
            .unwrap_or_default(),
        mac: endpoint.mac.0,
        node_mac: endpoint.node_mac.0,
    }
}
