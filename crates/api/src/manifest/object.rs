//! Objects, as they are found in a text and written to one.

use axon_model::{ObjectKey, PolicyObject};
use serde::Serialize;
use serde_json::Value;

use super::ManifestError;
use crate::{cilium, k8s};

/// An object that somebody here uses.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(k8s::Namespace),
    /// `v1` Node.
    Node(k8s::Node),
    /// `v1` Pod.
    Pod(k8s::Pod),
    /// `v1` Service.
    Service(k8s::Service),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(k8s::EndpointSlice),
    /// NetworkPolicy, ClusterNetworkPolicy, CiliumNetworkPolicy,
    /// CiliumClusterwideNetworkPolicy, converted to rules.
    Policy(PolicyObject),
    /// `cilium.io/v2` CiliumCIDRGroup.
    CiliumCidrGroup(cilium::CiliumCidrGroup),
    /// `cilium.io/v2` CiliumLocalRedirectPolicy.
    CiliumLocalRedirectPolicy(cilium::CiliumLocalRedirectPolicy),
    /// `cilium.io/v2` CiliumNode.
    CiliumNode(cilium::CiliumNode),
    /// `cilium.io/v2` CiliumIdentity.
    CiliumIdentity(cilium::CiliumIdentity),
    /// `cilium.io/v2` CiliumEndpoint.
    CiliumEndpoint(cilium::CiliumEndpoint),
}

/// One document of a text: what it says it is, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Line of its first field, from 1.
    pub line: usize,
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its `kind`.
    pub kind: String,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// The object; nothing for a kind that nobody here uses.
    pub object: Option<Object>,
}

/// An object that is well written but cannot be put in force, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its `kind`.
    pub kind: String,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Why, and where.
    pub error: ManifestError,
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Its documents in order, without the refused ones.
    pub documents: Vec<Document>,
    /// Policies that are refused.
    pub refused: Vec<Refusal>,
    /// Fields that nobody knows, where they are left out and not refused.
    pub unknown: Vec<ManifestError>,
}

/// Writes an object as a YAML document (without the leading `---`).
///
/// # Errors
/// Policies are not written: they are kept as rules, not as they were read.
pub fn to_yaml(object: &Object) -> Result<String, ManifestError> {
    let (api_version, kind, body) = match object {
        Object::Namespace(o) => ("v1", "Namespace", tree(o)?),
        Object::Node(o) => ("v1", "Node", tree(o)?),
        Object::Pod(o) => ("v1", "Pod", tree(o)?),
        Object::Service(o) => ("v1", "Service", tree(o)?),
        Object::EndpointSlice(o) => ("discovery.k8s.io/v1", "EndpointSlice", tree(o)?),
        Object::CiliumCidrGroup(o) => ("cilium.io/v2", "CiliumCIDRGroup", tree(o)?),
        Object::CiliumLocalRedirectPolicy(o) => {
            ("cilium.io/v2", "CiliumLocalRedirectPolicy", tree(o)?)
        }
        Object::CiliumNode(o) => ("cilium.io/v2", "CiliumNode", tree(o)?),
        Object::CiliumIdentity(o) => ("cilium.io/v2", "CiliumIdentity", tree(o)?),
        Object::CiliumEndpoint(o) => ("cilium.io/v2", "CiliumEndpoint", tree(o)?),
        Object::Policy(policy) => {
            return Err(ManifestError::of_text(format!(
                "{} {} cannot be written: it is known by its rules only",
                policy.origin.kind, policy.origin
            )));
        }
    };
    let mut document = serde_json::Map::new();
    document.insert("apiVersion".to_owned(), api_version.into());
    document.insert("kind".to_owned(), kind.into());
    if let Value::Object(body) = body {
        document.extend(body);
    }
    serde_norway::to_string(&document)
        .map_err(|error| ManifestError::of_text(format!("cannot be written: {error}")))
}

fn tree(object: &impl Serialize) -> Result<Value, ManifestError> {
    serde_json::to_value(object)
        .map_err(|error| ManifestError::of_text(format!("cannot be written: {error}")))
}
