//! The labels that tell a workload.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::ends::NAMES;

use super::party::Workload;

/// Keys that tell more than others, after those that name a workload.
const TELLING: [&str; 7] = [
    "app.kubernetes.io/component",
    "component",
    "role",
    "tier",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/part-of",
    "version",
];
/// Beginnings of keys that say how a pod came to be: they tell last.
const LAST: [&str; 7] = [
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/",
    "chart",
    "heritage",
    "release",
    "io.cilium.k8s.",
];

/// What pods must have, and must not.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selector {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) without: BTreeSet<String>,
}

impl Selector {
    /// The fewest telling labels by which one is told from the others.
    pub(crate) fn of<'a>(one: &Workload, others: impl Iterator<Item = &'a Workload>) -> Self {
        let mut left: Vec<&Workload> = others.filter(|other| *other != one).collect();
        let mut keys: Vec<&String> = one.labels.keys().collect();
        keys.sort_by_key(|key| (rank(key), key.as_str()));
        let mut selector = Self::default();
        let mut first = keys.first().copied();
        while let Some(key) = first.take().or_else(|| best(&keys, one, &left)) {
            let value = one.labels.get(key);
            left.retain(|other| other.labels.get(key) == value);
            let value = value.cloned().unwrap_or_default();
            selector.labels.insert(key.clone(), value);
        }
        // Those that are left have all its labels, and more.
        while let Some(key) = surplus(one, &left) {
            left.retain(|other| !other.labels.contains_key(&key));
            selector.without.insert(key);
        }
        selector
    }

    /// As Cilium writes it.
    pub(crate) fn value(&self) -> Value {
        let mut value = json!({});
        if !self.labels.is_empty() {
            value["matchLabels"] = json!(self.labels);
        }
        if !self.without.is_empty() {
            let absent = |key: &String| json!({"key": key, "operator": "DoesNotExist"});
            value["matchExpressions"] = self.without.iter().map(absent).collect();
        }
        value
    }
}

fn rank(key: &str) -> usize {
    let all = NAMES.iter().chain(&TELLING);
    let named = all.clone().position(|known| *known == key);
    let last = LAST.iter().any(|start| key.starts_with(start));
    named.unwrap_or(all.count() + usize::from(last))
}

/// The label that most others do not have; nothing if all have all.
fn best<'a>(keys: &[&'a String], one: &Workload, others: &[&Workload]) -> Option<&'a String> {
    let told = |key: &String| {
        let value = one.labels.get(key);
        others
            .iter()
            .filter(|other| other.labels.get(key) != value)
            .count()
    };
    let mut found: Option<(usize, &String)> = None;
    for key in keys {
        let count = told(key);
        if count > found.map_or(0, |(most, _)| most) {
            found = Some((count, key));
        }
    }
    found.map(|(_, key)| key)
}

/// The key that most of the others have, and this one does not.
fn surplus(one: &Workload, others: &[&Workload]) -> Option<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for key in others.iter().flat_map(|other| other.labels.keys()) {
        if !one.labels.contains_key(key) {
            *counts.entry(key).or_default() += 1;
        }
    }
    let most = counts.values().max().copied();
    let found = counts.into_iter().find(|(_, count)| Some(*count) == most);
    found.map(|(key, _)| key.clone())
}
