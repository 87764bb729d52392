//! What policies of every format are made of: selectors of labels, addresses,
//! protocols.

use std::net::IpAddr;

pub(crate) use axon_model::keys::{NAMESPACE, NAMESPACE_LABELS};
use axon_model::{Operator, Protocol, Requirement};
use ipnet::IpNet;

use crate::k8s::{LabelSelector, SelectorOperator, check_label_value};
use crate::manifest::FieldError;

/// The requirements of a selector; `name` splits a key into source and key.
///
/// # Errors
/// What Kubernetes would refuse, by its path.
pub(crate) fn requirements(
    selector: &LabelSelector,
    path: &str,
    name: impl Fn(&str) -> Result<(String, String), String>,
) -> Result<Vec<Requirement>, FieldError> {
    let mut list = Vec::new();
    for (key, value) in &selector.match_labels {
        let at = |message| FieldError::new(format!("{path}.matchLabels.{key}"), message);
        let (source, key) = name(key).map_err(at)?;
        check_label_value(value).map_err(at)?;
        list.push(Requirement::equals(&source, &key, value));
    }
    for (n, expression) in selector.match_expressions.iter().enumerate() {
        let at = |field: &str, message: String| {
            FieldError::new(format!("{path}.matchExpressions[{n}].{field}"), message)
        };
        let (source, key) = name(&expression.key).map_err(|message| at("key", message))?;
        for (m, value) in expression.values.iter().enumerate() {
            check_label_value(value).map_err(|message| at(&format!("values[{m}]"), message))?;
        }
        let values = || expression.values.iter().cloned().collect();
        let none = expression.values.is_empty();
        let operator = match expression.operator {
            SelectorOperator::In if !none => Operator::In(values()),
            SelectorOperator::NotIn if !none => Operator::NotIn(values()),
            SelectorOperator::Exists if none => Operator::Exists,
            SelectorOperator::DoesNotExist if none => Operator::DoesNotExist,
            SelectorOperator::In | SelectorOperator::NotIn => {
                return Err(at(
                    "values",
                    format!("is empty; {:?} needs at least one", expression.operator),
                ));
            }
            SelectorOperator::Exists | SelectorOperator::DoesNotExist => {
                return Err(at(
                    "values",
                    format!(
                        "{:?}; {:?} takes none",
                        expression.values, expression.operator
                    ),
                ));
            }
        };
        list.push(Requirement {
            source,
            key,
            operator,
        });
    }
    Ok(list)
}

/// A prefix (`address/length`), its host bits cleared.
///
/// # Errors
/// A text that is none.
pub(crate) fn prefix(text: &str, path: &str) -> Result<IpNet, FieldError> {
    text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| {
        FieldError::new(
            path,
            format!("{text:?} is no prefix; expected address/length as 10.0.0.0/8 or fd00::/64"),
        )
    })
}

/// A prefix, or an address that stands for the prefix of itself.
///
/// # Errors
/// A text that is neither.
pub(crate) fn prefix_or_address(text: &str, path: &str) -> Result<IpNet, FieldError> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => prefix(text, path),
    }
}

/// An address.
///
/// # Errors
/// A text that is none.
pub(crate) fn address(text: &str, path: &str) -> Result<IpAddr, FieldError> {
    text.parse().map_err(|_| {
        FieldError::new(
            path,
            format!("{text:?} is no address; expected one as 10.0.0.1 or fd00::1"),
        )
    })
}

/// A transport protocol; TCP if the text is empty.
///
/// # Errors
/// Any other text.
pub(crate) fn transport(text: &str, path: &str) -> Result<Protocol, FieldError> {
    match text {
        "" | "TCP" => Ok(Protocol::TCP),
        "UDP" => Ok(Protocol::UDP),
        "SCTP" => Ok(Protocol::SCTP),
        other => Err(FieldError::new(
            path,
            format!("{other:?}; expected TCP, UDP or SCTP"),
        )),
    }
}

/// Whether a text is the name of a port (IANA's rules): at most 15 letters,
/// digits and single inner hyphens, with a letter among them.
pub(crate) fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && text.bytes().any(|c| c.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
