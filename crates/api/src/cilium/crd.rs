//! The CustomResourceDefinitions of Cilium's policy objects, from the types that
//! read them.
//!
//! ```text
//! types ── schemars ──> JSON schema ── structural() ──> what API servers take
//!                                          └── LIMITS: what the types do not say
//! ```
//!
//! Not wider than what is read: what a schema lets through, reading may still
//! refuse, with better words. Not narrower either, but where Cilium's schemas
//! are (letters of a protocol's name are capitals).

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::cidr_group::CidrGroupSpec;
use super::policy::PolicyRule;
use crate::manifest::ManifestError;

/// A definition: what the object is called, and where it lives.
struct Definition {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    scope: &'static str,
    /// Versions; the first is stored.
    versions: &'static [&'static str],
}

const POLICY: Definition = Definition {
    kind: "CiliumNetworkPolicy",
    plural: "ciliumnetworkpolicies",
    singular: "ciliumnetworkpolicy",
    short_names: &["cnp", "ciliumnp"],
    scope: "Namespaced",
    versions: &["v2"],
};
const CLUSTERWIDE: Definition = Definition {
    kind: "CiliumClusterwideNetworkPolicy",
    plural: "ciliumclusterwidenetworkpolicies",
    singular: "ciliumclusterwidenetworkpolicy",
    short_names: &["ccnp"],
    scope: "Cluster",
    versions: &["v2"],
};
const CIDR_GROUP: Definition = Definition {
    kind: "CiliumCIDRGroup",
    plural: "ciliumcidrgroups",
    singular: "ciliumcidrgroup",
    short_names: &["ccg"],
    scope: "Cluster",
    versions: &["v2", "v2alpha1"],
};

