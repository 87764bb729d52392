//! `rules.http`.

use axon_model::{HeaderRule, HeaderValue, HttpRule, Mismatch, Pattern};
use serde::{Deserialize, Serialize};

use super::l7::SecretField;
use crate::manifest::FieldError;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRequest {
    /// Regular expression of its method.
    pub method: String,
    /// Regular expression of its path.
    pub path: String,
    /// Regular expression of its host.
    pub host: String,
    /// Headers: `Name`, or `Name: value`.
    pub headers: Vec<String>,
    /// Headers, and what is done with requests that have others.
    pub header_matches: Vec<HeaderMatch>,
}

/// A header of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HeaderMatch {
    /// `LOG`, `ADD`, `DELETE`, `REPLACE`; empty: the request is refused.
    pub mismatch: String,
    /// Its name.
    pub name: String,
    /// The secret that has its value.
    pub secret: Option<SecretField>,
    /// Its value.
    pub value: String,
}

/// The rule that a request must follow.
///
/// # Errors
/// What Cilium would refuse, by its path.
pub(super) fn http_rule(request: &HttpRequest, path: &str) -> Result<HttpRule, FieldError> {
    let pattern = |text: &str, field: &str| {
        let parsed = (!text.is_empty()).then(|| Pattern::new(text));
        parsed
            .transpose()
            .map_err(|error| FieldError::new(format!("{path}.{field}"), error.to_string()))
    };
    let texts = request.headers.iter().enumerate();
    let texts = texts.map(|(n, text)| header(text, &format!("{path}.headers[{n}]")));
    let matches = request.header_matches.iter().enumerate();
    let matches =
        matches.map(|(n, header)| header_match(header, &format!("{path}.headerMatches[{n}]")));
    Ok(HttpRule {
        method: pattern(&request.method, "method")?,
        path: pattern(&request.path, "path")?,
        host: pattern(&request.host, "host")?,
        headers: texts.chain(matches).collect::<Result<_, _>>()?,
    })
}

/// `Name`, `Name: value` or `Name value`.
fn header(text: &str, path: &str) -> Result<HeaderRule, FieldError> {
    let (name, value) = match text.trim().split_once([':', ' ']) {
        Some((name, value)) => (name, value.trim()),
        None => (text.trim(), ""),
    };
    check_name(name, path)?;
    Ok(HeaderRule {
        name: name.to_owned(),
        value: (!value.is_empty()).then(|| HeaderValue::Text(value.to_owned())),
        mismatch: Mismatch::Refuse,
    })
}

fn header_match(field: &HeaderMatch, path: &str) -> Result<HeaderRule, FieldError> {
    check_name(&field.name, &format!("{path}.name"))?;
    let mismatch = match field.mismatch.as_str() {
        "" => Mismatch::Refuse,
        "LOG" => Mismatch::Log,
        "ADD" => Mismatch::Add,
        "DELETE" => Mismatch::Delete,
        "REPLACE" => Mismatch::Replace,
        other => {
            return Err(FieldError::new(
                format!("{path}.mismatch"),
                format!("{other:?}; expected LOG, ADD, DELETE or REPLACE"),
            ));
        }
    };
    let value = match (&field.secret, field.value.as_str()) {
        (None, "") => None,
        (None, value) => Some(HeaderValue::Text(value.to_owned())),
        (Some(secret), _) if secret.name.is_empty() => {
            return Err(FieldError::new(
                format!("{path}.secret.name"),
                "is missing; expected the name of a secret",
            ));
        }
        (Some(secret), "") => Some(HeaderValue::Secret(secret.to_model())),
        (Some(secret), value) => Some(HeaderValue::SecretOr(secret.to_model(), value.to_owned())),
    };
    Ok(HeaderRule {
        name: field.name.clone(),
        value,
        mismatch,
    })
}

/// A header's name is a token (RFC 9110, section 5.1).
fn check_name(name: &str, path: &str) -> Result<(), FieldError> {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    if !name.is_empty() && name.bytes().all(token) {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!("{name:?} is no name of a header"),
    ))
}
