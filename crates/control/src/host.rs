//! The node itself: who it is to policy, and what policy is enforced on it.

use axon_abi::Identity;
use axon_policy::{Resolution, node_labels, reserved_identities};

use crate::controller::Controller;
use crate::seen::View;
use crate::views::{Condition, HostStatus, IpSource, WaitReason};

impl Controller {
    /// Tells the policy engine the node's labels, by which policies are about
    /// it, and where prefixes select nodes its addresses: the host is one
    /// identity with all of them.
    pub(crate) fn follow_host(&mut self, view: &View) {
        if let Some(node) = view.nodes.rows.get(&self.config.node_name) {
            self.engine.set_node(node_labels(&node.labels));
        }
        if !self.config.cidr_selects_nodes {
            return;
        }
        let policy = self.config.policy();
        let Some(mut info) = reserved_identities(&policy).remove(&Identity::HOST) else {
            return;
        };
        for name in [self.config.node_name.clone(), String::new()] {
            let owner = (IpSource::Node, name);
            info.addresses.extend(self.claims.of(&owner).copied());
        }
        if self.engine.upsert_identity(Identity::HOST, info) {
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
        let (policy_set, waiting, condition) = match self.sets.admit(wanted, &self.config.capacity)
        {
            Ok(()) => (wanted.number, None, None),
            Err(message) => (
                self.stricter(self.host.policy_set, wanted),
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
        view.endpoints_wait_for().or(nodes)
    }

    /// What has been decided for the node itself.
    pub fn host(&self) -> &HostStatus {
        &self.host
    }
}