/// What the types do not say of a field, by the end of its path.
const LIMITS: &[(&str, &str)] = &[
    (".matchExpressions[].key", r#"{"minLength": 1}"#),
    (".fromEntities[]", ENTITIES),
    (".toEntities[]", ENTITIES),
    (".fromCIDRSet[].cidr", r#"{"format": "cidr"}"#),
    (".toCIDRSet[].cidr", r#"{"format": "cidr"}"#),
    (".except[]", r#"{"format": "cidr"}"#),
    (".cidrGroupRef", r#"{"minLength": 1, "maxLength": 253}"#),
    (".externalCIDRs[]", r#"{"format": "cidr"}"#),
    (".toPorts[].ports", r#"{"maxItems": 40}"#),
    (
        ".ports[].port",
        r#"{"maxLength": 15, "pattern": "^([0-9]{1,5}|[a-zA-Z0-9-]*[a-zA-Z][a-zA-Z0-9-]*)$"}"#,
    ),
    (".ports[].endPort", r#"{"minimum": 0, "maximum": 65535}"#),
    (
        ".ports[].protocol",
        r#"{"enum": ["TCP", "UDP", "SCTP", "VRRP", "IGMP", "IPIP", "IPV6", "GRE", "ESP",
            "AH", "ANY"]}"#,
    ),
    (".icmps[].fields", r#"{"maxItems": 40}"#),
    (".fields[].family", r#"{"enum": ["IPv4", "IPv6"]}"#),
    (
        ".mode",
        r#"{"enum": ["disabled", "required", "test-always-fail"]}"#,
    ),
    (
        ".mismatch",
        r#"{"enum": ["LOG", "ADD", "DELETE", "REPLACE"]}"#,
    ),
    (".role", r#"{"enum": ["produce", "consume"]}"#),
    (".topic", r#"{"maxLength": 255}"#),
    (".matchName", r#"{"maxLength": 255}"#),
    (".matchPattern", r#"{"maxLength": 255}"#),
    (".serverNames[]", r#"{"minLength": 1, "maxLength": 255}"#),
    (".listener.priority", r#"{"maximum": 100}"#),
    (
        ".envoyConfig.kind",
        r#"{"enum": ["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]}"#,
    ),
    // Read by hand, so the types know nothing of them.
    (
        ".labels",
        r#"{"type": "array", "items": {"x-kubernetes-preserve-unknown-fields": true}}"#,
    ),
    (
        ".log",
        r#"{"type": "object", "properties": {"value": {"type": "string", "maxLength": 32}}}"#,
    ),
];

const ENTITIES: &str = r#"{"enum": ["all", "world", "world-ipv4", "world-ipv6", "cluster", "host",
    "remote-node", "kube-apiserver", "init", "health", "unmanaged", "ingress", "none"]}"#;

/// The definitions of CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and
/// CiliumCIDRGroup, as a cluster takes them.
pub fn crds() -> Vec<Value> {
    let group = json!({"spec": schema::<CidrGroupSpec>()});
    vec![
        definition(&POLICY, &policy()),
        definition(&CLUSTERWIDE, &policy()),
        definition(&CIDR_GROUP, &group),
    ]
}

/// The definitions as YAML documents.
///
/// # Errors
/// A value that YAML cannot hold: there is none.
pub fn crds_yaml() -> Result<String, ManifestError> {
    let mut text = String::new();
    for crd in crds() {
        let document = serde_norway::to_string(&crd)
            .map_err(|error| ManifestError::of_text(format!("cannot be written: {error}")))?;
        text.push_str("---\n");
        text.push_str(&document);
    }
    Ok(text)
}

/// The schema of a policy's `spec`, and of each of its `specs`.
fn schema_of_policy() -> Value {
    let mut rule = schema::<PolicyRule>();
    let one_of = |names: &[&str]| -> Value {
        let required = |name: &&str| json!({"required": [name]});
        names.iter().map(required).collect()
    };
    if let Some(rule) = rule.as_object_mut() {
        rule.insert(
            "oneOf".into(),
            one_of(&["endpointSelector", "nodeSelector"]),
        );
        let said = ["ingress", "ingressDeny", "egress", "egressDeny"];
        rule.insert("anyOf".into(), one_of(&said));
    }
    rule
}

fn policy() -> Value {
    let rule = schema_of_policy();
    json!({
        "spec": rule,
        "specs": {"type": "array", "items": rule, "description": "Further rules."},
        "status": {
            "type": "object",
            "description": "What is told of the policy.",
            "properties": {
                "conditions": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "status"],
                        "properties": {
                            "type": {"type": "string"},
                            "status": {"type": "string"},
                            "reason": {"type": "string"},
                            "message": {"type": "string"},
                            "lastTransitionTime": {"type": "string", "format": "date-time"},
                        },
                    },
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                },
            },
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}

fn definition(definition: &Definition, fields: &Value) -> Value {
    let is_policy = fields.get("status").is_some();
    let mut properties = json!({
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    });
    if let (Some(all), Some(fields)) = (properties.as_object_mut(), fields.as_object()) {
        all.extend(fields.clone());
    }
    let required: &[&str] = if is_policy {
        &["metadata"]
    } else {
        &["metadata", "spec"]
    };
    let version = |(n, name): (usize, &&str)| {
        let mut version = json!({
            "name": name,
            "served": true,
            "storage": n == 0,
            "schema": {"openAPIV3Schema": {
                "type": "object",
                "required": required,
                "properties": properties,
            }},
            "additionalPrinterColumns": [
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ],
        });
        if is_policy {
            version["subresources"] = json!({"status": {}});
            let valid = json!({
                "name": "Valid",
                "type": "string",
                "jsonPath": ".status.conditions[?(@.type=='Valid')].status",
            });
            if let Some(columns) = version["additionalPrinterColumns"].as_array_mut() {
                columns.push(valid);
            }
        }
        version
    };
    let versions: Vec<Value> = definition
        .versions
        .iter()
        .enumerate()
        .map(version)
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.cilium.io", definition.plural)},
        "spec": {
            "group": "cilium.io",
            "scope": definition.scope,
            "names": {
                "kind": definition.kind,
                "listKind": format!("{}List", definition.kind),
                "plural": definition.plural,
                "singular": definition.singular,
                "shortNames": definition.short_names,
                "categories": ["cilium"],
            },
            "versions": versions,
        },
    })
}

/// The structural schema of a type.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    structural(&Value::from(schema), "")
}

/// What Kubernetes calls structural: each field has one type, each object names
/// its fields.
fn structural(schema: &Value, path: &str) -> Value {
    let limits = LIMITS.iter().find(|(end, _)| path.ends_with(end));
    let Some(schema) = schema.as_object() else {
        return with_limits(anything(), limits);
    };
    let variants = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    let variants = variants
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let some: Vec<&Value> = variants.iter().filter(|v| !is_null(v)).collect();
    let mut result = match some.as_slice() {
        [] => typed(schema, path),
        [only] => structural(only, path),
        all => one_of(all),
    };
    if let (Some(result), Some(text)) = (result.as_object_mut(), schema.get("description")) {
        // Markdown's marks and line breaks are of no use to `kubectl explain`.
        let text = text
            .as_str()
            .unwrap_or_default()
            .replace('`', "")
            .replace('\n', " ");
        result.insert("description".into(), text.into());
    }
    with_limits(result, limits)
}

fn typed(schema: &Map<String, Value>, path: &str) -> Value {
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let Some(of_type) = text("type") else {
        return anything();
    };
    let mut result = json!({"type": of_type});
    let Some(map) = result.as_object_mut() else {
        return result;
    };
    if let Some(format) = text("format").filter(|format| ["int32", "int64"].contains(format)) {
        map.insert("format".into(), format.into());
    }
    for name in ["enum", "minimum", "maximum", "required"] {
        if let Some(value) = schema.get(name) {
            map.insert(name.into(), value.clone());
        }
    }
    if let Some(items) = schema.get("items") {
        map.insert("items".into(), structural(items, &format!("{path}[]")));
    }
    if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
        let field = |(name, field): (&String, &Value)| {
            (name.clone(), structural(field, &format!("{path}.{name}")))
        };
        let fields: Map<String, Value> = fields.iter().map(field).collect();
        map.insert("properties".into(), fields.into());
    } else if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
        let values = structural(values, &format!("{path}{{}}"));
        map.insert("additionalProperties".into(), values);
    }
    result
}

/// Words to choose from, or a number or a text.
fn one_of(variants: &[&Value]) -> Value {
    let word = |variant: &&Value| {
        let first = variant.get("enum").and_then(|words| words.get(0));
        variant.get("const").or(first).cloned()
    };
    let words: Option<Vec<Value>> = variants.iter().map(word).collect();
    match words {
        Some(words) => json!({"type": "string", "enum": words}),
        None => json!({"x-kubernetes-int-or-string": true}),
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
        || schema.get("enum") == Some(&json!([null]))
        || schema.get("const") == Some(&Value::Null)
}

fn anything() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true})
}

fn with_limits(mut schema: Value, limits: Option<&(&str, &str)>) -> Value {
    let limits = limits.and_then(|(_, limits)| serde_json::from_str::<Value>(limits).ok());
    let (Some(map), Some(Value::Object(limits))) = (schema.as_object_mut(), limits) else {
        return schema;
    };
    if limits.contains_key("type") {
        map.remove("x-kubernetes-preserve-unknown-fields");
    }
    map.extend(limits);
    schema
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{LIMITS, crds};

    fn paths(schema: &Value, path: &str, found: &mut Vec<String>) {
        found.push(path.to_owned());
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            paths(field, &format!("{path}.{name}"), found);
        }
        if schema.get("items").is_some() {
            paths(&schema["items"], &format!("{path}[]"), found);
        }
    }

    #[test]
    fn every_limit_is_json_and_of_some_field() {
        let mut found = Vec::new();
        for crd in crds() {
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            paths(schema, "", &mut found);
        }
        for (end, limits) in LIMITS {
            assert!(serde_json::from_str::<Value>(limits).is_ok(), "{limits}");
            assert!(found.iter().any(|path| path.ends_with(end)), "{end}");
        }
    }
}
