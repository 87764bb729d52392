//! What runs in the guest: the command, as a file that needs no library.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::options::Options;
use crate::apt::Apt;
use crate::workspace::{list, root};
use crate::{cache, checks, cmd};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The command line in the guest and the files that it needs, by their path below /work.
#[derive(Default)]
pub(super) struct Command {
    /// The command and its arguments.
    pub(super) words: Vec<String>,
    /// A command that follows if that succeeds.
    pub(super) then: Vec<String>,
    /// Path and content.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Variables taken along from here.
    pub(super) environment: Vec<(String, String)>,
}

/// Makes the command ready: builds it if it is ours, copies it if it is a file.
pub(super) fn command(options: &Options) -> Result<Command> {
    let mut command = Command::default();
    let words = &options.command;
    if let Some((package, target)) = &options.test {
        let file = build_test(package, target, options.release)?;
        command.add_program(target, &file, words)?;
    } else if words.first().is_some_and(|word| word == "axon") {
        let file = build("axon", options.release)?;
        command.add_program("axon", &file, &words[1..])?;
        if words.get(1).is_some_and(|verb| verb == "lab") {
            command.add_plugin(&build("axon-cni", options.release)?)?;
        }
    } else if let Some(file) = words
        .first()
        .map(|word| root().join(word))
        .filter(|file| file.is_file())
    {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        command.add_program(&name, &file, &words[1..])?;
    } else {
        command.words.clone_from(words);
    }
    for path in &options.files {
        let file = root().join(path);
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        command
            .files
            .push((path.trim_start_matches('/').into(), content));
    }
    command.then.clone_from(&options.then);
    command.environment = std::env::vars()
        .filter(|(key, _)| matches!(key.as_str(), "RUST_LOG" | "RUST_BACKTRACE"))
        .collect();
    Ok(command)
}

/// busybox, which needs no library; the system's or Debian's.
pub(super) fn busybox() -> Result<Vec<u8>> {
    let folder = cache::path("vm/busybox");
    if !folder.exists() {
        eprintln!("vm: fetching busybox ...");
        cache::folder(&cache::path("vm"))?;
        let apt = Apt::of_this_release()?;
        cache::build(&folder, |into| apt.unpack(&["busybox-static"], into))?;
    }
    let file = ["bin/busybox", "usr/bin/busybox"]
        .map(|file| folder.join(file))
        .into_iter()
        .find(|file| file.exists())
        .context("Debian's busybox-static holds no busybox")?;
    fs::read(file).context("cannot read busybox")
}

impl Command {
    /// The CNI plugin, which a lab looks for beside its `axon`.
    fn add_plugin(&mut self, file: &Path) -> Result<()> {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        self.files.push(("axon-cni".into(), content));
        Ok(())
    }

    fn add_program(&mut self, name: &str, file: &Path, args: &[String]) -> Result<()> {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        if needs_libraries(&content) {
            bail!(
                "{} needs shared libraries, and the guest has none; build it with\n  \
                 RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --target {TARGET}",
                file.display()
            );
        }
        self.files.push((name.into(), content));
        self.words = vec![format!("./{name}")];
        self.words.extend_from_slice(args);
        Ok(())
    }
}

/// Builds the binary of a package of the same name.
fn build(package: &str, release: bool) -> Result<PathBuf> {
    let mut cargo = static_cargo("build", release);
    cmd::run(cargo.args(["--package", package, "--bin", package]))?;
    let profile = if release { "release" } else { "debug" };
    strip(
        &checks::target_folder()?
            .join(TARGET)
            .join(profile)
            .join(package),
    )
}

fn build_test(package: &str, target: &str, release: bool) -> Result<PathBuf> {
    let mut cargo = static_cargo("test", release);
    cargo.args([
        "--no-run",
        "--message-format=json",
        "--package",
        package,
        "--test",
        target,
    ]);
    let messages = cmd::output(&mut cargo)?;
    let file = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| list(&message["target"], "kind").any(|kind| kind == "test"))
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("{package} has no integration test {target}"))?;
    strip(&file)
}

/// Cargo, for programs that carry the C library with them.
///
/// The explicit target keeps the flag away from build scripts and procedural macros.
fn static_cargo(verb: &str, release: bool) -> std::process::Command {
    let mut cargo = cmd::cargo();
    cargo
        .args([verb, "--quiet", "--target", TARGET])
        .args(release.then_some("--release"));
    cargo.env_remove("RUSTFLAGS").env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
        "-Ctarget-feature=+crt-static",
    );
    cargo
}

/// A copy without debug information: the guest holds every file twice in memory at boot.
fn strip(file: &Path) -> Result<PathBuf> {
    let stripped = file.with_extension("stripped");
    cmd::quiet(cmd::command("strip").arg("-o").arg(&stripped).arg(file))?;
    Ok(stripped)
}

/// Whether an ELF file names a loader (a program header of type `PT_INTERP`).
fn needs_libraries(file: &[u8]) -> bool {
    const INTERPRETER: [u8; 4] = 3_u32.to_le_bytes();
    if !file.starts_with(b"\x7fELF") {
        return false;
    }
    let short = |at: usize| match file.get(at..at + 2) {
        Some(&[low, high]) => usize::from(u16::from_le_bytes([low, high])),
        _ => 0,
    };
    let bytes = file
        .get(32..40)
        .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    let Some(start) = bytes.and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok())
    else {
        return false;
    };
    let (size, count) = (short(54), short(56));
    (0..count).any(|index| {
        let at = start.saturating_add(index * size);
        file.get(at..at.saturating_add(4))
            .is_some_and(|kind| kind == INTERPRETER)
    })
}

#[cfg(test)]
mod tests {
    use super::needs_libraries;

    #[test]
    fn tells_static_from_dynamic() {
        let here = std::fs::read("/proc/self/exe").unwrap();
        assert!(
            needs_libraries(&here),
            "a test binary is built with shared libraries"
        );
        assert!(!needs_libraries(b"#!/bin/sh\n"));
        assert!(!needs_libraries(b"\x7fELF"));
        assert!(!needs_libraries(&here[..40]));
    }
}
