//! Policies of a spec.

use axon_api::manifest::{Object, parse};
use axon_model::Rule;

pub(crate) fn text(kind: &str, spec: &str) -> String {
    let (version, namespace) = match kind {
        "NetworkPolicy" => ("networking.k8s.io/v1", "shop"),
        "CiliumNetworkPolicy" => ("cilium.io/v2", "shop"),
        _ => ("cilium.io/v2", "''"),
    };
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\n{spec}\n"
    )
}

pub(crate) fn rules(kind: &str, spec: &str) -> Vec<Rule> {
    let manifest = parse(text(kind, spec).as_bytes()).expect(spec);
    assert_eq!(manifest.refused, [], "{spec}");
    match manifest.documents.into_iter().next().and_then(|d| d.object) {
        Some(Object::Policy(policy)) => policy.rules,
        other => panic!("{spec}: {other:?}"),
    }
}
