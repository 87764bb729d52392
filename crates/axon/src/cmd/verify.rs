//! `axon bpf verify`, and what the kernel offers.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use axon_linux::Features;
use axon_linux::verify::{Budget, ProgramBudget, check, verify};

use crate::failure::{FAILED, Failure};
use crate::output::{Format, print, table};

/// Arguments of `axon bpf verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// JSON file with the most that each program may cost.
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Write what was found into the budget file.
    #[arg(long, requires = "budget")]
    update_budget: bool,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    let found = verify().map_err(|error| {
        Failure::new(format!("{:#}", anyhow::Error::new(error)))
            .remedy("run as root; `axon status --features` tells what this kernel offers")
    })?;
    print(format, &found, |found| {
        let rows = found.iter().map(|(name, program)| {
            [
                name.clone(),
                program.instructions.to_string(),
                program.stack.to_string(),
                program.translated_bytes.to_string(),
                program.jited_bytes.to_string(),
            ]
        });
        table(
            ["PROGRAM", "INSTRUCTIONS", "STACK", "TRANSLATED", "JITED"],
            rows,
        )
    })?;
    let mut problems: Vec<String> = found
        .iter()
        .filter(|(_, program)| !program.error.is_empty())
        .map(|(name, program)| format!("{name}: {}", program.error))
        .collect();
    if let Some(file) = &args.budget {
        let failed =
            |what: &dyn std::fmt::Display| Failure::new(format!("{}: {what}", file.display()));
        if args.update_budget && problems.is_empty() {
            let budget: Budget = found
                .iter()
                .map(|(name, program)| {
                    let budget = ProgramBudget {
                        instructions: with_margin(program.instructions),
                        stack: program.stack,
                    };
                    (name.clone(), budget)
                })
                .collect();
            let text = serde_json::to_string_pretty(&budget)? + "\n";
            fs::write(file, text).map_err(|e| failed(&e))?;
        } else {
            let text = fs::read(file).map_err(|e| failed(&e))?;
            let budget: Budget = serde_json::from_slice(&text).map_err(|e| failed(&e))?;
            problems = check(&found, &budget);
        }
    }
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.budget.is_some() {
        eprintln!(
            "help: if the growth is meant, run again with --update-budget and commit the file"
        );
    }
    Ok(ExitCode::from(FAILED))
}

/// A twentieth more: another compiler's build of the same source is no growth.
fn with_margin(instructions: u32) -> u32 {
    instructions.saturating_add(instructions.div_ceil(20))
}

/// `axon status --features`.
pub(crate) fn features(format: Format) -> Result<(), Failure> {
    let features = Features::probe();
    if !features.asked {
        eprintln!("note: the kernel does not tell; run as root");
    }
    print(format, &features, render)
}

fn render(features: &Features) -> String {
    let rows = features.list.iter().map(|feature| {
        let present = match (feature.available, feature.required) {
            _ if !features.asked => "?",
            (true, _) => "yes",
            (false, true) => "MISSING",
            (false, false) => "no",
        };
        [
            feature.name.to_string(),
            feature.since.to_string(),
            present.to_owned(),
            feature.without.to_string(),
        ]
    });
    let header = ["FEATURE", "SINCE KERNEL", "PRESENT", "WITHOUT IT"];
    format!("Kernel: {}\n\n{}", features.kernel, table(header, rows))
}

#[cfg(test)]
mod tests {
    use axon_linux::{Feature, Features};

    #[test]
    fn what_is_missing_stands_out() {
        let feature = |name, required, available| Feature {
            name,
            since: "6.6",
            required,
            available,
            without: "it is slower",
        };
        let mut features = Features {
            realtime: false,
            kernel: "6.1.0".to_owned(),
            asked: true,
            list: vec![
                feature("must", true, false),
                feature("may", false, false),
                feature("has", true, true),
            ],
        };
        assert_eq!(
            super::render(&features),
            "\
Kernel: 6.1.0

FEATURE  SINCE KERNEL  PRESENT  WITHOUT IT
must     6.6           MISSING  it is slower
may      6.6           no       it is slower
has      6.6           yes      it is slower
"
        );
        features.asked = false;
        assert!(super::render(&features).contains("must     6.6           ? "));
    }
}
