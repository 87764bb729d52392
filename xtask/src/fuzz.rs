//! Fuzzing: the targets in `fuzz/`, built with coverage and run by libFuzzer.
//!
//! ```text
//!  fuzz/corpus/NAME ───────────┐                ┌──► fuzz/findings/NAME-*   what fails
//!  fuzz/target/grown/NAME ─────┴─► libFuzzer ───┴──► fuzz/target/grown/NAME what is new
//! ```
//!
//! A stable compiler does: coverage is a pass of LLVM, and the fuzzer is C++ that comes as a
//! crate.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ci::Outcome;
use crate::{cache, cmd, workspace};

/// What `fuzz` and continuous integration run each target for.
const SECONDS: u64 = 60;
const CI_SECONDS: u64 = 5;
/// Bytes of an input; seconds and MiB that one may take.
const INPUT_MAX: u32 = 8192;
const INPUT_SECONDS: u32 = 10;
const MEMORY_MAX_MIB: u32 = 1024;
/// Lines of the fuzzer that are shown when it fails.
const LINES_KEPT: usize = 60;
/// Seconds between two lines of progress.
const PROGRESS_S: u64 = 10;

/// As cargo-fuzz has them: edges counted in place, comparisons told.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    seconds: Option<u64>,
    keep: bool,
    target: Option<String>,
    inputs: Vec<PathBuf>,
}

/// `fuzz [--time SECONDS] [--keep] [TARGET [INPUT...]]`.
pub(crate) fn fuzz(args: &[String]) -> Result<()> {
    let order = read(args)?;
    let all = targets()?;
    let targets = match &order.target {
        None => all,
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target `{name}`; there are: {}", all.join(", ")),
    };
    if !has_compiler() {
        bail!("no C++ compiler for the fuzzer: apt-get install g++");
    }
    build()?;
    for target in &targets {
        if !order.inputs.is_empty() {
            cmd::run(cmd::command(binary(target)).args(&order.inputs))?;
        } else if order.keep {
            keep(target)?;
        } else {
            hunt(target, order.seconds.unwrap_or(SECONDS))?;
        }
    }
    Ok(())
}

/// Whether this tree has targets.
pub(crate) fn exists() -> bool {
    folder().exists()
}

/// A few seconds of each target, beyond the corpus.
pub(crate) fn ci() -> Result<Outcome> {
    if !has_compiler() {
        return Ok(Outcome::Skipped("no C++ compiler (g++) for the fuzzer"));
    }
    build()?;
    for target in targets()? {
        hunt(&target, CI_SECONDS)?;
    }
    Ok(Outcome::Passed)
}

fn read(args: &[String]) -> Result<Order> {
    let mut order = Order::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--keep" => order.keep = true,
            "--time" => {
                let value = args.next().context("--time needs SECONDS")?;
                let seconds = value.parse();
                order.seconds = Some(seconds.with_context(|| format!("--time {value}"))?);
            }
            flag if flag.starts_with('-') => bail!("no such option `{flag}`"),
            name if order.target.is_none() => order.target = Some(name.to_owned()),
            input => order.inputs.push(std::path::absolute(input)?),
        }
    }
    Ok(order)
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn binary(target: &str) -> PathBuf {
    folder()
        .join("target")
        .join(triple())
        .join("release")
        .join(target)
}

/// Inputs that earlier runs have found; not part of the repository.
fn grown(target: &str) -> PathBuf {
    folder().join("target/grown").join(target)
}

fn corpus(target: &str) -> PathBuf {
    folder().join("corpus").join(target)
}

fn has_compiler() -> bool {
    cmd::which("c++").is_some()
}

