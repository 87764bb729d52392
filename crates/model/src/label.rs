//! Labels with a source, as Cilium writes them: `source:key=value`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The sources of labels.
pub mod source {
    /// Kubernetes.
    pub const K8S: &str = "k8s";
    /// Reserved identities.
    pub const RESERVED: &str = "reserved";
    /// Prefixes of addresses.
    pub const CIDR: &str = "cidr";
    /// Groups of prefixes.
    pub const CIDR_GROUP: &str = "cidrgroup";
    /// Node labels.
    pub const NODE: &str = "node";
    /// Names that addresses were given for.
    pub const FQDN: &str = "fqdn";
    /// Given by hand (`axon run --label`).
    pub const UNSPEC: &str = "unspec";
    /// In selectors: whatever the source.
    pub const ANY: &str = "any";

    /// Whether labels of a source tell what only agents find out: who has an
    /// address, which node it is. No workload can have them, whoever says so: it
    /// would be taken for what it is not.
    pub fn is_of_agents(source: &str) -> bool {
        [RESERVED, CIDR, CIDR_GROUP, NODE, FQDN].contains(&source)
    }
}

/// Keys of labels that say where a workload is, in Cilium's words.
pub mod keys {
    /// Its namespace.
    pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Each of its namespace's own labels, after this.
    pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
    /// Its cluster.
    pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
    /// Its service account.
    pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label {
    /// Who says so; see [`source`].
    pub source: String,
    /// The key, without the source.
    pub key: String,
    /// The value; empty for a label without one.
    pub value: String,
}

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no label; expected [source:]key[=value], without blanks and commas")]
pub struct LabelError {
    text: String,
}

impl Label {
    /// A label of the given parts.
    pub fn new(source: &str, key: &str, value: &str) -> Self {
        Self {
            source: source.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    fn cmp_name(&self, source: &str, key: &str) -> Ordering {
        (&*self.source, &*self.key).cmp(&(source, key))
    }
}

impl FromStr for Label {
    type Err = LabelError;

    /// Reads `source:key=value`; without a source it is `unspec`, without `=`
    /// the value is empty.
    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (source, key) = name.split_once(':').unwrap_or((source::UNSPEC, name));
        let strange = |c: char| c.is_whitespace() || c.is_control() || c == ',';
        if key.is_empty() || source.is_empty() || text.contains(strange) {
            return Err(LabelError {
                text: text.to_owned(),
            });
        }
        Ok(Self::new(source, key, value))
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.to_string()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if self.value.is_empty() {
            Ok(())
        } else {
            write!(f, "={}", self.value)
        }
    }
}

/// A set of labels: at most one value for each source and key, in order. There are
/// hundreds of thousands of sets, each of a few: a list takes the least memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<Label>);

impl Labels {
    /// Adds a label, in place of one of the same source and key.
    pub fn insert(&mut self, label: Label) {
        match self.find(&label.source, &label.key) {
            Ok(n) => {
                if let Some(old) = self.0.get_mut(n) {
                    *old = label;
                }
            }
            Err(n) => {
                self.0.reserve_exact(1);
                self.0.insert(n, label);
            }
        }
    }

    /// Where a label is, or would be.
    fn find(&self, source: &str, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|label| label.cmp_name(source, key))
    }

    /// The value of a key of one source.
    pub fn get(&self, source: &str, key: &str) -> Option<&str> {
        if source == source::ANY {
            return self.values_of(key).next();
        }
        let label = self.0.get(self.find(source, key).ok()?)?;
        Some(&label.value)
    }

    /// The values of a key, whatever their source.
    pub fn values_of<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        let labels = self.0.iter().filter(move |label| label.key == key);
        labels.map(|label| label.value.as_str())
    }

    /// Every label as (source, key, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let labels = self.0.iter();
        labels.map(|label| (&*label.source, &*label.key, &*label.value))
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut all: Vec<Label> = labels.into_iter().collect();
        // The sort is stable: of one name the last one counts.
        all.sort_by(|a, b| a.cmp_name(&b.source, &b.key));
        all.reverse();
        all.dedup_by(|a, b| a.cmp_name(&b.source, &b.key).is_eq());
        all.reverse();
        all.shrink_to_fit();
        Self(all)
    }
}

impl Serialize for Labels {
    /// A list of `source:key=value`, in order.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(s, k, v)| Label::new(s, k, v).to_string()))
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Label>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (s, k, v)) in self.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", Label::new(s, k, v))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Label, Labels};

    #[test]
    fn labels_are_read_and_written_alike() {
        for (text, parts) in [
            ("k8s:app=web", ("k8s", "app", "web")),
            ("reserved:host", ("reserved", "host", "")),
            ("app", ("unspec", "app", "")),
            (
                "k8s:io.kubernetes.pod.namespace=a:b=c",
                ("k8s", "io.kubernetes.pod.namespace", "a:b=c"),
            ),
        ] {
            let label: Label = text.parse().expect(text);
            assert_eq!(
                (&*label.source, &*label.key, &*label.value),
                parts,
                "{text}"
            );
        }
        for text in [
            "",
            "=v",
            ":k",
            "k8s:",
            "k8s:=v",
            "bad label",
            "a=b c",
            "a,b",
        ] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let labels: Labels = ["k8s:a=1", "k8s:a=2", "cni:a=3"]
            .iter()
            .map(|t| t.parse().expect("label"))
            .collect();
        assert_eq!(labels.get("k8s", "a"), Some("2"));
        assert_eq!(labels.values_of("a").collect::<Vec<_>>(), ["3", "2"]);
    }

    #[test]
    fn one_by_one_or_at_once_labels_are_the_same() {
        let labels = ["k8s:b=1", "k8s:a=1", "any:b=1", "k8s:b=2", "k8s:a=2"];
        let labels = labels.map(|text| text.parse::<Label>().expect(text));
        let all: Labels = labels.iter().cloned().collect();
        assert_eq!(all.to_string(), "any:b=1,k8s:a=2,k8s:b=2");
        let mut one_by_one = Labels::default();
        labels
            .into_iter()
            .for_each(|label| one_by_one.insert(label));
        assert_eq!(one_by_one, all);
        assert_eq!(
            (all.get("k8s", "b"), all.get("k8s", "c")),
            (Some("2"), None)
        );
    }
}
