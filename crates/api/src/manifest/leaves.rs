//! A policy taken apart into the smallest pieces that say something, each with
//! its place: what one of them says, the ordinary reader tells of the document
//! without the others.

use axon_model::{Origin, PolicyObject, RuleEntry};
use serde_json::{Map, Value};

use super::locate::locate;
use super::value::Bounds;
use super::{Manifest, Object, UnknownFields, decode, split, value};

/// Fields that hold what a rule says.
const FIELDS: [&str; 4] = ["ingress", "ingressDeny", "egress", "egressDeny"];
/// Fields of an item that hold protocols and ports.
const PORTS: [&str; 4] = ["toPorts", "icmps", "ports", "protocols"];
/// Values that are looked at for all pieces of a policy together, at most; those
/// pieces that come after are not told apart.
const NODES_MAX: usize = 10_000_000;

/// A piece of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Which of the policy's rules, from 0.
    pub rule: usize,
    /// Its path in the document (`spec.ingress[0].toPorts[1]`).
    pub path: String,
    /// What it says.
    pub entry: RuleEntry,
}

/// A policy and the document that it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyDocument<'a> {
    /// The policy.
    pub policy: PolicyObject,
    /// The line, from 1, on which its document starts.
    pub line: usize,
    /// Its document.
    pub text: &'a str,
}

/// The policies that are documents of their own in a text, in their order;
/// items of lists are not. What cannot be read is left out.
pub fn policy_documents(text: &str) -> Vec<PolicyDocument<'_>> {
    let mut found = Vec::new();
    if text.len() > value::TEXT_BYTES_MAX {
        return found;
    }
    let bounds = Bounds::default();
    for (line, chunk) in split::documents(text) {
        let Ok(Some(tree)) = value::read(chunk, line, &bounds) else {
            continue;
        };
        if tree.get("kind").and_then(Value::as_str) == Some("List") {
            continue;
        }
        found.extend(policy_of(tree, chunk, line).map(|policy| PolicyDocument {
            policy,
            line,
            text: chunk,
        }));
    }
    found
}

/// Takes the document of a policy apart; nothing if it is not that policy's.
pub fn policy_leaves(text: &str, origin: &Origin) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    if text.len() > value::TEXT_BYTES_MAX {
        return leaves;
    }
    let Ok(Some(Value::Object(document))) = value::read(text, 1, &Bounds::default()) else {
        return leaves;
    };
    let spec = document.get("spec").filter(|spec| spec.is_object());
    let specs = document.get("specs").and_then(Value::as_array);
    let specs = specs.into_iter().flatten().enumerate();
    let specs = specs.map(|(n, rule)| (format!("specs[{n}]"), rule));
    let rules = spec.map(|rule| ("spec".to_owned(), rule)).into_iter();
    let head = head(&document);
    let mut budget = NODES_MAX;
    for (rule, (path, tree)) in rules.chain(specs).enumerate() {
        let Value::Object(tree) = tree else {
            return leaves;
        };
        let piece = Piece {
            head: &head,
            bare: bare(tree),
            origin,
        };
        piece.take_apart(tree, (rule, &path), &mut budget, &mut leaves);
    }
    leaves
}

