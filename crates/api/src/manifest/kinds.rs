//! Which kinds are read, and which are most likely one of these misspelt.

use super::FieldError;
use super::near::distance;

/// Where objects of a kind live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
    /// Nobody here knows.
    Unknown,
}

/// Where objects of a kind live.
pub(super) fn scope(api_version: &str, kind: &str) -> Scope {
    match (group(api_version), kind) {
        ("", "Pod" | "Service")
        | ("discovery.k8s.io", "EndpointSlice")
        | ("networking.k8s.io" | "extensions", "NetworkPolicy")
        | ("cilium.io", "CiliumNetworkPolicy" | "CiliumEndpoint" | "CiliumLocalRedirectPolicy") => {
            Scope::Namespaced
        }
        ("", "Namespace" | "Node")
        | (
            "cilium.io",
            "CiliumCIDRGroup" | "CiliumClusterwideNetworkPolicy" | "CiliumNode" | "CiliumIdentity",
        )
        | ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Scope::Cluster,
        _ => Scope::Unknown,
    }
}

/// The group of an `apiVersion`; that of the core has no name.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Letters in which a misspelt kind differs, at most. Kinds of Cilium that nobody
/// here reads differ in more.
const LETTERS_MAX: usize = 2;

/// The groups that policies are of: their `apiVersion`, and their kinds.
const GROUPS: [(&str, &[&str]); 3] = [
    (
        "cilium.io/v2",
        &[
            "CiliumNetworkPolicy",
            "CiliumClusterwideNetworkPolicy",
            "CiliumCIDRGroup",
            "CiliumNode",
            "CiliumIdentity",
            "CiliumEndpoint",
            "CiliumLocalRedirectPolicy",
        ],
    ),
    ("networking.k8s.io/v1", &["NetworkPolicy"]),
    (
        "policy.networking.k8s.io/v1alpha2",
        &["ClusterNetworkPolicy"],
    ),
];

/// What is wrong with an object of a kind that nobody knows, if it is a policy
/// most likely: whoever wrote it believes in it.
pub(super) fn mistaken(api_version: &str, kind: &str) -> Option<FieldError> {
    let wrong_version = |version: &str| {
        FieldError::new(
            "apiVersion",
            format!("{api_version:?} of {kind}; expected {version:?}"),
        )
    };
    for (version, kinds) in GROUPS {
        let own = group(version);
        let no_version = !api_version.contains('/') && api_version.starts_with(own);
        let is_close = distance(group(api_version), own) <= LETTERS_MAX;
        let is_cilium = kind.starts_with("Cilium") && kind.ends_with("NetworkPolicy");
        if no_version || kinds.contains(&kind) && (is_close || is_cilium) {
            return Some(wrong_version(version));
        }
    }
    let (_, kinds) = GROUPS
        .iter()
        .find(|(version, _)| group(version) == group(api_version))?;
    let unknown = |meant: String| FieldError::new("kind", format!("{kind:?} is no kind; {meant}"));
    if let Some(of) = kinds
        .iter()
        .find(|known| kind.strip_suffix("List") == Some(known))
    {
        let message = format!("{kind:?}; expected the {of}s, or a List of apiVersion \"v1\"");
        return Some(FieldError::new("kind", message));
    }
    let near = kinds.iter().map(|known| (distance(kind, known), *known));
    match near.min() {
        Some((letters, known)) if letters <= LETTERS_MAX => {
            Some(unknown(format!("did you mean {known:?}?")))
        }
        // Of this group nothing but policies is known: others would be closed by
        // nobody.
        Some((_, known)) if group(api_version) == "policy.networking.k8s.io" => {
            Some(unknown(format!("expected {known:?}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::mistaken;

    #[test]
    fn a_policy_that_is_misspelt_is_told() {
        for (api_version, kind, expected) in [
            (
                "cilium.io/v2",
                "CiliumNetworkPolcy",
                "did you mean \"CiliumNetworkPolicy\"?",
            ),
            (
                "cilium.io/v2",
                "ciliumnetworkpolicy",
                "did you mean \"CiliumNetworkPolicy\"?",
            ),
            (
                "cilium.io",
                "CiliumNetworkPolicy",
                "expected \"cilium.io/v2\"",
            ),
            (
                "cilium.io.v2",
                "CiliumNetworkPolicy",
                "expected \"cilium.io/v2\"",
            ),
            ("v2", "CiliumNetworkPolicy", "expected \"cilium.io/v2\""),
            (
                "celium.io/v2",
                "CiliumCIDRGroup",
                "expected \"cilium.io/v2\"",
            ),
            ("cilium.io/v2", "CiliumNetworkPolicyList", "List"),
            (
                "networking.k8s.io",
                "NetworkPolicy",
                "expected \"networking.k8s.io/v1\"",
            ),
            (
                "networking.k8s.io/v1",
                "NetworkPolicys",
                "did you mean \"NetworkPolicy\"?",
            ),
            (
                "policy.networking.k8s.io/v1alpha1",
                "AdminNetworkPolicy",
                "expected \"ClusterNetworkPolicy\"",
            ),
        ] {
            let told = mistaken(api_version, kind).map(|error| error.message);
            let told = told.unwrap_or_default();
            assert!(told.contains(expected), "{api_version} {kind}: {told}");
        }
        for (api_version, kind) in [
            ("cilium.io/v2", "CiliumEnvoyConfig"),
            ("cilium.io/v2", "CiliumNodeConfig"),
            ("cilium.io/v2alpha1", "CiliumEndpointSlice"),
            ("networking.k8s.io/v1", "Ingress"),
            ("projectcalico.org/v3", "NetworkPolicy"),
            ("apps/v1", "Deployment"),
            ("v1", "ConfigMap"),
        ] {
            assert!(
                mistaken(api_version, kind).is_none(),
                "{api_version} {kind}"
            );
        }
    }
}
