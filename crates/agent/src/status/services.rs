//! Services: whether all of them are known, in force, and well written.

use axon_api::agent::{PartStatus, State};
use axon_control::ConditionKind;

use super::{bad, few, well};
use crate::engine::View;
use crate::node::Node;

pub(super) fn services(node: &Node, view: &View) -> PartStatus {
    let desired = &node.desired.services;
    let frontends = desired.frontends.snapshot();
    if !frontends.is_complete() {
        return bad(
            State::Warning,
            "not all that services are made of is known yet: those of an earlier agent stay as \
             they are",
            "look at the part sources",
        );
    }
    if let Some(error) = &view.services_error {
        return bad(
            State::Failure,
            format!(
                "numbers of services cannot be written, so no change of them reaches the kernel: {error}"
            ),
            "see that the state-dir can be written and its disk is not full",
        );
    }
    let conditions = view.report.conditions.iter();
    let faults = conditions.filter(|condition| condition.kind == ConditionKind::Fault);
    let faults: Vec<String> = faults.map(|fault| fault.message.clone()).collect();
    if !faults.is_empty() {
        return bad(
            State::Warning,
            few(faults),
            "correct the fields that are named",
        );
    }
    let checks = node.checks.told();
    if !checks.shut.is_empty() {
        return bad(
            State::Warning,
            format!("load balancers cannot ask at: {}", few(checks.shut)),
            "end who listens there, or choose another port; it is tried again by itself",
        );
    }
    let ports = frontends.iter().filter(|(key, _)| key.protocol != 0);
    let told = match checks.ports {
        0 => String::new(),
        ports => format!("; {ports} health-check node ports"),
    };
    well(format!(
        "{} frontends, {} backends in the maps{told}",
        ports.count(),
        desired.backends.snapshot().len()
    ))
}