/// What a document says of itself: kind and name.
fn head(document: &Map<String, Value>) -> Map<String, Value> {
    let some = |map: &Map<String, Value>, keys: &[&str]| -> Map<String, Value> {
        let kept = map.iter().filter(|(key, _)| keys.contains(&key.as_str()));
        kept.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let mut head = some(document, &["apiVersion", "kind"]);
    if let Some(Value::Object(metadata)) = document.get("metadata") {
        let metadata = some(metadata, &["name", "namespace"]);
        head.insert("metadata".to_owned(), Value::Object(metadata));
    }
    head
}

/// A rule without what it says.
fn bare(rule: &Map<String, Value>) -> Map<String, Value> {
    let rest = rule
        .iter()
        .filter(|(key, _)| !FIELDS.contains(&key.as_str()) && *key != "description");
    rest.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// How many values a tree holds; the reader has bounded its depth.
fn weight(tree: &Value) -> usize {
    match tree {
        Value::Array(list) => 1 + list.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(weight).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// The line, from 1, of a path in a document that begins on `first_line`; that
/// of the nearest field above it if the document does not have it.
pub fn line_of(text: &str, first_line: usize, path: &str) -> usize {
    match locate(text, first_line, path) {
        (0, _) => first_line,
        (line, _) => line,
    }
}

/// One rule of a document.
struct Piece<'a> {
    /// The document without its rules.
    head: &'a Map<String, Value>,
    /// The rule without what it says.
    bare: Map<String, Value>,
    origin: &'a Origin,
}

impl Piece<'_> {
    /// Takes a rule apart, with its number and path, for as long as the budget
    /// lasts.
    fn take_apart(
        &self,
        rule: &Map<String, Value>,
        (number, path): (usize, &str),
        budget: &mut usize,
        leaves: &mut Vec<Leaf>,
    ) {
        let own = 8 + self.bare.values().map(weight).sum::<usize>();
        for field in FIELDS {
            let items = rule.get(field).and_then(Value::as_array);
            for (n, item) in items.into_iter().flatten().enumerate() {
                let path = format!("{path}.{field}[{n}]");
                for (key, part) in parts(item) {
                    let cost = own + weight(item);
                    let Some(rest) = budget.checked_sub(cost) else {
                        return;
                    };
                    *budget = rest;
                    let leaf = |entry| Leaf {
                        rule: number,
                        path: format!("{path}{key}"),
                        entry,
                    };
                    leaves.extend(self.entries(field, part()).into_iter().map(leaf));
                }
            }
        }
    }

    /// What the rule would say if it had this item alone.
    fn entries(&self, field: &str, item: Value) -> Vec<RuleEntry> {
        let mut rule = self.bare.clone();
        rule.insert(field.to_owned(), Value::Array(vec![item]));
        let mut document = self.head.clone();
        document.insert("spec".to_owned(), Value::Object(rule));
        policy_of(Value::Object(document), "", 1)
            .filter(|policy| policy.origin == *self.origin)
            .into_iter()
            .flat_map(|policy| policy.rules)
            .flat_map(|rule| rule.entries)
            .collect()
    }
}

/// An item with one of its ports or lists of ports at a time, each with the end
/// of its path; the item itself if it has none.
fn parts(item: &Value) -> Vec<(String, Box<dyn Fn() -> Value + '_>)> {
    let mut parts: Vec<(String, Box<dyn Fn() -> Value + '_>)> = Vec::new();
    for key in PORTS {
        let list = item.get(key).and_then(Value::as_array);
        for (n, one) in list.into_iter().flatten().enumerate() {
            let part = move || match item {
                Value::Object(map) => {
                    let others = map.iter().filter(|(other, _)| *other != key);
                    let others = others.map(|(key, value)| (key.clone(), value.clone()));
                    let alone = Value::Array(vec![one.clone()]);
                    others.chain([(key.to_owned(), alone)]).collect()
                }
                other => other.clone(),
            };
            parts.push((format!(".{key}[{n}]"), Box::new(part)));
        }
    }
    if parts.is_empty() {
        parts.push((String::new(), Box::new(|| item.clone())));
    }
    parts
}

fn policy_of(tree: Value, chunk: &str, line: usize) -> Option<PolicyObject> {
    let (mut manifest, mut malformed) = (Manifest::default(), Vec::new());
    let place = decode::Place {
        chunk,
        first_line: line,
        unknown: UnknownFields::Refuse,
    };
    decode::document(tree, place, &mut manifest, &mut malformed);
    match manifest.documents.pop()?.object? {
        Object::Policy(policy) => Some(policy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{line_of, policy_documents, policy_leaves};

    const TEXT: &str = "\
# first
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: one, namespace: a}
spec:
  endpointSelector: {}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: x}
    toPorts:
    - ports: [{port: '80', protocol: TCP}]
    - ports: [{port: '81', protocol: TCP}]
      rules:
        http: [{path: /x}]
  ingressDeny:
  - fromEntities: [world]
specs:
- endpointSelector: {}
  egress:
  - {}
  - icmps: [{fields: [{type: 8, family: IPv4}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: two}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - ports: [{port: 80}, {port: 81}]
  egress:
  - ports: [{port: 80}]
";

    #[test]
    fn pieces_know_their_places() {
        let documents = policy_documents(TEXT);
        let found: Vec<_> = documents
            .iter()
            .map(|document| {
                let origin = &document.policy.origin;
                let leaves = policy_leaves(document.text, origin);
                let places: Vec<_> = leaves
                    .into_iter()
                    .map(|leaf| {
                        let line = line_of(document.text, document.line, &leaf.path);
                        (leaf.rule, leaf.path, line)
                    })
                    .collect();
                (origin.to_string(), document.line, places)
            })
            .collect();
        let place = |rule: usize, path: &str, line: usize| (rule, path.to_owned(), line);
        assert_eq!(
            found,
            [
                (
                    "a/one".to_owned(),
                    5,
                    vec![
                        place(0, "spec.ingress[0].toPorts[0]", 15),
                        place(0, "spec.ingress[0].toPorts[1]", 16),
                        place(0, "spec.ingressDeny[0]", 20),
                        place(1, "specs[0].egress[1].icmps[0]", 25),
                    ]
                ),
                (
                    "default/two".to_owned(),
                    26,
                    vec![
                        place(0, "spec.ingress[0].ports[0]", 34),
                        place(0, "spec.ingress[0].ports[1]", 34),
                    ]
                ),
            ]
        );
    }

    #[test]
    fn pieces_say_together_what_the_policy_says() {
        for document in policy_documents(TEXT) {
            let leaves = policy_leaves(document.text, &document.policy.origin);
            for (n, rule) in document.policy.rules.iter().enumerate() {
                for leaf in leaves.iter().filter(|leaf| leaf.rule == n) {
                    let like = |entry: &&axon_model::RuleEntry| {
                        entry.direction == leaf.entry.direction
                            && entry.action == leaf.entry.action
                            && entry.peers == leaf.entry.peers
                            && entry.l7 == leaf.entry.l7
                            && entry.auth == leaf.entry.auth
                    };
                    assert!(rule.entries.iter().any(|e| like(&e)), "{leaf:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_policy_has_no_pieces() {
        let origin = policy_documents(TEXT)[0].policy.origin.clone();
        for text in ["", "a: [", "[1]", "spec: 1", "spec: {ingress: [1]}"] {
            assert_eq!(policy_leaves(text, &origin), [], "{text}");
        }
        let other = policy_documents(TEXT)[1].text;
        assert_eq!(policy_leaves(other, &origin), [], "another's document");
    }
}
