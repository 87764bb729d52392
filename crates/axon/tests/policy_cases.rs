//! `axon policy evaluate` as others ask it: line by line, and by the shared
//! policy cases and their own runner, where they are at hand.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why there is nothing to run, or where the cases are.
fn cases() -> Result<PathBuf, &'static str> {
    let named = std::env::var_os("AXON_POLICY_CASES").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = named.unwrap_or_else(|| root.join("../shared/policy-cases"));
    if !dir.join("check.py").is_file() {
        return Err(
            "no policy cases: neither AXON_POLICY_CASES nor ../shared/policy-cases has a check.py",
        );
    }
    let python = Command::new("python3").args(["-c", "import yaml"]).output();
    match python {
        Ok(output) if output.status.success() => Ok(dir),
        Ok(_) => Err("python3 has no PyYAML"),
        Err(_) => Err("there is no python3"),
    }
}

fn check(arguments: &[&str]) {
    let dir = match cases() {
        Ok(dir) => dir,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let output = Command::new("python3")
        .arg(dir.join("check.py"))
        .arg(&dir)
        .args([
            "--cmd",
            &format!("{:?} policy evaluate", env!("CARGO_BIN_EXE_axon")),
        ])
        .args(arguments)
        .output()
        .expect("python3");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_shared_cases_have_their_verdicts() {
    check(&[]);
}

#[test]
fn read_literally_they_have_too() {
    check(&["--ipblock", "pods"]);
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
