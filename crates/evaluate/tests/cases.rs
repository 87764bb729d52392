//! Policy cases: clusters, policies and the verdicts expected of them.
//!
//! Those beside this file and those that labs play always run; those of a
//! directory that `AXON_POLICY_CASES` names run too. Each is asked as `axon policy evaluate`
//! is: a line of JSON in, a line out.

#[path = "cases/expand.rs"]
mod expand;

use std::path::{Path, PathBuf};

use expand::{Asked, Case};
use serde_json::{Value, json};

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of cases") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

/// What of a case's answers is not as expected.
fn wrong(case: &Case) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    let mut checks = 0;
    let literal = case.is_literal().then_some(true);
    for literal in [false].into_iter().chain(literal) {
        for (step, state) in case.states().enumerate() {
            let asked = state.asked(literal);
            let question = case.question(state, &asked, literal);
            let answer = axon_evaluate::answer(question.to_string().as_bytes());
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            let found = check(case, &answer, &asked);
            wrong.extend(found.into_iter().map(|text| format!("step {step}: {text}")));
            checks += asked.len().max(1);
        }
    }
    (checks, wrong)
}

fn check(case: &Case, answer: &Value, asked: &[Asked]) -> Vec<String> {
    let refused: Vec<&Value> = answer["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|policy| policy["accepted"] != true)
        .collect();
    if let Some(reason) = &case.expect_reject {
        let says_why = |policy: &&Value| policy["reason"].as_str().is_some_and(|r| !r.is_empty());
        return match refused.iter().any(says_why) {
            true => Vec::new(),
            false => vec![format!("{answer}; expected refusal: {reason}")],
        };
    }
    if !refused.is_empty() || !answer["error"].is_null() {
        return vec![answer.to_string()];
    }
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), asked.len(), "an answer for each");
    let differs = |(asked, found): (&Asked, &Value)| {
        let differs = |(field, expected): &(&str, Value)| found[*field] != *expected;
        let fields: Vec<_> = asked.expected.iter().filter(|e| differs(e)).collect();
        (!fields.is_empty()).then(|| format!("{}: {found}, expected {fields:?}", asked.probe))
    };
    asked.iter().zip(results).filter_map(differs).collect()
}

fn run(dir: &Path) {
    let mut found = Vec::new();
    files(dir, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no case in {dir:?}");
    let (mut checks, mut failures) = (0, Vec::new());
    for file in &found {
        let text = std::fs::read_to_string(file).expect("case");
        let case: Case = serde_norway::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let (checked, wrong) = wrong(&case);
        checks += checked;
        match wrong.is_empty() {
            true => {}
            false if case.unsure => println!("unsure, differs: {} {wrong:?}", case.name),
            false => failures.push(format!("{} ({}): {wrong:#?}", case.name, case.title)),
        }
    }
    println!("{} cases, {checks} checks", found.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn our_own_cases_have_their_verdicts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(&root.join("tests/policy-cases"));
    run(&root.join("../axon/tests/conformance/cases"));
}

#[test]
fn cases_from_elsewhere_have_their_verdicts() {
    match std::env::var_os("AXON_POLICY_CASES") {
        Some(dir) => run(Path::new(&dir)),
        None => println!("skipped: AXON_POLICY_CASES names no directory of cases"),
    }
}

/// A harness that finds nothing wrong would prove nothing.
#[test]
fn a_wrong_expectation_is_told() {
    let case = json!({
        "name": "n",
        "title": "t",
        "cluster": {"nodes": [{"name": "n1", "ip": "192.0.2.1"}]},
        "probes": [{
            "from": {"ip": "192.0.2.9"},
            "to": {"node": "n1"},
            "protocol": "TCP",
            "port": 80,
            "expect": "deny",
        }],
    });
    let mut case: Case = serde_json::from_value(case).expect("case");
    assert_eq!(wrong(&case).1.len(), 1);
    case.expect_reject = Some(json!({"reason": "x"}));
    assert_eq!(wrong(&case).1.len(), 1);
}
