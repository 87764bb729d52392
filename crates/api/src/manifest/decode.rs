//! From a document's tree to its object.

use axon_model::{ObjectKey, PolicyKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::kinds::{Scope, group, mistaken, scope};
use super::locate::locate;
use super::near::suggest;
use super::{Document, FieldError, Manifest, ManifestError, Object, Refusal, UnknownFields};
use crate::{cilium, k8s, tree};

/// Fields that are left out of an object because nobody knows them, at most.
const UNKNOWN_MAX: usize = 100;

/// Why an object was not taken.
enum Problem {
    /// Its form is wrong.
    Form(FieldError),
    /// Its form is right, its content cannot be put in force.
    Refused(FieldError),
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::Form(error)
    }
}

/// What a document says it is.
struct Head {
    api_version: String,
    kind: String,
    metadata: k8s::Metadata,
}

/// Where a document is, and how it is read.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its text.
    pub(super) chunk: &'a str,
    /// Line of its text in the whole.
    pub(super) first_line: usize,
    /// What becomes of fields that nobody knows.
    pub(super) unknown: UnknownFields,
}

impl Place<'_> {
    fn line_of(&self, path: &str) -> (usize, usize) {
        locate(self.chunk, self.first_line, path)
    }
}

/// Adds what a document holds to the manifest, or to what is malformed.
pub(super) fn document(
    tree: Value,
    place: Place<'_>,
    manifest: &mut Manifest,
    malformed: &mut Vec<ManifestError>,
) {
    match tree {
        Value::Object(mut map)
            if map.get("kind").and_then(Value::as_str) == Some("List")
                && map.get("apiVersion").and_then(Value::as_str) == Some("v1") =>
        {
            let items = match map.remove("items") {
                None => Vec::new(),
                Some(Value::Array(items)) => items,
                Some(other) => {
                    let error = FieldError::new("items", format!("{other} is no list"));
                    malformed.push(at(error, "", place));
                    return;
                }
            };
            for (n, item) in items.into_iter().enumerate() {
                malformed.extend(object(item, &format!("items[{n}]"), place, manifest).err());
            }
        }
        tree => malformed.extend(object(tree, "", place, manifest).err()),
    }
}

fn object(
    tree: Value,
    prefix: &str,
    place: Place<'_>,
    manifest: &mut Manifest,
) -> Result<(), ManifestError> {
    let head = head(&tree).map_err(|error| at(error, prefix, place))?;
    let key = head.metadata.key();
    let decoded = match place.unknown {
        UnknownFields::Refuse => decode(&head, tree),
        UnknownFields::Warn => {
            let (decoded, unknown) = without_unknown(&head, tree);
            let unknown = unknown.into_iter().map(|error| at(error, prefix, place));
            manifest.unknown.extend(unknown);
            decoded
        }
    };
    match decoded {
        Ok(object) => manifest.documents.push(Document {
            line: place.line_of(prefix).0,
            api_version: head.api_version,
            kind: head.kind,
            key,
            object,
        }),
        Err(Problem::Form(error)) => return Err(at(error, prefix, place)),
        Err(Problem::Refused(error)) => manifest.refused.push(Refusal {
            kind: head.kind,
            key,
            error: at(error, prefix, place),
        }),
    }
    Ok(())
}

/// Reads an object without the fields that nobody knows, and tells them.
fn without_unknown(
    head: &Head,
    mut tree: Value,
) -> (Result<Option<Object>, Problem>, Vec<FieldError>) {
    let mut unknown = Vec::new();
    loop {
        match decode(head, tree.clone()) {
            Err(Problem::Form(error))
                if unknown.len() < UNKNOWN_MAX && remove(&mut tree, &error) =>
            {
                unknown.push(error);
            }
            decoded => return (decoded, unknown),
        }
    }
}

