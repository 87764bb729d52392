//! Policy conformance with real packets: cases in a common format, each a
//! world, policies and the verdicts expected of them, played in a lab on the
//! nodes that they name.
//!
//! ```text
//!  case ── world.rs ──> manifests ──> axon lab apply --prune ──> in force on every node
//!       └── probes ──> talk.rs (clients in the pods' namespaces) ──> serve.rs (servers there)
//!                           what came back     what was seen     what agents told (events.rs)
//! ```
//!
//! What passes is answered; what is denied is answered by nobody, seen by no
//! server, and told of by the agent of the end that is to decide.
//!
//! The cases of this directory are always played. Those of the collection,
//! which `AXON_POLICY_CASES` names (else it is `../shared/policy-cases` beside
//! the repository), are played to a tenth: of each group each tenth case,
//! beginning with the first. `make conformance` plays all.
//! `AXON_CONFORMANCE_ONLY` names a part of their names, `AXON_CONFORMANCE_LABS`
//! how many labs are up at once, `AXON_CONFORMANCE_JSON` a file for what came
//! of them. Needs root, else they say so and skip.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its part")]
mod common;
#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "each test uses its part")]
mod support;

mod bench;
mod case;
mod events;
mod matrices;
mod play;
mod process;
mod raw;
mod report;
mod serve;
mod services;
mod talk;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bench::Start;
use case::Case;
use report::Outcome;
use support::{is_root, turn};

/// Of how many cases of a group one is played where not all are.
pub(crate) const TENTH: usize = 10;
/// How many labs are up at once: most of the time all wait for silence.
const LABS: usize = 4;

pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(format!("AXON_CONFORMANCE_{name}"))
        .ok()
        .filter(|text| !text.is_empty())
}

/// Where the collection is, if it is there.
fn collection() -> Option<PathBuf> {
    let named = std::env::var_os("AXON_POLICY_CASES").filter(|dir| !dir.is_empty());
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/policy-cases");
    named
        .map(PathBuf::from)
        .or_else(|| beside.is_dir().then_some(beside))
}

#[test]
fn policies_hold_on_real_nodes() {
    let _turn = turn();
    let mut cases =
        case::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/cases"));
    match collection() {
        Some(dir) => {
            let mut shared = case::read(&dir);
            shared.retain(|case| !case.is_about_refusal());
            if setting("ALL").is_none() && setting("ONLY").is_none() {
                shared = tenth(shared);
            }
            cases.extend(shared);
        }
        None => println!("skipped: AXON_POLICY_CASES names no directory of cases"),
    }
    cases.retain(is_named);
    if cases.is_empty() {
        assert!(services::has_named(), "no case has that in its name");
        return;
    }
    verdicts(&cases, &[]);
}

/// Policy for nodes themselves is in force again, and no other, whatever has become of
/// the agents; that nothing passes in between is seen by `e2e/host.rs`.
#[test]
fn policies_for_nodes_hold_over_starts() {
    let _turn = turn();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/cases");
    let dirs = [Some(own), collection()];
    let mut cases: Vec<Case> = dirs
        .iter()
        .flatten()
        .flat_map(|dir| case::read(dir))
        .collect();
    cases.retain(|case| !case.is_about_refusal() && case.is_about_nodes() && is_named(case));
    assert!(
        !cases.is_empty() || setting("ONLY").is_some(),
        "no case is about nodes"
    );
    if !cases.is_empty() {
        verdicts(&cases, &[Start::Ended, Start::Killed, Start::Cold]);
    }
}

fn is_named(case: &Case) -> bool {
    setting("ONLY").is_none_or(|part| case.name.contains(&part))
}

/// Of each group of cases that can be played every tenth.
fn tenth(cases: Vec<Case>) -> Vec<Case> {
    let mut groups = BTreeMap::<String, Vec<Case>>::new();
    for case in cases.into_iter().filter(|case| case.skipped().is_none()) {
        groups
            .entry(case.group().to_owned())
            .or_default()
            .push(case);
    }
    groups
        .into_values()
        .flat_map(|group| group.into_iter().step_by(TENTH))
        .collect()
}

/// Plays cases and fails if one is not as expected.
fn verdicts(cases: &[Case], starts: &'static [Start]) {
    let labs = setting("LABS").map_or(LABS, |text| text.parse().expect("AXON_CONFORMANCE_LABS"));
    let began = Instant::now();
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let Some(rows) = play::play(cases, labs, starts) else {
        return;
    };
    let took = began.elapsed();
    println!("\n{}", report::table(&rows));
    println!("{:.1} s in {labs} labs", took.as_secs_f64());
    if let Some(file) = setting("JSON") {
        let text = report::json(&rows, took).to_string();
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let failed = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed(_)))
        .count();
    assert_eq!(failed, 0, "cases that are not as expected");
}

#[test]
fn a_tenth_has_cases_of_every_group() {
    let case = |name: String| -> Case {
        let live = serde_json::json!({"possible": true, "needs": []});
        let tree = serde_json::json!({"name": name, "title": "t", "live": live});
        serde_json::from_value(tree).expect("a case")
    };
    let many = (1..=21).map(|n| case(format!("k8s-peers-0-{n:03}")));
    let cases = many.chain([case("cnp-mode-003".to_owned())]).collect();
    let names: Vec<String> = tenth(cases).into_iter().map(|case| case.name).collect();
    let expected = [
        "cnp-mode-003",
        "k8s-peers-0-001",
        "k8s-peers-0-011",
        "k8s-peers-0-021",
    ];
    assert_eq!(names, expected);
}
