//! Which directions of a policy are closed: every combination of lists and
//! `enableDefaultDeny`, beside what Cilium's documentation says.

use axon_abi::{Direction, Identity};
use axon_api::manifest::{Object, parse};
use axon_model::{Label, PolicyObject};
use axon_policy::{
    IdentityInfo, Lookup, Numbers, Packet, PolicyConfig, World, reserved_identities, resolve,
};

const WEB: Identity = Identity(300);
const CLIENT: Identity = Identity(301);
const OTHER: Identity = Identity(302);

/// A list of rules: what is written, whether it is more than an empty list, and
/// whether it is about the client.
const LISTS: [(&str, bool, bool); 4] = [
    ("null", false, false),
    ("[]", false, false),
    ("[{}]", true, false),
    (
        "[{fromEndpoints: [{matchLabels: {app: client}}]}]",
        true,
        true,
    ),
];

fn pod(app: &str) -> IdentityInfo {
    let labels = [
        Label::new("k8s", "app", app),
        Label::new("k8s", "io.kubernetes.pod.namespace", "default"),
    ];
    IdentityInfo::labelled(labels.into_iter().collect())
}

fn policy(spec: &str) -> PolicyObject {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
    );
    let manifest = parse(text.as_bytes()).expect(spec);
    assert_eq!(manifest.refused, [], "{spec}");
    match manifest.documents.into_iter().next().and_then(|d| d.object) {
        Some(Object::Policy(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

/// Whether the web server takes or makes connections, by the whole way from text
/// to rows: in each direction with the client, and with somebody else.
fn outcome(spec: &str) -> [bool; 4] {
    let config = PolicyConfig::default();
    let policy = policy(spec);
    let mut identities = reserved_identities(&config);
    let pods = [
        (WEB, pod("web")),
        (CLIENT, pod("client")),
        (OTHER, pod("other")),
    ];
    identities.extend(pods);
    let world = World {
        identities,
        policies: [(policy.origin.clone(), policy)].into(),
        subjects: [WEB].into(),
        ..World::default()
    };
    let resolution = resolve(&config, &world, &mut Numbers::default());
    let lookup = Lookup::new(&resolution.sets[&resolution.subjects[&WEB]].rows);
    let passes = |direction, remote| {
        let packet = Packet {
            direction,
            remote,
            protocol: 6,
            port: 80,
        };
        lookup.verdict(packet).is_allowed()
    };
    let (ingress, egress) = (Direction::Ingress, Direction::Egress);
    [
        passes(ingress, CLIENT),
        passes(ingress, OTHER),
        passes(egress, CLIENT),
        passes(egress, OTHER),
    ]
}

/// A direction is closed if `enableDefaultDeny` says so or, where it says
/// nothing, if one of its lists has a rule; an empty rule is about nobody.
fn expected(
    (_, allows, allows_client): (&str, bool, bool),
    (_, denies, denies_client): (&str, bool, bool),
    enabled: Option<bool>,
) -> [bool; 2] {
    let closed = enabled.unwrap_or(allows || denies);
    [(!closed || allows_client) && !denies_client, !closed]
}

#[test]
fn every_combination_of_lists_and_default_deny() {
    let mut checked = 0;
    for allow in LISTS {
        for deny in LISTS {
            for enabled in [None, Some(true), Some(false)] {
                for (direction, other) in [("ingress", "egress"), ("egress", "ingress")] {
                    let list = |text: &str| match direction {
                        "egress" => text.replace("fromEndpoints", "toEndpoints"),
                        _ => text.to_owned(),
                    };
                    let enabled_text = match enabled {
                        None => String::new(),
                        Some(on) => format!("enableDefaultDeny: {{{direction}: {on}}}, "),
                    };
                    // Some list must be there; an empty one of the other direction
                    // says nothing.
                    let spec = format!(
                        "{{endpointSelector: {{}}, {enabled_text}{other}: [], {direction}: {}, \
                         {direction}Deny: {}}}",
                        list(allow.0),
                        list(deny.0)
                    );
                    let [client, somebody] = expected(allow, deny, enabled);
                    let expected = match direction {
                        "ingress" => [client, somebody, true, true],
                        _ => [true, true, client, somebody],
                    };
                    assert_eq!(outcome(&spec), expected, "{spec}");
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 96);
}
