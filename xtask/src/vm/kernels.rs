//! `kernels`: what must hold on every kernel that is supported, each in a guest of its own.
//!
//! ```text
//!  for each kernel:  programs load within its budget ─► cases ─► a lab: pods, policy, kill -9
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::options::Options;
use super::{Ended, kernel, run};
use crate::cache;
use crate::workspace::root;

/// What each kernel's programs may cost, relative to the repository.
const BUDGETS: &str = "crates/bpf/budgets";
/// Bytes of stack along any calls, as kernels before 6.8 count them: their limit of 512, less what
/// they add themselves.
const STACK_MAX: u64 = 480;
/// How long a check may take in an emulated machine.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Memory for a cluster, its programs being in memory too.
const MEMORY_MIB: u32 = 2048;
/// Devices of pods and of a lab, and what programs hang on where there is no tcx.
const MODULES: &[&str] = &["veth", "bridge", "sch_ingress", "cls_bpf"];

/// A check, in the order of the table's columns.
struct Check {
    name: &'static str,
    options: fn(&str) -> Options,
    /// Kernels on which it cannot be run.
    except: &'static [&'static str],
}

const CHECKS: &[Check] = &[
    Check {
        name: "LOADS",
        options: loads,
        except: &[],
    },
    Check {
        name: "CASES",
        options: cases,
        // Its BPF_PROG_TEST_RUN takes no packet that another device has brought.
        except: &["5.10"],
    },
    Check {
        name: "LAB",
        options: lab,
        except: &[],
    },
];

/// Runs the checks on these kernels, or on all, and prints a table.
pub(crate) fn kernels(args: &[String]) -> Result<ExitCode> {
    let update = args.iter().any(|arg| arg == "--update");
    let mut versions: Vec<&str> = args.iter().map(String::as_str).collect();
    versions.retain(|version| *version != "--update");
    let all: Vec<&str> = kernel::names().collect();
    if let Some(unknown) = versions.iter().find(|version| !all.contains(version)) {
        bail!("no kernel {unknown}; there are {}", all.join(", "));
    }
    if versions.is_empty() {
        versions = all;
    }
    let mut table = Vec::new();
    for version in versions {
        if update {
            write_budget(version)?;
        } else {
            table.push((version, check(version)?));
        }
    }
    if !update {
        print!("{}", render(&table));
    }
    let mut cells = table.iter().flat_map(|(_, cells)| cells);
    let failed = cells.any(|cell| matches!(cell, Cell::Failed { .. }));
    Ok(ExitCode::from(u8::from(failed)))
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cell {
    Passed {
        seconds: u64,
    },
    Failed {
        seconds: u64,
    },
    /// It cannot be run there.
    Absent,
}

fn check(version: &str) -> Result<Vec<Cell>> {
    let cell = |check: &Check| {
        if check.except.contains(&version) {
            return Ok(Cell::Absent);
        }
        println!("--- Linux {version}: {} ---", check.name.to_lowercase());
        let began = Instant::now();
        let ended = run(&(check.options)(version))?;
        let seconds = began.elapsed().as_secs();
        Ok(match ended.status {
            0 => Cell::Passed { seconds },
            _ => Cell::Failed { seconds },
        })
    };
    CHECKS.iter().map(cell).collect()
}

/// Writes down what the programs cost on a kernel.
fn write_budget(version: &str) -> Result<()> {
    let mut options = loads(version);
    let file = options.files.pop().context("loading goes by no budget")?;
    options.command = words("axon bpf verify --budget /tmp/budget.json --update-budget");
    options.then = words("cat /tmp/budget.json");
    let Ended { status, console } = run(&options)?;
    if status != 0 {
        bail!("Linux {version} does not take every program");
    }
    let json = console
        .split_once("\n{\n")
        .and_then(|(_, rest)| rest.split_once("\n}\n"))
        .map(|(body, _)| format!("{{\n{body}\n}}"))
        .context("the guest has printed no budget")?;
    cache::folder(&root().join(BUDGETS))?;
    let text = generous(&json)?;
    cache::write(&root().join(file), text.as_bytes(), false)
}

/// A budget that small changes stay within: `budget.json` is what watches them. This one tells of
/// programs that another kernel's verifier finds far more ways through.
fn generous(budget: &str) -> Result<String> {
    let mut budget: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_str(budget)?;
    for program in budget.values_mut() {
        let instructions = program.entry("instructions".into()).or_default();
        *instructions = (*instructions * 5 / 4).next_multiple_of(100);
        program.insert("stack".into(), STACK_MAX);
    }
    Ok(serde_json::to_string_pretty(&budget)? + "\n")
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(Into::into).collect()
}

fn options(version: &str) -> Options {
    Options {
        kernel: version.into(),
        memory: MEMORY_MIB,
        timeout: TIMEOUT,
        ..Options::default()
    }
}

/// Every program passes the verifier, within this kernel's budget; what the kernel offers.
fn loads(version: &str) -> Options {
    let budget = format!("{BUDGETS}/{version}.json");
    Options {
        command: words(&format!("axon bpf verify --budget {budget}")),
        then: words("./axon status --features"),
        files: vec![budget],
        ..options(version)
    }
}

/// The table of packets on the loaded programs.
fn cases(version: &str) -> Options {
    Options {
        test: Some(("axon-linux".into(), "kernel_cases".into())),
        modules: MODULES.iter().map(|name| (*name).into()).collect(),
        ..options(version)
    }
}

/// Programs on devices: pods by CNI, policy, an agent that is killed.
fn lab(version: &str) -> Options {
    Options {
        command: words("axon lab demo --timeout 300"),
        modules: MODULES.iter().map(|name| (*name).into()).collect(),
        ..options(version)
    }
}

fn render(table: &[(&str, Vec<Cell>)]) -> String {
    let mut text = format!("\n{:<8}", "KERNEL");
    for check in CHECKS {
        let _ = write!(text, "{:<14}", check.name);
    }
    text.truncate(text.trim_end().len());
    for (version, cells) in table {
        let _ = write!(text, "\n{version:<8}");
        for cell in cells {
            let words = match cell {
                Cell::Passed { seconds } => format!("passed {seconds} s"),
                Cell::Failed { seconds } => format!("FAILED {seconds} s"),
                Cell::Absent => "-".into(),
            };
            let _ = write!(text, "{words:<14}");
        }
        text.truncate(text.trim_end().len());
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_failed() {
        let passed = |seconds| Cell::Passed { seconds };
        let failed = Cell::Failed { seconds: 140 };
        let table = [
            ("5.10", vec![passed(20), Cell::Absent, failed]),
            ("6.12", vec![passed(3), passed(3), passed(3)]),
        ];
        assert_eq!(
            render(&table),
            "
KERNEL  LOADS         CASES         LAB
5.10    passed 20 s   -             FAILED 140 s
6.12    passed 3 s    passed 3 s    passed 3 s
"
        );
    }

    #[test]
    fn budgets_leave_room() {
        let text = r#"{"a": {"instructions": 142, "stack": 352}}"#;
        let expected = "{\n  \"a\": {\n    \"instructions\": 200,\n    \"stack\": 480\n  }\n}\n";
        assert_eq!(generous(text).unwrap(), expected);
    }

    #[test]
    fn every_kernel_has_a_budget() {
        for version in kernel::names() {
            let file = root().join(format!("{BUDGETS}/{version}.json"));
            assert!(file.exists(), "{}", file.display());
        }
    }
}
