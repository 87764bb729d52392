//! What is wrong with services and with what they are made of, for the operator.

use crate::controller::Controller;
use crate::views::{Condition, ConditionKind};

impl Controller {
    /// Brings the conditions of fields that are left out up to date.
    pub(crate) fn follow_faults(&mut self) {
        let reports = self.services.tables().reports.snapshot();
        if self.faults_revision.replace(reports.revision()) == Some(reports.revision()) {
            return;
        }
        let told = reports.values().map(|report| Condition {
            kind: ConditionKind::Fault,
            policies: Vec::new(),
            message: format!(
                "{}: {}: {}; it is left out",
                report.object, report.field, report.reason
            ),
            remedy: "correct the fields that are named".to_owned(),
        });
        self.faults = told.collect();
    }
}
