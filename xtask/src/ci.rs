//! The list of checks, in order, with a summary at the end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{checks, deps, fuzz, miri};

/// How a check ended when it did not fail.
pub(crate) enum Outcome {
    /// It ran and found nothing.
    Passed,
    /// It could not run here; the reason is shown.
    Skipped(&'static str),
}

struct Step {
    name: &'static str,
    /// Whether this tree has what the step checks; if not, there is nothing to tell.
    applies: fn() -> bool,
    run: fn() -> Result<Outcome>,
}

const fn step(name: &'static str, run: fn() -> Result<Outcome>) -> Step {
    Step {
        name,
        applies: || true,
        run,
    }
}

const LINTS: &[Step] = &[
    step("format", checks::format),
    step("dependency rules", || passed(deps::check())),
    step("licences and bans", || passed(checks::deny(false))),
    step("clippy", checks::clippy),
    step("documentation", checks::documentation),
];

const TESTS: &[Step] = &[
    step("tests", || passed(checks::test(&[]))),
    Step {
        applies: fuzz::exists,
        ..step("fuzzing", fuzz::ci)
    },
    step("miri", miri::ci),
    Step {
        name: "BPF programs",
        applies: checks::can_verify,
        run: checks::verify,
    },
];

/// Every check.
pub(crate) fn ci() -> Result<ExitCode> {
    Ok(run(LINTS.iter().chain(TESTS)))
}

/// The checks that run no code of ours.
pub(crate) fn lint() -> Result<ExitCode> {
    Ok(run(LINTS.iter()))
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

/// Runs all steps even after one failed: a slip in the format should not hide a broken test.
fn run<'a>(steps: impl Iterator<Item = &'a Step>) -> ExitCode {
    let mut rows = Vec::new();
    let mut failed = false;
    for step in steps.filter(|step| (step.applies)()) {
        println!("\n=== {} ===", step.name);
        let start = Instant::now();
        let word = match (step.run)() {
            Ok(Outcome::Passed) => "ok".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("skipped: {reason}"),
            Err(error) => {
                failed = true;
                eprintln!("{error:#}");
                "FAILED".to_owned()
            }
        };
        rows.push((step.name, start.elapsed(), word));
    }
    print!("{}", summary(&rows));
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn summary(rows: &[(&str, Duration, String)]) -> String {
    let mut table = String::from("\n=== summary ===\n");
    let mut row = |name: &str, time: Duration, word: &str| {
        table.push_str(&format!(
            "{name:<20} {:>7.1} s  {word}\n",
            time.as_secs_f64()
        ));
    };
    for (name, time, word) in rows {
        row(name, *time, word);
    }
    let failures = rows.iter().filter(|(_, _, word)| word == "FAILED").count();
    let word = if failures == 0 {
        "ok".to_owned()
    } else {
        format!("{failures} FAILED")
    };
    row("all", rows.iter().map(|(_, time, _)| time).sum(), &word);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_whole_and_stops_nothing() {
        let broken = || step("broken", || anyhow::bail!("on purpose"));
        let fine = step("fine", || Ok(Outcome::Passed));
        let absent = Step {
            applies: || false,
            ..broken()
        };
        assert_eq!(run([&broken(), &fine].into_iter()), ExitCode::FAILURE);
        assert_eq!(run([&absent, &fine].into_iter()), ExitCode::SUCCESS);
    }

    #[test]
    fn summary_has_a_line_per_step_and_a_total() {
        let second = Duration::from_secs(1);
        let rows = [
            ("format", second, "ok".into()),
            ("tests", second * 2, "FAILED".into()),
        ];
        let table = summary(&rows);
        assert!(
            table.contains("tests                    2.0 s  FAILED\n"),
            "{table}"
        );
        assert!(
            table.ends_with("all                      3.0 s  1 FAILED\n"),
            "{table}"
        );
    }
}
