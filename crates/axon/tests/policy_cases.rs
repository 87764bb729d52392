//! `axon policy evaluate` as others ask it: the shared policy cases and their
//! own runner, where they are at hand.

use std::path::{Path, PathBuf};
use std::process::Command;

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