/// Takes the field out of which an error says that nobody knows it.
fn remove(tree: &mut Value, error: &FieldError) -> bool {
    let name = error.message.strip_prefix("unknown field `");
    let Some((name, _)) = name.and_then(|rest| rest.split_once('`')) else {
        return false;
    };
    let path = error.path.strip_suffix(name).unwrap_or(&error.path);
    let mut inside = tree;
    for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        let next = match inside {
            Value::Object(map) => map.get_mut(step),
            Value::Array(list) => step.parse().ok().and_then(|n: usize| list.get_mut(n)),
            _ => None,
        };
        match next {
            Some(next) => inside = next,
            None => return false,
        }
    }
    inside
        .as_object_mut()
        .is_some_and(|map| map.remove(name).is_some())
}

/// The error with its place in the text.
fn at(error: FieldError, prefix: &str, place: Place<'_>) -> ManifestError {
    let path = match (prefix, error.path.as_str()) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    };
    let (line, column) = place.line_of(&path);
    ManifestError {
        line,
        column,
        path,
        message: error.message,
    }
}

fn head(tree: &Value) -> Result<Head, FieldError> {
    let Value::Object(map) = tree else {
        return Err(FieldError::new(
            "",
            format!(
                "{} is no object; expected a map with apiVersion and kind",
                short(tree)
            ),
        ));
    };
    let text = |field: &str| match map.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        None => Err(FieldError::new(field, "is missing")),
        Some(other) => Err(FieldError::new(
            field,
            format!("{} is no name", short(other)),
        )),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let metadata = map.get("metadata").cloned().unwrap_or_default();
    let mut metadata: k8s::Metadata = match metadata {
        Value::Null => k8s::Metadata::default(),
        // A kind that nobody here uses may have what it likes.
        tree if scope(&api_version, &kind) == Scope::Unknown => from_tree(tree).unwrap_or_default(),
        tree => from_tree(tree).map_err(|error| below("metadata", error))?,
    };
    match scope(&api_version, &kind) {
        Scope::Namespaced if metadata.namespace.is_empty() => {
            "default".clone_into(&mut metadata.namespace);
        }
        Scope::Cluster => metadata.namespace.clear(),
        Scope::Namespaced | Scope::Unknown => {}
    }
    if scope(&api_version, &kind) != Scope::Unknown {
        metadata.check()?;
    }
    Ok(Head {
        api_version,
        kind,
        metadata,
    })
}

