//! Observed tables into the engine of services, and what its numbers stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_model::DesiredServices;

use super::{Remembered, ServiceTables};
use crate::controller::Controller;
use crate::seen::View;

impl Controller {
    /// Brings the rows of services up to date.
    pub(crate) fn follow_services(&mut self, now_ms: u64, view: &View) {
        let engine = &mut self.services;
        if view.services_are_changed() {
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
        }
        if view.services_are_complete() {
            engine.mark_complete();
        }
        engine.step(now_ms, &mut self.persisted.services);
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
        self.persisted.services.port_names()
    }

    /// Forgets numbers of services that nobody has and the kernel does not know. The
    /// disk is told with the next change: that they are gone, the next agent learns
    /// anew.
    pub fn forget_services(&mut self, now_ms: u64, is_in_kernel: impl Fn(Remembered) -> bool) {
        self.persisted.services.forget(now_ms, is_in_kernel);
    }
}
