//! What the authors of services and slices got wrong, for the operator.

use axon_model::{Fault, ObjectKey};

use crate::controller::Controller;
use crate::seen::View;
use crate::views::{Condition, ConditionKind};

impl Controller {
    /// Brings the conditions of fields that are left out up to date.
    pub(crate) fn follow_faults(&mut self, view: &View) {
        if !view.services.is_changed() && !view.endpoint_slices.is_changed() {
            return;
        }
        let services = view.services.rows.iter();
        let services =
            services.flat_map(|(key, service)| told("Service", key, &service.spec.faults));
        let slices = view.endpoint_slices.rows.iter();
        let slices = slices.flat_map(|(key, slice)| told("EndpointSlice", key, &slice.faults));
        self.faults = services.chain(slices).collect();
    }
}

fn told(kind: &str, object: &ObjectKey, faults: &[Fault]) -> Vec<Condition> {
    let condition = |fault: &Fault| Condition {
        kind: ConditionKind::Fault,
        policies: Vec::new(),
        message: format!(
            "{kind} {object}: {}: {}; it is left out",
            fault.field, fault.reason
        ),
        remedy: "correct the fields that are named".to_owned(),
    };
    faults.iter().map(condition).collect()
}
