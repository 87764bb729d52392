//! The slow, obvious way from rules and identities to policy sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_abi::Identity;
use axon_model::PolicyRows;

use crate::{Numbers, PolicyConfig, World};

/// A policy set version, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Its number, never 0: the key of its rows.
    pub number: u32,
    /// What the kernel shall hold of it.
    pub rows: PolicyRows,
    /// Numbers of the rules that make it, in order.
    pub rules: Vec<u32>,
}

/// Which set each subject has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Number of the set of each subject's identity.
    pub subjects: BTreeMap<Identity, u32>,
    /// The sets by number.
    pub sets: BTreeMap<u32, Arc<PolicySet>>,
}

/// Resolves everything from nothing.
pub fn resolve(config: &PolicyConfig, world: &World, numbers: &mut Numbers) -> Resolution {
    let _ = (config, world, numbers);
    Resolution::default()
}
