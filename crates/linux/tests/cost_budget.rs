//! What the benchmark of a packet's cost calls too dear.

#[path = "../benches/cost/budget.rs"]
mod budget;

use budget::{Budgets, REFERENCE};

const FILE: &str = include_str!("../benches/cost.json");

const SAMPLE: &str = r#"{
  "references": {"floor_full": 75, "look_trie": 400},
  "stages": {
    "hit_v4": {"rest_ns": 105, "budget_ns": 120, "goal": 1.5, "aim": 1.1},
    "who": {"reference": "look_trie", "budget_ns": 140, "goal": 0.35}
  }
}"#;

#[test]
fn a_stage_is_held_to_what_the_reference_takes_in_the_same_run() {
    let budgets = Budgets::read(SAMPLE).expect("budgets");
    for (name, stage, net, to, told) in [
        ("within both", "hit_v4", 110.0, ("floor_full", 75.0), ""),
        (
            "beyond the goal",
            "hit_v4",
            115.0,
            ("floor_full", 75.0),
            "GOAL MISSED",
        ),
        (
            "beyond both",
            "hit_v4",
            121.0,
            ("floor_full", 75.0),
            "OVER BUDGET, GOAL MISSED",
        ),
        // A machine at half the speed, and one at double.
        (
            "slow and within",
            "hit_v4",
            220.0,
            ("floor_full", 150.0),
            "",
        ),
        (
            "fast and beyond",
            "hit_v4",
            61.0,
            ("floor_full", 37.5),
            "OVER BUDGET, GOAL MISSED",
        ),
        ("its own reference", "who", 139.0, ("look_trie", 400.0), ""),
        (
            "a faster one",
            "who",
            139.0,
            ("look_trie", 390.0),
            "OVER BUDGET, GOAL MISSED",
        ),
        ("no budget", "floor_peer", 500.0, ("floor_full", 75.0), ""),
    ] {
        assert_eq!(budgets.judge(stage, net, to).told(), told, "{name}");
    }
    let json = budgets
        .judge("hit_v4", 110.0, ("floor_full", 75.0))
        .json("hit_v4", "floor_full");
    assert_eq!((&json["goal"], &json["met"]), (&1.5.into(), &true.into()));
    assert_eq!(
        (&json["aim"], &json["aim_met"]),
        (&1.1.into(), &false.into())
    );
    assert_eq!(json["over"], false);
    let json = budgets
        .judge("floor_peer", 9.0, ("floor_full", 75.0))
        .json("floor_peer", REFERENCE);
    assert!(json["met"].is_null() && json["over"].is_null());
    let measured = ["hit_v4", "floor_peer"];
    assert_eq!(budgets.unmeasured(&measured).collect::<Vec<_>>(), ["who"]);
    assert_eq!(
        Budgets::none()
            .judge("hit_v4", 9e9, ("floor_full", 1.0))
            .told(),
        ""
    );
}

#[test]
fn a_file_whose_budgets_could_hold_nothing_is_refused() {
    for (text, told) in [
        ("{", "EOF"),
        (r#"{"stages": {}}"#, "no references"),
        (
            r#"{"references": {}, "stages": {"a": {"goal": 1}}}"#,
            "a has no budget_ns",
        ),
        (
            r#"{"references": {}, "stages": {"a": {"budget_ns": 1}}}"#,
            "floor_full, which a",
        ),
    ] {
        let error = Budgets::read(text).err().expect("refused");
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn budgets_are_a_fifth_above_what_was_found_at_rest_at_the_most() {
    Budgets::read(FILE).expect("the file holds");
    let file: serde_json::Value = serde_json::from_str(FILE).expect("JSON");
    let stages = file["stages"].as_object().expect("stages");
    for (name, stage) in stages {
        assert!(
            stage["source"].is_string(),
            "{name}: where the budget is from"
        );
        let budget = stage["budget_ns"].as_f64().expect("a budget");
        if let Some(rest) = stage["rest_ns"].as_f64() {
            let above = budget / rest;
            assert!((1.14..=1.2).contains(&above), "{name}: {above}");
        }
    }
}
