//! What every object has, and label selectors.

use std::collections::BTreeMap;

use axon_model::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::manifest::FieldError;

/// Letters of an object's name (a DNS subdomain).
const NAME_CHARS_MAX: usize = 253;
/// Letters of a namespace's name (a DNS label), and of a label's value.
const LABEL_CHARS_MAX: usize = 63;

/// What our annotations about policy begin with.
const POLICY_ANNOTATIONS: &str = "policy.axoneme.io/";
/// The annotation of a policy that is evaluated and reported, and not enforced.
pub(crate) const STAGED: &str = "policy.axoneme.io/staged";
/// The annotation of a namespace in which policy is only audited.
pub(crate) const AUDIT: &str = "policy.axoneme.io/audit";

/// An object's `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace; empty for cluster-scoped kinds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its unique id; empty if not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// When it was made; empty if not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub creation_timestamp: String,
    /// When it shall be gone; empty if it shall stay.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deletion_timestamp: String,
}

impl Metadata {
    /// The metadata of an object with a name and nothing else.
    pub fn named(namespace: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..Self::default()
        }
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// Whether an annotation of ours says "true". Whoever mistypes one means
    /// something else than what would be done: that is refused.
    ///
    /// # Errors
    /// A value that is none, or an annotation of ours that is not for this kind.
    pub(crate) fn is_annotated(&self, known: &str) -> Result<bool, FieldError> {
        let mut is = false;
        for (key, value) in &self.annotations {
            if !key.starts_with(POLICY_ANNOTATIONS) {
                continue;
            }
            let wrong = |message: String| {
                let path = format!("metadata.annotations.{key}");
                Err(FieldError::new(path, message))
            };
            is = match value.as_str() {
                _ if key != known => {
                    return wrong(format!("is no annotation of this kind; expected {known}"));
                }
                "true" => true,
                "false" => false,
                other => return wrong(format!("{other:?}; expected \"true\" or \"false\"")),
            };
        }
        Ok(is)
    }

    /// Checks names and labels by Kubernetes' rules.
    ///
    /// # Errors
    /// The first that breaks them.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        check_name(&self.name, "metadata.name")?;
        check_namespace(&self.namespace, "metadata.namespace")?;
        for (key, value) in &self.labels {
            let path = || format!("metadata.labels.{key}");
            if !is_label_key(key) {
                return Err(FieldError::new(
                    path(),
                    format!("{key:?} is no label key; expected name or prefix/name"),
                ));
            }
            check_label_value(value).map_err(|message| FieldError::new(path(), message))?;
        }
        Ok(())
    }
}

/// Checks the name of an object.
///
/// # Errors
/// The value and what was expected.
pub(crate) fn check_name(name: &str, path: &str) -> Result<(), FieldError> {
    if is_dns_name(name, NAME_CHARS_MAX, true) {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!(
            "{name:?}; expected 1 to {NAME_CHARS_MAX} lower-case letters, digits, '-' and '.', \
             with a letter or digit at both ends"
        ),
    ))
}

/// Checks the name of a namespace; an empty one is none.
///
/// # Errors
/// The value and what was expected.
pub fn check_namespace(namespace: &str, path: &str) -> Result<(), FieldError> {
    if namespace.is_empty() || is_dns_name(namespace, LABEL_CHARS_MAX, false) {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!(
            "{namespace:?}; expected 1 to {LABEL_CHARS_MAX} lower-case letters, digits and '-', \
             with a letter or digit at both ends"
        ),
    ))
}

/// Whether a text is a DNS label, or with `dots` several of them.
fn is_dns_name(text: &str, chars_max: usize, dots: bool) -> bool {
    let part = |part: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.bytes().all(|c| inner(c) || c == b'-')
            && part.bytes().next().is_some_and(inner)
            && part.bytes().last().is_some_and(inner)
    };
    text.len() <= chars_max && text.split('.').all(part) && (dots || !text.contains('.'))
}

/// Whether a text can be a label's name or value: letters, digits, `-_.`.
fn is_label_name(text: &str) -> bool {
    text.len() <= LABEL_CHARS_MAX
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        && text
            .bytes()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .last()
            .is_some_and(|c| c.is_ascii_alphanumeric())
}

/// Whether a text is a label's key: `name` or `prefix/name`.
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix, NAME_CHARS_MAX, true) && is_label_name(name),
        None => is_label_name(text),
    }
}

/// Checks a label's value.
///
/// # Errors
/// The value and what was expected.
pub(crate) fn check_label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_name(value) {
        return Ok(());
    }
    Err(format!(
        "{value:?} is no label value; expected at most {LABEL_CHARS_MAX} letters, digits, '-', \
         '_' and '.', with a letter or digit at both ends"
    ))
}

/// Checks a label's key and value.
///
/// # Errors
/// What is wrong, and what was expected.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    if !is_label_key(key) {
        return Err(format!(
            "{key:?} is no label key; expected NAME or PREFIX/NAME"
        ));
    }
    check_label_value(value)
}

/// A selector of labels; without any requirement it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SelectorRequirement {
    /// The label's key.
    pub key: String,
    /// What is asked of it.
    pub operator: SelectorOperator,
    /// The values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SelectorOperator {
    /// It is there with one of the values.
    In,
    /// It is absent or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}