fn decode(head: &Head, tree: Value) -> Result<Option<Object>, Problem> {
    let version = match (
        group(&head.api_version),
        scope(&head.api_version, &head.kind),
    ) {
        (_, Scope::Unknown) => {
            return match mistaken(&head.api_version, &head.kind) {
                Some(error) => Err(Problem::Form(error)),
                None => Ok(None),
            };
        }
        ("cilium.io", _) => "cilium.io/v2",
        ("discovery.k8s.io", _) => "discovery.k8s.io/v1",
        ("networking.k8s.io" | "extensions", _) => "networking.k8s.io/v1",
        ("policy.networking.k8s.io", _) => "policy.networking.k8s.io/v1alpha2",
        _ => "v1",
    };
    // The kind has been beta in the memory of clusters that are in use.
    let older = ("CiliumCIDRGroup", "cilium.io/v2alpha1");
    if head.api_version != version && (head.kind.as_str(), head.api_version.as_str()) != older {
        // Ignoring a policy because it is old would open what it closes.
        return Err(Problem::Form(FieldError::new(
            "apiVersion",
            format!(
                "{:?} of {}; expected {version:?}",
                head.api_version, head.kind
            ),
        )));
    }
    let metadata = &head.metadata;
    Ok(Some(match head.kind.as_str() {
        "Namespace" => {
            metadata
                .is_annotated(k8s::AUDIT)
                .map_err(Problem::Refused)?;
            Object::Namespace(k8s::Namespace {
                metadata: metadata.clone(),
            })
        }
        "Node" => {
            let mut node: k8s::Node = from_tree(tree)?;
            node.metadata.clone_from(metadata);
            node.to_model()?;
            Object::Node(node)
        }
        "Pod" => {
            let mut pod: k8s::Pod = from_tree(tree)?;
            pod.metadata.clone_from(metadata);
            pod.to_model()?;
            Object::Pod(pod)
        }
        "Service" => {
            let mut service: k8s::Service = from_tree(tree)?;
            service.metadata.clone_from(metadata);
            Object::Service(service)
        }
        "EndpointSlice" => {
            let mut slice: k8s::EndpointSlice = from_tree(tree)?;
            slice.metadata.clone_from(metadata);
            Object::EndpointSlice(slice)
        }
        "CiliumCIDRGroup" => {
            let mut group: cilium::CiliumCidrGroup = from_tree(tree)?;
            group.metadata.clone_from(metadata);
            version.clone_into(&mut group.api_version);
            group.to_model()?;
            Object::CiliumCidrGroup(group)
        }
        "CiliumLocalRedirectPolicy" => {
            let mut policy: cilium::CiliumLocalRedirectPolicy = from_tree(tree)?;
            policy.metadata.clone_from(metadata);
            policy.to_model()?;
            Object::CiliumLocalRedirectPolicy(policy)
        }
        "CiliumNode" => {
            let mut node: cilium::CiliumNode = from_tree(tree)?;
            node.metadata.clone_from(metadata);
            node.to_model()?;
            Object::CiliumNode(node)
        }
        "CiliumIdentity" => {
            let mut identity: cilium::CiliumIdentity = from_tree(tree)?;
            identity.metadata.clone_from(metadata);
            identity.to_model()?;
            Object::CiliumIdentity(identity)
        }
        "CiliumEndpoint" => {
            let mut endpoint: cilium::CiliumEndpoint = from_tree(tree)?;
            endpoint.metadata.clone_from(metadata);
            endpoint.to_model()?;
            Object::CiliumEndpoint(endpoint)
        }
        kind => Object::Policy(policy(kind, metadata, tree)?),
    }))
}

fn policy(
    kind: &str,
    metadata: &k8s::Metadata,
    tree: Value,
) -> Result<axon_model::PolicyObject, Problem> {
    let (kind, rules) = match kind {
        "NetworkPolicy" => {
            let policy: k8s::NetworkPolicy = from_tree(tree)?;
            let rules = policy.spec.to_model(metadata);
            (PolicyKind::NetworkPolicy, rules)
        }
        "ClusterNetworkPolicy" => {
            let policy: k8s::ClusterNetworkPolicy = from_tree(tree)?;
            (PolicyKind::ClusterNetworkPolicy, policy.spec.to_model())
        }
        kind => {
            let policy: cilium::CiliumNetworkPolicy = from_tree(tree)?;
            let rules = policy.to_model(&metadata.namespace);
            let kind = match kind {
                "CiliumNetworkPolicy" => PolicyKind::CiliumNetworkPolicy,
                _ => PolicyKind::CiliumClusterwideNetworkPolicy,
            };
            (kind, rules)
        }
    };
    let staged = metadata
        .is_annotated(k8s::STAGED)
        .map_err(Problem::Refused)?;
    let ObjectKey { namespace, name } = metadata.key();
    Ok(axon_model::PolicyObject {
        origin: axon_model::Origin {
            kind,
            namespace,
            name,
        },
        uid: metadata.uid.clone(),
        staged,
        rules: rules.map_err(Problem::Refused)?,
    })
}

fn from_tree<T: DeserializeOwned>(tree: Value) -> Result<T, FieldError> {
    tree::from_tree(tree).map_err(|error| FieldError::new(error.path, suggest(&error.message)))
}

fn below(prefix: &str, error: FieldError) -> FieldError {
    let path = match error.path.as_str() {
        "" => prefix.to_owned(),
        path => format!("{prefix}.{path}"),
    };
    FieldError::new(path, error.message)
}

/// A value, cut to what a line can hold.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
