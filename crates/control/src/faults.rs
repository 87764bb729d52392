//! What is wrong with services and with what they are made of, for the operator.

use crate::services::ServiceTables;
use crate::views::{Condition, ConditionKind};

/// Conditions of fields that are left out.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    conditions: Vec<Condition>,
    /// The revision of the reports that they are made of.
    revision: Option<u64>,
}

impl Faults {
    /// The conditions, up to date.
    pub(crate) fn follow(&mut self, tables: &ServiceTables) -> &[Condition] {
        let reports = tables.reports.snapshot();
        if self.revision.replace(reports.revision()) != Some(reports.revision()) {
            let told = reports.values().map(|report| Condition {
                kind: ConditionKind::Fault,
                policies: Vec::new(),
                message: format!(
                    "{}: {}: {}; it is left out",
                    report.object, report.field, report.reason
                ),
                remedy: "correct the fields that are named".to_owned(),
            });
            self.conditions = told.collect();
        }
        &self.conditions
    }
}
