//! Service cases with real packets: clusters in states, connections to services,
//! and who may answer them.
//!
//! ```text
//!  case ── world.rs ──> manifests ──> axon lab apply --prune ──> in force on every node
//!       └── probes ──> ask.rs (clients) ──> echo.rs (servers that say who they are)
//!                           └──────> judge.rs
//! ```
//!
//! The cases are those of the collection that `AXON_SERVICE_CASES` names (else it is
//! `../shared/service-cases` beside the repository); `make conformance` plays all,
//! `AXON_CONFORMANCE_SERVICES=1` of each kind each tenth. Where agents do not serve services, this says so
//! and skips.

mod ask;
mod case;
mod echo;
mod judge;
mod play;
mod settle;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use case::Case;

use crate::report::{self, Outcome};
use crate::support::{is_root, turn};
use crate::{TENTH, setting};

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
        // A loaded machine makes some of them fail: it is not known yet of each
        // whether that is the player's fault or ours.
        if setting("SERVICES").is_none() {
            println!("skipped: cases of services are played by `make conformance` alone");
            return;
        }
        cases = tenth(cases);
    }
    cases.retain(is_named);
    let began = Instant::now();
    let Some(rows) = play::play(&cases) else {
        println!("skipped: agents do not serve services");
        return;
    };
    let took = began.elapsed();
    println!("\n{}", report::table(&rows));
    println!("{:.1} s", took.as_secs_f64());
    if let Some(file) = setting("JSON") {
        let file = format!("{file}.services");
        let text = report::json(&rows, took).to_string();
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let is_wrong = |row: &&report::Row| matches!(row.outcome, Outcome::Failed(_));
    let failed = rows.iter().filter(is_wrong).count();
    assert_eq!(failed, 0, "cases that are not as expected");
}