/// The targets' names: those of the files in `fuzz/src/bin`.
fn targets() -> Result<Vec<String>> {
    let bins = folder().join("src/bin");
    let entries = fs::read_dir(&bins).with_context(|| format!("cannot read {}", bins.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn build() -> Result<()> {
    println!("fuzz: building");
    cmd::run(
        cmd::cargo()
            .args(["build", "--release", "--quiet", "--target", &triple()])
            .arg("--manifest-path")
            .arg(folder().join("Cargo.toml"))
            .arg("--target-dir")
            .arg(folder().join("target"))
            // Naming the target keeps build scripts and macros out of it.
            .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f")),
    )
}

/// Runs a target for a while; a finding is an error that says how to see it again.
fn hunt(target: &str, seconds: u64) -> Result<()> {
    let findings = folder().join("findings");
    cache::folder(&grown(target))?;
    cache::folder(&findings)?;
    let mut fuzzer = cmd::command(binary(target));
    fuzzer.args([grown(target), corpus(target)]);
    let dictionary = folder().join("dict").join(target);
    if dictionary.exists() {
        fuzzer.arg(format!("-dict={}", dictionary.display()));
    }
    let prefix = findings.join(format!("{target}-"));
    fuzzer
        .arg(format!("-artifact_prefix={}", prefix.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MAX_MIB}"));
    let last = watch(&mut fuzzer, target)?;
    println!("fuzz: {target:<9} ok, {seconds} s: {last}");
    Ok(())
}

/// Follows the fuzzer; what it told of its progress last.
fn watch(fuzzer: &mut Command, target: &str) -> Result<String> {
    let mut child = fuzzer
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", cmd::line(fuzzer)))?;
    let mut lines: VecDeque<String> = VecDeque::new();
    let mut last = String::new();
    let mut told = Instant::now();
    for line in child.stderr.take().into_iter().flat_map(read_lines) {
        if let Some(progress) = progress(&line) {
            last = progress;
            if told.elapsed() >= Duration::from_secs(PROGRESS_S) {
                told = Instant::now();
                println!("fuzz: {target:<9} {last}");
            }
            continue;
        }
        // It tells of what is new only; at the end, of all.
        if let (Some(runs), Some((_, rest))) = (all_runs(&line), last.split_once(' ')) {
            last = format!("{runs} {rest}");
        }
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(last);
    }
    let found = lines.iter().rev().find_map(|line| finding(line));
    let text = Vec::from(lines).join("\n");
    match found {
        Some(input) => bail!(
            "{text}\n\n{target}: a finding; to see it again:\n  cargo xtask fuzz {target} {}",
            input.display()
        ),
        None => bail!("{text}\n\n{}: {status}", cmd::line(fuzzer)),
    }
}

fn read_lines(stream: impl std::io::Read) -> impl Iterator<Item = String> {
    // What a target prints need not be text.
    BufReader::new(stream)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Of `#1234 NEW cov: 5 ft: 6 corp: 7/8Kb ...`: runs, edges and inputs.
fn progress(line: &str) -> Option<String> {
    let runs = line.strip_prefix('#')?.split_whitespace().next()?;
    let after = |name: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()
    };
    let (edges, inputs) = (after("cov:")?, after("corp:")?);
    Some(format!("{runs} runs, {edges} edges, {inputs} of inputs"))
}

/// Of `Done 1234 runs in 5 second(s)`.
fn all_runs(line: &str) -> Option<&str> {
    line.strip_prefix("Done ")?
        .split_once(" runs in")
        .map(|(runs, _)| runs)
}

/// Of the fuzzer's last words: where the input is.
fn finding(line: &str) -> Option<PathBuf> {
    let (_, path) = line.split_once("Test unit written to ")?;
    Some(path.trim().into())
}

/// Adds to the corpus what earlier runs have found and what nothing in it covers.
fn keep(target: &str) -> Result<()> {
    let corpus = corpus(target);
    let before = count(&corpus)?;
    cache::folder(&grown(target))?;
    let mut merge = cmd::command(binary(target));
    merge.arg("-merge=1").args([&corpus, &grown(target)]);
    cmd::quiet(&mut merge)?;
    println!(
        "fuzz: {target:<9} {before} inputs, and {} new ones",
        count(&corpus)? - before
    );
    Ok(())
}

fn count(folder: &Path) -> Result<usize> {
    let entries = fs::read_dir(folder);
    Ok(entries
        .with_context(|| format!("cannot read {}", folder.display()))?
        .count())
}

#[cfg(test)]
mod tests {
    use super::{Order, all_runs, finding, progress, read};

    #[test]
    fn command_lines() {
        let of = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            read(&words)
        };
        let some = |seconds, target: &str, inputs: &[&str]| Order {
            seconds,
            keep: false,
            target: Some(target.to_owned()),
            inputs: inputs.iter().map(Into::into).collect(),
        };
        assert_eq!(of("").expect("all"), Order::default());
        assert_eq!(
            of("--time 600 packet").expect("one"),
            some(Some(600), "packet", &[])
        );
        assert_eq!(
            of("cni /tmp/a /tmp/b").expect("inputs"),
            some(None, "cni", &["/tmp/a", "/tmp/b"])
        );
        for wrong in ["--time", "--time soon", "--fast"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_fuzzer_says() {
        let line = "#52448\tREDUCE cov: 1896 ft: 5739 corp: 558/239Kb lim: 4389 exec/s: 1873";
        assert_eq!(
            progress(line).as_deref(),
            Some("52448 runs, 1896 edges, 558/239Kb of inputs")
        );
        assert_eq!(all_runs("Done 1234 runs in 5 second(s)"), Some("1234"));
        assert_eq!(progress("INFO: seed corpus: files: 5"), None);
        let line = "artifact_prefix='/f/x-'; Test unit written to /f/x-crash-1";
        assert_eq!(finding(line), Some("/f/x-crash-1".into()));
        assert_eq!(finding("SUMMARY: libFuzzer: deadly signal"), None);
    }
}
