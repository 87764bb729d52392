//! Observed tables into the engine of services, and what its numbers stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_model::{DesiredServices, Observed};

use super::{Remembered, ServiceTables};
use crate::controller::Controller;
use crate::seen::ServicesView;
use crate::views::Condition;

/// What a step of services did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesReport {
    /// Whether numbers have changed: they are to be on disk before the rows are in the
    /// kernel.
    pub persist: bool,
    /// What is wrong with services and with what they are made of.
    pub conditions: Vec<Condition>,
    /// When the kernel is to be asked which numbers it knows still
    /// ([`Controller::forget_services`]).
    pub forget_due_ms: Option<u64>,
}

impl Controller {
    /// Looks at what has changed and brings the rows of services up to date.
    pub fn step_services(&mut self, now_ms: u64, observed: &Observed) -> ServicesReport {
        let view = ServicesView::take(observed, &mut self.services_seen);
        let before = self.service_numbers.stamp();
        let engine = &mut self.services;
        for key in view.services.keys(engine.cluster().services.keys()) {
            engine.set_service(&key, view.services.rows.get(&key).map(Arc::clone));
        }
        for key in view.endpoint_slices.keys(engine.cluster().slices.keys()) {
            let slice = view.endpoint_slices.rows.get(&key);
            engine.set_slice(&key, slice.map(Arc::clone));
        }
        for key in view.local_redirects.keys(engine.cluster().redirects.keys()) {
            let redirect = view.local_redirects.rows.get(&key);
            engine.set_redirect(&key, redirect.map(Arc::clone));
        }
        for key in view.pods.keys(engine.cluster().pods.keys()) {
            engine.set_pod(&key, view.pods.rows.get(&key).map(Arc::clone));
        }
        for name in view.nodes.keys(engine.cluster().nodes.keys()) {
            engine.set_node(&name, view.nodes.rows.get(&name).map(Arc::clone));
        }
        if view.is_complete() {
            engine.mark_complete();
        }
        engine.step(now_ms, &mut self.service_numbers);
        ServicesReport {
            persist: self.service_numbers.stamp() != before,
            conditions: self.faults.follow(engine.tables()).to_vec(),
            forget_due_ms: self.service_numbers.forget_due_ms(),
        }
    }

    /// The rows of services that the kernel shall hold; shared, and the same for
    /// the controller's life.
    pub fn desired_services(&self) -> DesiredServices {
        self.services.tables().desired()
    }

    /// All that follows from services.
    pub fn service_tables(&self) -> &ServiceTables {
        self.services.tables()
    }

    /// What ports of services are called, by number: `namespace/name:port`, of
    /// other objects with their kind before it.
    pub fn service_port_names(&self) -> BTreeMap<u32, String> {
        self.service_numbers.port_names()
    }

    /// Forgets numbers of services that nobody has and the kernel does not know. The
    /// disk is told with the next change: that they are gone, the next agent learns
    /// anew.
    pub fn forget_services(&mut self, now_ms: u64, is_in_kernel: impl Fn(Remembered) -> bool) {
        self.service_numbers.forget(now_ms, is_in_kernel);
    }
}
