//! Definitions of Cilium's objects, beside the types that read them.
#![cfg(feature = "schema")]

use std::collections::BTreeSet;

use axon_api::cilium::crds;
use axon_api::manifest::judge;
use serde_json::{Value, json};

/// Every object of a schema that names its fields, by its path, with them.
fn objects(schema: &Value, path: &str, found: &mut Vec<(String, BTreeSet<String>)>) {
    if let Some(fields) = schema["properties"].as_object() {
        found.push((path.to_owned(), fields.keys().cloned().collect()));
        for (name, field) in fields {
            objects(field, &format!("{path}.{name}"), found);
        }
    }
    if schema.get("items").is_some() {
        objects(&schema["items"], &format!("{path}[]"), found);
    }
}

/// `{"a": [{"b": inner}]}` for `.a[].b`.
fn nested(path: &str, inner: Value) -> Value {
    let around = |inner, step: &str| match step.strip_suffix("[]") {
        Some(name) => json!({name: [inner]}),
        None => json!({step: inner}),
    };
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    steps.into_iter().rev().fold(inner, around)
}

/// The fields that reading expects at a path, as it tells who writes another.
fn read_at(kind: &str, path: &str) -> BTreeSet<String> {
    let mut document = nested(path, json!({"zzz": 1}));
    document["apiVersion"] = "cilium.io/v2".into();
    document["kind"] = kind.into();
    document["metadata"] = json!({"name": "a"});
    let (_, malformed) = judge(document.to_string().as_bytes()).expect("documents");
    let message = &malformed.first().expect(path).message;
    assert!(message.contains("unknown field `zzz`"), "{path}: {message}");
    let expected = message.split("; did you mean").next().unwrap_or_default();
    let quoted = expected.split('`').skip(1).step_by(2);
    quoted.skip(1).map(str::to_owned).collect()
}

#[test]
fn every_field_that_is_read_is_defined_and_the_reverse() {
    let mut checked = 0;
    for crd in crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().expect("kind");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut found = Vec::new();
        objects(schema, "", &mut found);
        for (path, fields) in found {
            // Read by hand, or not read.
            if path.ends_with(".log") || path.starts_with(".status") {
                continue;
            }
            let mut read = read_at(kind, &path);
            if path.is_empty() && kind == "CiliumCIDRGroup" {
                // What is told of one is the same in every object.
                read.remove("status");
            }
            assert_eq!(read, fields, "{kind}{path}");
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

/// What API servers ask of a schema (Kubernetes, "Specifying a structural
/// schema"), and what they would not obey.
#[test]
fn schemas_are_structural() {
    fn check(schema: &Value, path: &str) {
        let map = schema
            .as_object()
            .unwrap_or_else(|| panic!("{path}: {schema}"));
        let typed = map.contains_key("type")
            || map.contains_key("x-kubernetes-int-or-string")
            || map.contains_key("x-kubernetes-preserve-unknown-fields");
        assert!(typed, "{path}: {schema}");
        for refused in [
            "$ref",
            "definitions",
            "nullable",
            "default",
            "title",
            "const",
        ] {
            assert!(!map.contains_key(refused), "{path}: {refused}");
        }
        let both = map.contains_key("properties") && map.contains_key("additionalProperties");
        assert!(!both, "{path}");
        for required in map
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = required.as_str().expect("name");
            assert!(schema["properties"].get(name).is_some(), "{path}.{name}");
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(field, &format!("{path}.{name}"));
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(schema) = map.get(inner) {
                check(schema, &format!("{path}[]"));
            }
        }
    }
    for crd in crds() {
        for version in crd["spec"]["versions"].as_array().expect("versions") {
            check(&version["schema"]["openAPIV3Schema"], "");
        }
    }
}
