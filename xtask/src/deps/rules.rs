//! Floors and bans: which crate may use which.

use super::floors::{Place, Rule, rule};
use super::graph::Crate;

/// Everything that breaks a rule, as sentences that say what would be allowed.
pub(super) fn violations(crates: &[Crate]) -> Vec<String> {
    crates
        .iter()
        .flat_map(|member| match rule(&member.name) {
            Some(rule) => of_crate(member, rule),
            None => vec![format!(
                "{} stands on no floor: enter it in xtask/src/deps/floors.rs, with the reason",
                member.name
            )],
        })
        .collect()
}

fn of_crate(member: &Crate, rule: &Rule) -> Vec<String> {
    let uses = member.uses.iter().filter_map(|used| wrong_use(rule, used));
    let tests = member
        .tests_use
        .iter()
        .filter_map(|used| wrong_test_use(rule, used));
    uses.chain(tests).chain(bans(member, rule)).collect()
}

fn wrong_use(mine: &Rule, used: &str) -> Option<String> {
    let theirs = rule(used).filter(|theirs| !mine.may_use(theirs))?;
    let hint = match theirs.place {
        Place::Testkit => "; make it a dev-dependency",
        Place::Floor(4) if mine.place == theirs.place => {
            "; floor-4 crates meet in tables of axon-model, introduced by axon-agent"
        }
        _ => "",
    };
    Some(format!(
        "{} ({}) uses {used} ({}); allowed: {}{hint}",
        mine.name,
        mine.place,
        theirs.place,
        mine.allowance()
    ))
}

fn wrong_test_use(mine: &Rule, used: &str) -> Option<String> {
    let theirs = rule(used).filter(|theirs| !mine.tests_may_use(theirs))?;
    Some(format!(
        "{} ({}) uses {used} ({}) in its tests; allowed: {}",
        mine.name,
        mine.place,
        theirs.place,
        mine.allowance()
    ))
}

/// What a crate must never contain: declared, or brought along where the rule goes deep.
fn bans(member: &Crate, rule: &Rule) -> Vec<String> {
    let declared = member.uses.iter().filter_map(|used| {
        let ban = rule.ban(used)?;
        Some(format!(
            "{} ({}) must never contain {used} (ban `{ban}`)",
            rule.name, rule.place
        ))
    });
    let brought = member
        .contains
        .iter()
        .filter(|(name, _)| rule.deep && !member.uses.contains(*name));
    let brought = brought.filter_map(|(name, way)| {
        let ban = rule.ban(name)?;
        let place = rule.place;
        Some(format!(
            "{} ({place}) must never contain {name} (ban `{ban}`): {way}",
            rule.name
        ))
    });
    declared.chain(brought).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::graph;
    use super::violations;

    type Edge<'a> = (&'a str, &'a str, Option<&'a str>);

    fn declared_by<'a>(edges: &'a [Edge<'a>], user: &str) -> impl Iterator<Item = Edge<'a>> {
        edges.iter().copied().filter(move |edge| edge.0 == user)
    }

    /// `cargo metadata` of crates that declare the given dependencies, `(user, used, kind)`.
    fn metadata(edges: &[Edge]) -> Value {
        let names: std::collections::BTreeSet<&str> = edges
            .iter()
            .flat_map(|(user, used, _)| [*user, *used])
            .collect();
        let packages = names.iter().map(|name| {
            let declared =
                declared_by(edges, name).map(|(_, used, kind)| json!({"name": used, "kind": kind}));
            json!({
                "id": name, "name": name, "targets": [],
                "manifest_path": format!("/{name}/Cargo.toml"),
                "dependencies": declared.collect::<Vec<_>>(),
            })
        });
        let nodes = names.iter().map(|name| {
            let deps = declared_by(edges, name)
                .map(|(_, used, kind)| json!({"pkg": used, "dep_kinds": [{"kind": kind}]}));
            json!({"id": name, "deps": deps.collect::<Vec<_>>()})
        });
        let ours = names
            .iter()
            .filter(|name| name.starts_with("axon") || **name == "xtask");
        json!({
            "packages": packages.collect::<Vec<_>>(),
            "workspace_members": ours.collect::<Vec<_>>(),
            "resolve": {"nodes": nodes.collect::<Vec<_>>()},
        })
    }

    #[test]
    fn uses_between_crates() {
        let upwards = "axon-datapath (floor 1) uses axon-policy (floor 2); \
                       allowed: floors 0 to 1, and axon-testkit in its tests";
        let across = "axon-hubble (floor 4) uses axon-linux (floor 4); \
                      allowed: floors 0 to 3, and axon-testkit in its tests; \
                      floor-4 crates meet in tables of axon-model, introduced by axon-agent";
        let doubles = "axon-policy (floor 2) uses axon-testkit (the test doubles); \
                       allowed: floors 0 to 2, and axon-testkit in its tests; \
                       make it a dev-dependency";
        let tests = "axon-abi (floor 0) uses axon-model (floor 1) in its tests; \
                     allowed: floor 0 only, and axon-testkit in its tests";
        let tooling = "xtask (tooling) uses axon-abi (floor 0); allowed: none of our crates";
        for (name, edge, expected) in [
            ("down", ("axon-agent", "axon-model", None), None),
            (
                "own floor, low",
                ("axon-model", "axon-datapath", None),
                None,
            ),
            (
                "own floor, high",
                ("axon-hubble", "axon-linux", None),
                Some(across),
            ),
            ("up", ("axon-datapath", "axon-policy", None), Some(upwards)),
            (
                "up, in a build script",
                ("axon-datapath", "axon-policy", Some("build")),
                Some(upwards),
            ),
            (
                "doubles in tests",
                ("axon-policy", "axon-testkit", Some("dev")),
                None,
            ),
            (
                "doubles in earnest",
                ("axon-policy", "axon-testkit", None),
                Some(doubles),
            ),
            (
                "up in tests",
                ("axon-abi", "axon-model", Some("dev")),
                Some(tests),
            ),
            (
                "tooling stays apart",
                ("xtask", "axon-abi", None),
                Some(tooling),
            ),
        ] {
            let found = violations(&graph::crates(&metadata(&[edge])));
            assert_eq!(found, Vec::from_iter(expected), "{name}");
        }
    }

    #[test]
    fn forbidden_crates() {
        let direct = "axon-proxy (floor 4) must never contain kube-client (ban `kube*`)";
        let deep = "axon-control (floor 3) must never contain tokio (ban `tokio*`): \
                    axon-control -> notify -> tokio";
        for (name, edges, expected) in [
            (
                "declared",
                &[("axon-proxy", "kube-client", None)][..],
                Some(direct),
            ),
            (
                "brought along",
                &[("axon-control", "notify", None), ("notify", "tokio", None)],
                Some(deep),
            ),
            ("for tests", &[("axon-control", "tokio", Some("dev"))], None),
            (
                "a name that only begins so",
                &[("axon-control", "tokiology", None)],
                None,
            ),
            (
                "through our crate, not deep",
                &[("axon", "axon-linux", None), ("axon-linux", "aya", None)],
                None,
            ),
        ] {
            let found = violations(&graph::crates(&metadata(edges)));
            assert_eq!(found, Vec::from_iter(expected), "{name}");
        }
    }

    #[test]
    fn a_crate_without_a_floor_is_refused() {
        let found = violations(&graph::crates(&metadata(&[(
            "axon-novelty",
            "serde",
            None,
        )])));
        assert!(
            found[0].starts_with("axon-novelty stands on no floor"),
            "{found:?}"
        );
    }
}
