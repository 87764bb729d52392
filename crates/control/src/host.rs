//! The node itself: who it is to policy, and what policy is enforced on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use axon_abi::{EndpointRow, HOST_DEVICE, Identity};
use axon_model::Labels;
use axon_policy::{PolicySet, Resolution, node_labels, reserved_identities};
use ipnet::IpNet;

use crate::controller::Controller;
use crate::endpoints::audit_flag;
use crate::seen::View;
use crate::trial::Trials;
use crate::views::{Condition, HostStatus, IpSource, WaitReason};

impl Controller {
    /// Tells the policy engine what the host has that only this node knows: its
    /// labels, by which policies are about it, whether it is an API server,
    /// and where prefixes select nodes its addresses. It is one identity with
    /// all of that.
    pub(crate) fn follow_host(&mut self, view: &View) {
        if let Some(node) = view.nodes.rows.get(&self.config.node_name) {
            self.engine.set_node(node_labels(&node.labels));
        }
        let own = [self.config.node_name.clone(), String::new()];
        let owners = own.map(|name| (IpSource::Node, name));
        let addresses: BTreeSet<IpNet> = owners
            .iter()
            .flat_map(|owner| self.claims.of(owner))
            .copied()
            .collect();
        let policy = self.config.policy();
        let Some(mut info) = reserved_identities(&policy).remove(&Identity::HOST) else {
            return;
        };
        for address in &addresses {
            info.labels = self.with_apiserver(info.labels, address);
        }
        if self.config.cidr_selects_nodes {
            info.addresses = addresses;
        }
        if self.engine.upsert_identity(Identity::HOST, info) {
            self.note_rehearsed([Identity::HOST]);
            self.epoch.note_change();
        }
    }

    /// The identity that needs a set for the node itself, if policy is enforced
    /// on it.
    pub(crate) fn host_subject(&self) -> Option<Identity> {
        self.config.host_firewall.then_some(Identity::HOST)
    }

    /// Gives the node itself its set, once all is known that it follows from:
    /// until then it keeps the one that it has.
    pub(crate) fn place_host(&mut self, view: &View, resolution: &Resolution) -> Option<Condition> {
        if !self.config.host_firewall {
            return None;
        }
        if let Some(what) = self.host_waits_for(view) {
            self.host.waiting = Some(WaitReason::Sources { what });
            return None;
        }
        let number = resolution.subjects.get(&Identity::HOST)?;
        let wanted = resolution.sets.get(number)?;
        let (policy_set, waiting, condition) = match self.sets.admit(wanted, &self.policy_capacity)
        {
            Ok(()) => (wanted.number, None, None),
            Err(message) => (
                self.stricter_for_host(wanted),
                Some(WaitReason::Capacity(message.clone())),
                Some(self.overflow(wanted, &message)),
            ),
        };
        self.host = HostStatus {
            policy_set,
            waiting,
        };
        condition
    }

    fn host_waits_for(&self, view: &View) -> Option<&'static str> {
        let is_known = view.nodes.rows.get(&self.config.node_name).is_some();
        let nodes = (!is_known).then_some("nodes");
        // Rules that are tried are known from the disk.
        let tried = self.trials.as_ref().is_some_and(Trials::are_known);
        view.host_waits_for(!tried).or(nodes)
    }

    /// What the node gets whose set does not fit: the set it has, if that allows
    /// nothing that the wanted one denies, else the one that allows nothing but
    /// what is never denied, for which room is kept. Should the maps be smaller than
    /// that, it keeps what it has: a node that nobody reaches is a node that nobody
    /// mends.
    fn stricter_for_host(&mut self, wanted: &PolicySet) -> u32 {
        let current = self.host.policy_set;
        if self.may_keep(current, wanted) {
            return current;
        }
        let policy = self.config.policy();
        let lockdown = PolicySet::lockdown_of_host(&policy, &mut self.persisted.numbers);
        let lockdown = Arc::new(lockdown);
        match self.sets.admit(&lockdown, &self.config.capacity) {
            Ok(()) => lockdown.number,
            Err(_) => current,
        }
    }

    /// The row of the node itself. Until there is a set for it, the row of another
    /// life stays in force.
    pub(crate) fn host_row(&self) -> Option<EndpointRow> {
        if !self.config.host_firewall {
            return None;
        }
        match self.host.policy_set {
            0 => self.adopted_host,
            policy_set => Some(EndpointRow {
                ifindex: HOST_DEVICE,
                identity: Identity::HOST,
                policy_set,
                id: self.config.host_id,
                flags: audit_flag(self.host_audit),
                ..EndpointRow::default()
            }),
        }
    }

    /// Has policy of the node itself only audited, or not any more.
    pub fn set_host_audit(&mut self, audit: bool) {
        self.host_audit = audit;
    }

    /// The labels by which policies are about the node itself.
    pub fn host_labels(&self) -> &Labels {
        self.engine.node()
    }

    /// What has been decided for the node itself.
    pub fn host(&self) -> &HostStatus {
        &self.host
    }
}
