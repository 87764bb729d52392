//! Policy cases: worlds, policies and the verdicts expected of them, read
//! from a directory of YAML files named by `AXON_POLICY_CASES`.
//!
//! The way from text to verdict is the agent's: manifests, rules, identities,
//! policy sets, and the kernel's look-up in their rows.

#[path = "policy_cases/case.rs"]
mod case;
#[path = "policy_cases/world.rs"]
mod world;

use std::path::{Path, PathBuf};

use case::{Case, Outcome};

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("AXON_POLICY_CASES is a directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_case_has_its_verdicts() {
    let Some(dir) = std::env::var_os("AXON_POLICY_CASES") else {
        println!("skipped: AXON_POLICY_CASES names no directory of cases");
        return;
    };
    let mut found = Vec::new();
    files(Path::new(&dir), &mut found);
    found.sort();
    let (mut held, mut probes, mut skipped, mut failures) = (0, 0, Vec::new(), Vec::new());
    for file in &found {
        let text = std::fs::read_to_string(file).expect("case");
        let case: Case = serde_norway::from_str(&text).expect("case");
        match case.check() {
            Outcome::Held(checked) => {
                held += 1;
                probes += checked;
            }
            Outcome::Skipped(reason) => skipped.push(format!("{}: {reason}", case.name)),
            Outcome::Failed(lines) if case.unsure => {
                skipped.push(format!("{}: unsure, differs: {lines:?}", case.name));
            }
            Outcome::Failed(lines) => {
                failures.push(format!("{} ({}): {lines:#?}", case.name, case.title));
            }
        }
    }
    for line in &skipped {
        println!("skipped {line}");
    }
    println!(
        "{held} cases held, {probes} checks, {} skipped",
        skipped.len()
    );
    assert!(!found.is_empty(), "no case in {dir:?}");
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
