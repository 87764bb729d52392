//! Service cases with real packets: clusters in states, connections to services,
//! and who may answer them.
//!
//! ```text
//!  case ── world.rs ──> manifests ──> axon lab apply --prune ──> in force on every node
//!       └── probes ──> ask.rs (clients) ──> echo.rs (servers that say who they are)
//!                           └──────> judge.rs; what agents tell ──> reports.rs
//! ```
//!
//! The cases are those of the collection that `AXON_SERVICE_CASES` names (else it is
//! `../shared/service-cases` beside the repository): of each kind each tenth, beginning
//! with the first; `make conformance` plays all. Where agents do not serve services, this
//! says so and skips.

mod ask;
mod case;
mod echo;
mod judge;
mod play;
mod reports;
mod settle;
mod shares;
mod stage;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use case::Case;

use crate::report::{self, Outcome};
use crate::support::{is_root, turn};
use crate::{TENTH, setting};

/// How many labs are up at once: each has its own process (`shares.rs`).
const LABS: usize = 2;

/// Where the collection is, if it is there.
fn collection() -> Option<PathBuf> {
    let named = std::env::var_os("AXON_SERVICE_CASES").filter(|dir| !dir.is_empty());
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/service-cases");
    named
        .map(PathBuf::from)
        .or_else(|| beside.is_dir().then_some(beside))
}

/// Whether any case of the collection is named by what is asked for.
pub(crate) fn has_named() -> bool {
    let cases = collection().map(|dir| case::read(&dir)).unwrap_or_default();
    cases.iter().any(is_named)
}

fn is_named(case: &Case) -> bool {
    setting("ONLY").is_none_or(|part| case.name.contains(&part))
}

/// Of each kind of cases that can be played every tenth.
fn tenth(cases: Vec<Case>) -> Vec<Case> {
    let mut kinds = BTreeMap::<String, Vec<Case>>::new();
    for case in cases.into_iter().filter(|case| case.skipped().is_none()) {
        kinds.entry(case.kind.clone()).or_default().push(case);
    }
    let kinds = kinds.into_values();
    kinds
        .flat_map(|kind| kind.into_iter().step_by(TENTH))
        .collect()
}

#[test]
fn services_hold_on_real_nodes() {
    let _turn = turn();
    let Some(dir) = collection() else {
        println!("skipped: AXON_SERVICE_CASES names no directory of cases");
        return;
    };
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut cases = case::read(&dir);
    if setting("ALL").is_none() && setting("ONLY").is_none() {
        cases = tenth(cases);
    }
    cases.retain(is_named);
    let began = Instant::now();
    let labs = setting("LABS").map_or(LABS, |text| text.parse().expect("AXON_CONFORMANCE_LABS"));
    let Some(rows) = shares::play(&dir, &cases, labs) else {
        println!("skipped: agents do not serve services");
        return;
    };
    let took = began.elapsed();
    println!("\n{}", report::table(&rows));
    println!("{:.1} s in {labs} labs", took.as_secs_f64());
    if let Some(file) = setting("JSON") {
        let file = format!("{file}.services");
        let text = report::json(&rows, took).to_string();
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let is_wrong = |row: &&report::Row| matches!(row.outcome, Outcome::Failed(_));
    let failed = rows.iter().filter(is_wrong).count();
    assert_eq!(failed, 0, "cases that are not as expected");
}

/// What a process does that is started to play a share of the cases; else nothing.
#[test]
fn share() {
    shares::play_own();
}
