//! `bench`: what a packet and policy cost, how long pods wait, what an agent takes,
//! how soon policies and services are in force, what services cost, and pod-to-pod speed; `bench/` and `docs/performance.md` say how.
//!
//! ```text
//! each section ──► target/bench/SECTION.json ──► --table ──► docs/performance.md
//! ```
//!
//! A section that fails does not keep the others from being measured.

mod table;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::checks::{build, target_folder};
use crate::{cmd, workspace};

/// Where the table of figures stands.
const PAGE: &str = "docs/performance.md";

/// Measures every section, or writes down what the last run measured.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    let results = target_folder()?.join("bench");
    if args.iter().any(|arg| arg == "--table") {
        return write_table(&results);
    }
    // Before the build, which loads the machine too.
    let about = about()?;
    build(&[])?;
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
    // What an earlier run has left is not of this one.
    for section in table::SECTIONS {
        fs::remove_file(results.join(format!("{section}.json"))).ok();
    }
    let run = results.join("run.json");
    fs::write(&run, format!("{about:#}\n")).with_context(|| format!("write {}", run.display()))?;
    let gate = args.iter().any(|arg| arg == "--gate");
    let mut failed = Vec::new();
    for (section, mut command) in commands(&results, gate, args)? {
        if let Err(error) = cmd::run(&mut command) {
            eprintln!("{section}: {error:#}");
            failed.push(section);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// What measures each section.
fn commands(results: &Path, gate: bool, args: &[String]) -> Result<Vec<(&'static str, Command)>> {
    let out = |section: &str| results.join(format!("{section}.json"));
    let flag = gate.then_some("--gate");
    let mut cost = cmd::cargo();
    cost.args(["bench", "--package", "axon-linux", "--bench", "cost", "--"]);
    cost.args(["--budget", "crates/linux/benches/cost.json", "--out"]);
    cost.arg(out("cost")).args(flag);
    let mut policy = cmd::cargo();
    policy.args([
        "bench",
        "--package",
        "axon-policy",
        "--bench",
        "scale",
        "--",
    ]);
    policy.arg("--out").arg(out("policy"));
    let mut commands = vec![("cost", cost), ("policy", policy)];
    let bench = target_folder()?.join("release/axon-bench");
    for section in ["cni", "agent", "change"] {
        let mut command = cmd::command(&bench);
        command
            .args([section, "--out"])
            .arg(out(section))
            .args(flag);
        commands.push((section, command));
    }
    let mut programming = cmd::cargo();
    programming.args(["bench", "--package", "axon-agent", "--bench", "services"]);
    programming.args(["--", "--out"]).arg(out("programming"));
    programming.args(flag);
    commands.push(("programming", programming));
    let mut services = cmd::command(&bench);
    services.args(["services", "--out"]).arg(out("services"));
    services.args(flag).args(rounds(args));
    commands.push(("services", services));
    let mut pods = cmd::command(&bench);
    pods.args(["run", "--out"]).arg(out("pods")).args(args);
    commands.push(("pods", pods));
    Ok(commands)
}

/// Of the arguments for pods, the one that says how many rounds there are.
fn rounds(args: &[String]) -> Vec<String> {
    let is_named = |arg: &String| arg == "-n" || arg == "--rounds";
    if let Some(at) = args.iter().position(is_named) {
        return args.iter().skip(at).take(2).cloned().collect();
    }
    let has_it = |arg: &&String| arg.starts_with("-n") || arg.starts_with("--rounds=");
    args.iter().filter(has_it).take(1).cloned().collect()
}

/// What is measured, and on what: without it a figure says nothing.
fn about() -> Result<Value> {
    let say = |program: &str, args: &[&str]| -> Result<String> {
        let said = cmd::output(cmd::command(program).args(args))?;
        Ok(said.trim().to_owned())
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Option<f64> = load.split_whitespace().next().and_then(|n| n.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if load.is_some_and(|load| load > table::AT_REST) {
        eprintln!("bench: the machine is not at rest: ratios hold better than what a gate wants");
    }
    Ok(json!({
        "commit": say("git", &["rev-parse", "--short", "HEAD"])?,
        "changed": !say("git", &["status", "--porcelain"])?.is_empty(),
        "date": say("date", &["-u", "+%F"])?,
        "kernel": say("uname", &["-r"])?,
        "cpus": cpus, "load": load,
    }))
}

/// Writes the figures of the last run into the page.
fn write_table(results: &Path) -> Result<()> {
    let read = |section: &str| -> Result<Value> {
        let file = results.join(format!("{section}.json"));
        match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| file.display().to_string()),
            Err(_) => Ok(Value::Null),
        }
    };
    let run = read("run")?;
    if run.is_null() {
        bail!("{} has no run: make bench", results.display());
    }
    let mut sections = Vec::new();
    for section in table::SECTIONS {
        sections.push((section, read(section)?));
    }
    let page = workspace::root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("read {PAGE}"))?;
    let text = table::replace(&text, &table::render(&run, &sections))?;
    fs::write(&page, text).with_context(|| format!("write {PAGE}"))
}

#[cfg(test)]
mod tests {
    use super::rounds;

    #[test]
    fn services_are_measured_as_often_as_pods_are() {
        for (args, expected) in [
            (&["-m", "rr", "-n", "3", "--gate"][..], &["-n", "3"][..]),
            (&["--rounds", "9"], &["--rounds", "9"]),
            (&["-n4", "-m", "rr"], &["-n4"]),
            (&["--rounds=5"], &["--rounds=5"]),
            (&["-m", "rr", "--no-churn"], &[]),
        ] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(rounds(&args), expected);
        }
    }
}
