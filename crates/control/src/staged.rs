//! Staged policies: what would be in force if they were. Nothing that is in
//! force follows from it.

use axon_abi::Identity;
use axon_model::Origin;
use axon_policy::{Rehearsal, Staged};

use crate::controller::Controller;

/// A staged policy, and whom it would select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedUse {
    /// The policy.
    pub policy: Origin,
    /// Endpoints that it would be about.
    pub endpoints: Vec<u16>,
    /// It would be about the node itself.
    pub host: bool,
}

impl Controller {
    /// Whom staged policies would select if they were enforced.
    pub fn staged_policies(&self) -> Vec<StagedUse> {
        let engine = self.policy_engine();
        let staged = engine.policies().values().filter(|policy| policy.staged);
        let used = staged.map(|policy| StagedUse {
            policy: policy.origin.clone(),
            endpoints: self
                .endpoints()
                .values()
                .filter(|endpoint| engine.is_about(policy, endpoint.identity))
                .map(|endpoint| endpoint.id)
                .collect(),
            host: self
                .host_subject()
                .is_some_and(|host| engine.is_about(policy, host)),
        });
        used.collect()
    }

    /// Brings what staged policies would do up to date; where there is none, that
    /// costs nothing.
    pub(crate) fn rehearse(&mut self) {
        let changed = std::mem::take(&mut self.rehearsed);
        if !self.engine.policies().values().any(|policy| policy.staged) {
            self.staged_changed |= self.rehearsal.take().is_some();
            return;
        }
        match &mut self.rehearsal {
            Some(rehearsal) => rehearsal.follow(&self.engine, &changed),
            None => self.rehearsal = Some(Rehearsal::new(&self.engine)),
        }
        self.staged_changed = true;
    }

    /// Says that something else may be known of identities.
    pub(crate) fn note_rehearsed(&mut self, ids: impl IntoIterator<Item = Identity>) {
        // Who comes before the first staged policy is known to it from the start.
        if self.rehearsal.is_some() {
            self.rehearsed.extend(ids);
        }
    }

    /// What staged policies would have in force, if that may have changed since
    /// this was asked last.
    pub fn take_staged(&mut self) -> Option<Staged> {
        if !std::mem::take(&mut self.staged_changed) {
            return None;
        }
        let staged = self.rehearsal.as_mut().map(Rehearsal::staged);
        Some(staged.unwrap_or_default())
    }
}
