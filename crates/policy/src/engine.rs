//! The incremental twin of [`crate::resolve`].

use axon_abi::Identity;
use axon_model::{Origin, PolicyObject};
use std::collections::BTreeSet;

use crate::{IdentityInfo, Numbers, PolicyConfig, Resolution};

/// Keeps policy sets resolved while identities and policies come and go:
/// always what [`crate::resolve`] would say of the same world.
#[derive(Debug)]
pub struct Engine {
    config: PolicyConfig,
    resolution: Resolution,
}

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
    /// An engine over an empty world.
    pub fn new(config: PolicyConfig) -> Self {
        Self {
            config,
            resolution: Resolution::default(),
        }
    }

    /// Puts an identity in place, or what is known of it now. Says whether
    /// that is news.
    pub fn upsert_identity(&mut self, id: Identity, info: IdentityInfo) -> bool {
        let _ = (id, info, &self.config);
        false
    }

    /// Forgets an identity.
    pub fn remove_identity(&mut self, id: Identity) -> bool {
        let _ = id;
        false
    }

    /// Puts a policy in place.
    pub fn upsert_policy(&mut self, policy: PolicyObject) -> bool {
        let _ = policy;
        false
    }

    /// Forgets a policy.
    pub fn remove_policy(&mut self, origin: &Origin) -> bool {
        let _ = origin;
        false
    }

    /// Says which identities need a set: those of this node's endpoints.
    pub fn set_subjects(&mut self, subjects: BTreeSet<Identity>) -> bool {
        let _ = subjects;
        false
    }

    /// Brings the sets up to date with the world and shows them.
    pub fn resolution(&mut self, numbers: &mut Numbers) -> &Resolution {
        let _ = numbers;
        &self.resolution
    }

    /// The selectors in use and whom they select.
    pub fn selectors(&self) -> Vec<SelectorUse> {
        Vec::new()
    }
}
