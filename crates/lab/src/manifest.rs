//! Kubernetes objects as the lab's user wrote them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use axon_api::manifest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::paths::check_name;

/// Kinds without a namespace.
const CLUSTER_SCOPED: [&str; 7] = [
    "Node",
    "Namespace",
    "CiliumNode",
    "CiliumIdentity",
    "CiliumClusterwideNetworkPolicy",
    "ClusterNetworkPolicy",
    "CiliumCIDRGroup",
];

/// Kinds that the lab itself writes, as the cluster's brain.
const OURS: [&str; 3] = ["CiliumNode", "CiliumIdentity", "CiliumEndpoint"];

/// Which object: kind, namespace (empty if it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Id {
    /// Kind.
    pub(crate) kind: String,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl Id {
    /// Name of the file that holds the object.
    pub(crate) fn file_name(&self) -> String {
        let kind = self.kind.to_ascii_lowercase();
        if self.namespace.is_empty() {
            format!("{kind}_{}.yaml", self.name)
        } else {
            format!("{kind}_{}_{}.yaml", self.namespace, self.name)
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Object {
    /// Which.
    pub(crate) id: Id,
    /// The whole of it, with the namespace filled in.
    pub(crate) value: Value,
}

impl Object {
    /// The value at a path of keys.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter()
            .try_fold(&self.value, |value, key| value.get(key))
    }
}

/// Reads every object of files and of the YAML and JSON files of directories,
/// in the order of their names.
///
/// # Errors
/// Names the file and what is wrong in it.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for path in paths {
        for file in files_of(path)? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            let mut found = judge(&text)
                .and_then(|()| parse(&text))
                .with_context(|| file.display().to_string())?;
            objects.append(&mut found);
        }
    }
    Ok(objects)
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let kind = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    if kind.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let file = entry?.path();
        let is_manifest = file
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        let hidden = file
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if is_manifest && !hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} holds no .yaml, .yml or .json file", path.display());
    }
    Ok(files)
}

/// Refuses what the agents would refuse, by their own reader: it tells line and
/// field of the text as it was written.
fn judge(text: &str) -> Result<()> {
    let read = manifest::parse(text.as_bytes())?;
    match read.refused.into_iter().next() {
        Some(refusal) => {
            Err(refusal.error).with_context(|| format!("{} {}", refusal.kind, refusal.key))
        }
        None => Ok(()),
    }
}

/// Reads the documents of a text.
pub(crate) fn parse(text: &str) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for (n, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document)
            .with_context(|| format!("document {} is no YAML", n + 1))?;
        collect(value, &mut objects).with_context(|| format!("document {}", n + 1))?;
    }
    Ok(objects)
}

fn collect(mut value: Value, objects: &mut Vec<Object>) -> Result<()> {
    if value.is_null() {
        return Ok(());
    }
    let kind = text(&value, "/kind").context("kind is missing")?;
    if kind == "List" {
        let items = value.pointer_mut("/items").and_then(Value::as_array_mut);
        for item in items.context("items of the List is no list")?.drain(..) {
            collect(item, objects)?;
        }
        return Ok(());
    }
    if OURS.contains(&kind.as_str()) {
        bail!("kind {kind} is written by the lab itself; take it out");
    }
    let name = text(&value, "/metadata/name")
        .with_context(|| format!("metadata.name of the {kind} is missing"))?;
    check_name(&format!("{kind}: metadata.name:"), &name, 253)?;
    let namespace = if CLUSTER_SCOPED.contains(&kind.as_str()) {
        String::new()
    } else {
        let namespace = text(&value, "/metadata/namespace").unwrap_or_else(|| "default".into());
        check_name(
            &format!("{kind} {name}: metadata.namespace:"),
            &namespace,
            63,
        )?;
        value
            .pointer_mut("/metadata")
            .and_then(Value::as_object_mut)
            .context("metadata is no map")?
            .insert("namespace".into(), namespace.clone().into());
        namespace
    };
    objects.push(Object {
        id: Id {
            kind,
            namespace,
            name,
        },
        value,
    });
    Ok(())
}

/// The text at a JSON pointer, if it is a non-empty text.
pub(crate) fn text(value: &Value, pointer: &str) -> Option<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{judge, parse};

    #[test]
    fn documents_lists_and_namespaces() {
        let text = "
kind: Pod
metadata: {name: a}
---
---
kind: List
items:
- {kind: Node, metadata: {name: n}}
- {kind: Pod, metadata: {name: b, namespace: x}}
";
        let ids: Vec<String> = parse(text)
            .expect("parses")
            .iter()
            .map(|o| o.id.to_string())
            .collect();
        assert_eq!(ids, ["Pod default/a", "Node n", "Pod x/b"]);
    }

    #[test]
    fn what_agents_would_refuse_is_told_by_line_and_field() {
        let policy = "# two lines\n# of comments\nkind: CiliumNetworkPolicy\n\
                      apiVersion: cilium.io/v2\nmetadata: {name: p}\nspec:\n";
        for (rest, expected) in [
            ("  ingres: []\n", "line 7, column 3: spec.ingres"),
            (
                "  endpointSelector: {}\n  ingress: [{fromEntities: [clusterr]}]\n",
                "line 8, column 29: spec.ingress[0].fromEntities[0]",
            ),
            ("  endpointSelector: {\n", "line "),
        ] {
            let text = format!("{policy}{rest}");
            let error = format!("{:#}", judge(&text).expect_err(&text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn errors_name_the_document_and_the_field() {
        for (text, expected) in [
            ("kind: Pod", "metadata.name of the Pod is missing"),
            ("metadata: {name: a}", "kind is missing"),
            ("kind: Pod\nmetadata: {name: ../x}", "metadata.name"),
            (
                "kind: CiliumNode\nmetadata: {name: a}",
                "written by the lab",
            ),
            ("kind: [", "document 1 is no YAML"),
        ] {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
