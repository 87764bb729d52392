//! What is switched at endpoints while they run, kept over restarts.

use std::sync::Arc;

use axon_api::agent::{EndpointConfig, EndpointConfigStatus, POLICY_AUDIT_MODE};

use super::{Record, disk, readable};
use crate::node::Node;
use crate::problem::Refusal;
use crate::store::{HOST_AUDIT, Store, StoreError};

const ENABLED: &str = "Enabled";
const DISABLED: &str = "Disabled";

/// Whether policy of the node itself is only audited, as it was switched last.
pub(crate) fn host_audit(store: &Store) -> Result<bool, StoreError> {
    Ok(readable(store.read::<bool>(HOST_AUDIT))?.unwrap_or(false))
}

/// What is switched.
pub(crate) fn shown(audit: bool) -> EndpointConfigStatus {
    let word = if audit { ENABLED } else { DISABLED };
    let options = [(POLICY_AUDIT_MODE.to_owned(), word.to_owned())];
    EndpointConfigStatus {
        realized: EndpointConfig {
            options: options.into(),
        },
    }
}

/// Reads what is to be switched; `None` if nothing is.
pub(crate) fn asked(config: &EndpointConfig) -> Result<Option<bool>, Refusal> {
    let mut audit = None;
    for (option, value) in &config.options {
        if option != POLICY_AUDIT_MODE {
            return Err(Refusal::request(
                format!("options.{option} is no option of an endpoint"),
                format!("there is {POLICY_AUDIT_MODE}"),
            ));
        }
        audit = Some(match value.to_ascii_lowercase().as_str() {
            "enabled" | "enable" | "true" | "on" | "1" => true,
            "disabled" | "disable" | "false" | "off" | "0" => false,
            _ => {
                return Err(Refusal::request(
                    format!("options.{option}: {value:?}; expected {ENABLED} or {DISABLED}"),
                    format!("set it to {ENABLED} or {DISABLED}"),
                ));
            }
        });
    }
    Ok(audit)
}

/// Switches an endpoint; on disk before it is in force.
pub(crate) fn set_audit(node: &Node, id: u16, audit: bool) -> Result<Option<Record>, Refusal> {
    let records = &node.endpoints.records;
    let change = |record: &mut Record| record.endpoint.audit = audit;
    let changed = records.update(&node.store, id, change);
    let changed = changed.map_err(|error| disk(&error))?;
    node.observed.endpoints.write(|txn| {
        let known = txn.get(&id).map(|known| (**known).clone());
        if let (Some(mut endpoint), Some(_)) = (known, &changed) {
            endpoint.audit = audit;
            txn.insert(id, endpoint);
        }
    });
    Ok(changed)
}

/// Switches the node itself; likewise.
pub(crate) fn set_host_audit(node: &Arc<Node>, audit: bool) -> Result<(), Refusal> {
    let written = node.store.write(HOST_AUDIT, &audit);
    written.map_err(|error| disk(&error))?;
    node.engine
        .tell(move |controller| controller.set_host_audit(audit));
    Ok(())
}

#[cfg(test)]
mod tests {
    use axon_api::agent::EndpointConfig;

    use super::asked;

    #[test]
    fn options_are_read_by_ciliums_names() {
        for (option, value, expected) in [
            ("PolicyAuditMode", "Enabled", Ok(Some(true))),
            ("PolicyAuditMode", "disabled", Ok(Some(false))),
            ("PolicyAuditMode", "true", Ok(Some(true))),
            ("PolicyAuditMode", "", Err("options.PolicyAuditMode: \"\"")),
            (
                "PolicyAuditMode",
                "yes",
                Err("expected Enabled or Disabled"),
            ),
            ("Debug", "Enabled", Err("options.Debug is no option")),
        ] {
            let options = [(option.to_owned(), value.to_owned())].into();
            match (asked(&EndpointConfig { options }), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{value}"),
                (Err(refusal), Err(text)) => {
                    assert!(refusal.problem.error.contains(text), "{refusal}");
                }
                (found, _) => panic!("{option}={value}: {found:?}"),
            }
        }
        assert_eq!(asked(&EndpointConfig::default()).expect("nothing"), None);
    }
}
