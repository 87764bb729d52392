//! Label selectors, with Kubernetes' operators and Cilium's label sources.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Labels, source};

/// What a requirement asks of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The key is there with one of these values.
    In(BTreeSet<String>),
    /// The key is absent, or its value is none of these.
    NotIn(BTreeSet<String>),
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// Source of the label; [`source::ANY`] matches every source.
    pub source: String,
    /// The key, without the source.
    pub key: String,
    /// What is asked.
    pub operator: Operator,
}

impl Requirement {
    /// Asks for `key` of `source` to have exactly this value.
    pub fn equals(source: &str, key: &str, value: &str) -> Self {
        Self {
            source: source.to_owned(),
            key: key.to_owned(),
            operator: Operator::In([value.to_owned()].into()),
        }
    }

    /// Asks for `key` of `source` to be there.
    pub fn exists(source: &str, key: &str) -> Self {
        Self {
            source: source.to_owned(),
            key: key.to_owned(),
            operator: Operator::Exists,
        }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let any = self.source == source::ANY;
        let mut values = labels
            .iter()
            .filter(|(s, k, _)| *k == self.key && (any || *s == self.source))
            .map(|(_, _, v)| v);
        match &self.operator {
            Operator::In(wanted) => values.any(|v| wanted.contains(v)),
            Operator::NotIn(unwanted) => !values.any(|v| unwanted.contains(v)),
            Operator::Exists => values.next().is_some(),
            Operator::DoesNotExist => values.next().is_none(),
        }
    }
}

/// A conjunction of requirements; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// A selector of these requirements, in a canonical order.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }

    /// Whether every requirement holds for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether the selector asks for nothing.
    pub fn is_wildcard(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements, in canonical order.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The selector with one requirement more.
    #[must_use]
    pub fn and(&self, requirement: Requirement) -> Self {
        let mut requirements = self.requirements.clone();
        requirements.push(requirement);
        Self::new(requirements)
    }

    /// Whether some requirement names this key, whatever its source.
    pub fn mentions(&self, key: &str) -> bool {
        self.requirements.iter().any(|r| r.key == key)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_wildcard() {
            return f.write_str("{}");
        }
        for (n, r) in self.requirements.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            let name = format_args!("{}:{}", r.source, r.key);
            match &r.operator {
                Operator::In(values) if values.len() == 1 => {
                    write!(
                        f,
                        "{name}={}",
                        values.iter().next().map_or("", String::as_str)
                    )?;
                }
                Operator::In(values) => write!(f, "{name} in ({})", join(values))?,
                Operator::NotIn(values) => write!(f, "{name} notin ({})", join(values))?,
                Operator::Exists => write!(f, "{name}")?,
                Operator::DoesNotExist => write!(f, "!{name}")?,
            }
        }
        Ok(())
    }
}

fn join(values: &BTreeSet<String>) -> String {
    values
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::{Operator, Requirement, Selector};
    use crate::{Label, Labels};

    #[test]
    fn operators_follow_kubernetes() {
        let labels: Labels = ["k8s:app=web", "cni:tier=x"]
            .iter()
            .map(|t| t.parse::<Label>().expect("label"))
            .collect();
        let one = |source: &str, key: &str, operator| {
            Selector::new(vec![Requirement {
                source: source.into(),
                key: key.into(),
                operator,
            }])
        };
        let web = || ["web".to_owned()].into();
        for (name, selector, expected) in [
            ("wildcard", Selector::default(), true),
            ("in", one("k8s", "app", Operator::In(web())), true),
            (
                "in, any source",
                one("any", "app", Operator::In(web())),
                true,
            ),
            (
                "in, other source",
                one("cni", "app", Operator::In(web())),
                false,
            ),
            ("not in", one("k8s", "app", Operator::NotIn(web())), false),
            (
                "not in, absent key",
                one("k8s", "other", Operator::NotIn(web())),
                true,
            ),
            ("exists", one("any", "tier", Operator::Exists), true),
            (
                "does not exist",
                one("k8s", "tier", Operator::DoesNotExist),
                true,
            ),
        ] {
            assert_eq!(selector.matches(&labels), expected, "{name}");
        }
    }
}
