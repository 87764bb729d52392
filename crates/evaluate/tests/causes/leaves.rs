//! What a policy says, piece by piece, as policies of one piece each: what such
//! a policy does by itself is what the piece does, whoever tells why.

use serde_json::{Map, Value, json};

/// Fields of a rule that say something.
const FIELDS: [&str; 4] = ["ingress", "ingressDeny", "egress", "egressDeny"];
/// Fields of an item that are about ports.
const PORTS: [&str; 3] = ["toPorts", "icmps", "ports"];

/// A piece of a policy.
pub(crate) struct Leaf {
    /// Which policy's, by index.
    pub(crate) policy: usize,
    /// Its place there.
    pub(crate) path: String,
    /// A policy that says this and nothing else.
    pub(crate) alone: Value,
    /// The same on all ports.
    pub(crate) on_all_ports: Value,
    /// The same for everybody.
    pub(crate) for_everybody: Value,
}

/// The pieces of all policies in fields of this name.
pub(crate) fn leaves(policies: &[Value], field: &str) -> Vec<Leaf> {
    let mut found = Vec::new();
    for (policy, document) in policies.iter().enumerate() {
        for (path, rule) in rules(document) {
            let items = rule.get(field).and_then(Value::as_array);
            for (n, item) in items.into_iter().flatten().enumerate() {
                // Of Cilium's, an item without fields means nobody.
                if item.as_object().is_some_and(Map::is_empty) && !is_kubernetes(document) {
                    continue;
                }
                let path = format!("{path}.{field}[{n}]");
                for (end, item) in parts(item) {
                    let with = |item: Value| one_rule(document, rule, (field, item));
                    found.push(Leaf {
                        policy,
                        path: format!("{path}{end}"),
                        on_all_ports: with(only(&item, |key| !PORTS.contains(&key))),
                        for_everybody: with(for_everybody(document, field, &item)),
                        alone: with(item),
                    });
                }
            }
        }
    }
    found
}

fn rules(document: &Value) -> Vec<(String, &Map<String, Value>)> {
    let spec = document.get("spec").and_then(Value::as_object);
    let specs = document.get("specs").and_then(Value::as_array);
    let specs = specs.into_iter().flatten().enumerate();
    let specs = specs.filter_map(|(n, rule)| Some((format!("specs[{n}]"), rule.as_object()?)));
    let spec = spec.map(|rule| ("spec".to_owned(), rule));
    spec.into_iter().chain(specs).collect()
}

/// An item with one of its ports each, or the item.
fn parts(item: &Value) -> Vec<(String, Value)> {
    for key in PORTS {
        let Some(list) = item.get(key).and_then(Value::as_array) else {
            continue;
        };
        let one = |(n, port): (usize, &Value)| {
            let mut item = item.clone();
            item[key] = json!([port]);
            (format!(".{key}[{n}]"), item)
        };
        if !list.is_empty() {
            return list.iter().enumerate().map(one).collect();
        }
    }
    vec![(String::new(), item.clone())]
}

fn is_kubernetes(document: &Value) -> bool {
    document["kind"] == "NetworkPolicy"
}

fn for_everybody(document: &Value, field: &str, item: &Value) -> Value {
    let mut item = only(item, |key| PORTS.contains(&key));
    if !is_kubernetes(document) {
        let way = if field.starts_with("in") {
            "from"
        } else {
            "to"
        };
        item[format!("{way}Entities")] = json!(["all"]);
    }
    item
}

fn only(item: &Value, meant: impl Fn(&str) -> bool) -> Value {
    let fields = item.as_object().into_iter().flatten();
    let kept = fields.filter(|(key, _)| meant(key));
    Value::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// A document that has this rule alone, which says this alone. What it does not
/// allow is denied if it allows, and let alone if it denies.
fn one_rule(document: &Value, rule: &Map<String, Value>, (field, item): (&str, Value)) -> Value {
    let mut rule = rule.clone();
    rule.retain(|key, _| !FIELDS.contains(&key.as_str()));
    if rule.contains_key("podSelector") {
        let kind = if field == "ingress" {
            "Ingress"
        } else {
            "Egress"
        };
        rule.insert("policyTypes".to_owned(), json!([kind]));
    } else {
        let denies = !field.ends_with("Deny");
        let both = json!({"ingress": denies, "egress": denies});
        rule.insert("enableDefaultDeny".to_owned(), both);
    }
    rule.insert(field.to_owned(), json!([item]));
    json!({
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": document["metadata"],
        "spec": rule,
    })
}
