//! `axon policy evaluate` as others ask it: line by line, and by the shared
//! policy cases and their own runner, where they are at hand.

#[path = "common/checker.rs"]
mod checker;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const POLICY: checker::Collection = checker::Collection {
    variable: "AXON_POLICY_CASES",
    beside: "../shared/policy-cases",
    verb: "policy evaluate",
};

#[test]
fn the_shared_cases_have_their_verdicts() {
    POLICY.check(&[]);
}

#[test]
fn read_literally_they_have_too() {
    POLICY.check(&["--ipblock", "pods"]);
}

/// Who asks waits for each answer before asking on.
#[test]
fn each_question_is_answered_at_once() {
    let mut evaluator = Command::new(env!("CARGO_BIN_EXE_axon"))
        .args(["policy", "evaluate"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the built program");
    let mut questions = evaluator.stdin.take().expect("standard input");
    let answers = evaluator.stdout.take().expect("standard output");
    let mut answers = BufReader::new(answers).lines();
    for (question, part) in [
        (r#"{"cluster": {"nodes": 7}}"#, "cluster.nodes"),
        (
            r#"{"cluster": {"nodes": [{"name": "a", "ip": "192.0.2.1"}]}, "probes": [{"id": 3,
                "from": {"node": "a"}, "to": {"ip": "198.51.100.1"}, "protocol": "TCP", "port": 1}]}"#,
            r#"{"id":3,"egress":"allow","ingress":"allow","verdict":"allow"}"#,
        ),
    ] {
        let line = question.replace('\n', " ");
        writeln!(questions, "{line}").expect("a question");
        let answer = answers.next().expect("an answer").expect("text");
        assert!(answer.contains(part), "{answer}");
    }
    drop(questions);
    assert!(answers.next().is_none());
    assert!(evaluator.wait().expect("it ends").success());
}
